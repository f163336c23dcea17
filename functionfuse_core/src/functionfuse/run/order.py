"""The order of a run: the state of each node, and which nodes are ready to be computed.

A node that is to be computed is WAITING. It is blocked by its parents that are not done; when the
last of them is, it is ready. Of the nodes that are ready, that of the lowest index is next.

If nodes may run ahead, a parent blocks a node only until the parent is submitted. Not so the calls
on one object, and what uses a constructor or a node that may be tried again: these wait until the
parent is done.

A node that is tried again is put off until it is due. A node that needs resources that other nodes
have is parked until they are free.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from time import monotonic

from ..errors import OptionsError
from ..graph.nodes import ConstructorCall, MethodCall
from ..graph.settings import check_amounts
from ..graph.workflow import Graph

__all__ = ["RUNNING", "SETTLED", "STOPPED", "SUBMITTED", "WAITING", "Order", "Resources"]

IDLE = 0  # not needed, or reused
WAITING = 1  # will be computed, after its parents
SUBMITTED = 2  # to the backend, which begins it when it can
RUNNING = 3
SETTLED = 4  # computed, or found to be stored after all
STOPPED = 5  # failed, or follows a node that did

_PENDING = WAITING, SUBMITTED, RUNNING

_ALMOST = 1 - 1e-9  # of an amount: 0.3 less twice 0.1 is not quite 0.1


class Order:
    """The states of a graph's nodes, by index; parents have lower indexes.

    Args:
        users: for each node, the number of children that are to be computed, or are; `activate`
            counts there.
        ahead: whether nodes may be submitted before their parents are done.
        retried: indexes of the nodes that may be tried again.
        resources: of the run; None: no limits.

    Attributes:
        state: of each node: one of the constants of this module.
        blockers: for each WAITING node, how many parents, and loads of values, it waits for.
        ready: heap of the nodes that had no blockers when they were pushed.
        later: heap of the nodes that are put off, each with the time when it is due.
    """

    def __init__(
        self,
        graph: Graph,
        users: list[int],
        *,
        ahead: bool,
        retried: Collection[int] = (),
        resources: Resources | None = None,
    ) -> None:
        count = len(graph.nodes)
        self.state = bytearray(count)
        self.blockers = [0] * count
        self.ready: list[int] = []
        self.resources = resources
        self.later: list[tuple[float, int]] = []
        self._retried = retried
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
        later, ready = self.later, self.ready
        while later and later[0][0] <= monotonic():
            heapq.heappush(ready, heapq.heappop(later)[1])
        if self.resources:
            ready = self.resources.next_of(ready)
        while ready:
            index = heapq.heappop(ready)
            if self.state[index] == WAITING and not self.blockers[index]:
                return index
            if self.resources:
                ready = self.resources.next_of(self.ready)
        return None

    def put_off(self, index: int, seconds: float) -> None:
        """Make a node WAITING that is ready after some time."""
        self.state[index] = WAITING
        heapq.heappush(self.later, (monotonic() + seconds, index))

    def pause(self) -> float:
        """Return the seconds until the first node that is put off is due."""
        return max(0.0, self.later[0][0] - monotonic())

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
        if type(before) is ConstructorCall or parent in self._retried:
            return True
        return type(node) is MethodCall and node.before is before


class Resources:
    """The resources of a run, such as GPUs: nodes hold some while they run.

    Args:
        total: the amount of each resource.
        needs: what single nodes need, by index.
        names: the names of all nodes.

    Raises:
        OptionsError: an amount of `total` is no number from 0.
    """

    def __init__(
        self,
        total: Mapping[str, float],
        needs: Mapping[int, Mapping[str, float]],
        names: list[str],
    ) -> None:
        self._free = check_amounts(total, "the resources of a run")
        self._needs = needs
        self._held: dict[int, Mapping[str, float]] = {}
        self._parked: dict[frozenset[tuple[str, float]], list[int]] = {}  # heaps, by need
        self._names = names
        self._total = dict(self._free)

    def check(self, indexes: Iterable[int]) -> None:
        """Raise OptionsError if a node needs more than there is, or another resource."""
        total = self._total
        for index in indexes:
            for name, amount in self._needs.get(index, {}).items():
                if amount > total.get(name, 0):
                    there = f"there is {total[name]:g}" if name in total else "there is none"
                    known = ", ".join(f"{key}={value:g}" for key, value in total.items())
                    raise OptionsError(
                        f"node {self._names[index]!r} needs {name}={amount:g}, and {there};"
                        f" the resources are: {known or 'none'}"
                    )

    def take(self, index: int) -> bool:
        """Take the resources of a node that starts; if some aren't free, park it, return False."""
        need = self._needs.get(index)
        if need is None:
            return True
        fits = self._fits(need.items())
        if fits:
            self._held[index] = need
            for name, amount in need.items():
                self._free[name] -= amount
        else:
            heapq.heappush(self._parked.setdefault(frozenset(need.items()), []), index)
        return fits

    def give_back(self, index: int) -> None:
        """Free the resources of a node, if it holds any."""
        for name, amount in self._held.pop(index, {}).items():
            self._free[name] += amount

    def next_of(self, ready: list[int]) -> list[int]:
        """Return the heap with the lowest index: `ready`, or parked nodes that fit now."""
        best = ready
        for need, parked in self._parked.items():
            if parked and (not best or parked[0] < best[0]) and self._fits(need):
                best = parked
        return best

    def _fits(self, need: Iterable[tuple[str, float]]) -> bool:
        return all(amount * _ALMOST <= self._free[name] for name, amount in need)
