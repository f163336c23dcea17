"""The values of a run. Each call owns its arguments: no other call sees it change them in place.

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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from ..graph.arguments import resolve
from ..graph.nodes import Call, ConstructorCall, MethodCall, Node, Pick
from ..graph.workflow import Graph
from ..serializers.portable import dumps

__all__ = ["Master", "Values", "is_shared", "own_literal"]

_BIG = 1 << 20  # bytes; an array in a literal argument that is this big is not copied

IMMUTABLE = frozenset(
    {
        *(int, float, complex, bool, str, bytes, range, object),
        *(type(None), type(...), type(NotImplemented)),
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


def own_literal(value: Any, memo: dict[int, Any], *, big: bool = False) -> Any:
    """Return a copy of a literal argument, if it can be changed in place.

    All arguments of a call share one `memo`, so an object in two of them stays one object. Arrays
    of 1 MiB and more are copied only if `big`. Objects that can't be copied, such as open files,
    are shared.
    """
    if is_shared(value):
        return value
    try:
        if not big:
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


_PLAIN = IMMUTABLE | {Call, MethodCall, Pick}  # types of arguments that no call can change


class Values:
    """The values of a run's nodes, or the backend's handles of them, each until its last use.

    Args:
        needed: indexes of the nodes whose values the run returns.
        stored: for each node, whether the storage holds its present result.
        again: returns another copy of a node's stored value, or () if that is slow; None: calls
            share values.

    Attributes:
        held: the values, by index of the node.
        users: for each node, the number of children that are to be computed, or are.
        needed, stored: as given.
    """

    def __init__(
        self,
        graph: Graph,
        needed: set[int],
        stored: bytearray,
        again: Callable[[int], tuple[Any, ...]] | None,
    ) -> None:
        self.held: dict[int, Any] = {}
        self.users = [0] * len(graph.nodes)
        self._graph = graph
        self.needed = needed
        self.stored = stored
        self._again = again
        self._masters: dict[int, Master] = {}  # pickles of values that several calls take
        self._took: dict[int, set[int]] = {}  # by running node: the nodes whose values it has
        self._takers = Counter[int]()  # by node: how many running nodes have its value

    def clear(self) -> None:
        """Release everything."""
        self.held.clear()
        self._masters.clear()

    def arguments(
        self, index: int, node: Node, *, fresh: bool
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a call; if values are copied, no other call shares them.

        Args:
            fresh: copy values in any case, for a call that may be made again.
        """
        needs, held = self._graph.needs[index], self.held
        args, kwargs = node.args, node.kwargs
        results = list(map(held.__getitem__, needs))
        plain = (self._again is None and not fresh) or (
            _PLAIN.issuperset(map(type, args))
            and _PLAIN.issuperset(map(type, kwargs.values()))
            and IMMUTABLE.issuperset(map(type, results))
        )
        if plain and not needs:
            return args, kwargs
        if plain and args is node.needs and not kwargs:
            return results, kwargs
        own = None
        if not plain:
            results = [self._taken(parent, index) for parent in needs]
            own = partial(own_literal, memo={}, big=fresh)
        result_of = dict(zip(node.needs, results, strict=True)).__getitem__
        built: dict[object, Any] = {}
        args = tuple([resolve(value, result_of, built, own) for value in args])
        if kwargs:
            kwargs = {key: resolve(value, result_of, built, own) for key, value in kwargs.items()}
        return args, kwargs

    def give_back(self, index: int) -> None:
        """Forget the copies that a failed call had, so that the next one gets others."""
        for parent in self._took.pop(index, ()):
            self._takers[parent] -= 1

    def add_of_object(self, index: int, node: Node, value: Any) -> None:
        """Add the value of a call on an object, or the backend's handle of it.

        The result of a method is copied, because the object may hold it and change it. The result
        of a constructor is None, and is not held.
        """
        if type(node) is ConstructorCall:
            self.held.pop(index, None)
            return
        if self._again is not None and not is_shared(value):
            value = self.copy(index, value)
            self._masters.pop(index, None)
        self.held[index] = value

    def let_go(self, index: int) -> None:
        """Release the values that a node used, unless another node uses them."""
        users = self.users
        took = self._took.pop(index, ()) if self._took else ()
        for parent in self._graph.parents[index]:
            users[parent] -= 1
            if parent in took:
                self._takers[parent] -= 1
            if not users[parent]:
                if self._masters:
                    self._masters.pop(parent, None)
                if parent not in self.needed:
                    self.held.pop(parent, None)

    def _taken(self, index: int, by: int) -> Any:
        """Return a node's value for another node's call: a copy, unless this is the last use."""
        value = self.held[index]
        if is_shared(value):
            return value
        self._took.setdefault(by, set()).add(index)
        self._takers[index] += 1
        last = index not in self.needed and self.users[index] == self._takers[index]
        if not last or not self.stored[index]:
            return self.copy(index, value)
        del self.held[index]  # the call may change it; the storage has the result
        return value

    def copy(self, index: int, value: Any) -> Any:
        """Return a copy of a node's value: a new memory map if it is big, else from its pickle."""
        if self._again is not None and (found := self._again(index)):
            return found[0]
        try:
            if index not in self._masters:
                self._masters[index] = Master(value)
            return self._masters[index].copy()
        except Exception:  # noqa: BLE001  # pickling can raise anything; share the value then
            return value
