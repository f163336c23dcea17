"""What each node of a graph computes, as digests: its code, its arguments and its parents.

A node's *call* is the digest of its code, its arguments and its parents' results; its *recipe*
is the same with the parents' recipes in place of their results, and so needs nothing stored.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from .code import IMPORTED
from .errors import FingerprintError, OptionsError
from .fingerprint import Writer, digest_of
from .literals import literal_stream, shown
from .names import close_to, label_of
from .nodes import Call, MethodCall, Node
from .project import is_own_file, meant, module_name, name_in_package, top_level, version_of
from .variables import can_change
from .workflow import WorkflowClass, WorkflowFunction

__all__ = ["PYTHON", "RULE", "Identities", "combined", "version_of"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RULE = 2  # of what counts; it goes up whenever equal code would get another digest


def combined(own: bytes, parents: Sequence[bytes]) -> bytes:
    """Return the digest of a node's own part and of what stands for its parents."""
    return xxh3_128_digest(b"".join((own, *parents)))


class _Code(NamedTuple):
    """What a function is and reaches; see `Writer` for the names."""

    digest: bytes
    codes: dict[str, str]
    variables: dict[str, str]
    changeable: dict[str, str]
    fixed: list[tuple[str, Callable[[], Any], Any]]
    packages: set[str]
    inspected: bool


class _Head(NamedTuple):
    """What the nodes of one function have in common.

    Attributes:
        text: what their own parts begin with.
        names: the parameters that take arguments by position.
        keywords: those that take them by keyword.
        ignored: those that don't count.
    """

    text: bytes
    names: tuple[str, ...]
    keywords: frozenset[str]
    ignored: frozenset[str]


