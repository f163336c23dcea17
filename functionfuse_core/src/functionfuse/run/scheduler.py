"""One run of a workflow: which nodes are computed, in what order, and where results are."""

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

__all__ = ["RUNNING", "SETTLED", "WAITING", "Run"]

logger = logging.getLogger(__name__)

_IDLE = 0  # not asked for, or reused
WAITING = 1  # to be computed, after its parents
RUNNING = 2
SETTLED = 3  # computed

_PENDING = WAITING, RUNNING
_STATEFUL = ConstructorCall, MethodCall


class Run(ABC):
    """The state of one run. A place is a node's index in the graph; parents have lower ones.

    Where and how nodes are computed is for those who inherit it: `_work` takes what is `ready`, and
    gives the outcomes to `_settle`, until nothing waits.

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
        self.saved = bytearray(count)  # whether this run put it there
        self.blockers = [0] * count  # parents that are WAITING or RUNNING
        self.users = [0] * count  # children that are WAITING or RUNNING
        self.ready: list[int] = []  # heap: WAITING, without blockers when they came in
        self.values: dict[int, Any] = {}
        self.masters: dict[int, Master] = {}  # of values that several calls take
        self.took: dict[int, set[int]] = {}  # of a RUNNING node: the places whose values it has
        self.takers = Counter[int]()  # of a place: how many of these have its value
        self.objects: dict[Node, tuple[Any, Node]] = {}  # of a constructor: object, call made last
        self.calls_left: Counter[Node] = Counter()  # of a constructor: WAITING or RUNNING calls
        names = workflow.workflow_name, self.graph.names
        self.events = RunEvents(workflow.workflow_name, self.graph, workflow.listeners)
        self.results = None if workflow.storage is None else StoredResults(workflow.storage, *names)
        self.decisions: Decisions | None = None
        self.warned: set[str] = set()
        self.started = False  # until then nodes are activated in order, parents first
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
        """Run, and return the results of the handed nodes."""
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
        """Return the results of the handed nodes."""
        # A stored result can turn out to be damaged when it is loaded; then there is more to do.
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
        """Return what `execute` would do."""
        if self.results is None or self.results.tells:
            self.events.wanted = self._decide()
        return self.events.plan()

    def report(self) -> Report:
        """Return what was done so far, and let go of all values: the run is over."""
        self.values.clear()
        self.masters.clear()
        self.objects.clear()
        if self.results:
            self.results.remember()
        return self.events.report()

    # What is to be computed.

    def _decide(self) -> Sequence[int]:
        """Find what is stored, and return the places of what is to be computed, ascending."""
        graph, workflow = self.graph, self.workflow
        identities = Identities(
            workflow._functions,
            own=workflow._own,
            packages=workflow._packages,
            plugins={node: list(counting(found)) for node, found in self.plugins.items()},
        )
        if self.results is None or not self.results.tells:
            identities.check(graph.nodes)  # what decides looks at all nodes
        if self.results is None:
            return range(len(graph.nodes))
        # An object's own result is None, so that one is handed over is no reason to make it.
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
        # A storage that can only be read: look for no more than is needed, and keep what comes.
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
        """Whether a node's result belongs into a storage."""
        return index not in self.unsaved and not self._is_constructor(index)

    def _is_constructor(self, index: int) -> bool:
        return isinstance(self.graph.nodes[index], ConstructorCall)

    def _activate(self, index: int) -> None:
        """Have a node computed, after those of its parents that are to be computed."""
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
        """Reuse a node's stored result after all, if its parents came out as they were."""
        decisions = self.decisions
        if decisions and decisions.verdicts[index] == MAYBE and decisions.judge(index) == REUSE:
            self.stored[index] = True
            self.events.emit("reused", index)
            self._release(index, node)
            return True
        return False

    # What computing takes.

    @abstractmethod
    def _work(self) -> None:
        """Compute until nothing waits."""

    def _function(self, node: Node) -> Callable[..., Any] | str:
        """Return what is called for a node; the name of a method."""
        replaced = self.workflow._functions
        if replaced and node in replaced:
            return replaced[node]
        remote = self.remote or type(node) is MethodCall
        return node.portable_function if remote else node.function

    def _prepare(self, node: Node) -> list[Callable[[], object]]:
        """Ask the node's plugins for what runs before it."""
        prepare = []
        for plugin in self.plugins.get(node, ()):
            plugin.local_initialize()
            prepare.append(plugin.remote_initialize())
        return [call for call in prepare if call is not None]

    def _about(self, index: int, node: Node) -> dict[str, object]:
        """Return what is stored about a node's result beside it; its parents are settled."""
        about: dict[str, object] = {
            "function": f"{getattr(node.function, '__module__', None)}.{node.label}"
        }
        if self.decisions:
            about["fingerprint"] = self.decisions.record(index)
            about["describe"] = describing(self.decisions.identities.own_packages(node))
            self._warn(index, self.decisions.changed.get(index, ""))
        return about

    def _expected(self, index: int) -> list[tuple[Expected, object]]:
        """Return what another process compares before it calls a node."""
        return self.decisions.expected(index) if self.remote and self.decisions else []

    def _warn(self, index: int, changed: str) -> None:
        """Say once of each variable that it changed while nodes needed it."""
        if changed and changed not in self.warned:
            self.warned.add(changed)
            logger.warning(
                "%s changed during the run of workflow %r, so the results of node %r, and of those"
                " that use it later, will be computed again in the next run",
                *(changed, self.workflow.workflow_name, self.graph.names[index]),
            )

    # What was computed.

    def _settle(self, index: int, node: Node, outcome: Outcome) -> None:
        """Take over a result, and let go of what nobody needs any more."""
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
        # A call that was made again for its object has a stored result, which stays the result.
        replayed = self.stored[index] and outcome.saved is None
        wanted = not replayed and (self.users[index] or index in self.needed)
        # Somebody may want what nobody wanted when it began: it is loaded then, or computed again.
        if wanted and outcome.returned and not self._reads_back(index, outcome):
            value = outcome.value
            if self.results and type(node) is MethodCall and not is_shared(value):
                value = self._copy(index, value)  # the object may have it, and change it
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
        """Whether what follows is given what the storage gives back, and not the result."""
        if outcome.read_back or self.results is None:
            return outcome.read_back
        return bool(self.stored[index]) and self.results.read_back

    def _digest(self, index: int, node: Node, value: Any, saved: str | None) -> bytes | None:
        """Return the digest of a result for the nodes that are made from it."""
        if saved is not None:
            return bytes.fromhex(saved)
        if self._is_constructor(index):
            return None
        if not node.children:
            return b""
        try:
            return digest_of(value)  # of a node that is never stored
        except FingerprintError:
            return os.urandom(16)

    def _release(self, index: int, node: Node) -> None:
        """Let go of what only this node needed, and let those go on that waited for it."""
        self.state[index] = SETTLED
        self._let_go(node)
        self._unblock(node)

    def _let_go(self, node: Node) -> None:
        """Release what a node needed, as far as no other does."""
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
        """Let those go on that waited for a node."""
        positions, state, blockers = self.graph.positions, self.state, self.blockers
        for child_node in node.children:
            child = positions.get(child_node)
            if child is not None and state[child] == WAITING:
                blockers[child] -= 1
                if not blockers[child]:
                    heapq.heappush(self.ready, child)

    def _taken(self, index: int, by: int) -> Any:
        """Return a node's value for the call of another: a copy, unless nobody takes it later."""
        value = self.values[index]
        if self.results is None or is_shared(value):
            return value
        self.took.setdefault(by, set()).add(index)
        self.takers[index] += 1
        last = index not in self.needed and self.users[index] == self.takers[index]
        if not last or not self.stored[index]:
            return self._copy(index, value)
        del self.values[index]  # it may be changed from here on; the storage has it
        return value

    def _copy(self, index: int, value: Any) -> Any:
        """Return a copy of a node's value: mapped again if it is big, else from its bytes."""
        if self.results and self.decisions and self.stored[index]:
            found = self.results.again(index, self.decisions.stored(index))
            if found:
                return found[0]
        try:
            if index not in self.masters:
                self.masters[index] = Master(value)
            return self.masters[index].copy()
        except Exception:  # noqa: BLE001  # whatever pickling raises: it can't be copied
            return value

    # Stored results.

    def _load_many(self, indexes: Sequence[int]) -> None:
        """Load those of several values that are stored; `_available` tells what can't be had."""
        if self.results and len(indexes) > 1:
            stored = {index for index in indexes if self.stored[index] and index not in self.values}
            if len(stored) > 1:
                digests = {index: self._planned(index) for index in sorted(stored)}
                self.values.update(self.results.load_many(digests))

    def _available(self, index: int) -> bool:
        """Whether a node's value is at hand; a stored one is loaded.

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
        """Return the digest of the stored value that the plan saw; "" where it saw none."""
        if self.decisions is None or self.saved[index]:
            return ""
        return getattr(self.decisions.infos[index], "digest", "")

    def _note(self, index: int, error: BaseException) -> None:
        """Say of an error which node it came from, and tell the listeners."""
        self.events.emit("failed", index, error=error)
        node = self.graph.nodes[index]
        error.add_note(
            f"in node {self.graph.names[index]!r} of workflow {self.workflow.workflow_name!r}:"
            f" {node.described()}"
        )
