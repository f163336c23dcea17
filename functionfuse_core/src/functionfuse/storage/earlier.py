"""Earlier results: a result that one of another call replaces is set aside first.

The latest result of a task has the task's own key. Before a result of another call is put there,
`set_aside` copies the blob to the key of task and call in `.earlier/`, and `restore` copies it
back. Both only copy, so the latest result is whole at any time. Two writers at once can copy a blob
to the key of another call. So a blob counts only if its header has the call of its key. A lost
result is computed again.

Side data stays in its place: it belongs to each blob whose header lists it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import inf
from typing import NamedTuple

from ..errors import FunctionFuseError, ResultNotFoundError
from .blobstore import BlobInfo, BlobStore, at_once
from .catalog import beside, headers_of, infos_at, infos_of_tasks, may_hold, tasks
from .header import HEADER_AT, MAGIC, START, VERSION, TaskInfo
from .keys import EARLIER, NEWER, SIDE_DATA, earlier_key, earlier_name, folder_of, key_of
from .summary import Summary

logger = logging.getLogger(__name__)

__all__ = [
    "EarlierResults",
    "Limits",
    "Pruned",
    "is_held",
    "keys_of",
    "limits_of",
    "of_tasks",
    "prune",
    "refuse_older_gc",
    "remove",
    "restore",
    "set_aside",
]

DAY = 86400.0  # seconds

Info = Summary | FunctionFuseError | None


class EarlierResults:
    """The earlier results of a workflow, for a plan. If they can't be read, there are none.

    Attributes:
        batches: whether many headers are read at once, because a read is a request. Then results
            are listed first, and only headers of those that exist are read.
    """

    def __init__(self, store: BlobStore, workflow_name: str) -> None:
        self.batches = store.concurrency > 1
        self._store = store
        self._workflow = workflow_name
        self._folder = folder_of(workflow_name) + EARLIER
        self._found: dict[tuple[str, str], Summary | None] = {}
        self._warned = False

    @cached_property
    def _names(self) -> frozenset[str]:
        try:
            return frozenset(self._store.names(self._folder))
        except OSError as error:
            self._warn(error)
            return frozenset()

    @cached_property
    def _tasks(self) -> frozenset[str]:
        return frozenset(name.partition("-")[0] for name in self._names)

    def has(self, task: str) -> bool:
        """Return whether a task has any earlier result; they are listed once."""
        return earlier_name(task, "")[:-1] in self._tasks

    def infos(self, sought: Sequence[tuple[str, str]]) -> list[Summary | None]:
        """Return the headers of results, by task and call; None for each missing one.

        Each header is read once.
        """
        new = [pair for pair in sought if pair not in self._found]
        names = [earlier_name(*pair) for pair in new]
        if self.batches:
            listed = [pair for pair in zip(new, names, strict=True) if pair[1] in self._names]
            self._found |= dict.fromkeys(new)
            new, names = [pair for pair, _ in listed], [name for _, name in listed]
        if new:
            tasks = [task for task, _ in new]
            try:
                infos = list(infos_at(self._store, self._workflow, self._folder, names, tasks))
            except OSError as error:
                self._warn(error)
                infos = [None] * len(new)
            for pair, info in zip(new, infos, strict=True):
                self._found[pair] = _of_call(info, pair[1])
        return [self._found[pair] for pair in sought]

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the earlier results of workflow %r can't be read, so none is reused: %r",
                *(self._workflow, error),
            )


def _of_call(info: Info, call: str) -> Summary | None:
    return info if isinstance(info, Summary) and info.call == call else None


def keys_of(store: BlobStore, workflow: str, tasks: Sequence[str]) -> list[str]:
    """Return the keys of all earlier results of tasks."""
    folder = folder_of(workflow) + EARLIER
    starts = tuple({earlier_name(task, "") for task in tasks})
    prefix = folder + starts[0] if len(starts) == 1 else folder
    keys = (blob.key for blob in store.list(prefix))
    return [key for key in keys if key.startswith(starts, len(folder))]


def of_tasks(store: BlobStore, workflow: str, task: str | None) -> list[TaskInfo]:
    """Return the headers of earlier results of a task, or of all; see `Inventory.earlier`.

    A copy of the latest result is none.
    """
    if task is None:
        keys = [blob.key for blob in store.list(folder_of(workflow) + EARLIER)]
    else:
        keys = keys_of(store, workflow, [task])
    infos = headers_of(store, keys).values()
    latest = infos_of_tasks(store, workflow, {info.task for info in infos})
    tokens = {summary.info.token for summary in latest if isinstance(summary, Summary)}
    found = [info for info in infos if info.token not in tokens]
    return sorted(found, key=lambda info: info.created, reverse=True)


def set_aside(store: BlobStore, workflow: str, task: str, header: Summary) -> None:
    """Copy the latest result of a task, which has this header, to the key of its call."""
    if header.side_data:
        refuse_older_gc(store, folder_of(workflow))
    store.copy(key_of(workflow, task), earlier_key(workflow, task, header.call))


def refuse_older_gc(store: BlobStore, folder: str) -> None:
    """Stop the `gc` of older releases, which know no earlier results, from removing side data.

    They would remove the side data of earlier results. But they keep all side data of a workflow
    if one header is of a later format. This blob has such a header.
    """
    store.put(folder + NEWER, [START.pack(MAGIC, VERSION + 1, 0).ljust(HEADER_AT, b"\0")])


def restore(
    store: BlobStore, workflow: str, tasks: Mapping[str, tuple[str, Info]]
) -> dict[str, Exception]:
    """Make earlier results the latest of their tasks again; return the errors, by task.

    If a request is slow, many run at once.

    Args:
        tasks: for each task the call of the earlier result, and the header of the latest one.
    """

    def failure(task: str) -> Exception | None:
        call, latest = tasks[task]
        try:
            _restore(store, workflow, task, call, latest)
        except Exception as error:  # noqa: BLE001  # the run's values are right anyway
            return error
        return None

    errors = at_once(store, failure, list(tasks))
    return {task: error for task, error in zip(tasks, errors, strict=True) if error is not None}


def _restore(store: BlobStore, workflow: str, task: str, call: str, planned: Info) -> None:
    latest = planned
    if not store.remote:  # a look is cheap, and another run may have replaced it since the plan
        [latest] = infos_of_tasks(store, workflow, [task])
    if isinstance(latest, Summary) and latest.call:
        if latest.call == call:
            return
        with suppress(ResultNotFoundError):  # removed meanwhile
            set_aside(store, workflow, task, latest)
    store.copy(earlier_key(workflow, task, call), key_of(workflow, task))


class Limits(NamedTuple):
    """Limits for the earlier results that a workflow keeps; None for no limit.

    Attributes:
        days: a result stays for this time after it was set aside.
        size: bytes of all of them, with side data. Those set aside first are removed first.
        keep: number of results of each task, without a copy of the latest. Those computed first
            are removed first.
    """

    days: float | None = None
    size: int | None = None
    keep: int | None = None


def limits_of(days: float | None, size: int | str | None, keep: int | None) -> Limits:
    """Return the limits that `Storage.prune` is given; raise ValueError for what is no limit."""
    size = _size_of(size) if isinstance(size, str) else size
    for name, limit in (("days", days), ("bytes", size), ("keep", keep)):
        whole = limit is None or isinstance(limit, int if name != "days" else (int, float))
        if not whole or isinstance(limit, bool) or not (limit is None or limit >= 0):
            raise ValueError(f"prune: {name} is a number from 0 on, or None, not {limit!r}")
    return Limits(days=days, size=size, keep=keep)


def _size_of(text: str) -> int:
    """Return the bytes of a size as the option `earlier` takes it."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ValueError(f"prune: bytes is a size as '10 GiB', not {text!r}") from None


