"""The actor that reads and writes the files of a `RayStore`, on the node with the disk.

Small blobs go in one call. A big one is sent by `expect`, then `put_pieces` in parallel with one
`add` per piece; it is read from the stream `pieces`. Each kind of call has its own concurrency
group, so that writers waiting for pieces don't block the calls that bring them. `hello` is in none,
so it never waits.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any

import ray

from functionfuse.errors import StorageConnectionError
from functionfuse.storage.blobstore import BlobInfo
from functionfuse.storage.filestore import FileStore

from .pieces import AHEAD, CHUNK, Incoming

__all__ = ["PAGE", "Server"]

PAGE = 200  # blobs of a listing that are sent together; at most five pages are read ahead


@ray.remote(  # type: ignore[call-overload]
    concurrency_groups={"requests": 16, "writers": 16, "readers": 16, "pieces": 16}
)
class Server:
    """A file store for all processes that reach the cluster; buffers are passed by reference."""

    def __init__(self, path: str, made_with: str) -> None:
        self.store = FileStore(os.path.expanduser(path))
        self.made_with = made_with
        self.incoming: dict[str, Incoming] = {}

    def hello(self) -> str:
        """Return the `remoteArgs` that the server was started with, however busy it is."""
        return self.made_with

    @ray.method(concurrency_group="requests")
    def put(self, key: str, if_absent: bool, durable: bool, *parts: Any) -> None:
        """See `BlobStore.put`."""
        views = [memoryview(part) for part in parts]
        self.store.put(key, views, if_absent=if_absent, durable=durable)

    @ray.method(concurrency_group="requests")
    def expect(self, writer: str, count: int) -> None:
        """Prepare to receive a blob in pieces."""
        self.incoming[writer] = Incoming(count)

    @ray.method(concurrency_group="pieces")
    def add(self, writer: str, piece: Any) -> bool:
        """Add a piece; return False if the blob needs no more pieces."""
        incoming = self.incoming.get(writer)
        return incoming is not None and incoming.add(memoryview(piece))

    @ray.method(concurrency_group="writers")
    def put_pieces(self, key: str, if_absent: bool, durable: bool, writer: str) -> None:
        """Put a blob while its pieces are added; see `BlobStore.put`."""
        incoming = self.incoming.get(writer)
        if incoming is None:
            raise StorageConnectionError("the server was started again before the blob came")
        try:
            self.store.put(key, incoming, if_absent=if_absent, durable=durable)
        finally:
            incoming.ended.set()
            del self.incoming[writer]

    @ray.method(concurrency_group="requests")
    def get(self, key: str) -> Any:
        """Return a blob; None if it is too big, and must be read in pieces."""
        data = self.store.get(key)
        return None if len(data) > CHUNK else pickle.PickleBuffer(data)

    @ray.method(
        concurrency_group="readers",
        num_returns="streaming",
        _generator_backpressure_num_objects=AHEAD,
    )
    def pieces(self, key: str) -> Iterator[Any]:
        """Iterate the size of a blob, then its pieces."""
        view = memoryview(self.store.get(key))
        yield len(view)
        for start in range(0, len(view), CHUNK):
            yield pickle.PickleBuffer(view[start : start + CHUNK])

    @ray.method(concurrency_group="requests")
    def copy(self, key: str, to: str) -> None:
        """See `BlobStore.copy`."""
        self.store.copy(key, to)

    @ray.method(concurrency_group="requests")
    def head(self, key: str, size: int) -> bytes:
        """See `BlobStore.head`."""
        return bytes(self.store.head(key, size))

    @ray.method(concurrency_group="requests")
    def heads(self, folder: str, names: list[str], size: int) -> list[bytes | None]:
        """See `BlobStore.heads`."""
        found = self.store.heads(folder, names, size)
        return [None if head is None else bytes(head) for head in found]

    @ray.method(
        concurrency_group="readers",
        num_returns="streaming",
        _generator_backpressure_num_objects=AHEAD,
    )
    def pages(self, prefix: str) -> Iterator[list[BlobInfo]]:
        """Iterate a listing by page; the last page is not full, and may be empty."""
        page = []
        for info in self.store.list(prefix):
            page.append(info)
            if len(page) == PAGE:
                yield page
                page = []
        yield page

    @ray.method(concurrency_group="requests")
    def names(self, folder: str) -> list[str]:
        """See `BlobStore.names`."""
        return list(self.store.names(folder))

    @ray.method(concurrency_group="requests")
    def delete(self, keys: list[str]) -> None:
        """See `BlobStore.delete`."""
        self.store.delete(keys)

    @ray.method(concurrency_group="requests")
    def prepare(self, folder: str) -> None:
        """See `BlobStore.prepare`."""
        self.store.prepare(folder)

    @ray.method(concurrency_group="requests")
    def flush(self, keys: list[str]) -> None:
        """See `BlobStore.flush`."""
        self.store.flush(keys)

    @ray.method(concurrency_group="requests")
    def now(self) -> float:
        """See `BlobStore.now`."""
        return self.store.now()

    @ray.method(concurrency_group="requests")
    def sweep(self, older_than: float, dry_run: bool) -> list[BlobInfo]:
        """See `BlobStore.sweep`."""
        return list(self.store.sweep(older_than, dry_run=dry_run))
