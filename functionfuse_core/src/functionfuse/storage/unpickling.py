"""Convert a pickle and its out-of-band buffers back to a value.

An object of a registered serializer is a call of `pickling.restore`. The unpickler calls the
function that it was passed as `restore` instead, so the bytes can't choose another one.

Under an allow-list, a pickle must not change what it names, or what others hold: it can set the
attributes of a class, for example, or the items of a dictionary. `_Strict` is Python's own
unpickler, which notes each named object, and looks at each call and each change. It takes up to
fifteen times as long as the unpickler in C. So `_Plain` comes first, in C. It stops at the first
name of anything but a plain type; then `_Strict` reads the pickle from its beginning. Each of them
reads a copy, and checks all that it does, so the bytes may change meanwhile. Without an allow-list
nothing is copied first.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Sequence
from enum import Enum
from sys import getrefcount
from types import FunctionType, MethodType
from typing import Any, ClassVar, NoReturn

from ..errors import UnreadableResultError, UntrustedResultError
from ..serializers.installed import type_name
from ..serializers.script import moved, own_object, script_state
from .allowed import SCRIPTS, AllowList

__all__ = ["Restore", "loads"]

Restore = Callable[[str, Any], Any]

# Stored pickles name our functions by these.
_PICKLING, _VALUES = "functionfuse.storage.pickling", "functionfuse.storage.values"
_CONTAINERS = dict, list, set


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
        UntrustedResultError: the pickle names a global that `allow` doesn't allow, or changes an
            object that is not its own.
        UnreadableResultError: it needs what isn't installed here, or a library in Rust panics.
    """
    try:
        if allow is None and restore is None and not scripts:
            try:
                return pickle.loads(data, buffers=buffers)
            except (ImportError, AttributeError):
                pass  # once more below, for an error that names module and name
        names = _Names(allow, restore, planned=planned)
        return _loaded(names, allow, data, buffers)
    except BaseException as error:
        if type(error).__module__ == "pyo3_runtime":  # of a library in Rust; it is no Exception
            raise UnreadableResultError(
                f"a library failed to read its own data: {error}"
            ) from error
        raise


def _loaded(
    names: _Names, allow: Sequence[str] | None, data: memoryview, buffers: Sequence[memoryview]
) -> Any:
    if allow is None:
        return _Unpickler(names, data, buffers).load()
    # The unpickler in C takes registered extensions from a cache, and asks nobody.
    if not copyreg._inverted_registry:  # type: ignore[attr-defined]
        try:
            return _Plain(AllowList(allow), data, buffers).load()
        except _NotPlainError:
            pass
    return _Strict(names, data, buffers).load()


