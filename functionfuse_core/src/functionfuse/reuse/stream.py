"""The stream of a fingerprint, and all that is noted of it: code and variables by name.

`values` writes values into it, `functions` and `variables` what code does and reads.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from datetime import date, time, timedelta
from enum import Enum
from functools import cached_property, lru_cache, partial
from numbers import Number
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from xxhash import xxh3_64_hexdigest, xxh3_128_digest

from ..errors import FingerprintError
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..serializers.script import name_in_script
from .literals import LITERAL_TYPES, literal_stream, tagged
from .project import is_own, top_level

__all__ = ["Body", "Stream", "can_change", "is_code", "outline"]

Body = Callable[["Stream", Any], None]

_CODE = (
    *(FunctionType, type, ModuleType, BuiltinFunctionType, MethodType, staticmethod, classmethod),
    *(property, cached_property, WorkflowFunction, WorkflowClass),
    *(WrapperDescriptorType, MethodDescriptorType, GetSetDescriptorType, MemberDescriptorType),
    *(ClassMethodDescriptorType, getattr(collections, "_tuplegetter", property)),
)
_CONSTANT = (Enum, Number, date, time, timedelta, type(lru_cache(len)))
_SENTINELS = {object, type(MISSING), type(getattr(dataclasses, "_HAS_DEFAULT_FACTORY", None))}


class Stream(ABC):
    """Typed bytes of values and of the code that they lead to, to be hashed.

    Args:
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
        self.home = home
        self._ignore = ignore
        self._held = False  # by an installed package, which may look at types
        self._inside = False  # of the body of some code
        self._named: list[str] = []  # the code that was met
        self._loose = False  # only a variable that can change leads there
        self._numbers: dict[tuple[int, Body], int] = {}
        self._pending: deque[tuple[Body, Any, bool]] = deque()
        self._alive: list[Any] = []  # what was met, so that no id is given again
        self._streams = [self]  # this one, and those of the items of sets

    @abstractmethod
    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError where it can't be told from another."""

    @abstractmethod
    def write_types(self, value: Any) -> None:
        """Write types and docstrings of some code."""

    def digest(self) -> bytes:
        """Return the digest of all that was written and of the code that it leads to: 16 bytes.

        Called once, in the end.
        """
        first = self is self._streams[0]
        try:
            self._write_bodies()
            written = self.out
            if first and self.inspected:
                # What was seen of a set's items before it was known that types count.
                written = written + sorted(stream.digest() for stream in self._streams[1:])
            return xxh3_128_digest(b"".join(written))
        finally:
            if first:  # it is done: nothing that was met is held any longer
                for stream in self._streams:
                    stream._alive.clear()
                self._streams.clear()

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
            self._alive.append(value)
            self._pending.append((body, value, self._loose))
            if not self._inside:
                self.direct.append(value)
            if self.inspected:
                self.code(value, _types)
        self._named.append(str(getattr(value, "__qualname__", "")))
        self.out.append(b"=%d;" % number)
        if self._held and body is not _types:
            self.code(value, _types)

    def named(self, name: str) -> None:
        """Write code of an installed package: its name."""
        self.packages.add(top_level(name))
        self.out.append(tagged(b"G", name))

    def inspect(self) -> None:
        """Let types and docstrings count, of all code that was met and will be."""
        if not self.inspected:
            for stream in self._streams:
                stream.inspected = True
                for value in stream._alive[:]:
                    stream.code(value, _types)

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


def _note(into: dict[str, str], name: str, stream: bytes) -> None:
    """Note a digest under a name that others can have too, such as that of a lambda."""
    into[name] = xxh3_64_hexdigest(into.get(name, "").encode() + stream)


def _types(stream: Stream, value: Any) -> None:
    stream.write_types(value)


def is_code(kind: type) -> bool:
    """Tell whether objects of a type are code, or stand for some."""
    return issubclass(kind, _CODE)


def can_change(value: Any) -> bool:
    """Tell whether a variable's value may change in place while a run goes on."""
    kind = type(value)
    if kind in LITERAL_TYPES or kind in _SENTINELS or isinstance(value, _CONSTANT):
        return False
    if kind in (tuple, frozenset):
        return any(map(can_change, value))
    if kind is partial:
        return any(map(can_change, (value.func, *value.args, *value.keywords.values())))
    if kind in (BuiltinFunctionType, MethodType, MethodWrapperType):
        bound = value.__self__
        return not isinstance(bound, (ModuleType, type, None.__class__)) and can_change(bound)
    return not is_code(kind)


def outline(value: Any) -> Any:
    """Return what a constant is, as far as its text is the same in each process."""
    if isinstance(value, partial):
        return "partial", *map(outline, (value.func, *value.args, *value.keywords.items()))
    if isinstance(value, Enum):
        return type(value).__qualname__, value.name
    if type(value) is tuple:
        return tuple(map(outline, value))
    if type(value) is frozenset:
        return sorted(repr(outline(item)) for item in value)
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return name_in_script(value) if isinstance(value, type) else name
    stream = literal_stream(value)  # a huge number has no text
    if stream is not None:
        return stream
    return value if isinstance(value, _CONSTANT) else type(value).__name__
