"""Pack jobs and values for a backend that keeps values, and unpack them.

A backend gets the pickle of each job from a `Packer`, which pickles functions and storages once a
run. Big buffers stand beside a pickle, as `[pickle, *buffers]`. Objects that only the backend can
carry, such as references of Ray, stand apart: in a dictionary, which is the last item then. The
pickle has their keys.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType, MethodType
from typing import Any

from ..graph.arguments import Reference, resolve
from ..graph.nodes import Node
from ..serializers.portable import PortablePickler
from .job import Job

__all__ = ["Packed", "Packer", "pack", "unpack", "unpack_job", "with_texts"]

Packed = bytes | list[Any]  # a pickle, or a list: a pickle, its buffers, what stands apart
Kinds = tuple[type, ...]

_STAYS = ("needs", "values", "target", "options")  # fields of a job that the driver needs
_FUNCTION, _STORAGE = "function ", "storage "  # keys of what stands apart from them begin so


def pack(value: Any, apart: Kinds = ()) -> Packed:
    """Return a value's pickle, and its big buffers beside it. Raises what pickling raises.

    Args:
        apart: types whose objects stand apart from the pickle.
    """
    buffers: list[Any] = []
    pickled, found = _dumped(value, apart, buffers.append)
    if found:
        buffers.append(found)
    return [pickled, *buffers] if buffers else pickled


def unpack(packed: Packed) -> Any:
    """Return the value. Raises what unpickling raises.

    Read-only buffers, such as shared memory, are not copied: arrays in them are read-only.
    """
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    pickled, *buffers = packed
    apart = _popped(buffers)
    views = [memoryview(buffer) for buffer in buffers]
    return _loaded(pickled, [view if view.readonly else bytearray(view) for view in views], apart)


def with_texts(value: Any, apart: Kinds) -> tuple[Any, str]:
    """Return a copy of a value, with texts for objects of some types; and these texts.

    Raises what pickling and unpickling raise.
    """
    pickled, found = _dumped(value, apart)
    texts = {key: repr(each) for key, each in found.items()}
    return _loaded(pickled, (), texts), ", ".join(texts.values())


class Packer:
    """Packs the jobs of one run: each function and each storage is pickled once.

    Args:
        apart: types whose objects stand apart from the pickles.
    """

    def __init__(self, apart: Kinds = ()) -> None:
        self._apart = apart
        # By id; the object is held, so ids stay.
        self._known: dict[object, tuple[Any, tuple[bytes, dict[str, Any]]]] = {}

    def pack(self, job: Job) -> list[Any]:
        """Return the pickles of a job, its function and its storage, and the job's big buffers.

        A pickle is b"" if there is nothing to pickle. `values`, `target` and `options` stay here.
        If objects stand apart, the last item is a dictionary of them. Raises what pickling raises.
        """
        sent = {name: value for name, value in vars(job).items() if name not in _STAYS}
        function, storage, apart = b"", b"", dict[str, Any]()
        if not isinstance(job.function, str):
            function, sent["function"] = self._pickled(job.function, _FUNCTION, apart), ""
        for name in ("save", "load"):
            if name in sent and sent[name] is not None:
                storage = self._pickled(sent[name].storage, _STORAGE, apart)
                sent[name] = sent[name]._replace(storage=None)
        buffers: list[Any] = []
        slots = {node: index for index, node in enumerate(job.needs)}
        pickled, found = _dumped(sent, self._apart, buffers.append, slots=slots)
        apart |= found
        if apart:
            buffers.append(apart)
        return [pickled, function, storage, *buffers]

    def _pickled(self, thing: Any, place: str, apart: dict[str, Any]) -> bytes:
        """Return the pickle of a function or a storage; add what stands apart from it."""
        key: object = id(thing)
        if isinstance(thing, MethodType):  # a new object at each access
            key = id(thing.__self__), id(thing.__func__)
        if key not in self._known:
            self._known[key] = thing, _dumped(thing, self._apart, place=place)
        pickled, found = self._known[key][1]
        apart |= found
        return pickled


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
    """Replaces nodes by slots, and sets objects of some types apart."""

    slots: Mapping[Node, int] = {}
    kinds: Kinds = ()
    apart: dict[str, Any]
    place = ""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, self.kinds):
            key = f"{self.place}{len(self.apart)}"
            self.apart[key] = obj
            return _set_apart, (key,)
        if isinstance(obj, Node) and obj in self.slots:
            return _Slot, (self.slots[obj], obj.name)
        return super().reducer_override(obj)


def _set_apart(key: str) -> Any:
    """Stand in a pickle for the object with a key; `_Unpickler` calls something else."""
    raise pickle.UnpicklingError(f"the object {key!r} stands apart from this pickle")


class _Unpickler(pickle.Unpickler):
    """Puts the objects that stand apart into their places."""

    apart: Mapping[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _set_apart.__name__):
            return self.apart.__getitem__
        return super().find_class(module, name)


def _dumped(
    value: Any,
    kinds: Kinds,
    buffer_callback: Callable[[Any], Any] | None = None,
    *,
    slots: Mapping[Node, int] = MappingProxyType({}),
    place: str = "",
) -> tuple[bytes, dict[str, Any]]:
    """Return a pickle, and the objects that stand apart from it."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=5, buffer_callback=buffer_callback)
    pickler.slots, pickler.kinds, pickler.apart, pickler.place = slots, kinds, {}, place
    pickler.dump(value)
    return file.getvalue(), pickler.apart


def _loaded(pickled: bytes, buffers: Sequence[Any], apart: Mapping[str, Any]) -> Any:
    if not apart:
        return pickle.loads(pickled, buffers=buffers)
    unpickler = _Unpickler(io.BytesIO(pickled), buffers=buffers)
    unpickler.apart = apart
    return unpickler.load()


def _popped(parts: list[Any]) -> dict[str, Any]:
    """Remove the objects that stand apart from the parts of a packed value, and return them."""
    return parts.pop() if parts and type(parts[-1]) is dict else {}


def unpack_job(packed: Sequence[Any], values: Sequence[Packed]) -> Job:
    """Return a packed job, with the values of its parents in its arguments.

    Raises what unpickling raises.

    Args:
        packed, values: see `compute`.
    """
    pickled, function, storage, *buffers = packed
    apart = _popped(buffers)
    fields = _loaded(pickled, buffers, apart)
    job = Job(0, "", "", (), {})
    vars(job).update(fields)
    if function:
        job.function = _opened(function, apart, _FUNCTION)
    if job.save is not None:
        job.save = job.save._replace(storage=_opened(storage, apart, _STORAGE))
    if job.load is not None:
        job.load = job.load._replace(storage=_opened(storage, apart, _STORAGE))
    if values:
        results = list(map(unpack, values))
        built: dict[object, Any] = {}

        def result_of(slot: Any) -> Any:
            return results[slot.index]

        job.args = [resolve(value, result_of, built) for value in job.args]
        job.kwargs = {key: resolve(arg, result_of, built) for key, arg in job.kwargs.items()}
    return job


def _opened(pickled: bytes, apart: Mapping[str, Any], place: str) -> Any:
    """Return a function or a storage."""
    if any(key.startswith(place) for key in apart):
        return _loaded(pickled, (), apart)
    return _opened_once(pickled)


@lru_cache(100)
def _opened_once(pickled: bytes) -> Any:
    """Return a function or a storage; the same pickle is unpickled once per process."""
    return pickle.loads(pickled)
