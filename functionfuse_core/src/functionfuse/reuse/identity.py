"""The identity of a node as digests of its code, its arguments and its parents.

- The *own part* is the digest of code, arguments and plugins. A parent in it is only a number.
- The *call* combines the own part with the digests of the parents' results.
- The *recipe* combines the own part with the parents' recipes, so it needs no result.

An object's method call has one more parent: the earlier call on the object.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from xxhash import xxh3_128_digest

from ..errors import FingerprintError, OptionsError
from ..graph.nodes import Call, MethodCall, Node
from ..names import label_of
from ..serializers.script import module_name
from .arguments import Head, arguments_of, check_ignored, check_packages, parameters_of
from .bytecode import IMPORTED
from .literals import literal_stream, shown, tagged
from .project import defined_in, meant, top_level, version_of
from .seen import Seen, Subject, forget
from .values import Writer
from .workers import Expected

__all__ = ["PYTHON", "RULE", "Identities", "combined", "version_of"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RULE = 2  # version of the digests; it goes up whenever equal code would get another digest


def combined(own: bytes, parents: Sequence[bytes]) -> bytes:
    """Return the digest of a node's own part and of the digests of its parents."""
    return xxh3_128_digest(b"".join((own, *parents)))


class Identities:
    """Compute the own parts of nodes: code, arguments and plugins, without the parents' results.

    Each plan needs a new object, because variables that functions read can change between plans.
    The analysis of bytecode is cached for longer (see `shape_of`).

    Args:
        replaced: functions that are called instead of the nodes' own.
        own: packages that belong to the project, wherever they are installed.
        packages: names of packages whose version counts for all nodes.
        plugins: for each node that has some: the node plugins that count.
    """

    def __init__(
        self,
        replaced: dict[Node, Callable[..., Any]],
        *,
        own: Iterable[str] = (),
        packages: Iterable[str] = (),
        plugins: Mapping[Node, Sequence[Any]] | None = None,
    ) -> None:
        self._replaced = replaced
        self._plugins = plugins or {}
        self._own = frozenset(own)
        for name in self._own:
            if name not in sys.modules and not importlib.util.find_spec(top_level(name)):
                close = meant(name, imported=True)
                raise OptionsError(
                    f"set_reuse(own=...): no package {name!r} can be imported{close}"
                )
        self._packages = tuple(packages)
        self._codes: dict[object, Seen | str] = {}
        self._heads: dict[object, Head] = {}
        self._given: dict[Node, dict[str, bytes]] = {}  # digests of arguments that can change
        self._indexes: dict[Node, dict[Node, int]] = {}  # of the parents, for nodes with several
        self._prepared: dict[tuple[int, object], bytes] = {}  # digests of plugins, per function
        self._subjects: dict[object, Subject] = {}
        self._direct: dict[Node, dict[int, Any]] = {}  # functions and classes in arguments
        self._held: dict[tuple[object, ...], Seen] = {}  # code in results
        self._expected: dict[object, tuple[Expected, object]] = {}

    def own(self, node: Node) -> bytes:
        """Return the digest of code, arguments and plugins, with parents as numbers.

        Raises:
            FingerprintError: a part of them has no digest; the message names it.
            OptionsError: a name in `ignore` is no argument and no global that the code reads.
        """
        head = self._head(node)
        out = [head.text]
        if len(node.args) > len(head.names):
            out.append(b"*%d;" % (len(node.args) - len(head.names)))
        for name, value in arguments_of(node, head):
            out.append(_named(name))
            if type(value) is Call:
                out.append(b"n%d;" % self._index(node, value))
                continue
            stream = literal_stream(value)
            if stream is None:
                stream = self._stream(node, f"argument {name!r}", value)
                self._given.setdefault(node, {})[name] = stream
            out.append(stream)
        if self._plugins:
            out += [b"P" + stream for _, stream in self._of_plugins(node)]
        return xxh3_128_digest(b"".join(out))

    def parts(self, node: Node) -> dict[str, Any]:
        """Return the parts of a fingerprint that explain a difference; see `difference`.

        Raises FingerprintError as `own`.
        """
        code, given = self._code(node), self._given.get(node, {})
        arguments = {}
        for name, value in arguments_of(node, self._head(node)):
            stream = literal_stream(value) or given.get(name)
            if not stream:
                stream = self._stream(node, f"argument {name!r}", value)
            arguments[name] = [shown(value), xxh3_128_digest(stream)[:8].hex()]
        versions = {name: version_of(name) for name in sorted(code.packages)}
        plugins = [
            [type(plugin).__name__, xxh3_128_digest(stream)[:8].hex()]
            for plugin, stream in self._of_plugins(node)
        ]
        return {
            "rule": RULE,
            "python": PYTHON,
            "function": self.name(node),
            "code": code.digest.hex(),
            "uses": code.codes,
            "globals": code.variables,
            "packages": {name: version for name, version in versions.items() if version},
            "arguments": arguments,
            **({"plugins": plugins} if plugins else {}),
        }

    def changed(self, node: Node) -> str:
        """Return the first input of a node that changed since the run began; "" for none.

        An input is an argument, a plugin, or a variable that the code reads.
        """
        given = dict(arguments_of(node, self._head(node)))
        inputs = [
            (f"argument {name!r}", given[name], before)
            for name, before in self._given.get(node, {}).items()
        ]
        inputs += [
            (_described(plugin), plugin, before) for plugin, before in self._of_plugins(node)
        ]
        for description, value, before in inputs:
            try:
                same = self._stream(node, description, value) == before
            except FingerprintError as error:
                forget(error)
                same = False
            if not same:
                return description
        return self._code(node).changed(partial(self._look, node))

    def name(self, node: Node) -> str:
        """Return module and qualified name of the function that a node calls."""
        function, label = node.function, node.label
        if node in self._replaced:
            function = self._replaced[node]
            label = label_of(function)
        return f"{module_name(str(getattr(function, '__module__', None)))}.{label}"

    def own_packages(self, node: Node) -> frozenset[str]:
        """Return the packages that belong to the project for a node."""
        return self._own | defined_in(self._function(node))[0]

    def held(self, names: Collection[str], by_value: bool) -> Seen:
        """Return the first look at the classes and functions in a result, and all they refer to.

        Args:
            names: "module:qualified name" of each.
            by_value: whether the result contains its code, so that nothing is imported.

        Raises FingerprintError as `own`.
        """
        key = (*names, by_value)
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = self._look_at(names, by_value)
        return found

    def held_changed(self, names: Collection[str], by_value: bool) -> str:
        """Return the first part of `held` that changed since the first look; "" for none."""
        again = partial(self._look_at, names, by_value)
        return self.held(names, by_value).changed(again)

    def expected(
        self, node: Node, held: Sequence[tuple[Collection[str], bool]]
    ) -> list[tuple[Expected, object]]:
        """Return the checks that a worker makes before it calls a node.

        Args:
            held: names and by_value, as for `held`, of the results that the node takes.

        Returns:
            Pairs of the expected state and the code to compare; None is the node's function.
        """
        found = self._direct.get(node, {}).copy()
        try:
            for names, by_value in held:
                things = [_found(name, by_value=by_value) for name in names]
                found.update((id(thing), thing) for thing in things if thing is not None)
            key = self._key(node)
            if key not in self._expected:
                self._expected[key] = Expected(self._subject(node), self._code(node)), None
            ids = tuple(found)
            if found and ids not in self._expected:
                own = {top_level(name.partition(":")[0]) for names, _ in held for name in names}
                subject, values = Subject(own=self.own_packages(node) | own), tuple(found.values())
                self._expected[ids] = Expected(subject, subject.look(values)), values
        except FingerprintError as error:
            forget(error)
            return []  # it has no fingerprint anyway
        return [self._expected[key], *([self._expected[ids]] if ids else [])]

    def _look_at(self, names: Collection[str], by_value: bool) -> Seen:
        found = tuple(_found(name, by_value=by_value) for name in names)
        own = self._own | {top_level(name.partition(":")[0]) for name in names}
        try:
            return Subject(own=own).look(found)
        except FingerprintError as error:
            paths = ", ".join(repr(name.partition(":")[2] or name) for name in names)
            raise FingerprintError(f"{paths}: {error}") from error

    def check(self, nodes: Iterable[Node]) -> None:
        """Raise OptionsError if a name in `packages` or `ignore` of the nodes doesn't exist."""
        check_packages(self._packages, "set_reuse(packages=...)")
        for node in nodes:
            if node.settings.ignore or node.settings.packages:
                try:
                    self._code(node)
                except FingerprintError as error:
                    forget(error)

    def _head(self, node: Node) -> Head:
        key = self._key(node)
        if type(node) is MethodCall:
            key = key, node.method
        head = self._heads.get(key)
        if head is None:
            digest = self._code(node).digest
            name = f"{RULE} {PYTHON} {self.name(node)} ".encode("utf-8", "surrogatepass")
            names, keywords, _ = parameters_of(self._replaced.get(node, node.function), node)
            head = Head(name + digest, names, keywords, frozenset(node.settings.ignore))
            self._heads[key] = head
        return head

    def _function(self, node: Node) -> Any:
        """Return the function whose code counts, or a method's class."""
        if node in self._replaced:
            return self._replaced[node]
        return node.constructor.function if type(node) is MethodCall else node.function

    def _code(self, node: Node) -> Seen:
        key = self._key(node)
        known = self._codes.get(key)
        if known is None:
            try:
                known = self._look(node)
            except FingerprintError as error:
                forget(error)
                known = str(error)
            self._codes[key] = known
        if isinstance(known, str):
            raise FingerprintError(known)
        return known

    def _key(self, node: Node) -> object:
        """Return the key of a node's code; with an id, as a replacement may be unhashable."""
        if self._replaced and node in self._replaced:
            return node.called, id(self._replaced[node])
        return node.called

    def _look(self, node: Node) -> Seen:
        """Return a new look at a node's code and all that it refers to."""
        function = self._function(node)
        found = self._subject(node).look(function)
        if node not in self._replaced:
            check_ignored(node, function, found, self._subject(node).home)
        return found

    def _subject(self, node: Node) -> Subject:
        """Return the settings for the look at a node's code."""
        key = self._key(node)
        subject = self._subjects.get(key)
        if subject is None:
            function, settings = self._function(node), node.settings
            check_packages(settings.packages, f"@workflow(packages=...) of {node.label!r}")
            check_packages(self._packages, "set_reuse(packages=...)")
            names, keywords, _ = parameters_of(node.function, node)
            subject = self._subjects[key] = Subject(
                node.label,
                self.own_packages(node),
                tuple(name for name in settings.ignore if name not in (*names, *keywords)),
                module_name(str(getattr(function, "__module__", ""))),
                (*settings.packages, *self._packages, *defined_in(function)[1]),
                None if node in self._replaced else settings.version,
            )
        return subject

    def _index(self, node: Node, parent: Node) -> int:
        """Return the index of a parent among a node's parents; -1 for any other node."""
        if node.needs and node.needs[0] is parent:
            return 0
        indexes = self._indexes.get(node)
        if indexes is None:
            indexes = {need: index for index, need in enumerate(node.needs)}
            self._indexes[node] = indexes
        return indexes.get(parent, -1)

    def _of_plugins(self, node: Node) -> list[tuple[Any, bytes]]:
        """Return the plugins of a node that count, with their streams from the first look."""
        found = []
        for plugin in self._plugins.get(node, ()):
            key = id(plugin), self._key(node)
            if key not in self._prepared:
                self._prepared[key] = self._stream(node, _described(plugin), plugin)
            found.append((plugin, self._prepared[key]))
        return found

    def _stream(self, node: Node, description: str, value: Any) -> bytes:
        if type(value) is Call:
            return b"n%d;" % self._index(node, value)
        inspected = self._code(node).inspected
        index = partial(self._index, node)
        writer = Writer(index, own=self.own_packages(node), inspected=inspected)
        try:
            writer.write(value)
            digest = writer.digest()
        except FingerprintError as error:
            raise FingerprintError(f"{description}: {error}") from None
        if writer.direct:
            self._direct.setdefault(node, {}).update((id(code), code) for code in writer.direct)
        return b"#" + digest


def _described(plugin: Any) -> str:
    return f"plugin {type(plugin).__name__!r}"


@lru_cache(maxsize=4096)
def _named(name: str) -> bytes:
    return tagged(b"", name) + b"="


def _found(name: str, *, by_value: bool) -> Any:
    """Return the object of a name; None if it is gone. A script's module isn't imported."""
    module, _, path = name.partition(":")
    if path == IMPORTED:  # a plan can't follow it: the code may be of another script
        raise FingerprintError(f"code that imports {module!r} when it runs")
    found: Any = sys.modules.get(module)
    if module == module_name("__main__"):
        found = sys.modules["__main__"]
    try:
        if found is None and not by_value:
            found = importlib.import_module(module)
        for part in path.split(".") if path else ():
            found = getattr(found, part)
    except (AttributeError, ImportError):
        return None  # then the value can't be loaded either, or is stored with its code
    except Exception as error:
        raise FingerprintError(f"module {module!r} can't be imported: {error!r}") from error
    return found
