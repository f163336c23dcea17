"""The first difference between a node now and the record of its stored result, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["changed_during_run", "changed_parent", "difference"]


def difference(label: str, now: Mapping[str, Any], was: Mapping[str, Any]) -> str:
    """Return the first difference between two `Identities.parts` of a node; "" for none.

    Args:
        label: the name of the function that the node calls.
        was: the fingerprint that the header has; see `recorded`.
    """
    if "call" not in was:
        return was.get("why not") or "stored without a fingerprint"
    if was.get("rule") != now["rule"]:
        return "recorded by an earlier rule"
    if now["function"] != was["function"]:
        return f"function changed ({was['function']} → {now['function']})"
    if now["python"] != was["python"]:
        return f"Python changed ({was['python']} → {now['python']})"
    if now["code"] != was["code"]:
        return _code_difference(label, now, was)
    for name in {**was["arguments"], **now["arguments"]}:
        old, new = was["arguments"].get(name), now["arguments"].get(name)
        if old is None:
            return f"argument {name!r} is new"
        if new is None:
            return f"argument {name!r} is gone"
        if old[1] != new[1]:
            both = f" ({old[0]} → {new[0]})" if old[0] and new[0] and old[0] != new[0] else ""
            if new[0].startswith("File(") and not both:  # a text is in quotes
                what = "size or time" if new[0].endswith(", by='stat')") else "content"
                both = f": the {what} of {new[0]}"
            return f"argument {name!r} changed{both}"
    return _plugin_difference(now.get("plugins", []), was.get("plugins", []))


def _plugin_difference(now: Sequence[Sequence[str]], was: Sequence[Sequence[str]]) -> str:
    have, had = Counter(map(tuple, now)), Counter(map(tuple, was))
    new, gone = [name for name, _ in have - had], [name for name, _ in had - have]
    if new:
        return f"plugin {new[0]!r} {'changed' if new[0] in gone else 'is new'}"
    if gone:
        return f"plugin {gone[0]!r} is gone"
    return "" if now == was else "the order of the plugins changed"


def _code_difference(label: str, now: Mapping[str, Any], was: Mapping[str, Any]) -> str:
    for name, new in now["globals"].items():
        old = was["globals"].get(name, new)
        if old != new:
            both = "" if len(old) == len(new) == 16 else f" ({old} → {new})"
            return f"global {_short(name)!r}, which {label!r} uses, changed{both}"
    for name in {**was["uses"], **now["uses"]}:
        old, new = was["uses"].get(name), now["uses"].get(name)
        if old == new:
            continue
        if old is None or new is None or name == now["function"]:
            break
        if name == "version":
            return f"version of {label!r} changed ({old!r} → {new!r})"
        if name.startswith("package "):
            return f"{name}, which {label!r} uses, changed ({old} → {new})"
        return f"code of {label!r} changed: in {_short(name)!r}, which it uses"
    return f"code of {label!r} changed"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def changed_parent(name: str, code: Sequence[str]) -> str:
    """Return that the result of a parent changed; or only the code in it, given by full names."""
    if not code:
        return f"parent {name!r} changed"
    names = ", ".join(repr(path.rstrip(":").rpartition(":")[2]) for path in code)
    return f"code of {names} changed, which is in the result of {name!r}"


def changed_during_run(variable: str) -> str:
    """Return why a result has no fingerprint if a variable changed while it was computed."""
    return f"{variable} changed while the run that stored it went on"
