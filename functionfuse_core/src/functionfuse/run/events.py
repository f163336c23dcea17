"""The events of one run, which go to listeners and plugins; the run's plan and report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from ..graph.workflow import Graph
from ..plugins.hooks import event_hooks
from ..reuse.plan import COMPUTE, MAYBE, REUSE, Decisions
from .job import text_of
from .report import COMPUTED, FAILED, NOT_NEEDED, NOT_RUN, REUSED, NodeRecord, Report

__all__ = ["Event", "Listener", "RunEvents"]


class Event(NamedTuple):
    """One event of a node; listeners are called in the process of the workflow.

    Attributes:
        kind: "planned" (once for each node to compute or to judge, before anything runs),
            "started", "reused" (the stored result is still right), "saved", "finished" or "failed".
        workflow, node: their names.
        node_index: the node's index in the graph.
        reason: why the node is computed, as text; "" if that isn't known.
        seconds: how long the function ran, for "finished".
        size: bytes of the stored result, for "saved".
        error: the exception, for "failed".
    """

    kind: str
    workflow: str
    node: str
    node_index: int
    reason: str = ""
    seconds: float = 0.0
    size: int = 0
    error: BaseException | None = None


Listener = Callable[[Event], None]


_Record = Callable[[int, str], NodeRecord]


class RunEvents:
    """All events of a run: they go to listeners, and are remembered for the report.

    Attributes:
        decisions: made from the stored headers; None without a storage that returns headers.
        wanted: indexes of the nodes to compute, or to judge again.
        possible: why other nodes may have to be computed too, by index; in a plan only.
    """

    def __init__(self, workflow_name: str, graph: Graph, listeners: Iterable[Listener]) -> None:
        self.workflow_name = workflow_name
        self.graph = graph
        self.names = graph.names
        self.listeners = [*listeners, *filter(None, [_plugins_listener()])]
        self.decisions: Decisions | None = None
        self.wanted: Collection[int] = ()
        self.possible: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        self.sizes: dict[int, int] = {}
        self.reused: set[int] = set()
        self.errors: dict[int, BaseException] = {}
        self.failed: dict[int, str] = {}  # their texts, for the report

    def planned(self, indexes: Iterable[int]) -> None:
        """Emit "planned" for nodes."""
        self._call("planned", indexes)

    def reuse(self, indexes: Collection[int]) -> None:
        """Note that stored results are still right."""
        self.reused.update(indexes)
        self._call("reused", indexes)

    def start(self, index: int) -> None:
        """Emit "started"."""
        self._call("started", (index,))

    def finish(self, index: int, seconds: float, size: int | None) -> None:
        """Note that a node is computed, and that its result is saved.

        Args:
            size: bytes of the stored result; None if it is not stored.
        """
        self.seconds[index] = seconds
        if size is not None:
            self.sizes[index] = size
        if self.listeners:
            self._call("finished", (index,), seconds=seconds)
            if size is not None:
                self._call("saved", (index,), size=size)

    def fail(self, index: int, error: BaseException) -> None:
        """Note that a node has failed; add a note with its name to the error."""
        self.errors[index] = error
        self.failed[index] = text_of(error)
        self._call("failed", (index,), error=error)
        error.add_note(
            f"in node {self.names[index]!r} of workflow {self.workflow_name!r}:"
            f" {self.graph.nodes[index].described()}"
        )

    def raise_first(self, stopped: int) -> None:
        """Raise the error of the first node that failed; return if none did.

        Args:
            stopped: the number of nodes that failed, or follow one that did.
        """
        if not self.errors:
            return
        first, *others = sorted(self.errors)
        error = self.errors[first]
        left_out = stopped - len(self.errors)
        if others:
            names = ", ".join(repr(self.names[index]) for index in others[:10])
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            error.add_note(f"other nodes failed, too: {names}{more}")
        if left_out:
            nodes = (
                "1 node that follows was" if left_out == 1 else f"{left_out} nodes that follow were"
            )
            error.add_note(f"{nodes} not run; all others were")
        raise error

    def plan(self) -> Report:
        """Return the plan: the action for each node."""
        if self.decisions:
            self.possible = self.decisions.possible(frozenset(self.wanted))
        return Report(self.workflow_name, lambda: self._each(self._planned), self._notes)

    def report(self) -> Report:
        """Return the report: the action that each node had. The run is over."""
        self.errors.clear()  # the report lives on, and their tracebacks hold values
        return Report(self.workflow_name, lambda: self._each(self._done), self._notes)

    def _call(
        self,
        kind: str,
        indexes: Iterable[int],
        *,
        seconds: float = 0.0,
        size: int = 0,
        error: BaseException | None = None,
    ) -> None:
        """Call the listeners with events; see `Event`."""
        for index in indexes if self.listeners else ():
            names = self.workflow_name, self.names[index]
            event = Event(kind, *names, index, self._reason(index), seconds, size, error)
            for listener in self.listeners:
                listener(event)

    def _each(self, record: _Record) -> list[NodeRecord]:
        self.wanted = frozenset(self.wanted)
        return [record(index, name) for index, name in enumerate(self.names)]

    def _planned(self, index: int, name: str) -> NodeRecord:
        if self.decisions is None:
            return NodeRecord(name, COMPUTE, "nothing is known to be stored")
        verdict = self.decisions.verdicts[index]
        if index in self.wanted:
            # A stored node that is wanted anyway is a call to replay on its object.
            return NodeRecord(name, COMPUTE if verdict == REUSE else verdict, self._reason(index))
        if index in self.possible:
            return NodeRecord(name, MAYBE, self.possible[index])
        if verdict == REUSE:
            return NodeRecord(name, REUSE, self._reason(index), 0.0, self._stored_size(index))
        return NodeRecord(name, NOT_NEEDED, self._reason(index))

    def _done(self, index: int, name: str) -> NodeRecord:
        if index in self.seconds:
            size = self.sizes.get(index, 0)
            return NodeRecord(name, COMPUTED, self._reason(index), self.seconds[index], size)
        if index in self.failed:
            return NodeRecord(name, FAILED, self.failed[index])
        if index in self.reused:
            return NodeRecord(name, REUSED, self._reason(index), 0.0, self._stored_size(index))
        if index in self.wanted:
            return NodeRecord(name, NOT_RUN, self._reason(index))
        if self.decisions and self.decisions.keeps_other(index):
            return NodeRecord(name, NOT_NEEDED, f"an older result stays: {self._reason(index)}")
        return NodeRecord(name, NOT_NEEDED)

    def _reason(self, index: int) -> str:
        if self.decisions is None:
            return ""
        reason, changed = self.decisions.reasons[index], self.decisions.changed.get(index)
        return f"{reason}; {changed} changed during the run" if changed else reason

    def _notes(self) -> list[str]:
        return [*self.graph.notes(), *(self.decisions.notes() if self.decisions else ())]

    def _stored_size(self, index: int) -> int:
        header: Any = self.decisions.header(index) if self.decisions else None
        return getattr(header, "info", header).size if header else 0


def _plugins_listener() -> Listener | None:
    """Return a listener that calls the event hooks of plugins; None if there are no plugins."""
    hooks = event_hooks()
    if hooks is None:
        return None

    def listen(event: Event) -> None:
        arguments: dict[str, object] = {"workflow": event.workflow, "node": event.node}
        if event.kind == "started":
            arguments["reason"] = event.reason
        elif event.kind == "finished":
            arguments["seconds"] = event.seconds
        elif event.kind == "failed":
            arguments["error"] = event.error
        elif event.kind != "reused":
            return
        hooks.call(f"functionfuse_node_{event.kind}", **arguments)

    return listen
