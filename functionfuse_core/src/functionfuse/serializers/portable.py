"""Pickling for other processes: cloudpickle, knowing what `@workflow` does to names.

The name of a decorated class leads to what `@workflow` made of it. Pickled as it is, the class
itself would go by value, with all that its methods refer to, although any process can import it.
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

# What a dataclass holds to say that something is not there; only the very objects say so.
_SENTINELS = ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")


class PortablePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, which finds decorated functions and classes by their import path.

    Attributes:
        stored: see `named`.
    """

    stored = False

    def reducer_override(self, obj: Any) -> Any:
        """Be asked by pickle for each object that it doesn't write natively."""
        decorated = _decorated(obj)
        if decorated is not None:
            return getattr, (decorated, "func")
        if type(obj).__module__ == "dataclasses":
            for name in _SENTINELS:
                if obj is getattr(dataclasses, name, None):
                    return name
        if getattr(obj, "__module__", None) == "__mp_main__":  # no name for another process
            cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and type(reduced) is tuple and len(reduced) == 6:
            attributes, _ = reduced[2]
            attributes["__qualname__"] = obj.__qualname__  # a copy of a nested class has another
            attributes.pop("__slotnames__", None)  # found out when an object is copied or pickled
        if type(reduced) is tuple and len(reduced) == 6:
            return named(obj, reduced, stored=self.stored)
        return reduced


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Return a value's pickle, protocol 5. Raises what cloudpickle raises."""
    file = io.BytesIO()
    PortablePickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def _decorated(obj: Any) -> Any:
    """Return the decorated form that stands at an object's import path, if it can be imported."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if is_decorated(found) and found.func is obj:
        return found
    return None
