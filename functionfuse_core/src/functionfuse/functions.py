"""Functions, classes and modules in a fingerprint: the user's as what they do, others by name.

What they refer to goes to the writer of values that they are handed, which gives code back.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import deque
from collections.abc import Collection, Iterable
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any, Protocol

from xxhash import xxh3_128_digest

from .code import module_of, shape_of
from .errors import FingerprintError
from .literals import LITERAL_TYPES, shown, tagged
from .project import is_own
from .workflow import WorkflowClass, WorkflowFunction

__all__ = ["ValueWriter", "name_of", "write_class", "write_code"]

_NO_CODE = {"__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl"}


class ValueWriter(Protocol):
    """What code needs of `fingerprint.Writer`: a stream, what was met, and values written.

    Attributes:
        out: the stream so far.
        uses: of each function, class and constant that was met in code: its name, and its own
            digest, or the constant itself where that is short. For explanations.
        known: ids of code, and names of modules, numbered in the order in which they were met.
        kept: what was met, so that no id is given again.
    """

    out: list[bytes]
    uses: dict[str, str]
    known: dict[int | str, int]
    kept: list[Any]

    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError if it can't be told from another."""


def write_code(writer: ValueWriter, value: Any) -> bool:
    """Write a value that is called or imported; tell whether it was one."""
    kind = type(value)
    if isinstance(value, (WorkflowFunction, WorkflowClass)):
        writer.write(value.func)
    elif isinstance(value, FunctionType):
        _write_function(writer, value)
    elif isinstance(value, type):
        write_class(writer, value)
    elif isinstance(value, ModuleType):
        writer.out.append(tagged(b"m", value.__name__))
    elif isinstance(value, MethodType):
        _write_parts(writer, b"M2[", value.__func__, value.__self__)
    elif kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType | None):
        writer.out.append(tagged(b"B", f"{value.__module__}.{value.__qualname__}"))
    elif isinstance(value, (staticmethod, classmethod)):
        writer.out.append(tagged(b"D", kind.__name__))
        writer.write(value.__func__)
    elif isinstance(value, property):
        _write_parts(writer, b"P3[", value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.cached_property):
        writer.out.append(b"h")  # it can hold a lock
        writer.write(value.func)
    elif callable(value) and hasattr(value, "__wrapped__"):
        writer.out.append(tagged(b"w", name_of(kind)))  # such as functools.lru_cache
        writer.write(value.__wrapped__)
    else:
        return False
    return True


def write_class(writer: ValueWriter, kind: type) -> None:
    """Write what a class is: its bases, its methods and its constants."""
    if _seen(writer, kind):
        return
    name = name_of(kind)
    if not is_own(kind.__module__):
        writer.out.append(tagged(b"C", name))
        return
    writer.uses[name] = ""
    writer.out.append(tagged(b"K", name))
    for base in (type(kind), *kind.__bases__):
        writer.write(base)
    for attribute, value in sorted(vars(kind).items()):
        if attribute in _NO_CODE or (
            attribute.startswith("__") and not _is_code(value) and attribute != "__slots__"
        ):
            continue
        writer.out.append(tagged(b".", attribute))
        if type(value).__name__ in ("member_descriptor", "getset_descriptor"):
            continue
        writer.write(value)
    for attribute, field in getattr(kind, "__pydantic_fields__", {}).items():
        given = field.default, field.default_factory
        writer.write((attribute, repr(field.annotation), repr(field.metadata), given))


def _write_parts(writer: ValueWriter, opening: bytes, *parts: Any) -> None:
    writer.out.append(opening)
    for part in parts:
        writer.write(part)
    writer.out.append(b"]")


def _write_function(writer: ValueWriter, function: FunctionType) -> None:
    """Write what a function does, and what it refers to."""
    if _seen(writer, function):
        return
    # functools.wraps copies __module__; where it was written, its globals tell.
    if not is_own(function.__module__) or not is_own(
        function.__globals__.get("__name__", function.__module__)
    ):
        _write_library(writer, function)
        return
    name, cells = f"{function.__module__}.{function.__qualname__}", function.__closure__ or ()
    shape = shape_of(function.__code__)
    writer.uses[name] = xxh3_128_digest(shape.text)[:4].hex()
    writer.out.append(tagged(b"F", function.__name__))
    writer.out.append(b"L%d:%s" % (len(shape.text), shape.text))
    writer.write(function.__defaults__)
    writer.write(function.__kwdefaults__)
    for free, cell in zip(function.__code__.co_freevars, cells, strict=True):
        if not _is_state((free,), _contents(cell), shape.changed):
            _write_cell(writer, cell)
    for path in shape.names:
        _write_global(writer, function.__globals__, path, shape.changed)
    _write_imports(writer, shape.imports, function.__globals__.get("__package__") or "")


