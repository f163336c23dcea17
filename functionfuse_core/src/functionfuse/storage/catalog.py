"""The contents of a store: workflows, tasks, side data, and the headers of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import EllipsisType

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    ResultNotFoundError,
)
from .blobstore import BlobStore, Buffer
from .header import (
    FIRST_READ,
    SideData,
    Summary,
    TaskInfo,
    header_end,
    read_info,
    read_stored,
    side_data_field,
)
from .keys import SIDE_DATA, folder_of, key_of, name_of, segment_of
from .sidedata import side_keys

__all__ = [
    "beside",
    "everything",
    "head_of",
    "info_of",
    "infos_of_tasks",
    "may_hold",
    "own_info",
    "refuse_other",
    "segments",
    "task_of",
    "tasks",
    "workflows",
]


def head_of(store: BlobStore, key: str, data: Buffer | None = None) -> Buffer:
    """Return a result's prefix and header: one read, or more if it is unusually long.

    Args:
        data: the beginning of the blob, if it is read already.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: the blob is no result, or it is cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    if data is None:
        data = store.head(key, FIRST_READ)
    while (end := header_end(data)) > len(data):
        # Step by step: a damaged length must not request gigabytes.
        had, data = len(data), store.head(key, min(end, FIRST_READ + 64 * len(data)))
        if len(data) <= had:
            raise DamagedResultError(f"the blob is cut within its header, at byte {had}")
    return memoryview(data)[:end]


def info_of(store: BlobStore, key: str, data: Buffer | None = None) -> TaskInfo:
    """Return the fields of a result's header. Reads as `head_of`.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: the blob is no result, or its header was changed or cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    info = read_info(head_of(store, key, data))
    assert isinstance(info, TaskInfo)
    return info


def may_hold(store: BlobStore, key: str, token: str) -> bool:
    """Return whether a blob is the write with this token; True also if that is unknown."""
    try:
        return info_of(store, key).token == token
    except ResultNotFoundError:
        return False
    except (FunctionFuseError, OSError):
        return True


def own_info(store: BlobStore, workflow: str, task: str) -> TaskInfo:
    """Return the header of a task's result; see `info_of`."""
    info = info_of(store, key_of(workflow, task))
    refuse_other(info, workflow, task)
    return info


def infos_of_tasks(
    store: BlobStore, workflow: str, tasks: Iterable[str]
) -> Iterator[Summary | FunctionFuseError | None]:
    """Iterate over the headers of tasks; see `Storage.task_infos`."""
    folder, names = folder_of(workflow), list(tasks)
    heads = store.heads(folder, list(map(segment_of, names)), FIRST_READ)
    for task, data in zip(names, heads, strict=True):
        if data is None:
            yield None
        else:
            yield read_stored(data, workflow, task) or _parsed(store, data, workflow, task)


def _parsed(
    store: BlobStore, data: Buffer, workflow: str, task: str
) -> Summary | FunctionFuseError | None:
    """Return the summary of any header, given the beginning of its blob; or the error in it."""
    try:
        info = info_of(store, key_of(workflow, task), data)
        refuse_other(info, workflow, task)
    except ResultNotFoundError:
        return None
    except (DamagedResultError, NewerFormatError) as error:
        return error
    return Summary.of(info)


def refuse_other(info: TaskInfo, workflow: str, task: str) -> None:
    """Raise an error if a header belongs to another task.

    Raises:
        ResultNotFoundError: the names differ only in case, which the file system ignores.
        DamagedResultError: they differ otherwise.
    """
    if info.task == task and info.workflow == workflow:
        return
    if f"{info.workflow}/{info.task}".casefold() == f"{workflow}/{task}".casefold():
        raise ResultNotFoundError(f"{workflow}/{task}")
    raise DamagedResultError(
        f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
    )


ABANDONED_AFTER = 86400.0  # seconds; older unfinished data belongs to no running save


def workflows(store: BlobStore) -> list[str]:
    """Return the sorted names of the workflows that have results."""
    names = []
    for name in store.names(""):
        if name.startswith(".") or not name.endswith("/"):
            continue
        first = next(segments(store, name), None)
        if first is not None:
            names.append(name_of(name[:-1]) or _long_names(store, name + first)[0])
    return sorted(names)


def tasks(store: BlobStore, folder: str) -> list[str]:
    """Return the sorted names of the tasks in a workflow's folder."""
    return sorted(
        name_of(segment) or task_of(store, folder + segment) for segment in segments(store, folder)
    )


def segments(store: BlobStore, folder: str) -> Iterator[str]:
    """Iterate over the last segments of the results' keys in a workflow's folder."""
    return (name for name in store.names(folder) if name[0] != "." and name[-1] != "/")


def task_of(store: BlobStore, key: str) -> str:
    """Return the task name of a result's key; reads the header if the name is too long."""
    return name_of(key.rpartition("/")[2]) or _long_names(store, key)[1]


def beside(
    store: BlobStore, key: str, header: TaskInfo | Summary | EllipsisType = ...
) -> list[str]:
    """Return the keys of a stored result's side data, by its header, which is read if not given.

    There are none if the header is of no use, or another task's: `gc` finds them.
    """
    folder, slash, segment = key.rpartition("/")
    side_data: Sequence[SideData] = ()
    try:
        if not isinstance(header, EllipsisType):
            side_data = header.side_data
        else:
            [data] = store.heads(folder + slash, [segment], FIRST_READ)
            field = data and side_data_field(data)
            if data and not (field and field[1]):
                info = info_of(store, key, data)
                side_data = info.side_data if segment_of(info.task) == segment else ()
    except (ResultNotFoundError, DamagedResultError, NewerFormatError):
        return []
    if not side_data:
        return []
    names = [name for side in side_data for name, *_ in side.files]
    return side_keys(store, folder + slash, names)


def everything(store: BlobStore, folder: str) -> tuple[list[str], list[str]]:
    """Return the keys of a workflow's results, and the keys of its other blobs.

    Side data that no result refers to is left out while it may belong to a running save.
    """
    blobs = list(store.list(folder))
    results = [blob.key for blob in blobs if not blob.key.startswith(f"{folder}.")]
    side_data = [blob for blob in blobs if blob.key.startswith(folder + SIDE_DATA)]
    other = {blob.key for blob in blobs}.difference(results, [blob.key for blob in side_data])
    if not side_data:
        return results, sorted(other)
    before = store.now() - ABANDONED_AFTER
    used = [key for result in results for key in beside(store, result)]
    abandoned = [blob.key for blob in side_data if blob.modified < before]
    return results, [*used, *abandoned, *sorted(other)]


def _long_names(store: BlobStore, key: str) -> tuple[str, str]:
    """Return the names in a result's header; the segments of its key if that is damaged."""
    try:
        info = info_of(store, key)
    except (DamagedResultError, NewerFormatError):
        workflow, _, task = key.rpartition("/")
        return workflow, task
    return info.workflow, info.task