class _Names:
    """Finds the globals of one pickle."""

    def __init__(
        self, allow: Sequence[str] | None, restore: Restore | None, *, planned: bool
    ) -> None:
        self.allowed = None if allow is None else AllowList(allow)
        self.restore = restore
        self.planned = planned

    def find(self, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        """Return a global; `find` is the unpickler's own way."""
        if module == _PICKLING:
            if name == "restore" and self.restore is not None:
                return self.restore
            if name in ("script_object", "script_state"):
                return self.of_script(name)
        if module == _VALUES:
            return self.of_library(name)
        try:
            if self.allowed is not None:
                from .values import checked_of  # on use, as in `pickling`

                return checked_of(self.allowed.find(module, name, find))
            return moved(module, name) or find(module, name)
        except (ImportError, AttributeError) as error:
            raise ImportError(f"{name!r} of module {module!r}: {error}") from error

    def of_script(self, name: str) -> Callable[..., Any]:
        """Return the function that makes a script's classes, or sets their attributes."""
        if self.allowed is not None:
            self.allowed.check(SCRIPTS)
        return script_state if name == "script_state" else self.own

    def of_library(self, name: str) -> Callable[..., Any]:
        """Return the function that makes a value of a library, if its type is allowed."""
        from .values import READERS  # on use, as in `pickling`

        reader = READERS.get(name)
        if reader is None:
            raise UnreadableResultError(
                f"it needs {name!r} of {_VALUES}, which this release doesn't have:"
                " pip install --upgrade functionfuse-core"
            )
        if self.allowed is None:
            return reader.read
        self.allowed.check(reader.type)
        return reader.checked

    def own(self, script: str, name: str, *parts: Any) -> Any:
        """Return a script's class or function; see `own_object`."""
        if self.allowed is not None:
            self.allowed.check(f"{script}.{name}")
        return own_object(script, name, *parts, planned=self.planned)

    def stored(self, pid: Any) -> Any:
        """Return an object that a serializer of the original Function Fuse has stored."""
        if self.restore is None:
            raise pickle.UnpicklingError(f"no serializer has stored {pid!r}")
        name, own = pid
        return self.restore(name, own)


class _InPlace:
    """A file for an unpickler in C, whose content is not copied first, as `io.BytesIO` does."""

    def __init__(self, data: memoryview) -> None:
        self.rest = data

    def peek(self, size: int) -> memoryview:
        return self.rest[:size]

    def read(self, size: int) -> memoryview:
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def readinto(self, target: memoryview) -> int:
        found = self.read(len(target))
        target[: len(found)] = found
        return len(found)

    def readline(self) -> bytes:
        size = 1 << 10
        while (end := bytes(self.rest[:size]).find(b"\n") + 1) == 0 and size < len(self.rest):
            size *= 2
        return bytes(self.read(end or len(self.rest)))


class _Unpickler(pickle.Unpickler):
    def __init__(self, names: _Names, data: memoryview, buffers: Sequence[memoryview]) -> None:
        file: Any = _InPlace(data)
        super().__init__(file, buffers=buffers)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        return self.names.find(module, name, super().find_class)

    def persistent_load(self, pid: Any) -> Any:
        return self.names.stored(pid)


# Nothing can change these classes, and a call returns a plain value.
_PLAIN = {
    *(("builtins", name) for name in ("complex", "bytearray", "slice", "range")),
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    ("decimal", "Decimal"),
}


class _NotPlainError(Exception):
    """A pickle names an object that must be looked at."""


class _Plain(pickle.Unpickler):
    """Loads plain values, in C."""

    def __init__(self, allowed: AllowList, data: memoryview, buffers: Sequence[memoryview]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise _NotPlainError
        self.allowed.check(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, _: Any) -> NoReturn:
        raise _NotPlainError


# The strict unpickler.

_kept = [object()]
_NEW_HAS = getrefcount(_kept[-1])  # references, while only a list holds it


class _Strict(pickle._Unpickler):
    """Changes only new objects, and calls only what is allowed.

    Attributes:
        named: the named objects, by their id.
        foreign: what a call returned although something else holds it, by its id.
    """

    append: Callable[[Any], None]
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, names: _Names, data: memoryview, buffers: Sequence[memoryview]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self.names = names
        assert names.allowed is not None
        self.allowed = names.allowed
        self.named: dict[int, Any] = {}
        self.foreign: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        is_getattr = (module, name) == ("builtins", "getattr")
        found = getattr if is_getattr else self.names.find(module, name, super().find_class)
        if found is getattr and not self.allowed.all_code:
            found = self.attribute
        self.named[id(found)] = found
        return found

    def persistent_load(self, pid: Any) -> Any:
        return self.names.stored(pid)

    def attribute(self, owner: Any, name: str) -> Any:
        """Return a method or a member of an enum: `getattr`, as pickles need it.

        Pickles write class methods and bound methods as calls of `getattr`.
        """
        kind = owner if isinstance(owner, type) else type(owner)
        path = f"{type_name(kind)}.{name}"
        self.allowed.check_object(kind, path)
        found = getattr(kind, name)
        if not (isinstance(found, Enum) and type(found) is kind is owner):
            self.allowed.check_object(found, path)
        if kind is not owner:
            self.check_change(owner)
            if not isinstance(found, FunctionType):
                self.allowed.refuse(path)
            found = MethodType(found, owner)
        self.named[id(found)] = found
        return found

    def get_extension(self, code: int) -> None:
        """Push the global of a registered extension, if it is allowed."""
        key = copyreg._inverted_registry.get(code)  # type: ignore[attr-defined]
        if key is None:
            raise ValueError(f"unregistered extension code {code}")
        self.append(self.find_class(*key))

    def check_call(self, function: Any) -> None:
        self.allowed.check_made(function)
        if id(function) not in self.named:
            self.allowed.check_object(function, type_name(type(function)))

    def note_result(self, function: Any) -> None:
        """Note the object on the stack as foreign, if it is not new."""
        if getrefcount(self.stack[-1]) > _NEW_HAS and function is not self.names.restore:
            found = self.stack[-1]
            self.foreign[id(found)] = found
            # A new object could change these, as its own part.
            if isinstance(found, _CONTAINERS) or _is_writable(found):
                self.refuse("is given", found)

    def check_change(self, target: Any, *methods: str) -> None:
        if id(target) in self.named or id(target) in self.foreign:
            self.refuse("changes", target)
        self.check_methods(target, *methods)

    def check_methods(self, target: Any, *methods: str) -> None:
        """Raise UntrustedResultError if an object has a method that its class doesn't have."""
        for name in methods:
            own = name in getattr(target, "__dict__", ())
            if own or (hasattr(target, name) and not hasattr(type(target), name)):
                self.refuse(f"calls {name!r} of", target)

    def refuse(self, verb: str, target: Any) -> NoReturn:
        kind, name = type_name(type(target)), getattr(target, "__qualname__", None)
        told = f"{target.__module__}.{name}" if name else f"an object of {kind}"
        raise UntrustedResultError(
            f"the result {verb} {told}, which it has not made; the storage's option 'trust' does"
            " not allow that"
        )

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        self.check_call(kind)
        super()._instantiate(kind, arguments)  # type: ignore[misc]
        self.note_result(kind)


def _calls(opcode: bytes, function_at: int) -> None:
    """Have an opcode look at the function that it calls, and at the result."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def checked(self: Any) -> None:
        function = self.stack[function_at]
        self.check_call(function)
        load(self)
        self.note_result(function)

    _Strict.dispatch[opcode[0]] = checked


def _changes(opcode: bytes, check: Callable[[Any], None]) -> None:
    """Have an opcode look at the object that it changes."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def checked(self: Any) -> None:
        check(self)
        load(self)

    _Strict.dispatch[opcode[0]] = checked


def _check_build(unpickler: Any) -> None:
    """Look at the object that BUILD changes, and at the attributes that it sets."""
    target, state = unpickler.stack[-2:]
    unpickler.check_change(target, "__setstate__")
    unpickler.allowed.check_made(type(target))
    if hasattr(target, "__setstate__"):
        return
    pair = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    parts = list(pair)
    for part in parts:
        unpickler.check_methods(part, "items", "keys")
    # A class can have other items at each look.
    items, slots = (part if type(part) is dict or not part else dict(part) for part in parts)
    for name in slots or ():
        if _is_special(name):
            unpickler.refuse(f"sets {name!r} of", target)
    unpickler.stack[-1] = items, slots


def _is_writable(found: Any) -> bool:
    """Return whether others can write to an object's memory, as to that of an array."""
    try:
        return not memoryview(found).readonly
    except TypeError:
        return False
    except (ValueError, BufferError):  # of times, or locked
        return True


def _is_special(name: Any) -> bool:
    """Return whether an attribute can make another object a part of an object's own."""
    return isinstance(name, str) and name[:2] == name[-2:] == "__"


_calls(pickle.REDUCE, -2)
_calls(pickle.NEWOBJ, -2)
_calls(pickle.NEWOBJ_EX, -3)
_changes(pickle.BUILD, _check_build)
_changes(pickle.APPEND, lambda self: self.check_change(self.stack[-2], "append"))
_changes(pickle.SETITEM, lambda self: self.check_change(self.stack[-3]))
_changes(pickle.APPENDS, lambda self: self.check_change(self.metastack[-1][-1], "append", "extend"))
_changes(pickle.SETITEMS, lambda self: self.check_change(self.metastack[-1][-1]))
_changes(pickle.ADDITEMS, lambda self: self.check_change(self.metastack[-1][-1], "add", "update"))
