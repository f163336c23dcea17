"""Arguments of nodes under the names of parameters, and names in `ignore` and `packages`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import FunctionType
from typing import Any, NamedTuple

from ..errors import OptionsError
from ..graph.nodes import MethodCall, Node
from ..names import close_to
from .project import meant, version_of
from .seen import Seen

__all__ = ["Head", "arguments_of", "check_ignored", "check_packages", "parameters_of"]


class Head(NamedTuple):
    """The common properties of all nodes of one function.

    Attributes:
        text: the first bytes of their own parts.
        names: the parameters that take arguments by position.
        keywords: the parameters that take arguments by keyword.
        ignored: the parameters that don't count.
    """

    text: bytes
    names: tuple[str, ...]
    keywords: frozenset[str]
    ignored: frozenset[str]


def arguments_of(node: Node, head: Head) -> list[tuple[str, Any]]:
    """Return (name, value) of a node's arguments: named parameters sorted, then the others."""
    known = len(head.names)
    if known and len(node.args) == 1 and not (node.kwargs or head.ignored):
        return [(head.names[0], node.args[0])]
    pairs = [
        (head.names[index] if index < known else f"*{index - known}", value)
        for index, value in enumerate(node.args)
    ]
    others: list[tuple[str, Any]] = []
    for pair in node.kwargs.items():
        (pairs if pair[0] in head.keywords else others).append(pair)
    if len(pairs) > 1:
        pairs.sort(key=_first)
    pairs += others
    if head.ignored:
        pairs = [pair for pair in pairs if pair[0] not in head.ignored]
    return pairs


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


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
