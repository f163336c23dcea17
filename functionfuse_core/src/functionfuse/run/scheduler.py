"""One run of a workflow: which nodes are computed, in which order, and where their results are.

A run decides from the storage which nodes to compute, and makes these WAITING. A node is ready when
none of its parents is WAITING or RUNNING (`blockers`); the heap `ready` gives the lowest index
first. A backend's `_work` takes ready nodes, computes them, and passes each outcome to `_settle`,
which unblocks the children and releases values that no other node uses (`users`). If a stored
result can't be read when it is needed, its node becomes WAITING after all.
"""

from __future__ import annotations

import heapq
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import FingerprintError, FunctionFuseError
from ..graph.nodes import ConstructorCall, MethodCall, Node
from ..graph.workflow import NEVER
from ..names import label_of
from ..reuse.described import describing
from ..reuse.identity import Identities
from ..reuse.plan import MAYBE, REUSE, Decisions
from ..reuse.values import digest_of
from ..reuse.workers import Expected
from .events import RunEvents
from .job import Outcome
from .nodeplugins import counting, made_for
from .owning import Master, is_shared
from .report import Report
from .stored import OF_NO_USE, StoredResults

if TYPE_CHECKING:
    from .workflow import ComputingWorkflow

__all__ = ["RUNNING", "SETTLED", "SUBMITTED", "WAITING", "Run"]

logger = logging.getLogger(__name__)

_IDLE = 0  # not needed, or reused
WAITING = 1  # will be computed, after its parents
SUBMITTED = 2  # to an executor, which begins it when it can
RUNNING = 3
SETTLED = 4  # computed

_PENDING = WAITING, SUBMITTED, RUNNING
_STATEFUL = ConstructorCall, MethodCall


