"""One run of a `LocalWorkflow`, which computes nodes in this process or on an executor."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ...errors import WorkerDiedError
from ...graph.arguments import resolve
from ...graph.nodes import Call, ConstructorCall, MethodCall, Node, Pick
from ...run.job import Job, Outcome, Portable
from ...run.owning import IMMUTABLE, own_literal
from ...run.scheduler import RUNNING, SUBMITTED, WAITING, Run

if TYPE_CHECKING:
    from ...run.workflow import ComputingWorkflow

__all__ = ["LocalRun"]

_LOOK = 0.05  # seconds between looks at the nodes that have begun
_PLAIN = IMMUTABLE | {Call, MethodCall, Pick}  # types of arguments that no call can change


class LocalRun(Run):
    """The state of one run, with the executor that computes its nodes; None: this process does.

    Args:
        single_flight: whether to wait for a node that another run is computing.
    """

    def __init__(
        self, workflow: ComputingWorkflow, executor: Executor | None, *, single_flight: bool = False
    ) -> None:
        super().__init__(workflow, remote=executor is not None)
        self.single_flight = single_flight
        self.executor = executor
        self.futures: dict[int, Future[Portable]] = {}
        self.queued: deque[int] = deque()  # of these, what isn't known to have begun
        self.done: SimpleQueue[int] = SimpleQueue()

    def _work(self) -> None:
        """Compute until no node waits. After an error, running nodes finish and no other starts."""
        ready, blockers, state = self.ready, self.blockers, self.state
        try:
            while ready or self.futures:
                while ready:
                    index = heapq.heappop(ready)
                    if state[index] == WAITING and not blockers[index]:
                        self._start(index)
                if self.futures:
                    self._receive(self._next_done())
        except BaseException:
            self._finish()
            raise

    def _next_done(self) -> int:
        """Wait for a result, and emit "started" for each node that begins meanwhile."""
        while True:
            self._note_begun()
            try:
                return self.done.get(timeout=_LOOK if self.queued else None)
            except Empty:
                continue

    def _finish(self) -> None:
        """Begin nothing more, wait for what runs, and take over what it gives."""
        for index, future in list(self.futures.items()):
            if _is_cancelled(future):
                del self.futures[index]
        wait(self.futures.values())
        for index, future in list(self.futures.items()):
            if _is_lost(future):
                del self.futures[index]
                continue
            with suppress(BaseException):  # the run has an error already; this is in the report
                self._receive(index)

    def _note_begun(self) -> None:
        """Tell of the nodes that have begun; executors begin them in the order of submission."""
        while self.queued:
            future = self.futures.get(self.queued[0])
            if future is not None and not (future.running() or future.done()):
                return
            index = self.queued.popleft()
            if future is not None and not _is_lost(future):
                self._begin(index)

    def _begin(self, index: int) -> None:
        if self.state[index] == SUBMITTED:
            self.state[index] = RUNNING
            self.events.emit("started", index)

    def _start(self, index: int) -> None:
        """Compute a node or submit it; if values that it needs are missing, make these first."""
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
        self.state[index] = SUBMITTED
        outcome = None
        if self.executor is None:
            self._begin(index)
        try:
            job = self._job(index, node)
            if self.executor is None:
                outcome = job.run()
            else:
                self._submit(self.executor, index, job)
        except BaseException as error:
            if isinstance(error, BrokenExecutor) and self.executor is not None:
                raise self._died() from error
            self._note(index, error)
            raise
        if outcome is not None:
            self._settle(index, node, outcome)

    def _submit(self, executor: Executor, index: int, job: Job) -> None:
        future = executor.submit(Portable(job))
        self.futures[index] = future
        self.queued.append(index)
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
            # A method changes its object; if another run made the call, ours would be unchanged.
            if self.single_flight and self.decisions and type(node) is not MethodCall:
                job.flight = self.results.flight(index, self.decisions.call(index))
        return job

    def _arguments(self, index: int, node: Node) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a call; with a storage, no other call shares them."""
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
        """Take over the outcome of a node from the executor."""
        future = self.futures[index]
        try:
            outcome: Outcome = future.result().content
        except BrokenExecutor as error:
            raise self._died() from error
        except BaseException as error:
            self._note(index, error)
            raise
        finally:
            del self.futures[index]
        self._begin(index)
        if outcome.error is not None:
            if outcome.error.__traceback__ is None:
                outcome.error.add_note(f"in the worker:\n{outcome.remote_traceback}")
            self._note(index, outcome.error)
            raise outcome.error
        self._settle(index, self.graph.nodes[index], outcome)

    def _died(self) -> WorkerDiedError:
        """Return the error of a broken executor: it names the nodes that may have broken it."""
        names = [
            repr(self.graph.names[index])
            for index, future in self.futures.items()
            if not future.done() or future.exception() is not None
        ]
        if not names:  # it broke earlier
            return WorkerDiedError(f"{self.executor!r} is broken: make a new one")
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return WorkerDiedError(
            f"a worker of {self.executor!r} died; it was given, in this order, node(s)"
            f" {', '.join(names[:10])}{more} of workflow {self.workflow.workflow_name!r}. All that"
            " was computed before is stored: run again with a new executor"
        )


def _is_lost(future: Future[Any]) -> bool:
    """Return whether a future ended without its job: cancelled, or its executor broke."""
    if not future.done():
        return False
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _is_cancelled(future: Future[Any]) -> bool:
    """Cancel a future if it hasn't begun; some executors can't, and raise."""
    try:
        return future.cancel()
    except Exception:  # noqa: BLE001  # then it is waited for
        return False
