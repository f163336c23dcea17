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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

from xxhash import xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    OriginalResultError,
    ResultNotFoundError,
    StoragePathError,
    UntrustedResultError,
)
from .blobstore import BlobStore, at_once
from .catalog import (
    beside,
    head_of,
    headers_of,
    infos_at,
    infos_of_tasks,
    may_hold,
)
from .header import HEADER_AT, MAGIC, START, TaskInfo
from .keys import (
    DAMAGED,
    EARLIER,
    NEWER,
    earlier_key,
    earlier_name,
    folder_of,
    key_of,
    segment_of,
)
from .original import keep_original
from .resultfile import trusted
from .signing import Key
from .summary import Summary

logger = logging.getLogger(__name__)

__all__ = [
    "EarlierResults",
    "is_held",
    "keep_unsigned",
    "keys_of",
    "of_tasks",
    "refuse_older_gc",
    "remove",
    "restore",
    "set_aside",
]

_UNKNOWN_TO_THEM = 2  # a format version that releases without earlier results don't read

Info = Summary | FunctionFuseError | None


class EarlierResults:
    """The earlier results of a workflow, for a plan. If they can't be read, there are none.

    Args:
        signed_by: see `catalog`.

    Attributes:
        batches: whether many headers are read at once, because a read is a request. Then results
            are listed first, and only headers of those that exist are read.
    """

    def __init__(self, store: BlobStore, workflow_name: str, *, signed_by: Key | None) -> None:
        self.batches = store.concurrency > 1
        self._store = store
        self._signed_by = signed_by
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
                where = self._workflow, self._folder
                infos = list(infos_at(self._store, *where, names, tasks, signed_by=self._signed_by))
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


def of_tasks(
    store: BlobStore, workflow: str, task: str | None, *, signed_by: Key | None
) -> list[TaskInfo]:
    """Return the headers of earlier results of a task, or of all; see `Inventory.earlier`.

    A copy of the latest result is none.
    """
    if task is None:
        keys = [blob.key for blob in store.list(folder_of(workflow) + EARLIER)]
    else:
        keys = keys_of(store, workflow, [task])
    infos = headers_of(store, keys, signed_by=signed_by).values()
    names = {info.task for info in infos}
    latest = infos_of_tasks(store, workflow, names, signed_by=signed_by)
    tokens = set()
    for summary in latest:
        with suppress(DamagedResultError):
            if isinstance(summary, Summary):
                tokens.add(summary.info.token)
    found = [info for info in infos if info.token not in tokens]
    return sorted(found, key=lambda info: info.created, reverse=True)


def set_aside(store: BlobStore, workflow: str, task: str, header: Summary) -> None:
    """Copy the latest result of a task, which has this header, to the key of its call.

    If it was removed meanwhile, nothing is set aside.
    """
    if header.side_data:
        refuse_older_gc(store, folder_of(workflow))
    with suppress(ResultNotFoundError):
        store.copy(key_of(workflow, task), earlier_key(workflow, task, header.call))


def keep_unsigned(store: BlobStore, workflow: str, task: str) -> None:
    """Copy a latest result that isn't signed with the storage's key, before it is replaced.

    It can be genuine: the key is a wrong one, or `sign` wasn't called yet. It can be forged, too.
    So it becomes no earlier result, which `sign` would sign, but is kept as damaged bytes are:
    until `gc`, with its side data. If it was removed meanwhile, nothing is kept.
    """
    key, folder = key_of(workflow, task), folder_of(workflow)
    with suppress(ResultNotFoundError):
        head = bytes(head_of(store, key))
        if trusted(head, None).side_data:
            refuse_older_gc(store, folder)
        store.copy(key, f"{folder}{DAMAGED}{segment_of(task)}/{xxh3_128_hexdigest(head)}")


def refuse_older_gc(store: BlobStore, folder: str) -> None:
    """Stop the `gc` of older releases, which know no earlier results, from removing side data.

    They would remove the side data of earlier results. But they keep all side data of a workflow
    if one header is of a later format. This blob has such a header.
    """
    store.put(folder + NEWER, [START.pack(MAGIC, _UNKNOWN_TO_THEM, 0).ljust(HEADER_AT, b"\0")])


def restore(
    store: BlobStore,
    workflow: str,
    tasks: Mapping[str, tuple[str, Info]],
    *,
    signed_by: Key | None,
) -> dict[str, Exception]:
    """Make earlier results the latest of their tasks again; return the errors, by task.

    If a request is slow, many run at once.

    Args:
        tasks: for each task the call of the earlier result, and the header of the latest one.
    """

    def failure(task: str) -> Exception | None:
        call, latest = tasks[task]
        try:
            if not store.remote:  # a look is cheap: another run may have replaced it since the plan
                [latest] = infos_of_tasks(store, workflow, [task], signed_by=signed_by)
            _restore(store, workflow, task, call, latest)
        except Exception as error:  # noqa: BLE001  # the run's values are right anyway
            return error
        return None

    errors = at_once(store, failure, list(tasks))
    return {task: error for task, error in zip(tasks, errors, strict=True) if error is not None}


def _restore(store: BlobStore, workflow: str, task: str, call: str, latest: Info) -> None:
    if isinstance(latest, Summary) and latest.call:
        if latest.call == call:
            return
        set_aside(store, workflow, task, latest)
    if isinstance(latest, OriginalResultError):
        keep_original(store, workflow, task)
    if isinstance(latest, UntrustedResultError):
        keep_unsigned(store, workflow, task)
    store.copy(earlier_key(workflow, task, call), key_of(workflow, task))


def remove(
    store: BlobStore,
    folder: str,
    keys: Sequence[str],
    headers: Mapping[str, TaskInfo],
    between: Callable[[], object] = lambda: None,
    *,
    signed_by: Key | None,
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
        has = header is not None and header.side_data
        if header and has and not is_held(store, header, signed_by=signed_by):
            side_data += beside(store, folder, header)
    try:
        store.delete(side_data)
    except StoragePathError as error:  # somebody has put a link there, for example
        logger.warning("results are removed, but some of their side data is left: %s", error)


def is_held(store: BlobStore, header: TaskInfo, *, signed_by: Key | None) -> bool:
    """Return whether a result is still the latest of its task, or an earlier one."""
    names = header.workflow, header.task
    # In this order: a run copies the latest one before it replaces it.
    keys = key_of(*names), earlier_key(*names, header.call)
    return any(may_hold(store, key, header.token, signed_by=signed_by) for key in keys)
