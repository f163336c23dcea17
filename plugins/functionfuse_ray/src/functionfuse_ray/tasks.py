"""The code that runs on Ray's workers: one task for each node that is computed or loaded."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import ray

from functionfuse.errors import FingerprintError, OptionsError
from functionfuse.graph.nodes import ConstructorCall, Node
from functionfuse.reuse.values import digest_of
from functionfuse.run.job import Job, Outcome, Portable
from functionfuse.run.stored import OF_NO_USE, StoredResults
from functionfuse.serializers.script import lend

from .parcel import Packed, Parcel, Task, pack, unpack, unpack_task

__all__ = ["Answer", "FailedNodeError", "Object", "RetriedNodeError", "compute", "finish", "load"]


class FailedNodeError(Exception):
    """A node failed. Ray passes this error on to submitted nodes that need the node's value.

    Attributes:
        index: the node's index in the graph; -1 if the task could not be unpickled.
        outcome: holds the error, in a form that crosses to other processes.
    """

    def __init__(self, index: int, outcome: Portable) -> None:
        super().__init__(index, outcome)
        self.index = index
        self.outcome = outcome


class RetriedNodeError(FailedNodeError):
    """A node failed with an error after which Ray tries again."""


_NOTHING: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """A worker's answer about a node; small, however big the result is.

    Attributes:
        seconds: how long the function ran.
        saved: whether the result was stored.
        digest: of the result, in hexadecimal digits; "" if unknown.
        size: of the stored result, in bytes.
        value, key, own, by_value, fingerprint: fields of the stored header, for the nodes that use
            the result; of the fingerprint, only the versions of packages.
        changed: the variable that differs from the one that the driver saw, as text; "" for none.
    """

    seconds: float
    saved: bool
    digest: str
    size: int
    value: str = ""
    key: str = ""
    own: tuple[str, ...] = ()
    by_value: bool = False
    fingerprint: Mapping[str, Any] = _NOTHING
    changed: str = ""


@lru_cache(100)
def _opened(pickled: bytes) -> Any:
    """Return a function or a storage; the same pickle is unpickled once per process."""
    return pickle.loads(pickled)


def _work(parcel: bytes, values: Sequence[Any], target: Any = None) -> tuple[Packed, bytes, Any]:
    """Do a task; return the packed value, the pickled answer, and the object of a class."""
    index = -1
    task = None
    try:
        pickled, function, storage, count = Parcel(*pickle.loads(parcel))
        task = unpack_task(pickled, values[:count])
        index, rest = task.node_index, list(values[count:])
        if function is None:
            function = rest.pop(0)
        if storage is None:
            storage = rest.pop(0)
        outcome = _job(task, function, storage, rest, target).compute()
        digest = _digest(outcome) if task.digest else getattr(outcome.saved, "digest", "")
        value = outcome.value
        if outcome.read_back and task.wanted and task.save is not None:
            workflow, name, _ = task.save
            value = StoredResults(_opened(storage), workflow, (name,)).load(0)
        packed = pack(value) if task.wanted else b""
    except KeyboardInterrupt:
        raise  # the task is cancelled
    except BaseException as error:  # noqa: BLE001  # raised again in the driver
        outcome = Outcome(None, error=error, remote_traceback=traceback.format_exc())
        retried = task.retried if task is not None else ()
        kind = RetriedNodeError if isinstance(error, tuple(retried)) else FailedNodeError
        raise kind(index, Portable(outcome)) from None
    saved = outcome.saved
    answer = Answer(outcome.seconds, saved is not None, digest, getattr(saved, "size", 0))
    if getattr(saved, "value", "") or getattr(saved, "key", ""):
        packages = {"packages": saved.fingerprint.get("packages", {})}
        answer = Answer(*answer[:4], saved.value, saved.key, saved.own, saved.by_value, packages)
    answer = answer._replace(changed=outcome.changed)
    return packed, pickle.dumps(tuple(answer)), outcome.target


def _job(task: Task, function: bytes, storage: bytes, packed: list[Packed], target: Any) -> Job:
    args, kwargs = task.resolved([unpack(value) for value in packed])
    job = Job(task.method or _opened(function), args, kwargs, task.prepare, target)
    job.wanted = True
    job.constructs = task.constructs
    job.expected = task.expected
    if task.save is not None:
        workflow, name, about = task.save
        job.save = StoredResults(_opened(storage), workflow, (name,)).saver(0, about)
    return job


def _digest(outcome: Outcome) -> str:
    """Return the digest of a result that is not stored; "" if it has none."""
    try:
        return digest_of(outcome.value).hex()
    except FingerprintError:
        return ""


@ray.remote(num_returns=2)
def compute(parcel: bytes, *values: Any) -> tuple[Packed, bytes]:
    """Compute and save a node; return its packed value and the pickled answer."""
    return _work(parcel, values)[:2]


@ray.remote(num_returns=1)
def finish(parcel: bytes, *values: Any) -> bytes:
    """Compute and save a node whose value no node needs; return the pickled answer."""
    return _work(parcel, values)[1]


@ray.remote(num_returns=2)
def load(
    index: int, storage: bytes, names: tuple[str, str], digest: str, lent: bytes
) -> tuple[Packed, bytes | Portable]:
    """Load a stored result; return it packed, with b"" or the error if it can't be used.

    Args:
        names: of the workflow and of the node.
        digest: of the value that the plan saw; a value with another digest can't be used.
        lent: the pickled definitions of the driver's script that unpickling the value needs; b"" if
            it needs none.
    """
    try:
        if lent:
            lend(pickle.loads(lent))
        return pack(StoredResults(_opened(storage), names[0], names[1:]).load(0, digest)), b""
    except OF_NO_USE as error:
        return b"", Portable(Outcome(None, error=error, remote_traceback=traceback.format_exc()))
    except Exception as error:  # noqa: BLE001  # raised again in the driver
        outcome = Outcome(None, error=error, remote_traceback=traceback.format_exc())
        raise FailedNodeError(index, Portable(outcome)) from None


@ray.remote
class Object:
    """The actor of one object of a decorated class. After a call fails, it makes no other."""

    def __init__(self) -> None:
        self.target: Any = None
        self.failed: FailedNodeError | None = None

    @ray.method(num_returns=2)
    def compute(self, parcel: bytes, *values: Any) -> tuple[Packed, bytes]:
        """Construct, or call a method; see `compute`."""
        return self._call(parcel, values)

    def finish(self, parcel: bytes, *values: Any) -> bytes:
        """Construct, or call a method; see `finish`."""
        return self._call(parcel, values)[1]

    def _call(self, parcel: bytes, values: Sequence[Any]) -> tuple[Packed, bytes]:
        if self.failed is not None:
            raise self.failed
        try:
            packed, answer, self.target = _work(parcel, values, self.target)
        except FailedNodeError as error:
            self.failed = error
            raise
        return packed, answer


def remotes_of(node: Node, options: dict[str, Any]) -> Any:
    """Return an actor class for a constructor, else the tasks without and with value.

    They submit the node with these options of `ray.remote`.
    """
    try:
        if isinstance(node, ConstructorCall):
            return Object.options(**options)  # type: ignore[attr-defined]
        return finish.options(**options), compute.options(**options)
    except (TypeError, ValueError) as error:
        raise OptionsError(f"Ray refuses the options of {node!r}: {error}") from error
