"""The records of runs: put one, remove those that are too many, read and compare them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, overload

from ..errors import (
    DamagedResultError,
    InvalidNameError,
    NewerFormatError,
    NoMatchError,
    ResultNotFoundError,
    UntrustedResultError,
)
from ..names import close_to
from ..show.texts import table
from .blobstore import BlobStore, at_once
from .keys import RUNS, folder_of
from .runchanges import Changes, changes_of
from .runrecord import RecordedNode, actions_of, decoded, encoded, fields_of, nodes_of
from .runtable import ROWS, columns_of, frame_of, record_html, runs_html
from .signing import Key

if TYPE_CHECKING:
    import pandas as pd

    from .lineage import Lineage

__all__ = ["RunRecord", "Runs", "prune", "put", "read"]

logger = logging.getLogger(__name__)

_MOST = 1000  # records of a workflow
_MOST_BYTES = 64 << 20


class Values(Protocol):
    """The part of a `Storage` that a record uses."""

    store: BlobStore

    def read_unchanged(
        self, workflow_name: str, task_name: str, digest: str, call: str = ""
    ) -> Any: ...
    def lineage(
        self, workflow_name: str, task_name: str, call: str = "", *, down: bool = False
    ) -> Lineage: ...


def put(
    store: BlobStore,
    workflow: str,
    head: Mapping[str, Any],
    nodes: Mapping[str, Sequence[Any]],
    key: Key | None,
) -> int:
    """Store a record, and return its size in bytes. Raises OSError.

    Args:
        head, nodes, key: see `runrecord.encoded`. The id in `head` is the last segment of the key.
    """
    data = encoded(head, nodes, key)
    store.put(f"{folder_of(workflow)}{RUNS}{head['id']}", [data])
    return len(data)


def prune(store: BlobStore, workflow: str, newest: int = _MOST_BYTES) -> None:
    """Remove the oldest records of a workflow: keep 1,000, and 64 MiB of them. The newest stays.

    Args:
        newest: bytes of the newest one. If 1,000 like this have less than 64 MiB, the sizes of the
            others are not looked at, which takes most of the time in files.

    Raises:
        OSError: the store failed; some may have been removed.
    """
    folder = folder_of(workflow) + RUNS
    if newest * _MOST < _MOST_BYTES:
        old = [folder + name for name in sorted(store.names(folder))[:-_MOST]]
    else:
        blobs = list(store.list(folder))
        kept = size = 0
        for blob in reversed(blobs[-_MOST:]):
            size += blob.size
            if kept and size > _MOST_BYTES:
                break
            kept += 1
        old = [blob.key for blob in blobs[: len(blobs) - kept]]
    try:
        store.delete(old)
    except PermissionError as error:  # the record of the run is stored
        logger.warning("old records of runs of workflow %r are left: %s", workflow, error)


def read(
    storage: Values, workflow: str, last: int | None, key: Key | None, only: Sequence[str] = ()
) -> Runs:
    """Return the records of a workflow's runs, or only those with some ids; see `Storage.runs`.

    Args:
        key: checks signatures.
    """
    if last is not None and (type(last) is not int or last < 1):
        raise ValueError(f"runs: last is a number from 1 on, or None for all runs, not {last!r}")
    store, folder = storage.store, folder_of(workflow) + RUNS
    ids = only or [blob.key[len(folder) :] for blob in store.list(folder)][-(last or 0) :]

    def record(run: str) -> RunRecord | None:
        try:
            head, nodes = decoded(store.get(folder + run), key)
            return RunRecord(**fields_of(head, run, workflow), _nodes=nodes, _storage=storage)
        except ResultNotFoundError:
            return None  # removed after it was listed
        except (DamagedResultError, NewerFormatError, UntrustedResultError) as error:
            problem = "the record of run %r of workflow %r in %r is skipped: %s"
            logger.warning(problem, run, workflow, store, error)
            return None

    found = at_once(store, record, ids)
    return Runs(workflow, [record for record in found if record is not None])


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord:
    """The record of one run; its values are read from the storage.

    Attributes:
        id: names the run; ids sort by the time when the runs started.
        workflow: the workflow's name.
        started: the time, ISO 8601, UTC, on the clock of the driver.
        seconds: how long the run took.
        user, host: who ran it, and on which machine; "" if that is unknown.
        python: the version of Python.
        commit: what was checked out in the repository of the script; "" if that is unknown.
        backend: the backend's name.
        error: "type" and "text" of the error that ended the run, and its "node" or ""; None if the
            run ended without an error.
    """

    id: str
    workflow: str
    started: str
    seconds: float
    user: str
    host: str
    python: str
    commit: str
    backend: str
    error: Mapping[str, str] | None
    _nodes: bytes
    _storage: Values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunRecord):
            return False
        return (self.workflow, self.id) == (other.workflow, other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        failed = f", {self.error['type']}" if self.error else ""
        return f"<run {self.id!r} of workflow {self.workflow!r}: {self.seconds:.3f} s{failed}>"

    def _repr_html_(self) -> str:
        _, seconds, actions, error = self._row()
        about = [
            ("started", self.started),
            ("took", seconds),
            ("by", " on ".join(filter(None, (self.user, self.host)))),
            ("with", f"Python {self.python}, {self.backend}"),
            ("commit", self.commit),
            ("nodes", actions),
            ("error", ": ".join(filter(None, (error, (self.error or {}).get("text"))))),
        ]
        return record_html(self._name, about, self._nodes)

    @cached_property
    def nodes(self) -> list[RecordedNode]:
        """What the run did with each node, parents first; parsed at first use.

        Raises:
            DamagedResultError: they are not as specified.
        """
        try:
            return nodes_of(self._nodes)
        except DamagedResultError as error:
            raise DamagedResultError(f"{self._name}: {error}") from error

    def __getitem__(self, name: str) -> RecordedNode:
        """Return what the run did with a node. Raises NoMatchError if it has no such node."""
        if name not in self._by_name:
            close = close_to(str(name), self._by_name)
            raise NoMatchError(f"{self._name} has no node {name!r}{close}")
        return self._by_name[name]

    def read(self, task_name: str) -> Any:
        """Return the result that a node had in this run, and never that of another run.

        Raises:
            NoMatchError: the run has no such node.
            ResultNotFoundError: the run stored no result of it, as after an error; or it was
                removed or replaced since.
            FunctionFuseError: it can't be read; see `Storage.read_task`.
        """
        node = self._stored(task_name)
        return self._storage.read_unchanged(self.workflow, task_name, node.digest, node.call)

    def _stored(self, task_name: str) -> RecordedNode:
        node = self[task_name]
        if not node.digest:
            raise ResultNotFoundError(
                f"{self._name} has no stored result of {task_name!r}, which was {node.action!r}"
            )
        return node

    def lineage(self, task_name: str, *, down: bool = False) -> Lineage:
        """Return the lineage of the result that a node had in this run; see `Storage.lineage`.

        Raises as `read`.
        """
        call = self._stored(task_name).call
        return self._storage.lineage(self.workflow, task_name, call, down=down)

    def compare(self, other: RunRecord) -> Changes:
        """Return what changed from this run to another one: arguments, code, results and actions.

        What either run doesn't know is not compared.

        Raises:
            DamagedResultError: the nodes of one are not as specified.
            TypeError: `other` is no run.
        """
        if not isinstance(other, RunRecord):
            raise TypeError(f"compare takes a run, such as runs[-1], and not {other!r}")
        return changes_of(self.nodes, other.nodes)

    @property
    def _name(self) -> str:
        return f"run {self.id!r} of workflow {self.workflow!r}"

    @cached_property
    def _by_name(self) -> dict[str, RecordedNode]:
        return {node.name: node for node in self.nodes}

    def _ancestry(self, task_names: Sequence[str]) -> set[str]:
        """Return the names of nodes and of all their ancestors; without names, of all nodes."""
        found = set(task_names or self._by_name)
        waiting = list(found)
        while waiting:
            node = self._by_name.get(waiting.pop())
            new = set(node.parents) - found if node else ()
            found.update(new)
            waiting.extend(new)
        return found

    @property
    def counts(self) -> Counter[str]:
        """The number of nodes by action. Raises as `nodes`."""
        try:
            return actions_of(self._nodes)
        except DamagedResultError as error:
            raise DamagedResultError(f"{self._name}: {error}") from error

    def _row(self) -> list[str]:
        try:
            actions = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        except DamagedResultError:
            actions = "nodes are damaged"
        error = self.error["type"] if self.error else ""
        return [self.id, f"{self.seconds:9.3f} s", actions, error]


class Runs(Sequence[RunRecord]):
    """Records of a workflow's runs, newest last; prints as a table."""

    def __init__(self, workflow_name: str, records: Sequence[RunRecord]) -> None:
        self.workflow_name = workflow_name
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int | str) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | str | slice) -> RunRecord | Runs:
        """Return a record by its number or its run's id, or some of them by a slice.

        Raises:
            NoMatchError: no run here has this id.
        """
        if isinstance(index, slice):
            return Runs(self.workflow_name, self._records[index])
        if not isinstance(index, str):
            if not self._records:
                raise IndexError(str(self))
            return self._records[index]
        for record in self._records:
            if record.id == index:
                return record
        raise NoMatchError(
            f"none of these {len(self)} runs of workflow {self.workflow_name!r} is {index!r}."
            " There may be older ones: runs(..., last=None) reads all. A run that goes on, or was"
            " killed, has no record"
        )

    def __str__(self) -> str:
        rows = [record._row() for record in self._records]
        return table(rows) or f"no runs of workflow {self.workflow_name!r}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(record.started, *record._row()) for record in self._records[-ROWS:]]
        return runs_html(self.workflow_name, rows, len(self))

    def rows(self, *task_names: str) -> list[dict[str, Any]]:
        """Return a row for each run, oldest first: its id, arguments, and results of some nodes.

        The keys are "id"; "fit.c" for the argument `c` of `fit`, for each of the nodes and all of
        their ancestors in any run; and the nodes' names. Without names, there are the arguments of
        all nodes, and no results.

        All rows have the same keys. An argument that a run doesn't have is None. A result is None
        if the node failed or wasn't in the run, or if the result is gone. An argument that is no
        plain value, such as an array, is there only if it varies; then it is a text with its
        digest. Each result is read once, and rows share it; if a read is a request, many run at
        once.

        Raises:
            NoMatchError: no run has a node of this name, or there is none.
            TypeError: an argument is no name.
            InvalidNameError: two columns would have the same key.
            DamagedResultError: the nodes of a run are not as specified.
            FunctionFuseError: a stored result can't be read; see `Storage.read_task`.
        """
        if not all(isinstance(name, str) for name in task_names):
            raise TypeError(f"rows takes names, as in rows('a', 'b'), and not {task_names!r}")
        if task_names and not self:
            raise NoMatchError(f"{self}, so none has a node {task_names[0]!r}")
        known = {name for record in self for name in record._by_name}
        for name in task_names:
            if name not in known:
                problem = f"no run of workflow {self.workflow_name!r} has a node {name!r}"
                raise NoMatchError(f"{problem}{close_to(str(name), known)}")
        wanted = {name for record in self for name in record._ancestry(task_names)}
        arguments = columns_of(
            [
                {node.name: node.arguments for node in record.nodes if node.name in wanted}
                for record in self
            ]
        )
        results = self._results(task_names)
        keys = ["id", *(key for key, _ in arguments), *results]
        for key, count in Counter(keys).items():
            if count > 1:
                raise InvalidNameError(
                    f"two columns would be {key!r}; `read` of each run returns the result"
                )
        columns = [[record.id for record in self], *(cells for _, cells in arguments)]
        every = zip(*columns, *results.values(), strict=True)
        return [dict(zip(keys, row, strict=True)) for row in every]

    def _results(self, task_names: Sequence[str]) -> dict[str, list[Any]]:
        """Return by task the results in all runs; None for those that can't be had."""
        records: dict[tuple[str, str, str], RunRecord] = {}
        sought: dict[str, list[tuple[str, str, str]]] = {name: [] for name in task_names}
        for record in self:
            for name, keys in sought.items():
                node = record._by_name.get(name)
                keys.append((name, node.call, node.digest) if node else (name, "", ""))
                records[keys[-1]] = record

        def value(key: tuple[str, str, str]) -> Any:
            try:
                return records[key].read(key[0])
            except (NoMatchError, ResultNotFoundError):
                return None

        if not records:
            return {}
        store = self._records[0]._storage.store
        found = dict(zip(records, at_once(store, value, list(records)), strict=True))
        return {name: [found[key] for key in keys] for name, keys in sought.items()}

    def to_frame(self, *task_names: str) -> pd.DataFrame:
        """Return `rows` as a data frame of pandas, whose index is the id. Raises as `rows`.

        Raises:
            PluginError: pandas is not installed.
        """
        rows = self.rows(*task_names)
        return frame_of(rows, [*rows[0]] if rows else ["id"])
