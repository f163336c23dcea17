"""Arguments of nodes under the names of parameters, and names in `ignore` and `packages`."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from types import FunctionType
from typing import Any, NamedTuple, cast

from ..errors import OptionsError
from ..graph.nodes import MethodCall, Node
from ..names import close_to, label_of
from ..serializers.script import module_name
from .literals import tagged
from .project import meant, version_of
from .seen import Seen

__all__ = [
    "Head",
    "bare_head",
    "called_by",
    "check_ignored",
    "check_packages",
    "defaults_of",
    "described",
    "hidden_names",
    "ignored_positions",
    "named",
    "ordered",
    "parameters_of",
    "places_of",
]


class Head(NamedTuple):
    """The common properties of all nodes of one function.

    Attributes:
        text: the first bytes of their own parts.
        names: the parameters that take arguments by position.
        keywords: the parameters that take arguments by keyword.
        ignored: the parameters that don't count.
        seen: the first look at the function's code; None if it can't be told.
        own: the packages that belong to the project.
        parts: the parts of `Identities.parts` that the arguments don't change.
        orders: the known results of `ordered`, by shape.
        defaults: the default values of parameters that are not ignored, by name.
    """

    text: bytes
    names: tuple[str, ...]
    keywords: frozenset[str]
    ignored: frozenset[str]
    seen: Seen
    own: frozenset[str]
    parts: dict[str, Any]
    orders: dict[object, list[tuple[str, int]]]
    defaults: dict[str, Any]


def called_by(node: Node, replaced: Mapping[Node, Any]) -> tuple[Any, str]:
    """Return the function, class or method that is called, and its full name."""
    called, label = node.function, node.label
    if node in replaced:
        called, label = replaced[node], label_of(replaced[node])
    return called, f"{module_name(str(getattr(called, '__module__', None)))}.{label}"


def defaults_of(function: Any, ignored: Collection[str]) -> dict[str, Any]:
    """Return the default values of a function's parameters that are not ignored, by name."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return {}
    given = {known.name: known.default for known in parameters if known.name not in ignored}
    return {name: value for name, value in given.items() if value is not inspect.Parameter.empty}


def bare_head(node: Node, replaced: Mapping[Node, Any]) -> Head:
    """Return the properties of a function whose code has no digest: those of its parameters."""
    called, name = called_by(node, replaced)
    names, keywords, _ = parameters_of(called, node)
    ignored, nothing = frozenset(node.called.settings.ignore), cast("Seen", None)
    parts = {"function": name, "code": ""}
    defaults = defaults_of(called, ignored)
    return Head(b"", names, keywords, ignored, nothing, frozenset(), parts, {}, defaults)


def ordered(node: Node, head: Head) -> tuple[Sequence[Any], list[tuple[str, int]]]:
    """Return all arguments of a node, and name and position of those that count."""
    values: tuple[Any, ...] = node.args
    shape: object = len(values)
    if node.kwargs:
        values, shape = (*values, *node.kwargs.values()), (shape, *node.kwargs)
    order = head.orders.get(shape)
    return values, _order(node, head, shape) if order is None else order


def _order(node: Node, head: Head, shape: object) -> list[tuple[str, int]]:
    """Return name and position of a node's arguments: named parameters sorted, then the others.

    Arguments by keyword have the positions after those by position.

    Args:
        shape: equal for calls with equal names. If all are parameters, `head` keeps the order.
    """
    count, known = len(node.args), len(head.names)
    order = [*zip(head.names, range(count), strict=False)]
    others: list[tuple[str, int]] = []
    order += [(f"*{position - known}", position) for position in range(known, count)]
    for position, name in enumerate(node.kwargs, count):
        (order if name in head.keywords else others).append((name, position))
    order = [*sorted(order), *others]
    if head.ignored:
        order = [pair for pair in order if pair[0] not in head.ignored]
    if count <= known and not others:
        head.orders[shape] = order
    return order


def parameters_of(function: Any, node: Node) -> tuple[tuple[str, ...], frozenset[str], bool]:
    """Return the parameters by position, those by keyword, and whether any keyword is taken.

    They are the parameters of the called function, not of a function that it wraps: a wrapper sees
    whether an argument came by position or by keyword.
    """
    if type(function) is FunctionType:  # without a `__signature__` that code has set
        function = FunctionType(function.__code__, {}, closure=function.__closure__)
    elif hasattr(function, "__wrapped__") and not isinstance(function, type):
        return (), frozenset(), True
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return (), frozenset(), True
    kinds: dict[Any, list[str]] = {}
    for parameter in signature.parameters.values():
        kinds.setdefault(parameter.kind, []).append(parameter.name)
    either = kinds.get(inspect.Parameter.POSITIONAL_OR_KEYWORD, [])
    names = (*kinds.get(inspect.Parameter.POSITIONAL_ONLY, []), *either)
    keywords = frozenset((*either, *kinds.get(inspect.Parameter.KEYWORD_ONLY, [])))
    bound = type(node) is MethodCall and not isinstance(
        inspect.getattr_static(node.constructor.function, node.method, None),
        (staticmethod, classmethod),
    )
    if bound:
        names, keywords = names[1:], keywords - set(names[:1])
    return names, keywords, inspect.Parameter.VAR_KEYWORD in kinds


def ignored_positions(node: Node) -> set[int]:
    """Return the positions of arguments in `ignore`; keywords come after those by position.

    These are also arguments that have the name in a function that the called one wraps, and parts
    of `*args` or `**kwargs`. In a fingerprint, such arguments count, because only the wrapper knows
    what it hands on; but they are never shown.
    """
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
        if kinds.get(inspect.Parameter.VAR_POSITIONAL) in ignore:
            found.update(range(len(names), count))
        if kinds.get(inspect.Parameter.VAR_KEYWORD) in ignore:
            found.update(position for position, name in keywords if name not in by_keyword)
    return found


def hidden_names(node: Node, order: Iterable[tuple[str, int]]) -> set[str]:
    """Return the names, in a fingerprint, of arguments that count and must not be shown.

    Args:
        order: as from `ordered`.
    """
    positions = ignored_positions(node)
    return {name for name, position in order if position in positions}


def _parameters(function: Any) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return ()


def check_ignored(node: Node, function: Any, seen: Seen, home: str) -> None:
    """Raise OptionsError if a name in `ignore` is no argument and no global that is read."""
    names, keywords, anything = parameters_of(node.function, node)
    for name in node.settings.ignore:
        if anything or name in names or name in keywords or name in seen.ignored:
            continue
        if node.settings.version is not None and name in getattr(function, "__globals__", ()):
            continue
        read = [other.removeprefix(f"{home}.") for other in seen.variables]
        close = close_to(name, (*names, *keywords, *read))
        raise OptionsError(
            f"@workflow(ignore=[{name!r}]) of {node.label!r}: it has no argument and reads no"
            f" global of that name{close}"
        )


def check_packages(packages: Iterable[str], asked: str) -> None:
    """Raise OptionsError if a name is no installed package with a version; `asked`: the option."""
    for package in packages:
        if not version_of(package):
            raise OptionsError(
                f"{asked}: {package!r} is no installed package with a version{meant(package)}"
            )


def places_of(node: Node) -> dict[Node, int]:
    """Return the number of each node whose result a node needs."""
    return dict(zip(node.needs, count(), strict=False))


def described(plugin: Any) -> str:
    """Return a plugin as text."""
    return f"plugin {type(plugin).__name__!r}"


@lru_cache(maxsize=4096)
def named(name: str) -> bytes:
    """Return the stream of a parameter's name."""
    return tagged(b"", name) + b"="
