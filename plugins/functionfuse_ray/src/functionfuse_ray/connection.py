"""The connection to the server of a `RayStore`: find or start it, and send requests."""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from functionfuse.errors import OptionsError, StorageConnectionError, StoragePathError
from functionfuse.storage.blobstore import Buffer

__all__ = ["PATIENCE", "Connection", "explained", "here", "start", "submit", "was_started_with"]

logger = logging.getLogger(__name__)

NAMESPACE = "functionfuse"
PATIENCE = 120.0  # seconds for a lost server to come back
_HEAD_NODE = {"resources": {"node:__internal_head__": 0.001}}
_WARN_EVERY = 30.0  # seconds, while waiting for a node
_QUIET = 5.0  # seconds without an answer, after which the server is asked whether it is there
# The options of `ray.init` that are allowed for a cluster that is up.
_FOR_ANY_CLUSTER = ("log_to_driver", "logging_level", "namespace", "runtime_env")


class Connection:
    """One process's connection to the server of a path.

    The server has a name, and is started by the first process that needs it. It outlives the
    program that started it (its lifetime is "detached"). Ray restarts it when its node comes back.

    Args:
        remote_args, ray_init_args, address: see `RayStore`.
    """

    def __init__(
        self,
        path: str,
        remote_args: dict[str, Any],
        ray_init_args: dict[str, Any],
        address: str,
    ) -> None:
        self.path = path
        self.remote_args = remote_args
        self.ray_init_args = ray_init_args
        self.address = address
        self._server: Any = None
        self._connected: tuple[int, str, str] | None = None
        self._connecting = threading.Lock()

    def __repr__(self) -> str:
        return f"RayStore({self.path!r})"

    def start(self) -> None:
        """Start Ray with the storage's own options, unless it is up."""
        args = self._init_args()
        if not ray.is_initialized():
            _refuse_client(str(args.get("address")).startswith("ray://"))
        start(args)

    def ask(self, method: str, *args: Any, buffers: Sequence[Buffer] = ()) -> Any:
        """Return the server's answer; if the server died, ask again until it is back.

        Raises:
            StorageConnectionError: it is not back after `PATIENCE`.
        """

        def asked(server: Any) -> Any:
            return self.answer(server, submit(getattr(server, method), args, buffers))

        return self.use(asked)

    def use(self, request: Callable[[Any], Any]) -> Any:
        """Return the result of a request, which gets the server; again until the server is back.

        It is made in another thread than the main one: when the main thread of a task waits, Ray
        begins another task on its CPU.

        Raises:
            StorageConnectionError: it is not back after `PATIENCE`.
        """
        if _process.forked:
            raise StoragePathError(
                f"{self!r} can't be used in a forked process: Ray's client does not survive a fork."
                " Start processes with the method 'spawn' or 'forkserver'"
            )
        if not ray.is_initialized():
            self.start()
        if threading.current_thread() is not threading.main_thread():
            return self._used(request)
        result = Future[Any]()

        def run() -> None:
            try:
                result.set_result(self._used(request))
            except BaseException as error:  # noqa: BLE001  # raised in the main thread
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return result.result()

    def _used(self, request: Callable[[Any], Any]) -> Any:
        until = monotonic() + PATIENCE
        while True:
            try:
                return request(self._server_at(until))
            except ConnectionError:
                self._connected = None
                if monotonic() >= until:
                    raise
                sleep(0.2)

    def answer(self, server: Any, reference: Any) -> Any:
        """Wait for the answer of a request, and return it.

        Raises:
            StorageConnectionError: the server has died, or is gone for `PATIENCE`.
        """
        with explained(self.path):
            self._await(server, reference)
            return ray.get(reference)

    def answers(self, server: Any, references: Any) -> Iterator[Any]:
        """Iterate the answers of a request that streams them; as `answer`."""
        with explained(self.path):
            while True:
                self._await(server, references)
                try:
                    reference = next(references)
                except StopIteration:
                    return
                yield ray.get(reference)

    def _await(self, server: Any, awaited: Any) -> None:
        """Wait for an answer, or the next of a stream, as long as the server is there."""
        while not ray.wait([awaited], timeout=_QUIET)[0]:
            self._greet(server, monotonic() + PATIENCE)

    def _server_at(self, until: float) -> Any:
        """Find the server, or start it: once per process, and again after Ray was restarted.

        Raises:
            StorageConnectionError: it isn't there at the time `until`.
        """
        if self._connected is not None and ray.is_initialized() and self._connected == here():
            return self._server
        with self._connecting:
            _refuse_client(ray.util.client.ray.is_connected())  # type: ignore[no-untyped-call]
            _process.watch()
            connected = here()
            if self._connected == connected:
                return self._server
            from .server import Server  # late: Ray's client refuses the definition of this actor

            made_with = json.dumps(self.remote_args, sort_keys=True, default=repr)
            options = {"num_cpus": 0, **self._node}
            server = Server.options(  # type: ignore[attr-defined]
                name=f"storage {self.path}",
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                **options,
            ).remote(self.path, made_with)
            found = self._greet(server, until)
            if self.remote_args and found != made_with:
                raise OptionsError(
                    f"storage 'ray': the server of {self.path!r} was started with 'remoteArgs'"
                    f" {found}, not {made_with}: it may be on another node. Use the same, or none"
                )
            self._server, self._connected = server, connected
            return server

    def _greet(self, server: Any, until: float) -> str:
        """Wait for the server, with warnings; return the `remoteArgs` that it was started with."""
        hello = server.hello.remote()
        while True:
            left = max(1.0, until - monotonic())
            try:
                with explained(self.path):
                    made_with: str = ray.get(hello, timeout=min(left, _WARN_EVERY))
                    return made_with
            except GetTimeoutError:
                waits = f"node of the cluster that offers its 'remoteArgs': {self._node}"
            if monotonic() >= until:
                raise StorageConnectionError(
                    f"the server of {self.path!r} is gone. It needs a {waits}"
                )
            logger.warning("%r waits for a %s", self, waits)

    @property
    def _node(self) -> dict[str, Any]:
        """The options that pick the node."""
        return self.remote_args or _HEAD_NODE

    def _init_args(self) -> dict[str, Any]:
        if not self.address:
            return self.ray_init_args
        known = {
            name: value for name, value in self.ray_init_args.items() if name in _FOR_ANY_CLUSTER
        }
        return {"address": self.address, **known}


