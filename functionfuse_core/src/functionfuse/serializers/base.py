"""The contract that a serializer implements: how values of one type are kept beside a result."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Protocol

from ..errors import OptionsError

__all__ = ["Serializer", "checked", "generate_name"]

# Types that pickle writes without asking anybody.
_NATIVE = {bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None)}


class Serializer(Protocol):
    """Keeps values of one type, and of its subclasses, in files beside the result.

    An instance with these members, or a class: of one whose methods need an instance, one is made
    without arguments. It catches its type at any depth inside a result;
    an object met twice is written once and comes back as one object.

    Three members can be added:

    - `always_read = True`: what follows in a run is given the object that was read back, and not
      the one that was written; for what is lazy, so that it isn't computed again.
    - `pickle_many(objs, protocols)` returns a list of what `pickle` returns, and is called in its
      place: with all objects of one result, and a list of the protocols for each, so that what the
      objects share is computed once.
    - `check(obj)`, beside `pickle_many`, raises for what can't be kept, before anything is written.

    Attributes:
        name: stands in the result for this serializer, for ever.
        serializer_class: the type; not one of the types that pickle itself writes natively, such
            as list, dict or str, and not that of functions or classes.
    """

    name: str
    serializer_class: type

    def pickle(self, obj: Any, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Write `obj` through one of `protocols`, under a fresh name (see `generate_name`).

        Returns (name, pid): `pid` is what `unpickle` needs to find it again, and is pickled. It is
        read for ever, so it says in which version of the serializer's own format it was written:
        `{"version": 1, "file": ...}`. What was written counts for nothing until the result itself
        is committed.
        """

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Any:
        """Return the object behind `pid`, of whatever version.

        Of a version that is not known yet, raise `NewerFormatError`.
        """

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove what is behind `pid`. Files of the file protocol are removed without this."""


def generate_name() -> str:
    """Return a file name that nothing has yet."""
    return str(uuid.uuid4())


def checked(serializers: Iterable[Serializer]) -> list[Serializer]:
    """Return the serializers if each has what the contract asks for.

    Raises:
        OptionsError: one lacks a member, or claims a type that pickle never asks about.
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
    """Return an object of a class whose methods need one; anything else as it is."""
    if isinstance(serializer, type):
        found = inspect.getattr_static(serializer, "pickle", None)
        if isinstance(found, FunctionType):
            return serializer()
    return serializer
