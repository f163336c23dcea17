"""Stores whose `copy` breaks one promise each; see `broken_stores.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from broken_stores import Plain
from kit_plugins import DictStore

from functionfuse.errors import ResultNotFoundError
from functionfuse.storage.blobstore import Buffer

__all__ = ["COPIES"]


class CopiesTheBeginning(Plain):
    """Copies as much as one read gives."""

    def copy(self, key, to):
        self.put(to, [memoryview(self.get(key))[: 1 << 20]])


class CopiesInPlace(Plain):
    """Writes the copy into the blob that it replaces."""

    def copy(self, key, to):
        data = memoryview(self.get(key))
        with self.path(to).open("wb", buffering=0) as file:
            file.write(data[:50])
            time.sleep(0.001)
            file.write(data[50:])


class CopiesTheTime(Plain):
    """A copy is as old as the first blob."""

    def copy(self, key, to):
        self.put(to, [self.get(key)])
        modified = self.path(key).stat().st_mtime_ns
        os.utime(self.path(to), ns=(modified, modified))


class Moves(Plain):
    """Gives the blob another name."""

    def copy(self, key, to):
        super().copy(key, to)
        self.delete([key])


class CopiesNothing(Plain):
    """A missing blob has no copy, and that is no error."""

    def copy(self, key, to):
        if self.path(key).is_file():
            super().copy(key, to)


class RemovesFirst(Plain):
    """Makes room for the copy before it looks for the blob."""

    def copy(self, key, to):
        if key != to:
            self.delete([to])
        super().copy(key, to)


class RemovesItself(Plain):
    """Makes room for the copy, also if that is the blob itself."""

    def copy(self, key, to):
        data = self.get(key)
        self.delete([to])
        if key != to:
            self.put(to, [data])


class KeepsTheTarget(Plain):
    """Takes a blob that is there for the copy."""

    def copy(self, key, to):
        if not self.path(to).exists():
            super().copy(key, to)


class LeavesLinks(Plain):
    """Renames a link over another of the same file: that does nothing, and both stay."""

    def copy(self, key, to):
        self.get(key)
        self.path(to).parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path(to).with_name(f".tmp-{os.urandom(8).hex()}")
        os.link(self.path(key), temporary)
        os.rename(temporary, self.path(to))


class SharesBytes(DictStore):
    """A copy is the same memory, and a put writes into the memory that is there."""

    def put(self, key: str, parts: Sequence[Buffer], **options: bool) -> None:
        buffer = self.blobs[key][0] if key in self.blobs else bytearray()
        super().put(key, parts, **options)
        data, modified = self.blobs[key]
        buffer[:] = data  # type: ignore[index]
        self.blobs[key] = buffer, modified  # type: ignore[assignment]

    def copy(self, key: str, to: str) -> None:
        if key not in self.blobs:
            raise ResultNotFoundError(key)
        self.blobs[to] = self.blobs[key][0], time.time()


COPIES: list[type[Plain | DictStore]] = [
    CopiesTheBeginning,
    CopiesInPlace,
    CopiesTheTime,
    Moves,
    CopiesNothing,
    RemovesFirst,
    RemovesItself,
    KeepsTheTarget,
    LeavesLinks,
    SharesBytes,
]
