"""Pack a result into bytes, and check bytes: header, pickle and aligned buffers, with digests.

The bytes are specified in `docs/format.md`. The header has the digests of pickle and buffers; the
prefix has the header's digest, and its signature if there is a key. Nothing is unpickled before
they are checked. Packing doesn't join buffers, and reading doesn't copy them. The digests of big
buffers are computed in a thread while the store writes the buffers; then the header is written.
"""

from __future__ import annotations

import functools
import hmac
import json
import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_64_hexdigest, xxh3_128, xxh3_128_hexdigest

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
    parsed,
    sections_of,
    signature_of,
)
from .keys import unique
from .named import versions_of
from .pickling import Pickled

__all__ = [
    "VERSION",
    "DigestedAside",
    "Origin",
    "Passing",
    "check",
    "check_blocks",
    "pack",
    "packed",
    "trusted",
    "unchecked",
]


PYTHON = platform.python_version()
_HOST = platform.node()
_JOINED_UP_TO = 64 << 10  # bytes of pickle
_DIGESTED_ASIDE_FROM = 16 << 20  # bytes of buffers; below, a thread costs more than it saves
_is_fresh = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").match  # from generate_name
_NO_NAME = bytes(36)
_TO_COME = "0" * 32  # instead of a digest that is not computed yet
_padding = [bytes(count) for count in range(ALIGNMENT)]


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
    key: bytes | None = None,
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
    key: bytes | None = None,
) -> tuple[list[Buffer] | DigestedAside, TaskInfo]:
    """Return a result's bytes as parts to be written in order, and the fields of its header.

    The value's own buffers are among the parts, so they must not change until they are written. If
    the parts are `DigestedAside`, the fields have no digests yet: see `DigestedAside.info`.

    Args:
        described: `own` and `value` of `TaskInfo`.
        key: signs the header, and through its digests all bytes.
    """
    data, views, by_value, named, _ = pickled
    workflow, task, function, kind, seconds, fingerprint, run = origin
    digest = pickle = _TO_COME
    aside = bool(views) and sum(map(len, views)) >= _DIGESTED_ASIDE_FROM
    buffers = [(len(view), _TO_COME) for view in views] if views else []
    if not aside:
        pickle = digest = xxh3_128_hexdigest(data)
        if views or side_data:
            buffers = [(len(view), xxh3_128_hexdigest(view)) for view in views]
            digest = _combined(data, pickle, buffers, side_data)
    own, value = tuple(described[0]), described[1]
    packages = tuple(fingerprint.get("packages", {}).items()) if fingerprint else ()
    now = time.time_ns() // 1000
    fields = (
        workflow,
        task,
        function,
        f"{_second(now // 1_000_000)}.{str(now)[-6:]}Z",
        seconds,
        kind,
        digest,
        (len(data), pickle),
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
    size = len(first) + len(data)
    rest: list[Buffer] = []
    for view in views:
        if gap := -size % ALIGNMENT:
            rest.append(_padding[gap])
        rest.append(view)
        size += gap + len(view)
    info = TaskInfo._make((*fields, size, key is not None))
    if aside:
        return DigestedAside(info, len(first), [data, *rest], [data, *views], key), info
    if len(data) <= _JOINED_UP_TO:
        return [first + data, *rest], info  # one small copy is quicker than one more part
    return [first, data, *rest], info


class DigestedAside(FirstPartLast):
    """The parts of a big result, whose digests are computed while its buffers are written.

    Args:
        info: the fields of the header, without the digests.
        first_size: bytes of prefix and header.
        rest: the parts after them.
        contents: the parts to digest: pickle and buffers.
        key: signs the header.
    """

    def __init__(
        self,
        info: TaskInfo,
        first_size: int,
        rest: Sequence[Buffer],
        contents: Sequence[Buffer],
        key: bytes | None,
    ) -> None:
        super().__init__(first_size, rest)
        self._info, self._key = info, key
        self._digests: list[str] = []
        self._first = b""
        self._thread = threading.Thread(target=self._digest, args=(contents,))
        try:
            self._thread.start()
        except RuntimeError:  # no more threads can start, for example when the interpreter ends
            self._thread.run()

    def _digest(self, contents: Sequence[Buffer]) -> None:
        self._digests += map(xxh3_128_hexdigest, contents)

    def first(self) -> bytes:
        """Wait for the digests, and return prefix and header."""
        if not self._first:
            if self._thread.is_alive():
                self._thread.join()
            own, *others = self._digests
            before = self._info
            buffers = [(size, new) for (size, _), new in zip(before.buffers, others, strict=True)]
            digest = _combined(bytes(self.rest[0]), own, buffers, before.side_data)
            pickle = before.pickle[0], own
            self._info = before._replace(digest=digest, pickle=pickle, buffers=buffers)
            self._first = encoded(self._info[:-2], self._key)
        return self._first

    def info(self) -> TaskInfo:
        """Wait for the digests, and return the fields of the header."""
        self.first()
        return self._info


def check(data: Buffer, key: bytes | None = None) -> tuple[TaskInfo, list[memoryview]]:
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
        if xxh3_128_hexdigest(content) != digest or (gap and any(gap)):
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


def trusted(head: bytes, key: bytes | None) -> TaskInfo:
    """Return the fields of a whole prefix and header; if there is a key, check the signature.

    Raises as `check`.
    """
    info = parsed(head, None)
    if key is not None:
        signature = signature_of(key, head[:DIGEST_AT], head[HEADER_AT:])
        if not hmac.compare_digest(signature, head[SIGNATURE_AT:HEADER_AT]):
            state = "signed with another key, or changed" if info.signed else "not signed"
            raise UntrustedResultError(
                f"the result is {state}, but the storage's option 'key' demands its signature"
            )
    return info


def _combined(
    data: bytes, own: str, buffers: Sequence[tuple[int, str]], side_data: Sequence[SideData]
) -> str:
    """Return the digest of a value; equal for equal values, despite the fresh side data names."""
    for side in side_data:
        for name, *_ in side.files:
            if _is_fresh(name):
                data = data.replace(name[:36].encode(), _NO_NAME)
    first = xxh3_128_hexdigest(data) if side_data else own
    digests = [first, *(digest for _, digest in buffers)]
    digests += [digest for side in side_data for _, _, digest in side.files]
    return xxh3_128_hexdigest("".join(digests).encode())


@functools.lru_cache(maxsize=1024)
def _key_of(own: tuple[str, ...], packages: tuple[tuple[str, str], ...]) -> str:
    """Return the digest of the names and the versions; see `TaskInfo.key`."""
    names_and_versions = json.dumps([own, dict(packages)], separators=(",", ":"))
    return xxh3_64_hexdigest(names_and_versions.encode())


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Stream:
    """Blocks as one sequence of bytes.

    Attributes:
        position: the number of bytes that were taken.
    """

    def __init__(self, blocks: Iterable[Buffer]) -> None:
        self.blocks = iter(blocks)
        self.rest = memoryview(b"")
        self.position = 0

    def take(self, end: int | None) -> Iterator[memoryview]:
        """Take the bytes up to a position, as pieces; None: up to the last byte."""
        while end is None or self.position < end:
            if not self.rest:
                block = next(self.blocks, None)
                if block is None:
                    return
                self.rest = memoryview(block)
            size = len(self.rest) if end is None else end - self.position
            piece, self.rest = self.rest[:size], self.rest[size:]
            self.position += len(piece)
            yield piece


class Passing:
    """A result that is checked while its bytes pass, in blocks. Raises as `check`.

    Args:
        blocks: the result, in order; the next block may overwrite a block.
        key: checks the signature.

    Attributes:
        head: prefix and header, which are checked already.
        info: the fields of the header.
    """

    def __init__(self, blocks: Iterable[Buffer], key: bytes | None = None) -> None:
        self._stream = _Stream(blocks)
        head = b"".join(map(bytes, self._stream.take(HEADER_AT)))
        end = header_end(head)
        head += b"".join(map(bytes, self._stream.take(end)))
        if len(head) < end:
            raise DamagedResultError(f"the blob is cut within its header, at byte {len(head)}")
        self.head = head
        self.info = trusted(head, key)

    def rest(self) -> Iterator[memoryview]:
        """Iterate once over the bytes after the header; after the last, raise what is wrong."""
        stream, position, problem = self._stream, len(self.head), ""
        sections = sections_of(self.info.pickle, self.info.buffers, position)
        for name, start, stop, expected in sections:
            has_gap = False
            for piece in stream.take(start):
                has_gap = has_gap or any(piece)
                yield piece
            digest = xxh3_128()
            for piece in stream.take(stop):
                digest.update(piece)
                yield piece
            if not problem and (has_gap or digest.hexdigest() != expected):
                problem = f"{name} (bytes {start} to {stop}) is not what was written"
            position = stop
        for _ in stream.take(None):
            pass  # the bytes after the last section are only counted
        if stream.position != position:
            problem = f"the blob has {stream.position} bytes and not {position}"
        if problem:
            raise DamagedResultError(problem)


def check_blocks(blocks: Iterable[Buffer], key: bytes | None = None) -> TaskInfo:
    """Check all digests of a result, and return the fields of its header; see `Passing`."""
    passing = Passing(blocks, key)
    for _ in passing.rest():
        pass
    return passing.info
