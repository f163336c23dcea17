"""Convert a value to a pickle and out-of-band buffers, and back.

Pickle 5 (PEP 574) is tried first. If it fails, or if its bytes name `__main__`, which another
process would not find, cloudpickle writes the value. An object of a registered serializer becomes a
call of `restore` with the serializer's name and the object's persistent id (`pid`). The unpickler
calls the function that it was passed as `restore` instead, so the bytes can't choose another one.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn, Protocol

from ..errors import PluginError, UnpicklableResultError, UntrustedResultError
from ..serializers.portable import PortablePickler
from ..serializers.script import moved, own_object, script_object, script_state
from .named import NOTHING, Named, names_in

__all__ = ["Pickled", "dumps", "loads", "restore"]

# Stored pickles name these functions by this module, so they must stay importable from here.
for _function in (script_object, script_state):
    _function.__module__ = __name__

OUT_OF_BAND_FROM = 1024  # bytes; smaller buffers stay inside the pickle

_PROTOCOL = 5

Restore = Callable[[str, Any], Any]


class Extractor(Protocol):
    """Takes objects out of a value, and stores them beside its pickle."""

    def claims(self, kind: type) -> bool:
        """Return whether the objects of a type are taken out."""

    def extract(self, obj: Any) -> tuple[str, Any]:
        """Store an object; return its serializer's name and its persistent id."""


class Pickled(NamedTuple):
    """A value as bytes.

    Attributes:
        data: the pickle.
        views: its out-of-band buffers, in order; they are the value's own memory.
        by_value: whether cloudpickle wrote it, so that code may be in it.
        named: the names in the pickle.
        code: the classes and functions whose code is in it, and the modules that values hold.
    """

    data: bytes
    views: list[memoryview]
    by_value: bool
    named: Named = NOTHING
    code: tuple[Any, ...] = ()


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
        UnpicklableResultError: neither pickle nor cloudpickle can; the message has the expression
            of the part that fails.
        OSError: a serializer could not write.
    """
    views: list[memoryview] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_FROM:
            return True
        views.append(view)
        return False

    try:
        if extractor is None:
            data = pickle.dumps(value, _PROTOCOL, buffer_callback=in_band)
        else:
            file = io.BytesIO()
            pickler = pickle.Pickler(file, _PROTOCOL, buffer_callback=in_band)
            pickler.dispatch_table = _Reducers(extractor)
            pickler.dump(value)
            data = file.getvalue()
        # "__main__" or "__mp_main__". A forward search takes twice as long.
        by_name = data.rfind(b"_main__") < 0
    except (MemoryError, OSError, PluginError):
        raise  # it is not the value's fault
    except Exception:  # noqa: BLE001  # any; cloudpickle's error, if it fails, is clearer
        by_name = False
    if by_name:
        by_value = False
        return Pickled(data, views, by_value, names_in(data))  # keywords take longer
    views.clear()
    try:
        data, code = _pickled_by_value(value, in_band, extractor)
    except (MemoryError, OSError, PluginError):
        raise
    except Exception as error:
        path, culprit = _culprit(value, lambda part: _fails(part, in_band, extractor))
        raise UnpicklableResultError(
            f"{path} is a {_type_name(culprit)} and can't be pickled: {type(error).__name__}:"
            f" {error}. Leave it out of the result, give its class a __reduce__ or __getstate__, or"
            " name the node in log_nodes, so that its result is not stored"
        ) from error
    return Pickled(data, views, by_value=True, named=names_in(data), code=code)


def loads(
    data: memoryview,
    buffers: Sequence[memoryview],
    *,
    allow: Sequence[str] | None = None,
    restore: Restore | None = None,
    scripts: bool = False,
    planned: bool = False,
) -> Any:
    """Unpickle a value; its arrays are views of `buffers`.

    Args:
        allow: the modules, or `module.name`s, whose globals the pickle may name; None: all.
        restore: returns the objects that serializers have stored.
        scripts: whether classes and functions of a script may be in the pickle.
        planned: see `own_object`.

    Raises:
        UntrustedResultError: the pickle names a global that `allow` doesn't allow.
    """
    if allow is None and restore is None and not scripts:
        try:
            return pickle.loads(data, buffers=buffers)
        except (ImportError, AttributeError):
            pass  # once more below, for an error that names module and name
    return _Unpickler(data, buffers, allow, restore, planned=planned).load()


class _Reducers(dict[type, Callable[[Any], Any]]):
    """A pickler's dispatch table, which looks up the reducer of each type once.

    A `reducer_override` would be called for each object, which takes longer than pickling it.
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if self.extractor.claims(kind):
            reducer: Callable[[Any], Any] = self.replaced
        elif issubclass(kind, type):
            raise KeyError(kind)  # classes are pickled by name
        else:
            reducer = copyreg.dispatch_table.get(kind, _reduce)  # as pickle does itself
        self[kind] = reducer
        return reducer

    def replaced(self, obj: Any) -> tuple[Any, ...]:
        return restore, self.extractor.extract(obj)


