"""What a run sends to workers again and again: pickled once, and put once where all see it."""

from __future__ import annotations

import pickle
from types import MethodType
from typing import Any

import ray

from functionfuse.serializers.portable import dumps

__all__ = ["Sender"]

_BIG = 64 << 10  # bytes; what is bigger, and the same for several nodes, is put where all see it


class Sender:
    """Remembers what was pickled, or put into the object store, by the object that it was."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Any, Any]] = {}  # by id, with the object, to keep it alive

    def pickled(self, thing: Any) -> Any:
        """Return the pickle of a function or a storage, made once; a reference if it is big."""
        key: object = id(thing)
        if isinstance(thing, MethodType):  # another object whenever it is asked for
            key = id(thing.__self__), id(thing.__func__)
        _, known = self._known.get(key, (None, None))
        if known is None:
            known = dumps(thing)
            if len(known) > _BIG:
                known = ray.put(known)
            self._known[key] = thing, known
        return known

    def buffer(self, buffer: pickle.PickleBuffer) -> Any:
        """Return a buffer of an argument; a reference if it is big, put once for all nodes."""
        view = memoryview(buffer)
        if view.nbytes <= _BIG:
            return buffer
        _, known = self._known.get(id(view.obj), (None, None))
        if known is None:
            known = ray.put(buffer)
            self._known[id(view.obj)] = view.obj, known
        return known
