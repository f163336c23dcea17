"""Convert a value to a pickle and out-of-band buffers.

Pickle 5 (PEP 574) is tried first. If it fails, or if its bytes name `__main__`, which another
process would not find, cloudpickle writes the value. An object of a registered serializer becomes a
call of `restore` with the serializer's name and the object's persistent id (`pid`); see
`unpickling`. A big pickle stays in the pieces that the pickler writes: `bytes` of 64 KiB and more
are among them, and are not copied.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn, Protocol
from weakref import WeakKeyDictionary

from ..errors import (
    OptionsError,
    PluginError,
    SerializerError,
    UnpicklableResultError,
    UntrustedResultError,
)
from ..serializers.installed import type_name
from ..serializers.portable import PortablePickler
from ..serializers.refused import RefusedError, asleep, reader_of, refusal_of, thread
from ..serializers.script import script_object, script_state
from .culprit import culprit
from .named import NOTHING, Named, names_in, opcodes

__all__ = ["Pickled", "dumps", "restore"]

# Stored pickles name these functions by this module, so they must stay importable from here.
for _function in (script_object, script_state):
    _function.__module__ = __name__

OUT_OF_BAND_FROM = 1024  # bytes; smaller buffers stay inside the pickle

_PROTOCOL = 5
_ATOMS = {bool, bytes, complex, float, int, str, type(None)}
# Not the value's fault, so cloudpickle is not tried.
_RAISED = MemoryError, OSError, OptionsError, PluginError


class Extractor(Protocol):
    """Takes objects out of a value, and stores them beside its pickle."""

    def claims(self, kind: type) -> bool:
        """Return whether the objects of a type are taken out."""

    def extract(self, obj: Any) -> tuple[str, Any]:
        """Store an object; return its serializer's name and its persistent id."""

    @property
    def failed(self) -> Sequence[Any]:
        """The objects that the last call of a serializer was for."""


class Pickled(NamedTuple):
    """A value as bytes.

    Attributes:
        frames: the pickle, in one or more pieces, in order. Big `bytes` in the value are pieces.
        views: its out-of-band buffers, in order; they are the value's own memory.
        by_value: whether cloudpickle wrote it, so that code may be in it.
        named: the names in the pickle.
        code: the classes and functions whose code is in it, and the modules that values hold.
        read: whether a lazy part was read, or something was left out that the value has beside its
            content, such as a gradient. So what is read back is not as the object that was pickled.
    """

    frames: list[bytes]
    views: list[memoryview]
    by_value: bool
    named: Named = NOTHING
    code: tuple[Any, ...] = ()
    read: bool = False

    @property
    def opcodes(self) -> Sequence[bytes]:
        """The pieces that can name globals; see `named.opcodes`."""
        return opcodes(self.frames)


class _Frames(list[bytes]):
    """A file for a pickler, which keeps each piece as it is written."""

    __slots__ = ()

    def write(self, piece: bytes | bytearray) -> None:
        # A bytearray is the value's own, which can change before it is stored.
        self.append(piece if type(piece) is bytes else bytes(piece))


def restore(name: str, pid: Any) -> Any:
    """Stand in a pickle for an object that a serializer stores beside the result.

    It always raises: a storage's unpickler calls its own function instead.
    """
    raise UntrustedResultError(
        f"object {pid!r} of serializer {name!r} can only be read through a storage"
    )


def dumps(value: Any, extractor: Extractor | None = None) -> Pickled:
    """Pickle a value.

    Args:
        extractor: takes out some of the objects that pickle doesn't write natively. It gets the
            same object again if cloudpickle is tried.

    Raises:
        UnpicklableResultError: neither pickle nor cloudpickle can, or a part is a recipe or a
            reference (see `refused`); the message has the expression of that part.
        SerializerError: a serializer raised another error.
        OSError: a serializer could not write.
    """
    before = thread.pickling
    try:
        thread.pickling = True
        return _dumps(value, extractor)
    finally:
        thread.pickling = before


