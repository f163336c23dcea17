"""Variables in a fingerprint: globals that code reads, and modules that it imports.

A variable of the project counts by its value. A variable of a package counts by its name, unless
it is a plain value, or an object of the project that was assigned to it.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
from collections.abc import Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    FunctionType,
    ModuleType,
)
from typing import Any

from xxhash import xxh3_64_hexdigest

from ..errors import FingerprintError
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..serializers.script import module_name
from .bytecode import Import, Path
from .literals import LITERAL_TYPES, shown, tagged
from .project import is_importable, is_own, is_own_code, name_in_package
from .stream import Stream, is_code

__all__ = [
    "refuse",
    "write_builtin",
    "write_import",
    "write_module",
    "write_variable",
]

# Names that give access to code or variables by names known only at run time.
_UNFOLLOWABLE = {
    *("builtins.__import__", "builtins.eval", "builtins.exec", "builtins.globals"),
    *("importlib.__import__", "importlib.import_module", "importlib.reload"),
    *("_frozen_importlib.module_from_spec", "importlib.util.module_from_spec"),
    *("pkgutil.resolve_name", "pydoc.locate", "runpy.run_module", "runpy.run_path"),
    *("inspect.getmodule", "inspect.getsource", "inspect.getsourcelines"),
    "sys.modules",
}
# Variables that describe a module. Its docstring counts as a function's does: see `write_types`.
_ABOUT = {
    *("__annotations__", "__builtins__", "__cached__", "__doc__", "__file__", "__loader__"),
    *("__name__", "__package__", "__path__", "__spec__", "__warningregistry__"),
}
_MISSING = object()
_DEEP = 20  # levels of containers; deeper, a package's variable counts by its name


def refuse(name: str) -> None:
    """Raise FingerprintError if a package's name gives access to code known only at run time."""
    if name in _UNFOLLOWABLE:
        raise FingerprintError(f"{name.removeprefix('builtins.')} can't be followed")


def write_variable(writer: Stream, namespace: dict[str, Any], path: Path) -> None:
    """Write the value of a global name and of the attributes that a function reads from it."""
    root = path[0]
    module = namespace.get("__name__")
    home = module_name(module) if isinstance(module, str) else ""
    writer.out.append(tagged(b"$", ".".join(path)))
    if root == "__name__":
        writer.write(home)
        return
    value = namespace[root]
    if isinstance(value, ModuleType):
        writer.fixed.append((f"global {root!r}", partial(namespace.get, root, _MISSING), value))
        _write_path(writer, value, path[1:])
    else:
        _write_global(writer, namespace, home, root)


def write_builtin(writer: Stream, name: str) -> None:
    """Write a builtin that a function reads, if the project has set it."""
    value = vars(builtins).get(name, _MISSING)
    if value is _MISSING:
        return
    refuse(f"builtins.{name}")
    if type(value) not in (BuiltinFunctionType, type) and _counts(writer, value):
        writer.out.append(tagged(b"$", f"builtins.{name}"))
        _write_global(writer, vars(builtins), "builtins", name)


def _write_path(writer: Stream, value: Any, path: Path) -> None:
    """Write the value at the end of a path of attributes that starts at a module.

    A package may load a module at its first use. Such a module counts by its name, before and
    after; only variables that the project has set in it count by value.
    """
    names, lazy = list(path), ""
    while names and isinstance(value, ModuleType):
        module, found = value, _variable(writer, value, names[0])
        if not is_own(module.__name__, writer.own):
            full = lazy or ".".join((module.__name__, *names))
            if isinstance(found, ModuleType):
                value = found
                if hasattr(module, "__getattr__"):
                    lazy = full
            elif found is _MISSING or not _counts(writer, found, plain=not lazy):
                refuse(f"{module.__name__}.{names[0]}")
                writer.named(full)  # the same whether it is loaded yet or not
                return
            else:
                writer.named(full)
                _write_global(writer, vars(module), module.__name__, names[0])
                return
        elif found is _MISSING:
            look = partial(vars(value).get, names[0], _MISSING)
            writer.fixed.append((f"global {names[0]!r} of {value.__name__}", look, _MISSING))
            break
        elif isinstance(found, ModuleType):
            value = found
        else:
            _write_global(writer, vars(module), module_name(module.__name__), names[0])
            return
        del names[0]
    if isinstance(value, ModuleType) and not is_own(value.__name__, writer.own):
        writer.named(lazy or ".".join((value.__name__, *names)))
        return
    writer.write(value)


