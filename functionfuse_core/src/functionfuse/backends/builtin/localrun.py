"""One run of a `LocalWorkflow`: which nodes are computed, in what order, and where results are."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...errors import DamagedResultError, WorkerDiedError
from ...plan import COMPUTED, NOT_NEEDED, REUSED, NodeReport, Report
from ...workflow import ConstructorCall, MethodCall, Node, resolve
from .job import Job, Outcome, Portable

if TYPE_CHECKING:
    from .localback import LocalWorkflow

__all__ = ["LocalRun"]

logger = logging.getLogger(__name__)

_IDLE = 0  # not asked for, or reused
_WAITING = 1  # to be computed, after its parents
_RUNNING = 2
_SETTLED = 3  # computed


class LocalRun:
    """The state of one run. A place is a node's index in the graph; parents have lower ones."""

    def __init__(self, workflow: LocalWorkflow, executor: Executor | None) -> None:
        self.workflow = workflow
        self.executor = executor
        self.storage = workflow.storage
        self.graph = workflow.graph()
        count = len(self.graph.nodes)
        self.state = bytearray(count)
        self.stored = bytearray(count)  # whether the storage holds the node's present result
        self.blockers = [0] * count  # parents that are WAITING or RUNNING
        self.users = [0] * count  # children that are WAITING or RUNNING
        self.ready: list[int] = []  # heap: WAITING, without blockers when they came in
        self.values: dict[int, Any] = {}
        self.objects: dict[Node, tuple[Any, Node]] = {}  # of a constructor: object, call made last
        self.calls_left: Counter[Node] = Counter()  # of a constructor: WAITING or RUNNING calls
        self.seconds: dict[int, float] = {}
        self.sizes: dict[int, int] = {}
        self.futures: dict[int, Future[Portable]] = {}
        self.done: SimpleQueue[int] = SimpleQueue()
        self.started = False  # until then nodes are activated in order, parents first
        positions = self.graph.positions
        self.returned = [positions[node] for node, _ in workflow.leaves]
        self.kept = set(self.returned)
        self.unsaved = {positions[node] for node in workflow._logged if node in positions}

    def execute(self) -> list[Any]:
        """Run, and return the results of the handed nodes."""
        if self.storage is not None:
            self.storage.new_workflow(self.workflow.workflow_name)
        for place in self._decide():
            self._activate(place)
        self.started = True
        self._work()
        # A stored result can turn out to be damaged when it is loaded; then there is more to do.
        while missing := [place for place in self.returned if not self._available(place)]:
            for place in set(missing):
                self._activate(place)
            self._work()
        return [
            self.values[place] if pick is None else pick.of(self.values[place])
            for place, (_, pick) in zip(self.returned, self.workflow.leaves, strict=True)
        ]

    def report(self) -> Report:
        """Return what was done so far."""
        names, seconds, sizes, stored = self.graph.names, self.seconds, self.sizes, self.stored

        def records() -> list[NodeReport]:
            return [
                NodeReport(
                    name,
                    COMPUTED if place in seconds else REUSED if stored[place] else NOT_NEEDED,
                    seconds.get(place, 0.0),
                    sizes.get(place, 0),
                )
                for place, name in enumerate(names)
            ]

        return Report(self.workflow.workflow_name, records)

    # What is to be computed.

    def _decide(self) -> Sequence[int]:
        """Find what is stored, and return the places of what must be computed, ascending."""
        graph = self.graph
        if self.storage is None:
            return range(len(graph.nodes))
        infos = None
        if hasattr(self.storage, "task_infos"):
            infos = self.storage.task_infos(self.workflow.workflow_name, graph.names)
            for place, info in enumerate(infos):
                if isinstance(info, DamagedResultError):
                    self._warn(place, info)
                elif info is not None and self._has_result(place):
                    self.stored[place] = True
                    self.sizes[place] = info.size
        found: set[int] = set()
        stack = graph.last() + self.returned
        while stack:
            place = stack.pop()
            if place in found:
                continue
            if infos is None:
                # A storage that can only be read: look for what is needed, and keep what comes.
                self.stored[place] = self._has_result(place)
                self.stored[place] = self._available(place)
            if not self.stored[place]:
                found.add(place)
                stack += [graph.positions[parent] for parent in graph.nodes[place].parents]
        return sorted(found)

    def _has_result(self, place: int) -> bool:
        """Whether a node's result belongs into a storage."""
        return place not in self.unsaved and not isinstance(
            self.graph.nodes[place], ConstructorCall
        )

    def _activate(self, place: int) -> None:
        """Have a node computed, after those of its parents that are to be computed."""
        state, node = self.state, self.graph.nodes[place]
        state[place] = _WAITING
        positions, blockers = self.graph.positions, 0
        for parent_node in node.parents:
            parent = positions[parent_node]
            self.users[parent] += 1
            if state[parent] in _PENDING:
                blockers += 1
        self.blockers[place] = blockers
        if self.started:
            for child_node in node.children:
                child = positions.get(child_node)
                if child is not None and state[child] == _WAITING:
                    self.blockers[child] += 1
        if isinstance(node, _STATEFUL):
            self.calls_left[node.constructor] += 1
        if not blockers:
            heapq.heappush(self.ready, place)

    # Computing.

    def _work(self) -> None:
        """Compute until nothing waits. After an error, what runs is finished, and no more begun."""
        ready, blockers, state = self.ready, self.blockers, self.state
        try:
            while ready or self.futures:
                while ready:
                    place = heapq.heappop(ready)
                    if state[place] == _WAITING and not blockers[place]:
                        self._start(place)
                if self.futures:
                    self._receive(self.done.get())
        finally:
            for future in self.futures.values():
                future.cancel()
            wait(self.futures.values())

    def _start(self, place: int) -> None:
        """Compute a node, or hand it to the executor; or have computed what it lacks first."""
        node = self.graph.nodes[place]
        lacking = []
        for parent_node in node.needs:
            parent = self.graph.positions[parent_node]
            if parent not in self.values and not self._available(parent):
                lacking.append(parent)
        if isinstance(node, MethodCall):
            _, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                lacking.append(self.graph.positions[node.before])
        if lacking:
            for parent in set(lacking):
                self._activate(parent)
            return
        self.state[place] = _RUNNING
        try:
            job = self._job(place, node)
            if self.executor is None:
                outcome = job.run()
            else:
                future = self.executor.submit(Portable(job))
                self.futures[place] = future
                future.add_done_callback(lambda _: self.done.put(place))
                return
        except BaseException as error:
            self._note(place, error)
            raise
        self._settle(place, node, outcome)

    def _job(self, place: int, node: Node) -> Job:
        args, kwargs = node.args, node.kwargs
        if node.needs:
            args = tuple([resolve(value, self._value) for value in args])
            if kwargs:
                kwargs = {key: resolve(value, self._value) for key, value in kwargs.items()}
        workflow = self.workflow
        function: Callable[..., Any] | str
        if node in workflow._functions:
            function = workflow._functions[node]
        else:
            remote = self.executor is not None or isinstance(node, MethodCall)
            function = node.portable_function if remote else node.function
        job = Job(function, args, kwargs)
        if workflow._plugins:
            prepare = []
            for plugin in workflow._plugins.get(node, ()):
                plugin.local_initialize()
                prepare.append(plugin.remote_initialize())
            job.prepare = [call for call in prepare if call is not None]
        if isinstance(node, MethodCall):
            job.target = self.objects[node.constructor][0]
        job.constructs = isinstance(node, ConstructorCall)
        if self.storage is not None and not self.stored[place] and self._has_result(place):
            job.save = partial(
                _save,
                self.storage,
                (workflow.workflow_name, self.graph.names[place]),
                f"{getattr(node.function, '__module__', None)}.{node.label}",
            )
            job.keep = not self.storage.always_read
        return job

    def _value(self, node: Node) -> Any:
        return self.values[self.graph.positions[node]]

    def _receive(self, place: int) -> None:
        """Take over what the executor gives for a node."""
        future = self.futures[place]
        try:
            outcome: Outcome = future.result().content
        except BrokenExecutor as error:
            names = [self.graph.names[place] for place in self.futures]
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            raise WorkerDiedError(
                f"a worker of {self.executor!r} died; it was given, in this order, node(s)"
                f" {', '.join(map(repr, names[:10]))}{more} of workflow"
                f" {self.workflow.workflow_name!r}. All that was computed before is stored"
            ) from error
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

    def _settle(self, place: int, node: Node, outcome: Outcome) -> None:
        """Take over a result, and let go of what nobody needs any more."""
        self.state[place] = _SETTLED
        self.seconds[place] = outcome.seconds
        if outcome.saved is not None:
            self.stored[place] = True
            self.sizes[place] = getattr(outcome.saved, "size", 0)
        if not (outcome.saved and self.storage.always_read) and (
            self.users[place] or place in self.kept
        ):
            self.values[place] = outcome.value
        if isinstance(node, _STATEFUL):
            constructor = node.constructor
            self.objects[constructor] = (outcome.target, node)
            self.calls_left[constructor] -= 1
            if not self.calls_left[constructor]:
                del self.objects[constructor]
        positions, users, state, blockers = (
            self.graph.positions,
            self.users,
            self.state,
            self.blockers,
        )
        for parent_node in node.parents:
            parent = positions[parent_node]
            users[parent] -= 1
            if not users[parent] and parent not in self.kept:
                self.values.pop(parent, None)
        for child_node in node.children:
            child = positions.get(child_node)
            if child is not None and state[child] == _WAITING:
                blockers[child] -= 1
                if not blockers[child]:
                    heapq.heappush(self.ready, child)

    # Stored results.

    def _available(self, place: int) -> bool:
        """Whether a node's value is at hand; a stored one is loaded.

        Raises:
            DamagedResultError, ResultNotFoundError: a result saved in this run can't be read back.
        """
        if place in self.values:
            return True
        if not self.stored[place]:
            return False
        name = self.graph.names[place]
        try:
            self.values[place] = self.storage.read_task(self.workflow.workflow_name, name)
        except (DamagedResultError, FileNotFoundError) as error:
            if place in self.seconds:
                raise
            if hasattr(self.storage, "task_infos"):
                self._warn(place, error)
            self.stored[place] = False
            return False
        return True

    def _warn(self, place: int, error: Exception) -> None:
        logger.warning(
            "workflow %r: the stored result of %r can't be used and is computed again: %s",
            self.workflow.workflow_name,
            self.graph.names[place],
            error,
        )

    def _note(self, place: int, error: BaseException) -> None:
        node = self.graph.nodes[place]
        error.add_note(
            f"in node {self.graph.names[place]!r} of workflow {self.workflow.workflow_name!r}:"
            f" {node.described()}"
        )


_PENDING = (_WAITING, _RUNNING)
_STATEFUL = (ConstructorCall, MethodCall)


def _save(storage: Any, names: tuple[str, str], function: str, value: Any, seconds: float) -> Any:
    """Store a result with what the storage takes, and return what it tells, or True."""
    if hasattr(storage, "task_infos"):
        return storage.save(*names, value, function=function, seconds=seconds)
    storage.save(*names, value)
    return True
