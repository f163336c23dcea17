"""One run of a `RayWorkflow`: the driver decides and submits, the workers compute and save.

`_work` submits ready nodes (`_start`), and receives answers (`_receive`). The values of `Run` are
references: a value stays with the workers, and the driver gets a small `Answer`. A node that needs
a stored result waits for a task that loads it. If a node fails, its descendants are given up
(`_stop`); all other nodes finish before the first error is raised.
"""

from __future__ import annotations

import heapq
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayTaskError

from functionfuse.graph.nodes import ConstructorCall, MethodCall, Node
from functionfuse.run.job import Outcome, Portable
from functionfuse.run.scheduler import RUNNING, SETTLED, WAITING, Run
from functionfuse.run.workflow import ComputingWorkflow
from functionfuse.serializers.portable import dumps
from functionfuse.serializers.script import borrowed

from .failures import Failures, origin_of
from .handed import Handed
from .parcel import Parcel, Sender, Task, pack_task, unpack
from .tasks import Answer, Object, compute, finish, load

__all__ = ["RayRun"]

_FAILED = 5  # failed, or depends on a failed node; beside the states of Run


class RayRun(Run):
    """The state of one run. The values of `Run` are references to packed values.

    Without a storage, a node is submitted as soon as its parents are submitted (`ahead`), and Ray
    orders them. With a storage, it waits for its parents: their digests are part of its record.

    Args:
        remotes: by node, the actor class or tasks of nodes with options: see `remotes_of`.
        retried: by node, the errors after which Ray tries again.

    Attributes:
        handed: the submitted tasks, by index of the node; a task that loads a stored result has the
            key `~index`.
        loads: by index of a stored result that is being loaded, the nodes that wait for it.
        failures: the errors of the nodes that failed.
    """

    def __init__(
        self,
        workflow: ComputingWorkflow,
        remotes: Mapping[Node, Any],
        retried: Mapping[Node, Sequence[type[BaseException]]],
        *,
        return_results: bool = False,
        max_pending_tasks: int = 0,
    ) -> None:
        super().__init__(workflow, remote=True)
        self.remotes = remotes
        self.retried = retried
        self.return_results = return_results
        self.max_pending_tasks = max_pending_tasks
        if not return_results:
            self.needed = set()
        self.ahead = self.results is None
        self.handed = Handed()
        self.loads: dict[int, list[int]] = {}
        self.failures = Failures(self.graph, self._note)
        self.prepared: dict[int, Sequence[Callable[[], Any]]] = {}
        self.digests: dict[int, bytes] = {}
        self.here: dict[int, Any] = {}
        self.sender = Sender()

    # Overrides of Run's steps.

    def report(self) -> Any:
        """Return the report, and release all values."""
        self.here.clear()
        self.sender = Sender()
        self.handed = Handed()
        return super().report()

    def _activate(self, index: int) -> None:
        super()._activate(index)
        # Now, in the order of the nodes, because an initializer can count them.
        if self.plugins:
            try:
                self.prepared[index] = self._prepare(self.graph.nodes[index])
            except BaseException as error:
                self._note(index, error)
                raise

    def _release(self, index: int, node: Node) -> None:
        if self.ahead:  # its children were unblocked when it was submitted
            self.state[index] = SETTLED
            self._let_go(node)
        else:
            super()._release(index, node)

    def _results(self) -> list[Any]:
        if not self.return_results:
            return []
        while missing := [index for index in self.returned if not self._is_here(index)]:
            for index in set(missing):
                self._activate(index)
            self._work()
        return [
            self.here[index] if pick is None else pick.of(self.here[index])
            for index, (_, pick) in zip(self.returned, self.workflow.leaves, strict=True)
        ]

    def _is_here(self, index: int) -> bool:
        """Fetch a value to this process if it is computed or stored; return whether it is."""
        if index in self.here:
            return True
        if self._is_constructor(index):
            self.here[index] = None
            return True
        if index in self.values:
            self.here[index] = unpack(ray.get(self.values.pop(index)))
            return True
        if super()._available(index):
            self.here[index] = self.values.pop(index)
            return True
        return False

    def _available(self, index: int) -> bool:
        """Return whether a storage without headers has a result, which stays with the workers."""
        if not self.stored[index] or self.results is None:
            return False
        value, told = self._load(index)
        try:
            self.stored[index] = isinstance(ray.get(told), bytes)
        except RayTaskError as error:
            raise origin_of(error)[1] from error
        if self.stored[index]:
            self.values[index] = value
        return bool(self.stored[index])

    def _work(self) -> None:
        """Compute until no node waits. After an error, all nodes that don't depend on it finish."""
        ready, handed = self.ready, self.handed
        most = self.max_pending_tasks
        try:
            while ready or handed:
                while ready and not (most and len(handed) >= most):
                    index = heapq.heappop(ready)
                    if self.state[index] == WAITING and not self.blockers[index]:
                        self._start(index)
                    for key, told in handed.came():
                        self._receive(key, told)
                if handed:
                    for key, told in handed.next():
                        self._receive(key, told)
        except BaseException:
            self._cancel()
            raise
        if self.failures:
            raise self.failures.first(lambda index: self.state[index] == _FAILED)
        if WAITING in self.state:
            raise AssertionError(f"{self.state.count(WAITING)} nodes were left out: it is a bug")

    def _start(self, index: int) -> None:
        """Submit a node; if values that it needs are missing, load or compute these first."""
        node = self.graph.nodes[index]
        if self._turns_out_to_stand(index, node):
            return
        self._have_what_it_needs(index, node)
        if self.blockers[index] or self.state[index] == _FAILED:
            return
        self.state[index] = RUNNING
        self.events.emit("started", index)
        try:
            value, answer = self._submit_node(index, node)
        except Exception as error:  # noqa: BLE001  # raised when the other nodes have finished
            self._fail(index, error)
            return
        self.handed.add(index, value, answer)
        if self.ahead:
            if value is not None:
                self.values[index] = value
            self._unblock(node)

    def _have_what_it_needs(self, index: int, node: Node) -> None:
        """Load or compute the missing values that a node needs, and block it until then."""
        lacking = []
        for parent_node in node.needs:
            parent = self.graph.positions[parent_node]
            if parent in self.values:
                continue
            if self.stored[parent]:
                self._load_for(index, parent)
            else:
                lacking.append(parent)
        if isinstance(node, MethodCall):
            _, last = self.objects.get(node.constructor, (None, None))
            if last is not node.before:
                lacking.append(self.graph.positions[node.before])
        if any(self.state[parent] == _FAILED for parent in lacking):
            self._stop(index)
            return
        for parent in set(lacking):
            self._activate(parent)

    def _digest(self, index: int, node: Node, value: Any, saved: str | None) -> bytes | None:
        del value  # only a reference: the worker computed the digest
        if saved:
            return bytes.fromhex(saved)
        if self._is_constructor(index):
            return None
        return self.digests.pop(index, b"") if node.children else b""

    def _reads_back(self, index: int, outcome: Outcome) -> bool:
        # The worker that saved a result in this run has read it back.
        if outcome.value is None:
            return True
        return bool(self.results and not self.saved[index] and super()._reads_back(index, outcome))

    # Submit a node.

    def _submit_node(self, index: int, node: Node) -> tuple[Any, Any]:
        """Submit a node; return the references of its value and of its answer."""
        wanted = bool(self.users[index]) or index in self.needed
        parcel, values = self._parcel(index, node, wanted)
        if isinstance(node, (ConstructorCall, MethodCall)):
            if isinstance(node, ConstructorCall):
                made = self.remotes.get(node, Object).remote()
            else:
                made, _ = self.objects[node.constructor]
            self.objects[node.constructor] = made, node
            remote = made.compute if wanted else made.finish
        else:
            remote = self.remotes.get(node, (finish, compute))[wanted]
        given = remote.remote(parcel, *values)
        return tuple(given) if wanted else (None, given)

    def _parcel(self, index: int, node: Node, wanted: bool) -> tuple[bytes, list[Any]]:
        """Return a node's parcel, and the values to send with it."""
        function, save = self._function(node), None
        method = function if isinstance(function, str) else ""
        if self.results and not self.stored[index] and self._has_result(index):
            save = self.workflow.workflow_name, self.graph.names[index], self._about(index, node)
        task = Task(
            index,
            node.args,
            node.kwargs,
            self.prepared.get(index, ()),
            method,
            save,
            wanted,
            isinstance(node, ConstructorCall),
            bool(self.decisions and not save and node.children),
            self.retried.get(node, ()),
            self._expected(index) if save or isinstance(node, ConstructorCall) else (),
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

    # Stored results that a computed node needs.

    def _load_for(self, index: int, parent: int) -> None:
        """Let a worker load a stored result, and block a node until then."""
        self.blockers[index] += 1
        waiting = self.loads.setdefault(parent, [])
        waiting.append(index)
        if len(waiting) == 1:
            self.handed.add(~parent, *self._load(parent))

    def _load(self, index: int) -> tuple[Any, Any]:
        names = self.workflow.workflow_name, self.graph.names[index]
        storage = self.sender.pickled(self.workflow.storage)
        given: Any = load.remote(index, storage, names, self._planned(index), self._borrowed(index))
        return tuple(given)

    def _borrowed(self, index: int) -> bytes:
        """Return the script's present definitions, pickled, that loading a stored result needs."""
        stored: Any = self.decisions.stored(index) if self.decisions else None
        header: Any = getattr(stored, "info", stored)
        own = header.own if getattr(header, "by_value", False) else ()
        return dumps(borrowed(own)) if own else b""

    def _receive_load(self, index: int, told: Any) -> None:
        value = self.handed.pop(~index)
        waiting = self.loads.pop(index)
        error = None
        if isinstance(told, Portable):
            error = told.content.error
        elif isinstance(told, Exception):
            error = told
            self.saved[index] = True  # the result is not damaged: fail instead of computing again
            with suppress(Exception):
                ray.get(value)
        if error is None:
            self.values[index] = value
        elif self.saved[index]:
            for child in waiting:
                self._fail(child, error)
        elif self.results:
            self.results.give_up(index, error)
            self.stored[index] = False
            if self.decisions:
                self.decisions.give_up(index, f"stored result is of no use: {error}")
        for child in waiting:
            self.blockers[child] -= 1
            if not self.blockers[child] and self.state[child] == WAITING:
                heapq.heappush(self.ready, child)

    # Take over an answer.

    def _receive(self, key: int, answer: Any = None) -> None:
        """Take over the answer of a worker, or the error."""
        if key < 0:
            self._receive_load(~key, answer)
            return
        value = self.handed.pop(key)
        node = self.graph.nodes[key]
        if isinstance(answer, Exception):  # raised when the rest has finished
            if value is not None:
                with suppress(Exception):
                    ray.get(value)  # or Ray prints that nobody retrieved this error
            self._fail(key, answer)
            return
        told = Answer(*pickle.loads(answer))
        if told.digest and not told.saved:
            self.digests[key] = bytes.fromhex(told.digest)
        elif not told.saved and self.decisions and node.children:
            self.digests[key] = os.urandom(16)
        saved = told if told.saved else None
        outcome = Outcome(value, None, told.seconds, saved, changed=told.changed)
        if isinstance(node, (ConstructorCall, MethodCall)):
            known = self.objects.get(node.constructor)
            self._settle(key, node, outcome)
            # The last call is the one submitted last. After a failure there is no object.
            if known is None:
                self.objects.pop(node.constructor, None)
            elif node.constructor in self.objects:
                self.objects[node.constructor] = known
        else:
            self._settle(key, node, outcome)

    # Fail.

    def _fail(self, index: int, error: BaseException) -> None:
        """Record that a node failed, and give up the nodes that wait for it."""
        if self.state[index] == _FAILED:
            return
        self._stop(index)
        self.failures.add(index, error, ahead=self.ahead)

    def _stop(self, index: int) -> None:
        """Give up a node, and those that wait for it."""
        stack = [index]
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
                child for child in children if child is not None and self.state[child] == WAITING
            ]

    def _cancel(self) -> None:
        """Cancel running tasks, and wait until they have ended."""
        for made, _ in self.objects.values():
            ray.kill(made)
        nodes = self.graph.nodes
        indexes = [key for key in self.handed.values if key >= 0]
        self.handed.cancel({index for index in indexes if isinstance(nodes[index], _STATEFUL)})


_STATEFUL = (ConstructorCall, MethodCall)
