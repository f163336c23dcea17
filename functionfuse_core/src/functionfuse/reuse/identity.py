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
from functools import partial
from typing import Any

from xxhash import xxh3_128_digest

from ..errors import FileError, FingerprintError, OptionsError
from ..graph.nodes import Call, MethodCall, Node
from ..serializers.content import Source
from ..serializers.script import module_name
from .arguments import (
    Head,
    bare_head,
    called_by,
    check_ignored,
    check_packages,
    defaults_of,
    described,
    hidden_names,
    named,
    ordered,
    parameters_of,
    places_of,
)
from .literals import LITERALS, LONG, LONG_TYPES, file_text, shown
from .project import defined_in, meant, top_level, version_of
from .seen import Seen, Subject, forget, look_at, named_code
from .values import Writer
from .workers import Expected

__all__ = ["PYTHON", "RULE", "Identities", "version_of"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RULE = 2  # version of the digests; it goes up whenever equal code would get another digest


class Identities:
    """Compute the own parts of nodes: code, arguments and plugins, without the parents' results.

    Each plan needs a new object, because variables that functions read can change between plans.
    The analysis of bytecode is cached for longer (see `shape_of`).

    Args:
        replaced: functions that are called instead of the nodes' own.
        own: packages that belong to the project, wherever they are installed.
        packages: names of packages whose version counts for all nodes.
        plugins: for each node that has some: the node plugins that count.

    Attributes:
        has_plugins: whether any node has plugins that count.
        missing: the errors of nodes that have a missing file in an argument or a plugin.
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
        # The keys of their code; with an id, as a function may be unhashable.
        self._keys = {node: (node.called, id(called)) for node, called in replaced.items()}
        self._plugins = plugins or {}
        self.has_plugins = bool(plugins)
        self.missing: dict[Node, FileError] = {}
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
        # Streams of arguments that can change, by index in `_arguments`.
        self._given: dict[Node, dict[int, bytes]] = {}
        self._long: dict[int, bytes] = {}  # streams of long texts and bytes, by id
        self._prepared: dict[tuple[int, object], tuple[bytes, list[Source]]] = {}
        self._subjects: dict[object, Subject] = {}
        self._direct: dict[Node, dict[int, Any]] = {}  # functions and classes in arguments
        self._held: dict[tuple[object, ...], Seen] = {}  # code in results
        # By node, or key of its code: files in each value, or in the code, at the last look.
        self._files: dict[object, dict[tuple[str, int], list[Source]]] = {}
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
        for name, _, stream in self._arguments(node, head):
            out += named(name), stream
        if self._plugins:
            out += [b"P" + stream for _, stream in self._of_plugins(node)]
        return xxh3_128_digest(b"".join(out))

    def parts(self, node: Node) -> dict[str, Any]:
        """Return the parts of a fingerprint that explain a difference; see `difference`.

        Raises FingerprintError as `own`.
        """
        head = self._head(node)
        packages, arguments = {}, {}
        for name in sorted(head.seen.packages):
            if version := version_of(name):
                packages[name] = version
        hidden = hidden_names(node, self.told(node)[2]) if head.ignored else ()
        for name, value, stream in self._arguments(node, head):
            text = "" if name in hidden else shown(value) or file_text(value)
            arguments[name] = [text, xxh3_128_digest(stream)[:8].hex()]
        parts = {**head.parts, "packages": packages, "arguments": arguments}
        plugins = self.plugins(node) if self.has_plugins else []
        return {**parts, "plugins": plugins} if plugins else parts

    def told(self, node: Node) -> tuple[Head, Sequence[Any], list[tuple[str, int]]]:
        """Return what a record tells of a node, also if its code has no digest.

        The properties of its function, all arguments, and name and position of those that count.
        """
        try:
            head = self._head(node)
        except FingerprintError as error:
            forget(error)
            head = bare_head(node, self._replaced)
        return head, *ordered(node, head)

    def argument_digest(self, node: Node, index: int, value: Any) -> str:
        """Return the digest of an argument as in `parts`, by its place in `told`; "" for none."""
        stream = self._long.get(id(value)) or self._given.get(node, {}).get(index)
        if stream is None and type(value) in LITERALS:
            stream = LITERALS[type(value)](value)
        return xxh3_128_digest(stream)[:8].hex() if stream else ""

    def plugins(self, node: Node) -> list[list[str]]:
        """Return type and digest of each plugin that counts; none if one of them has no digest."""
        try:
            found = self._of_plugins(node)
        except FingerprintError as error:
            forget(error)
            return []
        return [[type(plugin).__name__, xxh3_128_digest(part)[:8].hex()] for plugin, part in found]

    def changed(self, node: Node) -> str:
        """Return the first input of a node that changed since the run began; "" for none.

        An input is an argument, a plugin, or a variable that the code reads.
        """
        head, inputs = self._head(node), []
        if node in self._given:
            arguments = self._arguments(node, head)
            for index in self._given[node]:
                name, value, before = arguments[index]
                inputs.append((f"argument {name!r}", value, before))
        if self._plugins:
            for plugin, before in self._of_plugins(node):
                inputs.append((described(plugin), plugin, before))
        places, first = places_of(node) if inputs else {}, ""
        for description, value, before in inputs:
            try:
                same = self._stream(node, description, value, places) == before
            except FingerprintError as error:
                forget(error)
                same = False
            if not same:
                first = first or description  # after it, too, files are looked at
        return first or head.seen.changed(partial(self._look, node))

    def files(self, node: Node) -> list[tuple[str, Source]]:
        """Return the files in a node's arguments and code, for `refuse_changed`."""
        if not self._files:
            return []
        found = self._files.get(node, {}) | self._files.get(self._keys.get(node, node.called), {})
        origins = [(f"{name} of {node.label!r}", files) for (name, _), files in found.items()]
        return [(origin, file) for origin, files in origins for file in files]

    def own_packages(self, node: Node) -> frozenset[str]:
        """Return the packages that belong to the project for a node."""
        return self._subject(node).own

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
            found = self._held[key] = look_at(names, self._own, by_value=by_value)
        return found

    def held_changed(self, names: Collection[str], by_value: bool) -> str:
        """Return the first part of `held` that changed since the first look; "" for none."""
        again = partial(look_at, names, self._own, by_value=by_value)
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
                things = [named_code(name, by_value=by_value) for name in names]
                found.update((id(thing), thing) for thing in things if thing is not None)
            key: object = self._keys.get(node, node.called)
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

    def check(self, nodes: Iterable[Node]) -> None:
        """Raise OptionsError if a name in `packages` or `ignore` of the nodes doesn't exist."""
        check_packages(self._packages, "set_reuse(packages=...)")
        for node in nodes:
            settings = node.called.settings
            if settings.ignore or settings.packages:
                try:
                    self._code(node)
                except FingerprintError as error:
                    forget(error)

    def _arguments(self, node: Node, head: Head) -> list[tuple[str, Any, bytes]]:
        """Return name, value and stream of each argument that counts.

        The stream of a value that can change is that of the first look; see `changed`.
        """
        found: list[tuple[str, Any, bytes]] = []
        values, order = ordered(node, head)
        places = places_of(node) if len(node.needs) > 1 else {}
        for name, position in order:
            value = values[position]
            kind = type(value)
            if kind is Call:
                stream = b"n%d;" % places[value] if places else b"n0;"
            elif kind in LITERALS:
                long = kind in LONG_TYPES and len(value) > LONG  # digested once, for all that ask
                stream = (long and self._long.get(id(value))) or LITERALS[kind](value)
                if long:
                    self._long[id(value)] = stream
            else:
                given, index = self._given.setdefault(node, {}), len(found)
                if index not in given:
                    places = places or places_of(node)
                    given[index] = self._stream(node, f"argument {name!r}", value, places)
                stream = given[index]
            found.append((name, value, stream))
        return found

    def _head(self, node: Node) -> Head:
        key: object = self._keys.get(node, node.called)
        if type(node) is MethodCall:
            key = key, node.method
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = self._new_head(node)
        return head

    def _new_head(self, node: Node) -> Head:
        seen, (called, name) = self._code(node), called_by(node, self._replaced)
        text = f"{RULE} {PYTHON} {name} ".encode("utf-8", "surrogatepass") + seen.digest
        names, keywords, _ = parameters_of(called, node)
        parts = {
            "rule": RULE,
            "python": PYTHON,
            "function": name,
            "code": seen.digest.hex(),
            "uses": seen.codes,
            "globals": seen.variables,
        }
        ignored = frozenset(node.called.settings.ignore)
        own, defaults = self._subject(node).own, defaults_of(called, ignored)
        return Head(text, names, keywords, ignored, seen, own, parts, {}, defaults)

    def _function(self, node: Node) -> Any:
        """Return the function whose code counts, or a method's class."""
        if node in self._replaced:
            return self._replaced[node]
        return node.constructor.function if type(node) is MethodCall else node.function

    def _code(self, node: Node) -> Seen:
        key: object = self._keys.get(node, node.called)
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

    def _look(self, node: Node) -> Seen:
        """Return a new look at a node's code and all that it refers to."""
        function, subject = self._function(node), self._subject(node)
        found = subject.look(function)
        if node.called.settings.ignore and node not in self._replaced:
            check_ignored(node, function, found, subject.home)
        if found.files:
            key: object = self._keys.get(node, node.called)
            self._files[key] = {("a file in the code", 0): found.files}
        return found

    def _subject(self, node: Node) -> Subject:
        """Return the settings for the look at a node's code."""
        key: object = self._keys.get(node, node.called)
        subject = self._subjects.get(key)
        if subject is None:
            subject = self._subjects[key] = self._new_subject(node)
        return subject

    def _new_subject(self, node: Node) -> Subject:
        function, settings, label = self._function(node), node.called.settings, node.label
        check_packages(settings.packages, f"@workflow(packages=...) of {label!r}")
        check_packages(self._packages, "set_reuse(packages=...)")
        own, packages = defined_in(function)
        ignored = settings.ignore
        if ignored:
            names, keywords, _ = parameters_of(node.function, node)
            ignored = tuple(name for name in ignored if name not in (*names, *keywords))
        return Subject(
            label,
            self._own | own,
            ignored,
            module_name(str(getattr(function, "__module__", ""))),
            (*settings.packages, *self._packages, *packages),
            None if node in self._replaced else settings.version,
        )

    def _of_plugins(self, node: Node) -> list[tuple[Any, bytes]]:
        """Return the plugins of a node that count, with their streams from the first look."""
        found = []
        for plugin in self._plugins.get(node, ()):
            key, origin = (id(plugin), self._keys.get(node, node.called)), described(plugin)
            noted, place = self._files.setdefault(node, {}), (origin, id(plugin))
            if key not in self._prepared:
                stream = self._stream(node, origin, plugin, places_of(node))
                self._prepared[key] = stream, noted.get(place, [])
            found.append((plugin, self._prepared[key][0]))
            noted.setdefault(place, self._prepared[key][1])
        return found

    def _stream(
        self, node: Node, description: str, value: Any, places: Mapping[Node, int]
    ) -> bytes:
        head = self._head(node)
        writer = Writer(places, own=head.own, inspected=head.seen.inspected)
        try:
            writer.write(value)
            digest = writer.digest()
        except FingerprintError as error:
            if isinstance(error.__cause__, FileError):  # not that of a variable in code
                self.missing[node] = FileError(f"{description} of {node.label!r}: {error}")
            raise FingerprintError(f"{description}: {error}") from None
        if writer.files:
            self._files.setdefault(node, {})[description, id(value)] = writer.files
        if writer.direct:
            self._direct.setdefault(node, {}).update((id(code), code) for code in writer.direct)
        return b"#" + digest
