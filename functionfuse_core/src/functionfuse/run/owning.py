"""Each call owns its arguments: if it changes them in place, no other call sees the change.

Other processes get copies anyway. In this process, each call but the last that takes a value gets a
copy, unpickled from the same bytes. The value itself does not change until the last call takes it.
"""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import fractions
import pickle
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from ..serializers.portable import dumps

__all__ = ["IMMUTABLE", "Master", "is_shared", "own_literal"]

_BIG = 1 << 20  # bytes; an array in a literal argument that is this big is not copied

IMMUTABLE = frozenset(
    {
        *(
            int,
            float,
            complex,
            bool,
            str,
            bytes,
            type(None),
            type(...),
            range,
            type(NotImplemented),
            object,
        ),
        *(dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone),
        *(decimal.Decimal, fractions.Fraction),
        *(FunctionType, BuiltinFunctionType, ModuleType, type),
    }
)


def is_shared(value: Any) -> bool:
    """Return whether several calls can share the object, because none can change it."""
    kind = type(value)
    if kind in (tuple, frozenset):
        return IMMUTABLE.issuperset(map(type, value)) or all(map(is_shared, value))
    # A copy of a path or an exception may lack attributes that a subclass added.
    return kind in IMMUTABLE or issubclass(kind, (type, BaseException, PurePath))


def own_literal(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of a literal argument, if it can be changed in place.

    All arguments of a call share one `memo`, so an object in two of them stays one object. Arrays
    of 1 MiB and more are not copied, nor are objects that can't be, such as open files.
    """
    if is_shared(value):
        return value
    try:
        memo.update({id(array): array for array in _big_arrays(value)})
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001  # __deepcopy__ of a user's class can raise anything
        return value


def _big_arrays(value: Any) -> Iterator[Any]:
    numpy = sys.modules.get("numpy")
    pending = [value] if numpy is not None else []
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, numpy.ndarray):  # type: ignore[union-attr]
            if item.nbytes >= _BIG or getattr(item, "__dict__", None):
                yield item  # a copy would lack attributes that a subclass added
        elif isinstance(item, (list, tuple, dict, set, frozenset)) and id(item) not in seen:
            seen.add(id(item))
            pending += item.values() if isinstance(item, dict) else item


class Master:
    """A value to copy, pickled once for all copies.

    Raises what pickling raises.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        try:
            self._pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
        except Exception:  # noqa: BLE001  # functions that can't be imported go by value
            buffers.clear()
            self._pickled = dumps(value, buffers.append)
        self._buffers = [buffer.raw() for buffer in buffers]

    def copy(self) -> Any:
        """Return a copy that shares no memory with the value."""
        return pickle.loads(self._pickled, buffers=map(bytearray, self._buffers))
