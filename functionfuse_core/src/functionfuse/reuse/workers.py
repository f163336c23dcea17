"""Whether a worker process has the code and the variables that the driver saw.

Scripts and notebooks go to workers by value. All else a worker imports by itself, and may find an
older copy of a module, another setting or a filled cache. So before it calls a function for the
first time it looks at the function as the driver did, and compares.
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
    """What the driver saw of some code, for the process that is to use it.

    Called with the code, it returns the first thing that is not as the driver saw it, in words; ""
    if all is. In another process, imported code is compared as a whole the first time, and later
    only where it can change.

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
        self._before: str | None = None  # what was not alike the first time

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._sent:
            subject, seen = self._subject, self._seen
            modules = {_module_of(name) for name in (*seen.codes, *seen.variables)}
            # What belongs to the project here does so there, even if it is installed.
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
            with suppress(Exception):  # of a distribution that has another name, metadata tell
                importlib.import_module(package)  # its version may stand in it alone
        try:
            here = self._subject.look(code, self._seen.codes)
        except FingerprintError as error:
            return untold(error)
        self._before = self._compared(code, here)
        if imported:  # what can change is compared with what is there, and the rest with this
            self._seen = self._seen._replace(fixed=here.fixed)
        return self._before

    def _compared(self, code: Any, here: Seen) -> str:
        """Say what is not here as it is there. Raises CodeDiffersError."""
        look_around(self._subject.own)
        there = self._seen
        if here.digest == there.digest:
            self._compare_version(code, here)
            return ""
        packages = there.packages.difference(map(top_level, there.codes))
        if not packages.isdisjoint(map(top_level, here.codes)):
            return UNKNOWN  # a package of the driver is a checkout here, and counts otherwise
        noted = *there.constants, *there.changeable
        classes = {what[len(_CLASS) : -1] for what in noted if what.startswith(_CLASS)}
        for name, does in there.codes.items():
            if name in classes or self._came_along(name):
                continue
            if here.codes.get(name, does) != does:
                raise self._differs(name, here)
        changed = [what for what in there.changeable if self._is_another(what, here)]
        for what, digest in there.constants.items():
            name = self._name_of(what)
            if what in here.changeable and what not in there.changeable:
                changed.append(what)
                continue
            if here.constants.get(what, digest) == digest or self._came_along(name):
                continue
            # Fields are found out when a class is first used, and hold code by its number.
            fields = what.startswith("the fields of ")
            known = what.startswith(("global ", _CLASS))
            if not known and not is_own(_module_of(name), self._subject.own):
                continue  # of a package's decorator
            if not fields and not _has_changed(name if known else ""):
                raise self._differs(name, here, what)
            changed.append(what)
        lacking = [name for name in there.codes if name not in here.codes and _lacks(name)]
        if lacking and not changed:
            raise self._differs(lacking[0], here)
        if changed:
            return changed[0]
        # What came along is the driver's, however the copy that was made of it looks.
        return UNKNOWN if _is_imported(code) else ""

    def _is_another(self, what: str, here: Seen) -> bool:
        """Tell whether something that can change is not as it is there."""
        if self._came_along(self._name_of(what)) and not what.startswith("global "):
            return False
        return here.changeable.get(what) != self._seen.changeable[what]

    def _came_along(self, name: str) -> bool:
        """Tell whether something is of the driver's script, which workers don't import."""
        return name.startswith(f"{self._script}.")

    def _compare_version(self, code: Any, here: Seen) -> None:
        """Raise CodeDiffersError if another version stands for a function's code here."""
        found = _find(code)
        version = self._subject.version
        if version is not None and isinstance(found, (WorkflowFunction, WorkflowClass)):
            name = f"{code.__module__}.{code.__qualname__}"
            if found.settings.version != version:
                raise self._differs(f"version of {name}", here)

    def _name_of(self, what: str) -> str:
        """Return the full name of a variable, or of the class or function that has it."""
        name = what.rstrip("'").rpartition("'")[2]
        if _module_of(name) or not self._subject.home or name.startswith(f"{self._script}."):
            return name
        return f"{self._subject.home}.{name}"

    def _differs(self, name: str, here: Seen, what: str = "") -> CodeDiffersError:
        """Return the error that names what differs, both places or values, and the cure."""
        module, cure = _module_of(name), f"S{_SHIP}"
        found, there = _file_of(module), (self._files or {}).get(module, "no file")
        if what.startswith("global "):
            found, there = (_text(seen.variables.get(name, "")) for seen in (here, self._seen))
            cure = "Hand it over as an argument, or set it alike on both. If it changes no result:"
            cure += f" @workflow(ignore=[{name!r}])"
        elif name.startswith("package "):
            found, there = (seen.codes.get(name, "") for seen in (here, self._seen))
            cure = "Install the same version on both"
        elif not module:
            found = there = ""
        elif found == there and what:
            cure = "Set its attributes alike on both"
        elif found == there:
            cure = "The file was edited after the driver had imported it: start the driver again"
        if what and not what.startswith(("global ", _CLASS)):
            name = what
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


_first: dict[str, dict[str, Any]] = {}  # by module: its plain variables when they were first seen


def look_around(own: frozenset[str] = frozenset()) -> None:
    """Remember the variables of modules that have come, before a node can change them."""
    for name in sys.modules.keys() - _first.keys():
        module, _first[name] = sys.modules.get(name), {}
        standard = top_level(name) in sys.stdlib_module_names  # most are; and it is quick to ask
        if isinstance(module, ModuleType) and not standard and is_own(name, own):
            _first[name] = dict(_variables(module))


def _has_changed(name: str) -> bool:
    """Tell whether a global or a class is another here than at first; any, without a name."""
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
    """Tell whether this process has imported code, and not been given it by value."""
    return all(map(_find, code)) if isinstance(code, tuple) else _find(code) is not None


def _find(code: Any) -> Any:
    """Return what stands where a function, class or module can be imported; None: it can't."""
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
    """Return the module that a full name begins with."""
    name = name.rpartition(" ")[2]
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name


def _lacks(name: str) -> bool:
    """Tell whether the module of a function or class is here, and that is not in it."""
    module = _module_of(name)
    found: Any = sys.modules.get(module)
    for part in name[len(module) + 1 :].split(".") if module and " " not in name else ():
        found = getattr(found, part, None)
    return found is None and bool(module) and "<" not in name


def _file_of(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else "no file"


def _text(value: str) -> str:
    """Return a variable's value, "" for a digest of it."""
    return "" if re.fullmatch("[0-9a-f]{16}", value) else value
