"""Checking a result block by block: what doesn't fit into memory can be checked, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xxhash import xxh3_128

from ..errors import DamagedResultError
from .blobstore import Buffer
from .header import HEADER_AT, TaskInfo, header_end, sections_of
from .resultfile import trusted

__all__ = ["check_blocks"]


class _Stream:
    """Blocks as one sequence of bytes, of which the next are taken.

    Attributes:
        position: how many were taken.
    """

    def __init__(self, blocks: Iterable[Buffer]) -> None:
        self.blocks = iter(blocks)
        self.rest = memoryview(b"")
        self.position = 0

    def take(self, end: int | None) -> Iterator[memoryview]:
        """Iterate what there is up to a position; None: up to the last byte."""
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


def check_blocks(blocks: Iterable[Buffer], key: bytes | None = None) -> TaskInfo:
    """Check all digests of a result, and return what its header tells; raises as `check`.

    Args:
        blocks: the result, in order; a block may be overwritten by the next.
    """
    stream = _Stream(blocks)
    head = b"".join(map(bytes, stream.take(HEADER_AT)))
    end = header_end(head)
    head += b"".join(map(bytes, stream.take(end)))
    if len(head) < end:
        raise DamagedResultError(f"the blob is cut within its header, at byte {len(head)}")
    info = trusted(head, key)
    problem, position = "", end
    for name, start, stop, expected in sections_of(info.pickle, info.buffers, end):
        has_gap = any(any(piece) for piece in stream.take(start))
        digest = xxh3_128()
        for piece in stream.take(stop):
            digest.update(piece)
        if not problem and (has_gap or digest.hexdigest() != expected):
            problem = f"{name} (bytes {start} to {stop}) is not what was written"
        position = stop
    for _ in stream.take(None):
        pass  # what is behind the last section only counts
    if stream.position != position:
        problem = f"the blob has {stream.position} bytes and not {position}"
    if problem:
        raise DamagedResultError(problem)
    return info
