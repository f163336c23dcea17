"""Classes and functions of a script: in the script they are its own again, elsewhere a copy.

A result of `python train.py` holds classes by value, since no other process has its `__main__`.
Where it is read and the script's own class is at hand, that one is meant: its objects must be
instances of it, and members of its enums the same. Each class and function is pickled as a call of
`script_object` with its name and what makes the copy. The unpickler replaces that call.
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

_copies: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # made here: to the script's name
_lent: dict[tuple[str, str], Any] = {}  # by script and name: see `lend`
_NUMBERS = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS


_script = ""  # of the driver that a worker works for


def work_for(script: str) -> None:
    """Have `__main__` in this process be the driver's script, which this process doesn't run."""
    global _script  # noqa: PLW0603
    _script = script


def module_name(module: str) -> str:
    """Return the name by which others import a module; `python train.py` is `train` for them."""
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
    """Return how a class or function is pickled, given how cloudpickle does it by value.

    What has no name in the script stays as it is, and so does what has another's name.

    Args:
        stored: whether equal values are to have equal bytes in every process.
    """
    make, args, state, items, pairs, set_state = reduced
    name, module = obj.__qualname__, obj.__module__
    if module not in _MAIN:
        return reduced
    outline, found = _outline(obj), _find(module, name)
    # In a notebook, the cell may have run again since: then that class has taken its place.
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
    """Make the copy of a class or a function, and remember which script it is from."""
    made = make(*args)
    _copies[made] = script
    return made


def script_state(obj: Any, given: tuple[str, Maker, Any]) -> None:
    """Give a copy its methods and attributes; a script's own class has them."""
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
    """Return the script's own class or function, where it is loaded; else make the copy.

    Two notebooks have one name for their modules, so there the code must be the same.

    Args:
        planned: whether a run takes the value that its plan saw. Classes count there as they are
            now, so these are taken, whatever their code was.
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
    """Return the scripts' classes and functions among "module:name" as they are here, to `lend`."""
    found = {}
    for module, _, path in (name.partition(":") for name in names):
        first = path.partition(".")[0]
        module_here = "__main__" if module == module_name("__main__") else module
        if (thing := _find(module_here, first)) is not None:
            found[module, first] = thing
    return found


def lend(objects: Mapping[tuple[str, str], Any]) -> None:
    """Have this process, which works for another, take the scripts' classes of that one."""
    _lent.update(objects)


def may_name_script(header: bytes) -> bool:
    """Tell whether a header lists something of the module that runs as the script here."""
    return f'"{module_name("__main__")}:'.encode() in header


def name_in_script(kind: type) -> str:
    """Return the full name of a class; of a copy, as it is in the script that it is from."""
    script = _copies.get(kind)
    return f"{script}.{kind.__qualname__}" if script else name_of(kind)


def moved(module: str, name: str) -> Any:
    """Return what a module's name leads to if that module runs as the script; else None."""
    if module in _MAIN or module_name("__main__") != module:
        return None
    return _find("__main__", name)


def is_decorated(found: Any) -> bool:
    """Tell whether an object is what `@workflow` made; its `func` is what was decorated."""
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
