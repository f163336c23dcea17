"""Decide which code is the user's project: it counts by content, all other code by its name.

The project is every file outside

- the standard library,
- the folders that packages are installed to, and
- the files that a `*.dist-info/RECORD` in their folder lists, as from `pip install --target`.

Code without a file, such as a notebook's, belongs to the project too. So do the packages in `own`,
wherever they are installed.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import inspect
import os
import sys
import sysconfig
from importlib import metadata
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..names import close_to
from ..serializers.script import is_decorated

__all__ = [
    "defined_in",
    "is_importable",
    "is_own",
    "is_own_code",
    "is_own_file",
    "meant",
    "name_anywhere",
    "name_in_package",
    "singles_of",
    "top_level",
    "version_of",
]

Own = frozenset[str]
_NONE: Own = frozenset()

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MAIN = ("__main__", "__mp_main__")


def top_level(module: str) -> str:
    """Return the package at the top of a module's name."""
    return module.partition(".")[0]


def is_own(module: object, own: Own = _NONE) -> bool:
    """Return whether a module belongs to the project.

    Args:
        module: its name. A C type's `__module__` may be no text; then the result is False.
        own: packages that belong to the project wherever they are installed.
    """
    if not isinstance(module, str):
        return False
    top = top_level(module)
    if module in _MAIN or top in own:
        return True
    loaded = sys.modules.get(module)
    if loaded is None and top != module:
        return is_own(top, own)
    file = getattr(loaded, "__file__", None)
    if isinstance(file, str):
        return is_own_file(file)
    if top in sys.stdlib_module_names or top == "functionfuse":
        return False
    # A package without a file is where its parts are. A module that was made at run time belongs
    # to the project.
    return all(map(is_own_file, getattr(loaded, "__path__", ())))


def is_own_code(code: CodeType, module: object, own: Own) -> bool:
    """Return whether the code of a function belongs to the project.

    Args:
        module: the name of the module whose globals the function reads.
    """
    if isinstance(module, str) and top_level(module) in own:
        return True
    return is_own_file(code.co_filename)


@functools.lru_cache(maxsize=4096)
def is_own_file(file: str) -> bool:
    """Return whether a file of code belongs to the project; code without a file does."""
    if file.startswith("<"):
        return not file.startswith("<frozen ")
    path = os.path.abspath(file)
    if path.startswith(_HERE):
        return False
    parts = path.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    if path.startswith(_standard_library()):
        return False
    folders = (os.path.abspath(entry) for entry in sys.path)
    for folder in {folder for folder in folders if path.startswith(folder + os.sep)}:
        if path[len(folder) + 1 :].replace(os.sep, "/") in _recorded(folder):
            return False
    return True


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return tuple(os.path.abspath(path) + os.sep for path in paths)


@functools.cache
def _recorded(folder: str) -> frozenset[str]:
    """Return the files of the packages that were installed to a folder, relative to it."""
    try:
        records = [entry for entry in os.listdir(folder) if entry.endswith(".dist-info")]
    except OSError:
        return frozenset()
    found: set[str] = set()
    for entry in records:
        try:
            with open(os.path.join(folder, entry, "RECORD"), encoding="utf-8", newline="") as file:
                found.update(row[0] for row in csv.reader(file) if row)
        except FileNotFoundError:
            continue
    return frozenset(found)


def name_in_package(value: Any, own: Own) -> str:
    """Return the name of a function or class in an installed package; "" for others.

    It is the name that pickle would write, and it must lead to the same object.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)) or is_own(module, own):
        return ""
    if type(value) is FunctionType:
        file = value.__code__.co_filename
        if is_own_file(file) and not file.startswith("<"):
            return ""  # project code that replaces a package's
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value and getattr(found, "func", None) is not value:
        return ""
    return f"{module}.{name}"


def singles_of(kind: type, own: Own) -> dict[int, str]:
    """Return the global objects of a type in its package, such as `os.environ`: id to name.

    Only the type's own module and the top-level package are searched.
    """
    module = kind.__module__
    if not isinstance(module, str) or module == "builtins" or is_own(module, own):
        return {}
    if module == "dataclasses" and kind.__name__ in ("Field", "_DataclassParams"):
        return {}  # each class has some, and the search is slow
    return {
        id(value): f"{name}.{variable}"
        for name in dict.fromkeys((top_level(module), module))
        if name in sys.modules
        for variable, value in list(vars(sys.modules[name]).items())
        if type(value) is kind
    }


def is_importable(name: str, own: Own) -> bool:
    """Return whether a module's name belongs to the project, without an import."""
    if name in sys.modules:
        return is_own(name, own)
    top = top_level(name)
    if top in sys.modules:
        return is_own(top, own)
    if top == "functionfuse" or top in sys.builtin_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return True  # the project may add it
    if top in own:
        return True
    locations = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return all(map(is_own_file, locations)) and spec.origin not in ("built-in", "frozen")


def name_anywhere(value: Any, own: Own) -> str:
    """Return the shortest global name of an object in any loaded package; "" for none."""
    found = []
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not is_own(name, own):
            found += [
                f"{name}.{variable}"
                for variable, other in list(vars(module).items())
                if other is value
            ]
    return min(found, key=lambda name: (len(name), name), default="")


@functools.lru_cache(maxsize=1024)
def _installed_version(package: str) -> str:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def version_of(package: str) -> str:
    """Return the version of an imported or installed package; "" for none."""
    if package in sys.stdlib_module_names or package == "functionfuse":
        return ""
    version = getattr(sys.modules.get(package), "__dict__", {}).get("__version__")
    return version if isinstance(version, str) else _installed_version(package)


def meant(package: str, *, imported: bool = False) -> str:
    """Return " (did you mean 'x'?)" for a wrong package name; "" if none is close.

    Args:
        imported: whether an import name is needed, and not a distribution's name.
    """
    owners = metadata.packages_distributions()
    if imported:
        found = [top for top, names in owners.items() if package in names]
        return f" (did you mean {found[0]!r}?)" if found else close_to(package, owners)
    if package in owners:  # its distribution has another name
        return f" (did you mean {owners[package][0]!r}?)"
    return close_to(package, {name for found in owners.values() for name in found})


def defined_in(function: Any) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return how the installed package of a function or class counts, if it is in one.

    Returns:
        The package, if its code belongs to the project for this function. Otherwise its name, if
        its version counts: other code than the package has decorated the function.
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
    """Return whether a module has itself decorated one of its functions with `@workflow`."""
    found = list(vars(sys.modules[module]).values())
    return any(value.func is function for value in found if is_decorated(value))


_NEVER_OWN = {*sys.stdlib_module_names, "functionfuse", "__main__", "__mp_main__"}