def _dumps(value: Any, extractor: Extractor | None) -> Pickled:
    views: list[memoryview] = []
    reducers: _Reducers | None = None

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_FROM:
            return True
        views.append(view)
        return False

    try:
        frames = _Frames()
        if extractor is None and (asleep() or _is_simple(value)):
            pickle.dump(value, frames, _PROTOCOL, buffer_callback=in_band)
        else:
            pickler = pickle.Pickler(frames, _PROTOCOL, buffer_callback=in_band)
            reducers = pickler.dispatch_table = _Reducers(extractor)
            pickler.dump(value)
        naming = opcodes(frames) if len(frames) > 1 else frames
        named = names_in(naming)
        # "__main__" or "__mp_main__". A forward search takes twice as long.
        by_name = not named.names or max(frame.rfind(b"_main__") for frame in naming) < 0
    except SerializerError as error:
        raise _placed(error, value, in_band, extractor) from error.__cause__
    except _RAISED:
        raise
    except Exception:  # noqa: BLE001  # any; cloudpickle's error, if it fails, is clearer
        by_name = False
    if by_name:
        by_value, read = False, reducers is not None and reducers.read
        return Pickled(frames, views, by_value, named, (), read)  # keywords take longer
    views.clear()
    try:
        frames, code, read = _pickled_by_value(value, in_band, extractor)
    except SerializerError as error:
        raise _placed(error, value, in_band, extractor) from error.__cause__
    except _RAISED:
        raise
    except Exception as error:
        kind = error.kind if isinstance(error, RefusedError) else None
        path, part = culprit(value, lambda part: _fails(part, in_band, extractor), kind)
        if isinstance(error, RefusedError):
            verb = "is" if type(part) is kind else "holds"
            raise UnpicklableResultError(
                f"{path} {verb} a {error}, or name the node in log_nodes"
            ) from error
        raise UnpicklableResultError(
            f"{path} is a {type_name(type(part))} and can't be pickled: {type(error).__name__}:"
            f" {error}. Leave it out of the result, give its class a __reduce__ or __getstate__, or"
            " name the node in log_nodes, so that its result is not stored"
        ) from error
    return Pickled(frames, views, True, names_in(opcodes(frames)), code, read)


def _is_simple(value: Any) -> bool:
    """Return whether a value is a number, a text or an array: no part of it is for `_Reducers`."""
    kind = type(value)
    if kind.__module__ == "numpy":
        return kind.__name__ == "ndarray" and not value.dtype.hasobject
    return kind in _ATOMS


class _Reducers(dict[type, Callable[[Any], Any]]):
    """A pickler's dispatch table, which looks up the reducer of each type once.

    A `reducer_override` would be called for each object, which takes longer than pickling it.

    Attributes:
        read: see `Pickled`.
    """

    def __init__(self, extractor: Extractor | None) -> None:
        super().__init__()
        self.extractor = extractor
        self.read = False

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        reducer = self.special(kind)
        if reducer is None:
            if issubclass(kind, type):
                raise KeyError(kind)  # classes are pickled by name
            reducer = copyreg.dispatch_table.get(kind, _reduce)  # as pickle does itself
        self[kind] = reducer
        return reducer

    def special(self, kind: type) -> Callable[[Any], Any] | None:
        """Return the reducer of a type that is not pickled as usual; None for other types."""
        if self.extractor is not None and self.extractor.claims(kind):
            return self.replaced
        reader = _readers.get(kind, "")
        if reader == "":
            reader = _readers[kind] = _reader_of(kind)
        return None if reader is None else partial(self.read_by, reader)

    def replaced(self, obj: Any) -> tuple[Any, ...]:
        assert self.extractor is not None
        before, thread.pickling = thread.pickling, False  # a serializer can send it to workers
        try:
            return restore, self.extractor.extract(obj)
        finally:
            thread.pickling = before

    def read_by(self, reader: Callable[[Any], tuple[Any, bool]], obj: Any) -> Any:
        reduced, read = reader(obj)
        self.read = self.read or read
        return reduced


_readers: WeakKeyDictionary[type, Any] = WeakKeyDictionary()  # what `_reader_of` has returned


