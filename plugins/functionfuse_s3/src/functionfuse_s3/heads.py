"""The headers of a workflow's results, remembered in one blob, so that a plan need not read each.

The blob `HEADERS` has each header with the ETag of its result. A plan lists the results, takes the
remembered headers whose ETags are unchanged, reads the others, and writes the blob again. The blob
is a cache: if it is missing or damaged, all headers are read. A run adds the headers of the results
that it has saved, by the ETags with which the server answers their PUTs.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from functionfuse.errors import (
    DamagedResultError,
    NewerFormatError,
    OriginalResultError,
    ResultNotFoundError,
)
from functionfuse.storage import BlobInfo, BlobStore, keys
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.catalog import head_of
from functionfuse.storage.header import header_end

__all__ = ["HEADERS", "Heads"]

logger = logging.getLogger(__name__)

HEADERS = f"{keys.HEADERS}remembered"  # in a workflow's folder
_NO_HEADER = DamagedResultError, NewerFormatError, OriginalResultError
_DIGEST = 16  # bytes
_MOST_WRITTEN = 20_000  # headers of one workflow: a limit for a process that saves for ever
_MOST_UNPACKED = 1 << 20  # bytes
_MOST_RATIO = 64  # of unpacked bytes to packed ones; digests in headers can't be packed
_ALWAYS_READ = 3  # so few new headers are not worth writing the blob again


class Heads:
    """The headers of a store's results: those that this process has written, and all others.

    Args:
        blobs: lists the blobs directly in a folder, with etags.
    """

    def __init__(self, store: BlobStore, blobs: Callable[[str], Iterable[BlobInfo]]) -> None:
        self.store = store
        self.blobs = blobs
        self.written: dict[str, dict[str, tuple[str, bytes]]] = {}  # by folder and name

    def note(self, key: str, etag: str, first: Buffer) -> None:
        """Note the header of a blob that was put, if it is a result.

        Args:
            first: the first part of the blob; a result's has the whole header.
        """
        folder, slash, name = key.rpartition("/")
        head = _header(first)
        if head and etag and "/." not in f"/{key}":
            written = self.written.setdefault(folder + slash, {})
            if len(written) < _MOST_WRITTEN:
                written[name] = etag, head

    def forget(self, key: str) -> None:
        """Forget the header of a blob that was replaced by a copy, whose header is not known."""
        folder, slash, name = key.rpartition("/")
        self.written.get(folder + slash, {}).pop(name, None)

    def read(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        """Iterate over headers; see `BlobStore.heads`. One listing, and reads of the new headers.

        Headers are remembered if the stored results are more than the requests that the store sends
        at once. A single header is read without a listing.
        """
        if len(names) == 1:
            return iter([self._head(folder + names[0], size)])
        etags = self._etags(folder)
        wanted = {name for name in names if name in etags}
        remembers = len(wanted) > self.store.concurrency
        known = self._recalled(folder) if remembers else {}
        known = {name: held for name, held in known.items() if etags.get(name) == held[0]}
        found: dict[str, Buffer | None] = {name: head for name, (_, head) in known.items()}
        new = sorted(wanted - known.keys())
        if new:
            workers = min(self.store.concurrency, len(new))
            with ThreadPoolExecutor(workers, thread_name_prefix="headers") as pool:
                heads = pool.map(lambda name: self._head(folder + name, size), new)
                found |= zip(new, heads, strict=True)
        if remembers and len(new) > max(_ALWAYS_READ, len(known) // 1000):
            # A result that was replaced between the listing and its read must not be remembered.
            again = self._etags(folder)
            for name in new:
                head = _header(found[name] or b"")
                if head and etags[name] == again.get(name) != "":
                    known[name] = etags[name], head
            self._remember(folder, known)
        return map(found.get, names)

    def finish(self, folder: str) -> None:
        """Remember the headers of a workflow's results that were written, unless they are few."""
        written = self.written.pop(folder, {})
        if len(written) > self.store.concurrency:
            try:
                known = self._recalled(folder)
            except OSError as error:
                logger.info("the headers of %r are not remembered: %s", folder, error)
            else:
                self._remember(folder, known | written)

    def _etags(self, folder: str) -> dict[str, str]:
        return {blob.key[len(folder) :]: blob.etag for blob in self.blobs(folder)}

    def _head(self, key: str, size: int) -> Buffer | None:
        """Return the beginning of a blob, with the whole header if it is a result."""
        try:
            data = self.store.head(key, size)
            try:
                return head_of(self.store, key, data)
            except _NO_HEADER:
                return data
        except ResultNotFoundError:
            return None

    def _recalled(self, folder: str) -> dict[str, tuple[str, bytes]]:
        """Return the remembered etags and headers; nothing if the blob can't be used."""
        try:
            data = bytes(self.store.get(folder + HEADERS))
        except ResultNotFoundError:
            return {}
        if blake2b(data[_DIGEST:], digest_size=_DIGEST).digest() != data[:_DIGEST]:
            return {}
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(data[_DIGEST:], _MOST_UNPACKED + _MOST_RATIO * len(data))
            entries: Mapping[str, tuple[str, str]] = json.loads(text)
            found = {name: (etag, head.encode("latin-1")) for name, (etag, head) in entries.items()}
        # Another version wrote it, or somebody who wants to disturb.
        except (AttributeError, RecursionError, TypeError, ValueError, zlib.error):
            return {}
        return {name: held for name, held in found.items() if _header(held[1]) == held[1] != b""}

    def _remember(self, folder: str, entries: Mapping[str, tuple[str, bytes]]) -> None:
        held = {name: (etag, head.decode("latin-1")) for name, (etag, head) in entries.items()}
        data = zlib.compress(json.dumps(held, separators=(",", ":")).encode(), 1)
        try:
            self.store.put(folder + HEADERS, [blake2b(data, digest_size=_DIGEST).digest(), data])
        except OSError as error:
            # A user who can't write here can still plan, with more requests.
            logger.info("the headers of %r are not remembered: %s", folder, error)


def _header(data: Buffer) -> bytes:
    """Return prefix and header of a result; b"" if `data` doesn't have them."""
    try:
        end = header_end(data)
    except _NO_HEADER:
        return b""
    return bytes(memoryview(data)[:end]) if end <= len(data) else b""
