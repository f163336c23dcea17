"""Arguments and globals in `ignore`: they can be secrets, so the record of a run doesn't have them.

Errors quote values in many forms. So the error of a node has no text in the record if that node, or
one above it, takes an ignored value that can be a secret.
"""

from __future__ import annotations

import inspect
from typing import Any

from ..graph.nodes import MethodCall, Node
from ..graph.workflow import Graph
from ..reuse.arguments import ignored_positions

__all__ = ["Ignored"]

_HARMLESS = 1000  # numbers below are no secrets, such as a number of threads


class Ignored:
    """The ignored values of the nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._positions: dict[object, set[int]] = {}  # by form of the call
        self._secret: dict[int, bool] = {}  # by index of a node with ignored values

    def positions(self, node: Node) -> set[int]:
        """Return the positions of ignored arguments; see `ignored_positions`."""
        form = node.called, node.label, len(node.args), *node.kwargs
        if form not in self._positions:
            self._positions[form] = ignored_positions(node)
        return self._positions[form]

    def may_be_in(self, failed: int) -> bool:
        """Return whether the text of a node's error may quote an ignored value, by its index."""
        waiting, seen = [failed], set[int]()
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            node = self._graph.nodes[index]
            if node.called.settings.ignore:
                if index not in self._secret:
                    self._secret[index] = not all(map(_is_harmless, _values(node)))
                if self._secret[index]:
                    return True
            waiting += self._graph.parents[index]
        return False


def _values(node: Node) -> list[Any]:
    """Return the ignored arguments and defaults of a node; the node itself for what isn't known."""
    args = (None, *node.args) if type(node) is MethodCall else node.args
    try:
        bound = inspect.signature(node.function).bind_partial(*args, **node.kwargs)
    except (TypeError, ValueError):
        return [node]
    bound.apply_defaults()
    given: dict[str, Any] = {**bound.arguments, **node.kwargs}
    return [given.get(name, node) for name in node.called.settings.ignore]


def _is_harmless(value: object) -> bool:
    return value is None or (type(value) in (bool, int, float) and abs(value) < _HARMLESS)  # type: ignore[arg-type]
