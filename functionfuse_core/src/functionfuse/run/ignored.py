"""Arguments and globals in `ignore`: they can be secrets, so the record of a run doesn't have them.

Errors quote values in many forms. So the error of a node has no text in the record if that node, or
one above it, takes an ignored value that can be a secret.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from inspect import Parameter
from typing import Any

from ..graph.nodes import MethodCall, Node
from ..graph.workflow import Graph
from ..reuse.arguments import parameters_of

__all__ = ["Ignored"]

_HARMLESS = 1000  # numbers below are no secrets, such as a number of threads


class Ignored:
    """The ignored values of the nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._positions: dict[object, set[int]] = {}  # by form of the call
        self._secret: dict[int, bool] = {}  # by index of a node with ignored values

    def positions(self, node: Node) -> set[int]:
        """Return the positions of ignored arguments; keywords come after arguments by position.

        They also count under the names that they have in a function that the called one wraps, and
        as a part of `*args` or `**kwargs`. A fingerprint is stricter.
        """
        form = node.called, node.label, len(node.args), *node.kwargs
        if form not in self._positions:
            self._positions[form] = _positions(node)
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


def _positions(node: Node) -> set[int]:
    ignore, count = set(node.called.settings.ignore), len(node.args)
    keywords = [*enumerate(node.kwargs, count)]
    found = {position for position, name in keywords if name in ignore}
    for function in (node.function, inspect.unwrap(node.function)):
        names, by_keyword, _ = parameters_of(function, node)
        every = [*names, *(f"*{number}" for number in range(count - len(names)))]
        found.update(n for n, name in enumerate(every[:count]) if name in ignore)
        if ignore <= {*names, *by_keyword}:
            continue  # none is the name of `*args` or `**kwargs`
        kinds = {parameter.kind: parameter.name for parameter in _parameters(function)}
        if kinds.get(Parameter.VAR_POSITIONAL) in ignore:
            found.update(range(len(names), count))
        if kinds.get(Parameter.VAR_KEYWORD) in ignore:
            found.update(position for position, name in keywords if name not in by_keyword)
    return found


def _parameters(function: Any) -> Iterable[Parameter]:
    try:
        return inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return ()


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
