"""Values and code as digests: equal for what is equal, different for what differs.

A value is written as a stream of typed bytes, each part with its length, that is hashed with
XXH3-128. Code in it is written as a number, and what the code does follows after the values, in
the order in which it was met (see `functions`). So code that refers to itself has an end. A part
that is long is hashed by itself, so an object that is met again costs nothing, and it makes no
difference whether two equal values are one object. `docs/reuse.md` says what counts.
"""

from __future__ import annotations

import copyreg
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from xxhash import xxh3_64_hexdigest, xxh3_128_digest

from ..errors import FingerprintError, GraphError
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
)
from .functions import write_code, write_types
from .literals import LITERAL_TYPES, literal_of, pickled, tagged
from .project import is_own, name_anywhere, name_in_package, singles_of, top_level
from .variables import can_change, outline

__all__ = ["Writer", "digest_of"]

_AT_ONCE = 32  # items; a longer list of literals is pickled, which is as exact
_LONG = 64  # bytes of a part that stands in the stream itself; of a longer one, its digest does
_VISITS = 32  # times that an object which is inside itself is written in full

Body = Callable[["Writer", Any], None]


def digest_of(value: Any, own: frozenset[str] = frozenset()) -> bytes:
    """Return the digest of a value: 16 bytes.

    Args:
        own: packages that belong to the project, wherever they are installed.

    Raises:
        FingerprintError: the value has no state that could be told, such as an open file.
    """
    writer = Writer(own=own)
    writer.write(value)
    return writer.digest()


