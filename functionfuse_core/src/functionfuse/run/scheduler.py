"""Compute the nodes of a run: submit their jobs, and take over the outcomes.

Jobs go to the backend in the order of `Order`. `_take` takes over an outcome, unblocks the
children, and releases values that no other node uses. If a stored result can't be read when a node
needs it, it is computed after all.

If the backend keeps values and there is no storage, a node is submitted as soon as its parents are
submitted (`ahead`): the backend orders them. A node's error then waits until its parents are done,
because it may be theirs.

A node that failed is put off and tried again if its settings say so. Else it is stopped, with the
nodes that follow it, and the run ends or goes on without them (`keep_going`).
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from time import sleep
from typing import Any

from ..errors import OptionsError, PluginError, WorkerDiedError
from ..graph.nodes import ConstructorCall, MethodCall, Node
from ..graph.workflow import Graph
from ..reuse.plan import MAYBE, REUSE, Decisions
from .calling import check_interruptible
from .contract import Backend, Started
from .events import RunEvents
from .job import Job, Outcome
from .jobs import JobMaker
from .order import RUNNING, SETTLED, STOPPED, SUBMITTED, WAITING, Order, Resources
from .owning import Values
from .resultstore import OF_NO_USE
from .stored import StoredResults

__all__ = ["Scheduler"]

_STATEFUL = ConstructorCall, MethodCall


class Scheduler:
    """Decides when nodes are computed, and takes over their outcomes. A node is an index here.

    Args:
        backend: runs the jobs.
        keep_going: whether nodes that don't follow a failed one are computed.
        resources: how much there is of the resources that nodes need; None: any amount.

    Attributes:
        decisions: set when the run is planned; None without a storage that returns headers.
    """

    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        results: StoredResults | None,
        values: Values,
        *,
        jobs: JobMaker,
        events: RunEvents,
        keep_going: bool,
        resources: Resources | None,
    ) -> None:
        self.graph = graph
        self.backend = backend
        self.results = results
        self.values = values
        self.stored = values.stored
        self.jobs = jobs
        self.events = events
        self.keep_going = keep_going
        self.decisions: Decisions | None = None
        self.ahead = backend.keeps and results is None
        self.resources = resources
        self.order = Order(
            graph, values.users, ahead=self.ahead, retried=jobs.retries, resources=resources
        )
        self.out: dict[int, Any] = {}  # by key of a submitted job: the backend's handle
        self.came: list[Outcome | Started] = []  # news to take over, the next one last
        self.early: dict[int, list[Outcome]] = {}  # by a node that is out: errors of its children
        self.unseen: dict[int, Iterator[int]] = {}  # by key of such an error: parents to look at
        self.targets: dict[int, Any] = {}  # by a call that is out: its object, if that is kept
        self.loads: dict[int, list[int]] = {}  # by a node that is loaded: those that wait for it
        self.to_load: deque[int] = deque()  # of these, the nodes whose loads are not submitted
        self.objects: dict[Node, tuple[Any, Node]] = {}  # by constructor: object and last call
        self.calls_left: Counter[Node] = Counter()  # by constructor: calls to be made, or running

    def clear(self) -> None:
        """Release all values and objects."""
        self.values.clear()
        for held in (self.objects, self.targets, self.out, self.came, self.early):
            held.clear()

    def activate(self, indexes: Collection[int]) -> None:
        """Let nodes be computed, by `work`."""
        if self.resources:
            self.resources.check(indexes)
        self.order.activate(indexes)
        for index in indexes:
            node = self.graph.nodes[index]
            if type(node) in _STATEFUL:
                self.calls_left[node.constructor] += 1
        for index in indexes if self.jobs.prepares else ():
            try:
                self.jobs.prepare(index)
            except Exception as error:  # noqa: BLE001  # it is the node's error
                self._fail(index, error)

    def work(self) -> None:
        """Compute until no node waits, or one fails and the run does not go on."""
        order, out, limit = self.order, self.out, self.backend.limit or sys.maxsize
        while order.remains() or out or self.to_load:
            while len(out) < limit:
                if self.to_load:
                    self._load(self.to_load.popleft())
                elif (index := order.pop()) is not None:
                    self._start(index)
                else:
                    break
                if limit > 1:
                    self._take_all(0)
            pause = order.pause() if len(out) < limit else None
            if out:
                self._take_all(pause)
            elif pause is None:
                break
            else:
                sleep(pause)
        self.events.raise_first(order.state.count(STOPPED))
        if WAITING in order.state:
            raise AssertionError(f"{order.state.count(WAITING)} nodes were left out: it is a bug")

    def check_timeouts(self, indexes: Collection[int]) -> None:
        """Raise OptionsError if one of the nodes has a timeout, and the backend can't interrupt it.

        The backend runs a job that finds it out.
        """
        timed = [index for index in indexes if index in self.jobs.timeouts]
        if not timed:
            return
        job = Job(len(self.graph.nodes), "the check of timeouts", check_interruptible, (), {})
        job.wanted = False
        self.backend.submit(job)
        news: list[Outcome | Started] = []
        while not any(isinstance(each, Outcome) for each in news):
            news = list(self.backend.wait(None))
        for each in news:
            if isinstance(each, Outcome) and each.error is not None:
                if not isinstance(each.error, OptionsError):
                    raise each.error
                raise OptionsError(
                    f"node {self.graph.names[timed[0]]!r} has a timeout, but {each.error}"
                ) from None

    def _start(self, index: int) -> None:
        """Submit a node; if values that it needs are missing, load or compute these first."""
        node, held = self.graph.nodes[index], self.values.held
        decisions, target = self.decisions, None
        if decisions and decisions.verdicts[index] == MAYBE and decisions.judge(index) == REUSE:
            self._reuse(index)  # the results of its parents did not change
            return
        if self.resources and not self.resources.take(index):
            return
        replayed = []
        if type(node) is MethodCall:
            target, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                replayed.append(self.graph.positions[node.before])
        needs = self.graph.needs[index]
        if (replayed or not all(map(held.__contains__, needs))) and self._lacks(index, replayed):
            self._free(index)
            return
        self.order.state[index] = SUBMITTED if self.backend.remote else RUNNING
        if self.events.listeners:
            self.events.queue(index)
            if not self.backend.remote:
                self.events.start(index)
        self.out[index] = None
        if target is not None and self.backend.keeps:
            self.targets[index] = target
        try:
            job = self.jobs.make(index, target)
            handle = self.out[index] = self.backend.submit(job)
        except (WorkerDiedError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # it is the node's error
            del self.out[index]
            self._free(index)
            self._fail(index, error)
            return
        if handle is None and self.backend.keeps and (job.wanted or job.constructs):
            raise PluginError(f"submit of {self.backend!r} returned no handle for {job.name!r}")
        if self.ahead:
            if handle is not None and not job.constructs:
                held[index] = handle
            self.order.run_ahead(index)

    def _free(self, index: int) -> None:
        """Free the resources of a node that doesn't run any more."""
        if self.resources:
            self.resources.give_back(index)

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
            lacking += [parent for parent in missing if not self.read(parent, held)]
        if any(self.order.state[parent] == STOPPED for parent in lacking):
            self._stop(index)
            return True
        self.activate(set(lacking))
        return bool(lacking or self.order.blockers[index])

    # Take over what the backend tells.

    def _take_all(self, timeout: float | None) -> None:
        """Wait for news, and take it over. After an error, the rest is in `came`."""
        news, came = self.backend.wait(timeout), self.came
        if timeout is None and not news:
            names = sorted({self.graph.names[max(key, ~key)] for key in self.out})
            raise PluginError(f"wait(None) of {self.backend!r} has no news of nodes {names[:10]}")
        came += reversed(news)
        while came:
            self._take(came.pop())

    def cancel(self) -> None:
        """Begin nothing more, and take over what ran."""
        self.jobs.retries.clear()
        try:
            self.came[:0] = reversed(self.backend.cancel() or ())
        finally:
            while self.came:
                with suppress(BaseException):  # the run has an error; these are in the report
                    self._take(self.came.pop())

    def _take(self, news: Outcome | Started) -> None:
        key = news.key
        if isinstance(news, Started):
            if key >= 0 and key in self.out:  # a load is no event of its node
                self._begin(key)
            return
        if key not in self.out:
            raise PluginError(f"{self.backend!r} has an outcome of job {key}, but not the job")
        if news.error is not None and self.ahead:
            for parent in self.unseen.setdefault(key, iter(self.graph.parents[key])):
                if parent in self.out:
                    self.early.setdefault(parent, []).append(news)
                    return
        handle = self.out.pop(key)
        if key < 0:
            self._loaded(~key, handle, news.error)
            return
        self._free(key)
        if news.error is not None:
            if any(self.order.state[parent] == STOPPED for parent in self.graph.parents[key]):
                self._stop(key)
            else:
                self._begin(key)
                if not (news.again and self._tries_again(key, news.error)):
                    self._fail(key, news.error, ends=news.unsaved)
            return
        try:
            if self.backend.remote:
                self._begin(key)
        finally:  # a listener may raise, and the result is stored all the same
            if news.reused is not None and self.decisions:
                self.decisions.take(key, news.reused)
                self._reuse(key)
            else:
                self._computed(key, handle, news)

    def _computed(self, index: int, handle: Any, outcome: Outcome) -> None:
        """Note that a node is computed; keep its value and its object, and unblock its children."""
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
        if outcome.returned and not replayed and (values.users[index] or index in values.needed):
            if type(node) is ConstructorCall:
                values.held.pop(index, None)  # its result is None: see `read`
            elif self.backend.keeps:
                values.held[index] = handle
            elif type(node) is MethodCall:
                values.add_of_method(index, outcome.value)
            else:
                values.held[index] = outcome.value
        if type(node) in _STATEFUL:
            self._keep_object(index, node, handle, outcome)
        self.order.settle(index)
        self.values.let_go(index)
        if self.early:
            self.came += self.early.pop(index, ())

    def _keep_object(self, index: int, node: Any, handle: Any, outcome: Outcome) -> None:
        """Keep an object for its next call."""
        constructor, target = node.constructor, outcome.target
        if self.backend.keeps:
            # The object may have been made again meanwhile, for a call that is replayed.
            target = handle if node is constructor else self.targets.pop(index)
        self.objects[constructor] = target, node
        self._end_call(constructor)

    def _end_call(self, constructor: Node) -> None:
        """Release an object after the last call on it."""
        self.calls_left[constructor] -= 1
        if not self.calls_left[constructor]:
            self.objects.pop(constructor, None)

    def _reuse(self, index: int) -> None:
        self.stored[index] = True
        if self.results:
            self.results.restore([index])
        self.events.reuse([index])
        self.order.settle(index)
        self.values.let_go(index)

    def _tries_again(self, index: int, error: BaseException) -> bool:
        """Put a node off that failed, for its next attempt; return False if it has none."""
        retries, failed = self.jobs.retries.get(index), self.events.attempts[index] + 1
        if retries is None or failed > retries.count:
            return False
        seconds = retries.after(failed)
        self.values.give_back(index)
        self.order.put_off(index, seconds)
        self.events.retry(index, error, seconds)
        return True

    def _fail(self, index: int, error: BaseException, *, ends: bool = False) -> None:
        """Stop a node and those that wait for it; raise its error unless the run goes on.

        Args:
            ends: whether the run ends in any case, because the storage can't be written.
        """
        if self.order.state[index] != STOPPED:
            self._stop(index)
            self.events.fail(index, error)
            if ends or not (self.keep_going and isinstance(error, Exception)):
                raise error

    def _stop(self, index: int) -> None:
        """Give up a node, and those that wait for it."""
        for stopped in self.order.stop(index):
            self.values.let_go(stopped)
            self.targets.pop(stopped, None)
            node = self.graph.nodes[stopped]
            if type(node) in _STATEFUL:
                self._end_call(node.constructor)
            self.came += self.early.pop(stopped, ())

    # Stored results that computed nodes need.

    def read(self, index: int, into: dict[int, Any]) -> bool:
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
        if parent not in self.loads:
            self.to_load.append(parent)
        self.loads.setdefault(parent, []).append(index)

    def _load(self, index: int) -> None:
        """Submit the load of a stored result."""
        try:
            self.out[~index] = self.backend.submit(self.jobs.load(index))
        except (WorkerDiedError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # it is the error of those that wait
            self._loaded(index, None, error)

    def _loaded(self, index: int, handle: Any, error: BaseException | None) -> None:
        """Take over the handle of a loaded value, or the error."""
        waiting = self.loads.pop(index, ())
        if error is None:
            if self.values.users[index] or not waiting:  # else all that waited were stopped
                self.values.held[index] = handle
        elif isinstance(error, OF_NO_USE) and self.results and self.results.give_up(index, error):
            error = None  # it is computed
        elif not waiting:
            raise error
        for child in waiting:
            if error is not None:
                self._fail(child, error)
            self.order.unblock(child)

    def is_there(self, index: int) -> bool:
        """Return whether a storage without headers has a result. If so, its value is held."""
        if not self.backend.keeps:
            return self.read(index, self.values.held)
        self._load(index)
        while ~index in self.out:
            self._take_all(None)
        return index in self.values.held

    def _is_constructor(self, index: int) -> bool:
        return type(self.graph.nodes[index]) is ConstructorCall
