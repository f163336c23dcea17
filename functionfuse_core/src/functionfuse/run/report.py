"""Plans and reports of runs for people: one record for each node, shown as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path

from ..errors import GraphError, NoMatchError
from ..names import close_to
from ..show.texts import printable

__all__ = ["COMPUTED", "FAILED", "NOT_NEEDED", "NOT_RUN", "REUSED", "NodeRecord", "Report"]

COMPUTED = "computed"
REUSED = "reused"
NOT_NEEDED = "not needed"
FAILED = "failed"
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The line of one node in a plan or a report.

    Attributes:
        name: the node's name.
        action: in a plan "compute", "maybe" (the reason names the condition), "reuse" or "not
            needed". In a report "computed", "reused" (the stored result is still right) or "not
            needed"; after an error also "failed" or "not run".
        reason: why the node is computed, or that an earlier result is reused; "" for others.
        seconds: how long the function ran in this run, the last time.
        bytes: size of the stored result; 0 if nothing is stored.
        attempts: how often the function was called in this run; 0 if it wasn't.
        error: type and text of the last error of the function; "" if there was none.
        begun: when the function began, in seconds since 1970, on the clock of its worker; 0 if it
            wasn't called.
        worker: host, process and thread where it ran; "" for the thread of the run.
    """

    name: str
    action: str
    reason: str = ""
    seconds: float = 0.0
    bytes: int = 0
    attempts: int = 0
    error: str = ""
    begun: float = 0.0
    worker: str = ""

    @property
    def why(self) -> str:
        """The reason, with the attempts if there was more than one."""
        if self.attempts < 2:
            return self.reason
        failed = "" if self.reason == self.error else f", the last error was {self.error}"
        return f"{self.reason}; {self.attempts} attempts{failed}".removeprefix("; ")


class Report:
    """The plan or the report of a run; prints as a table, also in a notebook.

    Attributes:
        workflow_name: the workflow's name.
        nodes: one record for each node of the graph, parents first.
        notes: hints about the whole run, such as results made with another version of a package.
        run: the id of the run; "" for a plan, and for a run with neither storage nor listeners.
        write: writes a report as a page, given its path and `values`; None if there is no graph.
    """

    def __init__(
        self,
        workflow_name: str,
        records: Callable[[], list[NodeRecord]],
        notes: Callable[[], list[str]] = list,
        run: str = "",
    ) -> None:
        self.workflow_name = workflow_name
        self._records = records
        self._notes = notes
        self.run = run
        self.write: Callable[..., Path] | None = None

    @cached_property
    def notes(self) -> list[str]:
        return self._notes()

    @cached_property
    def nodes(self) -> list[NodeRecord]:
        return self._records()

    def __getitem__(self, name: str) -> NodeRecord:
        """Return the record of a node. Raises NoMatchError if no node has that name."""
        if name not in self._by_name:
            raise NoMatchError(
                f"workflow {self.workflow_name!r} has no node"
                f" {name!r}{close_to(str(name), self._by_name)}"
            )
        return self._by_name[name]

    def names(self, action: str) -> list[str]:
        """Return the names of the nodes with this action."""
        return [node.name for node in self.nodes if node.action == action]

    @property
    def seconds(self) -> float:
        """The sum of the times that all functions ran."""
        return sum(node.seconds for node in self.nodes)

    @property
    def bytes(self) -> int:
        """The sum of the sizes of all stored results."""
        return sum(node.bytes for node in self.nodes)

    def summary(self) -> str:
        """Return the number of nodes with each action, and the totals."""
        counts = Counter(node.action for node in self.nodes)
        parts = [f"{count} {action}" for action, count in counts.items()]
        if self.seconds:
            parts.append(f"{self.seconds:.3f} s")
        if self.bytes:
            parts.append(f"{self.bytes:,} bytes")
        return f"workflow {self.workflow_name!r}: {', '.join(parts)}"

    def save(self, path: str | PathLike[str], *, values: bool = False) -> Path:
        """Write the report, or the plan, as one HTML file, replacing it atomically; see the docs.

        If the storage has a record of the run, the page also tells the changes since the run
        before.

        Args:
            values: read the stored results, and show small previews of them. A run without a
                storage has none.

        Returns the path of the file.

        Raises:
            StoragePathError: the file can't be written.
            OSError: the storage can't be read.
        """
        if self.write is None:
            raise GraphError(f"{self!r} has no graph, so it can't be saved as a page")
        return self.write(self, fspath(path), values=values)

    def __str__(self) -> str:
        first = max((len(row[0]) for row in self._rows), default=0)
        second = max((len(row[1]) for row in self._rows), default=0)
        lines = [
            f"{name:<{first}}  {action:<{second}}  {seconds:>9}  {size:>14}  {reason}".rstrip()
            for name, action, seconds, size, reason in self._rows
        ]
        return "\n".join([*lines, self.summary(), *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def _repr_html_(self) -> str:
        from ..show.notebook import block, listed, nodes

        rows = nodes(self.nodes, lambda node: node.why)
        return block(self.summary(), rows, listed([f"note: {note}" for note in self.notes]))

    @property
    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        return list(map(_row, self.nodes))

    @cached_property
    def _by_name(self) -> dict[str, NodeRecord]:
        return {node.name: node for node in self.nodes}


def _row(node: NodeRecord) -> tuple[str, str, str, str, str]:
    return (
        printable(node.name),
        node.action,
        f"{node.seconds:.3f} s" if node.seconds else "",
        f"{node.bytes:,} bytes" if node.bytes else "",
        printable(node.why),
    )


# Stored values and allow-lists name these by their documented path.
NodeRecord.__module__ = Report.__module__ = "functionfuse.report"
