"""The events of one run, which go to listeners and plugins; the run's plan and report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from time import time
from typing import Any, NamedTuple

from ..graph.nodes import Node
from ..graph.workflow import Graph
from ..plugins.hooks import event_hooks
from ..reuse.demand import REPLAYED
from ..reuse.plan import COMPUTE, MAYBE, REUSE, Decisions
from ..reuse.results import Done
from .job import Outcome, text_of
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
        begun: when the function began on the worker's clock, in seconds since 1970, for
            "finished", and for "failed" and "retrying" if it began; else 0.
        worker: host, process and thread where it ran, for the same; "" in the run's own thread.
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
    begun: float = 0.0
    worker: str = ""


Listener = Callable[[Event], None]
_Fields = tuple[Any, ...]  # the fields of a `NodeRecord`

_ATTEMPTED = "started", "retrying", "finished", "failed"
_NEVER = 0.0, 0.0, ""  # begun, seconds and worker of a node that did not run
_NOTHING = 0.0, 0, 0, "", 0.0, ""  # the last fields of its `NodeRecord`


class RunEvents:
    """All events of a run: they go to listeners, and are remembered for the report.

    Args:
        past: what the run did when its graph was smaller.
        done: the nodes of this graph that it did then, by index.

    Attributes:
        done: as given.
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
        # By index of a computed node, and of one that failed the last time: begun, seconds, worker.
        self.ran: dict[int, tuple[float, float, str]] = {}
        self.tried: dict[int, tuple[float, float, str]] = {}
        self.sizes: dict[int, int] = {}
        self.reused: set[int] = set()
        self.errors: dict[int, BaseException] = {}
        self.failed: dict[int, str] = {}  # their texts, for the report
        self.attempts = Counter[int]()  # by index: how many attempts a node had before
        self.retried: dict[int, str] = {}  # by index: the last error after which it was put off
        self._past = past
        self.done = done

    def open(self) -> str:
        """Begin the run, unless it goes on; return its id."""
        past = self._past
        if not past.run:
            past.began = time()
            began = datetime.fromtimestamp(past.began, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            past.run, past.told = f"{began}-{os.urandom(3).hex()}", False
            past.rows.clear()
        return past.run

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
            if not past.told:
                past.told = True
                self._call("run started", (-1,))
            self._call("planned", indexes)
            self._call("reused", reused)

    def add(self, indexes: Collection[int]) -> None:
        """Emit "planned" for nodes that are to be computed after all."""
        self._past.total += len(indexes)
        self._call("planned", indexes)

    def lasted(self) -> float:
        """Return how many seconds the run has taken up to now."""
        return max(0.0, time() - self._past.began)

    def end(self, error: BaseException | None) -> None:
        """End the run: emit "run finished", if "run started" was emitted."""
        past = self._past
        if past.told:
            self._call("run finished", (-1,), seconds=self.lasted(), error=error)
        past.run, past.told, past.total = "", False, 0  # what comes after it is another run

    def queue(self, index: int) -> None:
        """Emit "queued"."""
        self._call("queued", (index,))

    def start(self, index: int) -> None:
        """Emit "started"."""
        self._call("started", (index,))

    def finish(self, index: int, outcome: Outcome, size: int | None) -> None:
        """Note that a node is computed, and that its result is saved.

        Args:
            size: bytes of the stored result; None if it is not stored.
        """
        if index in self.ran:  # a call on an object is made again
            self.attempts[index] += 1
        self.ran[index] = outcome.begun, outcome.seconds, outcome.worker
        if size is not None:
            self.sizes[index] = size
        if self.listeners:
            self._call("finished", (index,), seconds=outcome.seconds)
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

    def report(self, run: str) -> Report:
        """Return the report: the action that each node had. The run with this id is over."""
        self.errors.clear()  # the report lives on, and their tracebacks hold values
        for index, error in self.retried.items():
            if index not in self.ran and index not in self.reused:
                self.failed.setdefault(index, error)  # the run ended before the next attempt
        return Report(self.workflow_name, lambda: self._each(self._ended), self._notes, run)

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
        ended = {"finished": self.ran, "failed": self.tried, "retrying": self.tried}.get(kind, {})
        for index in indexes:
            name = self.names[index] if index >= 0 else ""
            reason = self._reason(index) if index >= 0 else ""
            attempt = self.attempts[index] + 1 if kind in _ATTEMPTED else 0
            about = kind, self.workflow_name, name, index, reason, seconds, size, error, attempt
            begun, _, worker = ended.get(index, _NEVER)
            event = Event(*about, self._past.run, now, self._past.total, begun, worker)
            for listener in self.listeners:
                listener(event)

    def done_now(self) -> Iterator[tuple[int, NodeRecord]]:
        """Iterate over the nodes that were computed or reused, with their records."""
        for index in sorted(self.ran.keys() | self.reused):
            if index not in self.failed:
                yield index, NodeRecord(*self._ended(index, self.names[index]))

    def _each(self, fields: Callable[[int, str], _Fields]) -> list[NodeRecord]:
        self.wanted = frozenset(self.wanted)
        return [
            *(self._past.records[node] for node in self.left()),
            *(NodeRecord(*fields(index, name)) for index, name in enumerate(self.names)),
        ]

    def left(self) -> list[Node]:
        """Return the nodes that the run did when it had them, and that are not in the graph now."""
        names, positions = set(self.names), self.graph.positions
        records = self._past.records.items()
        return [node for node, r in records if node not in positions and r.name not in names]

    def ended(self) -> Iterator[_Fields]:
        """Iterate over the fields of each node's `NodeRecord`. The run is over."""
        self.wanted = frozenset(self.wanted)
        return map(self._ended, range(len(self.names)), self.names)

    def _planned(self, index: int, name: str) -> _Fields:
        if index in self.done:
            return name, REUSE, "computed in this run already"
        if self.decisions is None:
            return name, COMPUTE, "nothing is known to be stored"
        verdict = self.decisions.verdicts[index]
        if index in self.wanted:
            # A stored node that is wanted anyway is a call to replay on its object.
            return name, COMPUTE if verdict == REUSE else verdict, self._reason(index)
        if index in self.possible:
            return name, MAYBE, self.possible[index]
        if verdict == REUSE:
            return name, REUSE, self._reason(index), 0.0, self.stored_size(index)
        return name, NOT_NEEDED, self._reason(index)

    def _ended(self, index: int, name: str) -> _Fields:
        attempts, retried = self.attempts.get(index, 0), self.retried.get(index, "")
        if index in self.ran:
            begun, seconds, worker = self.ran[index]
            size, reason = self.sizes.get(index, 0), self._reason(index)
            if not reason and self.decisions and self.decisions.verdicts[index] == REUSE:
                reason = REPLAYED  # the run found out only when a call needed the object
            return name, COMPUTED, reason, seconds, size, attempts + 1, retried, begun, worker
        if index in self.failed:
            error = self.failed[index]
            begun, seconds, worker = self.tried.get(index, _NEVER)
            return name, FAILED, error, seconds, 0, attempts, error, begun, worker
        if index in self.done:
            known = self._past.records[self.graph.nodes[index]]
            return tuple(getattr(known, field) for field in NodeRecord.__slots__)
        if index in self.reused:
            size = self.stored_size(index)
            return name, REUSED, self._reason(index), 0.0, size, attempts, retried, 0.0, ""
        if index in self.wanted:
            first = self._followed.get(index)
            reason = self._reason(index)
            if first is not None:
                reason = f"follows {self.names[first]!r}, which failed"
            return name, NOT_RUN, reason, *_NOTHING
        if self.decisions and self.decisions.keeps_other(index):
            reason = f"an older result stays: {self._reason(index)}"
            return name, NOT_NEEDED, reason, *_NOTHING
        return name, NOT_NEEDED, "", *_NOTHING

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

    def stored_size(self, index: int) -> int:
        """Return the size of a node's stored result; 0 if nothing is stored."""
        header: Any = self.decisions.stored[index] if self.decisions else None
        if header is None:
            return 0
        size: int | None = getattr(header, "blob_size", None)  # without the rest of the header
        return int(getattr(header, "info", header).size) if size is None else size


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
