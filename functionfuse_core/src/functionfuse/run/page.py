"""The data of the report page from a run of this process, without a record in a storage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import NoMatchError, ResultNotFoundError
from ..reuse.identity import Identities
from ..reuse.results import NO_USE, whole
from ..show.page import save
from ..show.pagedata import Page, PageNode
from .events import RunEvents
from .ignored import Ignored
from .inputs import recorded
from .record import told
from .report import FAILED, NodeRecord, Report

__all__ = ["write"]

logger = logging.getLogger(__name__)


def write(
    events: RunEvents,
    identities: Callable[[], Identities],
    storage: Any,
    report: Report,
    path: str,
    *,
    times: tuple[float, float],
    values: bool,
) -> Path:
    """Write the page of a run that is over, or of a plan; see `Report.save`.

    If the storage has the record of the run, the page is made from it.

    Args:
        identities: makes them, to look at the arguments.
        times: when the run began, in seconds since 1970, and how long it took; 0 if unknown.
    """
    if report.run and hasattr(storage, "report"):
        try:
            stored = storage.report(report.workflow_name, run=report.run)
        except (NoMatchError, ResultNotFoundError):
            logger.info("run %r has no record, so its page has no changes", report.run)
        else:
            written: Path = stored.save(path, values=values)
            return written
    return save(_page(report, events, identities(), times), path)


def _page(
    report: Report, events: RunEvents, identities: Identities, times: tuple[float, float]
) -> Page:
    """Return the data of the page, without arguments in `ignore`."""
    graph, decisions = events.graph, events.decisions
    ignored = Ignored(graph)
    functions, _, arguments = recorded(identities, graph, ignored)
    headers: Sequence[Any] = decisions.stored if decisions else [None] * len(graph.nodes)
    # Nodes that only an earlier part of the run had come first.
    count = len(report.nodes) - len(graph.nodes)
    nodes = [_node(node, node.reason) for node in report.nodes[:count]]
    for index, node in enumerate(report.nodes[count:]):
        parents = [graph.names[parent] for parent in graph.parents[index]]
        known = {"parents": parents, "arguments": arguments[index], "function": functions[index]}
        header = headers[index] if node.action != FAILED else None
        reason = node.reason
        if node.error or reason.startswith(NO_USE):
            reason = told(reason, hidden=ignored.may_be_in(index))
        nodes.append(_node(node, reason, **known, **_of_header(header)))
    began, seconds = times
    ran = [node for node in report.nodes if node.begun]
    if ran and not began:  # a run with neither storage nor listeners notes no times of its own
        began = min(node.begun for node in ran)
        seconds = max(node.begun + node.seconds for node in ran) - began
    about = report.workflow_name, nodes, report.run, began, seconds
    return Page(*about, failed=next(iter(report.names(FAILED)), ""), notes=report.notes)


def _node(node: NodeRecord, reason: str, **known: Any) -> PageNode:
    about = node.seconds, node.begun, node.worker, node.bytes, node.attempts
    return PageNode(node.name, node.action, reason, *about, **known)


def _of_header(header: Any) -> dict[str, Any]:
    """Return the fields that only the header of a stored result has."""
    info = whole(header)
    if info is None:
        return {}
    about = {"digest": info.digest, "type": info.type.removeprefix("builtins.")}
    return {**about, "created": info.created, "cost": info.seconds or 0.0}
