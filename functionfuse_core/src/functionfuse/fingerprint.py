"""Values and code as digests: equal for what is equal, different for what differs.

A value is written as a stream of typed bytes, each part with its length, that is hashed with
XXH3-128. Sets and dictionaries are written in the order of their sorted keys, or of their items'
digests. What is no literal is written as what its `__reduce_ex__` gives; functions and classes of
the user's project as what they do and refer to, others by name. `docs/reuse.md` says what counts
and what can't be seen.
"""

from __future__ import annotations

import copyreg
import functools
import importlib.util
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from xxhash import xxh3_128_digest

from .arguments import Nested
from .code import module_of, shape_of
from .errors import FingerprintError
from .nodes import Node, Pick
from .project import is_own
from .workflow import WorkflowClass, WorkflowFunction

__all__ = ["Writer", "digest_of", "literal_stream", "shown"]

_LITERALS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    type(...): lambda _: b"E",
    bool: lambda value: b"T" if value else b"F",
    int: b"i%x;".__mod__,
    float: lambda value: b"f%s;" % value.hex().encode(),
    complex: lambda value: b"c%s,%s;" % (value.real.hex().encode(), value.imag.hex().encode()),
    bytes: lambda value: b"b%d:%s" % (len(value), value),
    str: lambda value: _text(b"s", value),
}
_REPR_FROM = 32  # items; a longer list of literals is written as its repr, which is as exact
_VISITS = 32  # times that an object is written in full; then, by its number: see `Writer.write`
_NO_CODE = {"__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl"}


def digest_of(value: Any) -> bytes:
    """Return the digest of a value: 16 bytes.

    Raises:
        FingerprintError: the value has no state that could be told, such as an open file.
    """
    writer = Writer()
    writer.write(value)
    return writer.digest()


def literal_stream(value: Any) -> bytes | None:
    """Return what a writer writes for a literal; None for anything else."""
    literal = _LITERALS.get(type(value))
    return None if literal is None else literal(value)


def shown(value: Any) -> str:
    """Return a literal as text, if that is short; else ""."""
    if type(value) not in _LITERALS:
        return ""
    text = repr(value)
    return text if len(text) <= 60 else ""


