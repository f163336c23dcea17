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
    from ...run.workflow import ComputingWorkflow

__all__ = ["LocalRun"]

_PLAIN = IMMUTABLE | {Call, MethodCall, Pick}  # of arguments that no call can change


class LocalRun(Run):
    """The state of one run, and the executor that computes its nodes; None: they are called here.

    Args:
        single_flight: whether a node that another run is computing is waited for.
    """

    def __init__(
        self, workflow: ComputingWorkflow, executor: Executor | None, *, single_flight: bool = False
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
                    index = heapq.heappop(ready)
                    if state[index] == WAITING and not blockers[index]:
                        self._start(index)
                if self.futures:
                    self._receive(self.done.get())
        finally:
            wait([future for future in self.futures.values() if not future.cancel()])

    def _start(self, index: int) -> None:
        """Compute a node, or hand it to the executor; or have computed what it lacks first."""
        node = self.graph.nodes[index]
        if self._turns_out_to_stand(index, node):
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
        self.state[index] = RUNNING
        self.events.emit("started", index)
        try:
            job = self._job(index, node)
            outcome = job.run() if self.executor is None else None
        except BaseException as error:
            self._note(index, error)
            raise
        if outcome is not None:
            self._settle(index, node, outcome)
        else:
            self._submit(index, job)

    def _submit(self, index: int, job: Job) -> None:
        try:
            future = cast(Executor, self.executor).submit(Portable(job))
        except BrokenExecutor as error:
            raise self._died([*self.futures, index]) from error
        except BaseException as error:
            self._note(index, error)
            raise
        self.futures[index] = future
        future.add_done_callback(lambda _: self.done.put(index))

    def _job(self, index: int, node: Node) -> Job:
        args, kwargs = self._arguments(index, node)
        job = Job(self._function(node), args, kwargs)
        if self.plugins:
            job.prepare = self._prepare(node)
        if type(node) is MethodCall:
            job.target = self.objects[node.constructor][0]
        job.constructs = type(node) is ConstructorCall
        job.wanted = bool(self.users[index]) or index in self.needed
        if job.constructs:
            job.expected = self._expected(index)
        elif self.results and not self.stored[index] and self._has_result(index):
            job.save = self.results.saver(index, self._about(index, node))
            job.expected = self._expected(index)
            # A method's object would not have gone through the call of another run.
            if self.single_flight and self.decisions and type(node) is not MethodCall:
                job.flight = self.results.flight(index, self.decisions.call(index))
        return job

    def _arguments(self, index: int, node: Node) -> tuple[Sequence[Any], Mapping[str, Any]]:
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
                taken[parent] = self._taken(positions[parent], index)
            return taken[parent]

        built: dict[object, Any] = {}
        own = None if plain else partial(own_literal, memo={})
        args = tuple([resolve(value, value_of, built, own) for value in node.args])
        kwargs = node.kwargs
        if kwargs:
            kwargs = {key: resolve(value, value_of, built, own) for key, value in kwargs.items()}
        return args, kwargs

    def _receive(self, index: int) -> None:
        """Take over what the executor gives for a node."""
        future = self.futures[index]
        try:
            outcome: Outcome = future.result().content
        except BrokenExecutor as error:
            raise self._died(list(self.futures)) from error
        except BaseException as error:
            self._note(index, error)
            raise
        finally:
            del self.futures[index]
        if outcome.error is not None:
            if outcome.error.__traceback__ is None:
                outcome.error.add_note(f"in the worker:\n{outcome.remote_traceback}")
            self._note(index, outcome.error)
            raise outcome.error
        self._settle(index, self.graph.nodes[index], outcome)

    def _died(self, indexes: Sequence[int]) -> WorkerDiedError:
        names = [self.graph.names[index] for index in indexes]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return WorkerDiedError(
            f"a worker of {self.executor!r} died; it was given, in this order, node(s)"
            f" {', '.join(map(repr, names[:10]))}{more} of workflow"
            f" {self.workflow.workflow_name!r}. All that was computed before is stored"
        )
