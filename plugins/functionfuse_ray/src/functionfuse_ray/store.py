"""`RayStore`: blobs in files on one node of a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from functionfuse.errors import OptionsError, StorageConnectionError, StoragePathError
from functionfuse.storage.blobstore import BlobInfo, BlobStore, Buffer

from .server import CHUNK, Server

__all__ = ["RayStore"]

logger = logging.getLogger(__name__)

NAMESPACE = "functionfuse"
_HEAD_NODE = {"resources": {"node:__internal_head__": 0.001}}
_PATIENCE = 120.0  # seconds for a lost server to come back
_SMALL = 64 << 10  # bytes; what is smaller is joined
_TOLD_EVERY = 30.0  # seconds
# Of the options of `ray.init`, those that hold for a cluster that is up.
_FOR_ANY_CLUSTER = ("log_to_driver", "logging_level", "namespace", "runtime_env")


class RayStore(BlobStore):
    """Blobs in files below `path` on a node, behind one server actor for all who use that path.

    The server is found by its name, and started by whoever first needs it. It outlives the program
    that started it (its lifetime is "detached"), and Ray restarts it when its node comes back.
    Buffers go through shared memory, in pieces of `CHUNK` if they are bigger.

    Args:
        remote_args: options of `ray.remote` that pick the node; none: the head node.
        ray_init_args: what `ray.init` is called with where Ray is not up.
        address: of the cluster; "" for the one that `ray.init` finds or starts.
    """

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
        self._server: Any = None
        self._connected: tuple[int, str] | None = None
        self._connecting = threading.Lock()

    def __repr__(self) -> str:
        return f"RayStore({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        address = self.address
        if ray.is_initialized():
            address = ray.get_runtime_context().gcs_address
        return type(self), (self.path, self.remote_args, self.ray_init_args, address)

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`."""
        pieces = list(_pieces(parts))
        try:
            self._put(key, pieces, if_absent=if_absent, durable=durable, patience=0.0)
        except ConnectionError:
            # The server died, perhaps after the blob was stored.
            try:
                self._put(key, pieces, if_absent=if_absent, durable=durable, patience=_PATIENCE)
            except FileExistsError:
                if not _equal(self.get(key), pieces):
                    raise

    def _put(
        self, key: str, pieces: list[Buffer], *, if_absent: bool, durable: bool, patience: float
    ) -> None:
        if sum(map(len, pieces)) <= CHUNK:
            self._ask("put", key, if_absent, durable, buffers=pieces, patience=patience)
            return
        writer = os.urandom(16).hex()
        self._ask("expect", writer, len(pieces), patience=patience)
        with _explained(self):
            server = self._server
            written = server.put_pieces.remote(key, if_absent, durable, writer)
            for piece in pieces:
                # One after the other, or they could change places; the last few wait to be written.
                if not ray.get(_submit(server.add, (writer,), (piece,))):
                    break
            ray.get(written)

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        data = self._ask("get", key)
        if data is not None:
            return bytearray(memoryview(data))
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                return self._read(key)
            except ConnectionError:
                if monotonic() > deadline:
                    raise

    def _read(self, key: str) -> Buffer:
        """Return a big blob. Its pieces are of one moment: the server holds the file."""
        self._connect()
        with _explained(self):
            pieces = self._server.pieces.remote(key)
            data = memoryview(bytearray(ray.get(next(pieces))))
            done = 0
            for reference in pieces:
                piece = memoryview(ray.get(reference))
                data[done : done + len(piece)] = piece
                done += len(piece)
        if done != len(data):
            raise StorageConnectionError(f"{self!r} gave {done} of {len(data)} bytes")
        return data

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob; see `BlobStore.head`."""
        data: bytes = self._ask("head", key, size)
        return data

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs; see `BlobStore.list`."""
        self._ask("hello")
        with _explained(self):
            for page in self._server.pages.remote(prefix):
                yield from ray.get(page)

    def names(self, folder: str) -> Iterator[str]:
        """Iterate what is in a folder; see `BlobStore.names`."""
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
        """Remove what killed writers left; see `BlobStore.sweep`."""
        return iter(self._ask("sweep", older_than, dry_run))

    # The server.

    def _ask(
        self,
        method: str,
        *args: Any,
        buffers: Sequence[Buffer] = (),
        patience: float = _PATIENCE,
    ) -> Any:
        """Return what the server answers; asked again, where it died, until it is back."""
        deadline = monotonic() + patience
        while True:
            try:
                self._connect()
                with _explained(self):
                    return ray.get(_submit(getattr(self._server, method), args, buffers))
            except ConnectionError:
                self._connected = None
                if monotonic() >= deadline:
                    raise
                sleep(0.2)

    def _connect(self) -> None:
        """Find the server, or start it; once per process, and per life of Ray in it."""
        if _process.forked:
            raise StoragePathError(
                f"{self!r} can't be used in a forked process: Ray's client does not survive a fork."
                " Start processes with the method 'spawn' or 'forkserver'"
            )
        if self._connected is not None and ray.is_initialized() and self._connected == _here():
            return
        with self._connecting:
            if not ray.is_initialized():
                ray.init(**self._init_args())
            _process.watch()
            here = _here()
            if self._connected == here:
                return
            made_with = json.dumps(self.remote_args, sort_keys=True, default=repr)
            options = {"num_cpus": 0, **(self.remote_args or _HEAD_NODE)}
            server = Server.options(  # type: ignore[attr-defined]
                name=f"storage {self.path}",
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                **options,
            ).remote(self.path, made_with)
            self._check(server, made_with)
            self._server, self._connected = server, here

    def _check(self, server: Any, made_with: str) -> None:
        """Wait for the server, and refuse one on another node than the options pick."""
        hello = server.hello.remote()
        while True:
            try:
                with _explained(self):
                    its = ray.get(hello, timeout=_TOLD_EVERY)
                break
            except GetTimeoutError:
                logger.warning(
                    "%r waits for a node of the cluster that offers its 'remoteArgs': %s",
                    self,
                    self.remote_args or _HEAD_NODE,
                )
        if self.remote_args and its != made_with:
            raise OptionsError(
                f"storage 'ray': the server of {self.path!r} was started with 'remoteArgs' {its},"
                f" not {made_with}: it may be on another node. Use the same, or none"
            )

    def _init_args(self) -> dict[str, Any]:
        if not self.address:
            return self.ray_init_args
        known = {
            name: value for name, value in self.ray_init_args.items() if name in _FOR_ANY_CLUSTER
        }
        return {"address": self.address, **known}


