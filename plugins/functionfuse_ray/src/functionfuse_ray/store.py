"""`RayStore`: blobs in files on one node of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import ray

from functionfuse.errors import StorageConnectionError
from functionfuse.storage.blobstore import BlobInfo, BlobStore, Buffer

from .connection import Connection, submit
from .pieces import CHUNK, equal, pieces_of

__all__ = ["RayStore"]


class RayStore(BlobStore):
    """Blobs in files below `path` on one node, behind one server actor for all users of that path.

    Buffers go through shared memory; bigger ones than `CHUNK` are sent in pieces.

    Args:
        remote_args: options of `ray.remote` that pick the node; none: the head node.
        ray_init_args: arguments for `ray.init`, if Ray is not up.
        address: of the cluster; "" for the one that `ray.init` finds or starts.
    """

    remote = True
    concurrency = 16

    def __init__(
        self,
        path: str,
        remote_args: Mapping[str, Any] | None = None,
        ray_init_args: Mapping[str, Any] | None = None,
        address: str = "",
    ) -> None:
        self.path = path
        self.remote_args = dict(remote_args or {})
        self.ray_init_args = dict(ray_init_args or {})
        self.address = address
        self._connection = Connection(path, self.remote_args, self.ray_init_args, address)
        self._ask = self._connection.ask

    def __repr__(self) -> str:
        return f"RayStore({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        address = self.address
        if ray.is_initialized():
            address = ray.get_runtime_context().gcs_address
        return type(self), (self.path, self.remote_args, self.ray_init_args, address)

    def start(self) -> None:
        """Start Ray with the arguments of the store, unless it is up.

        Raises:
            OptionsError: it would be Ray's client.
        """
        self._connection.start()

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`."""
        pieces, tries = list(pieces_of(parts)), count()

        def put(server: Any) -> None:
            again = next(tries)
            try:
                self._send(server, pieces, key, if_absent, durable)
            except FileExistsError:
                # If the server died, perhaps after it had stored the blob.
                if not (again and equal(self.get(key), pieces)):
                    raise

        self._connection.use(put)

    def _send(self, server: Any, pieces: Sequence[Buffer], *options: Any) -> None:
        answer = self._connection.answer
        if sum(map(len, pieces)) <= CHUNK:
            answer(server, submit(server.put, options, pieces))
            return
        writer = os.urandom(16).hex()
        answer(server, server.expect.remote(writer, len(pieces)))
        written = server.put_pieces.remote(*options, writer)
        for piece in pieces:
            # One at a time, or they could arrive out of order; a few wait to be written.
            if not answer(server, submit(server.add, (writer,), (piece,))):
                break
        answer(server, written)

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        data = self._ask("get", key)
        if data is not None:
            return bytearray(memoryview(data))
        read: Buffer = self._connection.use(lambda server: self._read(server, key))
        return read

    def _read(self, server: Any, key: str) -> Buffer:
        """Return a big blob. All its pieces are of one version: the server holds the bytes."""
        pieces = self._connection.answers(server, server.pieces.remote(key))
        data = memoryview(bytearray(next(pieces)))
        done = 0
        for each in pieces:
            piece = memoryview(each)
            data[done : done + len(piece)] = piece
            done += len(piece)
        if done != len(data):
            raise StorageConnectionError(f"{self!r} gave {done} of {len(data)} bytes")
        return data

    def copy(self, key: str, to: str) -> None:
        """Copy a blob on the server's disk, with one request; see `BlobStore.copy`.

        If the server died, the copy is made again. An error then says that there is no such blob
        if it was deleted between the two.
        """
        self._ask("copy", key, to)

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob; see `BlobStore.head`."""
        data: bytes = self._ask("head", key, size)
        return data

    def heads(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        """Iterate the beginnings of blobs, with one request; see `BlobStore.heads`."""
        return iter(self._ask("heads", folder, list(names), size))

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs; see `BlobStore.list`."""
        self._ask("hello")
        server = self._connection.use(lambda server: server)
        for page in self._connection.answers(server, server.pages.remote(prefix)):
            yield from page

    def names(self, folder: str) -> Iterator[str]:
        """Iterate the names in a folder; see `BlobStore.names`."""
        return iter(self._ask("names", folder))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs; see `BlobStore.delete`."""
        known = list(keys)
        if known:
            self._ask("delete", known)

    def prepare(self, folder: str) -> None:
        """Make the folder, or raise StoragePathError; see `BlobStore.prepare`."""
        self._ask("prepare", folder)

    def flush(self, keys: Iterable[str]) -> None:
        """Flush files; see `BlobStore.flush`."""
        self._ask("flush", list(keys))

    def now(self) -> float:
        """Return the time on the server's clock."""
        time: float = self._ask("now")
        return time

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Remove the files that killed writers left; see `BlobStore.sweep`."""
        return iter(self._ask("sweep", older_than, dry_run))
