"""The objects of decorated classes in a run: each lives from its constructor to its last call.

A call needs the object as the call before has left it. If the run hasn't that object, because
stored results of earlier calls were reused, these calls are made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..graph.nodes import ConstructorCall, MethodCall, Node
from .job import Outcome

__all__ = ["STATEFUL", "Objects"]

STATEFUL = ConstructorCall, MethodCall  # the types of the nodes that are calls on objects


class Objects:
    """The objects of a run.

    Args:
        before: the objects that the run has already.
        keeps: whether objects stay with the backend. Then a call doesn't return its object, and
            the backend's handle of it is the same for all calls.
        grows: whether more calls may be made on the objects than are known.

    Attributes:
        held: by constructor: the object, and the last call on it.
    """

    def __init__(
        self, before: Mapping[Node, tuple[Any, Node]], *, keeps: bool, grows: bool
    ) -> None:
        self.held = dict(before)
        self._keeps = keeps
        self._grows = grows
        self._out: dict[int, Any] = {}  # by index of a call that runs: its object, if that is kept
        self._left = Counter[Node]()  # by constructor: calls to be made, or running

    def clear(self) -> None:
        """Release all objects."""
        self.held.clear()
        self._out.clear()

    def expect(self, node: Any) -> None:
        """Note that a call will be made."""
        self._left[node.constructor] += 1

    def get(self, node: MethodCall) -> tuple[Any, Node | None]:
        """Return the object of a call and the last call on it; None and None if it isn't here."""
        found: tuple[Any, Node | None] = self.held.get(node.constructor, (None, None))
        return found

    def idle(self) -> dict[Node, tuple[Any, Node]]:
        """Return the objects that no call has: a backend ends a call, and its object, to cancel."""
        busy = set(map(id, self._out.values()))
        return {made: held for made, held in self.held.items() if id(held[0]) not in busy}

    def hand_over(self, index: int, target: Any) -> None:
        """Note the object that a call has; None for none."""
        if target is not None and self._keeps:
            self._out[index] = target

    def take_back(self, index: int, node: Any, handle: Any, outcome: Outcome) -> None:
        """Keep the object for its next call."""
        target = outcome.target
        if self._keeps:
            # The object may have been made again meanwhile, for a call that is made again.
            target = handle if node is node.constructor else self._out.pop(index)
        self.held[node.constructor] = target, node
        self.end_call(index, node)

    def end_call(self, index: int, node: Any, *, failed: bool = False) -> None:
        """Release an object after the last call on it, or if the call failed: it may be changed."""
        self._out.pop(index, None)
        self._left[node.constructor] -= 1
        if failed or not (self._left[node.constructor] or self._grows):
            self.held.pop(node.constructor, None)
