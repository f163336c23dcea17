"""`StoredReport`: the page and the picture of a stored workflow, from records and headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from ..errors import DamagedResultError, FunctionFuseError, NoMatchError, ResultNotFoundError
from ..names import close_to
from ..show.page import save
from ..show.pagedata import Page, PageChanges, PageNode, item_text, stopped
from ..show.picture import Box, Edge, Picture
from ..show.preview import preview
from .header import TaskInfo
from .keys import RUNS, folder_of
from .runchanges import Change, changes_of, results_of
from .runrecord import RecordedNode
from .runs import RunRecord, Values, read
from .signing import Key
from .summary import Summary

__all__ = ["StoredReport", "report"]

_LARGEST = 256 << 20  # bytes of a result that is read for its preview
_PREVIEWS = 8 << 20  # characters of all previews
_CAUSES = "argument", "code", "plugin"


class Stored(Values, Protocol):
    """The part of a `Storage` that a report uses."""

    def list_workflows(self) -> list[str]: ...
    def list_tasks(self, workflow_name: str, pattern: str = "*") -> list[str]: ...
    def task_infos(
        self, workflow_name: str, task_names: Iterable[str]
    ) -> Iterator[Summary | FunctionFuseError | None]: ...


class StoredReport:
    """A run of a stored workflow, for the page and for pictures; see `Storage.report`.

    Attributes:
        workflow_name: the workflow's name.
        run: the record of the run; None if no run has one. Then there are only headers.
        before: the record of the run that it is compared with; None if there is no other.
    """

    def __init__(
        self, storage: Stored, workflow_name: str, run: RunRecord | None, before: RunRecord | None
    ) -> None:
        self.workflow_name = workflow_name
        self.run = run
        self.before = before
        self._storage = storage

    def save(self, path: str | PathLike[str], *, values: bool = False) -> Path:
        """Write the page as one HTML file, replacing it atomically, and return its path.

        Args:
            values: read the stored results, and show small previews of them. Results of more than
                256 MiB are left out.

        Raises:
            DamagedResultError: the nodes in a record are not as specified.
            StoragePathError: the file can't be written.
            OSError: the blob store failed.
        """
        return save(self.page(values=values), fspath(path))

    def page(self, *, values: bool = False) -> Page:
        """Return the data of the page. Raises as `save`, which see also for `values`."""
        run, before = self.run, self.before
        previews, withheld = self._previews() if values else ({}, "")
        if run is None:
            nodes = list(self._from_headers())
            return Page(self.workflow_name, nodes, previews=previews, withheld=withheld)
        nodes = list(self._from_record(run, before))
        return Page(
            self.workflow_name,
            nodes,
            run=run.id,
            started=_seconds(run.started),
            seconds=run.seconds,
            facts=_facts(run),
            error=_error(run.error, stop=stopped(nodes)) if run.error else "",
            failed=run.error["node"] if run.error else "",
            changes=_changes(before, run) if before else None,
            previews=previews,
            withheld=withheld,
        )

    def picture(self) -> Picture:
        """Return the graph, to be drawn by `to_dot`, `to_mermaid` or `to_svg`."""
        nodes = list(self._from_record(self.run, None) if self.run else self._from_headers())
        number = {node.name: index for index, node in enumerate(nodes)}
        boxes, edges = [], []
        for target, node in enumerate(nodes):
            label = node.function.rpartition(".")[2]
            boxes.append(Box(node.name, "" if node.name.startswith(label) else label, "function"))
            items: dict[int, dict[str, None]] = {}
            for value in node.arguments.values():
                if isinstance(value, dict) and value.get("node") in number:
                    used = items.setdefault(number[value["node"]], {})
                    used[item_text(str(value.get("item", "")))] = None
            for source in dict.fromkeys(number[n] for n in node.parents if n in number):
                if source < target:  # a record can be anybody's
                    texts = list(items.get(source, ()))
                    text = "" if texts == [""] else ", ".join(item or "result" for item in texts)
                    edges.append(Edge(source, target, text, state=False))
        return Picture(self.workflow_name, boxes, edges)

    @cached_property
    def _headers(self) -> dict[str, TaskInfo]:
        """The headers by task: of the results that the run had, or of all. Others are left out."""
        name, storage = self.workflow_name, self._storage
        wanted = {node.name: node.digest for node in self.run.nodes} if self.run else None
        tasks = storage.list_tasks(name) if wanted is None else [n for n, d in wanted.items() if d]
        found = {}
        for task, info in zip(tasks, storage.task_infos(name, tasks), strict=True):
            if isinstance(info, Summary) and (wanted is None or wanted[task] == info.digest):
                with suppress(DamagedResultError):
                    found[task] = info.info
        return found

    def _from_record(self, run: RunRecord, before: RunRecord | None) -> Iterator[PageNode]:
        was = {node.name: node.seconds for node in before.nodes} if before else {}
        for node in run.nodes:
            info = self._headers.get(node.name)
            yield PageNode(
                *(node.name, node.action, node.reason, node.seconds, node.begun, node.worker),
                *(int(node.bytes), int(node.attempts), node.parents, node.arguments),
                *(node.function, node.digest),
                **_of_header(info),
                before=was.get(node.name, 0.0),
            )

    def _from_headers(self) -> Iterator[PageNode]:
        """Iterate over the stored results, parents first."""
        headers = self._headers
        parents = {name: list(_parents(info, headers)) for name, info in headers.items()}
        try:
            order = list(TopologicalSorter(parents).static_order())
        except CycleError:  # headers of several runs, or of anybody
            order = list(headers)
        for name in order:
            info = headers[name]
            yield PageNode(
                *(name, "stored", "", 0.0, 0.0, "", info.size + info.side_size, 0),
                *(parents[name], _arguments(info), info.function, info.digest),
                **_of_header(info),
            )

    def _previews(self) -> tuple[dict[str, dict[str, Any]], str]:
        """Return the previews of stored results by task, and why some are missing."""
        found: dict[str, dict[str, Any]] = {}
        left, size = 0, 0
        for name, info in self._headers.items():
            if info.size + info.side_size > _LARGEST or size > _PREVIEWS:
                left += 1
                continue
            try:
                value = self._storage.read_unchanged(
                    self.workflow_name, name, info.digest, info.call
                )
            except FunctionFuseError as error:
                found[name] = {"kind": "text", "text": f"The value can't be read: {error}"}
            else:
                found[name] = preview(value)
            size += len(str(found[name]))
        said = (
            "1 result has no preview: it is"
            if left == 1
            else f"{left:,} results have no preview: they are"
        )
        return found, f"{said} too large." if left else ""


def report(
    storage: Stored,
    workflow: str,
    run: str | None,
    compare: str | None,
    *,
    key: Key | None,
) -> StoredReport:
    """Return a run of a workflow; see `Storage.report`.

    Args:
        key: checks signatures.
    """
    folder = folder_of(workflow) + RUNS
    known = [blob.key[len(folder) :] for blob in storage.store.list(folder)]
    if run is None and not known:
        if compare is not None:
            raise NoMatchError(f"no run of workflow {workflow!r} has a record to compare with")
        if not storage.list_tasks(workflow):
            close = close_to(workflow, storage.list_workflows())
            raise ResultNotFoundError(f"no workflow {workflow!r} in {storage!r}{close}")
        return StoredReport(storage, workflow, None, None)
    for given in (run, compare):
        if given is not None and given not in known:
            raise NoMatchError(
                f"no run of workflow {workflow!r} in {storage!r} has the id {given!r}"
                f"{close_to(str(given), known)}"
            )
    place = len(known) - 1 if run is None else known.index(run)
    earlier = [compare] if compare is not None else known[max(0, place - 1) : place]
    wanted = [*earlier, known[place]]
    records = read(storage, workflow, None, key=key, only=wanted)
    found = {record.id: record for record in records}
    if known[place] not in found:
        raise ResultNotFoundError(
            f"the record of run {known[place]!r} of workflow {workflow!r} can't be used, or is gone"
        )
    before = found.get(earlier[0]) if earlier else None
    if compare is not None and before is None:
        raise ResultNotFoundError(
            f"the record of run {compare!r} of workflow {workflow!r} can't be used, or is gone"
        )
    return StoredReport(storage, workflow, found[known[place]], before)


def _of_header(info: TaskInfo | None) -> dict[str, Any]:
    """Return the fields of a node that only its header has."""
    if info is None:
        return {}
    versions = [f"{name} {version}" for name, version in info.packages.items()]
    made = " · ".join([info.host, f"Python {info.python}", *versions])
    found = {"type": info.type.removeprefix("builtins."), "created": info.created, "made": made}
    return {**found, "cost": info.seconds or 0.0}


def _parents(info: TaskInfo, headers: Mapping[str, TaskInfo]) -> Iterator[str]:
    parents = info.fingerprint.get("parents")
    for entry in (*(parents if isinstance(parents, list) else ()), info.fingerprint.get("before")):
        match entry:
            case [str(task), *_] if task in headers and task != info.task:
                yield task


def _arguments(info: TaskInfo) -> dict[str, Any]:
    """Return the arguments in a header: texts of short literals, and digests."""
    arguments = info.fingerprint.get("arguments")
    found: dict[str, Any] = {}
    for name, entry in arguments.items() if isinstance(arguments, dict) else ():
        match entry:
            case [str(text), str(digest), *_]:
                is_file = text.startswith("File(")  # its name
                plain = {"float": text} if text else {"digest": digest}
                found[str(name)] = {"type": text, "digest": digest} if is_file else plain
    return found


def _seconds(started: str) -> float:
    """Return a time in seconds since 1970; 0 if it isn't one, as a record can be anybody's."""
    try:
        return max(0.0, datetime.fromisoformat(started).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


def _facts(run: RunRecord) -> list[str]:
    by = " on ".join(filter(None, (run.user, run.host)))
    where = "ran in this process" if run.backend == "in process" else f"backend {run.backend}"
    found = [f"by {by}" if by else "", where if run.backend else ""]
    found += [f"Python {run.python}" if run.python else ""]
    found += [f"commit {run.commit[:10]}" if run.commit else ""]
    return list(filter(None, found))


def _error(error: Mapping[str, str], *, stop: bool) -> str:
    """Return the error of a run as a sentence, which says so if it stopped the run."""
    said = f"{error['type']}: {error['text']}" if error["text"] else error["type"]
    if not error["node"]:
        return f"The run ended with {said}"
    return f"{'The run stopped when ' if stop else ''}{error['node']!r} raised {said}"


def _changes(before: RunRecord, run: RunRecord) -> PageChanges:
    changes = changes_of(before.nodes, run.nodes)
    had = {node.name: node for node in before.nodes}
    have = {node.name for node in run.nodes}
    other = {change.node for change in changes if change.what == "result"}
    return PageChanges(
        started=f"{before.started[:19].replace('T', ' ')} UTC",
        seconds=before.seconds,
        causes=[(change.node, _cause(change)) for change in changes if change.what in _CAUSES],
        other=[node.name for node in run.nodes if node.name in other],
        equal=[
            node.name for node in run.nodes if node.name in had and _equal(had[node.name], node)
        ],
        new=[node.name for node in run.nodes if node.name not in had],
        gone=[name for name in had if name not in have],
    )


def _equal(was: RecordedNode, node: RecordedNode) -> bool:
    """Return whether a computed node is known to have the value that it had in the run before."""
    first, second = results_of(was, node)
    return node.action == "computed" and bool(first) and first == second


def _cause(change: Change) -> str:
    if change.what == "argument":
        return f"argument {change.name!r} changed ({change.before!r} → {change.after!r})"
    return "the code changed" if change.what == "code" else f"plugin {change.name!r} changed"
