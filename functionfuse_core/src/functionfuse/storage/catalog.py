"""The contents of a store: workflows, tasks, side data, and the headers of results.

A plan needs the headers of all its tasks. If a read is a request, that takes many requests, so a
workflow's headers are also remembered in one blob, `HEADERS`, each with the etag of its result. A
plan lists the results, takes the remembered headers whose etags are unchanged, reads the others,
and writes the blob again. The blob is a cache: if it is missing or damaged, all headers are read.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from xxhash import xxh3_128_hexdigest

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
    names_in_header,
    read_info,
    read_stored,
)
from .keys import HEADERS, SIDE_DATA, folder_of, key_of, name_of, segment_of
from .sidedata import side_keys

__all__ = [
    "Head",
    "WrittenHeads",
    "beside",
    "everything",
    "head_of",
    "info_of",
    "infos_of_tasks",
    "may_hold",
    "own_info",
    "read_heads",
    "refuse_other",
    "remembered_heads",
    "segments",
    "task_of",
    "tasks",
    "workflows",
]


logger = logging.getLogger(__name__)

_DIGEST = 32  # hexadecimal digits
_MOST_WRITTEN = 20_000  # headers of one workflow: a limit for a process that saves for ever
_ALWAYS_READ = 3  # so few new headers are not worth writing the blob again

# A header's bytes with the prefix; None if nothing is stored; or the error, if it is of no use.
Head = bytes | DamagedResultError | NewerFormatError | None


def head_of(store: BlobStore, key: str) -> Buffer:
    """Return a result's prefix and header: one read, or more if it is unusually long.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: the blob is no result, or it is cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    data = store.head(key, FIRST_READ)
    while (end := header_end(data)) > len(data):
        # Step by step: a damaged length must not request gigabytes.
        had, data = len(data), store.head(key, min(end, FIRST_READ + 64 * len(data)))
        if len(data) <= had:
            raise DamagedResultError(f"the blob is cut within its header, at byte {had}")
    return memoryview(data)[:end]


def info_of(store: BlobStore, key: str) -> TaskInfo:
    """Return the fields of a result's header. Reads as `head_of`.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: the blob is no result, or its header was changed or cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    info = read_info(head_of(store, key))
    assert isinstance(info, TaskInfo)
    return info


def read_heads(store: BlobStore, keys: Sequence[str]) -> list[Head]:
    """Return the headers of results, in order; if a read is a request, many run at once."""
    workers = min(store.concurrency, len(keys))
    if workers <= 1:
        return [_head(store, key) for key in keys]
    with ThreadPoolExecutor(workers, thread_name_prefix="headers") as pool:
        return list(pool.map(partial(_head, store), keys))


def remembered_heads(store: BlobStore, folder: str, segments: Sequence[str]) -> list[Head]:
    """Return the headers of one workflow's tasks: one listing, and reads of the new headers.

    Headers are remembered if the stored tasks are more than the requests that the store takes at
    once. A single task is read without a listing.

    Args:
        folder: the workflow's folder.
        segments: the key segments of the tasks.
    """
    if len(segments) == 1:
        return read_heads(store, [folder + segments[0]])
    etags = _etags(store, folder)
    wanted = {segment for segment in segments if segment in etags}
    remembers = len(wanted) > store.concurrency
    known = _recalled(store, folder) if remembers else {}
    known = {name: held for name, held in known.items() if etags.get(name) == held[0]}
    new = sorted(wanted - known.keys())
    found: dict[str, Head] = {name: head for name, (_, head) in known.items()}
    found |= zip(new, read_heads(store, [folder + name for name in new]), strict=True)
    if remembers and len(new) > max(_ALWAYS_READ, len(known) // 1000):
        # A result that was replaced between the listing and its read must not be remembered.
        again = _etags(store, folder)
        for name in new:
            head = found[name]
            if isinstance(head, bytes) and etags[name] == again.get(name) != "":
                known[name] = etags[name], head
        _remember(store, folder, known)
    return [found.get(segment) for segment in segments]


def may_hold(store: BlobStore, key: str, token: str) -> bool:
    """Return whether a blob is the write with this token; True also if that is unknown."""
    try:
        return info_of(store, key).token == token
    except ResultNotFoundError:
        return False
    except (FunctionFuseError, OSError):
        return True


class WrittenHeads:
    """The headers of results that a storage has written, until they are remembered.

    They stay in the process that wrote them: a copy for another process is empty.
    """

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.by_folder: dict[str, dict[str, tuple[str, bytes]]] = {}

    def __reduce__(self) -> tuple[type[WrittenHeads], tuple[BlobStore]]:
        return type(self), (self.store,)

    def note(self, key: str, etag: str, parts: Sequence[Buffer]) -> None:
        """Record the header of a result that was put, and its etag."""
        if self.store.remote:
            folder, slash, segment = key.rpartition("/")
            first = memoryview(parts[0])
            head = bytes(first[: header_end(first)])
            written = self.by_folder.setdefault(folder + slash, {})
            if len(written) < _MOST_WRITTEN:
                written[segment] = etag, head

    def remember(self, folder: str) -> None:
        """Remember the headers of a workflow's results, unless they are few."""
        written = self.by_folder.pop(folder, {})
        if len(written) > self.store.concurrency:
            try:
                known = _recalled(self.store, folder)
            except OSError as error:
                logger.info("the headers of %r are not remembered: %s", folder, error)
            else:
                _remember(self.store, folder, known | written)


