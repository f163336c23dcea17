"""The file protocol of a signed result that is read: a serializer gets checked bytes only.

A file is read into memory of this process, and a folder is copied into a temporary folder that only
the user can enter. Then the copy is checked, and the serializer reads the copy. So nobody who can
write to the store can change a byte between the check and its use.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from typing import IO, Any

from ..errors import UntrustedResultError
from .blobstore import BlobInfo, BlobStore, Buffer
from .filestore import FileStore
from .header import SideData
from .keys import SIDE_DATA, segment_of
from .safefiles import SafeFiles, SideFolder
from .sidecheck import Blocks, Check, check_file, get_at_most

__all__ = ["CheckedFiles", "remove_folder"]


class CheckedFiles(SafeFiles):
    """A file protocol for reading, with the digests in a signed header.

    Args:
        files: the protocol of the store.
        store, folder: where the files are; `folder` is their key prefix.
        side_data: the files that the header lists.
    """

    def __init__(
        self, files: Any, store: BlobStore, folder: str, side_data: Iterable[SideData]
    ) -> None:
        super().__init__(files, store, folder, signed=True, listed=side_data)
        self._workflow = folder.removesuffix(SIDE_DATA)
        self._folders: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_folders": {}, "_listed": self._listed}

    @property
    def unchecked(self) -> SafeFiles:
        """See `SafeFiles.unchecked`."""
        return SafeFiles(self.files, self._store, self._prefix, signed=True)

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Return a checked file in memory, which has no path.

        Raises:
            UntrustedResultError: the header doesn't list the file.
            DamagedResultError: its bytes were changed, or it is missing.
            ValueError: the mode is not for reading.
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"files of a signed result are only read, not opened with {mode!r}")
        name, kept = segment_of(filename), _InMemory(self._store)
        self._check(name, kept)
        file = io.BytesIO(kept.data)
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a checked copy of a folder. Raises as `open`.

        The copy is in a temporary folder. It is removed with this object, or when the process ends:
        keep this object as long as you read the copy.
        """
        if mode != "r":
            raise ValueError("folders of a signed result are only read")
        name = f"{segment_of(filename)}/"
        if name not in self._folders:
            path = tempfile.mkdtemp(prefix="functionfuse-")
            weakref.finalize(self, remove_folder, path, os.getpid())
            self._check(name, _InFolder(self._store, self._prefix + name, path))
            self._folders[name] = path
        return self._folders[name]

    def side_folder(self, filename: str, mode: str = "r") -> SideFolder:
        """Return a checked copy of a folder; see `folder`."""
        path, name = os.path.split(self.folder(filename, mode))
        folder = SideFolder(FileStore(path), f"{name}/")
        weakref.finalize(folder, id, self)  # keeps the copy
        return folder

    def _check(self, name: str, blocks: Blocks) -> None:
        if name not in self._listed:
            raise UntrustedResultError(
                f"the file {name!r} is not checked: the signed header of the result doesn't list it"
            )
        check_file(blocks, self._workflow, self._listed[name], name)


class _InMemory(Blocks):
    """Keeps a blob in memory of our own while it is checked."""

    data: Buffer = b""

    def through(self, key: str, size: int, check: Check) -> None:
        """See `Blocks.through`."""
        self.data = get_at_most(self.store, key, size)
        check.update(self.data)
        check.ended()


class _InFolder(_InMemory):
    """Writes the files of a folder below a path while they are checked."""

    def __init__(self, store: BlobStore, prefix: str, path: str) -> None:
        super().__init__(store)
        self._prefix, self._path = prefix, path

    def inside(self, folder: str) -> list[BlobInfo]:
        """See `Blocks.inside`. Refuses names that lead elsewhere: the digest is checked last."""
        blobs = super().inside(folder)
        for blob in blobs:
            segments = blob.key.removeprefix(self._prefix).split("/")
            if not {"", ".", ".."}.isdisjoint(segments) or "\0" in blob.key:
                raise UntrustedResultError(f"the file name {blob.key!r} leads elsewhere")
        return blobs

    def through(self, key: str, size: int, check: Check) -> None:
        """See `Blocks.through`."""
        super().through(key, size, check)
        path = os.path.join(self._path, key.removeprefix(self._prefix))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(self.data)


def remove_folder(path: str, process: int) -> None:
    """Remove a temporary folder, in the process that made it, and in none that was forked."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
