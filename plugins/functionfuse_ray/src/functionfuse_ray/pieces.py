"""Big blobs in pieces: cut them for sending, and receive them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import Empty, Full, Queue
from typing import Any

from functionfuse.errors import StorageConnectionError
from functionfuse.storage.blobstore import Buffer

__all__ = ["AHEAD", "CHUNK", "Incoming", "equal", "pieces_of"]

CHUNK = 16 << 20  # bytes; bigger blobs are sent in pieces
AHEAD = 3  # pieces that wait to be written or fetched
_SMALL = 64 << 10  # bytes; smaller parts are joined
_SILENT = 60.0  # seconds without a piece, after which the writer counts as dead


class Incoming(Sequence[Buffer]):
    """The pieces of a blob that is being received, in order."""

    def __init__(self, count: int) -> None:
        self.total = count
        self.pieces: Queue[Buffer] = Queue(AHEAD)
        self.ended = threading.Event()

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("pieces come one after the other")

    def __iter__(self) -> Iterator[Buffer]:
        for _ in range(self.total):
            try:
                yield self.pieces.get(timeout=_SILENT)
            except Empty:
                raise StorageConnectionError("who was writing the blob has gone silent") from None

    def add(self, piece: Buffer) -> bool:
        """Add a piece as soon as there is room; return False if the blob needs no more pieces."""
        while not self.ended.is_set():
            try:
                self.pieces.put(piece, timeout=0.1)
            except Full:
                continue
            return True
        return False


def pieces_of(parts: Sequence[Buffer]) -> Iterator[Buffer]:
    """Iterate the bytes of parts in pieces of at most CHUNK; small parts are joined."""
    joined = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        if len(view) < _SMALL and len(joined) < CHUNK - _SMALL:
            joined += view
            continue
        if joined:
            yield joined
            joined = bytearray()
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]
    if joined:
        yield joined


def equal(data: Buffer, pieces: Sequence[Buffer]) -> bool:
    """Return whether the pieces, joined in order, are the data."""
    view, start = memoryview(data), 0
    for piece in pieces:
        if view[start : start + len(piece)] != memoryview(piece):
            return False
        start += len(piece)
    return start == len(view)
