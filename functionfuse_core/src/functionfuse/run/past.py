"""The past of a run whose graph grows: `value` computes a part of it, and `run` ends the run.

Each part has a graph of its own, in which nodes have other indexes. So the past is kept by node.
The next part takes its nodes as they are: they are neither computed nor looked for again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import GraphError
from ..graph.nodes import Node
from ..graph.workflow import Graph
from ..reuse.results import Done
from ..serializers.content import are_same
from .contract import Backend
from .report import NodeRecord

__all__ = ["Past"]


@dataclass
class Past:
    """All that a run has done up to now.

    Attributes:
        storage: the storage of its results.
        nodes: the nodes that were computed or reused.
        records: their lines in the report.
        rows: the rows in the record of the run, of those that this run has done.
        values: the values of those that aren't stored, or the backend's handles of them.
        objects: by constructor: the object of a decorated class, and the last call on it.
        kept_by: the type of the backend that keeps the values; None if they are in this process.
        run, began: the id of the run, and when it began, in seconds since 1970; "" if it ended.
        told: whether the event of its start was emitted.
        now, total: for events; see `Event`.
    """

    storage: Any
    nodes: dict[Node, Done] = field(default_factory=dict)
    records: dict[Node, NodeRecord] = field(default_factory=dict)
    rows: dict[Node, tuple[Any, ...]] = field(default_factory=dict)
    values: dict[Node, Any] = field(default_factory=dict)
    objects: dict[Node, tuple[Any, Node]] = field(default_factory=dict)
    kept_by: type[Backend] | None = None
    run: str = ""
    began: float = 0.0
    told: bool = False
    now: float = 0.0
    total: int = 0

    def within(self, graph: Graph) -> dict[int, Done]:
        """Return the nodes of a graph that have the same names as before, by index.

        A node that isn't stored is left out if a file in its result has changed, and a node that
        is to be computed takes the result.
        """
        found = {}
        for node, done in self.nodes.items():
            index = graph.positions.get(node, -1)
            if index >= 0 and graph.names[index] == self.records[node].name:
                found[index] = done
        held = [index for index, done in found.items() if done.files]
        for index in sorted(held, reverse=True):  # children before parents
            taken = any(child not in found for child in graph.children[index])
            if taken and not are_same(found[index].files):
                del found[index]
        return found

    def at_hand(self, graph: Graph) -> set[int]:
        """Return the indexes of the calls whose object is there as they left it."""
        last = (call for _, call in self.objects.values())
        return {graph.positions[call] for call in last if call in graph.positions}

    def check(self, backend: Backend) -> None:
        """Raise GraphError if a backend can't have the values, because another one keeps them."""
        kept_by = type(backend) if backend.keeps else None
        if (self.values or self.objects) and kept_by is not self.kept_by:
            raise GraphError(
                "without a storage, all parts of a run use the same backend: value() and run() got"
                f" others, {self.kept_by or 'this process'} and {kept_by or 'this process'}"
            )
        self.kept_by = kept_by
