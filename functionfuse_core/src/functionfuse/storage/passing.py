"""Check a result while its bytes pass in blocks, so that no store has a big one in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from xxhash import xxh3_128

from ..errors import DamagedResultError
from .blobstore import Buffer
from .header import (
    ALIGNMENT,
    HEADER_AT,
    MAGIC,
    START,
    SideData,
    TaskInfo,
    header_end,
    is_strong,
    parsed,
    sealed,
    sections_of,
)
from .resultfile import PADDING, trusted
from .sidecheck import filled
from .signing import Key, Pieces

__all__ = ["Passing", "check_blocks", "encoded_anew", "strengthened"]


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
        key: checks the signature; None checks none.

    Attributes:
        head: prefix and header, which are checked already.
        info: the fields of the header; others may be expected instead.
    """

    def __init__(self, blocks: Iterable[Buffer], key: Key | None = None) -> None:
        self._stream = _Stream(blocks)
        head = b"".join(map(bytes, self._stream.take(HEADER_AT)))
        end = header_end(head)
        head += b"".join(map(bytes, self._stream.take(end)))
        if len(head) < end:
            raise DamagedResultError(f"the blob is cut within its header, at byte {len(head)}")
        self.head = head
        self.info = trusted(head, key)

    def whole(self) -> Buffer:
        """Return the result in memory of our own; its digests are not checked yet.

        Raises DamagedResultError, before more is read, if it is longer than its header says.
        """
        return filled(chain([self.head], self._stream.take(None)), self.info.size)

    def rest(
        self, start: int | None = None, *, others: list[tuple[int, str]] | None = None
    ) -> Iterator[Buffer]:
        """Iterate once over the bytes after the header; after the last, raise what is wrong.

        Args:
            start: where these bytes are put, after another header: buffers stay aligned.
            others: takes sizes and SHA-256 digests of pickle and buffers, as in format version 2.
        """
        stream, position, problem = self._stream, len(self.head), ""
        written = position if start is None else start
        sections = sections_of(self.info.pickle, self.info.buffers, position)
        for number, (name, first, stop, expected) in enumerate(sections):
            has_gap = False
            for piece in stream.take(first):
                has_gap = has_gap or any(piece)
            gap = -written % ALIGNMENT if number else 0
            if gap:
                yield PADDING[gap]
            strong = is_strong(expected)
            digest = Pieces() if strong else xxh3_128()
            other = None if others is None or strong else Pieces()
            for piece in stream.take(stop):
                digest.update(piece)
                if other is not None:
                    other.update(piece)
                yield piece
            if not problem and (has_gap or digest.hexdigest() != expected):
                problem = f"{name} (bytes {first} to {stop}) is not what was written"
            if others is not None:
                others.append((stop - first, other.hexdigest() if other else expected))
            written += gap + stop - first
            position = stop
        for _ in stream.take(None):
            pass  # the bytes after the last section are only counted
        if stream.position != position:
            problem = f"the blob has {stream.position} bytes and not {position}"
        if problem:
            raise DamagedResultError(problem)


def check_blocks(blocks: Iterable[Buffer], key: Key | None = None) -> TaskInfo:
    """Check all digests of a result, and return the fields of its header; see `Passing`."""
    passing = Passing(blocks, key)
    for _ in passing.rest():
        pass
    return passing.info


def strengthened(
    passing: Passing,
    blocks: Callable[[], Iterable[Buffer]],
    side_data: Sequence[SideData],
    key: Key | None,
) -> tuple[int, Iterable[Buffer]]:
    """Return size and parts of a result with SHA-256 digests, in format version 2, signed.

    The result is read twice, because the digests come first: once here, once with the parts.

    Args:
        passing: the result, with XXH3-128 digests, of which only the header has passed.
        blocks: returns its bytes once more.
        side_data: as in its header, with SHA-256 digests.

    Raises DamagedResultError, here or with the last part: it is not sound, or was replaced.
    """
    sections: list[tuple[int, str]] = []
    for _ in passing.rest(others=sections):
        pass
    head = encoded_anew(passing.head, sections, side_data, key)
    again = Passing(blocks())
    if again.head != passing.head:
        raise DamagedResultError("another result has replaced it meanwhile")
    again.info = again.info._replace(pickle=sections[0], buffers=sections[1:])
    return parsed(head, None).size, chain([head], again.rest(len(head)))


def encoded_anew(
    head: bytes,
    sections: Sequence[tuple[int, str]],
    side_data: Sequence[SideData],
    key: Key | None,
    **others: Any,
) -> bytes:
    """Return a sound prefix and header with other sizes and digests, in format version 2.

    All other fields stay, also those that only a later release knows.
    """
    header = json.loads(head[HEADER_AT:])
    header |= {"pickle": sections[0], "buffers": sections[1:], "side_data": side_data, **others}
    body = f"{json.dumps(header, separators=(',', ':'), allow_nan=False)}\n".encode()
    return sealed(START.pack(MAGIC, 2, len(body)), body, key)
