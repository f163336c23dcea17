"""A value as a pickle and out-of-band buffers, and back.

Pickle 5 (PEP 574) first; cloudpickle where pickle fails, or where the bytes name `__main__`, which
no other process would find. Objects of registered serializers become calls of `restore`, which an
unpickler replaces by what it was given: nothing else in the bytes decides what is called.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from ..errors import PluginError, UnpicklableResultError, UntrustedResultError
from ..portable import PortablePickler

__all__ = ["Pickled", "dumps", "loads", "packages_of", "restore"]

OUT_OF_BAND_FROM = 1024  # bytes; smaller buffers stay inside the pickle

Replace = Callable[[Any], "tuple[str, Any] | None"]
Restore = Callable[[str, Any], Any]


class Pickled(NamedTuple):
    """A value as bytes.

    Attributes:
        data: the pickle.
        views: its out-of-band buffers, in order; they are the value's own memory.
        by_value: whether cloudpickle wrote it, so that code may be in it.
    """

    data: bytes
    views: list[memoryview]
    by_value: bool


def restore(name: str, pid: Any) -> Any:
    """Stand in a pickle for an object that a serializer keeps beside the result."""
    raise UntrustedResultError(
        f"object {pid!r} of serializer {name!r} can only be read through a storage"
    )


def dumps(value: Any, replace: Replace | None = None) -> Pickled:
    """Pickle a value.

    Args:
        replace: called for every object that pickle doesn't write natively; gives the name of a
            serializer and what that needs to find the object again, or None. It is asked again for
            the same object when cloudpickle takes over.

    Raises:
        UnpicklableResultError: neither pickle nor cloudpickle can; names the culprit's place.
        OSError: a serializer could not write.
    """
    views: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_FROM:
            return True
        views.append(view)
        return False

    try:
        if replace is None:
            data = pickle.dumps(value, 5, buffer_callback=keep)
        else:
            data = _pickled(_Pickler, value, keep, replace)
        if data.rfind(b"__main__") < 0:  # searched forwards, it takes twice as long
            return Pickled(data, views, by_value=False)
    except (MemoryError, OSError, PluginError):
        raise  # it is not the value's fault
    except Exception:  # noqa: BLE001, S110  # anything; cloudpickle's error, if any, tells more
        pass
    views.clear()
    try:
        data = _pickled(_ByValuePickler, value, keep, replace)
    except (MemoryError, OSError, PluginError):
        raise
    except Exception as error:
        place, culprit = _culprit(value, lambda part: _fails(part, keep, replace))
        raise UnpicklableResultError(
            f"{place} is a {_type_name(culprit)} and can't be pickled: {type(error).__name__}:"
            f" {error}. Leave it out of the result, give its class a __reduce__ or __getstate__, or"
            " name the node in log_nodes, so that its result is not stored"
        ) from error
    return Pickled(data, views, by_value=True)


def loads(
    data: memoryview,
    buffers: Sequence[memoryview],
    *,
    allow: Sequence[str] | None = None,
    restore: Restore | None = None,
) -> Any:
    """Unpickle a value; its arrays are views of `buffers`.

    Args:
        allow: the modules, or `module.name`s, whose globals may be named; None: all.
        restore: gives the objects that serializers keep.

    Raises:
        UntrustedResultError: a global is named that `allow` doesn't allow.
    """
    if allow is None and restore is None:
        try:
            return pickle.loads(data, buffers=buffers)
        except (ImportError, AttributeError):
            pass  # once more, for an error that names all that is missing
    return _Unpickler(data, buffers, allow, restore).load()


_named = re.compile(rb"\x94\x93").finditer


def packages_of(data: bytes) -> dict[str, str]:
    """Return the versions of the top-level modules that a pickle names.

    Protocol 4 and later write a global as two strings and STACK_GLOBAL; each string is a length
    byte, the text and MEMOIZE. A string met before is fetched from the memo instead, so the first
    global of each module is found by its text. Such a string has up to 255 bytes.
    """
    versions = {}
    for found in _named(data):  # searched by bytes.find, it takes three times as long
        place = found.start()
        end = data.rfind(b"\x94\x8c", max(0, place - 258), place)
        start = data.rfind(b"\x8c", max(0, end - 257), end) if end > 0 else -1
        if start >= 0 and data[start + 1] == end - start - 2:
            name = data[start + 2 : end].decode("utf-8", "replace").partition(".")[0]
            # Not an attribute: some modules answer with a DeprecationWarning.
            version = getattr(sys.modules.get(name), "__dict__", {}).get("__version__")
            if isinstance(version, str):
                versions[name] = version
    return versions


class _Replacing:
    """The part of a pickler that asks for what serializers keep."""

    replace: Replace | None = None

    def reducer_override(self, obj: Any) -> Any:
        """Be asked by pickle for each object that it doesn't write natively."""
        if self.replace is not None:
            replaced = self.replace(obj)
            if replaced is not None:
                return restore, replaced
        return self.reduce_otherwise(obj)

    def reduce_otherwise(self, _: Any) -> Any:
        return NotImplemented


class _Pickler(_Replacing, pickle.Pickler):
    pass


class _ByValuePickler(_Replacing, PortablePickler):
    def reduce_otherwise(self, obj: Any) -> Any:  # what cloudpickle itself does
        return PortablePickler.reducer_override(self, obj)


def _pickled(
    kind: Any, value: Any, keep: Callable[[pickle.PickleBuffer], bool], replace: Replace | None
) -> bytes:
    file = io.BytesIO()
    pickler = kind(file, protocol=5, buffer_callback=keep)
    pickler.replace = replace
    pickler.dump(value)
    return file.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        data: memoryview,
        buffers: Sequence[memoryview],
        allow: Sequence[str] | None,
        restore: Restore | None,
    ) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self.allow = allow
        self.restore = restore

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == "restore" and self.restore is not None:
            return self.restore
        if self.allow is not None:
            self.check(module, name)
        try:
            found = super().find_class(module, name)
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


def _fails(part: Any, keep: Callable[[pickle.PickleBuffer], bool], replace: Replace | None) -> bool:
    try:
        _pickled(_ByValuePickler, part, keep, replace)
    except Exception:  # noqa: BLE001  # whatever its __reduce__ raises
        return True
    return False


def _culprit(value: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the place, as an expression, of the innermost part that can't be pickled, and it."""
    place, seen = "result", {id(value)}
    for _ in range(50):
        parts = [(suffix, part) for suffix, part in _parts(value) if id(part) not in seen]
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            parts = half if fails([part for _, part in half]) else parts[len(half) :]
        if not parts or not fails(parts[0][1]):
            break
        place, value = place + parts[0][0], parts[0][1]
        seen.add(id(value))
    return place, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return what pickle would write of a value, each with the expression that leads there."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(" (an item)", part) for part in value]
    try:
        state = value.__getstate__()
    except Exception:  # noqa: BLE001  # then it is the culprit itself
        return []
    states = state if isinstance(state, tuple) else (state,)  # (attributes, slots)
    attributes = [item for state in states if isinstance(state, dict) for item in state.items()]
    return [(f".{name}", part) for name, part in attributes]


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
