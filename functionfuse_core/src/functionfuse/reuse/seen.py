"""What code reaches, as it was seen at one time, and what of it is different later or elsewhere.

A run looks at code when it plans, and compares before each call. A worker imports code by itself,
and may find an older copy of a module, another setting or a filled cache: before it calls a
function for the first time, it compares what it has with what the driver saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import FingerprintError
from .literals import literal_stream
from .project import version_of
from .values import Writer, digest_of

__all__ = ["UNKNOWN", "Seen", "Subject", "forget", "untold"]

UNKNOWN = "what its code refers to"


class Subject(NamedTuple):
    """How some code is looked at: in the driver, and in a worker alike.

    Attributes:
        label: the name of the code, if it has one.
        own, ignore, home: as for `Writer`.
        packages: those whose version counts.
        version: what stands for the code; None: nothing does.
    """

    label: str = ""
    own: frozenset[str] = frozenset()
    ignore: tuple[str, ...] = ()
    home: str = ""
    packages: tuple[str, ...] = ()
    version: str | None = None

    def look(self, code: Any, there: Mapping[str, str] = MappingProxyType({})) -> Seen:
        """Return what some code is and reaches now. Raises FingerprintError.

        Args:
            there: `Seen.codes` of the driver: a worker need not have each package that counts.
        """
        writer = Writer(own=self.own, ignore=self.ignore, home=self.home)
        versions = {
            name: version_of(name) or there.get(f"package {name}", "") for name in self.packages
        }
        writer.write(versions)
        if self.version is None:
            # It may be an object, such as a decorator that counts its calls.
            writer.variable(f"the state of {self.label!r}", lambda: code)
        else:
            writer.write(("version", self.version))
            writer.codes["version"] = self.version
        digest = writer.digest()
        writer.codes.update({f"package {name}": version for name, version in versions.items()})
        names = Seen._fields[1:]
        return Seen(digest, *[getattr(writer, name) for name in names])


class Seen(NamedTuple):
    """What some code is and reaches; see `Writer` for all but the first.

    Attributes:
        digest: of all of it.
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

    def changed(self, again: Callable[[], Seen]) -> str:
        """Return the first thing that is not as it was seen, in words; "" if all is.

        Args:
            again: looks at the same code once more.
        """
        for what, look, value in self.fixed:
            if not _same(look(), value):
                return what
        if self.changeable:
            try:
                now = again()
            except FingerprintError as error:
                return untold(error)
            for what, digest in self.changeable.items():
                if now.changeable.get(what) != digest:
                    return what
            if now.digest != self.digest:  # a variable holds other code than it did
                return UNKNOWN
        return ""


def untold(error: FingerprintError) -> str:
    """Return what can't be told from another any more, in words."""
    forget(error)
    found = re.search(r"global '[^']+'", str(error))
    return found.group() if found else UNKNOWN


def forget(error: BaseException) -> None:
    """Let go of where an error was raised: the frames hold values that a run wants to release."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def _same(now: Any, before: Any) -> bool:
    """Tell whether a variable of a type that doesn't change in place is what it was.

    It may be another object: what comes back from a worker gives its class its methods anew.
    """
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    stream = literal_stream(now)
    if stream is not None:
        return stream == literal_stream(before)
    if type(now) is tuple:
        return len(now) == len(before) and all(map(_same, now, before))
    try:
        return digest_of(now) == digest_of(before)
    except FingerprintError:
        return False