class Identities:
    """The own parts of nodes: code, arguments and plugins, without what comes from parents.

    Made anew for every plan, because what functions refer to can change in between; what bytecode
    does is remembered for longer.

    Args:
        replaced: functions that are called instead of the nodes' own.
        own: packages that belong to the project, wherever they are installed.
        packages: names of packages whose version counts for all nodes.
        plugins: the plugins that count, of the nodes that have some.
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
        self._packages = tuple(packages)
        self._codes: dict[object, _Code | str] = {}
        self._heads: dict[object, _Head] = {}
        self._given: dict[Node, dict[str, bytes]] = {}  # digests of arguments that can change
        self._places: dict[Node, dict[Node, int]] = {}  # of the parents of nodes with several
        self._prepared: dict[tuple[int, object], bytes] = {}  # digests of plugins, for a function
        self._classes: dict[tuple[str | bool, ...], bytes] = {}

    def own(self, node: Node) -> bytes:
        """Return the digest of code, arguments and plugins; nodes stand in them by number.

        Raises:
            FingerprintError: something in them can't be told from another; the message says what.
            OptionsError: `ignore` names what is neither an argument nor a global that is read.
        """
        head = self._head(node)
        out = [head.text]
        if len(node.args) > len(head.names):
            out.append(b"*%d;" % (len(node.args) - len(head.names)))
        for name, value in _arguments(node, head):
            encoded = name.encode("utf-8", "surrogatepass")
            out.append(b"%d:%s=" % (len(encoded), encoded))
            stream = literal_stream(value)
            if stream is None:
                stream = self._stream(node, f"argument {name!r}", value)
                if type(value) is not Call:
                    self._given.setdefault(node, {})[name] = stream
            out.append(stream)
        if self._plugins:
            out += [b"P" + stream for _, stream in self._of_plugins(node)]
        return xxh3_128_digest(b"".join(out))

    def parts(self, node: Node) -> dict[str, Any]:
        """Return what explains a difference: in function, code, what that uses, or inputs.

        Raises FingerprintError as `own`.
        """
        code, given = self._code(node), self._given.get(node, {})
        arguments = {}
        for name, value in _arguments(node, self._head(node)):
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
        """Say what a node computes with that is not as it was when the run began; "" for nothing.

        That is a variable that its code reads, an argument, or a plugin.
        """
        given = dict(_arguments(node, self._head(node)))
        inputs = [
            (f"argument {name!r}", given[name], before)
            for name, before in self._given.get(node, {}).items()
        ]
        inputs += [
            (_described(plugin), plugin, before) for plugin, before in self._of_plugins(node)
        ]
        for what, value, before in inputs:
            try:
                same = self._stream(node, what, value) == before
            except FingerprintError as error:
                forget(error)
                same = False
            if not same:
                return what
        code = self._code(node)
        for what, look, value in code.fixed:
            if not _same(look(), value):
                return what
        if code.changeable:
            try:
                now = self._written(self._function(node), node).changeable
            except FingerprintError as error:
                forget(error)
                return "what its code refers to"  # to something that can't be told any more
            for what, digest in code.changeable.items():
                if now.get(what) != digest:
                    return what
        return ""

    def watched(
        self, node: Node
    ) -> tuple[frozenset[str], str, Mapping[str, str], Mapping[str, str]]:
        """Return `own`, `home`, `changeable` and `variables` of `Writer`, for other processes."""
        own, home = self.own_packages(node), _home(self._function(node))
        try:
            code = self._code(node)
        except FingerprintError:
            return own, home, {}, {}  # it has no fingerprint anyway
        return own, home, code.changeable, code.variables

    def name(self, node: Node) -> str:
        """Return module and qualified name of what a node calls."""
        function, label = node.function, node.label
        if node in self._replaced:
            function = self._replaced[node]
            label = label_of(function)
        return f"{module_name(str(getattr(function, '__module__', None)))}.{label}"

    def own_packages(self, node: Node) -> frozenset[str]:
        """Return the packages that belong to the project for a node."""
        return self._own | _defined_in(self._function(node))[0]

    def classes(self, names: Collection[str], by_value: bool, *, fresh: bool = False) -> bytes:
        """Return the digest of classes and functions, "module:qualified name", as they are.

        Args:
            by_value: whether the result brings its code along, so that nothing is imported.
            fresh: look at them now, and not only once for a plan.

        Raises FingerprintError as `own`.
        """
        key: tuple[str | bool, ...] = (*names, by_value)
        found = None if fresh else self._classes.get(key)
        if found is None:
            digests = [_digest_of_class(name, self._own, by_value=by_value) for name in names]
            found = xxh3_128_digest(b"".join(digests))
            self._classes.setdefault(key, found)
        return found

    def check(self, nodes: Iterable[Node]) -> None:
        """Raise OptionsError if `packages` or `ignore` of nodes names what is not there."""
        self._counted()
        for node in nodes:
            if node.settings.ignore or node.settings.packages:
                try:
                    self._code(node)
                except FingerprintError as error:
                    forget(error)

    def _counted(self) -> dict[str, str]:
        return {name: _counted(name, "set_reuse(packages=...)") for name in self._packages}

    def _head(self, node: Node) -> _Head:
        key = self._key(node)
        if type(node) is MethodCall:
            key = key, node.method
        head = self._heads.get(key)
        if head is None:
            digest = self._code(node).digest
            name = f"{RULE} {PYTHON} {self.name(node)} ".encode("utf-8", "surrogatepass")
            names, keywords, _ = _parameters(self._replaced.get(node, node.function), node)
            head = _Head(name + digest, names, keywords, frozenset(node.settings.ignore))
            self._heads[key] = head
        return head

    def _function(self, node: Node) -> Any:
        """Return the function whose code counts, or a method's class."""
        if node in self._replaced:
            return self._replaced[node]
        return node.constructor.function if type(node) is MethodCall else node.function

    def _code(self, node: Node) -> _Code:
        key = self._key(node)
        known = self._codes.get(key)
        if known is None:
            try:
                known = self._written(self._function(node), node)
            except FingerprintError as error:
                forget(error)
                known = str(error)
            self._codes[key] = known
        if isinstance(known, str):
            raise FingerprintError(known)
        return known

    def _key(self, node: Node) -> object:
        """Return what nodes of the same code share; what replaces a function may have no hash."""
        if self._replaced and node in self._replaced:
            return node.called, id(self._replaced[node])
        return node.called

    def _written(self, function: Any, node: Node) -> _Code:
        settings = node.settings
        own = self.own_packages(node)
        names, keywords, _ = _parameters(node.function, node)
        globals_ = [name for name in settings.ignore if name not in (*names, *keywords)]
        writer = Writer(own=own, ignore=globals_, home=_home(function))
        asked = f"@workflow(packages=...) of {node.label!r}"
        counted = {name: _counted(name, asked) for name in settings.packages}
        counted |= self._counted()
        counted |= {name: version_of(name) for name in _defined_in(function)[1]}
        writer.write(counted)
        if settings.version is None or node in self._replaced:
            before = len(writer.out)
            writer.write(function)
            if can_change(function):  # it is an object, such as a decorator that counts its calls
                writer.watch(f"the state of {node.label!r}", before, lambda: function)
        else:
            writer.write(("version", settings.version))
            writer.codes["version"] = settings.version
        digest = writer.digest()
        if node not in self._replaced:
            _check_ignored(node, function, writer.ignored, writer.variables)
        writer.codes.update({f"package {name}": version for name, version in counted.items()})
        seen = writer.codes, writer.variables, writer.changeable, writer.fixed, writer.packages
        return _Code(digest, *seen, writer.inspected)

    def _place(self, node: Node, parent: Node) -> int:
        """Return by number which of a node's parents one is; -1 for none."""
        if node.needs and node.needs[0] is parent:
            return 0
        places = self._places.get(node)
        if places is None:
            places = {need: place for place, need in enumerate(node.needs)}
            self._places[node] = places
        return places.get(parent, -1)

    def _of_plugins(self, node: Node) -> list[tuple[Any, bytes]]:
        """Return the plugins of a node that count, and what they were when first asked for."""
        found = []
        for plugin in self._plugins.get(node, ()):
            key = id(plugin), self._key(node)
            if key not in self._prepared:
                self._prepared[key] = self._stream(node, _described(plugin), plugin)
            found.append((plugin, self._prepared[key]))
        return found

    def _stream(self, node: Node, what: str, value: Any) -> bytes:
        if type(value) is Call:
            return b"n%d;" % self._place(node, value)
        inspected = self._code(node).inspected
        place = functools.partial(self._place, node)
        writer = Writer(place, own=self.own_packages(node), inspected=inspected)
        try:
            writer.write(value)
            return b"#" + writer.digest()
        except FingerprintError as error:
            raise FingerprintError(f"{what}: {error}") from None


