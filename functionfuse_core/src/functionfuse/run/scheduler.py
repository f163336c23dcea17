"""Compute the nodes of a run: submit their jobs, and take over the outcomes.

Jobs go to the backend in the order of `Order`. `_take` takes over an outcome, unblocks the
children, and releases values that nobody needs. A result that can't be read is computed after all.

If the backend keeps values and there is no storage, a node is submitted as soon as its parents are
submitted (`ahead`): the backend orders them. A node's error then waits until its parents are done,
because it may be theirs.

A node that failed is put off and tried again if its settings say so. Else it is stopped, with the
nodes that follow it, and the run ends or goes on without them (`keep_going`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from time import sleep
from typing import Any

from ..errors import PluginError, WorkerDiedError
from ..graph.nodes import ConstructorCall, MethodCall
from ..graph.workflow import Graph
from ..reuse.plan import MAYBE, REUSE, Decisions
from .contract import Backend, Started
from .events import RunEvents
from .job import Job, Outcome
from .jobs import JobMaker
from .objects import STATEFUL, Objects
from .order import RUNNING, SETTLED, STOPPED, SUBMITTED, WAITING, Order, Resources
from .owning import Values
from .resultstore import OF_NO_USE
from .stored import StoredResults

__all__ = ["Scheduler"]


class Scheduler:
    """Decides when nodes are computed, and takes over their outcomes. A node is an index here.

    Args:
        backend: runs the jobs.
        keep_going: whether nodes that don't follow a failed one are computed.
        resources: how much there is of the resources that nodes need; None: any amount.
        objects: of earlier calls.

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
        objects: Objects,
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
        self.loads: dict[int, list[int]] = {}  # by a node that is loaded: those that wait for it
        self.to_load: deque[int] = deque()  # of these, the nodes whose loads are not submitted
        self.objects = objects

    def clear(self) -> None:
        """Release all values and objects."""
        for held in (self.values, self.objects, self.out, self.came, self.early):
            held.clear()

    def activate(self, indexes: Collection[int]) -> None:
        """Let nodes be computed, by `work`. Raises what hinders it; see `JobMaker.begin`."""
        self.jobs.begin(indexes)
        if self.resources:
            self.resources.check(indexes)
        self.order.activate(indexes)
        for index in indexes:
            if type(node := self.graph.nodes[index]) in STATEFUL:
                self.objects.expect(node)
        for index in indexes if self.jobs.prepares else ():
            try:
                self.jobs.prepare(index)
            except Exception as error:  # noqa: BLE001  # it is the node's error
                self._fail(index, error)

    def add(self, indexes: Collection[int]) -> None:
        """Let nodes be computed that were not planned, or whose results have been lost."""
        self.events.add(indexes)
        self.activate(indexes)

    def work(self) -> None:
        """Compute until no node waits, or one fails and the run does not go on."""
        order, out, limit = self.order, self.out, self.backend.limit or sys.maxsize
        while True:
            while len(out) < limit:
                if self.to_load:
                    self._load(self.to_load.popleft())
                elif (index := order.pop()) is not None:
                    self._start(index)
                else:
                    break
                if limit > 1:
                    self._take_all(0)
            # If nothing is out, all that is left waits for its next attempt.
            pause = order.pause() if order.later and len(out) < limit else None
            if out:
                self._take_all(pause)
            elif pause is not None:
                sleep(pause)
            else:
                break
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
        if self.resources and not self.resources.take(index):
            return
        replayed = []
        if type(node) is MethodCall:
            target, last = self.objects.get(node)
            if last is not node.before:
                replayed.append(self.graph.positions[node.before])
        needs = self.graph.needs[index]
        if (replayed or not all(map(held.__contains__, needs))) and self._lacks(index, replayed):
            if self.resources:
                self.resources.give_back(index)
            return
        self.order.state[index] = SUBMITTED if self.backend.remote else RUNNING
        if self.events.listeners:
            self.events.queue(index)
            if not self.backend.remote:
                self.events.start(index)
        self.out[index] = None
        if target is not None:
            self.objects.hand_over(index, target)
        try:
            job = self.jobs.make(index, target)
            handle = self.out[index] = self.backend.submit(job)
        except (WorkerDiedError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # it is the node's error
            del self.out[index]
            self._fail(index, error)
            return
        if self.backend.keeps:
            self._submitted(job, handle)

    def _submitted(self, job: Job, handle: Any) -> None:
        """Keep the handle of a value that is not there yet, if other nodes may be given it."""
        if handle is None and (job.wanted or job.constructs):
            raise PluginError(f"submit of {self.backend!r} returned no handle for {job.name!r}")
        if self.ahead:
            if handle is not None and not job.constructs:
                self.values.held[job.key] = handle
            self.order.run_ahead(job.key)

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
        self.add(sorted(set(lacking)))
        return bool(lacking or self.order.blockers[index])

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
        self.jobs.retries = {}  # what fails from now on is not tried again
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
        if self.resources:
            self.resources.give_back(key)
        if news.error is not None:
            if any(self.order.state[parent] == STOPPED for parent in self.graph.parents[key]):
                self._stop(key)
            else:
                self._begin(key)
                self.events.tried[key] = news.begun, news.seconds, news.worker
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
        size = None if saved is None else getattr(saved, "size", 0)
        if self.decisions:
            if outcome.changed:
                self.decisions.changed[index] = outcome.changed
                self.jobs.warn(index, outcome.changed)
            if self.decisions.digests[index] is None:
                stored = saved if hasattr(saved, "digest") else None
                digest = None if type(node) is ConstructorCall else outcome.digest
                self.decisions.settle(index, digest, stored, outcome.files)
        if saved is not None and self.results:
            self.stored[index] = self.results.saved[index] = True
        self.events.finish(index, outcome, size)  # not before: a listener may raise
        # A node may need a value that none needed when the job began: load or compute it then.
        if outcome.returned and not replayed and (values.users[index] or index in values.needed):
            value = handle if self.backend.keeps else outcome.value
            if type(node) in STATEFUL:
                values.add_of_object(index, node, value)
            else:
                values.held[index] = value
        if type(node) in STATEFUL:
            self.objects.take_back(index, node, handle, outcome)
        self.order.settle(index)
        self.values.let_go(index)
        if self.early:
            self.came += self.early.pop(index, ())

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

        With `ends`, the run ends in any case, because the storage can't be used.
        """
        if self.order.state[index] != STOPPED:
            self._stop(index)
            self.events.fail(index, error)
            if ends and self.results:
                self.results.lose(error)
            if ends or not (self.keep_going and isinstance(error, Exception)):
                raise error

    def _stop(self, index: int) -> None:
        """Give up a node, and those that wait for it."""
        if self.resources:
            self.resources.give_back(index)
        for stopped in self.order.stop(index):
            self.values.let_go(stopped)
            node = self.graph.nodes[stopped]
            if type(node) in STATEFUL:
                self.objects.end_call(stopped, node, failed=stopped == index)
            self.came += self.early.pop(stopped, ())

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
                self._fail(child, error, ends=isinstance(error, ConnectionError))
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