def _variable(writer: Stream, module: ModuleType, name: str) -> Any:
    """Return a variable of a module; a module of the project may load it at its first use."""
    if name not in vars(module) and hasattr(module, "__getattr__"):
        loaded = getattr(module, name, None) if is_own(module.__name__, writer.own) else None
        if isinstance(loaded, ModuleType):
            return loaded
    return vars(module).get(name, _MISSING)


def _counts(writer: Stream, value: Any, *, plain: bool = True) -> bool:
    """Return whether a package's variable counts by value: with project objects in it, or plain."""
    parts = list(_parts(value))
    return any(_is_own(writer, part) for part in parts) or (plain and all(map(_is_plain, parts)))


def _parts(value: Any, depth: int = 0) -> Iterator[Any]:
    """Iterate the items of nested containers down to `_DEEP` levels, or the value itself."""
    kind = type(value)
    if kind in (dict, list, tuple, set, frozenset) and depth < _DEEP:
        for item in (*value, *value.values()) if kind is dict else value:
            yield from _parts(item, depth + 1)
    else:
        yield value


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in LITERAL_TYPES or (kind.__module__ == "numpy" and kind.__name__ == "ndarray")


def _is_own(writer: Stream, value: Any) -> bool:
    kind = type(value)
    if kind is FunctionType:
        module = value.__globals__.get("__name__")
        return is_own_code(value.__code__, module, writer.own) and not name_in_package(
            value, writer.own
        )
    if issubclass(kind, (WorkflowFunction, WorkflowClass)):
        return True
    by_itself = issubclass(kind, type) or kind.__name__ == "cython_function_or_method"
    return is_own(value.__module__ if by_itself else kind.__module__, writer.own)


def _write_global(writer: Stream, namespace: dict[str, Any], module: str, name: str) -> None:
    """Write a global of a module's namespace, and note it."""
    if writer.ignores(module, name):
        writer.out.append(b"*")
        return
    value, full, before = namespace[name], f"{module}.{name}", len(writer.out)
    shown_as = name if module == writer.home else full
    try:
        writer.variable(f"global {shown_as!r}", partial(namespace.get, name, _MISSING))
    except FingerprintError as error:
        raise FingerprintError(f"global {full!r}: {error}") from error
    if not is_code(type(value)):
        stream = b"".join(writer.out[before:])
        writer.variables[full] = shown(value) or xxh3_64_hexdigest(stream)


def write_module(writer: Stream, module: ModuleType) -> None:
    """Write all variables of a module of the project, as they are now."""
    name = module_name(module.__name__)
    writer.codes[f"module {name}"] = ""
    if type(module) is not ModuleType:
        writer.write(type(module))
    names = partial(_names_in, module)
    writer.fixed.append((f"the variables of module {name!r}", names, names()))
    for variable in sorted(vars(module)):
        if variable not in _ABOUT:
            writer.out.append(tagged(b".", variable))
            _write_global(writer, vars(module), name, variable)


def _names_in(module: ModuleType) -> tuple[str, ...]:
    return tuple(name for name in vars(module) if name not in _ABOUT)


def write_import(writer: Stream, imported: Import, package: str) -> None:
    """Write a module, or its variables, that code imports at run time."""
    try:
        name = importlib.util.resolve_name("." * imported.level + imported.module, package)
    except ImportError:
        return  # the import fails at run time too
    writer.out.append(tagged(b"I", f"{name} {imported.name}"))
    module = _imported(writer, name)
    if module is None:
        taken = [imported.name] if imported.name not in ("", "*") else []
        for path in imported.reads or ((),):
            refuse(".".join((name, *taken, *path[: 1 - len(taken)])))
        return
    if imported.name in ("", "*"):
        if imported.name == "*":
            module = importlib.import_module(name.partition(".")[0])
        for path in imported.reads or ((),):
            _write_path(writer, module, path)
        return
    value = vars(module).get(imported.name, _MISSING)
    if value is _MISSING:
        value = _imported(writer, f"{name}.{imported.name}")
    if isinstance(value, ModuleType):
        for path in imported.reads or ((),):
            _write_path(writer, value, path)
    elif value is not None:
        _write_global(writer, vars(module), module_name(name), imported.name)
    else:
        writer.write(getattr(module, imported.name, None))  # from its __getattr__, or __dict__


def _imported(writer: Stream, name: str) -> ModuleType | None:
    """Import and return a module of the project; None for others, missing ones, syntax errors.

    Raises:
        FingerprintError: the import fails in any other way.
    """
    if not is_importable(name, writer.own):
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            writer.out.append(b"-")
            return None
        raise FingerprintError(f"module {name!r} can't be imported: {error}") from error
    except SyntaxError as error:
        writer.out.append(tagged(b"!", str(error)))
        return None
    except Exception as error:
        raise FingerprintError(f"module {name!r} can't be imported: {error!r}") from error
