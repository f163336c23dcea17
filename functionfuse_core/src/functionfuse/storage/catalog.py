"""The contents of a store: workflows, tasks, side data, and the headers of results.

Whoever can write in a store can write any header. So each function that returns headers, or what
they tell, takes the key of the storage as `signed_by`. A header that isn't signed with it is of no
use, as a damaged one. With None, every header is believed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    InvalidNameError,
    NewerFormatError,
    OriginalResultError,
    ResultNotFoundError,
    UntrustedResultError,
)
from . import ours
from .blobstore import BlobStore, Buffer, at_once
from .header import FIRST_READ, TaskInfo, header_end
from .keys import EARLIER, MARKER, NEWER, earlier_key, folder_of, key_of, name_of, segment_of
from .original import check_original, refuse_unsigned
from .resultfile import trusted
from .sidecheck import BLOCK
from .sidedata import side_keys
from .signing import Key
from .summary import Summary, read_stored

__all__ = [
    "belongs",
    "beside",
    "each_header",
    "head_of",
    "headers_of",
    "info_of",
    "infos_at",
    "infos_of_tasks",
    "is_earlier",
    "is_own",
    "is_result",
    "matching",
    "may_hold",
    "own_info",
    "refuse_other",
    "segments",
    "side_data_in",
    "side_data_of",
    "task_of",
    "tasks",
    "unsigned_among",
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
        OriginalResultError: the original Function Fuse wrote it.
    """
    if data is None:
        data = store.head(key, FIRST_READ)
    while (end := header_end(data)) > len(data):
        # Step by step: a damaged length must not request gigabytes.
        had, data = len(data), store.head(key, min(end, FIRST_READ + 64 * len(data)))
        if len(data) <= had:
            raise DamagedResultError(f"the blob is cut within its header, at byte {had}")
    return memoryview(data)[:end]


def info_of(
    store: BlobStore, key: str, data: Buffer | None = None, *, signed_by: Key | None
) -> TaskInfo:
    """Return the fields of a result's header. Reads as `head_of`.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: the blob is no result, or its header was changed or cut.
        NewerFormatError: a later version of Function Fuse wrote it.
        OriginalResultError: the original Function Fuse wrote it.
        UntrustedResultError: it is not signed as it must be.
    """
    return trusted(bytes(head_of(store, key, data)), signed_by)


def may_hold(store: BlobStore, key: str, token: str, *, signed_by: Key | None) -> bool:
    """Return whether a blob is the write with this token; True also if that is unknown."""
    try:
        return info_of(store, key, signed_by=signed_by).token == token
    except (ResultNotFoundError, OriginalResultError):
        return False
    except (FunctionFuseError, OSError):
        return True


def own_info(store: BlobStore, workflow: str, task: str, *, signed_by: Key | None) -> TaskInfo:
    """Return the header of a task's result; see `info_of`.

    A result of the original Function Fuse is read as a whole: see `check_original`.
    """
    key = key_of(workflow, task)
    try:
        info = info_of(store, key, signed_by=signed_by)
    except OriginalResultError:
        info = check_original(workflow, task, store.blocks(key, BLOCK))
        refuse_unsigned(signed_by)
        return info
    refuse_other(info, workflow, task)
    return info


def infos_of_tasks(
    store: BlobStore,
    workflow: str,
    tasks: Iterable[str],
    originals: Collection[str] = (),
    *,
    signed_by: Key | None,
) -> Iterator[Summary | FunctionFuseError | None]:
    """Iterate over the headers of tasks; see `Storage.task_infos`."""
    names, folder = list(tasks), folder_of(workflow)
    segments = list(map(segment_of, names))
    found = infos_at(store, workflow, folder, segments, names, signed_by=signed_by)
    if not originals:
        return found
    return (
        _whole(store, workflow, name, signed_by)
        if _is_original(info) and name in originals
        else info
        for name, info in zip(names, found, strict=True)
    )


def _is_original(info: object) -> bool:
    return isinstance(info, OriginalResultError)


def _whole(
    store: BlobStore, workflow: str, task: str, signed_by: Key | None
) -> Summary | FunctionFuseError | None:
    """Return the header of a result after it was read as a whole, or the error in it."""
    try:
        return Summary.of(own_info(store, workflow, task, signed_by=signed_by))
    except ResultNotFoundError:
        return None  # removed meanwhile
    except _OF_NO_USE as error:
        return error


def infos_at(
    store: BlobStore,
    workflow: str,
    folder: str,
    segments: Sequence[str],
    tasks: Sequence[str],
    *,
    signed_by: Key | None,
) -> Iterator[Summary | FunctionFuseError | None]:
    """Iterate over the headers of tasks whose results have other keys: see `infos_of_tasks`."""
    heads = store.heads(folder, segments, FIRST_READ)
    for segment, task, data in zip(segments, tasks, heads, strict=True):
        if data is None:
            yield None
        else:
            found = read_stored(data, workflow, task, signed_by)
            yield found or _parsed(store, folder + segment, data, (workflow, task), signed_by)