def _reader_of(kind: type) -> Callable[[Any], tuple[Any, bool]] | None:
    """Return what reduces the objects of a type, or refuses them; None if pickle does it.

    It returns the reduced form, and what `Pickled.read` says of it.
    """
    reason = refusal_of(kind)
    if reason:
        return partial(_refuse, reason)
    from .values import reducer_of  # on use: few processes have such values

    return reader_of(kind) or reducer_of(kind)


def _refuse(reason: str, obj: Any) -> NoReturn:
    raise RefusedError(type(obj), reason)


_reduce = methodcaller("__reduce_ex__", _PROTOCOL)


class _ByValuePickler(PortablePickler):
    stored = True

    def __init__(self, *args: Any, extractor: Extractor | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reducers = _Reducers(extractor)
        self.special: dict[type, Callable[[Any], Any] | None] = {}
        self.code: list[Any] = []
        self.read: dict[str, _Read] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Reduce an object that pickle doesn't write natively; pickle calls this for each."""
        if type(obj) is _Read:
            return self.dispatch_table[ModuleType](obj.module)
        kind = type(obj)
        if kind not in self.special:
            self.special[kind] = self.reducers.special(kind)
        reducer = self.special[kind]
        if reducer is not None:
            return reducer(obj)
        if isinstance(obj, io.TextIOWrapper):  # cloudpickle would make a StringIO of it
            raise TypeError(f"cannot pickle the open file {obj.name!r}")
        reduced = super().reducer_override(obj)
        if (
            type(reduced) is tuple and isinstance(obj, (type, FunctionType)) and len(reduced) == 6
        ) or isinstance(obj, ModuleType):
            self.code.append(obj)
        return reduced

    def _dynamic_function_reduce(self, func: FunctionType) -> Any:
        """Reduce a function with its code, as cloudpickle does; mark the modules that it reads."""
        reduced = super()._dynamic_function_reduce(func)
        _, parts = reduced[2]
        used, loaded = parts["__globals__"], parts["_cloudpickle_submodules"]
        parts["__globals__"] = {name: self._as_read(value) for name, value in used.items()}
        parts["_cloudpickle_submodules"] = [self._as_read(module) for module in loaded]
        return reduced

    def _as_read(self, value: Any) -> Any:
        if type(value) is not ModuleType or sys.modules.get(value.__name__) is not value:
            return value
        return self.read.setdefault(value.__name__, _Read(value))


class _Read:
    """A module whose variables some code reads; it is pickled as the module itself."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module


def _pickled_by_value(
    value: Any, in_band: Callable[[pickle.PickleBuffer], bool], extractor: Extractor | None
) -> tuple[_Frames, tuple[Any, ...], bool]:
    frames = _Frames()
    pickler = _ByValuePickler(frames, _PROTOCOL, buffer_callback=in_band, extractor=extractor)
    pickler.dump(value)
    return frames, tuple(pickler.code), pickler.reducers.read


def _fails(
    part: Any, in_band: Callable[[pickle.PickleBuffer], bool], extractor: Extractor | None
) -> bool:
    try:
        _pickled_by_value(part, in_band, extractor)
    except Exception:  # noqa: BLE001  # whatever its __reduce__ raises
        return True
    return False


class _Finder:
    """Fails at an object that a serializer couldn't store, and calls no serializer."""

    def __init__(self, extractor: Extractor) -> None:
        self.claims = extractor.claims
        self.failed = extractor.failed

    def extract(self, obj: Any) -> tuple[str, Any]:
        if any(obj is one for one in self.failed):
            raise LookupError
        return "", None


def _placed(
    error: SerializerError,
    value: Any,
    in_band: Callable[[pickle.PickleBuffer], bool],
    extractor: Extractor | None,
) -> SerializerError:
    """Return an error with the expression of the part that a serializer couldn't store."""
    assert extractor is not None
    finder = _Finder(extractor)
    path, part = culprit(value, lambda part: _fails(part, in_band, finder), None)
    return SerializerError(f"{path} is a {type_name(type(part))} and can't be stored: {error}")
