"""Make, open, read and remove a store's folders and files; follow no symbolic link below root."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from ..errors import ResultNotFoundError, StoragePathError
from .disk import FOLDER, SAFELY, flush_and_close, flush_folder, make_folder, open_safely, unlink

__all__ = ["Folders", "PlainFiles"]

_ATTEMPTS = 100  # at a folder that another process removes, while it is empty, again and again
_CLOCK_TICK = 100_000_000  # nanoseconds; the clocks of file systems have coarser ticks than ours


class Folders:
    """The folders below `root`, which are made when they are needed.

    A folder's name is its path below root; "" is root. With `private`, only the user can access
    new files and folders.
    """

    def __init__(self, root: str, *, private: bool = False) -> None:
        self.root = root
        self.file_mode, self._folder_mode = (0o600, 0o700) if private else (0o666, 0o777)
        self._flushed: tuple[int, int] | None = None  # inode and mtime of root

    def enter(self, folder: str) -> int:
        """Open a folder below root, and make missing ones; follow no symbolic link below root."""
        attempts = 1
        while True:
            try:
                os.makedirs(self.root, self._folder_mode, exist_ok=True)
                return self._descend(folder, make=True)
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or attempts == _ATTEMPTS:
                    raise self._no_folder(folder, error) from error
            attempts += 1  # another process removed the new folder

    def _descend(self, folder: str, *, make: bool = False) -> int:
        """Open a folder below root; follow no symbolic link below root."""
        directory = os.open(self.root, FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        for segment in folder.split("/") if folder else []:
            outer = directory
            try:
                if make:
                    try:
                        directory = os.open(segment, FOLDER, dir_fd=outer)
                        continue
                    except FileNotFoundError:
                        make_folder(segment, self._folder_mode, outer)
                directory = os.open(segment, FOLDER, dir_fd=outer)
            finally:
                os.close(outer)
        return directory

    def create(self, folder: str, name: str, flags: int) -> tuple[int, int]:
        """Open a file in a folder, which is made if it is missing; return both descriptors."""
        attempts = 1
        while True:
            if "/" in folder:
                directory = self.enter(folder)
            else:
                try:
                    # Quick, and safe: O_NOFOLLOW checks the last segment, and this is the only one.
                    directory = os.open(f"{self.root}/{folder}", FOLDER)
                except OSError:
                    directory = self.enter(folder)  # makes it, or raises an error that explains
            try:
                return directory, os.open(name, flags | SAFELY, self.file_mode, dir_fd=directory)
            except BaseException as error:
                os.close(directory)
                # Another process may have removed the folder.
                if not isinstance(error, FileNotFoundError) or attempts == _ATTEMPTS:
                    raise
            attempts += 1

    def open_both(self, folder: str, to: str) -> tuple[int, int]:
        """Open two folders; make `to` if it is missing. Of two, one is often in the other."""
        outer, inner = sorted((folder, to), key=len)
        if "/" not in outer and inner.startswith(f"{outer}/") and inner.count("/") == 1:
            first = -1
            try:
                first = os.open(f"{self.root}/{outer}", FOLDER)  # quick; see `create`
                second = os.open(inner[len(outer) + 1 :], FOLDER, dir_fd=first)
            except OSError:
                if first >= 0:
                    os.close(first)
            else:
                return (first, second) if folder == outer else (second, first)
        source = self._descend(folder)
        try:
            return source, self.enter(to)
        except BaseException:
            os.close(source)
            raise

    def remove(self, folder: str, names: Iterable[str]) -> None:
        """Remove files of a folder; raise StoragePathError for a symbolic link in its path."""
        try:
            directory = self._descend(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._no_folder(folder, error) from error
        try:
            for name in names:
                unlink(name, directory)
        finally:
            os.close(directory)

    def remove_folder(self, folder: str) -> bool:
        """Remove a folder if it is empty; return whether it was removed."""
        above, _, segment = folder.rpartition("/")
        try:
            directory = self._descend(above)
        except OSError:
            return False
        try:
            os.rmdir(segment, dir_fd=directory)
        except OSError:
            return False  # it is not empty, or another process has removed it
        finally:
            os.close(directory)
        return True

    def flush_above(self, folder: str) -> None:
        """Make the names of a folder and of the folders above it survive a loss of power.

        Root is flushed again only if something was made in it since its last flush here. The
        folders above root are flushed once.
        """
        above = folder.rpartition("/")[0]
        while above:
            flush_and_close(os.open(f"{self.root}/{above}", FOLDER))
            above = above.rpartition("/")[0]
        status = os.stat(self.root)
        if self._flushed == (status.st_ino, status.st_mtime_ns):
            return
        path = self.root
        flush_folder(path)
        if self._flushed is None or self._flushed[0] != status.st_ino:
            while path != os.path.dirname(path):
                path = os.path.dirname(path)
                flush_folder(path)
        settled = time.time_ns() - status.st_mtime_ns > _CLOCK_TICK
        self._flushed = status.st_ino, status.st_mtime_ns if settled else 0

    def _no_folder(self, folder: str, error: OSError) -> StoragePathError:
        path = f"{self.root}/{folder}"
        problem = (
            "is a symbolic link" if os.path.islink(path) else f"can't be opened: {error.strerror}"
        )
        return StoragePathError(
            f"the storage at {self.root!r} can't be used: {path!r} {problem}."
            " Its option 'path' must be a folder that you can write, with folders in it"
        )

    def scan(self, folder: str) -> Sequence[os.DirEntry[str]]:
        """Return the entries of a folder; none if its path has a symbolic link below root."""
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        path = folder.rstrip("/")
        while path:
            if os.path.islink(f"{self.root}/{path}"):
                return []
            path = path.rpartition("/")[0]
        return found

    def walk(self, folder: str, beginning: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Iterate over (key, file) below a folder, in the order of the keys."""
        found = [
            (entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/", entry)
            for entry in self.scan(folder)
            if entry.name.startswith(beginning)
        ]
        for name, entry in sorted(found, key=lambda pair: pair[0]):
            if not name.endswith("/"):
                yield folder + name, entry
            elif entry.is_dir(follow_symlinks=False):
                yield from self.walk(folder + name)


class PlainFiles:
    """The file protocol over plain files in one folder. File names are key segments."""

    def __init__(self, folders: Folders, folder: str) -> None:
        self._folders = folders
        self._folder = folder

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file, as the builtin `open` does."""
        path = f"{self._folders.root}/{self._folder}{filename}"
        encoding = None if "b" in mode else "utf-8"
        if mode.strip("bt") == "r":
            try:
                return open(path, mode, encoding=encoding, opener=open_safely)
            except FileNotFoundError:
                raise ResultNotFoundError(f"no file {path!r}") from None

        def create(_: str, flags: int) -> int:
            directory, file = self._folders.create(self._folder.rstrip("/"), filename, flags)
            os.close(directory)
            return file

        return open(path, mode, encoding=encoding, opener=create)

    def remove(self, filename: str) -> None:
        """Remove a file; a missing one is no error."""
        self._folders.remove(self._folder.rstrip("/"), [filename])

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder; "w" makes it."""
        if mode == "w":
            os.close(self._folders.enter(self._folder + filename))
        return f"{self._folders.root}/{self._folder}{filename}"
