"""The file protocol over any blob store: files beside results for serializers that want files."""

from __future__ import annotations

import io
import mmap
import tempfile
from typing import IO, TYPE_CHECKING, Any

from xxhash import xxh3_128_hexdigest

if TYPE_CHECKING:
    from .blobstore import BlobStore

__all__ = ["StagedFiles"]


class StagedFiles:
    """The file protocol over `put` and `get`: a file is staged locally, and put when it is closed.

    Args:
        folder: the key prefix of the files; it ends in "/". File names are key segments.

    Attributes:
        digests: size and XXH3-128 digest of each file that was put.
    """

    def __init__(self, store: BlobStore, folder: str) -> None:
        self.store = store
        self.prefix = folder
        self.digests: dict[str, tuple[int, str]] = {}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file, as the builtin `open` does, for reading or for writing anew.

        Raises:
            ResultNotFoundError: there is no such file to read.
            ValueError: the mode is for appending or updating.
        """
        key = self.prefix + filename
        if mode.replace("t", "b") in ("r", "rb"):
            file: IO[bytes] = io.BytesIO(self.store.get(key))
        elif mode.replace("t", "b") in ("w", "wb", "x", "xb", "w+b", "wb+"):
            self.digests.pop(filename, None)
            file = _Staged(self, filename)
        else:
            raise ValueError(f"files beside results are read, or written anew, not {mode!r}")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def remove(self, filename: str) -> None:
        """Remove a file; one that isn't there is no error."""
        self.store.delete([self.prefix + filename])


class _Staged(io.BufferedRandom):
    """A local temporary file that becomes a blob when it is closed without an error."""

    def __init__(self, files: StagedFiles, filename: str) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by close
        super().__init__(self._file)
        self._files, self._filename = files, filename

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
            self._files.store.put(self._files.prefix + self._filename, [memoryview(data)])
            self._files.digests[self._filename] = size, xxh3_128_hexdigest(data)
        finally:
            super().close()