class Writer:
    """Writes values and the code that they lead to.

    Args:
        place: gives the number of a node, -1 for one that must not be there; without it, no node
            may.
        own: packages that belong to the project, wherever they are installed.
        ignore: globals that don't count: a `name` in the module `home`, or `module.name`.
        home: the module of the function that is asked about.
        inspected: whether types and docstrings count, as code that was met can look at them.

    Attributes:
        out: the stream so far.
        codes: of each function, class and module of the project that was met: its name, and a
            digest of what it does itself.
        variables: of each global that is read: its name, and the value where it is short, else a
            digest of it.
        changeable: of each variable that can change in place: what it is, in words, and a digest.
        constants: the same of each other one.
        fixed: of these: what it is, a function that looks at it, and its value.
        packages: names of the installed packages that were met.
        ignored: those of `ignore` that were met.
        direct: the functions, classes and modules that the values themselves hold.
    """

    def __init__(
        self,
        place: Callable[[Node], int] | None = None,
        *,
        own: frozenset[str] = frozenset(),
        ignore: Collection[str] = (),
        home: str = "",
        inspected: bool = False,
    ) -> None:
        self.own = own
        self.inspected = inspected
        self.out: list[bytes] = []
        self.codes: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.changeable: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.fixed: list[tuple[str, Callable[[], Any], Any]] = []
        self.packages: set[str] = set()
        self.ignored: set[str] = set()
        self.direct: list[Any] = []
        self._place = place
        self._ignore = ignore
        self.home = home
        self._held = False  # by an installed package, which may look at types
        self._inside = False  # of the body of some code
        self._named: list[str] = []  # the code that was met
        self._loose = False  # only a variable that can change leads there
        self._numbers: dict[tuple[int, Body], int] = {}
        self._pending: deque[tuple[Body, Any, bool]] = deque()
        self._open: dict[int, int] = {}  # what is being written: id to depth
        self._lowest = sys.maxsize  # depth of the outermost of those that were met inside
        self._done: dict[tuple[int, bool], bytes] = {}  # what was written of an object
        self._visits: dict[int, tuple[int, int]] = {}  # id to order of discovery, and times
        self._kept: list[Any] = []  # what was met, so that no id is given again
        self._writers = [self]  # this one, and those of the items of sets
        self._singles: dict[type, dict[int, str]] = {}

    def digest(self) -> bytes:
        """Return the digest of all that was written and of the code that it leads to: 16 bytes.

        Called once, in the end.
        """
        first = self is self._writers[0]
        try:
            self._write_bodies()
            written = self.out
            if first and self.inspected:
                # What was seen of a set's items before it was known that types count.
                written = written + sorted(writer.digest() for writer in self._writers[1:])
            return xxh3_128_digest(b"".join(written))
        finally:
            if first:  # it is done: nothing that was met is held any longer
                for writer in self._writers:
                    writer._kept.clear()
                self._writers.clear()

    def _write_bodies(self) -> None:
        self._inside = True
        while self._pending:
            body, value, self._loose = self._pending.popleft()
            try:
                body(self, value)
            except FingerprintError as error:
                name = getattr(value, "__qualname__", "")
                if not name or error.args[0].startswith(("global ", "in ")):
                    raise
                raise FingerprintError(f"in {name!r}: {error}") from error
            except Exception as error:
                name = getattr(value, "__qualname__", "")
                raise FingerprintError(f"{name!r} can't be told from another ({error})") from error

    # For code: see `functions`.

    def code(self, value: Any, body: Body) -> None:
        """Write the number of some code; what `body` writes of it follows later."""
        key = id(value), body
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._kept.append(value)
            self._pending.append((body, value, self._loose))
            if not self._inside:
                self.direct.append(value)
            if self.inspected:
                self.code(value, write_types)
        self._named.append(str(getattr(value, "__qualname__", "")))
        self.out.append(b"=%d;" % number)
        if self._held and body is not write_types:
            self.code(value, write_types)

    def named(self, name: str) -> None:
        """Write code of an installed package: its name."""
        self.packages.add(top_level(name))
        self.out.append(tagged(b"G", name))

    def inspect(self) -> None:
        """Let types and docstrings count, of all code that was met and will be."""
        if not self.inspected:
            for writer in self._writers:
                writer.inspected = True
                for value in writer._kept[:]:
                    writer.code(value, write_types)

    def variable(self, what: str, look: Callable[[], Any]) -> None:
        """Write a variable, and note it, as it can change while a run goes on.

        Args:
            what: which variable it is, in words.
            look: returns its value.
        """
        value, start, loose = look(), len(self.out), self._loose
        named = len(self._named)
        changes = can_change(value)
        self._loose = loose or changes
        try:
            self.write(value)
        finally:
            self._loose = loose
        if not changes:
            self.fixed.append((what, look, value))
        stream, names = b"".join(self.out[start:]), "".join(self._named[named:]).encode()
        if changes or loose:
            _note(self.changeable, what, stream + names)
            return
        # Code is written by a number, which another process may not give it.
        _note(self.constants, what, repr(outline(value)).encode())

    def describe(self, name: str, does: bytes) -> None:
        """Note the name of some code, and what it does itself."""
        _note(self.codes, name, does)

    def made_of(self, name: str, plain: Any, fields: bytes) -> None:
        """Note of a class what is plain, and the stream of its fields and other special data."""
        noted = self.changeable if self._loose else self.constants
        _note(noted, f"class {name!r}", repr(plain).encode())
        _note(noted, f"the fields of {name!r}", fields)

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Write what a package's object or function holds."""
        before = self._held
        top = top_level(holder)
        looks = top not in sys.stdlib_module_names and top != "functionfuse"
        if looks and not is_own(holder, self.own):
            self._held = True
        try:
            yield
        finally:
            self._held = before

    def ignores(self, module: str, path: str) -> bool:
        """Tell whether a global doesn't count."""
        for name in (f"{module}.{path}", path if module == self.home else ""):
            if name and name in self._ignore:
                self.ignored.add(name)
                return True
        return False

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
        self._kept.append(value)
        outer, lowest = self.out, self._lowest
        self.out, self._lowest, self._open[key] = [], sys.maxsize, depth
        try:
            self._compound(value, kind)
            stream = b"".join(self.out)
        except (FingerprintError, GraphError):
            raise
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
        else:  # what surrounds it is inside it, so elsewhere it may be written otherwise
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
        elif kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "memmap"):
            write_array(self, value)
        elif not write_code(self, value, kind):
            self._object(value, kind)

    # Nodes: where they stand, and by number which of the parents they are.

    def _node(self, value: Any) -> None:
        if isinstance(value, (Node, Pick)):
            place = -1 if self._place is None else self._place(value.source)
            if place < 0:
                raise GraphError(
                    f"{value!r} stands inside an object: nodes may stand in lists, tuples, dicts"
                    " and sets only, as arguments of calls"
                )
            self.out.append(b"n%d;" % place)
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
                # What one item makes known must not be told by another: which comes first is by
                # chance.
                writer = self._beside()
                writer.write(item)
                written.append(b"#" + writer.digest())
        self.out.append(b"%s%d[%s]" % (tag, len(written), b"".join(sorted(written))))

    def _beside(self) -> Writer:
        """Return a writer that notes what it meets where this one does."""
        writer = Writer(self._place, own=self.own, ignore=self._ignore, home=self.home)
        for name in ("codes", "variables", "changeable", "constants", "fixed", "packages"):
            setattr(writer, name, getattr(self, name))
        writer.direct, writer._inside, writer._loose = self.direct, self._inside, self._loose
        writer.ignored, writer.inspected, writer._held = self.ignored, self.inspected, self._held
        writer._singles, writer._writers = self._singles, self._writers
        writer._named = self._named
        self._writers.append(writer)
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
                self._form(value, kind, *form)
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
        """Write an object's class, and the state that pickle stores."""
        exception = isinstance(value, BaseException)
        # Some packages change how all exceptions are pickled.
        registered = None if exception else copyreg.dispatch_table.get(kind)
        reduced = registered(value) if registered else value.__reduce_ex__(4)
        if exception and reduced[2:] == ({},):
            reduced = reduced[:2]  # somebody has only looked at its attributes
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


def _note(into: dict[str, str], name: str, stream: bytes) -> None:
    """Note a digest under a name that others can have too, such as that of a lambda."""
    into[name] = xxh3_64_hexdigest(into.get(name, "").encode() + stream)