def start(args: Mapping[str, Any]) -> None:
    """Start Ray in this process, or join a cluster, with these arguments of `ray.init`.

    Does nothing if it is up, perhaps because another thread has started it in the meantime. When a
    thread ends, Ray ends the processes that it started there. So this is the main thread, or one
    that stays.
    """
    with _process.starting:
        if ray.is_initialized():
            return
        if threading.current_thread() is threading.main_thread():
            ray.init(**args)
        else:
            _in_a_thread_that_stays(lambda: ray.init(**args))
        _process.started = here(), dict(args)


def _in_a_thread_that_stays(call: Callable[[], object]) -> None:
    """Call a function in a new thread, which stays if that raises nothing."""
    called = Future[None]()

    def stay() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
            called.set_exception(error)
            return
        called.set_result(None)
        threading.Event().wait()

    threading.Thread(target=stay, name="Ray", daemon=True).start()
    called.result()


def was_started_with(args: Mapping[str, Any]) -> bool:
    """Return whether it was `start` that started the Ray of this process, and with these."""
    return _process.started == (here(), args)


def _refuse_client(connected: bool) -> None:
    if connected:
        raise OptionsError(
            "storage 'ray' can't be used through Ray's client (an address 'ray://…'), which can't"
            " stream. Run the program in the cluster (`ray job submit`, or on one of its nodes with"
            " the address 'auto'), or use a storage of kind 'S3'"
        )


def submit(method: Any, args: Sequence[Any], buffers: Sequence[Buffer]) -> Any:
    """Call a method of the server with arguments and buffers; return a reference to its answer.

    When this returns, Ray has copied the buffers into shared memory.
    """
    sent = [pickle.PickleBuffer(buffer) for buffer in buffers]
    try:
        return method.remote(*args, *sent)
    finally:
        # Python before 3.11.9 crashes when it frees a memory view that is still exported.
        for buffer in sent:
            buffer.release()


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise the server's error as it is, and StorageConnectionError if the server is gone."""
    cause = None
    try:
        yield
    except RayTaskError as error:
        if not isinstance(error.cause, Exception):
            raise
        cause = error.cause
    except RayActorError as error:
        raise StorageConnectionError(f"the server of {path!r} is gone: {error}") from error
    if cause is not None:
        try:
            raise cause  # outside of `except`: its context would be the error that refers to it
        finally:
            del cause


class _Process:
    """Notes how Ray was started here, and whether this process was forked from one with Ray."""

    def __init__(self) -> None:
        self.forked = False
        self.watched = False
        self.starting = threading.Lock()
        self.started: tuple[tuple[int, str, str], dict[str, Any]] | None = None

    def watch(self) -> None:
        """Notice forks from now on."""
        if not self.watched:
            self.watched = True
            os.register_at_fork(after_in_child=self.note)

    def note(self) -> None:
        """Note that this process was forked."""
        self.forked = True


_process = _Process()


def here() -> tuple[int, str, str]:
    """Return this process, and its job and node of Ray: another cluster can have equal jobs."""
    context = ray.get_runtime_context()
    return os.getpid(), context.get_job_id(), context.get_node_id()
