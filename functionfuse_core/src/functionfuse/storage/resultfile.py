"""Pack a result into bytes, and check bytes: header, pickle and aligned buffers, with digests.

The bytes are specified in `docs/format.md`. The header has the digests of pickle and buffers; the
prefix has the header's digest, and its signature if there is a key. Nothing is unpickled before
they are checked. Packing joins neither the pieces of a big pickle nor the buffers, and reading
doesn't copy them. The digests of a big result are computed in a thread while the store writes
pickle and buffers; then the header is written.
"""

from __future__ import annotations

import functools
import json
import platform
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_64_hexdigest, xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    UntrustedResultError,
)
from .blobstore import Buffer, FirstPartLast
from .header import (
    ALIGNMENT,
    DIGEST_AT,
    HEADER_AT,
    SIGNATURE_AT,
    VERSION,
    SideData,
    TaskInfo,
    encoded,
    header_end,
    is_strong,
    parsed,
    sections_of,
)
from .keys import unique
from .named import versions_of
from .pickling import Pickled
from .signing import Key, section_hexdigest

__all__ = [
    "PADDING",
    "VERSION",
    "DigestedAside",
    "Origin",
    "aligned",
    "check",
    "pack",
    "packed",
    "trusted",
    "unchecked",
]


PYTHON = platform.python_version()
_HOST = platform.node()
_JOINED_UP_TO = 64 << 10  # bytes of pickle
_DIGESTED_ASIDE_FROM = 16 << 20  # bytes; below, a thread costs more than it saves
_is_fresh = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").match  # from generate_name
_NO_NAME = bytes(36)
_TO_COME = "0" * 32  # instead of a digest that is not computed yet
_STRONG_TO_COME = "0" * 64
_CURE = "`storage.sign()` or `functionfuse sign` signs what is there"
PADDING = [bytes(count) for count in range(ALIGNMENT)]


class Origin(NamedTuple):
    """All that is known of a result before it is pickled; see `TaskInfo`."""

    workflow: str
    task: str
    function: str = ""
    type: str = ""
    seconds: float | None = None
    fingerprint: Mapping[str, Any] | None = None
    run: str = ""


def pack(
    pickled: Pickled,
    workflow: str,
    task: str,
    *,
    side_data: Sequence[SideData] = (),
    key: Key | None = None,
    **known: Any,
) -> tuple[list[Buffer] | DigestedAside, TaskInfo]:
    """Return the same as `packed`; the other fields of the `Origin` are arguments."""
    return packed(pickled, Origin(workflow, task, **known), side_data=side_data, key=key)


def packed(
    pickled: Pickled,
    origin: Origin,
    *,
    side_data: Sequence[SideData] = (),
    described: tuple[Sequence[str], str] = ((), ""),
    key: Key | None = None,
) -> tuple[list[Buffer] | DigestedAside, TaskInfo]:
    """Return a result's bytes as parts to be written in order, and the fields of its header.

    The value's own buffers are among the parts, so they must not change until they are written. So
    are its big `bytes`, which can't change. If the parts are `DigestedAside`, the fields have no
    digests yet: see `DigestedAside.info`.

    Args:
        described: `own` and `value` of `TaskInfo`.
        key: signs the header, and through its digests all bytes.
    """
    frames, views, by_value, named, _, read = pickled
    workflow, task, function, kind, seconds, fingerprint, run = origin
    digest = _TO_COME
    pickle = to_come = _TO_COME if key is None else _STRONG_TO_COME
    pickle_size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
    content_size = pickle_size + sum(map(len, views)) if views else pickle_size
    aside = content_size >= _DIGESTED_ASIDE_FROM
    buffers = [(len(view), to_come) for view in views] if views else []
    if not aside:
        digest, [pickle, *others] = _digests(frames, views, side_data, strong=key is not None)
        if views:
            buffers = [(len(view), other) for view, other in zip(views, others, strict=True)]
    own, value = tuple(described[0]), described[1]
    packages: Any = fingerprint.get("packages") if fingerprint else None
    packages = tuple(packages.items()) if type(packages) is dict else ()
    now = time.time_ns() // 1000
    fields = (
        workflow,
        task,
        function,
        f"{_second(now // 1_000_000)}.{str(now)[-6:]}Z",
        seconds,
        kind,
        digest,
        (pickle_size, pickle),
        buffers,
        tuple(side_data),
        by_value,
        PYTHON,
        versions_of(named.names) if named.names else {},
        _HOST,
        unique(),
        fingerprint or {},
        run,
        own,
        value,
        _key_of(own, packages) if own or packages else "",
    )
    first = encoded(fields, key)
    size = len(first) + pickle_size
    rest = aligned(size, views) if views else []
    if rest:
        size += sum(map(len, rest))
    info = TaskInfo._make((*fields, size, key is not None, read))
    if aside:
        return DigestedAside(info, len(first), [*frames, *rest], pickled, key), info
    if len(frames) == 1 and pickle_size <= _JOINED_UP_TO:
        return [first + frames[0], *rest], info  # one small copy is quicker than one more part
    return [first, *frames, *rest], info


