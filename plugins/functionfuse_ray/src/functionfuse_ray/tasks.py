"""The code that runs on Ray's workers: one task for each node that is computed or loaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.experimental import internal_kv

from functionfuse.backends import Job, Outcome, rest_of
from functionfuse.backends import compute as compute_job
from functionfuse.errors import OptionsError
from functionfuse.run.crossing import NotBegunError, here
from functionfuse.run.job import text_of
from functionfuse.run.packing import Packed

from .examining import SHIP, keep, refusal_of, where

__all__ = ["APART", "OBJECT", "PLAIN", "FailedJobError", "Remote", "Whole"]

_OPTIONS = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory"}  # other resources are custom
_LOOK = 0.05  # seconds between two looks whether a run has ended; one takes 0.4 ms

_ONE = "calls on an object follow each other, and only a main thread can be interrupted"
_OWN = "each object has an actor of its own"
_REPLAY = "Run again after its worker died: earlier calls are replayed"
# Options of actors that objects can't have, but for these values.
_NOT_OF_OBJECTS: Mapping[str, tuple[object, str]] = {
    "max_restarts": (0, f"a restarted actor has lost its object. {_REPLAY}"),
    "max_task_retries": (0, f"a repeated call could change the object twice. {_REPLAY}"),
    "max_concurrency": (1, _ONE),
    "concurrency_groups": ({}, _ONE),
    "name": ("", _OWN),
    "get_if_exists": (False, _OWN),
    "lifetime": ("non_detached", "an actor that outlives the run is never used again"),
}

_looked: dict[bytes, float] = {}  # by run: when this process looked last; inf: it has ended


class Whole(NamedTuple):
    """A reference that is an argument itself. The function gets its value, as a task of Ray does.

    References at any depth of an argument stay references.
    """

    reference: Any


# Only Ray carries these: in a pickle, a reference would lead to nothing.
APART = (ray.ObjectRef, ActorHandle, Whole)


class FailedJobError(Exception):
    """A job failed. Ray passes this error on to submitted jobs that need the job's value.

    Ray prints its text, which is that of the error.

    Attributes:
        rest: for `outcome_of`.
    """

    def __init__(self, text: str, rest: bytes) -> None:
        super().__init__(text, rest)
        self.text = text
        self.rest = rest

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, outcome: Outcome) -> FailedJobError:
        """Return the error for an outcome with an error."""
        assert outcome.error is not None
        return cls(text_of(outcome.error), rest_of(outcome, APART))


class RetriedJobError(FailedJobError):
    """A job failed with an error after which Ray tries again."""


def _work(head: bytes, rest: Sequence[Any], target: Any = None) -> tuple[Packed, bytes, Any]:
    """Do a job; return its packed value, the rest of its outcome, and the object of a class.

    Args:
        head: the pickle of the packed job, with None for its big parts, of the errors after which
            Ray tries again, and of the run's key.
        rest: the big parts; if objects stand apart, a dictionary of them, with None for each
            `Whole`, and the values of these; then the values of the parents.
    """
    packed, retried, run = pickle.loads(head)
    if _has_ended(run):
        ended = NotBegunError("the run ended before the job began")
        raise FailedJobError.of(Outcome.of_error(0, ended))
    given = iter(rest)
    packed = [next(given) if part is None else part for part in packed]
    if type(packed[-1]) is dict:
        apart = packed[-1].items()
        packed[-1] = {key: next(given) if part is None else part for key, part in apart}
    opens = packed[2]
    if opens and type(packed[-1]) is dict:
        opens = [opens, packed[-1]]
    refusal = refusal_of(run, opens)
    if refusal is not None:
        outcome = Outcome.of_error(0, refusal)
        outcome.unsaved, outcome.worker = True, here()  # it ends the run
        raise FailedJobError.of(outcome) from None
    outcome = compute_job(packed, list(given), target, APART)
    if outcome.error is not None:
        if isinstance(outcome.error, ModuleNotFoundError):
            outcome.error.add_note(f"{where()} lacks it. {SHIP}")
        kind = RetriedJobError if isinstance(outcome.error, tuple(retried)) else FailedJobError
        raise kind.of(outcome) from None
    return outcome.value, rest_of(outcome), outcome.target


def _has_ended(run: bytes) -> bool:
    """Return whether a run has ended: its driver has put its key into Ray's key-value store."""
    if monotonic() - _looked.get(run, -_LOOK) >= _LOOK:
        keep(_looked, run, inf if internal_kv._internal_kv_exists(run) else monotonic())
    return _looked[run] == inf


