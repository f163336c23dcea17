"""Parcels between driver and workers: bytes and buffers, which Ray does not pickle again.

Ray moves bytes as they are, and big buffers through shared memory. Everything else is pickled here,
as for executors. It is unpickled on use, not on arrival: so a value that can't be unpickled is an
error of the node that needs it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import ray

from functionfuse.graph.arguments import Reference, resolve
from functionfuse.graph.nodes import Node
from functionfuse.reuse.workers import Expected
from functionfuse.serializers.portable import PortablePickler, dumps

__all__ = [
    "Packed",
    "Parcel",
    "Sender",
    "Slot",
    "Task",
    "pack",
    "pack_task",
    "unpack",
    "unpack_task",
]


Packed = bytes | list[Any]  # a pickle, or a pickle and its buffers


def pack(value: Any) -> Packed:
    """Return a value's pickle, and its big buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = _dumps(value, {}, buffers.append)
    return [pickled, *buffers] if buffers else pickled


def unpack(packed: Packed) -> Any:
    """Return the value. Its buffers stay in shared memory, and are read-only."""
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    pickled, *buffers = packed
    return pickle.loads(pickled, buffers=buffers)


class Slot(Reference):
    """A placeholder in a node's arguments for the result of a parent."""

    __slots__ = ("index", "name")

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name

    @property
    def source(self) -> Any:
        return self

    def __repr__(self) -> str:
        return f"<node {self.name!r}>"


class Task(NamedTuple):
    """A worker's task for one node.

    Attributes:
        node_index: the node's index in the graph.
        args, kwargs: the arguments, with slots for the parents' results.
        prepare: calls of initializers and seeds, to make before the node.
        method: the name of the method; "" to call a function.
        save: names of workflow and task, and the fields to store beside the result; None: store
            nothing.
        wanted: whether any node needs the value.
        constructs: whether the value is an object for later calls.
        digest: whether the digest is needed of a value that isn't stored.
        retried: errors after which Ray tries again.
        expected: see `Job`.
    """

    node_index: int
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    prepare: Sequence[Callable[[], Any]] = ()
    method: str = ""
    save: tuple[str, str, dict[str, Any]] | None = None
    wanted: bool = True
    constructs: bool = False
    digest: bool = False
    retried: Sequence[type[BaseException]] = ()
    expected: Sequence[tuple[Expected, Any]] = ()

    def resolved(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments, with results in place of the slots."""
        built: dict[object, Any] = {}

        def result_of(slot: Any) -> Any:
            return values[slot.index]

        args = [resolve(value, result_of, built) for value in self.args]
        return args, {key: resolve(value, result_of, built) for key, value in self.kwargs.items()}


class Parcel(NamedTuple):
    """A pickled task. A pickle that is None is among the values that are sent with the parcel.

    Attributes:
        task: the pickle of the task.
        function, storage: their pickles; b"" if there is none.
        buffers: the number of buffers of the task's pickle, which are the first of the values.
    """

    task: bytes
    function: bytes | None
    storage: bytes | None
    buffers: int


def pack_task(
    task: Task, needs: Sequence[Node], names: Sequence[str]
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Return the pickle of a task, with slots for the nodes that it needs, and its buffers."""
    buffers: list[pickle.PickleBuffer] = []
    slots = {node: (index, names[index]) for index, node in enumerate(needs)}
    return _dumps(tuple(task), slots, buffers.append), buffers


def unpack_task(pickled: bytes, buffers: Sequence[Any]) -> Task:
    """Return the task."""
    return Task(*pickle.loads(pickled, buffers=buffers))


class _Pickler(PortablePickler):
    """Replaces nodes by slots."""

    slots: Mapping[Node, tuple[int, str]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Node) and obj in self.slots:
            return Slot, self.slots[obj]
        return super().reducer_override(obj)


def _dumps(
    value: Any,
    slots: Mapping[Node, tuple[int, str]],
    add: Callable[[pickle.PickleBuffer], None],
) -> bytes:
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=5, buffer_callback=add)
    pickler.slots = slots
    pickler.dump(value)
    return file.getvalue()


_BIG = 64 << 10  # bytes; bigger parts that several nodes share go into Ray's object store


class Sender:
    """Pickles each function, storage and buffer once, and puts big ones into the object store."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Any, Any]] = {}  # by id; the object is held, so ids stay

    def pickled(self, thing: Any) -> Any:
        """Return the pickle of a function or a storage; a reference to it if it is big."""
        key: object = id(thing)
        if isinstance(thing, MethodType):  # a new object at each access
            key = id(thing.__self__), id(thing.__func__)
        _, known = self._known.get(key, (None, None))
        if known is None:
            known = dumps(thing)
            if len(known) > _BIG:
                known = ray.put(known)
            self._known[key] = thing, known
        return known

    def buffer(self, buffer: pickle.PickleBuffer) -> Any:
        """Return a buffer of an argument; if it is big, a reference that all nodes share."""
        view = memoryview(buffer)
        if view.nbytes <= _BIG:
            return buffer
        _, known = self._known.get(id(view.obj), (None, None))
        if known is None:
            known = ray.put(buffer)
            self._known[id(view.obj)] = view.obj, known
        return known
