"""The fingerprint in a stored header, if a run has written it.

Anybody can save a result with any fingerprint, and other tools can write headers. So its shape is
checked here, before a plan compares it; a fingerprint of another shape counts as none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .identity import RULE

__all__ = ["packages_in", "recorded"]

_is_digest = re.compile("(?:[0-9a-f]{32})?").fullmatch  # "" is an unknown one


def recorded(fingerprint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a fingerprint as `Decisions.record` makes it; without "call" if no run wrote it.

    Of one by another rule, only "call" and "rule" are checked: a plan looks at nothing else.
    """
    call, rule = fingerprint.get("call"), fingerprint.get("rule")
    if not call or not _digests(call) or type(rule) is not int:
        reason = fingerprint.get("why not")
        alone = "call" not in fingerprint and isinstance(reason, str)
        return {"why not": reason} if alone else {}
    return fingerprint if rule != RULE or _as_written(fingerprint) else {}


def packages_in(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the packages that count, by name; none if they are anything else."""
    packages = fingerprint.get("packages")
    return packages if isinstance(packages, dict) and _texts(packages.values()) else {}


def _as_written(record: Mapping[str, Any]) -> bool:
    """Return whether each field that a plan compares is there, and as this rule writes it."""
    match record:
        case {
            "recipe": recipe,
            "python": str(),
            "function": str(),
            "code": str(),
            "parents": list(parents),
            "before": before,
            "uses": dict(uses),
            "globals": dict(variables),
            "arguments": dict(arguments),
        }:
            plugins = record.get("plugins", [])
        case _:
            return False
    if type(plugins) is not list:
        return False
    texts = [*uses.values(), *variables.values()]
    for pair in (*arguments.values(), *plugins):
        if type(pair) is not list or len(pair) != 2:
            return False
        texts += pair
    if not (before is None or (_is_mark(before) and _digests(before[2]))):
        return False
    return _texts(texts) and _digests(recipe) and all(map(_is_parent, parents))


def _is_mark(entry: object) -> bool:
    """Return whether a list has a name, and digests of the result, its call and its recipe.

    The call of a result that was reused whatever it was computed from can be any text.
    """
    match entry:
        case [str(), digest, str(), recipe]:
            return _digests(digest, recipe)
    return False


def _is_parent(entry: object) -> bool:
    """Return whether it is a mark, which is longer for a result with code in it."""
    match entry:
        case [*mark, str(value), list(own), bool()] if value:
            return _digests(value) and _texts(own) and _is_mark(mark)
    return _is_mark(entry)


def _digests(*values: object) -> bool:
    return all(isinstance(value, str) and _is_digest(value) for value in values)


def _texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