@ray.remote(num_returns=2)
def compute(head: bytes, *rest: Any) -> tuple[Packed, bytes]:
    """Do a job; return its packed value, and the rest of its outcome."""
    return _work(head, rest)[:2]


@ray.remote(num_returns=1)
def finish(head: bytes, *rest: Any) -> bytes:
    """Do a job whose value no node needs; return the rest of its outcome."""
    return _work(head, rest)[1]


@ray.remote
class Object:
    """The actor of one object of a decorated class."""

    def __init__(self) -> None:
        self.target: Any = None

    @ray.method(num_returns=2)
    def compute(self, head: bytes, *rest: Any) -> tuple[Packed, bytes]:
        """Call a method; see `compute`."""
        value, answer, self.target = _work(head, rest, self.target)
        return value, answer

    def finish(self, head: bytes, *rest: Any) -> bytes:
        """Construct the object, or call a method; see `finish`."""
        _, answer, self.target = _work(head, rest, self.target)
        return answer


class Remote(NamedTuple):
    """How Ray runs a node.

    Attributes:
        tasks: for a node that makes an object, an actor class; else the tasks without and with
            value.
        retried: errors after which Ray tries again.
        options: of `ray.remote`.
    """

    tasks: Any
    retried: Sequence[type[BaseException]] = ()
    options: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any], *, constructs: bool) -> Remote:
        """Return how Ray runs a node with these options of `ray.remote`.

        Args:
            name: of the node, for the error.
            constructs: whether the node makes an object.

        Raises:
            OptionsError: Ray refuses them, or an object can't have them.
        """
        for option, (harmless, why) in _NOT_OF_OBJECTS.items() if constructs else ():
            if options.get(option) not in (None, harmless):
                raise OptionsError(
                    f"node {name!r} makes an object, which can't have the option {option!r}: {why}"
                )
        given, retried = dict(options), options.get("retry_exceptions")
        kinds = tuple(retried) if isinstance(retried, (list, tuple)) else ()
        if kinds:
            given["retry_exceptions"] = [RetriedJobError]
        try:
            if constructs:
                tasks: Any = Object.options(**given)  # type: ignore[attr-defined]
            else:
                tasks = finish.options(**given), compute.options(**given)
        except (TypeError, ValueError) as error:
            raise OptionsError(f"Ray refuses the options of node {name!r}: {error}") from error
        return cls(tasks, kinds, dict(options))

    @property
    def needs(self) -> dict[str, float]:
        """The resources that a node of the cluster must have, by Ray's names."""
        options = {name: each for name, each in self.options.items() if each is not None}
        needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
        needs |= {"memory": options.get("memory", 0), **options.get("resources", {})}
        if "accelerator_type" in options:
            needs[f"accelerator_type:{options['accelerator_type']}"] = 0.001
        return {name: amount for name, amount in needs.items() if amount}

    def needing(self, job: Job) -> Remote:
        """Return the same for a job that needs resources; the options come first.

        An object holds no CPU that it isn't told to. If it needs something else, Ray would give it
        one for its whole life.
        """
        needs = dict(job.resources)
        options: dict[str, Any] = {"num_cpus": 0} if job.constructs else {}
        for name in needs.keys() & _OPTIONS.keys():
            options[_OPTIONS[name]] = needs.pop(name)
        needs |= self.options.get("resources") or {}
        options |= {**self.options, "resources": needs}
        return Remote.of(job.name, options, constructs=job.constructs)


PLAIN, OBJECT = Remote((finish, compute)), Remote(Object)