class Writer:
    """Writes values, and notes what code it meets.

    Attributes:
        out: the stream so far.
        uses: of each function, class and constant that was met in code: its name, and its own
            digest, or the constant itself where that is short. For explanations.
    """

    def __init__(self, place: Callable[[Node], int] | None = None) -> None:
        self.out: list[bytes] = []
        self.uses: dict[str, str] = {}
        self._place = place
        self._known: dict[int | str, int] = {}  # ids of code, names of modules: order of discovery
        self._open: dict[int, int] = {}  # what is being written: id to depth
        self._visits: dict[int, tuple[int, int]] = {}  # id to order of discovery, and times
        self._kept: list[Any] = []  # so that no id is given again

    def digest(self) -> bytes:
        """Return the digest of all that was written: 16 bytes."""
        return xxh3_128_digest(b"".join(self.out))

    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError as `digest_of`.

        An object that is met again is written again, so that it makes no difference whether two
        equal values are one object. That would take for ever where many objects refer to each
        other, so it has an end.
        """
        kind = type(value)
        literal = _LITERALS.get(kind)
        if literal is not None:
            self.out.append(literal(value))
            return
        if isinstance(value, (Node, Pick, Nested)):
            self._node(value)
            return
        key = id(value)
        if key in self._open:
            self.out.append(b"^%d;" % self._open[key])
            return
        number, times = self._visits.get(key, (len(self._visits), 0))
        if times == _VISITS:
            self.out.append(b"~%d;" % number)
            return
        self._visits[key] = number, times + 1
        self._kept.append(value)
        self._open[key] = len(self._open)
        try:
            self._compound(value, kind)
        except FingerprintError:
            raise
        except RecursionError:
            raise FingerprintError(f"a {_name(kind)} is nested too deeply") from None
        except Exception as error:
            raise FingerprintError(
                f"a {_name(kind)} can't be told from another ({error})"
            ) from error
        finally:
            del self._open[key]

    def _compound(self, value: Any, kind: type) -> None:
        if kind in (list, tuple):
            self._sequence(b"l" if kind is list else b"t", value)
        elif kind is dict:
            self._mapping(value.items())
        elif kind in (set, frozenset):
            self._unordered(b"S" if kind is set else b"Z", value)
        elif kind is MappingProxyType:
            self.out.append(b"v")
            self._mapping(value.items())
        elif isinstance(value, PurePath):
            self.out.append(_text(b"p", f"{_name(kind)} {value}"))
        elif kind is bytearray or kind is memoryview:
            self._buffer(_name(kind), memoryview(value))
        elif _is_array(kind):
            self._array(value)
        elif not self._code(value, kind):
            self._object(value, kind)

    def _code(self, value: Any, kind: type) -> bool:
        """Write a value that is called or imported; tell whether it was one."""
        if isinstance(value, (WorkflowFunction, WorkflowClass)):
            self.write(value.func)
        elif isinstance(value, FunctionType):
            self.function(value)
        elif isinstance(value, type):
            self.type(value)
        elif isinstance(value, ModuleType):
            self.out.append(_text(b"m", value.__name__))
        elif isinstance(value, MethodType):
            self._sequence(b"M", (value.__func__, value.__self__))
        elif kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType | None):
            self.out.append(_text(b"B", f"{value.__module__}.{value.__qualname__}"))
        elif isinstance(value, (staticmethod, classmethod)):
            self.out.append(_text(b"D", kind.__name__))
            self.write(value.__func__)
        elif isinstance(value, property):
            self._sequence(b"P", (value.fget, value.fset, value.fdel))
        elif isinstance(value, functools.cached_property):
            self.out.append(b"h")  # it can hold a lock
            self.write(value.func)
        elif callable(value) and hasattr(value, "__wrapped__"):
            self.out.append(_text(b"w", _name(kind)))  # such as functools.lru_cache
            self.write(value.__wrapped__)
        else:
            return False
        return True

    # Nodes: where they stand, and by number which of the parents they are.

    def _node(self, value: Any) -> None:
        if self._place is None:
            raise FingerprintError("a node has no value of its own")
        if isinstance(value, Node):
            self.out.append(b"n%d;" % self._place(value))
        elif isinstance(value, Pick):
            self.out.append(b"k%d;" % self._place(value.node))
            self.write(value.path)
        else:
            self.out.append(_text(b"x", _name(type(value.like))))
            if isinstance(value.like, dict):
                self._mapping(list(zip(value.items[::2], value.items[1::2], strict=True)))
            elif isinstance(value.like, (set, frozenset)):
                self._unordered(b"S", value.items)
            else:
                self._sequence(b"l", value.items)

    # Containers and objects.

    def _sequence(self, tag: bytes, items: Any) -> None:
        if len(items) >= _REPR_FROM and set(map(type, items)) <= _LITERALS.keys():
            try:
                self.out.append(_text(tag + b"r", repr(items)))
            except ValueError:  # an int of more than 4,300 digits
                pass
            else:
                return
        self.out.append(b"%s%d[" % (tag, len(items)))
        for item in items:
            self.write(item)
        self.out.append(b"]")

    def _mapping(self, items: Collection[tuple[Any, Any]]) -> None:
        """Write pairs of key and value, in any order."""
        if not {type(key) for key, _ in items} <= _LITERALS.keys():
            self._unordered(b"d", items)
            return
        self.out.append(b"d%d{" % len(items))
        for key, value in sorted(
            ((_LITERALS[type(key)](key), value) for key, value in items), key=_first
        ):
            self.out.append(key)
            self.write(value)
        self.out.append(b"}")

    def _unordered(self, tag: bytes, items: Iterable[Any]) -> None:
        # What one item makes known must not be told by another: which comes first is by chance.
        outer, known, visits, written = self.out, self._known, self._visits, []
        try:
            for item in items:
                self.out, self._visits = [], {}
                if len(self._known) != len(known) or self._known is known:
                    self._known = known.copy()
                if tag == b"d":
                    self.write(item[0])
                    self.write(item[1])
                else:
                    self.write(item)
                written.append(self.digest())
        finally:
            self.out, self._known, self._visits = outer, known, visits
        self.out.append(b"%s%d[%s]" % (tag, len(written), b"".join(sorted(written))))

    def _buffer(self, name: str, view: memoryview) -> None:
        self.out.append(_text(b"u", f"{name} {view.format} {view.shape}"))
        try:
            flat = view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
        except ValueError:  # of a format that memoryview can't cast
            flat = view.tobytes()
        self.out.append(xxh3_128_digest(flat))

    def _array(self, array: Any) -> None:
        try:
            described = array.dtype.descr
        except ValueError:  # of fields that overlap
            described = array.dtype
        self.out.append(_text(b"a", f"{described} {array.shape}"))
        if array.dtype.hasobject:
            self.write(array.tolist())
            return
        if not array.flags.c_contiguous:
            array = array.copy(order="C")
        self.out.append(xxh3_128_digest(array.reshape(-1).view("u1") if array.nbytes else b""))

    def _object(self, value: Any, kind: type) -> None:
        exception = isinstance(value, BaseException)
        # Some packages change how all exceptions are pickled.
        registered = None if exception else copyreg.dispatch_table.get(kind)
        reduced = registered(value) if registered else value.__reduce_ex__(4)
        if exception and reduced[2:] == ({},):
            reduced = reduced[:2]  # somebody has only looked at its attributes
        if isinstance(reduced, str):
            self.out.append(_text(b"g", f"{getattr(value, '__module__', '')}.{reduced}"))
            if is_own(kind.__module__):
                self.type(kind)
                self.write(getattr(value, "__dict__", None))
            return
        call, args, state, items, pairs = (*reduced, None, None, None)[:5]
        self.out.append(b"o")
        if is_own(kind.__module__):
            self.type(kind)
        self.write(call)
        if isinstance(value, (set, frozenset)):
            self._unordered(b"S", value)
        else:
            self.write(args)
        self.write(state)
        self._sequence(b"l", list(items or ()))
        if isinstance(value, OrderedDict):
            self._sequence(b"l", list(pairs or ()))
        else:
            self._mapping(list(pairs or ()))

    # Code.

    def function(self, function: FunctionType) -> None:
        """Write what a function does, and what it refers to."""
        if self._seen(function):
            return
        # functools.wraps copies __module__; where it was written, its globals tell.
        if not is_own(function.__module__) or not is_own(
            function.__globals__.get("__name__", function.__module__)
        ):
            self._library(function)
            return
        name, cells = f"{function.__module__}.{function.__qualname__}", function.__closure__ or ()
        shape = shape_of(function.__code__)
        self.uses[name] = xxh3_128_digest(shape.text)[:4].hex()
        self.out.append(_text(b"F", function.__name__))
        self.out.append(b"L%d:%s" % (len(shape.text), shape.text))
        self.write(function.__defaults__)
        self.write(function.__kwdefaults__)
        for free, cell in zip(function.__code__.co_freevars, cells, strict=True):
            if not _is_state((free,), _contents(cell), shape.changed):
                self._cell(cell)
        for path in shape.names:
            self._global(function.__globals__, path, shape.changed)
        self._imports(shape.imports, function.__globals__.get("__package__") or "")

    def _library(self, function: FunctionType) -> None:
        """Write a library's function: its name, and what it wraps of the user's."""
        code = function.__code__
        module = function.__globals__.get("__name__", function.__module__)
        self.out.append(_text(b"G", f"{module}.{code.co_qualname}"))
        contents = [_contents(cell) for cell in function.__closure__ or ()]
        for value in (getattr(function, "__wrapped__", None), *contents):
            if isinstance(value, (FunctionType, type)) and is_own(value.__module__):
                self.write(value)
        if is_own(function.__module__):  # a wrapper: what the decorator was given
            changed = shape_of(code).changed
            for name, value in zip(code.co_freevars, contents, strict=True):
                if type(value) in _LITERALS and not _is_state((name,), value, changed):
                    self.out.append(_text(b"=", name))
                    self.write(value)
        implementations = getattr(function, "registry", None)  # functools.singledispatch
        if isinstance(implementations, MappingProxyType):
            for kind in sorted(implementations, key=_name):
                self.write((kind, implementations[kind]))

    def type(self, kind: type) -> None:
        """Write what a class is: its bases, its methods and its constants."""
        if self._seen(kind):
            return
        name = _name(kind)
        if not is_own(kind.__module__):
            self.out.append(_text(b"C", name))
            return
        self.uses[name] = ""
        self.out.append(_text(b"K", name))
        for base in (type(kind), *kind.__bases__):
            self.write(base)
        for attribute, value in sorted(vars(kind).items()):
            if attribute in _NO_CODE or (
                attribute.startswith("__") and not _is_code(value) and attribute != "__slots__"
            ):
                continue
            self.out.append(_text(b".", attribute))
            if type(value).__name__ in ("member_descriptor", "getset_descriptor"):
                continue
            self.write(value)
        for attribute, field in getattr(kind, "__pydantic_fields__", {}).items():
            given = field.default, field.default_factory
            self.write((attribute, repr(field.annotation), repr(field.metadata), given))

    def _seen(self, value: Any) -> bool:
        if id(value) in self._known:
            self.out.append(b"=%d;" % self._known[id(value)])
            return True
        self._known[id(value)] = len(self._known)
        self._kept.append(value)
        return False

    def _cell(self, cell: CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            self.out.append(b"-")
            return
        self.out.append(b"+")
        self.write(value)

    def _global(
        self, namespace: dict[str, Any], path: tuple[str, ...], changed: Collection[tuple[str, ...]]
    ) -> None:
        if path[0] not in namespace:
            return  # a builtin: its name is in the code
        value, names = namespace[path[0]], list(path[:1])
        for attribute in path[1:]:
            if not (isinstance(value, ModuleType) and is_own(value.__name__)):
                break
            if not hasattr(value, attribute):
                break
            value = getattr(value, attribute)
            names.append(attribute)
        if _is_state(tuple(names), value, changed):
            return
        name = f"{namespace.get('__name__')}.{'.'.join(names)}"
        before = len(self.out)
        self.out.append(_text(b"$", ".".join(path)))
        try:
            self.write(value)
        except FingerprintError as error:
            raise FingerprintError(f"global {name!r}: {error}") from error
        if not (
            _is_code(value) or isinstance(value, (ModuleType, WorkflowFunction, WorkflowClass))
        ):
            self.uses[name] = shown(value) or xxh3_128_digest(b"".join(self.out[before:]))[:4].hex()

    def _imports(self, imports: Iterable[tuple[int, str, tuple[str, ...]]], package: str) -> None:
        """Write the modules of the user's project that code imports when it runs."""
        for level, module, names in imports:
            try:
                name = importlib.util.resolve_name("." * level + module, package)
            except ImportError:
                continue
            # Packages first, since to look for `a.b` imports `a`.
            parts = name.split(".")
            parents = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            if all(self._module(parent) for parent in parents):
                for inner in names:
                    self._module(f"{name}.{inner}")

    def _module(self, name: str) -> bool:
        """Write a module if it is of the user's project; tell whether it is."""
        if name in self._known:
            return True
        module = module_of(name)
        if module is None:
            return False
        self._known[name] = len(self._known)
        self.uses[f"module {name}"] = xxh3_128_digest(module.shape.text)[:4].hex()
        self.out.append(_text(b"I", name))
        self.out.append(b"%d:%s" % (len(module.shape.text), module.shape.text))
        self._imports(module.shape.imports, module.package)
        return True


def _first(pair: tuple[bytes, Any]) -> bytes:
    return pair[0]


def _text(tag: bytes, text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"%s%d:%s" % (tag, len(encoded), encoded)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_state(path: tuple[str, ...], value: Any, changed: Collection[tuple[str, ...]]) -> bool:
    """Whether a variable is what a function keeps in it itself, such as a cache or a counter."""
    kinds = (list, dict, set, bytearray, deque, *_LITERALS)
    return path in changed and isinstance(value, kinds)


def _is_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, type, staticmethod, classmethod, property, MethodType))


def _is_array(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray
