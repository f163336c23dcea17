"""Digests of values and of the code in them: equal for equal ones, different for others.

1. A value becomes a stream of typed bytes, each part with its length, hashed with XXH3-128.
2. Code in a value becomes a number. The bodies of the code follow the values (see `stream`).
3. A long part is replaced by its own digest. So an object that is met again costs nothing. Two
   equal objects have the same stream as one object met twice.
4. An object inside itself is written as the distance to its outer occurrence.
5. Each item of a set is written by its own writer, and the results are sorted.

`docs/reuse.md` has the rules on what counts.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from xxhash import xxh3_128_digest

from ..errors import FileError, FingerprintError, GraphError
from ..graph.arguments import Nested
from ..graph.nodes import Node, Pick
from ..serializers.script import name_of
from .forms import (
    attributes_of,
    form_of,
    pickles_itself,
    undescribed,
    write_array,
    write_buffer,
    write_file,
)
from .functions import write_code, write_types
from .literals import LITERAL_TYPES, literal_of, pickled, tagged
from .project import is_own, name_anywhere, name_in_package, singles_of
from .stream import Stream

__all__ = ["Writer", "digest_of"]

_AT_ONCE = 32  # items; a longer list of literals is pickled, which is as exact
_LONG = 64  # bytes; a longer part is replaced by its digest
_VISITS = 32  # times that an object inside itself is written in full


def digest_of(value: Any, own: frozenset[str] = frozenset()) -> bytes:
    """Return the digest of a value: 16 bytes.

    Args:
        own: packages that belong to the project, wherever they are installed.

    Raises:
        FingerprintError: the value has no readable state, such as an open file.
    """
    writer = Writer(own=own)
    writer.write(value)
    return writer.digest()


class Writer(Stream):
    """Writes values into a stream.

    Args:
        places: the numbers of the nodes that may stand in the values.
        options: see `Stream`.
    """

    def __init__(self, places: Mapping[Any, int] = MappingProxyType({}), **options: Any) -> None:
        super().__init__(**options)
        self._places = places
        self._open: dict[int, int] = {}  # objects being written: id to depth
        self._lowest = sys.maxsize  # smallest depth of the objects met inside themselves
        self._done: dict[tuple[int, bool], bytes] = {}  # stream of each written object
        self._visits: dict[int, tuple[int, int]] = {}  # id to order of discovery, and count
        self._singles: dict[type, dict[int, str]] = {}

    def write_types(self, value: Any) -> None:
        """Write types and docstrings of some code."""
        write_types(self, value)

    # Values.

    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError as `digest_of`."""
        kind = type(value)
        literal = literal_of(kind)
        if literal is not None:
            self.out.append(literal(value))
            return
        if kind in _NODES or isinstance(value, Node):
            self._node(value)
            return
        key = id(value)
        done = self._done.get((key, self._held))
        if done is not None:
            self.out.append(done)
            return
        depth = len(self._open)
        if key in self._open:
            self._lowest = min(self._lowest, self._open[key])
            self.out.append(b"^%d;" % (depth - self._open[key]))
            return
        number, times = self._visits.get(key, (len(self._visits), 0))
        if times == _VISITS:
            self.out.append(b"~%d;" % number)
            return
        self._alive.append(value)
        outer, lowest = self.out, self._lowest
        self.out, self._lowest, self._open[key] = [], sys.maxsize, depth
        try:
            self._compound(value, kind)
            stream = b"".join(self.out)
        except (FingerprintError, GraphError):
            raise
        except FileError as error:
            raise FingerprintError(str(error)) from error
        except RecursionError:
            raise FingerprintError(f"a {name_of(kind)} is nested too deeply") from None
        except Exception as error:
            raise FingerprintError(
                f"a {name_of(kind)} can't be told from another ({error})"
            ) from error
        finally:
            del self._open[key]
            inner, self._lowest = self._lowest, lowest
            self.out = outer
        if len(stream) > _LONG:
            stream = b"#" + xxh3_128_digest(stream)
        outer.append(stream)
        if inner >= depth:
            self._done[key, self._held] = stream
        else:  # it contains an object around it, so elsewhere its stream may differ
            self._lowest = min(lowest, inner)
            self._visits[key] = number, times + 1

    def _compound(self, value: Any, kind: type) -> None:
        if kind is list or kind is tuple:
            self._sequence(b"l" if kind is list else b"t", value)
        elif kind is dict:
            if value is sys.modules:
                raise FingerprintError("sys.modules can't be followed")
            self._mapping(value.items())
        elif kind is set or kind is frozenset:
            self._unordered(b"S" if kind is set else b"Z", value)
        elif kind is MappingProxyType:
            self.out.append(b"v")
            self._mapping(value.items())
        elif kind is bytearray or kind is memoryview:
            write_buffer(self, name_of(kind), memoryview(value))
        elif kind.__module__ == "functionfuse" and kind.__name__ == "File":
            write_file(self, value)
        elif kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "memmap"):
            write_array(self, value)
        elif not write_code(self, value, kind):
            self._object(value, kind)

    # Nodes: each as its number among the parents.

    def _node(self, value: Any) -> None:
        if isinstance(value, (Node, Pick)):
            index = self._places.get(value.source, -1)
            if index < 0:
                raise GraphError(
                    f"{value!r} stands inside an object: nodes may stand in lists, tuples, dicts"
                    " and sets only, as arguments of calls"
                )
            self.out.append(b"n%d;" % index)
            if isinstance(value, Pick):
                self.out.append(b"k")
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
        if len(items) >= _AT_ONCE and set(map(type, items)) <= LITERAL_TYPES:
            self.out.append(b"%sp%d:%s" % (tag, len(items), xxh3_128_digest(pickled(items))))
            return
        self.out.append(b"%s%d[" % (tag, len(items)))
        for item in items:
            self.write(item)
        self.out.append(b"]")

    def _mapping(self, items: Collection[tuple[Any, Any]]) -> None:
        """Write pairs of key and value, in their order."""
        self.out.append(b"d%d{" % len(items))
        for key, value in items:
            self.write(key)
            self.write(value)
        self.out.append(b"}")

    def _unordered(self, tag: bytes, items: Iterable[Any]) -> None:
        written = []
        for item in items:
            literal = literal_of(type(item))
            if literal is not None:
                stream = literal(item)
                written.append(stream if len(stream) <= _LONG else xxh3_128_digest(stream))
            else:
                # The order of items is random, so no item may refer to the stream of another.
                writer = self._beside()
                writer.write(item)
                written.append(b"#" + writer.digest())
        self.out.append(b"%s%d[%s]" % (tag, len(written), b"".join(sorted(written))))

    def _beside(self) -> Writer:
        """Return a writer for an item of a set, which shares the notes of this one."""
        writer = Writer(self._places, own=self.own, ignore=self._ignore, home=self.home)
        for name in ("codes", "variables", "changeable", "constants", "fixed", "packages"):
            setattr(writer, name, getattr(self, name))
        writer.direct, writer._inside, writer._loose = self.direct, self._inside, self._loose
        writer.ignored, writer.inspected, writer._held = self.ignored, self.inspected, self._held
        writer._singles, writer._streams = self._singles, self._streams
        writer._named, writer.files = self._named, self.files
        self._streams.append(writer)
        return writer

    def _object(self, value: Any, kind: type) -> None:
        name = name_in_package(value, self.own) or self._single(value, kind)
        if name:
            self.named(name)
            return
        start = len(self.out)
        form = form_of(kind)
        try:
            if form is not None:
                self._form(value, *form)
            else:
                with self.held(kind.__module__):
                    self._state(value, kind)
        except Exception:
            name = "" if is_own(kind.__module__, self.own) else name_anywhere(value, self.own)
            if not name:
                raise
            del self.out[start:]
            self.named(name)

    def _single(self, value: Any, kind: type) -> str:
        singles = self._singles.get(kind)
        if singles is None:
            singles = self._singles[kind] = singles_of(kind, self.own)
        return singles.get(id(value), "")

    def _form(self, value: Any, kind: type, base: type, parts: Callable[[Any], Any]) -> None:
        self.out.append(b"f")
        self.write(kind)
        with self.held(base.__module__):
            self.write(parts(value))
        if kind is not base:
            self.write(attributes_of(value, self.own))

    def _state(self, value: Any, kind: type) -> None:
        """Write an object's class, and the state that pickle would store."""
        exception = isinstance(value, BaseException)
        # Some packages change how all exceptions are pickled.
        registered = None if exception else copyreg.dispatch_table.get(kind)
        reduced = registered(value) if registered else value.__reduce_ex__(4)
        if exception and reduced[2:] == ({},):
            reduced = reduced[:2]  # reading `__dict__` has made an empty one
        if isinstance(reduced, str):
            self.out.append(tagged(b"g", f"{getattr(value, '__module__', '')}.{reduced}"))
            self.write(kind)
            self.write(getattr(value, "__dict__", None))
            return
        call, args, state, items, pairs = (*reduced, None, None, None)[:5]
        self.out.append(b"o")
        self.write(kind)
        self.write(call)
        if isinstance(value, (set, frozenset)):
            self._unordered(b"S", value)
        else:
            self.write(args)
        if isinstance(state, dict):
            state = undescribed(state)
        elif not pickles_itself(kind, self.own):
            state = state, attributes_of(value, self.own)
        self.write(state)
        self._sequence(b"l", list(items or ()))
        self._mapping(list(pairs or ()))


_NODES = (Pick, Nested)
