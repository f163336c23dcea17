"""`OnRay`: runs the jobs of one run on Ray. Values stay with the workers."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from math import inf
from time import monotonic
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.experimental import internal_kv

from functionfuse.backends import Job, Outcome, Packer, outcome_of, unpack
from functionfuse.errors import WorkerDiedError
from functionfuse.run.crossing import NotBegunError
from functionfuse.serializers.portable import dumps

from .check import Check
from .tasks import APART, OBJECT, PLAIN, FailedJobError, Remote, Whole

__all__ = ["Handed", "OnRay"]

logger = logging.getLogger(__name__)

_BIG = 64 << 10  # bytes; bigger parts that several jobs share go into Ray's object store
_LOOK = 0.05  # seconds to collect answers; waiting for each alone costs more than a small node
_AT_ONCE = 4096  # wait for this many of the oldest first: each takes one or two microseconds
_SHARE = 16  # go on when one in 16 of them has come
_SOON = 0.2  # seconds; if no task ends in these, none is about to end
_GRACE = 5.0  # seconds for cancelled tasks to end
_PATIENT = 5.0  # seconds between two looks whether jobs wait for resources that no node has

_CANCELLED = (RayError, WorkerDiedError, KeyboardInterrupt, NotBegunError)
_DIED = (WorkerCrashedError, RayActorError, OutOfMemoryError, NodeDiedError)


class OnRay:
    """Each job is a task of Ray, or a call of an actor; see `functionfuse.backends.Backend`.

    Args:
        limit: how many jobs may be submitted at once; 0: any number.
        start: starts Ray, or sees that it is up; called before Ray is used.
    """

    name = "Ray"
    remote = True
    keeps = True

    def __init__(self, limit: int = 0, start: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self._start = start
        self._run = b"functionfuse-" + os.urandom(16)
        self._check = Check(self._run)
        self._packer = Packer(APART)
        self._handed = Handed()
        self._shared: dict[int, tuple[Any, Any]] = {}  # by id of a big part: it, its reference
        self._names: dict[int, tuple[str, Remote | None]] = {}  # None: a call of an actor
        self._lacking: set[str] = set()  # needs that were warned of
        self._look_at = monotonic() + _PATIENT
        self._needing: dict[tuple[object, ...], tuple[Remote, Remote]] = {}

    @property
    def resources(self) -> dict[str, float]:
        """The most that one node of the cluster has of each resource."""
        self._have_ray()
        found: dict[str, float] = {}
        for node in _nodes():
            for name, amount in node.items():
                known = {"CPU": "cpu", "GPU": "gpu"}.get(name, name)
                found[known] = max(amount, found.get(known, 0))
        found.pop("object_store_memory", None)  # Ray gives it to no task
        return dict(sorted(found.items()))

    def _have_ray(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            start()

    def begin(self, storage: Any, workflow_name: str, jobs: Sequence[Job]) -> None:
        """Start Ray, and check the cluster; see `Check.begin`."""
        self._have_ray()
        self._check.begin(storage, workflow_name, jobs, self._packer, self._remote_of)

    def end(self) -> None:
        """Remove what the check has left."""
        self._check.end()

    def submit(self, job: Job) -> Any:
        """Submit a job; return the reference of its packed value, or the actor that it makes.

        None if nobody needs the value.
        """
        if self._start is not None:
            self._have_ray()
        remote = self._remote_of(job)
        head, parts = self._parts(job, remote.retried)
        actor = job.target
        if job.constructs:
            actor = remote.tasks.remote()
        wanted = job.wanted and not job.constructs
        tasks = remote.tasks if actor is None else (actor.finish, actor.compute)
        task = tasks[wanted]
        given = task.remote(head, *parts, *job.values)
        value, answer = given if wanted else (None, given)
        self._names[job.key] = job.name, remote if job.target is None else None
        self._handed.add(job.key, value, answer, actor)
        return actor if job.constructs else value

    def wait(self, timeout: float | None) -> Sequence[Outcome]:
        """Wait for answers; return the outcomes. With a timeout of 0, look every 50 ms at most."""
        until = inf if timeout is None else monotonic() + timeout
        while True:
            left = max(1e-3, min(until, self._look_at) - monotonic())
            found = self._handed.next(0 if timeout == 0 else left)
            if monotonic() >= self._look_at:
                self._look_at = monotonic() + _PATIENT
                self._warn()
                self._check.renew()
            if found or not self._handed or monotonic() >= until:
                return [self._outcome(key, answer) for key, answer in found]

    def cancel(self) -> Sequence[Outcome]:
        """Cancel the tasks, kill the actors that have a call; wait for the end, for seconds."""
        if not ray.is_initialized():
            return []
        internal_kv._internal_kv_put(self._run, b"ended")  # so that no worker begins a job
        self._handed.cancel()
        internal_kv._internal_kv_del(self._run)
        outcomes = [self._outcome(key, answer) for key, answer in self._handed.next(0, every=True)]
        return [each for each in outcomes if not isinstance(each.error, _CANCELLED)]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        """Return the values of references."""
        return [unpack(packed) for packed in ray.get(list(handles))]

    def _warn(self) -> None:
        """Warn of jobs that wait for resources that no node of the cluster has, once for each."""
        nodes, seen = _nodes(), set[int]()
        for name, remote in self._names.values():
            if remote is None or id(remote) in seen:
                continue
            seen.add(id(remote))
            needs = remote.needs
            if any(all(each.get(key, 0) >= needs[key] for key in needs) for each in nodes):
                continue
            most = {key: max((each.get(key, 0) for each in nodes), default=0) for key in needs}
            rare = [key for key in sorted(needs) if most[key] < needs[key]] or sorted(needs)
            text = ", ".join(f"{key}={needs[key]:g}" for key in rare)
            if text not in self._lacking:
                self._lacking.add(text)
                logger.warning(
                    "node %r waits for a node of the cluster with %s: there is none. The run goes"
                    " on when one comes",
                    *(name, text),
                )

    def _remote_of(self, job: Job) -> Remote:
        """Return how Ray runs a job; those with the same needs share it."""
        remote: Remote = job.options or (OBJECT if job.constructs else PLAIN)
        if job.resources and job.target is None:
            key = id(remote), *job.resources.items()
            if key not in self._needing:  # making options costs half as much as a submission
                self._needing[key] = remote, remote.needing(job)
            _, remote = self._needing[key]
        return remote

    def _parts(self, job: Job, retried: Sequence[type[BaseException]]) -> tuple[bytes, list[Any]]:
        """Return the pickle of a job, and what goes beside it.

        These are references to its big parts, which jobs share, and what stands apart.
        """
        if any(isinstance(each, ray.ObjectRef) for each in (*job.args, *job.kwargs.values())):
            job.args = list(map(_whole, job.args))
            job.kwargs = {key: _whole(each) for key, each in job.kwargs.items()}
        packed, big = self._packer.pack(job), list[Any]()
        apart = packed.pop() if type(packed[-1]) is dict else None
        for index, part in enumerate(packed[1:], 1):
            view = memoryview(part)
            if view.nbytes > _BIG:
                _, reference = self._shared.get(id(view.obj), (None, None))
                if reference is None:
                    reference = ray.put(part)
                    self._shared[id(view.obj)] = view.obj, reference
                big.append(reference)
                packed[index] = None
        if apart:
            packed.append(None)
            whole = [each.reference for each in apart.values() if type(each) is Whole]
            big.append({key: None if type(each) is Whole else each for key, each in apart.items()})
            big += whole
        # Classes of errors may be in a script, which workers don't import.
        return (dumps if retried else pickle.dumps)((packed, retried, self._run)), big

    def _outcome(self, key: int, answer: Any) -> Outcome:
        value, (name, _) = self._handed.pop(key), self._names.pop(key)
        if not isinstance(answer, Exception):
            return outcome_of(key, answer)
        if value is not None:
            with suppress(Exception):
                ray.get(value)  # or Ray prints that nobody retrieved this error
        cause = getattr(answer, "cause", None) if isinstance(answer, RayTaskError) else None
        if isinstance(cause, FailedJobError):
            outcome = outcome_of(key, cause.rest)
            if (outcome.unsaved or key < 0) and isinstance(outcome.error, ConnectionError):
                self._check.lose()
            return outcome
        if not isinstance(answer, _DIED):
            return Outcome.of_error(key, answer)
        died = WorkerDiedError(
            f"the worker of node {name!r} died: {str(answer).rstrip('.')}. Stored results stay"
        )
        died.__cause__ = answer
        return Outcome.of_error(key, died)


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node of the cluster that is up."""
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _whole(argument: Any) -> Any:
    return Whole(argument) if isinstance(argument, ray.ObjectRef) else argument


