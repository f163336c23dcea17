"""Arguments of nodes, as the record of a run has them."""

from __future__ import annotations

import sys
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
from ..reuse.literals import file_text
from ..serializers.script import name_of
from .ignored import Ignored

__all__ = ["recorded"]

_NONE: tuple[Callable[[Any], float], float] = id, -1  # of a type that JSON doesn't have

# By type of a value that JSON has as it is: a measure, and the largest one that is recorded. NaN is
# below none.
_MEASURES: dict[type, tuple[Callable[[Any], float], float]] = {
    bool: (abs, 1),
    int: (int.bit_length, 512),
    float: (abs, sys.float_info.max),
    str: (len, 200),
    type(None): (bool, 0),
}


def recorded(
    identities: Identities, graph: Graph, ignored: Ignored
) -> tuple[list[str], list[str], list[dict[str, object]]]:
    """Return function, code and arguments of all nodes, in the form of `RecordedNode`."""
    functions, codes, every = list[str](), list[str](), list[dict[str, object]]()
    measures = _MEASURES.get
    # One object for each source: what the collector of garbage has to look at takes time.
    sources = {node: {"node": name} for node, name in zip(graph.nodes, graph.names, strict=True)}
    for node in graph.nodes:
        head, values, order = identities.told(node)
        found: dict[str, object] = {}
        hidden = ignored.positions(node) if node.called.settings.ignore else ()
        for index, (name, position) in enumerate(order):
            if position in hidden:
                continue
            while name in found:  # a keyword can have the name "*0", too
                name = f"*{name}"  # noqa: PLW2901
            value = values[position]
            kind = type(value)
            measure, most = measures(kind, _NONE)
            if measure(value) <= most:
                found[name] = value
            elif isinstance(value, Node):
                found[name] = sources[value]
            elif kind is Pick:
                found[name] = {**sources[value.node], "item": value._keys()}
            else:
                digest = identities.argument_digest(node, index, value)
                if kind is Nested:
                    digest = digest and _with_names(digest, value, graph)
                found[name] = _described(value.like if kind is Nested else value, digest)
        for name, value in head.defaults.items():
            if name not in found:
                measure, most = measures(type(value), _NONE)
                # Its digest is not needed: the code has another one if the default changes.
                found[name] = value if measure(value) <= most else _described(value, "")
        functions.append(head.parts["function"])
        codes.append(head.parts["code"])
        every.append(found)
    return functions, codes, every


def _described(value: Any, digest: str) -> dict[str, object]:
    """Return the type of an object, with its content if it is a number or a text."""
    content = _number_or_text(value) or {"digest": digest}
    name = file_text(value) or name_of(type(value)).removeprefix("builtins.")
    return {"type": name, **content}


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
    measure, most = _MEASURES[type(plain)]
    return {"value": plain} if plain is not None and measure(plain) <= most else {}