_reduce = methodcaller("__reduce_ex__", _PROTOCOL)


class _ByValuePickler(PortablePickler):
    extractor: Extractor | None = None
    stored = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.code: list[Any] = []
        self.read: dict[str, _Read] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Reduce an object that pickle doesn't write natively; pickle calls this for each."""
        if type(obj) is _Read:
            return self.dispatch_table[ModuleType](obj.module)
        if self.extractor is not None and self.extractor.claims(type(obj)):
            return restore, self.extractor.extract(obj)
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
) -> tuple[bytes, tuple[Any, ...]]:
    file = io.BytesIO()
    pickler = _ByValuePickler(file, _PROTOCOL, buffer_callback=in_band)
    pickler.extractor = extractor
    pickler.dump(value)
    return file.getvalue(), tuple(pickler.code)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        data: memoryview,
        buffers: Sequence[memoryview],
        allow: Sequence[str] | None,
        restore: Restore | None,
        *,
        planned: bool,
    ) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self.allow = allow
        self.restore = restore
        self.own_object = partial(own_object, planned=planned)

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__:
            if name == "restore" and self.restore is not None:
                return self.restore
            if name == "script_object":
                return self.own_object
            if name == "script_state":
                return script_state
        if self.allow is not None:
            self.check(module, name)
        try:
            found = moved(module, name) or super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise ImportError(f"{name!r} of module {module!r}: {error}") from error
        if self.allow is not None:
            # A name can lead elsewhere: numpy has attributes os.system and __builtins__.get.
            origin = getattr(found, "__module__", None)
            if isinstance(found, ModuleType) or not isinstance(origin, str):
                self.refuse(f"{module}.{name}")
            self.check(origin, getattr(found, "__qualname__", name))
        return found

    def check(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if not any(path == entry or path.startswith(f"{entry}.") for entry in self.allow or ()):
            self.refuse(path)

    def refuse(self, path: str) -> NoReturn:
        raise UntrustedResultError(
            f"the result names {path!r}, which the storage's option 'trust' does not allow;"
            f" allowed: {', '.join(self.allow or ()) or 'nothing'}"
        )


def _fails(
    part: Any, in_band: Callable[[pickle.PickleBuffer], bool], extractor: Extractor | None
) -> bool:
    try:
        _pickled_by_value(part, in_band, extractor)
    except Exception:  # noqa: BLE001  # whatever its __reduce__ raises
        return True
    return False


def _culprit(value: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the innermost part that can't be pickled, after the expression that leads to it.

    Halves the list of a value's parts until one is left, and goes on with its parts.
    """
    path, seen = "result", {id(value)}
    for _ in range(50):
        parts = [(suffix, part) for suffix, part in _parts(value) if id(part) not in seen]
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            parts = half if fails([part for _, part in half]) else parts[len(half) :]
        if not parts or not fails(parts[0][1]):
            break
        path, value = path + parts[0][0], parts[0][1]
        seen.add(id(value))
    return path, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a value that pickle would write, each after the expression for it."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(" (an item)", part) for part in value]
    try:
        state = value.__getstate__()
    except Exception:  # noqa: BLE001  # then the value itself is the culprit
        return []
    states = state if isinstance(state, tuple) else (state,)  # (attributes, slots)
    attributes = [item for state in states if isinstance(state, dict) for item in state.items()]
    return [(f".{name}", part) for name, part in attributes]


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
