"""The data of the report page; and as JSON: columns, with tables of the texts that repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

from .views import views

__all__ = ["Page", "PageChanges", "PageNode", "columns", "item_text", "stopped"]

_LISTED = 1000  # names of nodes that are gone
_TABLES = "action", "reason", "worker", "function", "type", "made"


class PageNode(NamedTuple):
    """A node of the page.

    Attributes:
        name: the node's name.
        action: "computed", "reused", "failed", "not run" or "not needed"; of a plan "compute",
            "maybe" or "reuse"; "stored" if no run is known.
        reason: why; for a failed node its error.
        seconds: how long its function ran in this run; 0 if it didn't.
        begun: when it began, in seconds since 1970; 0 if it didn't, or that is unknown.
        worker: where it ran.
        bytes: the size of its stored result; 0 if there is none.
        attempts: how often it was called.
        parents: the names of the nodes that it depends on.
        arguments: by name of the parameter, as `RecordedNode` has them.
        function: module and qualified name.
        digest: of the result.
        type: module and qualified name of the result's type; "" if that is unknown.
        created: when the result was stored, ISO 8601, UTC; "" if that is unknown.
        cost: how long the function ran when the stored result was computed; 0 if it is unknown.
        made: host and versions that the stored result was computed with.
        before: how long its function ran in the run before; 0 if it didn't.
    """

    name: str
    action: str
    reason: str = ""
    seconds: float = 0.0
    begun: float = 0.0
    worker: str = ""
    bytes: int = 0
    attempts: int = 0
    parents: Sequence[str] = ()
    arguments: Mapping[str, Any] = {}  # never changed
    function: str = ""
    digest: str = ""
    type: str = ""
    created: str = ""
    cost: float = 0.0
    made: str = ""
    before: float = 0.0


@dataclass(frozen=True)
class PageChanges:
    """The differences between two runs.

    Attributes:
        started: when the run before started, as text.
        seconds: how long it took.
        causes: nodes whose inputs or code changed, with a text for each change.
        other: nodes that have another value now.
        equal: nodes that were computed, and have the same value as before.
        new, gone: nodes that only one of the runs has.
    """

    started: str
    seconds: float
    causes: Sequence[tuple[str, str]] = ()
    other: Sequence[str] = ()
    equal: Sequence[str] = ()
    new: Sequence[str] = ()
    gone: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """All that a page tells.

    Attributes:
        workflow: the workflow's name.
        nodes: parents first.
        run: the run's id; "" if there is none, or it is unknown.
        started: when the run started, in seconds since 1970; 0 if no run is known.
        seconds: how long it took.
        facts: further texts about the run, such as its backend.
        error: the error of the run, as text.
        failed: the node whose error it is; "" if it is none's, or that is unknown.
        notes: hints about the whole run.
        changes: since another run; None if there is no other.
        previews: by name of a node, as from `preview`.
        withheld: why there are no previews of some nodes; "" if nothing is missing.
    """

    workflow: str
    nodes: Sequence[PageNode]
    run: str = ""
    started: float = 0.0
    seconds: float = 0.0
    facts: Sequence[str] = ()
    error: str = ""
    failed: str = ""
    notes: Sequence[str] = ()
    changes: PageChanges | None = None
    previews: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    withheld: str = ""


class _Table:
    """Texts and their numbers."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def columns(page: Page) -> dict[str, Any]:
    """Return all that the script of a page needs; only lists, numbers, texts and their keys."""
    nodes = list(_told(page.nodes, page.failed))
    number = {node.name: index for index, node in enumerate(nodes)}
    parents = [[number[name] for name in node.parents if name in number] for node in nodes]
    tables = {name: _Table() for name in (*_TABLES, "parameter")}
    found: dict[str, list[Any]] = {
        name: [tables[name].number(getattr(node, name)) for node in nodes] for name in _TABLES
    }
    begins = [node.begun for node in nodes if node.begun]
    start = page.started or min(begins, default=0.0)
    found |= {
        "name": [node.name for node in nodes],
        "parents": parents,
        "arguments": [_arguments(node, number, tables["parameter"]) for node in nodes],
        "seconds": [_rounded(node.seconds) for node in nodes],
        "begun": [_number(node.begun - start, 5) if node.begun else None for node in nodes],
        "cost": [_rounded(node.cost) for node in nodes],
        "before": [_rounded(node.before) for node in nodes],
        "bytes": [_number(node.bytes) for node in nodes],
        "attempts": [_number(node.attempts) for node in nodes],
        "digest": [node.digest[:16] for node in nodes],
        "created": [node.created[:19] for node in nodes],
    }
    functions = [node.function for node in nodes]
    return {
        "workflow": page.workflow,
        "run": page.run,
        "seconds": _number(page.seconds, 6),
        "columns": {name: column for name, column in found.items() if any(column)},
        "tables": {name: list(table.numbers) for name, table in tables.items()},
        "views": views([node.name for node in nodes], functions, parents),
        "changes": _changes(page, number),
        "previews": [[number[n], shown] for n, shown in page.previews.items() if n in number],
        "withheld": page.withheld,
    }


