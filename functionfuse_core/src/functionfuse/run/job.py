"""The job of one node: an object that crosses to a worker, and the outcome that comes back.

A `Job` holds the function, its arguments and a callable that saves the result. `Job.run` compares
the worker's code and variables with those of the driver, prepares the node, calls the function,
saves the result where it is computed, and returns an `Outcome`. With a `Flight`, one of several
runs that want the same result computes it, under a lease; the others wait for the stored result.
`Portable` carries jobs and outcomes to other processes.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter, sleep
from typing import Any, Protocol

import cloudpickle

from ..errors import GraphError
from ..graph.arguments import PLAIN, reference_in
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..reuse.results import Summary
from ..reuse.workers import Expected, look_around
from ..serializers.portable import dumps

__all__ = ["Flight", "Job", "Outcome", "Portable", "refuse_nodes"]

POLL = 0.05  # seconds between two looks for the result of another run


@dataclass(slots=True)
class Outcome:
    """The outcome of a node's job.

    Attributes:
        value: the result; None after an error, or if the result must be read from the storage.
        target: the stateful object after the call, for nodes of a decorated class.
        seconds: how long the function ran.
        saved: the header of the saved result, or True from a storage without headers; None if the
            result was not saved.
        read_back: whether later nodes get the result as the storage reads it, not `value`.
        returned: whether `value` is the result; if False, nobody wanted it and `value` is None.
        changed: the variable that differs from the one that the run saw, as text; "" for none.
        reused: the header of the result, if another run stored it meanwhile. Then there is no
            value.
        error: the exception; from another process, the text of its traceback comes with it.
    """

    value: Any
    target: Any = None
    seconds: float = 0.0
    saved: Any = None
    read_back: bool = False
    returned: bool = True
    error: BaseException | None = None
    remote_traceback: str = ""
    reused: Summary | None = None
    changed: str = ""


class Lease(Protocol):
    """The right to compute a node; see `functionfuse.storage.lease.Lease`."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...


@dataclass(slots=True)
class Flight:
    """One computation that several runs want at the same time; one of them does it.

    Attributes:
        look: returns the header of the node's stored result, or an object without `call`.
        call: the fingerprint of the call; a stored result with another one is not the wanted one.
        lease: the run that holds it computes.
    """

    look: Callable[[], Any]
    call: str
    lease: Lease

    def board(self) -> Summary | None:
        """Wait for the stored result and return its header; or return None, with the lease."""
        while (found := self._found()) is None:
            if self.lease.acquire():
                found = self._found()  # stored just before we got the lease
                if found is not None:
                    self.lease.release()
                return found
            sleep(POLL)
        return found

    def _found(self) -> Summary | None:
        stored = self.look()
        return stored if getattr(stored, "call", None) == self.call else None


