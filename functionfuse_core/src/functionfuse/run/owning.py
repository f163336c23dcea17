"""Each call has its own arguments: what it changes in them in place, no other call sees.

Other processes get copies anyway. In this one, each taker of a value but the last gets a copy that
is unpickled from the same bytes. The value itself stays as it was until the last one takes it.
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

_BIG = 1 << 20  # bytes of an array that is handed over as it is, where it is no result

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
    """Tell whether several calls can have the same object, since none can change it."""
    kind = type(value)
    if kind in (tuple, frozenset):
        return IMMUTABLE.issuperset(map(type, value)) or all(map(is_shared, value))
    # A copy of a path, or of an exception, may lack what a subclass has added.
    return kind in IMMUTABLE or issubclass(kind, (type, BaseException, PurePath))


def own_literal(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of an argument that was written into a call, if it can be changed.

    `memo` is one for all arguments of a call, so what stands in two of them is one object. Arrays
    of 1 MiB and more are handed over as they are, and so is what can't be copied, such as an open
    file.
    """
    if is_shared(value):
        return value
    try:
        memo.update({id(array): array for array in _big_arrays(value)})
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001  # whatever its __deepcopy__ raises
        return value


def _big_arrays(value: Any) -> Iterator[Any]:
    numpy = sys.modules.get("numpy")
    pending = [value] if numpy is not None else []
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, numpy.ndarray):  # type: ignore[union-attr]
            if item.nbytes >= _BIG or getattr(item, "__dict__", None):
                yield item  # a copy would lack what a subclass has added
        elif isinstance(item, (list, tuple, dict, set, frozenset)) and id(item) not in seen:
            seen.add(id(item))
            pending += item.values() if isinstance(item, dict) else item


class Master:
    """A value of which copies are made, all from the same bytes.

    Raises what pickling raises.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        try:
            self._pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
        except Exception:  # noqa: BLE001  # what has no name goes by value
            buffers.clear()
            self._pickled = dumps(value, buffers.append)
        self._buffers = [buffer.raw() for buffer in buffers]

    def copy(self) -> Any:
        """Return a copy, which shares no memory with the value."""
        return pickle.loads(self._pickled, buffers=map(bytearray, self._buffers))
