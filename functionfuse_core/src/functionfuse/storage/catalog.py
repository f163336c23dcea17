"""The contents of a store: workflows, tasks, side data, and the headers of results."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    InvalidNameError,
    NewerFormatError,
    ResultNotFoundError,
)
from .blobstore import BlobStore, Buffer
from .header import FIRST_READ, TaskInfo, header_end, read_info
from .keys import EARLIER, NEWER, SIDE_DATA, earlier_key, folder_of, key_of, name_of, segment_of
from .sidedata import side_keys
from .summary import Summary, read_stored

__all__ = [
    "belongs",
    "beside",
    "everything",
    "head_of",
    "headers_of",
    "info_of",
    "infos_at",
    "infos_of_tasks",
    "is_earlier",
    "is_result",
    "matching",
    "may_hold",
    "own_info",
    "refuse_other",
    "segments",
    "side_data_in",
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
    names = list(tasks)
    return infos_at(store, workflow, folder_of(workflow), list(map(segment_of, names)), names)


def infos_at(
    store: BlobStore, workflow: str, folder: str, segments: Sequence[str], tasks: Sequence[str]
) -> Iterator[Summary | FunctionFuseError | None]:
    """Iterate over the headers of tasks whose results have other keys: see `infos_of_tasks`."""
    heads = store.heads(folder, segments, FIRST_READ)
    for segment, task, data in zip(segments, tasks, heads, strict=True):
        if data is None:
            yield None
        else:
            found = read_stored(data, workflow, task)
            yield found or _parsed(store, folder + segment, data, workflow, task)


def _parsed(
    store: BlobStore, key: str, data: Buffer, workflow: str, task: str
) -> Summary | FunctionFuseError | None:
    """Return the summary of any header, given the beginning of its blob; or the error in it."""
    try:
        info = info_of(store, key, data)
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


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the names that match a glob pattern, or are equal to it."""
    if pattern == "*":
        return list(names)
    matches = re.compile(fnmatch.translate(pattern)).match
    return [name for name in names if matches(name) or name == pattern]


def segments(store: BlobStore, folder: str) -> Iterator[str]:
    """Iterate over the last segments of the results' keys in a workflow's folder."""
    return filter(_is_segment, store.names(folder))


def task_of(store: BlobStore, key: str) -> str:
    """Return the task name of a result's key; reads the header if the name is too long."""
    return name_of(key.rpartition("/")[2]) or _long_names(store, key)[1]


def headers_of(store: BlobStore, keys: Iterable[str]) -> dict[str, TaskInfo]:
    """Return the headers of results by their keys, without those that are of no use.

    A result that belongs under another key is of no use.
    """
    folders: dict[str, list[str]] = {}
    for key in keys:
        folder, slash, name = key.rpartition("/")
        folders.setdefault(folder + slash, []).append(name)
    found = {}
    for folder, names in folders.items():
        for name, data in zip(names, store.heads(folder, names, FIRST_READ), strict=True):
            with suppress(ResultNotFoundError, DamagedResultError, NewerFormatError):
                info = None if data is None else info_of(store, folder + name, data)
                if info and belongs(info, folder + name):
                    found[folder + name] = info
    return found


def belongs(info: TaskInfo, key: str) -> bool:
    """Return whether a result has its own key: as the latest of its task, or as an earlier one."""
    try:
        latest = key_of(info.workflow, info.task)
    except InvalidNameError:
        return False  # a header can have any text
    return key in (latest, earlier_key(info.workflow, info.task, info.call))


def beside(store: BlobStore, folder: str, header: TaskInfo | Summary) -> list[str]:
    """Return the keys of a result's side data, by its header."""
    names = [name for side in header.side_data for name, *_ in side.files]
    return side_keys(store, folder, names) if names else []


def everything(store: BlobStore, folder: str) -> tuple[list[str], list[str]]:
    """Return the keys of a workflow's results, earlier ones too, and of its other blobs.

    Side data that no result refers to is left out while it may belong to a running save.
    """
    blobs = list(store.list(folder))
    results = [blob.key for blob in blobs if is_result(blob.key) or is_earlier(blob.key)]
    side_data = [blob for blob in blobs if blob.key.startswith(folder + SIDE_DATA)]
    other = {blob.key for blob in blobs}.difference(results, [blob.key for blob in side_data])
    if not side_data:
        return results, sorted(other)
    before = store.now() - ABANDONED_AFTER
    used = dict.fromkeys(_side_data_of(store, folder, results))
    abandoned = [blob.key for blob in side_data if blob.modified < before]
    return results, [*used, *abandoned, *sorted(other)]


def side_data_in(store: BlobStore, folder: str) -> list[str]:
    """Return the keys of the side data that a workflow's results refer to, also earlier ones."""
    blobs = store.list(folder)
    results = [blob.key for blob in blobs if is_result(blob.key) or is_earlier(blob.key)]
    return _side_data_of(store, folder, results)


def _side_data_of(store: BlobStore, folder: str, results: Sequence[str]) -> list[str]:
    headers = headers_of(store, results).values()
    return [key for header in headers for key in beside(store, folder, header)]


def is_result(key: str) -> bool:
    """Return whether a key is that of a task's latest result."""
    return _is_segment(key.partition("/")[2])


def _is_segment(name: str) -> bool:
    """Return whether a name in a workflow's folder is that of a result."""
    return name[:1] not in ("", ".") and "/" not in name and name != NEWER


def is_earlier(key: str) -> bool:
    """Return whether a key is that of an earlier result."""
    return key.count("/") == 2 and f"/{EARLIER}" in key


def _long_names(store: BlobStore, key: str) -> tuple[str, str]:
    """Return the names in a result's header; the segments of its key if that is damaged."""
    try:
        info = info_of(store, key)
    except (DamagedResultError, NewerFormatError):
        workflow, _, task = key.rpartition("/")
        return workflow, task
    return info.workflow, info.task
