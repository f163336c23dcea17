"""Load a script's classes and functions as its own objects in the script, elsewhere as copies.

A result of `python train.py` contains classes by value, because no other process has its
`__main__`. In the script itself, loaded objects must be instances of its own class, and members of
its enums must be the same objects.

1. `named` pickles a class or function as a call of `script_object`, with its name, a digest of its
   code and the parts of a copy.
2. The unpickler calls `own_object` instead. It returns the script's own object if that is loaded.
3. Otherwise `script_object` makes a copy, and notes its script.
4. `script_state` sets methods and attributes, but only of copies.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
from xxhash import xxh3_128_digest

__all__ = [
    "borrowed",
    "is_decorated",
    "lend",
    "may_name_script",
    "module_name",
    "moved",
    "name_in_script",
    "name_of",
    "named",
    "own_object",
    "script_object",
    "script_state",
    "work_for",
]

Maker = Callable[..., Any]

_MAIN = ("__main__", "__mp_main__")

_copies: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # copies made here, to the script's name
_lent: dict[tuple[str, str], Any] = {}  # by script and name: see `lend`
_NUMBERS = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS


_script = ""  # of the driver that a worker works for


def work_for(script: str) -> None:
    """Set the name of the driver's script, which `__main__` stands for in this worker."""
    global _script  # noqa: PLW0603
    _script = script


def module_name(module: str) -> str:
    """Return the name by which others import a module: `train` for `python train.py`."""
    if module not in _MAIN:
        return module
    if _script:
        return _script
    main = sys.modules.get(module)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return os.path.splitext(os.path.basename(file))[0] if isinstance(file, str) else "__main__"


def name_of(kind: type) -> str:
    """Return the full name of a class, by which others import it."""
    return f"{module_name(str(kind.__module__))}.{kind.__qualname__}"


def named(obj: Any, reduced: Any, *, stored: bool = False) -> Any:
    """Return the reduced form of a class or function, given cloudpickle's form by value.

    The form stays as it is if the object has no name in the script, or another object's name.

    Args:
        stored: whether equal values must have equal bytes in every process.
    """
    make, args, state, items, pairs, set_state = reduced
    name, module = obj.__qualname__, obj.__module__
    if module not in _MAIN:
        return reduced
    outline, found = _outline(obj), _find(module, name)
    # In a notebook, the cell may have run again: a new class has replaced this one.
    meant = found is obj or (found is not None and _outline(found) == outline)
    script = module_name(module) if meant else _copies.get(obj, "")
    if not script:
        return reduced
    # cloudpickle's own numbers are random.
    number = _NUMBERS.get(obj) if stored and isinstance(obj, type) else None
    if number is not None:
        same = f"{script} {name} {outline.hex()}"
        args = tuple(same if arg == number else arg for arg in args)
    described = script_object, (script, name, outline, make, args)
    return *described, (name, set_state, state), items, pairs, script_state


def script_object(
    script: str, _name: str, _outline: bytes, make: Maker, args: tuple[Any, ...]
) -> Any:
    """Make the copy of a class or function, and note its script."""
    made = make(*args)
    _copies[made] = script
    return made


def script_state(obj: Any, given: tuple[str, Maker, Any]) -> None:
    """Set the methods and attributes of a copy; a script's own object has them already."""
    name, set_state, state = given
    if not (isinstance(obj, (type, FunctionType)) and _find(obj.__module__, name) is obj):
        set_state(obj, state)


def own_object(
    script: str,
    name: str,
    outline: bytes,
    make: Maker,
    args: tuple[Any, ...],
    *,
    planned: bool = False,
) -> Any:
    """Return the script's own class or function if it is loaded; else make the copy.

    All notebooks have the same module name, so there the code must be the same too.

    Args:
        planned: whether a run loads a value of its plan. The plan counts classes as they are now,
            so these are used, whatever their code was.
    """
    for module_here in ("__main__", "__mp_main__", script):
        if module_here in sys.modules and module_name(module_here) == script:
            found = _find(module_here, name)
            anyway = planned or script != "__main__"
            if found is not None and (anyway or _outline(found) == outline):
                return found
    first, _, rest = name.partition(".")
    if planned and (found := _walk(_lent.get((script, first)), rest)) is not None:
        return found
    return script_object(script, name, outline, make, args)


def borrowed(names: Iterable[str]) -> dict[tuple[str, str], Any]:
    """Return this process's classes and functions of scripts among "module:name", for `lend`."""
    found = {}
    for module, _, path in (name.partition(":") for name in names):
        first = path.partition(".")[0]
        module_here = "__main__" if module == module_name("__main__") else module
        if (thing := _find(module_here, first)) is not None:
            found[module, first] = thing
    return found


def lend(objects: Mapping[tuple[str, str], Any]) -> None:
    """Use another process's classes and functions of scripts in this process, its worker."""
    _lent.update(objects)


def may_name_script(header: bytes) -> bool:
    """Return whether a header has a name from the module that runs as the script here."""
    return f'"{module_name("__main__")}:'.encode() in header


def name_in_script(kind: type) -> str:
    """Return the full name of a class; for a copy, its name in its script."""
    script = _copies.get(kind)
    return f"{script}.{kind.__qualname__}" if script else name_of(kind)


def moved(module: str, name: str) -> Any:
    """Return an object of the module that runs as the script; None for other modules."""
    if module in _MAIN or module_name("__main__") != module:
        return None
    return _find("__main__", name)


def is_decorated(found: Any) -> bool:
    """Return whether `@workflow` made an object; its `func` is the decorated one."""
    return getattr(type(found), "__workflow__", False) is True


def _find(module: str, name: str) -> Any:
    return _walk(sys.modules.get(module), name)


def _walk(found: Any, name: str) -> Any:
    for part in filter(None, name.split(".")):
        found = getattr(found, part, None)
    if is_decorated(found):
        found = found.func
    return found if isinstance(found, (type, FunctionType)) else None


def _outline(obj: Any) -> bytes:
    """Return a digest of the code of a class or a function, without lines and files."""
    if isinstance(obj, FunctionType):
        return xxh3_128_digest(marshal.dumps(_bare(obj.__code__), 2))
    parts = []
    for name, value in sorted(vars(obj).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            parts.append(name.encode() + _outline(function))
        elif isinstance(value, (int, float, str, bytes, tuple)) and not name.startswith("__"):
            parts.append(f"{name}={value!r}".encode("utf-8", "surrogatepass"))
    return xxh3_128_digest(b"\0".join(parts))


def _bare(code: CodeType) -> CodeType:
    constants = tuple(
        _bare(item) if isinstance(item, CodeType) else item for item in code.co_consts
    )
    return code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=constants)