def _submit(method: Any, args: Sequence[Any], buffers: Sequence[Buffer]) -> Any:
    """Call a method of the server with arguments and buffers; return the reference of its answer.

    Ray has copied the buffers into shared memory when this returns.
    """
    sent = [pickle.PickleBuffer(buffer) for buffer in buffers]
    try:
        return method.remote(*args, *sent)
    finally:
        # Python before 3.11.9 crashes when it collects a memory view that is still exported.
        for buffer in sent:
            buffer.release()


@contextmanager
def _explained(store: RayStore) -> Iterator[None]:
    """Raise what the server raised, and StorageConnectionError where there is no answer."""
    cause = None
    try:
        yield
    except RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        cause = error.cause
    except RayActorError as error:
        raise StorageConnectionError(f"the server of {store!r} is gone: {error}") from error
    if cause is not None:
        try:
            raise cause  # not while the other is handled, which refers to this one
        finally:
            del cause


class _Process:
    """Whether this process was forked from one in which Ray was up."""

    def __init__(self) -> None:
        self.forked = False
        self.watched = False

    def watch(self) -> None:
        """Notice forks from now on."""
        if not self.watched:
            self.watched = True
            os.register_at_fork(after_in_child=self.note)

    def note(self) -> None:
        """Be called in a forked process."""
        self.forked = True


_process = _Process()


def _here() -> tuple[int, str]:
    return os.getpid(), ray.get_runtime_context().get_job_id()


def _pieces(parts: Sequence[Buffer]) -> Iterator[Buffer]:
    """Iterate the bytes of parts in pieces of at most CHUNK; small parts are joined."""
    joined = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        if len(view) < _SMALL and len(joined) < CHUNK - _SMALL:
            joined += view
            continue
        if joined:
            yield joined
            joined = bytearray()
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]
    if joined:
        yield joined


def _equal(data: Buffer, pieces: Sequence[Buffer]) -> bool:
    view, start = memoryview(data), 0
    for piece in pieces:
        if view[start : start + len(piece)] != memoryview(piece):
            return False
        start += len(piece)
    return start == len(view)
