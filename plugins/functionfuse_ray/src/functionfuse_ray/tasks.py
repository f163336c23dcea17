"""What runs on Ray's workers: one task for each node that is computed, or loaded."""

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
    """A node failed; Ray hands it on to the nodes that were submitted to follow.

    Attributes:
        place: the node's place in the graph.
        outcome: what was raised, in a form that crosses to other processes.
    """

    def __init__(self, index: int, outcome: Portable) -> None:
        super().__init__(index, outcome)
        self.index = index
        self.outcome = outcome


class RetriedNodeError(FailedNodeError):
    """A node failed in a way after which Ray is to try again."""


_NOTHING: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """What a worker tells the driver of a node; small, whatever the result is.

    Attributes:
        seconds: how long the function ran.
        saved: whether the result was stored.
        digest: of the result, in hexadecimal digits; "" where that isn't known.
        size: of what was stored, in bytes.
        value, key, own, by_value, fingerprint: of what was stored, as its header has them, for the
            nodes that are made from it; of the fingerprint, the versions of packages.
        changed: the variable that was not as the driver saw it, in words; "" for none.
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
    """Return a function or a storage; once per process for the same pickle."""
    return pickle.loads(pickled)


def _work(parcel: bytes, values: Sequence[Any], target: Any = None) -> tuple[Packed, bytes, Any]:
    """Do a task; return the packed value, what to tell, and the object of a class."""
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
    except BaseException as error:  # noqa: BLE001  # raised again where the run is
        outcome = Outcome(None, error=error, remote_traceback=traceback.format_exc())
        retried = task.retried if task is not None else ()
        kind = RetriedNodeError if isinstance(error, tuple(retried)) else FailedNodeError
        raise kind(index, Portable(outcome)) from None
    saved = outcome.saved
    told = Answer(outcome.seconds, saved is not None, digest, getattr(saved, "size", 0))
    if getattr(saved, "value", "") or getattr(saved, "key", ""):
        packages = {"packages": saved.fingerprint.get("packages", {})}
        told = Answer(*told[:4], saved.value, saved.key, saved.own, saved.by_value, packages)
    told = told._replace(changed=outcome.changed)
    return packed, pickle.dumps(tuple(told)), outcome.target


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
    """Return the digest of a result that is not stored, or what no other result has."""
    try:
        return digest_of(outcome.value).hex()
    except FingerprintError:
        return ""


@ray.remote(num_returns=2)
def compute(parcel: bytes, *values: Any) -> tuple[Packed, bytes]:
    """Compute and save a node; return its packed value, and what to tell of it."""
    return _work(parcel, values)[:2]


@ray.remote(num_returns=1)
def finish(parcel: bytes, *values: Any) -> bytes:
    """Compute and save a node whose value nothing needs; return what to tell of it."""
    return _work(parcel, values)[1]


@ray.remote(num_returns=2)
def load(
    index: int, storage: bytes, names: tuple[str, str], digest: str, lent: bytes
) -> tuple[Packed, bytes | Portable]:
    """Load a stored result; return it packed, and the error where it is of no use.

    Args:
        names: of the workflow and of the node.
        digest: of the value that the plan saw: what others have put in its place is of no use.
        lent: the pickle of what the driver's script has, of the classes that are in the value.
    """
    try:
        if lent:
            lend(pickle.loads(lent))
        return pack(StoredResults(_opened(storage), names[0], names[1:]).load(0, digest)), b""
    except OF_NO_USE as error:
        return b"", Portable(Outcome(None, error=error, remote_traceback=traceback.format_exc()))
    except Exception as error:  # noqa: BLE001  # raised again where the run is
        outcome = Outcome(None, error=error, remote_traceback=traceback.format_exc())
        raise FailedNodeError(index, Portable(outcome)) from None


@ray.remote
class Object:
    """An object of a decorated class. After a call has failed, no other is made."""

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
            packed, told, self.target = _work(parcel, values, self.target)
        except FailedNodeError as error:
            self.failed = error
            raise
        return packed, told


def remotes_of(node: Node, options: dict[str, Any]) -> Any:
    """Return what submits a node with options: a class's actor, or tasks without and with value."""
    try:
        if isinstance(node, ConstructorCall):
            return Object.options(**options)  # type: ignore[attr-defined]
        return finish.options(**options), compute.options(**options)
    except (TypeError, ValueError) as error:
        raise OptionsError(f"Ray refuses the options of {node!r}: {error}") from error
