"""Values and code as digests: equal for what is equal, different for what differs.

A value is written as a stream of typed bytes, each part with its length, that is hashed with
XXH3-128. Sets and dictionaries are written in the order of their sorted keys, or of their items'
digests. What is no literal is written as what its `__reduce_ex__` gives; functions and classes of
the user's project as what they do and refer to, others by name. `docs/reuse.md` says what counts
and what can't be seen.
"""

from __future__ import annotations

import copyreg
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from xxhash import xxh3_128_digest

from .arguments import Nested
from .errors import FingerprintError
from .functions import name_of, write_class, write_code
from .literals import LITERAL_TYPES, LITERALS, literal_of, tagged
from .nodes import Node, Pick
from .project import is_own

__all__ = ["Writer", "digest_of"]

_REPR_FROM = 32  # items; a longer list of literals is written as its repr, which is as exact
_VISITS = 32  # times that an object is written in full; then, by its number: see `Writer.write`


def digest_of(value: Any) -> bytes:
    """Return the digest of a value: 16 bytes.

    Raises:
        FingerprintError: the value has no state that could be told, such as an open file.
    """
    writer = Writer()
    writer.write(value)
    return writer.digest()


class Writer:
    """Writes values, and notes what code it meets; its attributes are those of `ValueWriter`."""

    def __init__(self, place: Callable[[Node], int] | None = None) -> None:
        self.out: list[bytes] = []
        self.uses: dict[str, str] = {}
        self._place = place
        self.known: dict[int | str, int] = {}
        self._open: dict[int, int] = {}  # what is being written: id to depth
        self._visits: dict[int, tuple[int, int]] = {}  # id to order of discovery, and times
        self.kept: list[Any] = []

    def digest(self) -> bytes:
        """Return the digest of all that was written: 16 bytes."""
        return xxh3_128_digest(b"".join(self.out))

    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError as `digest_of`.

        An object that is met again is written again, so that it makes no difference whether two
        equal values are one object. That would take for ever where many objects refer to each
        other, so it has an end.
        """
        kind = type(value)
        literal = literal_of(kind)
        if literal is not None:
            self.out.append(literal(value))
            return
        if isinstance(value, (Node, Pick, Nested)):
            self._node(value)
            return
        key = id(value)
        if key in self._open:
            self.out.append(b"^%d;" % self._open[key])
            return
        number, times = self._visits.get(key, (len(self._visits), 0))
        if times == _VISITS:
            self.out.append(b"~%d;" % number)
            return
        self._visits[key] = number, times + 1
        self.kept.append(value)
        self._open[key] = len(self._open)
        try:
            self._compound(value, kind)
        except FingerprintError:
            raise
        except RecursionError:
            raise FingerprintError(f"a {name_of(kind)} is nested too deeply") from None
        except Exception as error:
            raise FingerprintError(
                f"a {name_of(kind)} can't be told from another ({error})"
            ) from error
        finally:
            del self._open[key]

    def _compound(self, value: Any, kind: type) -> None:
        if kind in (list, tuple):
            self._sequence(b"l" if kind is list else b"t", value)
        elif kind is dict:
            self._mapping(value.items())
        elif kind in (set, frozenset):
            self._unordered(b"S" if kind is set else b"Z", value)
        elif kind is MappingProxyType:
            self.out.append(b"v")
            self._mapping(value.items())
        elif isinstance(value, PurePath):
            self.out.append(tagged(b"p", f"{name_of(kind)} {value}"))
        elif kind is bytearray or kind is memoryview:
            self._buffer(name_of(kind), memoryview(value))
        elif _is_array(kind):
            self._array(value)
        elif not write_code(self, value):
            self._object(value, kind)

    # Nodes: where they stand, and by number which of the parents they are.

    def _node(self, value: Any) -> None:
        if self._place is None:
            raise FingerprintError("a node has no value of its own")
        if isinstance(value, Node):
            self.out.append(b"n%d;" % self._place(value))
        elif isinstance(value, Pick):
            self.out.append(b"k%d;" % self._place(value.node))
            self.write(value.path)
        else:
            self.out.append(tagged(b"x", name_of(type(value.like))))
            if isinstance(value.like, dict):
                self._mapping(list(zip(value.items[::2], value.items[1::2], strict=True)))
            elif isinstance(value.like, (set, frozenset)):
                self._unordered(b"S", value.items)
            else:
                self._sequence(b"l", value.items)

    # Containers and objects.

    def _sequence(self, tag: bytes, items: Any) -> None:
        if len(items) >= _REPR_FROM and set(map(type, items)) <= LITERAL_TYPES:
            try:
                self.out.append(tagged(tag + b"r", repr(items)))
            except ValueError:  # an int of more than 4,300 digits
                pass
            else:
                return
        self.out.append(b"%s%d[" % (tag, len(items)))
        for item in items:
            self.write(item)
        self.out.append(b"]")

    def _mapping(self, items: Collection[tuple[Any, Any]]) -> None:
        """Write pairs of key and value, in any order."""
        if not {type(key) for key, _ in items} <= LITERAL_TYPES:
            self._unordered(b"d", items)
            return
        self.out.append(b"d%d{" % len(items))
        for key, value in sorted(
            ((LITERALS[type(key)](key), value) for key, value in items), key=_first
        ):
            self.out.append(key)
            self.write(value)
        self.out.append(b"}")

    def _unordered(self, tag: bytes, items: Iterable[Any]) -> None:
        # What one item makes known must not be told by another: which comes first is by chance.
        outer, known, visits, written = self.out, self.known, self._visits, []
        try:
            for item in items:
                self.out, self._visits = [], {}
                if len(self.known) != len(known) or self.known is known:
                    self.known = known.copy()
                if tag == b"d":
                    self.write(item[0])
                    self.write(item[1])
                else:
                    self.write(item)
                written.append(self.digest())
        finally:
            self.out, self.known, self._visits = outer, known, visits
        self.out.append(b"%s%d[%s]" % (tag, len(written), b"".join(sorted(written))))

    def _buffer(self, name: str, view: memoryview) -> None:
        self.out.append(tagged(b"u", f"{name} {view.format} {view.shape}"))
        try:
            flat = view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
        except ValueError:  # of a format that memoryview can't cast
            flat = view.tobytes()
        self.out.append(xxh3_128_digest(flat))

    def _array(self, array: Any) -> None:
        try:
            described = array.dtype.descr
        except ValueError:  # of fields that overlap
            described = array.dtype
        self.out.append(tagged(b"a", f"{described} {array.shape}"))
        if array.dtype.hasobject:
            self.write(array.tolist())
            return
        if not array.flags.c_contiguous:
            array = array.copy(order="C")
        self.out.append(xxh3_128_digest(array.reshape(-1).view("u1") if array.nbytes else b""))

    def _object(self, value: Any, kind: type) -> None:
        exception = isinstance(value, BaseException)
        # Some packages change how all exceptions are pickled.
        registered = None if exception else copyreg.dispatch_table.get(kind)
        reduced = registered(value) if registered else value.__reduce_ex__(4)
        if exception and reduced[2:] == ({},):
            reduced = reduced[:2]  # somebody has only looked at its attributes
        if isinstance(reduced, str):
            self.out.append(tagged(b"g", f"{getattr(value, '__module__', '')}.{reduced}"))
            if is_own(kind.__module__):
                write_class(self, kind)
                self.write(getattr(value, "__dict__", None))
            return
        call, args, state, items, pairs = (*reduced, None, None, None)[:5]
        self.out.append(b"o")
        if is_own(kind.__module__):
            write_class(self, kind)
        self.write(call)
        if isinstance(value, (set, frozenset)):
            self._unordered(b"S", value)
        else:
            self.write(args)
        self.write(state)
        self._sequence(b"l", list(items or ()))
        if isinstance(value, OrderedDict):
            self._sequence(b"l", list(pairs or ()))
        else:
            self._mapping(list(pairs or ()))


def _first(pair: tuple[bytes, Any]) -> bytes:
    return pair[0]


def _is_array(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray
