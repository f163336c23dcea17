"""One run of a `RayWorkflow`: the driver decides and hands over, the workers do all else."""

from __future__ import annotations

import heapq
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from functionfuse.backends.builtin.job import Outcome
from functionfuse.backends.builtin.localrun import LocalRun
from functionfuse.errors import WorkerDiedError
from functionfuse.nodes import ConstructorCall, MethodCall, Node

from .parcel import Parcel, Task, pack_task, unpack
from .sending import Sender
from .tasks import FailedNodeError, Object, Told, compute, finish, load

if TYPE_CHECKING:
    from .workflow import RayWorkflow

__all__ = ["RayRun"]

_WAITING, _RUNNING, _SETTLED = 1, 2, 3  # as in LocalRun
_FAILED = 4  # or after one that failed
_GRACE = 5.0  # seconds for cancelled tasks to end


class RayRun(LocalRun):
    """The state of one run. The values of `LocalRun` are references to packed ones.

    Without a storage a node is handed over as soon as its parents are, and Ray puts them in order.
    With one, what a node's result is made from must be known first: the digests of its parents.

    Attributes:
        refs: of a node that runs: the references of its value (None if nothing needs that) and of
            what is told of it. A stored result that is being loaded has a key of its own.
        loads: places of the nodes that wait for a stored result.
        failed: the errors of the nodes that failed.
        unclear: errors of Ray's own, which it hands on to what follows: whose they are shows when
            all has been told.
    """

    def __init__(
        self, workflow: RayWorkflow, *, return_results: bool = False, max_pending_tasks: int = 0
    ) -> None:
        super().__init__(workflow, None)
        self.remote = True
        self.remotes = workflow._remotes
        self.retried = workflow._retried
        self.return_results = return_results
        self.max_pending_tasks = max_pending_tasks
        if not return_results:
            self.kept = set()
        self.ahead = self.results is None
        self.refs: dict[int, tuple[Any, Any]] = {}
        self.loads: dict[int, list[int]] = {}
        self.failed: dict[int, BaseException] = {}
        self.unclear: dict[int, BaseException] = {}
        self.prepared: dict[int, Sequence[Callable[[], Any]]] = {}
        self.digests: dict[int, bytes] = {}
        self.here: dict[int, Any] = {}
        self.sender = Sender()

    # In the place of LocalRun's own steps.

    def report(self) -> Any:
        """Return what was done so far, and let go of all values."""
        self.here.clear()
        self.sender = Sender()
        self.refs.clear()
        return super().report()

    def _activate(self, place: int) -> None:
        super()._activate(place)
        # Now, and in the order of the nodes: so every run of the same nodes gives the same seeds.
        if self.workflow._plugins:
            try:
                self.prepared[place] = self._prepare(self.graph.nodes[place])
            except BaseException as error:
                self._note(place, error)
                raise

    def _release(self, place: int, node: Node) -> None:
        if self.ahead:  # those that waited for it went on when it was submitted
            self.state[place] = _SETTLED
            self._let_go(node)
        else:
            super()._release(place, node)

    def _results(self) -> list[Any]:
        if not self.return_results:
            return []
        while missing := [place for place in self.returned if not self._is_here(place)]:
            for place in set(missing):
                self._activate(place)
            self._work()
        return [
            self.here[place] if pick is None else pick.of(self.here[place])
            for place, (_, pick) in zip(self.returned, self.workflow.leaves, strict=True)
        ]

    def _is_here(self, place: int) -> bool:
        """Have a value in this process, if it is computed or stored."""
        if place in self.here:
            return True
        if self._is_constructor(place):
            self.here[place] = None
            return True
        if place in self.values:
            self.here[place] = unpack(ray.get(self.values.pop(place)))
            return True
        if super()._available(place):
            self.here[place] = self.values.pop(place)
            return True
        return False

    def _available(self, place: int) -> bool:
        """Whether a storage that can only be read has a result; it stays with the workers."""
        if not self.stored[place] or self.results is None:
            return False
        value, told = self._load(place)
        try:
            self.stored[place] = isinstance(ray.get(told), bytes)
        except RayTaskError as error:
            raise _told(error)[1] from error
        if self.stored[place]:
            self.values[place] = value
        return bool(self.stored[place])

    def _work(self) -> None:
        """Compute until nothing waits. After an error, all that doesn't need its node goes on."""
        ready, futures, done = self.ready, self.futures, self.done
        most = self.max_pending_tasks
        try:
            while ready or futures:
                while ready and not (most and len(futures) >= most):
                    place = heapq.heappop(ready)
                    if self.state[place] == _WAITING and not self.blockers[place]:
                        self._start(place)
                    if not done.empty():
                        self._receive(done.get())
                if futures:
                    self._receive(done.get())
        except BaseException:
            self._cancel()
            raise
        if self.failed or self.unclear:
            raise self._error()
        if _WAITING in self.state:
            raise AssertionError(f"{self.state.count(_WAITING)} nodes were left out: it is a bug")

    def _start(self, place: int) -> None:
        """Hand a node over; or have loaded or computed what it lacks first."""
        node = self.graph.nodes[place]
        if self._turns_out_to_stand(place, node):
            return
        self._have_what_it_needs(place, node)
        if self.blockers[place] or self.state[place] == _FAILED:
            return
        self.state[place] = _RUNNING
        self.progress.emit("started", place)
        try:
            self.refs[place] = self._submit_node(place, node)
        except Exception as error:  # noqa: BLE001  # noted, and raised when the rest has finished
            self._fail(place, error)
            return
        self._watch(place, self.refs[place][1])
        if self.ahead:
            value = self.refs[place][0]
            if value is not None:
                self.values[place] = value
            self._unblock(node)

    def _have_what_it_needs(self, place: int, node: Node) -> None:
        """Have loaded or computed what a node lacks; until then it is blocked."""
        lacking = []
        for parent_node in node.needs:
            parent = self.graph.positions[parent_node]
            if parent in self.values:
                continue
            if self.stored[parent]:
                self._load_for(place, parent)
            else:
                lacking.append(parent)
        if isinstance(node, MethodCall):
            _, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                lacking.append(self.graph.positions[node.before])
        if any(self.state[parent] == _FAILED for parent in lacking):
            self._stop(place)
            return
        for parent in set(lacking):
            self._activate(parent)

    def _digest(self, place: int, node: Node, value: Any, saved: str | None) -> bytes | None:
        del value  # it is where it was computed
        if saved:
            return bytes.fromhex(saved)
        if self._is_constructor(place):
            return None
        return self.digests.pop(place, b"") if node.children else b""

    def _reads_back(self, place: int, outcome: Outcome) -> bool:
        # What was saved in this run was read back by the worker that saved it.
        if outcome.value is None:
            return True
        return bool(self.results and not self.saved[place] and super()._reads_back(place, outcome))

    # Handing over.

    def _submit_node(self, place: int, node: Node) -> tuple[Any, Any]:
        """Submit a node; return the references of its value, and of what will be told of it."""
        keep = bool(self.users[place]) or place in self.kept
        parcel, values = self._parcel(place, node, keep)
        if isinstance(node, (ConstructorCall, MethodCall)):
            if isinstance(node, ConstructorCall):
                made = self.remotes.get(node, Object).remote()
            else:
                made, _ = self.objects[node.constructor]
            self.objects[node.constructor] = made, node
            remote = made.compute if keep else made.finish
        else:
            remote = self.remotes.get(node, (finish, compute))[keep]
        given = remote.remote(parcel, *values)
        return tuple(given) if keep else (None, given)

    def _parcel(self, place: int, node: Node, keep: bool) -> tuple[bytes, list[Any]]:
        """Return a node's parcel, and the values that go with it."""
        function, save = self._function(node), None
        method = function if isinstance(function, str) else ""
        if self.results and not self.stored[place] and self._has_result(place):
            save = self.workflow.workflow_name, self.graph.names[place], self._about(place, node)
        task = Task(
            place,
            node.args,
            node.kwargs,
            self.prepared.get(place, ()),
            method,
            save,
            keep,
            isinstance(node, ConstructorCall),
            bool(self.decisions and not save and node.children),
            self.retried.get(node, ()),
        )
        positions, names = self.graph.positions, self.graph.names
        needs = [positions[parent] for parent in node.needs]
        pickled, buffers = pack_task(task, node.needs, [names[parent] for parent in needs])
        before: list[Any] = [self.sender.buffer(buffer) for buffer in buffers]
        sent: list[bytes | None] = []
        for thing in (None if method else function, self.workflow.storage if save else None):
            known = b"" if thing is None else self.sender.pickled(thing)
            sent.append(known if isinstance(known, bytes) else None)
            if not isinstance(known, bytes):
                before.append(known)
        parcel = Parcel(pickled, sent[0], sent[1], len(buffers))
        return pickle.dumps(tuple(parcel)), before + [self.values[parent] for parent in needs]

    def _watch(self, key: int, ref: Any) -> None:
        future: Future[Any] = ref.future()
        self.futures[key] = future
        future.add_done_callback(lambda _: self.done.put(key))

    # Stored results that a computed node needs.

    def _load_for(self, place: int, parent: int) -> None:
        """Have a worker load a stored result, and a node wait for it."""
        self.blockers[place] += 1
        waiting = self.loads.setdefault(parent, [])
        waiting.append(place)
        if len(waiting) == 1:
            self.refs[~parent] = self._load(parent)
            self._watch(~parent, self.refs[~parent][1])

    def _load(self, place: int) -> tuple[Any, Any]:
        names = self.workflow.workflow_name, self.graph.names[place]
        given: Any = load.remote(place, self.sender.pickled(self.workflow.storage), *names)
        return tuple(given)

    def _receive_load(self, place: int) -> None:
        value, _ = self.refs.pop(~place)
        waiting = self.loads.pop(place)
        error = None
        try:
            given = self.futures.pop(~place).result()
            error = None if isinstance(given, bytes) else given.content.error
        except Exception as raised:  # noqa: BLE001  # noted, and raised when the rest has finished
            error = raised
            self.saved[place] = True  # it is there, and what keeps it from being read is no damage
            with suppress(Exception):
                ray.get(value)
        if error is None:
            self.values[place] = value
        elif self.saved[place]:
            for child in waiting:
                self._fail(child, error)
        elif self.results:
            self.results.give_up(place, error)
            self.stored[place] = False
            if self.decisions:
                self.decisions.give_up(place, f"stored result is of no use: {error}")
        for child in waiting:
            self.blockers[child] -= 1
            if not self.blockers[child] and self.state[child] == _WAITING:
                heapq.heappush(self.ready, child)

    # Taking over.

    def _receive(self, key: int) -> None:
        """Take over what a worker tells."""
        if key < 0:
            self._receive_load(~key)
            return
        future: Future[Any] = self.futures.pop(key)
        value, _ = self.refs.pop(key)
        node = self.graph.nodes[key]
        try:
            told = Told(*pickle.loads(future.result()))
        except Exception as error:  # noqa: BLE001  # raised when the rest has finished
            with suppress(Exception):
                ray.get(value)  # or Ray prints that nobody looked at this error
            self._fail(key, error)
            return
        if told.digest and not told.saved:
            self.digests[key] = bytes.fromhex(told.digest)
        elif not told.saved and self.decisions and node.children:
            self.digests[key] = os.urandom(16)
        outcome = Outcome(value, None, told.seconds, told if told.saved else None)
        if isinstance(node, (ConstructorCall, MethodCall)):
            known = self.objects.get(node.constructor)
            self._settle(key, node, outcome)
            # The last call is the one that was submitted last; after a failure there is no object.
            if known is None:
                self.objects.pop(node.constructor, None)
            elif node.constructor in self.objects:
                self.objects[node.constructor] = known
        else:
            self._settle(key, node, outcome)

    # Failing.

    def _fail(self, place: int, error: BaseException) -> None:
        """Note that a node failed, or followed one that did; give up what waits for it."""
        if self.state[place] == _FAILED:
            return
        self._stop(place)
        where, cause = _told(error)
        if isinstance(cause, RayError) and self.ahead:
            self.unclear[place] = cause
        elif where in (None, -1, place):
            self._note_failure(place, cause)

    def _stop(self, place: int) -> None:
        """Give up a node, and those that wait for it."""
        stack = [place]
        while stack:
            stopped = stack.pop()
            if self.state[stopped] == _FAILED:
                continue
            self.state[stopped] = _FAILED
            node = self.graph.nodes[stopped]
            self._let_go(node)
            if isinstance(node, (ConstructorCall, MethodCall)):
                self.objects.pop(node.constructor, None)
            children = map(self.graph.positions.get, node.children)
            stack += [
                child for child in children if child is not None and self.state[child] == _WAITING
            ]

    def _note_failure(self, place: int, error: BaseException) -> None:
        if isinstance(error, _DIED):
            died = WorkerDiedError(
                f"the worker of node {self.graph.names[place]!r} died: {error}. All that was"
                " computed before is stored"
            )
            died.__cause__ = error
            error = died
        self._note(place, error)
        self.failed[place] = error

    def _error(self) -> BaseException:
        """Return the one error of the run: that of the first node that failed."""
        for place in sorted(self.unclear):
            parents = map(self.graph.positions.__getitem__, self.graph.nodes[place].parents)
            if not any(self.state[parent] == _FAILED for parent in parents):
                self._note_failure(place, self.unclear[place])
        first, *others = sorted(self.failed)
        error = self.failed[first]
        stopped = self.state.count(_FAILED) - len(self.failed)
        if others:
            names = ", ".join(repr(self.graph.names[place]) for place in others[:10])
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            error.add_note(f"other nodes failed, too: {names}{more}")
        if stopped:
            error.add_note(f"{stopped} nodes that follow were not run; all others were")
        return error

    def _cancel(self) -> None:
        """End what runs, and wait until it has ended."""
        for made, _ in self.objects.values():
            ray.kill(made)
        for force in (False, True):
            for key, (_, told) in self.refs.items():
                stateful = key >= 0 and isinstance(self.graph.nodes[key], _STATEFUL)
                if not stateful and not self.futures[key].done():
                    ray.cancel(told, force=force)
            if not wait(self.futures.values(), _GRACE).not_done:
                break


def _told(error: BaseException) -> tuple[int | None, BaseException]:
    """Return where an error comes from, if a worker told, and the error of the user's function."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if not isinstance(cause, FailedNodeError):
        return None, error
    outcome: Outcome = cause.outcome.content
    told = outcome.error or error
    if told.__traceback__ is None:
        told.add_note(f"in the worker:\n{outcome.remote_traceback}")
    return cause.place, told


_STATEFUL = (ConstructorCall, MethodCall)
_DIED = (WorkerCrashedError, RayActorError, OutOfMemoryError, NodeDiedError)
