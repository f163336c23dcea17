"""Arguments and globals in `ignore`, which can be secrets: texts of errors without their texts.

Errors quote values in many forms: escaped, as bytes, in a URL, one line of several. So each text in
an ignored value is removed in all its usual forms. Where that can't be done, there is no text.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from inspect import Parameter
from itertools import chain, islice
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from ..graph.arguments import Nested, Reference, reference_in
from ..graph.nodes import Node
from ..graph.workflow import Graph
from ..reuse.arguments import parameters_of
from ..serializers.script import module_name

__all__ = ["Ignored", "ignored_positions"]

_LONGEST_ERROR = 2000  # characters
_SHORTEST = 4  # characters of a text that is removed from errors
_DEEPEST = 3  # objects within objects; containers can be nested to any depth
_MOST = 20_000  # items in all ignored arguments, and elements of one array
_MOST_ATTRIBUTES = 1000
_LEFT_OUT = "***"
_CODE = FunctionType, ModuleType, type, Reference
_MAPPINGS = dict, MappingProxyType
_CONTAINERS = list, tuple, set, frozenset, deque


class Ignored:
    """The ignored values of all nodes of a graph.

    Texts are removed from errors only if they have four characters or more.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._unknown: set[int] = set()  # nodes that take an ignored argument from another node
        values: list[object] = []
        self._complete = True
        found: set[str] = set()
        try:
            known: dict[object, set[int]] = {}
            for index, node in enumerate(graph.nodes):
                given = [*_given(node, known)] if node.called.settings.ignore else []
                if any(map(_holds_nodes, given)):
                    self._unknown.add(index)
                values += given
            found.update(_texts(values))
        except Exception:  # noqa: BLE001  # the methods of these objects can raise anything
            self._complete = False
        forms = {form for text in found for form in _forms(text)}
        self._forms = sorted((form for form in forms if len(form) >= _SHORTEST), key=_longest_first)

    def out_of(self, text: str, failed: int | None) -> str:
        """Return the text of an error without the texts of ignored values.

        It is "" if one of them isn't known here: if the node, or one above it, takes an ignored
        argument from another node; or if a value can't be looked through.

        Args:
            failed: index of the node whose error it is.
        """
        if not self._complete or (self._unknown and self._follows_unknown(failed)):
            return ""
        for form in self._forms:
            if form in text:
                text = text.replace(form, _LEFT_OUT)
        return text[:_LONGEST_ERROR]

    def _follows_unknown(self, failed: int | None) -> bool:
        waiting, seen = [] if failed is None else [failed], set[int]()
        while waiting:
            index = waiting.pop()
            if index in self._unknown:
                return True
            if index not in seen:
                seen.add(index)
                waiting += self._graph.parents[index]
        return False


def _longest_first(text: str) -> tuple[int, str]:
    return -len(text), text


def ignored_positions(node: Node, known: dict[object, set[int]]) -> set[int]:
    """Return the positions of arguments in `ignore`; keywords come after arguments by position.

    They also count under the names that they have in a function that the called one wraps, and as
    a part of `*args` or `**kwargs`. A fingerprint is stricter.

    Args:
        known: the results for calls of other forms; this one is added.
    """
    form = _form(node)
    if form not in known:
        known[form] = _positions(node)
    return known[form]


def _form(node: Node) -> object:
    return node.called, node.label, len(node.args), *node.kwargs


def _positions(node: Node) -> set[int]:
    ignore, count = set(node.called.settings.ignore), len(node.args)
    keywords = [*enumerate(node.kwargs, count)]
    found = {position for position, name in keywords if name in ignore}
    for function in _functions(node):
        names, by_keyword, _ = parameters_of(function, node)
        every = [*names, *(f"*{number}" for number in range(count - len(names)))]
        found.update(n for n, name in enumerate(every[:count]) if name in ignore)
        kinds = {p.kind: p.name for p in _parameters(function)}
        if kinds.get(Parameter.VAR_POSITIONAL) in ignore:
            found.update(range(len(names), count))
        if kinds.get(Parameter.VAR_KEYWORD) in ignore:
            found.update(position for position, name in keywords if name not in by_keyword)
    return found


def _functions(node: Node) -> list[Any]:
    """Return the called function, and the one that it wraps."""
    function: Any = node.function
    wraps = hasattr(function, "__wrapped__") and not isinstance(function, type)
    return [function, inspect.unwrap(function)] if wraps else [function]


def _parameters(function: Any) -> Iterable[Parameter]:
    try:
        return inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return ()


