"""Digests and ages of stored results; a digest is of the value, and of the code in it now."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from math import inf
from time import time
from typing import Any, NamedTuple, Protocol

from xxhash import xxh3_128_digest

from ..errors import FingerprintError, FunctionFuseError, OriginalResultError
from ..graph.settings import shown
from ..serializers.content import Source
from .identity import Identities
from .project import version_of
from .recorded import packages_in

__all__ = [
    "NO_USE",
    "Ages",
    "Done",
    "Earlier",
    "Header",
    "Held",
    "Info",
    "Key",
    "Results",
    "Stored",
    "Summary",
    "created_at",
    "whole",
    "why_no_use",
]

NO_USE = "stored result is of no use: "  # the text of an error follows


class Header(Protocol):
    """The header of a stored result; see `functionfuse.storage.header.TaskInfo`."""

    digest: str
    value: str
    key: str
    created: str
    own: Sequence[str]
    by_value: bool
    fingerprint: Mapping[str, Any]
    size: int


class Summary(Protocol):
    """The part of a header that a plan needs; `call` is the digest in its fingerprint."""

    digest: str
    value: str
    key: str
    call: str
    info: Header
    size: int


class Earlier(Protocol):
    """The earlier results of a workflow; see `functionfuse.storage.earlier.EarlierResults`."""

    batches: bool

    def has(self, task: str, /) -> bool: ...
    def infos(self, sought: Sequence[tuple[str, str]], /) -> Sequence[Summary | None]: ...


class Done(NamedTuple):
    """A node that the run has computed or reused already, when its graph was smaller.

    Attributes:
        stored: the header of its stored result, or True from a storage without headers; None if it
            is not stored.
        call, digest: of the call and of the result; None if unknown.
        reason: why it was computed.
        changed: the variable that changed while it was computed, as text; "" for none.
        tainted: whether one changed, or it was computed from the result of such a node.
        files: those in its result, if that isn't stored.
    """

    stored: Any = None
    call: bytes | None = None
    digest: bytes | None = None
    reason: str = ""
    changed: str = ""
    tainted: bool = False
    files: Sequence[Source] = ()


Stored = Header | Summary  # as a storage returns it from a save, or for a plan
# None: nothing is stored. An error: the stored result can't be used.
Info = Summary | FunctionFuseError | None
# A result's value, the names of the code in it, and whether code of a script is in it.
Held = tuple[str, list[str], bool] | tuple[()]


class Key(NamedTuple):
    """The common properties of all results with the same key in their headers.

    Attributes:
        own: the project's classes and functions in the value, "module:qualified name".
        packages: versions of the packages that the code uses.
        by_value: whether the value contains code of a script.
    """

    own: tuple[str, ...]
    packages: Mapping[str, str]
    by_value: bool


_NO_KEY = Key((), {}, by_value=False)


class Results:
    """Compute the digests of stored results from their `digest`, `value` and `key`.

    One header is parsed for each key.

    Attributes:
        coded: whether any result has code in it.
        unclear: by index of a node, why the code in its result has no digest.
    """

    def __init__(self, identities: Identities, infos: Iterable[Info]) -> None:
        self.coded = any(map(getattr, infos, repeat("key"), repeat("")))
        self.unclear: dict[int, str] = {}
        self._identities = identities
        self._keys: dict[str, Key] = {}

    def counts_as(self, index: int, info: Stored) -> bytes:
        """Return the digest of a node's stored result: of its value and of the code in it now.

        If the code has no digest, it is a random one, equal to no other.
        """
        value = getattr(info, "value", "") or info.digest
        if not getattr(info, "key", ""):
            return bytes.fromhex(value)
        self.coded, key = True, self.key(info)
        try:
            return self.as_recorded(value, value, key.own, key.by_value)
        except FingerprintError as error:
            self.unclear[index] = str(error)
            return os.urandom(16)

    def as_recorded(
        self, digest: str, value: str = "", own: Sequence[str] = (), by_value: bool = False
    ) -> bytes:
        """Return the digest of a recorded result, with the code in it as it is now.

        Args:
            digest: the digest of the result when it was recorded.
            value, own, by_value: as from `held`, for a result with code in it.
        """
        if not own:
            return bytes.fromhex(digest)
        code = self._identities.held(own, by_value).digest
        return xxh3_128_digest(bytes.fromhex(value) + code)

    def held(self, info: Stored | Info) -> Held:
        """Return a result's value digest, `own` and `by_value`; () if no code is in it."""
        if info is None or isinstance(info, FunctionFuseError):
            return ()
        key = self.key(info)
        value = getattr(info, "value", "") or info.digest
        return (value, list(key.own), key.by_value) if key.own else ()

    def key(self, info: Stored) -> Key:
        """Return the properties that a result's key stands for."""
        key = getattr(info, "key", "")
        if not key:
            return _NO_KEY
        found = self._keys.get(key)
        if found is None:
            header: Any = whole(info)
            if header is None:
                return _NO_KEY  # it can't be read, either
            packages = packages_in(header.fingerprint)
            by_value = getattr(header, "by_value", False)
            found = self._keys[key] = Key(tuple(header.own), packages, by_value)
        return found

    def notes(self, reused: Iterable[Summary]) -> list[str]:
        """Return hints: packages whose version has changed since the results were made."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for info in reused:
            for name, version in self.key(info).packages.items():
                now = version_of(name)
                if now not in ("", version):
                    counts[name, version, now] += 1
        return [
            f"made with {name} {version}, now {now}: {count} stored result(s);"
            f" packages=[{name!r}] counts it"
            for (name, version, now), count in counts.items()
        ]


class Ages:
    """The ages of stored results, at the time when this is made.

    Args:
        limits: by index of a node, the seconds after which its results aren't reused.
        before: by index of a method call, the index of the earlier call on its object. The results
            of both are of the age of the object, so the limit of the earlier call holds for both.
        infos: for each node its latest stored result.

    Attributes:
        limits: as given, with those of the earlier calls.
        expired: by index of a node without a fresh latest result: that it is too old, as text.
    """

    def __init__(
        self, limits: Mapping[int, float], before: Mapping[int, int], infos: Sequence[Info]
    ) -> None:
        self.limits = dict(limits)
        self._now = time()
        for index, earlier in before.items() if limits else ():
            if earlier in self.limits:
                own = self.limits.get(index, inf)
                self.limits[index] = min(own, self.limits[earlier])
        latest = {index: self.too_old(index, infos[index]) for index in self.limits}
        self.expired = {index: reason for index, reason in latest.items() if reason}

    def since(self, index: int) -> float:
        """Return the time, in seconds since 1970, from which on the results of a node count."""
        return self._now - self.limits.get(index, inf)

    def too_old(self, index: int, info: Info) -> str:
        """Return that a node's stored result is too old, as text; "" if it isn't."""
        if index not in self.limits or created_at(info) >= self.since(index):
            return ""
        return f"stored result is older than {shown(self.limits[index])}"


def whole(info: Any) -> Any:
    """Return all fields of a header, which a summary finds on demand; None if there are none.

    So it is without a result, for one of no use, and if they are not as specified.
    """
    try:
        header = getattr(info, "info", info)
    except FunctionFuseError:
        return None
    return header if hasattr(header, "digest") else None


def why_no_use(info: Info) -> str:
    """Return why a stored result can't be used, as text; "" if it can, or there is none."""
    if not isinstance(info, FunctionFuseError):
        return ""
    return str(info) if isinstance(info, OriginalResultError) else f"{NO_USE}{info}"


def created_at(info: Info) -> float:
    """Return when a result was stored, in seconds since 1970; -inf if no header tells."""
    header = whole(info)
    if header is None:
        return -inf
    try:
        moment = datetime.fromisoformat(header.created)
    except ValueError:
        return -inf
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
