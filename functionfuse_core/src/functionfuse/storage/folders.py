"""Make, open, read and remove a store's folders and files; follow no symbolic link below root."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

from ..errors import InvalidNameError, ResultNotFoundError, StoragePathError
from ..serializers.refused import Private
from .disk import (
    FOLDER,
    NO_FILE,
    SAFELY,
    flush_folder,
    identity,
    make_folder,
    open_safely,
    unlink,
)
from .keys import ORIGINAL, OWN

__all__ = ["NEW", "TEMPORARY", "Folders", "PlainFiles"]

TEMPORARY = ".tmp-"  # the beginning of the names of temporary files
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFELY

_ATTEMPTS = 100  # at a folder that another process removes, while it is empty, again and again
_NO_RIGHT = errno.EACCES, errno.EPERM, errno.EROFS


class Folders(Private):
    """The folders below `root`, which are made when they are needed.

    A folder's name is its path below root; "" is root. With `private`, only the user can access
    new files and folders.

    Attributes:
        folds: whether upper and lower case are the same to the file system; None until the first
            call of `refuse_folded`.
    """

    def __init__(self, root: str, *, private: bool = False) -> None:
        self.root = root
        self.file_mode, self._folder_mode = (0o600, 0o700) if private else (0o666, 0o777)
        self.folds: bool | None = None
        # By folder: the identity of one whose name, and the names above it, are flushed.
        self._flushed: dict[str, tuple[int, int, bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_flushed": {}}  # another process may have other folders

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
        opened = [os.open(self.root, FOLDER & ~getattr(os, "O_NOFOLLOW", 0))]
        try:
            for segment in folder.split("/") if folder else []:
                try:
                    opened.append(os.open(segment, FOLDER, dir_fd=opened[-1]))
                except FileNotFoundError:
                    if not make:
                        raise
                    make_folder(segment, self._folder_mode, opened[-1])
                    opened.append(os.open(segment, FOLDER, dir_fd=opened[-1]))
            return opened.pop()
        finally:
            for directory in opened:
                os.close(directory)

    def open(self, key: str) -> int:
        """Open a regular file for reading; in a folder of a workflow, no link leads to it.

        Raises FileNotFoundError for anything else, at once.
        """
        folder, _, name = key.rpartition("/")
        if "/" not in folder:
            return open_safely(f"{self.root}/{key}", os.O_RDONLY)
        try:
            directory = self._descend(folder)
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise FileNotFoundError(errno.ENOENT, "no regular file", key) from None
        try:
            return open_safely(name, os.O_RDONLY, directory)
        finally:
            os.close(directory)

    def open_unchecked(self, key: str) -> int:
        """Open as `open` does, but what is no regular file may first show when it is read."""
        if key.count("/") > 1:
            return self.open(key)
        return os.open(f"{self.root}/{key}", os.O_RDONLY | SAFELY)

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
                if isinstance(error, OSError) and error.errno in _NO_RIGHT and flags & os.O_EXCL:
                    raise self._no_folder(folder, error, "written") from error
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
            except BaseException as error:
                if first >= 0:
                    os.close(first)
                if not isinstance(error, OSError):
                    raise
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

    def flush_above(self, folder: str, directory: int) -> None:
        """Make the names of an open folder and of the folders above it survive a loss of power.

        They are flushed once: by their first call here, whichever process has made the folder. If
        the file system doesn't tell a folder from one that took its place, by each call.
        """
        found = identity(directory)
        if found is not None and self._flushed.get(folder) == found:
            return
        if folder:
            above = folder.rpartition("/")[0]
            outer = self._descend(above)
            try:
                os.fsync(outer)
                self.flush_above(above, outer)
            finally:
                os.close(outer)
        else:
            path = self.root
            while path != os.path.dirname(path):
                path = os.path.dirname(path)
                flush_folder(path)
        if found is not None:
            self._flushed[folder] = found

    def refuse_folded(self, folder: str, name: str) -> None:
        """Refuse a second name that differs only in case, if the file system folds case.

        Raises:
            InvalidNameError: there is such a name.
            StoragePathError: the folder can't be made, or root can't be written.
        """
        os.close(self.enter(folder))
        if self.folds is None:
            probe = f"{TEMPORARY}{os.urandom(8).hex()}-"
            directory, file = self.create("", f"{probe}probe", NEW)
            try:
                os.close(file)
                self.folds = os.path.lexists(f"{self.root}/{probe}PROBE")
            finally:
                unlink(f"{probe}probe", directory)
                os.close(directory)
        if self.folds:
            workflow, _, rest = folder.partition("/")
            for where, segment in (("", workflow), (workflow if not rest else folder, name)):
                for entry in self.scan(where):
                    if entry.name != segment and entry.name.casefold() == segment.casefold():
                        raise InvalidNameError(
                            f"{segment!r} can't be stored beside {entry.name!r}: the file system"
                            f" of {self.root!r} does not tell upper from lower case"
                        )

    def _no_folder(self, folder: str, error: OSError, done: str = "opened") -> StoragePathError:
        path = f"{self.root}/{folder}"
        problem = (
            "is a symbolic link" if os.path.islink(path) else f"can't be {done}: {error.strerror}"
        )
        return StoragePathError(
            f"the storage at {self.root!r} can't be used: {path!r} {problem}."
            " Its option 'path' must be a folder that you can write, with folders in it"
        )

    def scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Iterate over the entries of a folder; none if its path has a symbolic link below root.

        An entry takes much more memory than its name: of many, keep the names.
        """
        try:
            directory = self._descend(folder.rstrip("/"))
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            return
        try:
            with os.scandir(directory) as entries:
                yield from entries
        finally:
            os.close(directory)

    def walk(self, folder: str, beginning: str = "") -> Iterator[str]:
        """Iterate over the keys of files below a folder, in order. One folder is read at a time.

        A folder that isn't ours, and that this user may not read, has none.
        """
        names = []
        for entry in self.scan(folder):
            if entry.name.startswith(beginning):
                if entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    names.append(f"{entry.name}/")
        for name in sorted(names):
            if name.endswith("/"):
                try:
                    yield from self.walk(folder + name)
                except PermissionError:
                    if (folder + name).partition("/")[2].startswith((*OWN, ORIGINAL)):
                        raise
            else:
                yield folder + name


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
                return open(path, mode, encoding=encoding, opener=self._opened)
            except FileNotFoundError:
                raise ResultNotFoundError(f"no file {path!r}") from None

        made = False

        def create(_: str, flags: int) -> int:
            nonlocal made
            folder, is_new = self._folder.rstrip("/"), bool(flags & os.O_EXCL)
            (directory, file), made = self._folders.create(folder, filename, flags), is_new
            os.close(directory)
            return file

        try:
            return open(path, mode, encoding=encoding, opener=create)
        except BaseException:
            if made:  # only here: nobody else knows of it
                self.remove(filename)
            raise

    def _opened(self, path: str, _: int) -> int:
        return self._folders.open(path[len(self._folders.root) + 1 :])

    def remove(self, filename: str) -> None:
        """Remove a file; a missing one is no error."""
        self._folders.remove(self._folder.rstrip("/"), [filename])

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder; "w" makes it."""
        if mode == "w":
            os.close(self._folders.enter(self._folder + filename))
        return f"{self._folders.root}/{self._folder}{filename}"
