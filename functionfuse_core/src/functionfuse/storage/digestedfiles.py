"""The file protocol of a result that is saved signed: the digests are of the bytes written here.

Others may replace a file in the store as soon as it is there. So a file is written into memory of
this process, or into a temporary folder that only the user can enter. Then it is put, and the
digest of the same bytes is signed. No file is read back for its digest.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from typing import Any

from .blobstore import BlobStore, Buffer, StagedFiles
from .checkedfiles import remove_folder
from .folders import TEMPORARY
from .keys import segment_of
from .safefiles import SafeFiles, SideFolder
from .sidecheck import Measured, of_folder

__all__ = ["DigestedFiles"]


class DigestedFiles(SafeFiles):
    """A file protocol for writing, whose digests are of the bytes that are written.

    The arguments are those of `SafeFiles`. A file has no path, and is written anew, not appended
    to. A serializer with `checks_itself` doesn't get it: it has digests of its own.
    """

    def __init__(
        self,
        files: Any,
        store: BlobStore,
        prefix: str,
        taken: set[str] | None = None,
        *,
        signed: bool = True,
    ) -> None:
        super().__init__(StagedFiles(store, prefix), store, prefix, taken, signed=signed)
        self._has_folders = hasattr(files, "folder")
        self._paths: dict[str, str] = {}
        self._folders: dict[str, _DigestedFolder] = {}

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder; "w" makes one that only the user can enter.

        Its files are put when the serializer has returned. Raises as `SafeFiles.folder`.
        """
        name = f"{segment_of(filename)}/"
        if not self._has_folders:
            return super().folder(filename, mode)  # raises
        if mode == "w" and name not in self._paths:
            self.claim(filename)
            self._paths[name] = tempfile.mkdtemp(prefix="functionfuse-")
            weakref.finalize(self, remove_folder, self._paths[name], os.getpid())
        if name not in self._paths:
            raise FileNotFoundError(f"the folder {filename!r} is not written here")
        return self._paths[name]

    def side_folder(self, filename: str, mode: str = "r") -> SideFolder:
        """Return a folder beside the result; see `SafeFiles.side_folder`.

        Its files are digested as they are written here. If other processes write to it, their
        digests are given by `digested_folder`.
        """
        name = f"{segment_of(filename)}/"
        if mode == "w":
            self.claim(filename)
        return self._folder(name)

    def _folder(self, name: str) -> _DigestedFolder:
        if name not in self._folders:
            self._folders[name] = _DigestedFolder(self._store, self._prefix + name, self.digest)
        return self._folders[name]

    def remove(self, filename: str) -> None:
        """See `SafeFiles.remove`."""
        super().remove(filename)
        name = f"{segment_of(filename)}/"
        if name not in self.written:
            shutil.rmtree(self._paths.pop(name, ""), ignore_errors=True)
            self._folders.pop(name, None)

    def finish(self) -> None:
        """Put the files of folders, and record the digests of all that was written.

        Raises ValueError for what can't be kept, or whose digest isn't known.
        """
        for name, path in self._paths.items():
            try:
                for file in _files_in(path):
                    with open(os.path.join(path, file), "rb") as opened:
                        size = os.fstat(opened.fileno()).st_size
                        whole: Any = b""
                        if size:
                            whole = mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ)
                        self._folder(name).put(file, memoryview(whole))
            finally:
                shutil.rmtree(path, ignore_errors=True)
        for name, known in self.written.items():
            if known is None and name.endswith("/"):
                self.written[name] = self._measured(name)
            elif known is None and name in self.files.digests:
                self.written[name] = self.files.digests[name]
            elif known is None:
                raise ValueError(f"the file {name!r} is not written: it was closed by an error")

    def _measured(self, name: str) -> Measured:
        folder = self._folder(name)
        files = folder.digests
        if not files or files.keys() != folder.sizes().keys():
            raise ValueError(
                f"the folder {name!r} has files that were not written here, or none: give their"
                " digests by `digested_folder`"
            )
        return of_folder(files, strong=True)


class _DigestedFolder(SideFolder):
    """A folder that digests what it writes. A pickle of it, for workers, is a plain folder."""

    def __init__(self, store: BlobStore, prefix: str, digest: Any) -> None:
        super().__init__(store, prefix)
        self._digest = digest
        self.digests: dict[str, Measured] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SideFolder, (self._store, self._prefix)

    def write(self, name: str, data: Buffer) -> None:
        """See `SideFolder.write`."""
        self.put(self._key(name)[len(self._prefix) :], data)

    def put(self, name: str, data: Buffer) -> None:
        """Write a file whose name is used as it is."""
        self._store.put(self._prefix + name, (data,))
        self.digests[name] = len(memoryview(data).cast("B")), self._digest(data).hex()

    def clear(self) -> None:
        """See `SideFolder.clear`."""
        super().clear()
        self.digests.clear()


def _files_in(path: str) -> list[str]:
    """Return the paths of all files in a folder, relative to it, with "/"."""
    found = []
    for folder, names, files in os.walk(path):
        for name in [*files, *names]:
            full = os.path.join(folder, name)
            if os.path.islink(full) or not (os.path.isfile(full) or os.path.isdir(full)):
                raise ValueError(f"{name!r} in a folder that it wrote is neither file nor folder")
            if name.startswith(TEMPORARY):
                raise ValueError(f"the file name {name!r} is taken: {TEMPORARY!r} begins ours")
        found += [os.path.relpath(os.path.join(folder, file), path) for file in files]
    return sorted(file.replace(os.sep, "/") for file in found)
