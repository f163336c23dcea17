"""Arguments of nodes, as the record of a run has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isfinite
from numbers import Integral, Real
from typing import Any

from xxhash import xxh3_64_hexdigest

from ..graph.arguments import Nested
from ..graph.nodes import Node, Pick
from ..graph.workflow import Graph
from ..reuse.identity import Identities
from ..serializers.script import name_of
from .ignored import ignored_positions

__all__ = ["recorded"]

_LONGEST = 200  # characters of a text in an argument
_LARGEST = 1 << 512  # a larger int is recorded by its digest

# By type of a value that JSON has as it is: whether it is short, and no infinity or NaN.
_SHORT: dict[type, Callable[[Any], bool]] = {
    bool: lambda _: True,
    type(None): lambda _: True,
    float: isfinite,
    int: lambda value: bool(-_LARGEST < value < _LARGEST),
    str: lambda value: len(value) <= _LONGEST,
}


def recorded(identities: Identities, graph: Graph) -> list[dict[str, object]]:
    """Return the arguments of all nodes by name, in the form that `RecordedNode` describes."""
    names, positions, short_of = graph.names, graph.positions, _SHORT.get
    every = []
    known: dict[object, set[int]] = {}
    for node in graph.nodes:
        found: dict[str, object] = {}
        values, order = identities.arguments(node)
        hidden = ignored_positions(node, known) if node.called.settings.ignore else ()
        for index, (name, position) in enumerate(order):
            if position in hidden:
                continue
            while name in found:  # a keyword can have the name "*0", too
                name = f"*{name}"  # noqa: PLW2901
            value = values[position]
            kind = type(value)
            is_short = short_of(kind)
            if is_short is not None and is_short(value):
                found[name] = value
            elif isinstance(value, Node):
                found[name] = {"node": names[positions[value]]}
            elif kind is Pick:
                found[name] = {"node": names[positions[value.node]], "item": value._keys()}
            else:
                content = _number_or_text(value)
                if not content:
                    digest = identities.argument_digest(node, index, value)
                    if kind is Nested:
                        kind = type(value.like)
                        digest = digest and _with_names(digest, value, graph)
                    content = {"digest": digest}
                found[name] = {"type": name_of(kind).removeprefix("builtins."), **content}
        every.append(found)
    return every


def _with_names(digest: str, container: Nested, graph: Graph) -> str:
    """Return a digest of a container's digest, which has numbers for nodes, and of their names."""
    text = "".join([digest, *_names_in(container, graph)])
    return xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))


def _names_in(container: Nested, graph: Graph) -> Iterator[str]:
    found: list[str] = []
    for item in container.items:
        if isinstance(item, Nested):
            found.append("".join(_names_in(item, graph)))
        elif isinstance(item, Pick):
            found.append(f"{graph.names[graph.positions[item.node]]!r}{item._keys()}")
        elif isinstance(item, Node):
            found.append(repr(graph.names[graph.positions[item]]))
    return iter(sorted(found) if isinstance(container.like, (set, frozenset)) else found)


def _number_or_text(value: Any) -> dict[str, object]:
    """Return the content of an object that is exactly a number or a short text; {} for others."""
    plain: Any = None
    with suppress(Exception):  # these methods are the user's
        if isinstance(value, str):
            plain = str.__str__(value)
        elif isinstance(value, Integral):
            plain = int(value)
        elif isinstance(value, Real):
            number = float(value)
            if not isfinite(number):
                return {"float": repr(number)}
            plain = number if number == value else None
        elif (type(value).__module__, type(value).__name__.rstrip("_")) == ("numpy", "bool"):
            plain = bool(value)
    short = plain is not None and _SHORT[type(plain)](plain)
    return {"value": plain} if short else {}