class DigestedAside(FirstPartLast):
    """The parts of a big result, whose digests are computed while pickle and buffers are written.

    Args:
        info: the fields of the header, without the digests.
        first_size: bytes of prefix and header.
        rest: the parts after them.
        pickled: what is digested.
        key: signs the header.
    """

    def __init__(
        self,
        info: TaskInfo,
        first_size: int,
        rest: Sequence[Buffer],
        pickled: Pickled,
        key: Key | None,
    ) -> None:
        super().__init__(first_size, rest)
        self._info, self._key = info, key
        self._digests: list[tuple[str, list[str]]] = []
        self._first = b""
        self._thread = threading.Thread(target=self._digest, args=(pickled.frames, pickled.views))
        try:
            self._thread.start()
        except RuntimeError:  # no more threads can start, for example when the interpreter ends
            self._thread.run()

    def _digest(self, frames: Sequence[bytes], views: Sequence[memoryview]) -> None:
        strong = self._key is not None
        self._digests.append(_digests(frames, views, self._info.side_data, strong=strong))

    def first(self) -> bytes:
        """Wait for the digests, and return prefix and header."""
        if not self._first:
            if self._thread.is_alive():
                self._thread.join()
            [(digest, [own, *others])] = self._digests
            before = self._info
            buffers = [(size, new) for (size, _), new in zip(before.buffers, others, strict=True)]
            pickle = before.pickle[0], own
            self._info = before._replace(digest=digest, pickle=pickle, buffers=buffers)
            self._first = encoded(self._info[:-3], self._key)
        return self._first

    def info(self) -> TaskInfo:
        """Wait for the digests, and return the fields of the header."""
        self.first()
        return self._info


def check(data: Buffer, key: Key | None = None) -> tuple[TaskInfo, list[memoryview]]:
    """Check all digests of a result; return the fields of its header, and pickle and buffers.

    Raises:
        DamagedResultError: the bytes were changed or cut.
        UntrustedResultError: there is a key, and the result is not signed with it.
        NewerFormatError: the result was written by a later version of Function Fuse.
    """
    position = header_end(data)
    if position > len(data):
        raise DamagedResultError(f"the blob is cut within its header, at byte {len(data)}")
    view = memoryview(data)
    info = trusted(bytes(view[:position]), key)
    if info.size != len(data):
        raise DamagedResultError(f"the blob has {len(data)} bytes and not {info.size}")
    contents = []
    for name, start, end, digest in sections_of(info.pickle, info.buffers, position):
        content, gap = view[start:end], view[position:start]
        found = section_hexdigest(content, strong=is_strong(digest))
        if found != digest or (gap and any(gap)):
            raise DamagedResultError(f"{name} (bytes {start} to {end}) is not what was written")
        contents.append(content)
        position = end
    return info, contents