def _write_library(writer: ValueWriter, function: FunctionType) -> None:
    """Write a library's function: its name, and what it wraps of the user's."""
    code = function.__code__
    module = function.__globals__.get("__name__", function.__module__)
    writer.out.append(tagged(b"G", f"{module}.{code.co_qualname}"))
    contents = [_contents(cell) for cell in function.__closure__ or ()]
    for value in (getattr(function, "__wrapped__", None), *contents):
        if isinstance(value, (FunctionType, type)) and is_own(value.__module__):
            writer.write(value)
    if is_own(function.__module__):  # a wrapper: what the decorator was given
        changed = shape_of(code).changed
        for name, value in zip(code.co_freevars, contents, strict=True):
            if type(value) in LITERAL_TYPES and not _is_state((name,), value, changed):
                writer.out.append(tagged(b"=", name))
                writer.write(value)
    implementations = getattr(function, "registry", None)  # functools.singledispatch
    if isinstance(implementations, MappingProxyType):
        for kind in sorted(implementations, key=name_of):
            writer.write((kind, implementations[kind]))


def _seen(writer: ValueWriter, value: Any) -> bool:
    if id(value) in writer.known:
        writer.out.append(b"=%d;" % writer.known[id(value)])
        return True
    writer.known[id(value)] = len(writer.known)
    writer.kept.append(value)
    return False


def _write_cell(writer: ValueWriter, cell: CellType) -> None:
    try:
        value = cell.cell_contents
    except ValueError:
        writer.out.append(b"-")
        return
    writer.out.append(b"+")
    writer.write(value)


def _write_global(
    writer: ValueWriter,
    namespace: dict[str, Any],
    path: tuple[str, ...],
    changed: Collection[tuple[str, ...]],
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
    before = len(writer.out)
    writer.out.append(tagged(b"$", ".".join(path)))
    try:
        writer.write(value)
    except FingerprintError as error:
        raise FingerprintError(f"global {name!r}: {error}") from error
    if not (_is_code(value) or isinstance(value, (ModuleType, WorkflowFunction, WorkflowClass))):
        writer.uses[name] = shown(value) or xxh3_128_digest(b"".join(writer.out[before:]))[:4].hex()


def _write_imports(
    writer: ValueWriter, imports: Iterable[tuple[int, str, tuple[str, ...]]], package: str
) -> None:
    """Write the modules of the user's project that code imports when it runs."""
    for level, module, names in imports:
        try:
            name = importlib.util.resolve_name("." * level + module, package)
        except ImportError:
            continue
        # Packages first, since to look for `a.b` imports `a`.
        parts = name.split(".")
        parents = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if all(_write_module(writer, parent) for parent in parents):
            for inner in names:
                _write_module(writer, f"{name}.{inner}")


def _write_module(writer: ValueWriter, name: str) -> bool:
    """Write a module if it is of the user's project; tell whether it is."""
    if name in writer.known:
        return True
    module = module_of(name)
    if module is None:
        return False
    writer.known[name] = len(writer.known)
    writer.uses[f"module {name}"] = xxh3_128_digest(module.shape.text)[:4].hex()
    writer.out.append(tagged(b"I", name))
    writer.out.append(b"%d:%s" % (len(module.shape.text), module.shape.text))
    _write_imports(writer, module.shape.imports, module.package)
    return True


def name_of(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_state(path: tuple[str, ...], value: Any, changed: Collection[tuple[str, ...]]) -> bool:
    """Whether a variable is what a function keeps in it itself, such as a cache or a counter."""
    kinds = (list, dict, set, bytearray, deque, *LITERAL_TYPES)
    return path in changed and isinstance(value, kinds)


def _is_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, type, staticmethod, classmethod, property, MethodType))