class Pruned(NamedTuple):
    """The results that `prune` has removed, and when to call it again.

    Attributes:
        blobs: the removed results, and their sizes with side data.
        room: bytes that may be added before the limit of the size is reached.
        seconds: the time until the oldest result that is left is too old.
    """

    blobs: list[tuple[BlobInfo, int]]
    room: float = inf
    seconds: float = inf


def prune(
    store: BlobStore,
    workflow: str,
    limits: Limits,
    *,
    names: Collection[str] | None = None,
    dry_run: bool,
) -> Pruned:
    """Remove earlier results of a workflow: list all, and remove the oldest.

    Args:
        names: of tasks; all earlier results of other tasks are removed, too.
        dry_run: remove nothing.
    """
    folder = folder_of(workflow)
    blobs = sorted(store.list(folder + EARLIER), key=lambda blob: blob.modified, reverse=True)
    # Headers are read only for sizes of side data, and for the times of computing.
    side_data = blobs and next(iter(store.names(folder + SIDE_DATA)), None) is not None
    reads = side_data or limits.keep is not None
    headers = headers_of(store, [blob.key for blob in blobs]) if reads else {}
    newest = None if limits.keep is None else _newest(store, workflow, headers, limits.keep)
    used = None if names is None else {earlier_name(name, "") for name in names}
    before = -inf if limits.days is None or not blobs else store.now() - limits.days * DAY
    most = inf if limits.size is None else limits.size
    found, total, kept, oldest = [], 0, 0, inf
    for blob in blobs:
        header = headers.get(blob.key)
        size = blob.size + (header.side_size if header else 0)
        task = blob.key[len(folder) + len(EARLIER) :].partition("-")[0] + "-"
        wanted = (used is None or task in used) and (newest is None or blob.key in newest)
        if wanted and blob.modified >= before and size <= most:
            total += size
            if total <= most:
                kept, oldest = total, blob.modified
                continue
        found.append((blob, size))
    if not dry_run:
        remove(store, folder, [blob.key for blob, _ in found], headers)
    return Pruned(found, most - kept, oldest - before)