class Run(ABC):
    """The state of one run. A node is known by its index in the graph; parents have lower ones.

    A subclass decides where and how nodes are computed: its `_work` takes nodes from `ready`, and
    passes the outcomes to `_settle`, until no node waits.

    Args:
        remote: whether functions are called in other processes.
    """

    def __init__(self, workflow: ComputingWorkflow, *, remote: bool = False) -> None:
        self.workflow = workflow
        self.remote = remote
        self.graph = workflow.graph()
        count = len(self.graph.nodes)
        self.state = bytearray(count)
        self.stored = bytearray(count)  # whether the storage holds the node's present result
        self.saved = bytearray(count)  # whether this run saved it
        self.blockers = [0] * count  # parents that are WAITING or RUNNING
        self.users = [0] * count  # children that are WAITING or RUNNING
        self.ready: list[int] = []  # heap: WAITING nodes that had no blockers when pushed
        self.values: dict[int, Any] = {}
        self.masters: dict[int, Master] = {}  # pickles of values that several calls take
        self.took: dict[int, set[int]] = {}  # by RUNNING node: the nodes whose values it has
        self.takers = Counter[int]()  # by node: how many RUNNING nodes have its value
        self.objects: dict[Node, tuple[Any, Node]] = {}  # by constructor: object and last call
        self.calls_left: Counter[Node] = Counter()  # by constructor: WAITING or RUNNING calls
        names = workflow.workflow_name, self.graph.names
        self.events = RunEvents(workflow.workflow_name, self.graph, workflow.listeners)
        self.results = None if workflow.storage is None else StoredResults(workflow.storage, *names)
        self.decisions: Decisions | None = None
        self.warned: set[str] = set()
        self.started = False  # before, nodes are activated in order, parents first
        positions = self.graph.positions
        self.returned = [positions[node] for node, _ in workflow.leaves]
        self.needed = set(self.returned)
        self.unsaved = {positions[node] for node in workflow._logged if node in positions}
        self.plugins = {
            node: [made_for(plugin, self.graph.names[positions[node]]) for plugin in plugins]
            for node, plugins in workflow._plugins.items()
            if node in positions
        }

    def execute(self) -> list[Any]:
        """Run, and return the results of the given nodes."""
        if self.results:
            self.results.prepare()
        indexes = self.events.wanted = self._decide()
        if self.decisions and self.results:
            for index, info in enumerate(self.decisions.infos):
                if isinstance(info, FunctionFuseError):
                    self.results.give_up(index, info)
            for index in indexes:
                self.events.emit("planned", index)
            planned = set(indexes)
            for index, verdict in enumerate(self.decisions.verdicts):
                if verdict == REUSE and index not in planned:
                    self.events.emit("reused", index)
        for index in indexes:
            self._activate(index)
        self.started = True
        self._work()
        return self._results()

    def _results(self) -> list[Any]:
        """Return the results of the given nodes."""
        # A stored result can prove damaged when it is loaded; then its node must be computed.
        self._load_many(self.returned)
        while missing := [index for index in self.returned if not self._available(index)]:
            for index in set(missing):
                self._activate(index)
            self._work()
        return [
            self.values[index] if pick is None else pick.of(self.values[index])
            for index, (_, pick) in zip(self.returned, self.workflow.leaves, strict=True)
        ]

    def plan(self) -> Report:
        """Return the plan of `execute`."""
        if self.results is None or self.results.tells:
            self.events.wanted = self._decide()
        return self.events.plan()

    def report(self) -> Report:
        """Return the report, and release all values: the run is over."""
        self.values.clear()
        self.masters.clear()
        self.objects.clear()
        if self.results:
            self.results.remember()
        return self.events.report()

    # Decide which nodes to compute.

    def _decide(self) -> Sequence[int]:
        """Find the stored results; return the indexes of the nodes to compute, ascending."""
        graph, workflow = self.graph, self.workflow
        identities = Identities(
            workflow._functions,
            own=workflow._own,
            packages=workflow._packages,
            plugins={node: list(counting(found)) for node, found in self.plugins.items()},
        )
        if self.results is None or not self.results.tells:
            identities.check(graph.nodes)  # `Decisions` checks all nodes itself
        if self.results is None:
            return range(len(graph.nodes))
        # The result of a constructor is None, so there is no reason to make the object for it.
        returned = [index for index in self.returned if not self._is_constructor(index)]
        targets = [*graph.last(), *returned, *self.unsaved]
        if self.results.tells:
            self.decisions = self.events.decisions = Decisions(
                graph,
                identities,
                policies=workflow._policies,
                policy=workflow._policy,
                unsaved=self.unsaved,
                infos=self.results.infos(),
            )
            self.stored = bytearray(verdict == REUSE for verdict in self.decisions.verdicts)
            return self.decisions.needed(targets)
        # A storage without headers: read only the results that are needed, and keep their values.
        found: set[int] = set()
        while targets:
            index = targets.pop()
            if index in found:
                continue
            policy = workflow._policies.get(graph.nodes[index], workflow._policy)
            self.stored[index] = self._has_result(index) and policy != NEVER
            self.stored[index] = self._available(index)
            if self.stored[index]:
                self.events.emit("reused", index)
            else:
                found.add(index)
                targets += [graph.positions[parent] for parent in graph.nodes[index].parents]
        return sorted(found)

    def _has_result(self, index: int) -> bool:
        """Return whether a node's result is to be stored."""
        return index not in self.unsaved and not self._is_constructor(index)

    def _is_constructor(self, index: int) -> bool:
        return isinstance(self.graph.nodes[index], ConstructorCall)

    def _activate(self, index: int) -> None:
        """Make a node WAITING, blocked by those of its parents that are WAITING or RUNNING."""
        state, node = self.state, self.graph.nodes[index]
        state[index] = WAITING
        positions, blockers = self.graph.positions, 0
        for parent_node in node.parents:
            parent = positions[parent_node]
            self.users[parent] += 1
            if state[parent] in _PENDING:
                blockers += 1
        self.blockers[index] = blockers
        if self.started:
            for child_node in node.children:
                child = positions.get(child_node)
                if child is not None and state[child] == WAITING:
                    self.blockers[child] += 1
        if type(node) in _STATEFUL:
            self.calls_left[node.constructor] += 1
        if not blockers:
            heapq.heappush(self.ready, index)

    def _turns_out_to_stand(self, index: int, node: Node) -> bool:
        """Reuse a node's stored result after all, if the results of its parents did not change."""
        decisions = self.decisions
        if decisions and decisions.verdicts[index] == MAYBE and decisions.judge(index) == REUSE:
            self.stored[index] = True
            self.events.emit("reused", index)
            self._release(index, node)
            return True
        return False

    # Prepare a computation.

    @abstractmethod
    def _work(self) -> None:
        """Compute until nothing waits."""

    def _function(self, node: Node) -> Callable[..., Any] | str:
        """Return the function to call for a node, or the name of the method."""
        replaced = self.workflow._functions
        if replaced and node in replaced:
            return replaced[node]
        remote = self.remote or type(node) is MethodCall
        return node.portable_function if remote else node.function

    def _prepare(self, node: Node) -> list[Callable[[], object]]:
        """Return the calls that the node's initializers make before it."""
        prepare = []
        for plugin in self.plugins.get(node, ()):
            plugin.local_initialize()
            prepare.append(plugin.remote_initialize())
        return [call for call in prepare if call is not None]

    def _about(self, index: int, node: Node) -> dict[str, object]:
        """Return the fields to store beside a node's result. The parents must be settled."""
        function = self.workflow.function_of(node)
        label = node.label if function is node.function else label_of(function)
        about: dict[str, object] = {"function": f"{getattr(function, '__module__', None)}.{label}"}
        if self.decisions:
            about["replaces"] = _replaced(self.decisions.infos[index])
            about["fingerprint"] = self.decisions.record(index)
            about["describe"] = describing(self.decisions.identities.own_packages(node))
            self._warn(index, self.decisions.changed.get(index, ""))
        return about

    def _expected(self, index: int) -> list[tuple[Expected, object]]:
        """Return the comparisons that another process makes before it calls a node."""
        return self.decisions.expected(index) if self.remote and self.decisions else []

    def _warn(self, index: int, changed: str) -> None:
        """Warn that a variable changed while nodes needed it, once for each variable."""
        if changed and changed not in self.warned:
            self.warned.add(changed)
            logger.warning(
                "%s changed during the run of workflow %r, so the results of node %r, and of those"
                " that use it later, will be computed again in the next run",
                *(changed, self.workflow.workflow_name, self.graph.names[index]),
            )

    # Take over an outcome.

    def _settle(self, index: int, node: Node, outcome: Outcome) -> None:
        """Take over an outcome, and release the values that no node needs any more."""
        if outcome.reused is not None and self.decisions:
            self.decisions.take(index, outcome.reused)
            self.stored[index] = True
            self.events.emit("reused", index)
            self._release(index, node)
            return
        if outcome.changed and self.decisions:
            self.decisions.changed[index] = outcome.changed
            self._warn(index, outcome.changed)
        self.events.emit("finished", index, seconds=outcome.seconds)
        digest = None
        if outcome.saved is not None:
            self.stored[index] = self.saved[index] = True
            self.events.emit("saved", index, size=getattr(outcome.saved, "size", 0))
            digest = getattr(outcome.saved, "digest", None)
        if self.decisions and self.decisions.digests[index] is None:
            saved = outcome.saved if digest is not None else None
            self.decisions.settle(index, self._digest(index, node, outcome.value, digest), saved)
        # A call replayed for its object already has a stored result, which stays the result.
        replayed = self.stored[index] and outcome.saved is None
        wanted = not replayed and (self.users[index] or index in self.needed)
        # A node may need a value that none needed when the job began: load or compute it then.
        if wanted and outcome.returned and not self._reads_back(index, outcome):
            value = outcome.value
            if self.results and type(node) is MethodCall and not is_shared(value):
                value = self._copy(index, value)  # the object may hold the value and change it
                self.masters.pop(index, None)
            self.values[index] = value
        if type(node) in _STATEFUL:
            constructor = node.constructor
            self.objects[constructor] = (outcome.target, node)
            self.calls_left[constructor] -= 1
            if not self.calls_left[constructor]:
                del self.objects[constructor]
        self._release(index, node)

    def _reads_back(self, index: int, outcome: Outcome) -> bool:
        """Return whether later nodes get the result as read from the storage."""
        if outcome.read_back or self.results is None:
            return outcome.read_back
        return bool(self.stored[index]) and self.results.read_back

    def _digest(self, index: int, node: Node, value: Any, saved: str | None) -> bytes | None:
        """Return the digest of a result, for the nodes that use it."""
        if saved is not None:
            return bytes.fromhex(saved)
        if self._is_constructor(index):
            return None
        if not node.children:
            return b""
        try:
            return digest_of(value)  # a node that is never stored
        except FingerprintError:
            return os.urandom(16)

    def _release(self, index: int, node: Node) -> None:
        """Mark a node SETTLED, release its arguments, and unblock its children."""
        self.state[index] = SETTLED
        self._let_go(node)
        self._unblock(node)

    def _let_go(self, node: Node) -> None:
        """Release the values that a node used, unless another node uses them."""
        positions, users, takers = self.graph.positions, self.users, self.takers
        took = self.took.pop(positions[node], ()) if self.took else ()
        for parent_node in node.parents:
            parent = positions[parent_node]
            users[parent] -= 1
            if parent in took:
                takers[parent] -= 1
            if not users[parent]:
                self.masters.pop(parent, None)
                if parent not in self.needed:
                    self.values.pop(parent, None)

    def _unblock(self, node: Node) -> None:
        """Remove a node from the blockers of its children."""
        positions, state, blockers = self.graph.positions, self.state, self.blockers
        for child_node in node.children:
            child = positions.get(child_node)
            if child is not None and state[child] == WAITING:
                blockers[child] -= 1
                if not blockers[child]:
                    heapq.heappush(self.ready, child)

    def _taken(self, index: int, by: int) -> Any:
        """Return a node's value for another node's call: a copy, unless this is the last use."""
        value = self.values[index]
        if self.results is None or is_shared(value):
            return value
        self.took.setdefault(by, set()).add(index)
        self.takers[index] += 1
        last = index not in self.needed and self.users[index] == self.takers[index]
        if not last or not self.stored[index]:
            return self._copy(index, value)
        del self.values[index]  # the call may change it; the storage has the result
        return value

    def _copy(self, index: int, value: Any) -> Any:
        """Return a copy of a node's value: a new memory map if it is big, else from its pickle."""
        if self.results and self.decisions and self.stored[index]:
            found = self.results.again(index, self.decisions.stored(index))
            if found:
                return found[0]
        try:
            if index not in self.masters:
                self.masters[index] = Master(value)
            return self.masters[index].copy()
        except Exception:  # noqa: BLE001  # pickling can raise anything; share the value then
            return value

    # Stored results.

    def _load_many(self, indexes: Sequence[int]) -> None:
        """Load the stored ones of several values; `_available` handles unreadable ones."""
        if self.results and len(indexes) > 1:
            stored = {index for index in indexes if self.stored[index] and index not in self.values}
            if len(stored) > 1:
                digests = {index: self._planned(index) for index in sorted(stored)}
                self.values.update(self.results.load_many(digests))

    def _available(self, index: int) -> bool:
        """Load a node's value if it is stored; return whether the value is in memory.

        Raises:
            DamagedResultError, ResultNotFoundError: a result saved in this run can't be read back.
        """
        if index in self.values:
            return True
        if not self.stored[index] or self.results is None:
            if self._is_constructor(index):
                self.values[index] = None
                return True
            return False
        try:
            self.values[index] = self.results.load(index, self._planned(index))
        except OF_NO_USE as error:
            if self.saved[index]:
                raise
            self.results.give_up(index, error)
            self.stored[index] = False
            if self.decisions:
                self.decisions.give_up(index, f"stored result is of no use: {error}")
            return False
        return True

    def _planned(self, index: int) -> str:
        """Return the digest of the stored value that the plan saw; "" if it saw none."""
        if self.decisions is None or self.saved[index]:
            return ""
        return getattr(self.decisions.infos[index], "digest", "")

    def _note(self, index: int, error: BaseException) -> None:
        """Add a note with the node's name to an error, and emit "failed"."""
        self.events.emit("failed", index, error=error)
        node = self.graph.nodes[index]
        error.add_note(
            f"in node {self.graph.names[index]!r} of workflow {self.workflow.workflow_name!r}:"
            f" {node.described()}"
        )


def _replaced(info: Any) -> Any:
    """Return the header of the stored result for `Storage.save`, if side data lies beside it."""
    if info is None:
        return None
    # A header that can't be read, or that another kind of storage gives, says nothing.
    try:
        side_data = getattr(info, "side_data", None)
    except FunctionFuseError:
        return ...  # it is damaged where the plan did not look
    return ... if side_data is None else info if side_data else None
