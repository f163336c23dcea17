"""One run of a workflow: which nodes are computed, in which order, and what their outcomes mean.

A run decides from the storage which nodes to compute. Their jobs go to the backend in the order of
`Order`. `_take` takes over an outcome, unblocks the children, and releases values that no other
node uses. If a stored result can't be read when it is needed, its node is computed after all.

If the backend keeps values and there is no storage, a node is submitted as soon as its parents are
submitted (`ahead`): the backend orders them. A node's error then waits until its parents are done,
because it may be theirs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import FunctionFuseError, PluginError, WorkerDiedError
from ..graph.nodes import ConstructorCall, MethodCall, Node
from ..graph.workflow import NEVER
from ..reuse.identity import Identities
from ..reuse.plan import MAYBE, REUSE, Decisions
from .contract import Backend, Started
from .events import RunEvents
from .job import Outcome
from .jobs import JobMaker
from .order import RUNNING, SETTLED, STOPPED, SUBMITTED, WAITING, Order
from .owning import Values
from .report import Report
from .resultstore import OF_NO_USE
from .stored import StoredResults

if TYPE_CHECKING:
    from .workflow import ComputingWorkflow

__all__ = ["Scheduler"]

_STATEFUL = ConstructorCall, MethodCall


class Scheduler:
    """The state of one run. A node is known by its index in the graph; parents have lower ones.

    Args:
        backend: runs the jobs.
        returns: whether the results of the given nodes are returned.
        keep_going: whether nodes that don't follow a failed one are computed.
        single_flight: whether to wait for a node that another run is computing.
    """

    def __init__(
        self,
        workflow: ComputingWorkflow,
        backend: Backend,
        *,
        returns: bool = True,
        keep_going: bool = False,
        single_flight: bool = False,
    ) -> None:
        self.workflow = workflow
        self.backend = backend
        self.keep_going = keep_going
        self.graph = graph = workflow.graph()
        count = len(graph.nodes)
        self.stored = bytearray(count)  # whether the storage holds the node's present result
        self.out: dict[int, Any] = {}  # by key of a submitted job: the backend's handle
        self.came: list[Outcome | Started] = []  # news to take over, the next one last
        self.early: dict[int, list[Outcome]] = {}  # by a node that is out: errors of its children
        self.loads: dict[int, list[int]] = {}  # by a node that is loaded: those that wait for it
        self.objects: dict[Node, tuple[Any, Node]] = {}  # by constructor: object and last call
        self.calls_left: Counter[Node] = Counter()  # by constructor: WAITING or RUNNING calls
        names = workflow.workflow_name, graph.names
        self.results: StoredResults | None = None
        if workflow.storage is not None:
            self.results = StoredResults(workflow.storage, *names, self.stored)
        self.ahead = backend.keeps and self.results is None
        self.decisions: Decisions | None = None
        self.events = RunEvents(workflow.workflow_name, graph, workflow.listeners)
        positions = graph.positions
        self.returned = [positions[node] for node, _ in workflow.leaves] if returns else []
        self.wanted = set(self.returned)
        self.unsaved = {positions[node] for node in workflow._logged if node in positions}
        again = self.results.again if self.results and not backend.keeps else None
        self.values = Values(graph, self.wanted, self.stored, again)
        self.order = Order(graph, self.values.users, ahead=self.ahead)
        self.jobs = JobMaker(
            workflow,
            graph,
            backend,
            self.results,
            stored=self.stored,
            unsaved=self.unsaved,
            wanted=self.wanted,
            values=self.values,
            single_flight=single_flight,
        )

    def plan(self) -> Report:
        """Return the plan of `run`."""
        if self.results is None or self.results.headers:
            self.events.wanted = self._decide()
        return self.events.plan()

    def run(self) -> list[Any]:
        """Run; return the results of the given nodes, and set the workflow's `report`.

        Raises the error of the first node that failed, with a note of its name.
        """
        try:
            self._begin_run()
            self._work()
            return self._results()
        except BaseException:
            self._cancel()
            raise
        finally:
            self.values.clear()
            self.objects.clear()
            if self.results:
                self.results.remember()
            self.workflow.report = self.events.report()

    def _begin_run(self) -> None:
        """Make the nodes to compute WAITING, and emit what is planned and what is reused."""
        if self.results:
            self.results.prepare()
        indexes = self.events.wanted = self._decide()
        if self.decisions and self.results:
            for index, info in enumerate(self.decisions.infos):
                if isinstance(info, FunctionFuseError):
                    self.results.give_up(index, info)
            self.events.planned(indexes)
            planned = set(indexes)
            verdicts = enumerate(self.decisions.verdicts)
            reused = [index for index, verdict in verdicts if verdict == REUSE]
            self.events.reuse([index for index in reused if index not in planned])
        self._activate(indexes)

    def _results(self) -> list[Any]:
        """Return the results of the given nodes, in this process."""
        held, backend = self.values.held, self.backend
        here: dict[int, Any] = {} if backend.keeps else held
        while missing := [index for index in dict.fromkeys(self.returned) if index not in here]:
            if backend.keeps and (kept := [index for index in missing if index in held]):
                values = backend.fetch([held.pop(index) for index in kept])
                here.update(zip(kept, values, strict=True))
            if self.results:
                self.results.read_many(missing, here)
            # A stored result can prove damaged when it is read; then its node must be computed.
            self._activate([index for index in missing if not self._read(index, here)])
            self._work()
        return [
            here[index] if pick is None else pick.of(here[index])
            for index, (_, pick) in zip(self.returned, self.workflow.leaves, strict=False)
        ]

    # Decide which nodes to compute.

    def _decide(self) -> Sequence[int]:
        """Find the stored results; return the indexes of the nodes to compute, ascending."""
        graph, workflow = self.graph, self.workflow
        identities = Identities(
            workflow._functions,
            own=workflow._own,
            packages=workflow._packages,
            plugins=self.jobs.counting_plugins(),
        )
        if self.results is None or self.results.headers is None:
            identities.check(graph.nodes)  # `Decisions` checks all nodes itself
        if self.results is None:
            return range(len(graph.nodes))
        # The result of a constructor is None, so there is no reason to make the object for it.
        returned = [index for index in self.returned if not self._is_constructor(index)]
        targets = [*graph.last(), *returned, *self.unsaved]
        if self.results.headers:
            given = self.results.headers, graph, identities, workflow, self.unsaved
            decisions = self.results.decide(*given)
            self.decisions = self.events.decisions = self.jobs.decisions = decisions
            return decisions.needed(targets)
        # A storage without headers: read only the results that are needed, and keep their values.
        found: set[int] = set()
        while targets:
            index = targets.pop()
            if index in found:
                continue
            policy = workflow._policies.get(graph.nodes[index], workflow._policy)
            self.stored[index] = self._has_result(index) and policy != NEVER
            if self.stored[index] and self._is_there(index):
                self.events.reuse([index])
            else:
                found.add(index)
                targets += graph.parents[index]
        return sorted(found)

    def _has_result(self, index: int) -> bool:
        """Return whether a node's result is to be stored."""
        return index not in self.unsaved and not self._is_constructor(index)

    def _is_constructor(self, index: int) -> bool:
        return type(self.graph.nodes[index]) is ConstructorCall

    def _activate(self, indexes: Collection[int]) -> None:
        """Let nodes be computed."""
        self.order.activate(indexes)
        for index in indexes:
            node = self.graph.nodes[index]
            if type(node) in _STATEFUL:
                self.calls_left[node.constructor] += 1
        try:
            for index in indexes if self.jobs.prepares else ():
                self.jobs.prepare(index)
        except BaseException as error:  # noqa: BLE001  # it is the node's error
            self._fail(index, error)

    # Submit the jobs of ready nodes.

    def _work(self) -> None:
        """Compute until no node waits, or one fails and the run does not go on."""
        order, out, limit = self.order, self.out, self.backend.limit or sys.maxsize
        while order.ready or out:
            while len(out) < limit and (index := order.pop()) is not None:
                self._start(index)
                if limit > 1:
                    self._take_all(0)
            if out:
                self._take_all(None)
        self.events.raise_first(order.state.count(STOPPED))
        if WAITING in order.state:
            raise AssertionError(f"{order.state.count(WAITING)} nodes were left out: it is a bug")

    def _start(self, index: int) -> None:
        """Submit a node; if values that it needs are missing, load or compute these first."""
        node, held = self.graph.nodes[index], self.values.held
        decisions, target = self.decisions, None
        if decisions and decisions.verdicts[index] == MAYBE and decisions.judge(index) == REUSE:
            self._reuse(index)  # the results of its parents did not change
            return
        replayed = []
        if type(node) is MethodCall:
            target, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                replayed.append(self.graph.positions[node.before])
        needs = self.graph.needs[index]
        if (replayed or not all(map(held.__contains__, needs))) and self._lacks(index, replayed):
            return
        self.order.state[index] = SUBMITTED
        if not self.backend.remote:
            self._begin(index)
        try:
            job = self.jobs.make(index, target)
            handle = self.backend.submit(job)
        except WorkerDiedError:
            raise
        except BaseException as error:  # noqa: BLE001  # it is the node's error
            self._fail(index, error)
            return
        self.out[index] = handle
        if self.ahead:
            if handle is not None and not job.constructs:
                held[index] = handle
            self.order.submit(index)

    def _begin(self, index: int) -> None:
        """Note that a node runs, once."""
        if self.order.state[index] == SUBMITTED:
            self.order.state[index] = RUNNING
            if self.events.listeners:
                self.events.start(index)

    def _lacks(self, index: int, lacking: list[int]) -> bool:
        """Get what a node lacks; return whether the node must wait for it.

        Args:
            lacking: parents that must be computed, whether their results are stored or not.
        """
        held = self.values.held
        missing = [parent for parent in self.graph.needs[index] if parent not in held]
        if self.backend.keeps:
            for parent in missing:
                if self.stored[parent]:
                    self._load_for(index, parent)
                elif not (self._is_constructor(parent) and self.order.state[parent] == SETTLED):
                    lacking.append(parent)
        else:
            if self.results:
                self.results.read_many(missing, held)
            lacking += [parent for parent in missing if not self._read(parent, held)]
        if any(self.order.state[parent] == STOPPED for parent in lacking):
            self._stop(index)
            return True
        self._activate(set(lacking))
        return bool(lacking or self.order.blockers[index])

    # Take over what the backend tells.

    def _take_all(self, timeout: float | None) -> None:
        """Wait for news, and take them over; after an error, those that are left are in `came`."""
        news, came = self.backend.wait(timeout), self.came
        if timeout is None and not news:
            raise PluginError(f"{self.backend!r} has no news of the jobs {sorted(self.out)}")
        came += reversed(news)
        while came:
            self._take(came.pop())

    def _cancel(self) -> None:
        """Begin nothing more, and take over what ran."""
        self.came[:0] = reversed(self.backend.cancel())
        while self.came:
            with suppress(BaseException):  # the run has an error already; these are in the report
                self._take(self.came.pop())

    def _take(self, news: Outcome | Started) -> None:
        key = news.key
        if key not in self.out:
            raise PluginError(f"{self.backend!r} tells of job {key}, which it doesn't have")
        if isinstance(news, Started):
            self._begin(key)
            return
        if news.error is not None and self.ahead:
            for parent in self.graph.parents[key]:
                if parent in self.out:
                    self.early.setdefault(parent, []).append(news)
                    return
        handle = self.out.pop(key)
        if key < 0:
            self._loaded(~key, handle, news.error)
            return
        if news.error is not None:
            if any(self.order.state[parent] == STOPPED for parent in self.graph.parents[key]):
                self._stop(key)
            else:
                self._begin(key)
                self._fail(key, news.error)
            return
        if self.backend.remote:
            self._begin(key)
        if news.reused is not None and self.decisions:
            self.decisions.take(key, news.reused)
            self._reuse(key)
            return
        self._computed(key, handle, news)
        self._release(key)

    def _computed(self, index: int, handle: Any, outcome: Outcome) -> None:
        """Note that a node is computed; keep its value, or the handle, and its object."""
        node, values, saved = self.graph.nodes[index], self.values, outcome.saved
        # A call replayed for its object already has a stored result, which stays the result.
        replayed = self.stored[index] and saved is None
        size = None
        if saved is not None and self.results:
            self.stored[index] = self.results.saved[index] = True
            size = getattr(saved, "size", 0)
        if outcome.changed and self.decisions:
            self.decisions.changed[index] = outcome.changed
            self.jobs.warn(index, outcome.changed)
        self.events.finish(index, outcome.seconds, size)
        if self.decisions and self.decisions.digests[index] is None:
            digest = getattr(saved, "digest", None)
            if digest is not None:
                self.decisions.settle(index, bytes.fromhex(digest), saved)
            else:
                constructs = type(node) is ConstructorCall
                self.decisions.settle(index, None if constructs else outcome.digest)
        # A node may need a value that none needed when the job began: load or compute it then.
        if outcome.returned and not replayed and (values.users[index] or index in self.wanted):
            if self.backend.keeps:
                values.held[index] = handle
            elif type(node) is MethodCall:
                values.add_of_method(index, outcome.value)
            else:
                values.held[index] = outcome.value
        if type(node) in _STATEFUL:
            self._keep_object(node, handle, outcome)

    def _keep_object(self, node: Any, handle: Any, outcome: Outcome) -> None:
        """Keep an object for its next call."""
        constructor, target = node.constructor, outcome.target
        if self.backend.keeps:
            target = handle if node is constructor else self.objects[constructor][0]
        self.objects[constructor] = target, node
        self._end_call(constructor)

    def _end_call(self, constructor: Node) -> None:
        """Release an object after the last call on it."""
        self.calls_left[constructor] -= 1
        if not self.calls_left[constructor]:
            self.objects.pop(constructor, None)

    def _reuse(self, index: int) -> None:
        self.stored[index] = True
        self.events.reuse([index])
        self._release(index)

    def _release(self, index: int) -> None:
        """Release what a node used, and unblock its children."""
        self.order.settle(index)
        self.values.let_go(index)
        if self.early:
            self.came += self.early.pop(index, ())

    def _fail(self, index: int, error: BaseException) -> None:
        """Stop a node and those that wait for it; raise its error unless the run goes on."""
        if self.order.state[index] != STOPPED:
            self._stop(index)
            self.events.fail(index, error)
            if not (self.keep_going and isinstance(error, Exception)):
                raise error

    def _stop(self, index: int) -> None:
        """Give up a node, and those that wait for it."""
        for stopped in self.order.stop(index):
            self.values.let_go(stopped)
            node = self.graph.nodes[stopped]
            if type(node) in _STATEFUL:
                self._end_call(node.constructor)
            self.came += self.early.pop(stopped, ())

    # Stored results that computed nodes need.

    def _read(self, index: int, into: dict[int, Any]) -> bool:
        """Read a node's value in this process; return whether it is in `into`."""
        if index not in into:
            if self.results and self.stored[index]:
                return self.results.read(index, into)
            if not self._is_constructor(index):
                return False
            into[index] = None
        return True

    def _load_for(self, index: int, parent: int) -> None:
        """Let the backend load a stored result, and block a node until then."""
        self.order.block(index)
        waiting = self.loads.setdefault(parent, [])
        waiting.append(index)
        if len(waiting) == 1:
            self._load(parent)

    def _load(self, index: int) -> None:
        job = self.jobs.load(index)
        self.out[job.key] = self.backend.submit(job)

    def _loaded(self, index: int, handle: Any, error: BaseException | None) -> None:
        """Take over the handle of a loaded value, or the error."""
        waiting = self.loads.pop(index, ())
        if error is None:
            self.values.held[index] = handle
        elif isinstance(error, OF_NO_USE) and self.results and not self.results.saved[index]:
            self.results.give_up(index, error)
        elif not waiting:
            raise error
        for child in waiting:
            if error is not None and self.stored[index]:
                self._fail(child, error)
            self.order.unblock(child)

    def _is_there(self, index: int) -> bool:
        """Return whether a storage without headers has a result; its value is held then."""
        if not self.backend.keeps:
            return self._read(index, self.values.held)
        self._load(index)
        while ~index in self.out:
            self._take_all(None)
        return index in self.values.held