def stopped(nodes: Iterable[PageNode]) -> bool:
    """Return whether a run stopped: it left nodes that don't follow a failed one."""
    return any(map(_left, nodes))


def _left(node: PageNode) -> bool:
    return node.action == "not run" and not node.reason.startswith("follows ")


def _told(nodes: Sequence[PageNode], failed: str) -> Iterator[PageNode]:
    """Iterate over nodes, whose reasons tell why the run left them, before why they were wanted.

    Args:
        failed: the node that stopped the run; "" if none did.
    """
    why = f"the run stopped when {failed!r} failed" if failed else "the run stopped before"
    for node in nodes:
        reason = "; ".join(filter(None, (why, node.reason)))
        yield node._replace(reason=reason) if _left(node) else node


def _arguments(node: PageNode, number: dict[str, int], parameters: _Table) -> list[Any]:
    """Return the arguments of a node in one list: number of the parameter, value, and so on.

    A value is a text; or the number of a node; or such a number with the text of an item.
    """
    found: list[Any] = []
    for name, value in node.arguments.items():
        found += (parameters.number(name), _argument(value, number))
    return found


def _argument(value: Any, number: dict[str, int]) -> Any:
    if not isinstance(value, dict):
        return repr(value)
    if isinstance(value.get("node"), str):
        source, item = value["node"], item_text(str(value.get("item", "")))
        if source not in number:
            return f"node {source!r}{item}"
        return [number[source], item] if item else number[source]
    content = repr(value["value"]) if "value" in value else value.get("float")
    content = content or value.get("digest") or ""  # a record can be anybody's
    return " ".join(filter(None, (str(value.get("type", "")), str(content))))


def item_text(item: str) -> str:
    """Return the text of an item's keys, with slices as they are written: "[1:]"."""

    def written(found: re.Match[str]) -> str:
        parts = found.groups() if found[3] else found.groups()[:2]
        return ":".join("" if part == "None" else part for part in parts)

    return _SLICE.sub(written, item)


# The repr of a slice; the step is left out if it is None.
_SLICE = re.compile(r"slice\((None|-?\d+), (None|-?\d+), (?:None|(-?\d+))\)")


def _changes(page: Page, number: dict[str, int]) -> dict[str, Any] | None:
    changes = page.changes
    if changes is None:
        return None
    texts = _Table()
    causes = [[number[n], texts.number(text)] for n, text in changes.causes if n in number]

    def numbers(names: Iterable[str]) -> Sequence[int]:
        return [number[name] for name in names if name in number]

    return {
        "started": changes.started,
        "seconds": _number(changes.seconds, 6),
        "causes": causes,
        "texts": list(texts.numbers),
        "other": numbers(changes.other),
        "equal": numbers(changes.equal),
        "new": numbers(changes.new),
        "gone": list(changes.gone[:_LISTED]),
        "gone count": len(changes.gone),
    }


def _number(value: float, digits: int | None = None) -> float:
    """Return a number that JSON has; 0 for infinity and NaN, which a record can have."""
    if not isfinite(value):
        return 0
    return value if digits is None else round(value, digits)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}") if isfinite(seconds) else 0
