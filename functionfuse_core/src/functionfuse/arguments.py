"""Arguments of calls: finding the nodes in them, and putting results in their places."""

from __future__ import annotations

import itertools

from .errors import GraphError

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .nodes import Node

__all__ = ["PLAIN", "Nested", "Reference", "lift", "lift_all", "resolve"]

# Values of these types hold no nodes; most arguments are one of them.
PLAIN = frozenset({int, float, str, bool, bytes, complex, type(None), type})


class Reference:
    """Something that stands in an argument for a node's result, or a part of it."""

    __slots__ = ()

    # With __getitem__ alone, Python would iterate with 0, 1, 2, ... and never stop.
    __iter__ = None
    __contains__ = None

    @property
    def source(self) -> Node:
        """The node whose result it is."""
        raise GraphError(f"{self!r} can't be an argument")

    def of(self, result: Any) -> Any:
        """Return what it stands for, given the node's result."""
        return result


class Nested:
    """A container of nodes in an argument; its items as they were when the call was made."""

    __slots__ = ("items", "like")

    def __init__(self, like: Any, items: list[Any]) -> None:
        self.like = like
        self.items = items

    def build(self, resolved: list[Any]) -> Any:
        """Return a container of the original's type with `resolved` in the places of `items`."""
        like, kind = self.like, type(self.like)
        if kind is dict:
            return dict(zip(resolved[::2], resolved[1::2], strict=True))
        if isinstance(like, tuple):
            return tuple.__new__(kind, resolved)
        if isinstance(like, frozenset):
            return frozenset.__new__(kind, resolved)
        if kind is list or kind is set:
            return kind(resolved)
        import copy

        copied = copy.copy(like)  # keeps, for instance, a defaultdict's factory
        copied.clear()
        if isinstance(like, dict):
            for key, value in zip(resolved[::2], resolved[1::2], strict=True):
                copied[key] = value
        elif isinstance(like, set):
            copied.update(resolved)
        else:
            copied.extend(resolved)
        return copied


_CONTAINERS = (list, tuple, dict, set, frozenset)


def lift_all(
    args: tuple[Any, ...], needs: dict[Node, None], seen: dict[int, Any]
) -> tuple[Any, ...]:
    """Note the nodes in `args` in `needs`; return `args` with containers of nodes as `Nested`."""
    for value in args:
        if isinstance(value, Reference):
            needs[value.source] = None
        elif type(value) not in PLAIN:
            break
    else:
        return args
    return tuple([lift(value, needs, seen) for value in args])


def lift(value: Any, needs: dict[Node, None], seen: dict[int, Any]) -> Any:
    """Note the nodes in `value` in `needs`; return it, as `Nested` if it is a container of some."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Reference):
        needs[value.source] = None
        return value
    if not isinstance(value, _CONTAINERS):
        return value
    key = id(value)
    if key in seen:
        if seen[key] is _OPEN:
            seen[key] = _CYCLIC
            return value
        return value if seen[key] is _CYCLIC else seen[key]
    seen[key] = _OPEN
    items: Iterable[Any] = value
    if isinstance(value, dict):
        items = itertools.chain.from_iterable(value.items())
    holds_nodes = False
    lifted = []
    for item in items:
        if type(item) not in PLAIN:
            raised = lift(item, needs, seen)
            holds_nodes = holds_nodes or raised is not item or isinstance(raised, Reference)
            lifted.append(raised)
        else:
            lifted.append(item)
    if holds_nodes and seen[key] is _CYCLIC:
        raise GraphError("a container that holds nodes, given as an argument, holds itself too")
    seen[key] = Nested(value, lifted) if holds_nodes else value
    return seen[key]


_OPEN = object()
_CYCLIC = object()


def resolve(value: Any, result_of: Callable[[Node], Any], built: dict[Nested, Any]) -> Any:
    """Return `value` (an argument of a node) with every node in it replaced by its result.

    `built` is one dict for all arguments of a node, so that a container that stands in them twice
    reaches the function as one object.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is Nested:
        if value not in built:
            built[value] = value.build([resolve(item, result_of, built) for item in value.items])
        return built[value]
    if isinstance(value, Reference):
        return value.of(result_of(value.source))
    return value
