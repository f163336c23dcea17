"""The differences between two runs, by their records; and recorded arguments as texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..show.texts import table
from .runrecord import RecordedNode

__all__ = ["MISSING", "Change", "Changes", "Described", "changes_of", "form", "results_of", "shown"]


class Described(str):
    """A text about an argument that is no plain value. Its repr has no quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


MISSING = Described("missing")  # unlike None, which is a value


class Change(NamedTuple):
    """A difference between two runs.

    Attributes:
        node: the node's name.
        what: "argument", "code", "plugin", "result" or "action".
        name: the parameter of an argument, or the type of a plugin; "" for others.
        before, after: an argument's value, if that is plain, or a `Described` text: "missing" if
            it was not given. For code, plugin and result a digest. The action is "" if the run
            doesn't have the node.
    """

    node: str
    what: str
    name: str
    before: Any
    after: Any


class Changes(list[Change]):
    """Differences between two runs; prints as a table."""

    def __str__(self) -> str:
        return table(map(_row, self)) or "no changes"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from ..show import notebook

        heads = ("node", "what", "name", "before", "", "after")
        body = notebook.table(heads, map(_row, self[: notebook.ROWS])) if self else ""
        title = f"{len(self):,} change{'' if len(self) == 1 else 's'}" if self else "no changes"
        return notebook.block(title, body, notebook.more(len(self) - notebook.ROWS, "change"))


def changes_of(earlier: Sequence[RecordedNode], later: Sequence[RecordedNode]) -> Changes:
    """Return the differences between the nodes of two runs.

    They have the order of the nodes in the later run. Nodes that are gone come last.
    """
    before = {node.name: node for node in earlier}
    after = {node.name: node for node in later}
    found = Changes()
    for node in later:
        if node.name in before:
            found += _between(before[node.name], node)
        else:
            found.append(Change(node.name, "action", "", "", node.action))
    gone = [node for node in earlier if node.name not in after]
    found += [Change(node.name, "action", "", node.action, "") for node in gone]
    return found


def _between(before: RecordedNode, after: RecordedNode) -> Iterator[Change]:
    name = after.name
    if form(before.arguments) != form(after.arguments):
        yield from _arguments(name, before.arguments, after.arguments)
    if before.code != after.code and before.code and after.code:
        yield Change(name, "code", "", before.code, after.code)
    if before.plugins != after.plugins:
        yield from _plugins(name, before.plugins, after.plugins)
    first, second = results_of(before, after)
    if first != second:
        yield Change(name, "result", "", first, second)
    if before.action != after.action:
        yield Change(name, "action", "", before.action, after.action)


def results_of(before: RecordedNode, after: RecordedNode) -> tuple[str, str]:
    """Return the digests of both results; "" and "" if they can't be compared.

    `digest` differs between processes for some equal values, so `value` is compared if it can be.
    If only one of the results is stored, it can't: its digest is that of a pickle.
    """
    if bool(before.digest) != bool(after.digest):
        return "", ""
    for first, second in ((before.value, after.value), (before.digest, after.digest)):
        if first and second:
            return first, second
    return "", ""


def _arguments(node: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in {**after, **before}:
        if name not in before:
            yield Change(node, "argument", name, MISSING, shown(after[name]))
        elif name not in after:
            yield Change(node, "argument", name, shown(before[name]), MISSING)
        elif not _may_be_same(before[name], after[name]):
            yield Change(node, "argument", name, shown(before[name]), shown(after[name]))


def _may_be_same(before: Any, after: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        digests = [before.get("digest"), after.get("digest")]
        if "" in digests and None not in digests:  # one has none
            return bool(before.get("type") == after.get("type"))
    return form(before) == form(after)


def _plugins(
    node: str, before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> Iterator[Change]:
    old, new = _by_type(before), _by_type(after)
    for kind in {**new, **old}:
        first, second = old.get(kind, MISSING), new.get(kind, MISSING)
        if first != second:
            yield Change(node, "plugin", kind, first, second)


def _by_type(plugins: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the digest of each plugin by its type; several of one type share a text."""
    found: dict[str, str] = {}
    for kind, digest in plugins:
        found[kind] = f"{found[kind]} {digest}" if kind in found else digest
    return found


def form(argument: Any) -> str:
    """Return a text that is equal for equal arguments: True, 1 and 1.0 differ, NaN is itself."""
    return json.dumps(argument, sort_keys=True)


def shown(argument: Any) -> Any:
    """Return a recorded argument as it is, if it is a plain value; else a `Described` text."""
    if not isinstance(argument, dict):
        return argument
    if argument.get("type") == "float" and "float" in argument:
        return float(argument["float"])  # JSON has no infinity, and no NaN
    if "node" in argument:
        return Described(f"node {argument['node']!r}{argument.get('item', '')}")
    content = repr(argument["value"]) if "value" in argument else argument.get("float")
    content = content or argument.get("digest") or "(unknown content)"
    return Described(f"{argument.get('type')} {content}")


def _row(change: Change) -> tuple[str, ...]:
    node, what, name, before, after = change
    return node, what, name, _cell(what, before), "→", _cell(what, after)


def _cell(what: str, value: Any) -> str:
    if what == "argument" or isinstance(value, Described):
        return repr(value)
    return str(value) if what == "action" else str(value)[:8]  # of a digest
