"""Code in a fingerprint: a package's code by its name, all other code by its body.

A function's body is its bytecode, defaults, closure, attributes, globals and imports. A class's is
its bases, types, data and methods. Their parts go to `Writer.write`, which returns code to this
module: see `stream` for the order.
"""

from __future__ import annotations

import inspect
import operator
from abc import get_cache_token
from collections.abc import Callable
from enum import Enum, Flag
from functools import cached_property, partial
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from ..errors import FingerprintError
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..serializers.script import module_name, name_in_script, name_of
from .bytecode import shape_of
from .literals import tagged
from .project import is_own, is_own_code, name_in_package
from .stream import Stream, can_change, outline
from .variables import (
    refuse,
    write_builtin,
    write_import,
    write_module,
    write_variable,
)

__all__ = ["write_code", "write_types"]

_DESCRIPTORS = (
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
# Attributes of a class that are made from others, or describe where it is defined.
_DERIVED = {
    *("__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__"),
    *("__annotations_cache__", "__classcell__", "__dict__", "__doc__", "__firstlineno__"),
    *("__module__", "__parameters__", "__qualname__", "__signature__", "__slotnames__"),
    *("__static_attributes__", "__weakref__", "_abc_impl", "__attrs_base_of_slotted__"),
}
# Attributes that are made with a class, and not changed later.
_MADE = {"_field_defaults", "model_config"}
# Variables in closures that only track a running call, or are made with a class.
_PASSING = {"repr_running", "sa_attrs"}
_HEAP_TYPE = 1 << 9  # of a class's flags: it was made at run time
# Attributes that give access to variables or classes by names known only at run time.
_UNFOLLOWABLE = frozenset({"__globals__", "__subclasses__", "f_builtins", "f_globals"})


def write_code(writer: Stream, value: Any, kind: type) -> bool:
    """Write a value if it is code; return whether it is."""
    if kind is FunctionType:
        _write_named(writer, value, _write_function)
    elif issubclass(kind, type):
        _write_named(writer, value, _write_class)
    elif issubclass(kind, ModuleType):
        if is_own(value.__name__, writer.own):
            writer.code(value, write_module)
        else:
            writer.named(value.__name__)
    elif issubclass(kind, (WorkflowFunction, WorkflowClass)):
        writer.write(value.func)
    elif kind is MethodType:
        writer.out.append(b"M")
        writer.write(value.__func__)
        writer.write(value.__self__)
    elif kind in _DESCRIPTORS:
        writer.out.append(tagged(b"D", value.__name__))
        writer.write(value.__objclass__)
    elif kind is BuiltinFunctionType or kind.__name__ == "cython_function_or_method":
        _write_builtin(writer, value)
    elif kind is MethodWrapperType:
        writer.out.append(tagged(b"W", value.__name__))
        writer.write(value.__self__)
    else:
        return False
    return True


def _write_named(writer: Stream, value: Any, body: Callable[[Stream, Any], None]) -> None:
    name = name_in_package(value, writer.own)
    if name:
        refuse(name)
        writer.named(name)
    elif body is _write_class and not value.__flags__ & _HEAP_TYPE:
        if is_own(value.__module__, writer.own):
            raise FingerprintError(f"{name_of(value)} is compiled code of the project")
        writer.named(name_of(value))  # its module hides it
    else:
        writer.code(value, body)


def _write_builtin(writer: Stream, value: Any) -> None:
    name = name_in_package(value, writer.own)
    bound = getattr(value, "__self__", None)
    if not name and (bound is None or isinstance(bound, ModuleType)):
        module = getattr(bound, "__name__", None) or value.__module__
        if is_own(module, writer.own):
            raise FingerprintError(f"{module}.{value.__name__} is compiled code of the project")
        name = f"{module}.{value.__qualname__}"
    if name:
        refuse(name)
        writer.named(name)
    else:
        writer.out.append(tagged(b"M", value.__qualname__))
        writer.write(bound)


# Functions.


def _write_function(writer: Stream, function: FunctionType) -> None:
    """Write a function's bytecode, and all that it refers to."""
    code, namespace = function.__code__, function.__globals__
    module = namespace.get("__name__", function.__module__)
    name = f"{module_name(str(module))}.{function.__qualname__}"
    implementations = getattr(function, "registry", None)
    if not is_own_code(code, module, writer.own):
        with writer.held(str(module)):
            writer.named(f"{module}.{code.co_qualname}")
            writer.out.append(shape_of(code).digest)  # several can have that name
            if isinstance(implementations, MappingProxyType):  # functools.singledispatch
                for kind in sorted(implementations, key=name_of):
                    writer.write((kind, implementations[kind]))
            else:
                _write_contents(writer, function)
        return
    if code.co_name == "__hash__" and code.co_filename.startswith("<attrs "):
        # It contains a number that differs in each process.
        code = code.replace(co_consts=tuple(0 if type(c) is int else c for c in code.co_consts))
    shape = shape_of(code)
    writer.describe(name, shape.digest)
    writer.out.append(tagged(b"F", function.__name__))
    writer.out.append(shape.digest)
    if shape.inspects:
        writer.inspect()
    for attribute in _UNFOLLOWABLE & shape.attributes:
        raise FingerprintError(f"{attribute} can't be followed")
    _write_contents(writer, function)
    missing = [path[0] for path in shape.names if path[0] not in namespace]
    for path in shape.names:
        if path[0] in namespace:
            write_variable(writer, namespace, path)
        else:
            write_builtin(writer, path[0])
    if missing:
        none = partial(set(missing).isdisjoint, namespace)
        writer.fixed.append((f"global {' or '.join(map(repr, missing))}", none, True))
    for text in shape.texts:
        if text in namespace:
            write_variable(writer, namespace, (text,))
    package = namespace.get("__package__") or ""
    for imported in shape.imports:
        write_import(writer, imported, package)


def _write_contents(writer: Stream, function: FunctionType) -> None:
    """Write a function's defaults, closure and attributes."""
    name = _shown(writer, function.__globals__.get("__name__"), function.__qualname__)
    writer.fixed.append((f"function {name!r}", partial(_made_of, function), _made_of(function)))
    defaults: list[tuple[str | int, Any]] = [*enumerate(function.__defaults__ or ())]
    defaults += (function.__kwdefaults__ or {}).items()
    for key, _ in defaults:
        writer.write(key)
        description = f"default {_defaulted(function, key)!r} of {name!r}"
        writer.variable(description, partial(dict(defaults).get, key))
    writer.out.append(b";")
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        _write_cell(writer, cell, free, name)
    attributes = function.__dict__
    names = partial(tuple, attributes)
    writer.fixed.append((f"the attributes of {name!r}", names, names()))
    writer.out.append(b"d%d{" % len(attributes) if attributes else b"N")
    for key in attributes:
        writer.write(key)
        writer.variable(f"attribute {key!r} of {name!r}", partial(attributes.get, key))
    if attributes:
        writer.out.append(b"}")


def _shown(writer: Stream, module: object, name: str) -> str:
    """Return the name of a function or class, with its module if that isn't `writer.home`."""
    home = module_name(str(module))
    return name if home == writer.home else f"{home}.{name}"


def _defaulted(function: FunctionType, key: str | int) -> str:
    """Return the name of the parameter with a default, by that name or the default's index."""
    if isinstance(key, str):
        return key
    code, count = function.__code__, len(function.__defaults__ or ())
    return [*[""] * count, *code.co_varnames[: code.co_argcount]][code.co_argcount + key]


_made_of = operator.attrgetter("__code__", "__defaults__", "__kwdefaults__")


def _write_cell(writer: Stream, cell: CellType, free: str, name: str) -> None:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        writer.out.append(b"-")
        return
    writer.out.append(b"+")
    if free in _PASSING:
        writer.write(cell.cell_contents)
    else:
        writer.variable(f"{free!r} in the closure of {name!r}", lambda: cell.cell_contents)


def write_types(writer: Stream, value: Any) -> None:
    """Write docstring and types of code, and the order of a class's attributes."""
    described = isinstance(value, (FunctionType, ModuleType, type))
    if described or "__wrapped__" in (getattr(value, "__dict__", None) or ()):
        writer.write(value.__doc__)
        _write_annotations(writer, value)
    if isinstance(value, type):
        writer.write([name for name in vars(value) if name not in _DERIVED])


def _write_annotations(writer: Stream, value: Any) -> dict[str, Any]:
    """Write the types of code, as written and as evaluated; return them as written."""
    annotations = inspect.get_annotations(value)
    writer.write(annotations)
    try:
        found = inspect.get_annotations(value, eval_str=True)
    except Exception:  # noqa: BLE001  # names that only a type checker knows
        return annotations
    writer.write(found)
    return annotations


# Classes.


def _write_class(writer: Stream, kind: type) -> None:
    """Write a class: its bases, types, data and methods, sorted by name.

    A copy in a worker has another order. Where the order matters, other data record it.
    """
    name = f"{module_name(kind.__module__)}.{kind.__qualname__}"
    if vars(kind).get("__pydantic_complete__") is False and hasattr(kind, "model_rebuild"):
        # pydantic resolves types at the first use if they were unknown when the class was made.
        kind.model_rebuild(raise_errors=False, _parent_namespace_depth=0)
    before = len(writer.out)
    writer.out.append(tagged(b"K", name_in_script(kind)))
    methods: list[tuple[str, Any]] = []
    data: list[tuple[str, Any]] = []
    fields: list[bytes] = []
    members = kind.__members__ if issubclass(kind, Enum) else {}
    for attribute, value in sorted(vars(kind).items(), key=_first):
        if attribute in _DERIVED or attribute.startswith("__pydantic_"):
            continue
        if attribute == "__hash__" and value is None and "__eq__" in vars(kind):
            continue  # Python sets it because of `__eq__`
        if attribute == "__init__" and _is_from_protocol(kind, value):
            continue
        (methods if _is_method(type(value)) else data).append((attribute, value))
    for base in (type(kind), *kind.__bases__):
        writer.write(base)
    annotations = _write_annotations(writer, kind)
    for attribute, value in (*data, *methods):
        writer.out.append(tagged(b".", attribute))
        if type(value) in _DESCRIPTORS and getattr(value, "__objclass__", None) is kind:
            continue
        if attribute.startswith("__") or attribute in _MADE or _is_of_enum(kind, attribute):
            at = len(writer.out)
            # Code that combines flags adds to this map; `_member_map_` has the named ones.
            grows = attribute == "_value2member_map_" and issubclass(kind, Flag)
            writer.write({k: v for k, v in value.items() if type(k) is not int} if grows else value)
            fields += writer.out[at:]
        elif can_change(value):
            shown = _shown(writer, kind.__module__, kind.__qualname__)
            writer.variable(
                f"{attribute!r} of the class {shown!r}", partial(vars(kind).get, attribute)
            )
        else:
            writer.write(value)
    at = len(writer.out)
    for attribute in ("__pydantic_fields__", "__pydantic_decorators__"):
        writer.write(vars(kind).get(attribute))
    for part in ("config", "fields", "encode_fields", "defaults"):
        if hasattr(type(kind), f"__struct_{part}__"):  # of msgspec's
            writer.write(getattr(kind, f"__struct_{part}__"))
    fields += writer.out[at:]
    _write_registered(writer, kind)
    writer.describe(name, b"".join(writer.out[before:]))
    values = [(member, members[member].value) for member in members]
    plain = kind.__bases__, *annotations.items(), *data, *values, *dict(methods)
    writer.made_of(name, outline(plain), b"".join(fields))
    look = partial(_public, kind)
    writer.fixed.append((f"class {name!r}", look, look()))


def _is_from_protocol(kind: type, init: Any) -> bool:
    """Return whether `typing` has set another class's `__init__` at its first call."""
    own = getattr(init, "__qualname__", "") == f"{kind.__qualname__}.__init__"
    return not own and any(vars(base).get("_is_protocol") for base in kind.__mro__)


def _is_of_enum(kind: type, attribute: str) -> bool:
    return attribute[0] == attribute[-1] == "_" and issubclass(kind, Enum)


def _public(kind: type) -> tuple[Any, ...]:
    """Return the values of a class's attributes, without those that Python adds."""
    return tuple(value for name, value in vars(kind).items() if not name.startswith("__"))


def _write_registered(writer: Stream, kind: type) -> None:
    """Write the classes that were registered with an abstract one."""
    if "_abc_impl" in vars(kind):
        token, registered = get_cache_token(), _registered(kind)
        if registered:
            writer.write(set(registered))
        look = partial(_registered, kind, token, registered)
        writer.fixed.append((f"what is registered with {kind.__qualname__!r}", look, registered))


def _registered(kind: type, token: object = None, known: tuple[type, ...] = ()) -> tuple[type, ...]:
    """Return the classes that are registered with an abstract one.

    Args:
        token, known: the ABC cache token of an earlier call, and its result. They save time: the
            token changes at each registration with any class.
    """
    if get_cache_token() == token:
        return known
    from _abc import _get_dump  # type: ignore[import-not-found]

    return tuple(sorted(filter(None, (found() for found in _get_dump(kind)[0])), key=id))


def _is_method(kind: type) -> bool:
    methods = (FunctionType, staticmethod, classmethod, property, cached_property)
    return issubclass(kind, methods) or kind in _DESCRIPTORS


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]
