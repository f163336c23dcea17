"""Arguments of nodes, as the record of a run has them; and texts without the ignored ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from math import isfinite
from numbers import Integral, Real
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import quote

from ..graph.arguments import Nested, reference_in
from ..graph.nodes import Node, Pick
from ..graph.workflow import Graph
from ..reuse.arguments import parameters_of
from ..reuse.identity import Identities
from ..serializers.script import name_of

__all__ = ["recorded", "without_secrets"]

_LONGEST_ERROR = 2000  # characters
_SHORTEST = 4  # characters of a text that is removed from errors
_MOST = 1000  # such texts of one argument
_NONE: tuple[Callable[[Any], float], float] = id, -1  # of a type that JSON doesn't have
_CODE = FunctionType, ModuleType, type
_LEFT_OUT = "***"

# By type of a value that JSON has as it is: a measure, and the largest one that is recorded. NaN is
# below none.
_MEASURES: dict[type, tuple[Callable[[Any], float], float]] = {
    bool: (abs, 1),
    int: (int.bit_length, 512),
    float: (abs, sys.float_info.max),
    str: (len, 200),
    type(None): (bool, 0),
}


def recorded(identities: Identities, graph: Graph) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Iterate over function, code and arguments of all nodes, in the form of `RecordedNode`."""
    names, positions, measures = graph.names, graph.positions, _MEASURES.get
    for node in graph.nodes:
        function, code, values, order = identities.told(node)
        found: dict[str, object] = {}
        for index, (name, position) in enumerate(order):
            value = values[position]
            kind = type(value)
            measure, most = measures(kind, _NONE)
            if measure(value) <= most:
                found[name] = value
            elif isinstance(value, Node):
                found[name] = {"node": names[positions[value]]}
            elif kind is Pick:
                found[name] = {"node": names[positions[value.node]], "item": value._keys()}
            else:
                kind = type(value.like) if kind is Nested else kind
                content = _number_or_text(value)
                content = content or {"digest": identities.argument_digest(node, index, value)}
                found[name] = {"type": name_of(kind).removeprefix("builtins."), **content}
        yield function, code, found


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


def without_secrets(text: str, graph: Graph, failed: Node | None) -> str:
    """Return the text of an error without the texts of arguments and globals in `ignore`.

    Args:
        failed: the node whose error it is. If it takes an ignored argument from another node, the
            value isn't known here, so the text is "". So it is if an ignored object can't be
            searched.
    """
    found: set[str] = set()
    try:
        for node in graph.nodes:
            for value in _ignored(node) if node.called.settings.ignore else ():
                if node is failed and reference_in(value) is not None:
                    return ""
                found.update(islice(_texts(value, 3), _MOST))
    except Exception:  # noqa: BLE001  # the attributes of an object can be code of the user
        return ""
    for secret in sorted(found, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote(secret, safe="")):
            text = text.replace(form, _LEFT_OUT)
    return text[:_LONGEST_ERROR]


def _ignored(node: Node) -> Iterator[object]:
    """Iterate over the values of a node's arguments and globals in `ignore`."""
    names, _, _ = parameters_of(node.function, node)
    defaults = getattr(node.function, "__defaults__", None) or ()
    given = {
        **getattr(node.function, "__globals__", {}),
        **dict(zip(reversed(names), reversed(defaults), strict=False)),
        **(getattr(node.function, "__kwdefaults__", None) or {}),
        **dict(zip(names, node.args, strict=False)),
        **node.kwargs,
    }
    for name in node.called.settings.ignore:
        if name in given:
            yield given[name]


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Iterate over the texts in a value, in its items and in its attributes."""
    if isinstance(value, (str, bytes, int, float)):
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if len(text) >= _SHORTEST and not isinstance(value, bool):
            yield text
    elif depth and not isinstance(value, _CODE):
        inner: list[Any] = [*getattr(value, "__dict__", {}).values()]
        if isinstance(value, dict):
            inner += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            inner += value
        for item in inner:
            yield from _texts(item, depth - 1)