@dataclass(slots=True)
class Job:
    """The computation of one node, which saves the result where it is computed.

    Attributes:
        function: the callable, or the name of a method of `target`.
        prepare: calls of initializers and seeds, to make before the node.
        target: the stateful object whose method is called.
        save: stores the result, given the result, the seconds and the variable that changed.
            Returns the header, and whether the result must be read back. None: store nothing.
        wanted: whether the value is needed back.
        constructs: whether the value is a stateful object, for `target`; then the result is None.
        flight: lets one of several runs compute, while the others wait for it.
        expected: pairs of a comparison to make before the call, and the code that it takes; None
            stands for the function of this job.
    """

    function: Callable[..., Any] | str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    prepare: Sequence[Callable[[], object]] = ()
    target: Any = None
    save: Callable[[object, float, str], tuple[Any, bool]] | None = None
    wanted: bool = True
    constructs: bool = False
    flight: Flight | None = None
    expected: Sequence[tuple[Expected, object]] = ()

    def run(self) -> Outcome:
        """Compute and save, or take another run's result. Raises what function or storage raise."""
        if self.flight is None:
            return self.compute()
        reused = self.flight.board()
        if reused is not None:
            return Outcome(None, self.target, reused=reused)
        try:
            return self.compute()
        finally:
            self.flight.lease.release()

    def compute(self) -> Outcome:
        """Compute and save, whether or not others do the same."""
        changed = self._changed() if self.expected else ""
        for prepare in self.prepare:
            prepare()
        function = self.function
        call = getattr(self.target, function) if isinstance(function, str) else function
        started = perf_counter()
        value = call(*self.args, **self.kwargs)
        seconds = perf_counter() - started
        if self.constructs:
            return Outcome(None, value, seconds, changed=changed)
        if self.save is None:
            if type(value) not in PLAIN:
                refuse_nodes(value)
            saved, read_back = None, False
        else:
            try:
                saved, read_back = self.save(value, seconds, changed)
            except Exception:
                refuse_nodes(value)  # nodes can't be pickled: that may be the cause
                raise
        wanted = self.wanted and not read_back
        returned = value if wanted else None
        storing = saved, read_back, wanted
        return Outcome(returned, self.target, seconds, *storing, changed=changed)

    def _changed(self) -> str:
        """Return the variable that differs from the driver's, as text. Raises CodeDiffersError."""
        called: object = self.function
        holder = getattr(called, "__self__", None)
        if isinstance(called, str):
            called = type(self.target)
        elif isinstance(holder, (WorkflowFunction, WorkflowClass)):
            called = holder.func
        found = [look(called if code is None else code) for look, code in self.expected]
        return next(filter(None, found), "")


def refuse_nodes(result: object) -> None:
    """Raise GraphError if a result is a node, or holds one at any depth of its containers."""
    node = reference_in(result)
    if node is not None:
        verb = "is" if node is result else "holds"
        raise GraphError(
            f"the result {verb} {node._located()}, which nobody runs."
            " Inside a @workflow function, call f.func(...) and not f(...); or make the node"
            " outside, and hand it over as an argument"
        ) from None


class Portable:
    """A job or an outcome that crosses to another process by cloudpickle, or to a thread as it is.

    It is unpickled on first use, not on arrival: an executor breaks if unpickling fails there.

    No two jobs have the same pickle: an executor that looks for equal calls would run only one.
    """

    def __init__(self, content: Any, pickled: bytes | None = None, _: bytes = b"") -> None:
        self._content = content
        self._pickled = pickled

    @property
    def content(self) -> Any:
        """The job or outcome. Raises what unpickling raises."""
        if self._pickled is not None:
            self._content = cloudpickle.loads(self._pickled)
            self._pickled = None
        return self._content

    def __reduce__(self) -> tuple[object, ...]:
        content = self.content
        if isinstance(content, Outcome) and content.error is not None:
            content = replace(content, error=_portable_error(content.error))
        return Portable, (None, dumps(content), os.urandom(8))

    def __call__(self) -> Portable:
        """Run the job inside, and return its outcome; an exception comes back in the outcome."""
        try:
            job = self.content
            look_around()
            return Portable(job.run())
        except BaseException as error:  # noqa: BLE001  # raised again in the process of the run
            return Portable(Outcome(None, error=error, remote_traceback=traceback.format_exc()))


class _ErrorParts:
    """Pickles an exception without its `__init__`, whose parameters aren't known."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return _error_of, (type(self.error), self.error.args, vars(self.error))


def _error_of(
    kind: type[BaseException], args: tuple[object, ...], state: dict[str, object]
) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


def _portable_error(error: BaseException) -> Any:
    """Return an object that unpickles as `error`, or as a RuntimeError if none does."""
    for form in (error, _ErrorParts(error)):
        try:
            if type(cloudpickle.loads(dumps(form))) is type(error):
                return form
        except Exception:  # noqa: BLE001, S112  # this form can't be pickled
            continue
    replaced = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        replaced.add_note(note)
    return replaced
