"""Pack jobs and values for a backend that keeps values, and unpack them.

A backend gets the pickle of each job from a `Packer`, which pickles functions and storages once a
run. Big buffers stand beside a pickle, as `[pickle, *buffers]`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MethodType
from typing import Any

from ..graph.arguments import Reference, resolve
from ..graph.nodes import Node
from ..serializers.portable import PortablePickler, dumps
from .job import Job

__all__ = ["Packed", "Packer", "pack", "unpack", "unpack_job"]

Packed = bytes | list[Any]  # a pickle, or a pickle and its buffers

_STAYS = ("needs", "values", "target", "options")  # fields of a job that the driver needs


def pack(value: Any) -> Packed:
    """Return a value's pickle, and its big buffers beside it. Raises what pickling raises."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = dumps(value, buffers.append)
    return [pickled, *buffers] if buffers else pickled


def unpack(packed: Packed) -> Any:
    """Return the value. Raises what unpickling raises.

    Read-only buffers, such as shared memory, are not copied: arrays in them are read-only.
    """
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    pickled, *buffers = packed
    views = [memoryview(buffer) for buffer in buffers]
    return pickle.loads(
        pickled, buffers=[view if view.readonly else bytearray(view) for view in views]
    )


class Packer:
    """Packs the jobs of one run: each function and each storage is pickled once."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Any, bytes]] = {}  # by id; the object is held, so ids stay

    def pack(self, job: Job) -> list[Any]:
        """Return the pickles of a job, its function and its storage, and the job's big buffers.

        A pickle is b"" if there is nothing to pickle. `values`, `target` and `options` stay here.
        Raises what pickling raises.
        """
        sent = {name: value for name, value in vars(job).items() if name not in _STAYS}
        function = storage = b""
        if not isinstance(job.function, str):
            function, sent["function"] = self._pickled(job.function), ""
        for name in ("save", "load"):
            if name in sent and sent[name] is not None:
                storage = self._pickled(sent[name].storage)
                sent[name] = sent[name]._replace(storage=None)
        buffers: list[pickle.PickleBuffer] = []
        file = io.BytesIO()
        pickler = _Pickler(file, protocol=5, buffer_callback=buffers.append)
        pickler.slots = {node: index for index, node in enumerate(job.needs)}
        pickler.dump(sent)
        return [file.getvalue(), function, storage, *buffers]

    def _pickled(self, thing: Any) -> bytes:
        key: object = id(thing)
        if isinstance(thing, MethodType):  # a new object at each access
            key = id(thing.__self__), id(thing.__func__)
        _, known = self._known.get(key, (None, None))
        if known is None:
            known = dumps(thing)
            self._known[key] = thing, known
        return known


class _Slot(Reference):
    """A placeholder in the arguments of a packed job, for the result of a parent."""

    __slots__ = ("index", "name")

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name

    @property
    def source(self) -> Any:
        return self

    def __repr__(self) -> str:
        return f"<node {self.name!r}>"


class _Pickler(PortablePickler):
    """Replaces nodes by slots."""

    slots: Mapping[Node, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Node) and obj in self.slots:
            return _Slot, (self.slots[obj], obj.name)
        return super().reducer_override(obj)


def unpack_job(packed: Sequence[Any], values: Sequence[Packed]) -> Job:
    """Return a packed job, with the values of its parents in its arguments.

    Raises what unpickling raises.

    Args:
        packed, values: see `compute`.
    """
    pickled, function, storage, *buffers = packed
    fields = pickle.loads(pickled, buffers=buffers)
    job = Job(0, "", "", (), {})
    vars(job).update(fields)
    if function:
        job.function = _opened(function)
    if job.save is not None:
        job.save = job.save._replace(storage=_opened(storage))
    if job.load is not None:
        job.load = job.load._replace(storage=_opened(storage))
    if values:
        results = list(map(unpack, values))
        built: dict[object, Any] = {}

        def result_of(slot: Any) -> Any:
            return results[slot.index]

        job.args = [resolve(value, result_of, built) for value in job.args]
        job.kwargs = {key: resolve(arg, result_of, built) for key, arg in job.kwargs.items()}
    return job


@lru_cache(100)
def _opened(pickled: bytes) -> Any:
    """Return a function or a storage; the same pickle is unpickled once per process."""
    return pickle.loads(pickled)
