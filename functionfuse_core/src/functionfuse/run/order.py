"""The order of a run: the state of each node, and which nodes are ready to be computed.

A node that is to be computed is WAITING. It is blocked by its parents that are not done; when the
last of them is, it is ready. Of the nodes that are ready, that of the lowest index is next.

If nodes may run ahead, a parent blocks a node only until the parent is submitted. Not so the calls
on one object, and what uses a constructor: these wait until the parent is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from ..graph.nodes import ConstructorCall, MethodCall
from ..graph.workflow import Graph

__all__ = ["RUNNING", "SETTLED", "STOPPED", "SUBMITTED", "WAITING", "Order"]

IDLE = 0  # not needed, or reused
WAITING = 1  # will be computed, after its parents
SUBMITTED = 2  # to the backend, which begins it when it can
RUNNING = 3
SETTLED = 4  # computed, or found to be stored after all
STOPPED = 5  # failed, or follows a node that did

_PENDING = WAITING, SUBMITTED, RUNNING


class Order:
    """The states of a graph's nodes, by index; parents have lower indexes.

    Args:
        users: for each node, the number of children that are to be computed, or are; `activate`
            counts there.
        ahead: whether nodes may be submitted before their parents are done.

    Attributes:
        state: of each node: one of the constants of this module.
        blockers: for each WAITING node, how many parents, and loads of values, it waits for.
    """

    def __init__(self, graph: Graph, users: list[int], *, ahead: bool) -> None:
        count = len(graph.nodes)
        self.state = bytearray(count)
        self.blockers = [0] * count
        self.ready: list[int] = []  # heap: WAITING nodes that had no blockers when pushed
        self._users = users
        self._ahead = ahead
        self._parents = graph.parents
        self._children = graph.children
        self._nodes = graph.nodes

    def activate(self, indexes: Iterable[int]) -> None:
        """Make nodes WAITING; children that are WAITING already then wait for them."""
        state, users, blockers = self.state, self._users, self.blockers
        for index in indexes:
            state[index], waits_for = WAITING, 0
            for parent in self._parents[index]:
                users[parent] += 1
                if state[parent] in _PENDING:
                    waits_for += 1
            blockers[index] = waits_for
            for child in self._children[index]:
                if state[child] == WAITING:
                    blockers[child] += 1
            if not waits_for:
                heapq.heappush(self.ready, index)

    def pop(self) -> int | None:
        """Take the next node from those that are ready; None if there is none."""
        while self.ready:
            index = heapq.heappop(self.ready)
            if self.state[index] == WAITING and not self.blockers[index]:
                return index
        return None

    def block(self, index: int) -> None:
        """Let a WAITING node wait for one thing more, such as the load of a value."""
        self.blockers[index] += 1

    def unblock(self, index: int) -> None:
        """Let a node wait for one thing less; it is ready if that was the last."""
        self.blockers[index] -= 1
        if not self.blockers[index] and self.state[index] == WAITING:
            heapq.heappush(self.ready, index)

    def run_ahead(self, index: int) -> None:
        """Unblock the children that may be submitted before a node is done."""
        for child in self._children[index]:
            if self.state[child] == WAITING and not self._waits(child, index):
                self.unblock(child)

    def settle(self, index: int) -> None:
        """Mark a node SETTLED, and unblock its children."""
        state, blockers, ahead = self.state, self.blockers, self._ahead
        state[index] = SETTLED
        for child in self._children[index]:
            if state[child] == WAITING and not (ahead and not self._waits(child, index)):
                blockers[child] -= 1
                if not blockers[child]:
                    heapq.heappush(self.ready, child)

    def stop(self, index: int) -> list[int]:
        """Mark a node STOPPED, and all WAITING ones that follow it; return their indexes."""
        stopped, stack = [], [index]
        while stack:
            index = stack.pop()
            if self.state[index] != STOPPED:
                self.state[index] = STOPPED
                stopped.append(index)
                stack += [child for child in self._children[index] if self.state[child] == WAITING]
        return stopped

    def _waits(self, child: int, parent: int) -> bool:
        """Return whether a child can't be submitted before its parent is done."""
        node, before = self._nodes[child], self._nodes[parent]
        if type(before) is ConstructorCall:
            return True
        return type(node) is MethodCall and node.before is before
