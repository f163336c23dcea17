"""What each node of a graph computes, as digests: its code, its arguments and its parents.

A node's *call* is the digest of its code, its arguments and its parents' results; its *recipe*
is the same with the parents' recipes in place of their results, and so needs nothing stored.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from xxhash import xxh3_128_digest

from .errors import FingerprintError
from .fingerprint import Writer
from .literals import literal_stream, shown
from .names import label_of
from .nodes import Call, MethodCall, Node

__all__ = ["PYTHON", "Identities", "combined"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def combined(own: bytes, parents: Sequence[bytes]) -> bytes:
    """Return the digest of a node's own part and of what stands for its parents."""
    return xxh3_128_digest(b"".join((own, *parents)))


class Identities:
    """The own parts of nodes: code and arguments, without what comes from parents.

    Made anew for every plan, because what functions refer to can change in between; what bytecode
    does is remembered for longer.

    Args:
        replaced: functions that are called instead of the nodes' own.
    """

    def __init__(self, replaced: dict[Node, Callable[..., Any]]) -> None:
        self._replaced = replaced
        self._codes: dict[object, tuple[bytes, dict[str, str]] | FingerprintError] = {}
        self._heads: dict[object, tuple[bytes, tuple[str, ...], frozenset[str]]] = {}

    def own(self, node: Node) -> bytes:
        """Return the digest of a node's code and arguments; nodes stand in them by number.

        Raises:
            FingerprintError: something in them can't be told from another; the message says what.
        """
        head, names, ignored = self._head(node)
        out = [head]
        if len(node.args) > len(names):
            out.append(b"*%d;" % (len(node.args) - len(names)))
        for name, value in _arguments(node, names, ignored):
            encoded = name.encode("utf-8", "surrogatepass")
            out.append(b"%d:%s=" % (len(encoded), encoded))
            stream = literal_stream(value)
            out.append(self._stream(node, name, value) if stream is None else stream)
        return xxh3_128_digest(b"".join(out))

    def parts(self, node: Node) -> dict[str, Any]:
        """Return what explains a difference: function, code, what that uses, and arguments.

        Raises FingerprintError as `own`.
        """
        digest, uses = self._code(node)
        _, names, ignored = self._head(node)
        arguments = {}
        for name, value in _arguments(node, names, ignored):
            stream = literal_stream(value) or self._stream(node, name, value)
            arguments[name] = [shown(value), xxh3_128_digest(stream)[:8].hex()]
        return {
            "python": PYTHON,
            "function": self.name(node),
            "code": digest.hex(),
            "uses": uses,
            "arguments": arguments,
        }

    def name(self, node: Node) -> str:
        """Return module and qualified name of what a node calls."""
        if node in self._replaced:
            function = self._replaced[node]
            return f"{getattr(function, '__module__', None)}.{label_of(function)}"
        return f"{getattr(node.function, '__module__', None)}.{node.label}"

    def _head(self, node: Node) -> tuple[bytes, tuple[str, ...], frozenset[str]]:
        key = self._key(node)
        if isinstance(node, MethodCall):
            key = key, node.method
        head = self._heads.get(key)
        if head is None:
            digest, _ = self._code(node)
            function = self._replaced.get(node, node.function)
            text = f"{PYTHON} {self.name(node)} ".encode("utf-8", "surrogatepass") + digest
            head = text, _parameters(function, node), frozenset(node.settings.ignore)
            self._heads[key] = head
        return head

    def _code(self, node: Node) -> tuple[bytes, dict[str, str]]:
        function: Any = self._replaced.get(node)
        if function is None:
            function = node.function
            if isinstance(node, MethodCall):
                function = node.constructor.function
        key = self._key(node)
        known = self._codes.get(key)
        if known is None:
            try:
                known = self._written(function, node)
            except FingerprintError as error:
                known = error
            self._codes[key] = known
        if isinstance(known, FingerprintError):
            raise known
        return known

    def _key(self, node: Node) -> object:
        """Return what nodes of the same code share; what replaces a function may have no hash."""
        if self._replaced and node in self._replaced:
            return node.called, id(self._replaced[node])
        return node.called

    def _written(self, function: Any, node: Node) -> tuple[bytes, dict[str, str]]:
        settings, writer = node.settings, Writer()
        writer.write({name: _version(name) for name in settings.packages})
        if settings.version is None or node in self._replaced:
            writer.write(function)
        else:
            writer.write(("version", settings.version))
            writer.uses["version"] = settings.version
        for name in settings.packages:
            writer.uses[f"package {name}"] = _version(name)
        return writer.digest(), writer.uses

    def _stream(self, node: Node, name: str, value: Any) -> bytes:
        if type(value) is Call:
            return b"n%d;" % node.needs.index(value)
        writer = Writer(node.needs.index)
        try:
            writer.write(value)
        except FingerprintError as error:
            raise FingerprintError(f"argument {name!r}: {error}") from None
        return b"".join(writer.out)


def _arguments(
    node: Node, names: tuple[str, ...], ignored: frozenset[str]
) -> list[tuple[str, Any]]:
    """Return (name, value) of a node's arguments, sorted, however they were passed."""
    known = len(names)
    pairs = [
        (names[place] if place < known else f"*{place - known}", value)
        for place, value in enumerate(node.args)
    ]
    if node.kwargs:
        pairs += node.kwargs.items()
    if ignored:
        pairs = [pair for pair in pairs if pair[0] not in ignored]
    if len(pairs) > 1:
        pairs.sort(key=_first)
    return pairs


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _parameters(function: Any, node: Node) -> tuple[str, ...]:
    """Return the names of the parameters that take positional arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
    bound = isinstance(node, MethodCall) and not isinstance(
        inspect.getattr_static(node.constructor.function, node.method, None),
        (staticmethod, classmethod),
    )
    return names[1:] if bound else names


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise FingerprintError(f"package {package!r} is not installed") from None
