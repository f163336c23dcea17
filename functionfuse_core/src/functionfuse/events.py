"""What happens in a run, as one stream of events: reports, logs and progress bars read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Event", "Listener"]


class Event(NamedTuple):
    """Something that happened to a node; listeners are called in the process of the workflow.

    Attributes:
        kind: "planned" (once for each node that is to be computed or judged, before anything
            runs), "started", "reused" (its stored result stands), "saved", "finished" or "failed".
        workflow, node: their names.
        place: the node's place in the graph.
        reason: why it is computed, in words; "" if that isn't known.
        seconds: how long the function ran, for "finished".
        size: bytes of the stored result, for "saved".
        error: what was raised, for "failed".
    """

    kind: str
    workflow: str
    node: str
    place: int
    reason: str = ""
    seconds: float = 0.0
    size: int = 0
    error: BaseException | None = None


Listener = Callable[[Event], None]
