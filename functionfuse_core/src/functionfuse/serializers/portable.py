"""Pickle for other processes: cloudpickle, with support for decorated functions and classes.

The name of a decorated class leads to the object that `@workflow` made. So cloudpickle would pickle
the class itself by value, with all that its methods refer to, although any process can import it.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

from .script import is_decorated, named

__all__ = ["PortablePickler", "dumps"]

# Marks of dataclasses for a missing value. They are compared by identity, so no copy will do.
_SENTINELS = ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")


class PortablePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, which finds decorated functions and classes by their import path.

    Attributes:
        stored: see `named`.
    """

    stored = False

    def reducer_override(self, obj: Any) -> Any:
        """Reduce an object; pickle calls this for each one that it doesn't write natively."""
        decorated = _decorated(obj)
        if decorated is not None:
            return getattr, (decorated, "func")
        if type(obj).__module__ == "dataclasses":
            for name in _SENTINELS:
                if obj is getattr(dataclasses, name, None):
                    return name
        if getattr(obj, "__module__", None) == "__mp_main__":  # other processes don't have it
            cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and type(reduced) is tuple and len(reduced) == 6:
            attributes, _ = reduced[2]
            attributes["__qualname__"] = obj.__qualname__  # a nested class's copy has another
            attributes.pop("__slotnames__", None)  # a copy or a pickle of an object adds it
        if type(reduced) is tuple and len(reduced) == 6:
            return named(obj, reduced, stored=self.stored)
        return reduced


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Return a value's pickle, protocol 5. Raises the errors of cloudpickle."""
    file = io.BytesIO()
    PortablePickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def _decorated(obj: Any) -> Any:
    """Return an object's decorated form from its import path; None if there is none."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if is_decorated(found) and found.func is obj:
        return found
    return None