def unchecked(data: Buffer) -> tuple[TaskInfo, list[memoryview]]:
    """Return the same as `check`, for a result that was checked before; checks only the header.

    Raises DamagedResultError, NewerFormatError as `check`.
    """
    position, view = header_end(data), memoryview(data)
    info = parsed(bytes(view[:position]), len(data))
    sections = sections_of(info.pickle, info.buffers, position)
    return info, [view[start:end] for _, start, end, _ in sections]


def aligned(position: int, views: Sequence[memoryview]) -> list[Buffer]:
    """Return buffers with the gaps before them; they follow the byte at a position."""
    parts: list[Buffer] = []
    for view in views:
        if gap := -position % ALIGNMENT:
            parts.append(PADDING[gap])
        parts.append(view)
        position += gap + len(view)
    return parts


def trusted(head: bytes, key: Key | None) -> TaskInfo:
    """Return the fields of a whole prefix and header; if there is a key, check the signature.

    Raises as `check`.
    """
    info = parsed(head, None)
    signature, signed = head[SIGNATURE_AT:HEADER_AT], (head[:DIGEST_AT], head[HEADER_AT:])
    if key is not None and not key.has_signed(signature, *signed):
        if info.signed:
            raise UntrustedResultError(
                "the result is signed with another key, or changed: compare the storage's option"
                f" 'key' with that of its writer. To take over the results of another key, {_CURE}"
            )
        raise UntrustedResultError(
            "the result is not signed, but the storage's option 'key' demands its signature. If you"
            f" trust every byte in the storage, {_CURE}"
        )
    if key is not None and info.side_data and not info.strong:
        raise UntrustedResultError(
            "the result was signed by an older release, whose digests don't protect side data, but"
            f" the storage has a key. If you trust every byte in the storage, {_CURE}"
        )
    return info


def _digests(
    frames: Sequence[bytes],
    views: Sequence[memoryview],
    side_data: Sequence[SideData],
    *,
    strong: bool,
) -> tuple[str, list[str]]:
    """Return the digest of a value, and those of pickle and buffers in its header.

    Args:
        strong: those in the header are of SHA-256. That of the value never is, so it doesn't depend
            on the key.
    """
    if len(frames) == 1:  # in half the time
        digest = xxh3_128_hexdigest(frames[0])
    else:
        digest = section_hexdigest(*frames, strong=False)
    quick = [digest, *map(xxh3_128_hexdigest, views)] if views else [digest]
    if side_data or views:
        digest = _combined(frames, quick, side_data)
    if not strong:
        return digest, quick
    own = section_hexdigest(*frames, strong=True)
    return digest, [own, *(section_hexdigest(view, strong=True) for view in views)]


def _combined(frames: Sequence[bytes], quick: Sequence[str], side_data: Sequence[SideData]) -> str:
    """Return the digest of a value; equal for equal values, despite the fresh side data names."""
    digests = [*quick]
    if side_data:
        names = [name for side in side_data for name, *_ in side.files]
        fresh = [name[:36].encode() for name in names if _is_fresh(name)]
        # No name is in two frames: it is a part of one text.
        digests[0] = section_hexdigest(*(_without(fresh, each) for each in frames), strong=False)
    digests += [digest for side in side_data for _, _, digest in side.files]
    return xxh3_128_hexdigest("".join(digests).encode())


def _without(names: Sequence[bytes], frame: bytes) -> bytes:
    for name in names:
        frame = frame.replace(name, _NO_NAME)
    return frame


@functools.lru_cache(maxsize=1024)
def _key_of(own: tuple[str, ...], packages: tuple[tuple[str, str], ...]) -> str:
    """Return the digest of the names and the versions; see `TaskInfo.key`."""
    names_and_versions = json.dumps([own, dict(packages)], separators=(",", ":"))
    return xxh3_64_hexdigest(names_and_versions.encode())


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
