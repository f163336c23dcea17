"""Check that a worker process has the code and the variables that the driver saw.

Scripts and notebooks go to workers by value. A worker imports all other code itself. It may find an
older copy of a module, another setting or a filled cache. So before it first calls a function:

1. It looks at the function as the driver did (see `seen`). If the digests are equal, all is well.
2. Otherwise it compares code by name, then variables. If code or a constant differs, it raises. A
   constant that this process has changed since `look_around` counts as a changed variable.
3. It returns the first changed variable, as text.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from types import FunctionType, ModuleType
from typing import Any

from ..errors import CodeDiffersError, FingerprintError
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..serializers.script import module_name, work_for
from .project import is_own, top_level
from .seen import UNKNOWN, Seen, Subject, untold

__all__ = ["Expected", "look_around"]

_CLASS = "class '"
_SHIP = (
    "hip the driver's code to the workers, with Ray for instance by"
    ' runtime_env={"py_modules": [...]}'
)


class Expected:
    """The driver's look at some code, to compare with in the process that calls the code.

    A call with the code returns the first difference as text; "" for none. In another process, the
    first call compares imported code as a whole, and later calls only its variables.

    Raises:
        CodeDiffersError: the process has other code, or another constant.
    """

    def __init__(
        self, subject: Subject, seen: Seen, files: dict[str, str] | None = None, script: str = ""
    ) -> None:
        self._subject = subject
        self._seen = seen
        self._files = files  # of the driver's modules; None: this is the driver's process
        self._script = script
        self._sent = b""
        self._before: str | None = None  # the result of the first comparison

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._sent:
            subject, seen = self._subject, self._seen
            modules = {_module_of(name) for name in (*seen.codes, *seen.variables)}
            # A module of the project here is one in the worker too, even if it is installed there.
            own = {top_level(module) for module in modules if is_own(module, subject.own)}
            subject = subject._replace(own=subject.own | own)
            plain = seen._replace(fixed=[])
            files = {module: _file_of(module) for module in modules}
            sent = tuple(subject), tuple(plain), files, module_name("__main__")
            self._sent = pickle.dumps(sent, 5)
        return _expected, (self._sent,)

    def __call__(self, code: Any) -> str:
        imported = self._files is None or _is_imported(code)
        if self._files is None or (imported and self._before is not None):
            again = partial(self._subject.look, code, self._seen.codes)
            return self._before or self._seen.changed(again)
        work_for(self._script)
        for package in self._subject.packages:
            with suppress(Exception):  # a distribution may have no module of its name
                importlib.import_module(package)  # the version may only be in `__version__`
        try:
            here = self._subject.look(code, self._seen.codes)
        except FingerprintError as error:
            return untold(error)
        self._before = self._compared(code, here)
        if imported:  # from now on, fixed variables are compared with this look
            self._seen = self._seen._replace(fixed=here.fixed)
        return self._before

    def _compared(self, code: Any, here: Seen) -> str:
        """Return the first difference between `here` and the driver. Raises CodeDiffersError."""
        look_around(self._subject.own)
        there = self._seen
        if here.digest == there.digest:
            self._compare_version(code, here)
            return ""
        packages = there.packages.difference(map(top_level, there.codes))
        if not packages.isdisjoint(map(top_level, here.codes)):
            return UNKNOWN  # the driver's installed package is a checkout here
        noted = *there.constants, *there.changeable
        classes = {
            description[len(_CLASS) : -1] for description in noted if description.startswith(_CLASS)
        }
        for name, does in there.codes.items():
            if name in classes or self._is_of_script(name):
                continue
            if here.codes.get(name, does) != does:
                raise self._differs(name, here)
        changed = [
            description for description in there.changeable if self._is_another(description, here)
        ]
        for description, digest in there.constants.items():
            name = self._name_of(description)
            if description in here.changeable and description not in there.changeable:
                changed.append(description)
                continue
            if here.constants.get(description, digest) == digest or self._is_of_script(name):
                continue
            # Fields are made at the first use of a class, and contain the numbers of code.
            fields = description.startswith("the fields of ")
            known = description.startswith(("global ", _CLASS))
            if not known and not is_own(_module_of(name), self._subject.own):
                continue  # it belongs to a package's decorator
            if not fields and not _has_changed(name if known else ""):
                raise self._differs(name, here, description)
            changed.append(description)
        lacking = [name for name in there.codes if name not in here.codes and _lacks(name)]
        if lacking and not changed:
            raise self._differs(lacking[0], here)
        if changed:
            return changed[0]
        # Code by value is the driver's, even if its copy looks different.
        return UNKNOWN if _is_imported(code) else ""

    def _is_another(self, description: str, here: Seen) -> bool:
        """Return whether a variable that can change differs from the driver's."""
        if self._is_of_script(self._name_of(description)) and not description.startswith("global "):
            return False
        return here.changeable.get(description) != self._seen.changeable[description]

    def _is_of_script(self, name: str) -> bool:
        """Return whether a name is of the driver's script, which workers don't import."""
        return name.startswith(f"{self._script}.")

    def _compare_version(self, code: Any, here: Seen) -> None:
        """Raise CodeDiffersError if a decorated function has another version here."""
        found = _find(code)
        version = self._subject.version
        if version is not None and isinstance(found, (WorkflowFunction, WorkflowClass)):
            name = f"{code.__module__}.{code.__qualname__}"
            if found.settings.version != version:
                raise self._differs(f"version of {name}", here)

    def _name_of(self, description: str) -> str:
        """Return the full name of a described variable, or of its class or function."""
        name = description.rstrip("'").rpartition("'")[2]
        if _module_of(name) or not self._subject.home or name.startswith(f"{self._script}."):
            return name
        return f"{self._subject.home}.{name}"

    def _differs(self, name: str, here: Seen, description: str = "") -> CodeDiffersError:
        """Return the error with the name that differs, both files or values, and the cure."""
        module, cure = _module_of(name), f"S{_SHIP}"
        found, there = _file_of(module), (self._files or {}).get(module, "no file")
        if description.startswith("global "):
            found, there = (_text(seen.variables.get(name, "")) for seen in (here, self._seen))
            cure = (
                "Hand it over as an argument, or set it alike on both: the worker may have an older"
            )
            cure += f" file. If it changes no result: @workflow(ignore=[{name!r}])"
        elif name.startswith("package "):
            found, there = (seen.codes.get(name, "") for seen in (here, self._seen))
            cure = "Install the same version on both"
        elif not module:
            found = there = ""
        elif found == there and description:
            cure = "Set its attributes alike on both"
        elif found == there:
            cure = (
                "If the file was edited after the driver had imported it, start the driver again."
            )
            cure += f" If the worker's machine has an older file at this path, s{_SHIP}"
        if description and not description.startswith(("global ", _CLASS)):
            name = description
        found, there = (f" ({text})" if text else "" for text in (found, there))
        return CodeDiffersError(
            f"{_worker()} has another {name}{found} than the driver{there}; nothing was stored."
            f" {cure}"
        )


