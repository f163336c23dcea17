"""One node's work as an object that can go to where it is done, and what comes back from there."""

from __future__ import annotations

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

POLL = 0.05  # seconds between looks at what another run is computing


@dataclass(slots=True)
class Outcome:
    """What computing a node gave.

    Attributes:
        value: the result; None if `error`, or if it is to be read from the storage.
        target: the stateful object after the call, for a class's nodes.
        seconds: how long the function ran.
        saved: what the storage told of the saved result.
        read_back: whether what follows is to be given the saved result instead of the value.
        returned: whether `value` is the result; it is None where nobody wanted it back.
        changed: the variable that was not as the run saw it, in words; "" for none.
        reused: the header of the result that another run has stored meanwhile, if so; then there is
            no value.
        error: what was raised, with the traceback's text where it comes from another process.
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
    """One computation that several runs want at once, so that one of them does it.

    Attributes:
        look: returns the header of what is stored for the node, or what has no `call`.
        call: what the stored result must have been computed by, to be the one that is wanted.
        lease: who has it computes.
    """

    look: Callable[[], Any]
    call: str
    lease: Lease

    def board(self) -> Summary | None:
        """Wait for the stored result and return its header; or return None, with the lease."""
        while (found := self._found()) is None:
            if self.lease.acquire():
                found = self._found()  # it may have been stored just before
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
    """What computes a node, and saves its result right there.

    Attributes:
        function: the callable, or the name of a method of `target`.
        prepare: what node plugins run before the node.
        target: the stateful object whose method is called.
        save: takes the result, the seconds and the variable that changed, and stores it; returns
            what the storage tells, and whether it is to be read back. None: it isn't stored.
        wanted: whether the value is wanted back.
        constructs: whether the value is a stateful object, for `target`, and the result None.
        flight: makes one of several runs compute, and the others wait for it.
        expected: what is compared before the call, and of which code; None: what is called.
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
        """Compute and save; raises what the function or the storage raises."""
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
        """Compute and save, whoever else does the same."""
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
                refuse_nodes(value)  # they can't be pickled
                raise
        wanted = self.wanted and not read_back
        returned = value if wanted else None
        told = saved, read_back, wanted
        return Outcome(returned, self.target, seconds, *told, changed=changed)

    def _changed(self) -> str:
        """Return what is not as the driver saw it. Raises CodeDiffersError."""
        called: object = self.function
        holder = getattr(called, "__self__", None)
        if isinstance(called, str):
            called = type(self.target)
        elif isinstance(holder, (WorkflowFunction, WorkflowClass)):
            called = holder.func
        found = [look(called if code is None else code) for look, code in self.expected]
        return next(filter(None, found), "")


def refuse_nodes(result: object) -> None:
    """Raise a GraphError if a result is a node, or holds one in containers at any depth."""
    node = reference_in(result)
    if node is not None:
        verb = "is" if node is result else "holds"
        raise GraphError(
            f"the result {verb} {node._located()}, which nobody runs."
            " Inside a @workflow function, call f.func(...) and not f(...); or make the node"
            " outside, and hand it over as an argument"
        ) from None


class Portable:
    """Something that crosses to another process by cloudpickle, and to another thread as it is.

    It is unpickled when it is used and not when it arrives: an executor breaks if that fails.
    """

    def __init__(self, content: Any, pickled: bytes | None = None) -> None:
        self._content = content
        self._pickled = pickled

    @property
    def content(self) -> Any:
        """What crosses; raises what unpickling raises."""
        if self._pickled is not None:
            self._content = cloudpickle.loads(self._pickled)
            self._pickled = None
        return self._content

    def __reduce__(self) -> tuple[object, ...]:
        content = self.content
        if isinstance(content, Outcome) and content.error is not None:
            content = replace(content, error=_portable_error(content.error))
        return Portable, (None, dumps(content))

    def __call__(self) -> Portable:
        """Run the job that this holds; what it raises comes back in the outcome."""
        try:
            job = self.content
            look_around()
            return Portable(job.run())
        except BaseException as error:  # noqa: BLE001  # raised again where the run is
            return Portable(Outcome(None, error=error, remote_traceback=traceback.format_exc()))


class _ErrorParts:
    """Pickles as an exception that isn't made by its `__init__`, which may take what it likes."""

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
    """Return what unpickles as `error`, or as a RuntimeError if nothing does."""
    for form in (error, _ErrorParts(error)):
        try:
            if type(cloudpickle.loads(dumps(form))) is type(error):
                return form
        except Exception:  # noqa: BLE001, S112  # in this form it can't travel
            continue
    replaced = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        replaced.add_note(note)
    return replaced
