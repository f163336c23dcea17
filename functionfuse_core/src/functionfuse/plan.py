"""What a run does with each node, and the report that it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

__all__ = ["COMPUTED", "NOT_NEEDED", "REUSED", "NodeReport", "Report"]

COMPUTED = "computed"
REUSED = "reused"
NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a run did with one node.

    Attributes:
        name: the node's name.
        action: "computed", "reused" (its stored result stands) or "not needed".
        seconds: how long its function ran, in this run.
        bytes: size of the stored result that was saved or reused; 0 where there is none.
    """

    name: str
    action: str
    seconds: float
    bytes: int


class Report:
    """What a run did.

    Attributes:
        workflow_name: the workflow's name.
        nodes: one record for each node of the graph, parents first.
    """

    def __init__(self, workflow_name: str, records: Callable[[], list[NodeReport]]) -> None:
        self.workflow_name = workflow_name
        self._records = records

    @cached_property
    def nodes(self) -> list[NodeReport]:
        return self._records()

    def names(self, action: str) -> list[str]:
        """Return the names of the nodes with this action."""
        return [node.name for node in self.nodes if node.action == action]

    def __str__(self) -> str:
        width = max((len(node.name) for node in self.nodes), default=0)
        return "\n".join(
            f"{node.name:<{width}}  {node.action:<10} {node.seconds:9.3f} s {node.bytes:>14,} bytes"
            for node in self.nodes
        )