def _parsed(
    store: BlobStore, key: str, data: Buffer, names: tuple[str, str], signed_by: Key | None
) -> Summary | FunctionFuseError | None:
    """Return the summary of any header, given the beginning of its blob; or the error in it."""
    try:
        info = info_of(store, key, data, signed_by=signed_by)
        refuse_other(info, *names)
    except ResultNotFoundError:
        return None
    except _OF_NO_USE as error:
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


_OF_NO_USE = DamagedResultError, NewerFormatError, OriginalResultError, UntrustedResultError


def workflows(store: BlobStore) -> list[str]:
    """Return the sorted names of the workflows; see `ours`.

    Only a result has a name that is longer than a segment; without one, the segment is returned.
    """
    names = []
    for folder in ours.workflows(store):
        name = name_of(folder[:-1])
        if name is None:
            first = next(segments(store, folder), None)
            name = _long_names(store, folder + first)[0] if first else folder[:-1]
        names.append(name)
    return sorted(names)


def tasks(store: BlobStore, folder: str) -> list[str]:
    """Return the sorted names of the tasks in a workflow's folder; see `ours`.

    No file of a folder with a marker is read, so any file there counts as a result.
    """
    names = list(store.names(folder))
    if not ours.has_result(store, folder, names):
        return []
    found = filter(_is_segment, names)
    return sorted(name_of(segment) or task_of(store, folder + segment) for segment in found)


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


def headers_of(
    store: BlobStore, keys: Iterable[str], *, signed_by: Key | None
) -> dict[str, TaskInfo]:
    """Return the headers of results by their keys; see `each_header`."""
    return dict(each_header(store, keys, signed_by=signed_by))


def each_header(
    store: BlobStore, keys: Iterable[str], *, signed_by: Key | None
) -> Iterator[tuple[str, TaskInfo]]:
    """Iterate over the keys and headers of results, without those that are of no use.

    A result that belongs under another key is of no use.
    """
    folders: dict[str, list[str]] = {}
    for key in keys:
        folder, slash, name = key.rpartition("/")
        folders.setdefault(folder + slash, []).append(name)
    for folder, names in folders.items():
        for name, data in zip(names, store.heads(folder, names, FIRST_READ), strict=True):
            with suppress(ResultNotFoundError, *_OF_NO_USE):
                key = folder + name
                info = None if data is None else info_of(store, key, data, signed_by=signed_by)
                if info and belongs(info, key):
                    yield key, info


def unsigned_among(store: BlobStore, keys: Iterable[str], signed_by: Key | None) -> set[str]:
    """Return the keys of results whose headers are whole, but not signed as they must be."""
    found = set()
    for key in keys if signed_by is not None else ():
        try:
            info_of(store, key, signed_by=signed_by)
        except UntrustedResultError:
            found.add(key)
        except (ResultNotFoundError, *_OF_NO_USE):
            continue
    return found


def belongs(info: TaskInfo, key: str) -> bool:
    """Return whether a result has its own key: as the latest of its task, or as an earlier one."""
    try:
        latest = key_of(info.workflow, info.task)
    except InvalidNameError:
        return False  # a header can have any text
    return key in (latest, earlier_key(info.workflow, info.task, info.call))


def is_own(store: BlobStore, folder: str, inside: Collection[str]) -> bool:
    """Return whether our folders in a workflow's folder can be removed; see `ours`.

    They can if there is a marker, or a result that was stored under its own key.

    Args:
        inside: the names of all that is directly in the folder.
    """

    def is_here(name: str) -> bool:
        try:
            return belongs(info_of(store, folder + name, signed_by=None), folder + name)
        except (ResultNotFoundError, PermissionError, *_OF_NO_USE):
            return False

    if MARKER in inside and ours.is_marked(store, folder):
        return True
    return any(at_once(store, is_here, sorted(filter(_is_segment, inside))[: ours.SOME]))


def beside(store: BlobStore, folder: str, header: TaskInfo | Summary) -> list[str]:
    """Return the keys of a result's side data, by its header."""
    names = [name for side in header.side_data for name, *_ in side.files]
    return side_keys(store, folder, names) if names else []


def side_data_in(store: BlobStore, folder: str, left: Collection[str] = ()) -> Iterator[str]:
    """Iterate over the keys of the side data of a workflow's results, also earlier ones.

    Args:
        left: keys of blobs that are not ours, and may be unreadable.
    """
    keys = (blob.key for blob in store.list(folder))
    results = [key for key in keys if key not in left and (is_result(key) or is_earlier(key))]
    return side_data_of(store, folder, results)


def side_data_of(store: BlobStore, folder: str, results: Sequence[str]) -> Iterator[str]:
    """Iterate over the keys of the side data that some results refer to, signed or not."""
    for _, header in each_header(store, results, signed_by=None):
        yield from beside(store, folder, header)


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
    """Return the names in a result's header; the segments of its key if they don't belong to it."""
    with suppress(*_OF_NO_USE):
        info = info_of(store, key, signed_by=None)  # the key has a digest of the name
        if belongs(info, key):
            return info.workflow, info.task
    workflow, _, task = key.rpartition("/")
    return workflow, task
