"""Which nodes a run must compute for its targets: a walk up from these, over the verdicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..graph.workflow import Graph

__all__ = ["COMPUTE", "MAYBE", "REPLAYED", "REUSE", "Demand"]

REPLAYED = "replayed for a later call on its object"
REUSE = "reuse"
COMPUTE = "compute"
MAYBE = "maybe"


class Demand:
    """What must be computed before what. The arguments are those of the decisions, and change.

    Args:
        verdicts, reasons: for each node.
        before: by index of a method call, the index of the earlier call on its object.
        awaited: by index of a MAYBE, the parents to compute before it is judged again.
        at_hand: indexes of the calls after which the run still has their object.
    """

    def __init__(
        self,
        graph: Graph,
        verdicts: Sequence[str],
        reasons: list[str],
        *,
        before: Mapping[int, int],
        awaited: Mapping[int, Sequence[int]],
        at_hand: Collection[int],
    ) -> None:
        self._graph = graph
        self._verdicts = verdicts
        self._reasons = reasons
        self._before = before
        self._awaited = awaited
        self._at_hand = at_hand

    def needed(self, targets: Sequence[int]) -> list[int]:
        """Return the indexes of the nodes to compute or judge again for the targets, sorted."""
        found = {index for index in targets if self._verdicts[index] != REUSE}
        stack = list(found)
        while stack:
            index = stack.pop()
            maybe = self._verdicts[index] == MAYBE
            for parent in self._awaited[index] if maybe else self._missing(index):
                if parent not in found:
                    found.add(parent)
                    stack.append(parent)
        for index in found:
            if self._verdicts[index] == REUSE:
                self._reasons[index] = REPLAYED
        return sorted(found)

    def possible(self, planned: Collection[int]) -> dict[int, str]:
        """Return the nodes that are computed only if a planned MAYBE node is, with the reasons."""
        found: dict[int, str] = {}
        maybe = [index for index in planned if self._verdicts[index] == MAYBE]
        stack = [(index, self._reasons[index]) for index in maybe]
        while stack:
            index, reason = stack.pop()
            for parent in self._missing(index):
                if parent not in planned and parent not in found:
                    found[parent] = reason
                    stack.append((parent, reason))
        return found

    def _missing(self, index: int) -> Sequence[int]:
        """Return the parents that must be computed before a node can be computed."""
        verdicts, before = self._verdicts, self._before.get(index)
        parents = self._graph.parents[index]
        if REUSE not in map(verdicts.__getitem__, parents):
            return parents
        again = None if before in self._at_hand else before
        return [parent for parent in parents if parent == again or verdicts[parent] != REUSE]
