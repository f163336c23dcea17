"""The file protocol over any blob store: files beside results for serializers that want files."""

from __future__ import annotations

import io
import mmap
import tempfile
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blobstore import BlobStore

__all__ = ["StagedFiles"]


class StagedFiles:
    """The file protocol over `put` and `get`: a file is staged locally, and put when it is closed.

    Args:
        folder: the key prefix of the files; it ends in "/". File names are key segments.
    """

    def __init__(self, store: BlobStore, folder: str) -> None:
        self.store = store
        self.folder = folder

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file, as the builtin `open` does, for reading or for writing anew.

        Raises:
            ResultNotFoundError: there is no such file to read.
            ValueError: the mode is for appending or updating.
        """
        key = self.folder + filename
        if mode.replace("t", "b") in ("r", "rb"):
            file: IO[bytes] = io.BytesIO(self.store.get(key))
        elif mode.replace("t", "b") in ("w", "wb", "x", "xb", "w+b", "wb+"):
            file = _Staged(self.store, key)
        else:
            raise ValueError(f"files beside results are read, or written anew, not {mode!r}")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def remove(self, filename: str) -> None:
        """Remove a file; one that isn't there is no error."""
        self.store.delete([self.folder + filename])


class _Staged(io.BufferedRandom):
    """A local temporary file that becomes a blob when it is closed without an error."""

    def __init__(self, store: BlobStore, key: str) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by close
        super().__init__(self._file)
        self._store, self._key = store, key

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            super().close()
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.flush()
        size = self.seek(0, io.SEEK_END)
        try:
            data = mmap.mmap(self.fileno(), size, access=mmap.ACCESS_READ) if size else b""
            self._store.put(self._key, [memoryview(data)])
        finally:
            super().close()