def _newest(
    store: BlobStore, workflow: str, headers: Mapping[str, TaskInfo], keep: int
) -> set[str]:
    """Return the keys of the results of each task that were computed last.

    Copies of the latest results are among them, and don't count, unless none is kept.
    """
    names = tasks(store, folder_of(workflow))
    found = {
        earlier_key(workflow, name, info.call)
        for name, info in zip(names, infos_of_tasks(store, workflow, names), strict=True)
        if keep and isinstance(info, Summary) and info.call
    }
    counts = Counter[str]()
    for key in sorted(headers, key=lambda key: headers[key].created, reverse=True):
        if key not in found and counts[headers[key].task] < keep:
            counts[headers[key].task] += 1
            found.add(key)
    return found


def remove(
    store: BlobStore,
    folder: str,
    keys: Sequence[str],
    headers: Mapping[str, TaskInfo],
    between: Callable[[], object] = lambda: None,
) -> None:
    """Remove results, then their side data, unless another result refers to it by now.

    Args:
        headers: by key, of the results that have side data.
        between: called after the results are removed, and before their side data is.
    """
    store.delete(keys)
    between()
    side_data: list[str] = []
    for key in keys:
        header = headers.get(key)
        if header is not None and header.side_data and not is_held(store, header):
            side_data += beside(store, folder, header)
    if side_data:
        store.delete(side_data)


def is_held(store: BlobStore, header: TaskInfo) -> bool:
    """Return whether a result is still the latest of its task, or an earlier one."""
    names = header.workflow, header.task
    # In this order: a run copies the latest one before it replaces it.
    keys = key_of(*names), earlier_key(*names, header.call)
    return any(may_hold(store, key, header.token) for key in keys)
