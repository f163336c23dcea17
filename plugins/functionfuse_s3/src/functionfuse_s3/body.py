"""Parts of a blob as what boto3 sends: never joined, and never copied but block by block."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from functionfuse.storage.blobstore import Buffer

__all__ = ["Parts", "body_of", "piece_of", "views_of"]

_JOINED_UP_TO = 64 << 10  # bytes; sending one small copy is quicker than asking before several
_BLOCK = 1 << 20  # bytes; urllib3 asks for 16 KiB at a time, which takes a core at 1 GB/s


class Parts(io.RawIOBase):
    """A file to be read whose contents are buffers, one after the other."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views
        self.size = sum(map(len, views))
        self.position = 0

    def __len__(self) -> int:
        return self.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the beginning, from here, or from the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; where some, but less than a block, are asked for, a block."""
        if size == 0:
            return b""
        wanted = self.size if size is None or size < 0 else max(size, _BLOCK)
        found = b"".join(piece_of(self.views, self.position, self.position + wanted))
        self.position += len(found)
        return found


def views_of(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts that aren't empty as views of bytes."""
    views = [memoryview(part) for part in parts]
    return [view.cast("B") for view in views if view.nbytes]


def piece_of(views: Iterable[memoryview], start: int, end: int) -> list[memoryview]:
    """Return what lies between two positions of views that follow each other."""
    found, position = [], 0
    for view in views:
        piece = view[max(0, start - position) : max(0, end - position)]
        if len(piece):
            found.append(piece)
        position += len(view)
        if position >= end:
            break
    return found


def body_of(views: Sequence[memoryview]) -> bytes | Parts:
    """Return what boto3 is to send."""
    parts = Parts(views)
    return b"".join(views) if parts.size <= _JOINED_UP_TO else parts
