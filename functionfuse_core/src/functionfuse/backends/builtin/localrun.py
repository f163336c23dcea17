"""One run of a `LocalWorkflow`: nodes are computed in this process, or by an executor."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from ...errors import WorkerDiedError
from ...graph.arguments import resolve
from ...graph.nodes import Call, ConstructorCall, MethodCall, Node, Pick
from ...run.job import Job, Outcome, Portable
from ...run.owning import IMMUTABLE, own_literal
from ...run.scheduler import RUNNING, WAITING, Run

if TYPE_CHECKING:
    from ...run.workflow import KeepingWorkflow

__all__ = ["LocalRun"]

_PLAIN = IMMUTABLE | {Call, MethodCall, Pick}  # of arguments that no call can change


class LocalRun(Run):
    """The state of one run, and the executor that computes its nodes; None: they are called here.

    Args:
        single_flight: whether a node that another run is computing is waited for.
    """

    def __init__(
        self, workflow: KeepingWorkflow, executor: Executor | None, *, single_flight: bool = False
    ) -> None:
        super().__init__(workflow, remote=executor is not None)
        self.single_flight = single_flight
        self.executor = executor
        self.futures: dict[int, Future[Portable]] = {}
        self.done: SimpleQueue[int] = SimpleQueue()

    def _work(self) -> None:
        """Compute until nothing waits. After an error, what runs is finished, and no more begun."""
        ready, blockers, state = self.ready, self.blockers, self.state
        try:
            while ready or self.futures:
                while ready:
                    place = heapq.heappop(ready)
                    if state[place] == WAITING and not blockers[place]:
                        self._start(place)
                if self.futures:
                    self._receive(self.done.get())
        finally:
            wait([future for future in self.futures.values() if not future.cancel()])

    def _start(self, place: int) -> None:
        """Compute a node, or hand it to the executor; or have computed what it lacks first."""
        node = self.graph.nodes[place]
        if self._turns_out_to_stand(place, node):
            return
        values, positions = self.values, self.graph.positions
        missing = [at for parent in node.needs if (at := positions[parent]) not in values]
        self._load_many(missing)
        lacking = [parent for parent in missing if not self._available(parent)]
        if type(node) is MethodCall:
            _, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                lacking.append(positions[node.before])
        if lacking:
            for parent in set(lacking):
                self._activate(parent)
            return
        self.state[place] = RUNNING
        self.progress.emit("started", place)
        try:
            job = self._job(place, node)
            outcome = job.run() if self.executor is None else None
        except BaseException as error:
            self._note(place, error)
            raise
        if outcome is not None:
            self._settle(place, node, outcome)
        else:
            self._submit(place, job)

    def _submit(self, place: int, job: Job) -> None:
        try:
            future = cast(Executor, self.executor).submit(Portable(job))
        except BrokenExecutor as error:
            raise self._died([*self.futures, place]) from error
        except BaseException as error:
            self._note(place, error)
            raise
        self.futures[place] = future
        future.add_done_callback(lambda _: self.done.put(place))

    def _job(self, place: int, node: Node) -> Job:
        args, kwargs = self._arguments(place, node)
        job = Job(self._function(node), args, kwargs)
        if self.plugins:
            job.prepare = self._prepare(node)
        if type(node) is MethodCall:
            job.target = self.objects[node.constructor][0]
        job.constructs = type(node) is ConstructorCall
        job.keep = bool(self.users[place]) or place in self.kept
        if job.constructs:
            job.expected = self._expected(place)
        elif self.results and not self.stored[place] and self._has_result(place):
            job.save = self.results.saver(place, self._about(place, node))
            job.expected = self._expected(place)
            # A method's object would not have gone through the call of another run.
            if self.single_flight and self.decisions and type(node) is not MethodCall:
                job.flight = self.results.flight(place, self.decisions.call(place))
        return job

    def _arguments(self, place: int, node: Node) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a call, which are its own where there is a storage."""
        values, positions = self.values, self.graph.positions
        plain = self.results is None or (
            _PLAIN.issuperset(map(type, node.args))
            and _PLAIN.issuperset(map(type, node.kwargs.values()))
            and IMMUTABLE.issuperset([type(values[positions[parent]]) for parent in node.needs])
        )
        if plain and not node.needs:
            return node.args, node.kwargs
        taken: dict[Node, Any] = {}

        def value_of(parent: Node) -> Any:
            if plain:
                return values[positions[parent]]
            if parent not in taken:
                taken[parent] = self._taken(positions[parent], place)
            return taken[parent]

        built: dict[Any, Any] = {}
        own = None if plain else partial(own_literal, memo={})
        args = tuple([resolve(value, value_of, built, own) for value in node.args])
        kwargs = node.kwargs
        if kwargs:
            kwargs = {key: resolve(value, value_of, built, own) for key, value in kwargs.items()}
        return args, kwargs

    def _receive(self, place: int) -> None:
        """Take over what the executor gives for a node."""
        future = self.futures[place]
        try:
            outcome: Outcome = future.result().content
        except BrokenExecutor as error:
            raise self._died(list(self.futures)) from error
        except BaseException as error:
            self._note(place, error)
            raise
        finally:
            del self.futures[place]
        if outcome.error is not None:
            if outcome.error.__traceback__ is None:
                outcome.error.add_note(f"in the worker:\n{outcome.remote_traceback}")
            self._note(place, outcome.error)
            raise outcome.error
        self._settle(place, self.graph.nodes[place], outcome)

    def _died(self, places: Sequence[int]) -> WorkerDiedError:
        names = [self.graph.names[place] for place in places]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return WorkerDiedError(
            f"a worker of {self.executor!r} died; it was given, in this order, node(s)"
            f" {', '.join(map(repr, names[:10]))}{more} of workflow"
            f" {self.workflow.workflow_name!r}. All that was computed before is stored"
        )