def _etags(store: BlobStore, folder: str) -> dict[str, str]:
    return {blob.key[len(folder) :]: blob.etag for blob in store.blobs(folder)}


def _head(store: BlobStore, key: str) -> Head:
    try:
        return bytes(head_of(store, key))
    except ResultNotFoundError:
        return None
    except (DamagedResultError, NewerFormatError) as error:
        return error


def _recalled(store: BlobStore, folder: str) -> dict[str, tuple[str, bytes]]:
    """Return the remembered etags and headers by segment; nothing if the blob can't be used."""
    try:
        data = bytes(store.get(folder + HEADERS))
    except ResultNotFoundError:
        return {}
    if xxh3_128_hexdigest(data[_DIGEST:]).encode() != data[:_DIGEST]:
        return {}
    entries: Mapping[str, tuple[str, str]] = json.loads(zlib.decompress(data[_DIGEST:]))
    return {name: (etag, head.encode("latin-1")) for name, (etag, head) in entries.items()}


def _remember(store: BlobStore, folder: str, entries: Mapping[str, tuple[str, bytes]]) -> None:
    held = {name: (etag, head.decode("latin-1")) for name, (etag, head) in entries.items()}
    data = zlib.compress(json.dumps(held, separators=(",", ":")).encode(), 1)
    try:
        store.put(folder + HEADERS, [xxh3_128_hexdigest(data).encode(), data])
    except OSError as error:
        # A user who can't write here can still plan, with more requests.
        logger.info("the headers of %r are not remembered: %s", folder, error)


def own_info(store: BlobStore, workflow: str, task: str) -> TaskInfo:
    """Return the header of a task's result; see `info_of`."""
    info = info_of(store, key_of(workflow, task))
    refuse_other(info, workflow, task)
    return info


def infos_of_tasks(
    store: BlobStore, workflow: str, tasks: Iterable[str]
) -> Iterator[Summary | FunctionFuseError | None]:
    """Iterate over the headers of tasks; see `Storage.task_infos`."""
    folder = folder_of(workflow)
    if store.remote:
        tasks = list(tasks)
        heads = remembered_heads(store, folder, [segment_of(task) for task in tasks])
        for task, head in zip(tasks, heads, strict=True):
            yield _stored(head, workflow, task)
        return
    for task in tasks:
        try:
            data = store.head(folder + segment_of(task), FIRST_READ)
            stored = read_stored(data, names_in_header(workflow, task))
            yield stored or Summary.of(own_info(store, workflow, task))
        except ResultNotFoundError:
            yield None
        except (DamagedResultError, NewerFormatError) as error:
            yield error


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


def _stored(head: Head, workflow: str, task: str) -> Summary | FunctionFuseError | None:
    """Return the summary of a header, the error in it, or None if nothing is stored."""
    if not isinstance(head, bytes):
        return head
    stored = read_stored(head, names_in_header(workflow, task))
    if stored is not None:
        return stored
    try:
        info = read_info(head)
        assert isinstance(info, TaskInfo)
        refuse_other(info, workflow, task)
    except ResultNotFoundError:
        return None
    except (DamagedResultError, NewerFormatError) as error:
        return error
    return Summary.of(info)


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


def beside(store: BlobStore, key: str, folder: str) -> list[str]:
    """Return the keys of a stored result's side data."""
    try:
        side_data = info_of(store, key).side_data
    except (ResultNotFoundError, DamagedResultError, NewerFormatError):
        return []  # its side data is unknown; `gc` will find it
    return keys_beside(store, folder, side_data)


def keys_beside(store: BlobStore, folder: str, side_data: Sequence[SideData]) -> list[str]:
    """Return the keys of side data that a header lists."""
    names = [name for side in side_data for name, *_ in side.files]
    return side_keys(store, folder, names)


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
    used = [key for result in results for key in beside(store, result, folder)]
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