def _home(function: Any) -> str:
    return module_name(str(getattr(function, "__module__", "")))


def forget(error: BaseException) -> None:
    """Let go of where an error was raised: the frames hold values that a run wants to release."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def _described(plugin: Any) -> str:
    return f"plugin {type(plugin).__name__!r}"


def _arguments(node: Node, head: _Head) -> list[tuple[str, Any]]:
    """Return (name, value) of a node's arguments: of named parameters sorted, then the others."""
    known = len(head.names)
    pairs = [
        (head.names[place] if place < known else f"*{place - known}", value)
        for place, value in enumerate(node.args)
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


def _same(now: Any, before: Any) -> bool:
    """Tell whether a variable of a type that doesn't change in place is what it was.

    It may be another object: what comes back from a worker gives its class its methods anew.
    """
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    stream = literal_stream(now)
    if stream is not None:
        return stream == literal_stream(before)
    if type(now) is tuple:
        return len(now) == len(before) and all(map(_same, now, before))
    try:
        return digest_of(now) == digest_of(before)
    except FingerprintError:
        return False


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _parameters(function: Any, node: Node) -> tuple[tuple[str, ...], frozenset[str], bool]:
    """Return the parameters that take arguments by position, by keyword, and any keyword at all.

    They are those of what is called, and not of what that wraps: a wrapper can tell whether an
    argument came by position or by keyword.
    """
    if type(function) is FunctionType:  # without the signature that somebody may have given it
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


def _check_ignored(node: Node, function: Any, met: set[str], others: Iterable[str]) -> None:
    """Raise OptionsError if `ignore` names what the node neither takes nor reads.

    Args:
        met: the globals that are ignored.
        others: those that are read and count, each behind the name of its module.
    """
    names, keywords, anything = _parameters(node.function, node)
    for name in node.settings.ignore:
        if anything or name in names or name in keywords or name in met:
            continue
        if node.settings.version is not None and name in getattr(function, "__globals__", ()):
            continue
        read = [other.removeprefix(f"{_home(function)}.") for other in others]
        close = close_to(name, (*names, *keywords, *read))
        raise OptionsError(
            f"@workflow(ignore=[{name!r}]) of {node.label!r}: it has no argument and reads no"
            f" global of that name{close}"
        )


def _defined_in(function: Any) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return how the installed package counts that a function or class is defined in, if it is.

    Returns:
        The package if its code belongs to the project for this function; else its name if its
        version counts, because the function is one that others than the package have decorated.
    """
    plain = inspect.unwrap(function)
    for made in (function, plain):
        if type(made) is FunctionType and is_own_file(made.__code__.co_filename):
            return frozenset(), ()
    module = getattr(function, "__module__", None)
    if not isinstance(module, str) or top_level(module) in _NEVER_OWN:
        return frozenset(), ()
    package = top_level(module)
    found = name_in_package(function, frozenset())
    if found and version_of(package) and not _decorates(module, function):
        return frozenset(), (package,)
    return frozenset({package}), ()


def _decorates(module: str, function: Any) -> bool:
    """Tell whether a module itself has made nodes' functions of one of its functions."""
    found = list(vars(sys.modules[module]).values())
    return any(value.func is function for value in found if issubclass(type(value), _DECORATED))


_DECORATED = (WorkflowFunction, WorkflowClass)
_NEVER_OWN = {*sys.stdlib_module_names, "functionfuse", "__main__", "__mp_main__"}


def _digest_of_class(name: str, own: frozenset[str], *, by_value: bool) -> bytes:
    """Return the digest of what a name leads to; a script's module is not imported for it."""
    module, _, path = name.partition(":")
    if path == IMPORTED:  # a plan can't: what a script brings along may be another script
        raise FingerprintError(f"code that imports {module!r} when it runs")
    own = own | {top_level(module)}
    found: Any = sys.modules.get(module)
    if module == module_name("__main__"):
        found = sys.modules["__main__"]
    try:
        if found is None and not by_value:
            found = importlib.import_module(module)
        for part in path.split(".") if path else ():
            found = getattr(found, part)
        return b"gone" if found is None else digest_of(found, own)
    except (AttributeError, ImportError):
        return b"gone"  # then the value can't be loaded either, or is stored with its code
    except FingerprintError as error:
        raise FingerprintError(f"{path or module!r}: {error}") from error
    except Exception as error:
        raise FingerprintError(f"module {module!r} can't be imported: {error!r}") from error


def _counted(package: str, asked: str) -> str:
    """Return the version of a package; raises OptionsError if it has none."""
    version = version_of(package)
    if not version:
        raise OptionsError(
            f"{asked}: {package!r} is no installed package with a version{meant(package)}"
        )
    return version
