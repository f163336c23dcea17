"""The headers of many results, from a store where every read is a request.

What was read is remembered in one blob beside the results. A header from it counts only while a
listing shows the etag of the very blob that it was read from. So a memory that is missing, old or
damaged costs requests, and nothing else.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
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
from .header import FIRST_READ, TaskInfo, header_end, read_info
from .keys import HEADERS

__all__ = [
    "Head",
    "WrittenHeads",
    "head_of",
    "info_of",
    "may_hold",
    "read_heads",
    "remembered_heads",
]

logger = logging.getLogger(__name__)

_DIGEST = 32  # hexadecimal digits
_MOST_WRITTEN = 20_000  # of one workflow; those of a process that saves for ever must not add up
_ALWAYS_READ = 3  # so few headers that are new are not worth a memory that is written anew

# A header's bytes with the prefix; None where nothing is stored; or why it is of no use.
Head = bytes | DamagedResultError | NewerFormatError | None


def head_of(store: BlobStore, key: str) -> Buffer:
    """Return a result's prefix and header: one read, or more where it is unusually long.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: it is no result, or it is cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    data = store.head(key, FIRST_READ)
    while (end := header_end(data)) > len(data):
        # Step by step: a damaged length must not ask for gigabytes.
        had, data = len(data), store.head(key, min(end, FIRST_READ + 64 * len(data)))
        if len(data) <= had:
            raise DamagedResultError(f"the blob is cut within its header, at byte {had}")
    return memoryview(data)[:end]


def info_of(store: BlobStore, key: str) -> TaskInfo:
    """Return a result's header: one read, or two where it is unusually long.

    Raises:
        ResultNotFoundError: there is no such blob.
        DamagedResultError: it is no result, or its header was changed or cut.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    info = read_info(head_of(store, key))
    assert isinstance(info, TaskInfo)
    return info


def read_heads(store: BlobStore, keys: Sequence[str]) -> list[Head]:
    """Return the headers of results, in order; where a read is a request, many are made at once."""
    workers = min(store.concurrency, len(keys))
    if workers <= 1:
        return [_head(store, key) for key in keys]
    with ThreadPoolExecutor(workers, thread_name_prefix="headers") as pool:
        return list(pool.map(partial(_head, store), keys))


def remembered_heads(store: BlobStore, folder: str, segments: Sequence[str]) -> list[Head]:
    """Return the headers of tasks of one workflow: one listing, and what that calls for.

    Where more of them are stored than the store takes requests at once, they are remembered.

    Args:
        folder: the workflow's.
        segments: of the tasks.
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
        # One that was replaced between the listing and its reading must not be remembered.
        again = _etags(store, folder)
        for name in new:
            head = found[name]
            if isinstance(head, bytes) and etags[name] == again.get(name) != "":
                known[name] = etags[name], head
        _remember(store, folder, known)
    return [found.get(segment) for segment in segments]


def may_hold(store: BlobStore, key: str, token: str) -> bool:
    """Tell whether a blob is the write that has this token, or that can't be told."""
    try:
        return info_of(store, key).token == token
    except ResultNotFoundError:
        return False
    except (FunctionFuseError, OSError):
        return True


class WrittenHeads:
    """The headers of results that a storage has written, until they are remembered.

    They stay in the process that wrote them: a copy for another one begins without any.
    """

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.by_folder: dict[str, dict[str, tuple[str, bytes]]] = {}

    def __reduce__(self) -> tuple[type[WrittenHeads], tuple[BlobStore]]:
        return type(self), (self.store,)

    def note(self, key: str, etag: str, parts: Sequence[Buffer]) -> None:
        """Take a result that was put, and the etag that it was given."""
        if self.store.concurrency > 1:
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
    """Return what is remembered: etag and header by segment; nothing if that can't be used."""
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
        # Whoever can only read plans as well, with more requests.
        logger.info("the headers of %r are not remembered: %s", folder, error)
