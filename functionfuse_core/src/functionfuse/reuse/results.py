"""Digests of stored results: of the value, and of the code in it as it is now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import FunctionFuseError
from .identity import Identities, combined
from .project import version_of

__all__ = ["Header", "Held", "Info", "Key", "Results", "Summary"]


class Header(Protocol):
    """The header of a stored result; see `functionfuse.storage.header.TaskInfo`."""

    digest: str
    value: str
    key: str
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
    """

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._keys: dict[str, Key] = {}

    def counts_as(self, info: Header | Summary) -> bytes:
        """Return the digest of a stored result: of its value and of the code in it now.

        Raises:
            FingerprintError: the code has no digest.
        """
        value = _value_of(info)
        if not getattr(info, "key", ""):
            return bytes.fromhex(value)
        key = self.key(info)
        return self.as_recorded(value, value, key.own, key.by_value)

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
        return combined(bytes.fromhex(value), [self._identities.held(own, by_value).digest])

    def held(self, info: Header | Info) -> Held:
        """Return a result's value digest, `own` and `by_value`; () if no code is in it."""
        if info is None or isinstance(info, FunctionFuseError):
            return ()
        key = self.key(info)
        return (_value_of(info), list(key.own), key.by_value) if key.own else ()

    def key(self, info: Header | Summary) -> Key:
        """Return the properties that a result's key stands for."""
        key = getattr(info, "key", "")
        if not key:
            return _NO_KEY
        found = self._keys.get(key)
        if found is None:
            whole: Any = getattr(info, "info", info)
            packages = whole.fingerprint.get("packages", {})
            by_value = getattr(whole, "by_value", False)
            found = self._keys[key] = Key(tuple(whole.own), packages, by_value)
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


def _value_of(info: Header | Summary) -> str:
    value: str = getattr(info, "value", "") or info.digest
    return value
