"""The contract of a serializer, which stores values of one type beside a result."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Protocol

from ..errors import OptionsError

__all__ = ["Serializer", "checked", "generate_name"]

# Types that pickle writes natively, without a call of a serializer.
_NATIVE = {bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None)}


class Serializer(Protocol):
    """Stores values of one type, and of its subclasses, in files beside the result.

    It is an instance with these members, or a class. If the methods of a class need an instance,
    one is made without arguments. A serializer gets each object of its type, at any depth inside a
    result. An object met twice is written once and comes back as one object.

    In a storage with a key, `unpickle` gets checked bytes only: a file that it opens is a copy in
    memory and has no path, and a folder is a copy. So a file is read as a whole when it is opened.
    `pickle` writes in memory and in a temporary folder there, and digests are of these bytes.

    Five members are optional:

    - `always_read = True`: later nodes of a run get the object that was read back, and not the one
      that was written. Use it for lazy objects, so that they aren't computed again.
    - `pickle_many(objs, protocols)` is called instead of `pickle`, with all objects of one result
      and a list of the protocols for each, so that shared parts are computed once. It returns a
      list of (name, pid).
    - `check(obj)`, beside `pickle_many`, raises if an object can't be stored, before any write.
    - `checks_itself = True`: for lazy objects. `unpickle` reads through `files.unchecked`, where
      `files` is the file protocol, and checks each part when it reads it. If `files.signed`, then
      `pickle` puts digests into the pid, or into something whose digest is there, by
      `files.digest`: 32 bytes of SHA-256, which are signed with the result. `storage.sign` reads
      such objects and writes them again.

    - `checks_reads = True`: each `unpickle` compares all bytes with a digest. So files need not be
      flushed before the result: they are flushed if the result is.

    Attributes:
        name: identifies this serializer in stored results, for ever.
        serializer_class: the type. It can't be a type that pickle writes natively, such as list,
            dict or str, nor the type of functions or classes.
    """

    name: str
    serializer_class: type

    def pickle(self, obj: Any, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Write `obj` through one of `protocols`, under a fresh name (see `generate_name`).

        Returns (name, pid). `pid` is pickled, and `unpickle` finds the object by it. It must be
        readable for ever, so it has the version of the serializer's own format:
        `{"version": 1, "file": ...}`. Written files have no effect until the result is committed.
        """

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Any:
        """Return the object of a `pid` of any version.

        Raise `NewerFormatError` for a version that is not known yet.
        """

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove the object of a `pid`. Files of the file protocol don't need this call."""


def generate_name() -> str:
    """Return a new, unique file name."""
    return str(uuid.uuid4())


def checked(serializers: Iterable[Serializer]) -> list[Serializer]:
    """Return the serializers if each fulfils the contract.

    Raises:
        OptionsError: one lacks a member, or claims no class or a type that pickle writes natively.
    """
    found = []
    for given in serializers:
        serializer = _instance(given)
        members = ("name", "serializer_class", "pickle", "unpickle", "remove")
        missing = [member for member in members if not hasattr(serializer, member)]
        if missing:
            raise OptionsError(f"{serializer!r} is no serializer: it has no {', '.join(missing)}")
        if not isinstance(serializer.serializer_class, type):
            raise OptionsError(
                f"serializer {serializer.name!r} claims {serializer.serializer_class!r},"
                " which is no class"
            )
        if serializer.serializer_class in _NATIVE:
            raise OptionsError(
                f"serializer {serializer.name!r} claims {serializer.serializer_class!r}, which"
                " pickle always writes itself; claim a class of your own"
            )
        found.append(serializer)
    return found


def _instance(serializer: Any) -> Any:
    """Return an instance of a class whose methods need one; else the serializer itself."""
    if isinstance(serializer, type):
        found = inspect.getattr_static(serializer, "pickle", None)
        if isinstance(found, FunctionType):
            return serializer()
    return serializer
