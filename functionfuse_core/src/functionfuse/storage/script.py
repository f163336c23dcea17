"""Classes and functions of a script: in the script they are its own again, elsewhere a copy.

A result of `python train.py` holds classes by value, since no other process has its `__main__`.
Where it is read and the script's own class is at hand, that one is meant: its objects must be
instances of it, and members of its enums the same. Each class and function is pickled as a call of
`script_object` with its name and what makes the copy. The unpickler replaces that call.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import cloudpickle
from xxhash import xxh3_128_digest

from ..project import module_name
from ..workflow import WorkflowClass, WorkflowFunction

__all__ = [
    "Scripts",
    "may_name_script",
    "moved",
    "named",
    "script_object",
    "script_state",
    "scripts_names",
]

Maker = Callable[..., Any]

_NUMBERS = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS


def named(obj: Any, reduced: Any) -> Any:
    """Return how a class or function is pickled, given how cloudpickle does it by value.

    What a function has made has no name, and stays as it is. A worker has the script's classes by
    value, and doesn't know the script's name; the result's header does.
    """
    make, args, state, items, pairs, set_state = reduced
    name, module = obj.__qualname__, obj.__module__
    if "<" in name or module not in ("__main__", "__mp_main__"):
        return reduced
    script = module_name(module) if _find(module, name) is obj else ""
    outline = _outline(obj)
    # By cloudpickle's own numbers, which are random, equal values would have other bytes.
    number = _NUMBERS.get(obj) if isinstance(obj, type) else None
    if number is not None:
        same = f"{name} {outline.hex()}"
        args = tuple(same if arg == number else arg for arg in args)
    described = script_object, (script, name, outline, make, args)
    return *described, (name, set_state, state), items, pairs, script_state


def script_object(
    _script: str, _name: str, _outline: bytes, make: Maker, args: tuple[Any, ...]
) -> Any:
    """Make the copy of a class or a function: where no script is known, there is nothing else."""
    return make(*args)


def script_state(obj: Any, given: tuple[str, Maker, Any]) -> None:
    """Give a copy its methods and attributes; a script's own class has them."""
    name, set_state, state = given
    if not (isinstance(obj, (type, FunctionType)) and _find(obj.__module__, name) is obj):
        set_state(obj, state)


class Scripts:
    """Finds the classes and functions that a result names, where they are at hand.

    Args:
        own: the module of each class and function by its qualified name: see `TaskInfo.own`.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = own

    def object(
        self, script: str, name: str, outline: bytes, make: Maker, args: tuple[Any, ...]
    ) -> Any:
        """Return what has a name in a script or module that is loaded; else make the copy.

        Two notebooks have one name for their modules, so there the code must be the same.
        """
        module = script or self._own.get(name) or self._own.get(name.rpartition(".")[0], "")
        for place in ("__main__", "__mp_main__", module):
            if module and place in sys.modules and module_name(place) == module:
                found = _find(place, name)
                if found is not None and (module != "__main__" or _outline(found) == outline):
                    return found
        return make(*args)


def scripts_names(own: Sequence[str], *, by_value: bool) -> dict[str, str] | None:
    """Return what `Scripts` takes: the names that may be a script's, with their modules.

    None where there can be none of them.

    Args:
        own: see `TaskInfo.own`.
        by_value: whether the code of some is in the pickle.
    """
    script = module_name("__main__")
    pairs = (path.partition(":") for path in own)
    found = {name: module for module, _, name in pairs if by_value or module == script}
    return found if found or by_value else None


def may_name_script(header: bytes) -> bool:
    """Tell whether a header lists something of the module that runs as the script here."""
    return f'"{module_name("__main__")}:'.encode() in header


def moved(module: str, name: str) -> Any:
    """Return what a module's name leads to if that module runs as the script; else None."""
    if module in ("__main__", "__mp_main__") or module_name("__main__") != module:
        return None
    return _find("__main__", name)


def _find(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, (WorkflowFunction, WorkflowClass)):
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