def _worker() -> str:
    return f"worker {socket.gethostname()!r} (pid {os.getpid()})"


@lru_cache(maxsize=256)
def _expected(sent: bytes) -> Expected:
    subject, seen, *rest = pickle.loads(sent)
    return Expected(Subject(*subject), Seen(*seen), *rest)


_first: dict[str, dict[str, Any]] = {}  # by module: its variables when it was first seen


def look_around(own: frozenset[str] = frozenset()) -> None:
    """Remember the variables of newly loaded modules, before a node can change them."""
    for name in sys.modules.keys() - _first.keys():
        module, _first[name] = sys.modules.get(name), {}
        standard = top_level(name) in sys.stdlib_module_names  # most are, and this is fast
        if isinstance(module, ModuleType) and not standard and is_own(name, own):
            _first[name] = dict(_variables(module))


def _has_changed(name: str) -> bool:
    """Return whether a global or class has changed here since `look_around`; any, if no name."""
    home = _module_of(name)
    for module in [home] if name else list(_first):
        now, path = dict(_variables(sys.modules.get(module))), name[len(home) + 1 :]
        for variable, value in _first.get(module, {}).items():
            meant = not path or variable == path or variable.startswith(f"{path}.")
            if meant and now.get(variable) is not value:
                return True
    return False


def _variables(module: ModuleType | None) -> Iterator[tuple[str, Any]]:
    """Iterate the variables of a module, of its classes, and in the closures of its functions."""
    if module is None:
        return
    for name, value in list(vars(module).items()):
        yield name, value
        inner = value.func if isinstance(value, (WorkflowFunction, WorkflowClass)) else value
        if isinstance(inner, type) and inner.__module__ == module.__name__:
            for attribute, part in list(vars(inner).items()):
                yield f"{name}.{attribute}", part
        elif isinstance(inner, FunctionType):
            for index, cell in enumerate(inner.__closure__ or ()):
                with suppress(ValueError):  # it is empty
                    yield f"{name} {index}", cell.cell_contents


def _is_imported(code: Any) -> bool:
    """Return whether this process imported the code, and didn't get it by value."""
    return all(map(_find, code)) if isinstance(code, tuple) else _find(code) is not None


def _find(code: Any) -> Any:
    """Return the code, or its decorated form, from its import path; None if it isn't there."""
    module, name = getattr(code, "__module__", None), getattr(code, "__qualname__", None)
    if isinstance(code, ModuleType):
        return sys.modules.get(code.__name__)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if found is code or getattr(found, "func", None) is code else None


def _module_of(name: str) -> str:
    """Return the loaded module that a full name begins with."""
    name = name.rpartition(" ")[2]
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name


def _lacks(name: str) -> bool:
    """Return whether the module of a function or class is loaded, but lacks it."""
    module = _module_of(name)
    found: Any = sys.modules.get(module)
    for part in name[len(module) + 1 :].split(".") if module and " " not in name else ():
        found = getattr(found, part, None)
    return found is None and bool(module) and "<" not in name


def _file_of(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else "no file"


def _text(value: str) -> str:
    """Return a variable's value as text; "" for a digest."""
    return "" if re.fullmatch("[0-9a-f]{16}", value) else value
