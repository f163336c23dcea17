"""`ZarrStore`: a zarr 3 store over the blobs of a bucket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from functionfuse.errors import ResultNotFoundError
from functionfuse.storage.blobstore import BlobStore

from .bucket import Bucket
from .reading import read_range

__all__ = ["ZarrStore"]

Found = TypeVar("Found")

# By process id, because threads don't survive a fork, and by the number of threads.
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


class ZarrStore(Store):
    """The keys of a zarr array or group, as blobs of an `S3Store` below a folder.

    It pickles by the store's options. Several threads and processes can use it at once.

    Args:
        store, bucket: the blob store and its bucket.
        folder: the beginning of the keys; empty, or it ends in "/".
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(
        self, store: BlobStore, bucket: Bucket, folder: str = "", *, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        self.store = store
        self.bucket = bucket
        self.folder = folder

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ZarrStore)
            and self.folder == other.folder
            and self.read_only == other.read_only
            and self.bucket.options == other.bucket.options
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ZarrStore({self.store!r}, {self.folder!r})"

    def __str__(self) -> str:
        bucket = self.bucket
        return f"s3://{bucket.name}/{bucket.prefix}{self.folder}"

    def with_read_only(self, read_only: bool = False) -> ZarrStore:
        """Return a store of the same keys, which is read-only or not."""
        return ZarrStore(self.store, self.bucket, self.folder, read_only=read_only)

    # zarr calls these when it doesn't wait for several requests at once.

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a value or a part of it, with one request; None if it is missing."""
        self._is_open = True
        where, kind = self.folder + key, (prototype or default_buffer_prototype()).buffer
        try:
            if byte_range is None:
                return kind.from_bytes(self.store.get(where))
            return kind.from_bytes(read_range(self.bucket, where, _in_http(byte_range)))
        except ResultNotFoundError:
            return None

    def set_sync(self, key: str, value: Buffer) -> None:
        """Store a value, all or nothing."""
        self._check_writable()
        self._is_open = True
        self.store.put(self.folder + key, [memoryview(value.as_buffer_like())])

    def delete_sync(self, key: str) -> None:
        """Remove a value; a missing one is no error."""
        self._check_writable()
        self._is_open = True
        self.store.delete([self.folder + key])

    # zarr awaits these.

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value or a part of it; None if it is missing."""
        return await self._in_thread(
            lambda: self.get_sync(key, prototype=prototype, byte_range=byte_range)
        )

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several values or parts of them, fetched at the same time."""
        wanted = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*wanted))

    async def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        return await self._in_thread(lambda: self._size_of(key)) is not None

    async def getsize(self, key: str) -> int:
        """Return the size of a value in bytes."""
        size = await self._in_thread(lambda: self._size_of(key))
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the total size of the values below a prefix; lists them, and reads none."""
        below = f"{self.folder}{_folder(prefix)}"
        blobs = await self._in_thread(lambda: list(self.store.list(below)))
        return sum(blob.size for blob in blobs)

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value, all or nothing."""
        self._check_writable()
        await self._in_thread(lambda: self.set_sync(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store a value unless there is one; of several writers, exactly one stores."""
        self._check_writable()
        data = [memoryview(value.as_buffer_like())]
        try:
            await self._in_thread(lambda: self.store.put(self.folder + key, data, if_absent=True))
        except FileExistsError:
            return

    async def delete(self, key: str) -> None:
        """Remove a value; a missing one is no error."""
        self._check_writable()
        await self._in_thread(lambda: self.delete_sync(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove all values below a prefix, 1,000 with each request."""
        self._check_writable()
        below = f"{self.folder}{_folder(prefix)}"
        await self._in_thread(
            lambda: self.store.delete([blob.key for blob in self.store.list(below)])
        )

    async def list(self) -> AsyncIterator[str]:
        """Iterate all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Iterate the keys that begin with a prefix."""
        below = f"{self.folder}{prefix}"
        for blob in await self._in_thread(lambda: [*self.store.list(below)]):
            yield blob.key[len(self.folder) :]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Iterate the names directly below a prefix: keys, and first segments of deeper keys."""
        below = f"{self.folder}{_folder(prefix)}"
        for name in await self._in_thread(lambda: [*self.store.names(below)]):
            yield name.rstrip("/")

    def _size_of(self, key: str) -> int | None:
        where = self.folder + key
        sizes = (blob.size for blob in self.store.list(where) if blob.key == where)
        return next(sizes, None)

    async def _in_thread(self, call: Callable[[], Found]) -> Found:
        """Run a blocking call in a thread of the pool."""
        if not self._is_open:
            await self._open()
        concurrency = self.bucket.options.concurrency
        key = os.getpid(), concurrency
        pool = _pools.get(key)
        if pool is None:
            made = ThreadPoolExecutor(concurrency, thread_name_prefix="functionfuse-s3-zarr")
            pool = _pools.setdefault(key, made)
        return await asyncio.get_running_loop().run_in_executor(pool, call)


def _folder(prefix: str) -> str:
    return f"{prefix}/" if prefix and not prefix.endswith("/") else prefix


def _in_http(byte_range: ByteRequest) -> str:
    """Return a range in HTTP notation."""
    match byte_range:
        case RangeByteRequest(start, end):
            return f"bytes={start}-{end - 1}"
        case OffsetByteRequest(offset):
            return f"bytes={offset}-"
        case SuffixByteRequest(suffix):
            return f"bytes=-{suffix}"
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")
