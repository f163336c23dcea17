"""The job of one node, which a backend runs once, and the outcome that the scheduler takes over.

`Job.run` compares the process's code and variables with those of the driver, prepares the node,
calls the function, and saves the result where it was computed. With a `Flight`, one of several runs
that want the same result computes it, under a lease; the others wait for the stored result. A job
with a `Load` reads a stored result instead. `crossing` carries jobs to other processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter, sleep, time
from types import EllipsisType, MappingProxyType
from typing import Any, NamedTuple

from ..errors import FingerprintError
from ..graph.arguments import PLAIN, refuse_nodes
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..graph.nodes import Node
from ..reuse.difference import changed_during_run
from ..reuse.results import Summary
from ..reuse.values import Writer
from ..reuse.workers import Expected
from ..serializers.content import Source, refuse_changed
from ..serializers.script import lend
from .calling import in_time, runs_nodes
from .resultstore import OF_NO_USE, Lease, ResultStore

__all__ = ["Flight", "Job", "Load", "Outcome", "Save", "text_of"]

POLL = 0.05  # seconds between two looks for the result of another run


class Outcome:
    """The outcome of a job.

    Attributes:
        key: the job's key.
        value: the result; None if there is none, as after an error.
        target: the object of a decorated class after the call.
        begun: when the function began, in seconds since 1970; 0 if it didn't.
        seconds: how long the function ran.
        worker: host, process and thread in which the job ran, as text; "" for the run's own.
        saved: the header of the saved result, or True from a storage without headers; None if the
            result was not saved.
        returned: whether `value` is the result; if False, nobody wanted it, or later nodes get the
            result as the storage reads it.
        digest: of a result that is not saved; b"" if nobody asked for it.
        files: those in such a result.
        changed: the variable that differs from the one that the run saw, as text; "" for none.
        reused: the header of the result, if another run stored it meanwhile. Then there is no
            value.
        error: the exception that ended the job.
        again: whether it is an error of the function after which the node may be tried again.
        unsaved: whether it is an error of the storage, which can't be written.
        traceback: its traceback as text, if it is of another process.
    """

    # Most outcomes differ from these in few, so `__init__` sets few.
    target: Any = None
    begun: float = 0.0
    seconds: float = 0.0
    worker: str = ""
    saved: Any = None
    returned: bool = True
    digest: bytes = b""
    files: Sequence[Source] = ()
    changed: str = ""
    reused: Summary | None = None
    error: BaseException | None = None
    again: bool = False
    unsaved: bool = False
    traceback: str = ""

    def __init__(self, key: int, value: Any = None) -> None:
        self.key = key
        self.value = value
        # Each outcome is asked for these, and attributes of the object itself are found faster.
        self.error = self.reused = self.saved = None
        self.returned = True

    @classmethod
    def of_error(cls, key: int, error: BaseException) -> Outcome:
        """Return the outcome of a job that an exception ended."""
        outcome = cls(key)
        outcome.error = error
        return outcome


class Save(NamedTuple):
    """How a job's result is stored, and the record of where it comes from.

    Attributes:
        storage, workflow, task: where.
        run: the id of the run.
        function: the full name of the function.
        fingerprint, describe, replaces: see `Storage.save`; None, None and ... from a plan without
            headers.
    """

    storage: ResultStore
    workflow: str
    task: str
    run: str
    function: str
    fingerprint: Mapping[str, object] | None = None
    describe: Callable[..., Any] | None = None
    replaces: EllipsisType | None = ...


class Load(NamedTuple):
    """A stored result to read.

    Attributes:
        storage, workflow, task: where.
        digest, call: of the value that the plan saw; see `Storage.read_unchanged`.
        lent: the definitions of the driver's script that unpickling the value needs.
    """

    storage: ResultStore
    workflow: str
    task: str
    digest: str
    call: str
    lent: Mapping[tuple[str, str], Any]

    def value(self) -> Any:
        """Return the value. Raises what reading raises."""
        if self.lent:
            lend(self.lent)
        return self.storage.read_unchanged(self.workflow, self.task, self.digest, self.call)


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


class Job:
    """The computation of one node, or the reading of its stored result.

    Attributes:
        key: the node's index in the graph; `~index` to read its stored result.
        name: the node's name.
        function: the callable, or the name of a method of `target`.
        args, kwargs: the arguments. If the backend keeps values, the nodes in `needs` stand in them
            for their results.
        needs: nodes whose results the job takes from `values`.
        values: for each of `needs`, the backend's handle of its result.
        prepare: calls of initializers and seeds, to make before the node.
        target: the object whose method is called; if the backend keeps values, what `submit`
            returned for the object's constructor.
        constructs: whether the value is an object, for later calls; then the result is None.
        save: how to store the result; None: it is not stored.
        load: what to read instead of calling a function.
        wanted: whether the value is needed afterwards.
        keeps: whether the value stays with the backend, so that a value to be read back is read in
            the job.
        digest: whether the digest of a result that isn't saved is needed.
        flight: lets one of several runs compute, while the others wait for it.
        expected: pairs of a comparison to make before the call, and the code that it takes; None
            stands for the function of this job.
        files: those that must not change while the node runs: see `refuse_changed`.
        retry_on: classes of errors after which the node may be tried again.
        timeout: seconds that the function may take; None: any time.
        resources: amounts of resources that the node needs while it runs, by name.
        options: what the workflow's `options` has for the node.
        begun: as in `Outcome`.
    """

    # Most jobs differ from these in few, so `__init__` sets few.
    needs: Sequence[Node] = ()
    values: Sequence[Any] = ()
    prepare: Sequence[Callable[[], object]] = ()
    target: Any = None
    constructs: bool = False
    save: Save | None = None
    load: Load | None = None
    wanted: bool = True
    keeps: bool = False
    digest: bool = False
    flight: Flight | None = None
    expected: Sequence[tuple[Expected, object]] = ()
    files: Sequence[tuple[str, Source]] = ()
    retry_on: tuple[type[Exception], ...] = ()
    timeout: float | None = None
    resources: Mapping[str, float] = MappingProxyType({})
    options: Any = None
    begun: float = 0.0

    def __init__(
        self,
        key: int,
        name: str,
        function: Callable[..., Any] | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.key = key
        self.name = name
        self.function = function
        self.args = args
        self.kwargs = kwargs
        # Each job is asked for these, and attributes of the object itself are found faster.
        self.load = self.flight = self.timeout = self.save = None
        self.expected = self.prepare = ()

    def run(self) -> Outcome:
        """Compute and save, or read a stored result, or take another run's. Never raises."""
        try:
            if self.load is not None:
                return Outcome(self.key, self.load.value())
            if self.flight is None:
                return self._computed()
            reused = self.flight.board()
            if reused is not None:
                outcome = Outcome(self.key)
                outcome.target, outcome.reused = self.target, reused
                return outcome
            try:
                return self._computed()
            finally:
                self.flight.lease.release()
        except BaseException as error:  # noqa: BLE001  # the scheduler raises it
            return self._failed(error)

    @runs_nodes
    def _computed(self) -> Outcome:
        """Compute and save, whether or not others do the same."""
        changed = self.compare() if self.expected else ""
        if self.files:
            refuse_changed(self.files)
        for prepare in self.prepare:
            prepare()
        function = self.function
        call = getattr(self.target, function) if isinstance(function, str) else function
        self.begun, started = time(), perf_counter()
        try:
            running = self  # by this name, `current_node` finds the job
            if self.timeout is None:
                value = call(*self.args, **self.kwargs)
            else:
                value = in_time(self.timeout, call, self.args, self.kwargs)
            del running
            outcome = Outcome(self.key, value)
            outcome.seconds = perf_counter() - started
            outcome.begun = self.begun
        except self.retry_on as error:
            outcome = self._failed(error)
            outcome.again = True
            return outcome
        if self.files:
            refuse_changed(self.files)
        outcome.target, outcome.changed = self.target, changed
        if self.constructs:
            outcome.value, outcome.target = None, value
        elif self.save is not None:
            try:
                self._store(self.save, outcome)
            except OSError as error:
                outcome = self._failed(error)
                outcome.unsaved = True
                return outcome
        else:
            if type(value) not in PLAIN:
                refuse_nodes(value)
            if self.digest:
                outcome.digest, outcome.files = _digest(value)
        if not self.wanted:
            outcome.value, outcome.returned = None, False
        return outcome

    def _failed(self, error: BaseException) -> Outcome:
        outcome = Outcome.of_error(self.key, error)
        if self.begun:
            outcome.begun, outcome.seconds = self.begun, max(0.0, time() - self.begun)
        return outcome

    def _store(self, save: Save, outcome: Outcome) -> None:
        """Store the result, and replace it by what the storage reads if later nodes get that."""
        storage, fingerprint = save.storage, save.fingerprint
        if outcome.changed and fingerprint is not None:
            fingerprint = {"why not": changed_during_run(outcome.changed)}
        # A storage whose `save` doesn't take `replaces` reads the header itself.
        more: dict[str, Any] = {} if save.replaces is ... else {"replaces": save.replaces}
        if save.run:
            more["run"] = save.run
        try:
            saved = outcome.saved = storage.save(
                save.workflow,
                save.task,
                outcome.value,
                function=save.function,
                seconds=outcome.seconds,
                fingerprint=fingerprint,
                describe=save.describe,
                **more,
            )
        except Exception:
            refuse_nodes(outcome.value)  # nodes can't be pickled: that may be the cause
            raise
        if storage.reads_back(saved):
            # Later nodes get what the storage reads: here if values stay, else when they need it.
            outcome.value, outcome.returned = None, False
            if self.keeps and self.wanted:
                wanted = getattr(saved, "digest", ""), getattr(saved, "call", "")
                with suppress(*OF_NO_USE):  # another run has replaced it: it is loaded, or computed
                    outcome.value = storage.read_unchanged(save.workflow, save.task, *wanted)
                    outcome.returned = True

    def compare(self) -> str:
        """Return the variable that differs from the driver's, as text. Raises CodeDiffersError."""
        called: object = self.function
        holder = getattr(called, "__self__", None)
        if isinstance(called, str):
            called = type(self.target)
        elif isinstance(holder, (WorkflowFunction, WorkflowClass)):
            called = holder.func
        found = [look(called if code is None else code) for look, code in self.expected]
        return next(filter(None, found), "")


def text_of(error: BaseException) -> str:
    """Return an error's type and text; only the type if the text of a user's error can't be had."""
    name = type(error).__name__
    try:
        return f"{name}: {error}".removesuffix(": ")
    except Exception:  # noqa: BLE001  # `__str__` can raise anything
        return name


def _digest(value: object) -> tuple[bytes, Sequence[Source]]:
    """Return the digest of a result, and its files; a digest equal to no other if it has none."""
    writer = Writer()
    try:
        writer.write(value)
        return writer.digest(), writer.files
    except FingerprintError:
        return os.urandom(16), writer.files
