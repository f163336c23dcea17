"""The events of one run, which go to listeners and plugins; the run's plan and report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from time import time
from typing import Any, NamedTuple

from ..graph.workflow import Graph
from ..plugins.hooks import event_hooks
from ..reuse.plan import COMPUTE, MAYBE, REUSE, Decisions
from ..reuse.results import Done
from .job import text_of
from .past import Past
from .report import COMPUTED, FAILED, NOT_NEEDED, NOT_RUN, REUSED, NodeRecord, Report

__all__ = ["Event", "Listener", "RunEvents"]


class Event(NamedTuple):
    """One event of a run, or of a node in it; listeners are called in the process of the workflow.

    Attributes:
        kind: of the run, "run started" (when it is planned, before anything is computed) and "run
            finished" (also after an error; the last event). Of a node:

            - "planned": it is to be computed, or to be judged when its parents are done. It comes
              again if a stored result can't be read later, so that its node is computed after all;
            - "reused": its stored result is right: in the plan, when it is judged, or because
              another run has stored it meanwhile;
            - "queued": the backend has it;
            - "started": it runs. If the backend doesn't tell, this comes just before the end;
            - "retrying": it failed, and will be queued again;
            - "finished": it is computed, and stored if there is a storage;
            - "saved": its result is stored; it comes after "finished", which has no size;
            - "failed".

            A stored value that is only read causes no event.
        workflow, node: their names; "" for the node in an event of the run.
        node_index: the node's index in the graph; -1 in an event of the run.
        reason: why the node is computed, as text; "" if that isn't known.
        seconds: how long the function ran, for "finished"; how long the node waits for its next
            attempt, for "retrying"; how long the run took, for "run finished".
        size: bytes of the stored result, for "saved".
        error: the exception, for "failed", "retrying" and "run finished"; else None.
        attempt: the number of the attempt, from 1, for "started", "retrying", "finished" and
            "failed"; else 0.
        run: the run's id. Ids sort by the time when the run started:
            "20260102T030405.678901Z-1f2e3d".
        time: when the event was told, in seconds since 1970; never earlier than the one before.
        total: how many nodes have been planned or reused up to now; a node that is planned again
            counts again. So it is the number of events "finished", "failed" and "reused" that the
            run has had at its end, unless an error ends it, or nodes follow a failed one.
    """

    kind: str
    workflow: str
    node: str
    node_index: int
    reason: str = ""
    seconds: float = 0.0
    size: int = 0
    error: BaseException | None = None
    attempt: int = 0
    run: str = ""
    time: float = 0.0
    total: int = 0


Listener = Callable[[Event], None]


_Record = Callable[[int, str], NodeRecord]

_OF_ATTEMPTS = ("started", "retrying", "finished", "failed")


class RunEvents:
    """All events of a run: they go to listeners, and are remembered for the report.

    Args:
        past: what the run did when its graph was smaller.
        done: the nodes of this graph that it did then, by index.

    Attributes:
        decisions: made from the stored headers; None without a storage that returns headers.
        wanted: indexes of the nodes to compute, or to judge again.
        possible: why other nodes may have to be computed too, by index; in a plan only.
    """

    def __init__(
        self,
        workflow_name: str,
        graph: Graph,
        listeners: Iterable[Listener],
        past: Past,
        done: Mapping[int, Done],
    ) -> None:
        self.workflow_name = workflow_name
        self.graph = graph
        self.names = graph.names
        # Plugins first: they are told of an event even if a listener raises then.
        self.listeners = [*filter(None, [_plugins_listener()]), *listeners]
        self.decisions: Decisions | None = None
        self.wanted: Collection[int] = ()
        self.possible: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        self.sizes: dict[int, int] = {}
        self.reused: set[int] = set()
        self.errors: dict[int, BaseException] = {}
        self.failed: dict[int, str] = {}  # their texts, for the report
        self.attempts = Counter[int]()  # by index: how many attempts of a node failed
        self.retried: dict[int, str] = {}  # by index: the last error after which it was put off
        self._past = past
        self._done = done

    def reuse(self, indexes: Collection[int]) -> None:
        """Note that stored results are still right."""
        self.reused.update(indexes)
        self._call("reused", indexes)

    def begin(self, indexes: Collection[int], reused: Collection[int]) -> None:
        """Emit "run started", "planned" and "reused".

        Args:
            indexes: the nodes to compute or to judge.
            reused: other nodes, whose stored results are still right.
        """
        self.wanted = indexes
        self.reused.update(reused)
        if self.listeners:
            past = self._past
            past.total += len(indexes) + len(reused)
            if not past.run:
                past.began = time()
                began = datetime.fromtimestamp(past.began, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
                past.run = f"{began}-{os.urandom(3).hex()}"
                self._call("run started", (-1,))
            self._call("planned", indexes)
            self._call("reused", reused)

    def add(self, indexes: Collection[int]) -> None:
        """Emit "planned" for nodes that are to be computed after all."""
        self._past.total += len(indexes)
        self._call("planned", indexes)

    def end(self, error: BaseException | None) -> None:
        """Emit "run finished", if "run started" was emitted."""
        past = self._past
        if past.run:
            seconds = max(0.0, time() - past.began)
            self._call("run finished", (-1,), seconds=seconds, error=error)
            past.run, past.total = "", 0  # if the run goes on after an error, it is another one

    def queue(self, index: int) -> None:
        """Emit "queued"."""
        self._call("queued", (index,))

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

    def retry(self, index: int, error: BaseException, seconds: float) -> None:
        """Note that a node has failed, and will be tried again after some seconds."""
        self._call("retrying", (index,), seconds=seconds, error=error)
        self.attempts[index] += 1
        self.retried[index] = text_of(error)

    def fail(self, index: int, error: BaseException) -> None:
        """Note that a node has failed; add a note with its name to the error."""
        self.errors[index] = error
        self.failed[index] = text_of(error)
        self._call("failed", (index,), error=error)
        self.attempts[index] += 1
        attempts = self.attempts[index]
        error.add_note(
            f"in node {self.names[index]!r} of workflow {self.workflow_name!r}:"
            f" {self.graph.nodes[index].described()}"
            f"{f' (attempt {attempts})' if attempts > 1 else ''}"
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
            count = "1 other node" if len(others) == 1 else f"{len(others)} other nodes"
            error.add_note(f"{count} failed, too: {names}{more}")
        if left_out:
            nodes = (
                "1 node that follows was" if left_out == 1 else f"{left_out} nodes that follow were"
            )
            error.add_note(f"{nodes} not run; all others were")
        raise error

    def plan(self) -> Report:
        """Return the plan: the action for each node."""
        if self.decisions:
            self.possible = self.decisions.demand.possible(frozenset(self.wanted))
        return Report(self.workflow_name, lambda: self._each(self._planned), self._notes)

    def report(self) -> Report:
        """Return the report: the action that each node had. The run is over."""
        self.errors.clear()  # the report lives on, and their tracebacks hold values
        for index, error in self.retried.items():
            if index not in self.seconds and index not in self.reused:
                self.failed.setdefault(index, error)  # the run ended before the next attempt
        return Report(self.workflow_name, lambda: self._each(self._ended), self._notes)

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
        if not self.listeners:
            return
        now = self._past.now = max(time(), self._past.now)  # the clock may be set back
        for index in indexes:
            name = self.names[index] if index >= 0 else ""
            reason = self._reason(index) if index >= 0 else ""
            attempt = self.attempts[index] + 1 if kind in _OF_ATTEMPTS else 0
            about = kind, self.workflow_name, name, index, reason, seconds, size, error, attempt
            event = Event(*about, self._past.run, now, self._past.total)
            for listener in self.listeners:
                listener(event)

    def done_now(self) -> Iterator[tuple[int, NodeRecord]]:
        """Iterate over the nodes that were computed or reused, with their records."""
        for index in sorted(self.seconds.keys() | self.reused):
            if index not in self.failed:
                yield index, self._ended(index, self.names[index])

    def _each(self, record: _Record) -> list[NodeRecord]:
        self.wanted = frozenset(self.wanted)
        names = set(self.names)
        before = [r for node, r in self._past.records.items() if node not in self.graph.positions]
        return [
            *(known for known in before if known.name not in names),
            *(record(index, name) for index, name in enumerate(self.names)),
        ]

    def _planned(self, index: int, name: str) -> NodeRecord:
        if index in self._done:
            return NodeRecord(name, REUSE, "computed in this run already")
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

    def _ended(self, index: int, name: str) -> NodeRecord:
        attempts, retried = self.attempts[index], self.retried.get(index, "")
        if index in self.seconds:
            seconds, size = self.seconds[index], self.sizes.get(index, 0)
            reason = self._reason(index)
            return NodeRecord(name, COMPUTED, reason, seconds, size, attempts + 1, retried)
        if index in self.failed:
            error = self.failed[index]
            return NodeRecord(name, FAILED, error, 0.0, 0, attempts, error)
        if index in self._done:
            return self._past.records[self.graph.nodes[index]]
        if index in self.reused:
            size = self._stored_size(index)
            return NodeRecord(name, REUSED, self._reason(index), 0.0, size, attempts, retried)
        if index in self.wanted:
            first = self._followed.get(index)
            reason = self._reason(index)
            if first is not None:
                reason = f"follows {self.names[first]!r}, which failed"
            return NodeRecord(name, NOT_RUN, reason)
        if self.decisions and self.decisions.keeps_other(index):
            return NodeRecord(name, NOT_NEEDED, f"an older result stays: {self._reason(index)}")
        return NodeRecord(name, NOT_NEEDED)

    @cached_property
    def _followed(self) -> dict[int, int]:
        """For each node that follows a failed one, the first that failed. The run is over."""
        found: dict[int, int] = {}
        for index, parents in enumerate(self.graph.parents if self.failed else ()):
            above = [first for parent in parents if (first := found.get(parent)) is not None]
            above += [parent for parent in parents if parent in self.failed]
            if above and index not in self.failed:
                found[index] = min(above)
        return found

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
        hooks.call("functionfuse_event", event=event)
        arguments: dict[str, object] = {"workflow": event.workflow, "node": event.node}
        if event.kind == "started":
            arguments["reason"] = event.reason
        elif event.kind == "finished":
            arguments["seconds"] = event.seconds
        elif event.kind == "failed":
            arguments["error"] = event.error
        elif event.kind != "reused":  # the others have no hook of their own
            return
        hooks.call(f"functionfuse_node_{event.kind}", **arguments)

    return listen
