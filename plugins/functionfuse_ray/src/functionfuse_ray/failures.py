"""The errors of a run's nodes, one of which is raised when all other nodes have finished."""

from __future__ import annotations

from collections.abc import Callable

from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from functionfuse.errors import WorkerDiedError
from functionfuse.graph.workflow import Graph
from functionfuse.run.job import Outcome

from .tasks import FailedNodeError

__all__ = ["Failures", "origin_of"]

_DIED = (WorkerCrashedError, RayActorError, OutOfMemoryError, NodeDiedError)


class Failures:
    """The errors of the nodes that failed, by index of the node.

    Args:
        note: adds a node's failure to the events of the run.
    """

    def __init__(self, graph: Graph, note: Callable[[int, BaseException], object]) -> None:
        self._graph = graph
        self._note = note
        self._known: dict[int, BaseException] = {}
        self._unclear: dict[int, BaseException] = {}

    def __bool__(self) -> bool:
        return bool(self._known or self._unclear)

    def add(self, index: int, error: BaseException, *, ahead: bool) -> None:
        """Add the error that Ray raised for a node.

        Args:
            ahead: whether nodes are submitted before their parents finish. Then the error may be
                that of a parent.
        """
        where, cause = origin_of(error)
        if isinstance(cause, RayError) and ahead:
            # Ray passes its own errors on to later tasks. `first` finds the node that failed.
            self._unclear[index] = cause
        elif where in (None, -1, index):
            self._add(index, cause)

    def _add(self, index: int, error: BaseException) -> None:
        if isinstance(error, _DIED):
            died = WorkerDiedError(
                f"the worker of node {self._graph.names[index]!r} died: {error}. All that was"
                " computed before is stored"
            )
            died.__cause__ = error
            error = died
        self._note(index, error)
        self._known[index] = error

    def first(self, stopped: Callable[[int], bool]) -> BaseException:
        """Return the error of the run: that of the first node that failed.

        Args:
            stopped: returns whether the node of an index failed, or uses one that did.
        """
        graph = self._graph
        for index in sorted(self._unclear):
            parents = map(graph.positions.__getitem__, graph.nodes[index].parents)
            if not any(map(stopped, parents)):
                self._add(index, self._unclear[index])
        first, *others = sorted(self._known)
        error = self._known[first]
        left_out = sum(map(stopped, range(len(graph.nodes)))) - len(self._known)
        if others:
            names = ", ".join(repr(graph.names[index]) for index in others[:10])
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            error.add_note(f"other nodes failed, too: {names}{more}")
        if left_out:
            error.add_note(f"{left_out} nodes that follow were not run; all others were")
        return error


def origin_of(error: BaseException) -> tuple[int | None, BaseException]:
    """Return the index of the node that failed, None if unknown, and the function's own error."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if not isinstance(cause, FailedNodeError):
        return None, error
    outcome: Outcome = cause.outcome.content
    raised = outcome.error or error
    if raised.__traceback__ is None:
        raised.add_note(f"in the worker:\n{outcome.remote_traceback}")
    return cause.index, raised