def _given(node: Node, known: dict[object, set[int]]) -> Iterator[object]:
    """Iterate over a node's ignored arguments; for each new form of a call also over the others.

    Those are defaults and globals.
    """
    is_new = _form(node) not in known
    values = [*node.args, *node.kwargs.values()]
    for position in ignored_positions(node, known):
        yield values[position]
    ignore = node.called.settings.ignore
    for function in _functions(node) if is_new else ():
        for parameter in _parameters(function):
            if parameter.name in ignore and parameter.default is not Parameter.empty:
                yield parameter.default
        for name in ignore:
            yield from _globals(name, function)


def _globals(name: str, function: Any) -> Iterator[object]:
    """Iterate over the globals that a name in `ignore` can mean: of any module, or the function's.

    The name is "NAME", "Class.attribute" or "module.NAME".
    """
    code = vars(function).get("__init__") if isinstance(function, type) else function
    parts = name.split(".")
    for count in range(len(parts)):
        module = ".".join(parts[:count])
        scope = getattr(code, "__globals__", {})
        if module:
            module = "__main__" if module == module_name("__main__") else module
            scope = getattr(sys.modules.get(module), "__dict__", {})
        if parts[count] in scope:
            value: object = scope[parts[count]]
            with suppress(AttributeError):
                for part in parts[count + 1 :]:
                    value = getattr(value, part)
                yield value


def _holds_nodes(value: object) -> bool:
    return type(value) is Nested or reference_in(value) is not None


def _texts(values: Sequence[object]) -> Iterator[str]:
    """Iterate over the texts in values, in their items and in their attributes.

    The attributes of large objects, such as clients of services, have many words that occur in any
    text. So it looks at the first ones only, those of the values themselves first.

    Raises ValueError if there are too many items.
    """
    waiting = deque((value, _DEEPEST) for value in values)
    seen: dict[int, tuple[Any, int]] = {}  # the values live on, so no two have the same id
    items, attributes = _MOST + len(values), _MOST_ATTRIBUTES
    while waiting:
        value, depth = waiting.pop()
        if seen.get(id(value), (None, -1))[1] >= depth:
            continue
        seen[id(value)] = value, depth
        if depth < _DEEPEST:
            if not attributes:
                return
            attributes -= 1
        inner = _inner(value)
        if inner is None:
            yield from _text(value)
            waiting.extendleft((each, depth - 1) for each in (_attributes(value) if depth else ()))
        elif depth < _DEEPEST:
            waiting.extendleft((each, depth) for each in islice(inner, attributes))
        elif len(seen) + len(waiting) + len(inner) > items:
            raise ValueError("an ignored value is too large")
        else:
            waiting.extend((each, depth) for each in inner)


def _inner(value: Any) -> Collection[Any] | None:
    """Return the items of a container, and what an array has; None for other values."""
    if isinstance(value, _MAPPINGS):
        return list(chain.from_iterable(value.items())) if len(value) <= _MOST else value
    if isinstance(value, _CONTAINERS):
        return value
    if isinstance(value, Nested):
        return value.items
    if isinstance(value, partial):
        return [*value.args, *value.keywords.values()]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return [value.tolist()] if value.size <= _MOST else []
    return None


def _attributes(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, bytearray, int, float, *_CODE)):
        return []
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for slot in slots for name in ([slot] if isinstance(slot, str) else slot)]
    found = [
        getattr(value, name, None) for name in names if name not in ("__dict__", "__weakref__")
    ]
    return [*found, *getattr(value, "__dict__", {}).values()]


def _text(value: Any) -> Iterator[str]:
    """Iterate over the text of a value, its lines, and the password in it, if it is a URL."""
    if value is None or isinstance(value, (bool, *_CODE)):
        return
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        found = [data.decode("latin-1"), data.decode("utf-8", "replace")]
    elif isinstance(value, str):
        found = [str.__str__(value)]
    elif not hasattr(value, "__dict__"):  # such as a number, a date or a path
        with suppress(ValueError):  # an int of more than 4,300 digits is in no text
            yield str(value)
        return
    else:
        return
    for text in found:
        yield text
        if "\n" in text or "\r" in text:
            yield from map(str.strip, text.splitlines())
        if "://" in text:
            with suppress(ValueError):
                if password := urlsplit(text).password:
                    yield password
                    yield unquote(password)


def _forms(text: str) -> Iterator[str]:
    """Iterate over the forms in which an error can have a text."""
    yield text
    if text.isascii() and text.isalnum():
        return
    data = text.encode("utf-8", "surrogatepass")
    escaped = [repr(text)[1:-1], ascii(text)[1:-1], repr(data)[2:-1], json.dumps(text)[1:-1]]
    escaped.append(json.dumps(text, ensure_ascii=False)[1:-1])
    for form in escaped:
        yield from (form, repr(form)[1:-1], json.dumps(form)[1:-1])
    yield from (quote(data), quote(data, safe=""), quote_plus(data))
