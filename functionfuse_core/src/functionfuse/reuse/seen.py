"""A look at code and all that it refers to, to be compared later or in another process.

A run looks at code when it plans, and compares before each call. A worker imports code itself. It
may find an older copy of a module, another setting or a filled cache. So before it first calls a
function, it compares its own look with the driver's (see `workers`).
"""

from __future__ import annotations

import importlib
import operator
import re
import sys
from collections.abc import Callable, Collection, Mapping
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import FingerprintError
from ..serializers.content import Source
from ..serializers.script import module_name
from .bytecode import IMPORTED
from .literals import literal_stream
from .project import top_level, version_of
from .values import Writer, digest_of

__all__ = ["UNKNOWN", "Seen", "Subject", "forget", "look_at", "named_code", "untold"]

UNKNOWN = "what its code refers to"


class Subject(NamedTuple):
    """The settings for a look at some code, the same in the driver and in a worker.

    Attributes:
        label: the name of the code, if it has one.
        own, ignore, home: as for `Writer`.
        packages: names of packages whose version counts.
        version: the version that counts instead of the code; None if the code counts.
    """

    label: str = ""
    own: frozenset[str] = frozenset()
    ignore: tuple[str, ...] = ()
    home: str = ""
    packages: tuple[str, ...] = ()
    version: str | None = None

    def look(self, code: Any, there: Mapping[str, str] = MappingProxyType({})) -> Seen:
        """Look at some code and all that it refers to now. Raises FingerprintError.

        Args:
            there: `Seen.codes` of the driver, for packages that the worker doesn't have.
        """
        writer = Writer(own=self.own, ignore=self.ignore, home=self.home)
        versions = {
            name: version_of(name) or there.get(f"package {name}", "") for name in self.packages
        }
        writer.write(versions)
        if self.version is None:
            # It may be an object, such as a decorator that counts its calls.
            writer.variable(f"the state of {self.label!r}", repeat(code).__next__)
        else:
            writer.write(("version", self.version))
            writer.codes["version"] = self.version
        digest = writer.digest()
        writer.codes.update({f"package {name}": version for name, version in versions.items()})
        names = Seen._fields[1:]
        return Seen(digest, *[getattr(writer, name) for name in names])


class Seen(NamedTuple):
    """The result of a look at some code; for all attributes but the first see `Stream`.

    Attributes:
        digest: of the code and of all that it refers to.
    """

    digest: bytes
    codes: dict[str, str]
    variables: dict[str, str]
    constants: dict[str, str]
    changeable: dict[str, str]
    fixed: list[tuple[str, Callable[[], Any], Any]]
    packages: set[str]
    ignored: set[str]
    inspected: bool
    files: list[Source]

    def changed(self, again: Callable[[], Seen]) -> str:
        """Return the first difference from the state of this look, as text; "" for none.

        Args:
            again: looks at the same code once more.
        """
        for description, look, value in self.fixed:
            now = look()
            if now is not value and not _same(now, value):
                return description
        if self.changeable:
            try:
                other = again()
            except FingerprintError as error:
                return untold(error)
            for description, digest in self.changeable.items():
                if other.changeable.get(description) != digest:
                    return description
            if other.digest != self.digest:  # a variable has other code now
                return UNKNOWN
        return ""


def untold(error: FingerprintError) -> str:
    """Return the global that has no digest any more, as text; else `UNKNOWN`."""
    forget(error)
    found = re.search(r"global '[^']+'", str(error))
    return found.group() if found else UNKNOWN


def forget(error: BaseException) -> None:
    """Drop the traceback of an error: its frames hold values that a run wants to release."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def _same(now: Any, before: Any) -> bool:
    """Return whether a variable of an immutable type has the same value as before.

    It may be another object: a result from a worker can replace the methods of its class.
    """
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    if type(now) is tuple:
        same = map(operator.is_, now, before)
        return len(now) == len(before) and (all(same) or all(map(_same, now, before)))
    stream = literal_stream(now)
    if stream is not None:
        return stream == literal_stream(before)
    try:
        return digest_of(now) == digest_of(before)
    except FingerprintError:
        return False


def look_at(names: Collection[str], own: frozenset[str], *, by_value: bool) -> Seen:
    """Look at classes and functions given by their names, and all they refer to.

    Args:
        names, by_value: see `named_code`.
        own: as for `Writer`; the packages of the names are added.

    Raises FingerprintError, which names them.
    """
    found = tuple(named_code(name, by_value=by_value) for name in names)
    tops = {top_level(name.partition(":")[0]) for name in names}
    try:
        return Subject(own=own | tops).look(found)
    except FingerprintError as error:
        paths = ", ".join(repr(name.partition(":")[2] or name) for name in names)
        raise FingerprintError(f"{paths}: {error}") from error


def named_code(name: str, *, by_value: bool) -> Any:
    """Return the class, function or module of a name; None if it is gone.

    A script's module isn't imported. Raises FingerprintError if it can't be told.

    Args:
        name: "module:qualified name".
        by_value: whether the code is stored with its value, so that nothing is imported.
    """
    module, _, path = name.partition(":")
    if path == IMPORTED:  # a plan can't follow it: the code may be of another script
        raise FingerprintError(f"code that imports {module!r} when it runs")
    found: Any = sys.modules.get(module)
    if module == module_name("__main__"):
        found = sys.modules["__main__"]
    try:
        if found is None and not by_value:
            found = importlib.import_module(module)
        for part in path.split(".") if path else ():
            found = getattr(found, part)
    except (AttributeError, ImportError):
        return None  # then the value can't be loaded either, or is stored with its code
    except Exception as error:
        raise FingerprintError(f"module {module!r} can't be imported: {error!r}") from error
    return found
