"""The stream of bytes that a fingerprint hashes, with notes on code and variables by name.

`values` writes values, `functions` writes code, and `variables` writes the globals that code reads.

1. `code` writes a function, class or module as a number, and appends its body to a queue.
2. `digest` writes the bodies in the order of the queue. A body can add more code to the queue.
3. Each object gets one number, so recursive code ends.
4. `variable` writes a value, and notes its digest by name, so that a later look can name a change.
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
from ..serializers.content import Source
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
    """Typed bytes of values and of the code that they refer to, to be hashed.

    Args:
        own: packages that belong to the project, wherever they are installed.
        ignore: globals that don't count: a `name` in the module `home`, or `module.name`.
        home: the module of the function that the fingerprint is for.
        inspected: whether types and docstrings count, because code can look at them.

    Attributes:
        out: the stream so far.
        codes: name of each function, class and module of the project, to the digest of its body.
        variables: name of each global that code reads, to its value as text if that is short, else
            to a digest.
        changeable: description of each variable that can change in place, to a digest.
        constants: the same for all other variables.
        fixed: for these: description, a function that returns the value, and the value.
        packages: names of the installed packages in the stream.
        ignored: the items of `ignore` that code reads.
        direct: the functions, classes and modules that are in the values themselves.
        files: the file of each `File`, unless it is a stored one.
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
        self.files: list[Source] = []
        self.home = home
        self._ignore = ignore
        self._held = False  # inside an installed package's object, which may look at types
        self._inside = False  # the body of some code is being written
        self._named: list[str] = []  # names of the code that was written
        self._loose = False  # the code is only reached from a variable that can change
        self._numbers: dict[tuple[int, Body], int] = {}
        self._pending: deque[tuple[Body, Any, bool]] = deque()
        self._alive: list[Any] = []  # all written objects, so that no id is reused
        self._streams = [self]  # this one, and those of the items of sets

    @abstractmethod
    def write(self, value: Any) -> None:
        """Write a value. Raises FingerprintError if its state can't be read."""

    @abstractmethod
    def write_types(self, value: Any) -> None:
        """Write types and docstrings of some code."""

    def digest(self) -> bytes:
        """Return the digest of the written values and of their code: 16 bytes.

        Call it once, at the end.
        """
        first = self is self._streams[0]
        try:
            self._write_bodies()
            written = self.out
            if first and self.inspected:
                # Items of sets were written before it was known that types count.
                written = written + sorted(stream.digest() for stream in self._streams[1:])
            return xxh3_128_digest(b"".join(written))
        finally:
            if first:  # release all written objects
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
        """Write the number of some code; `body` writes the code itself later."""
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
        """Let types and docstrings count, of all code before and after this call."""
        if not self.inspected:
            for stream in self._streams:
                stream.inspected = True
                for value in stream._alive[:]:
                    stream.code(value, _types)

    def variable(self, description: str, look: Callable[[], Any]) -> None:
        """Write a variable, and note it, because it can change during a run.

        Args:
            description: names the variable, as text.
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
            self.fixed.append((description, look, value))
        stream, names = b"".join(self.out[start:]), "".join(self._named[named:]).encode()
        if changes or loose:
            _note(self.changeable, description, stream + names)
            return
        # The number of code can differ between processes, so the outline is noted instead.
        _note(self.constants, description, repr(outline(value)).encode())

    def describe(self, name: str, does: bytes) -> None:
        """Note the name of some code, and the bytes of its body."""
        _note(self.codes, name, does)

    def made_of(self, name: str, plain: Any, fields: bytes) -> None:
        """Note the plain data of a class, and the stream of its fields and other special data."""
        noted = self.changeable if self._loose else self.constants
        _note(noted, f"class {name!r}", repr(plain).encode())
        _note(noted, f"the fields of {name!r}", fields)

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Write the contents of a package's object or function inside this block."""
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
        """Return whether a global doesn't count, and note that."""
        for name in (f"{module}.{path}", path if module == self.home else ""):
            if name and name in self._ignore:
                self.ignored.add(name)
                return True
        return False


def _note(into: dict[str, str], name: str, stream: bytes) -> None:
    """Note a digest under a name that several objects can have, such as a lambda's."""
    into[name] = xxh3_64_hexdigest(into.get(name, "").encode() + stream)


def _types(stream: Stream, value: Any) -> None:
    stream.write_types(value)


def is_code(kind: type) -> bool:
    """Return whether objects of a type are code, or wrap code."""
    return issubclass(kind, _CODE)


def can_change(value: Any) -> bool:
    """Return whether a variable's value may change in place during a run."""
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
    """Return a description of a constant with the same text in each process."""
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