class Handed:
    """References to the values and answers of submitted tasks, by key, in order of submission."""

    def __init__(self) -> None:
        self._values: dict[int, Any] = {}
        self._answers: dict[int, Any] = {}
        self._actors: dict[int, Any] = {}  # of the calls of actors
        self._looked = monotonic()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, key: int, value: Any, answer: Any, actor: Any = None) -> None:
        """Add a submitted task, or a call of an actor: the references of its value and answer."""
        self._values[key] = value
        self._answers[key] = answer
        if actor is not None:
            self._actors[key] = actor

    def pop(self, key: int) -> Any:
        """Remove an answered task; return the reference of its value."""
        del self._answers[key]
        self._actors.pop(key, None)
        return self._values.pop(key)

    def next(self, timeout: float | None = None, *, every: bool = False) -> list[tuple[int, Any]]:
        """Wait for answers; return their keys, each with the answer or the error.

        Args:
            timeout: in seconds. 0: don't wait, and return nothing if called too soon again.
            every: look at all tasks, and not at the oldest ones first.
        """
        if timeout == 0:
            soon = not every and monotonic() - self._looked < _LOOK
            return [] if soon else self._look(1, 0, every=every)
        until = None if timeout is None else monotonic() + timeout
        while self._answers:
            few = min(len(self), _AT_ONCE)
            left = 1.0 if until is None else max(0.0, min(1.0, until - monotonic()))
            found = self._look(max(1, few // _SHARE), min(_LOOK, left))
            found = found or self._look(1, left, every=True)
            if found or (until is not None and monotonic() >= until):
                return found
        return []

    def _look(self, enough: int, seconds: float, *, every: bool = False) -> list[tuple[int, Any]]:
        keys = {
            answer: key
            for key, answer in islice(self._answers.items(), None if every else _AT_ONCE)
        }
        if not keys:
            return []
        waited = list(keys)
        ready, _ = ray.wait(waited, num_returns=enough, timeout=seconds, fetch_local=False)
        if len(ready) == enough < len(waited):  # more may have come by now
            ready, _ = ray.wait(waited, num_returns=len(waited), timeout=0, fetch_local=False)
        self._looked = monotonic()
        return [(keys[each], answer) for each, answer in zip(ready, _fetched(ready), strict=True)]

    def cancel(self) -> None:
        """Cancel all tasks, and wait a few seconds until they have ended.

        Actors that have a call are killed, others stay. A second round kills the workers of the
        tasks that have not ended.

        If a task ends just when it is cancelled, Ray aborts this process ("Tried to complete task
        that was not pending"). So tasks that end soon are waited for. The newest are cancelled
        first: these wait, most often, and can't end.
        """
        for actor in self._actors.values():
            ray.kill(actor)
        answers, until = list(self._answers.values()), monotonic() + _GRACE
        while (running := _pending(answers)) and monotonic() < until:
            if not _ended(running, _SOON):
                break
        for force in (False, True):
            running = _pending(answers)
            for key, answer in reversed(self._answers.items()):
                if key not in self._actors and answer in running:
                    ray.cancel(answer, force=force)
            if not running or len(_ended(running, _GRACE)) == len(running):
                break


def _ended(running: Collection[Any], seconds: float) -> list[Any]:
    """Wait until all answers have come, for some seconds; return those that have."""
    ended, _ = ray.wait(list(running), num_returns=len(running), timeout=seconds, fetch_local=False)
    return list(ended)


def _fetched(answers: Sequence[Any]) -> list[Any]:
    """Return the answer of each reference, or its error."""
    try:
        return list(ray.get(list(answers)))
    except Exception as error:  # noqa: BLE001  # the error is the answer
        if len(answers) == 1:
            return [error]
    half = len(answers) // 2
    return _fetched(answers[:half]) + _fetched(answers[half:])


def _pending(answers: Sequence[Any]) -> set[Any]:
    """Return the answers that have not come."""
    if not answers:
        return set()
    _, missing = ray.wait(list(answers), num_returns=len(answers), timeout=0, fetch_local=False)
    return set(missing)
