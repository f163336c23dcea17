"""The contract that a serializer implements: how values of one type are kept beside a result."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

__all__ = ["Serializer", "generate_name"]


class Serializer(Protocol):
    """Keeps values of one type, and of its subclasses, in files beside the result.

    A class or an instance with these members. It catches its type at any depth inside a result;
    an object met twice is written once and comes back as one object.

    Three members can be added:

    - `always_read = True`: what follows in a run is given the object that was read back, and not
      the one that was written; for what is lazy, so that it isn't computed again.
    - `pickle_many(objs, protocols)` returns a list of what `pickle` returns, and is called in its
      place: with all objects of one result, so that what they share is computed once.
    - `check(obj)`, beside `pickle_many`, raises for what can't be kept, before anything is written.

    Attributes:
        name: stands in the result for this serializer, for ever.
        serializer_class: the type; not one of the types that pickle itself writes natively, such
            as list, dict or str.
    """

    name: str
    serializer_class: type

    def pickle(self, obj: Any, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Write `obj` through one of `protocols`, under a fresh name (see `generate_name`).

        Returns (name, pid): `pid` is what `unpickle` needs to find it again, and is pickled. What
        was written counts for nothing until the result itself is committed.
        """

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Any:
        """Return the object behind `pid`."""

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove what is behind `pid`. Files of the file protocol are removed without this."""


def generate_name() -> str:
    """Return a file name that nothing has yet."""
    return str(uuid.uuid4())
