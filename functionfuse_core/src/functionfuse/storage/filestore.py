"""`FileStore`: blobs as files below a folder."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import ResultNotFoundError, StoragePathError
from ..serializers import FILE_PROTOCOL
from .blobstore import BlobInfo, BlobStore, Buffer
from .disk import (
    BIG,
    FOLDER,
    NO_FILE,
    flush_and_close,
    is_file_of,
    link_over,
    map_file,
    protect,
    read_all,
    unlink,
    write_all,
)
from .folders import NEW, TEMPORARY, Folders, PlainFiles
from .header import MAGIC
from .keys import EARLIER, MARKER, ORIGINAL, OWN, SIDE_DATA, unique

__all__ = ["FileStore"]

logger = logging.getLogger(__name__)

# The names that we give; the last two of a file that shows whether cases are folded.
_is_by_us = re.compile(r"(.*/)?\.tmp-[0-9a-f]{16}(-[0-9a-f]+|-probe|-PROBE)?", re.DOTALL).fullmatch
_READ_AT_ONCE = 4096
_BESIDE = f"/{SIDE_DATA}"
# Errors of link(2): no links on this file system, to this file, to one of another user, or no more;
# no such file, or another process removed the folder.
_NO_LINKS = (
    *(errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK),
    errno.ENOENT,
)


class FileStore(BlobStore):
    """Blobs as files below `root`: a key is a path.

    A blob is written to a temporary file in the same folder, flushed if it must be durable, and
    renamed; with `if_absent` it is linked. Writing, removing and listing follow no symbolic link
    below `root`. Blobs are read into memory. Those of 16 MiB and more are private, writable maps
    of their files, as long as fewer than 64 maps are alive in the process; without root, nobody can
    write such a file in place.

    Args:
        private: only the user can access files and folders.
        maps: whether blobs are mapped.
    """

    def __init__(self, root: str, *, private: bool = False, maps: bool = True) -> None:
        # Workers get the store pickled, and can have another current folder.
        self.root = root if os.path.isabs(root) else os.path.join(os.getcwd(), root)
        self.private = private
        self._maps = maps
        self._folders = Folders(self.root, private=private)
        self._warned = False

    def __repr__(self) -> str:
        return f"FileStore({self.root!r})"

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`."""
        folder, _, name = key.rpartition("/")
        if self._folders.folds is not False:
            self._folders.refuse_folded(folder, name)
        temporary = TEMPORARY + unique()
        directory, file = self._folders.create(folder, temporary, NEW)
        try:
            try:
                try:
                    if write_all(file, parts) >= BIG or _BESIDE in key:
                        protect(file, 0)
                    if durable:
                        os.fsync(file)
                finally:
                    os.close(file)
                if if_absent:
                    self._link_new(temporary, folder, name, directory)
                else:
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException as error:
                try:
                    unlink(temporary, directory)
                except OSError as second:
                    error.add_note(f"its temporary file {temporary!r} is left for gc: {second}")
                if isinstance(error, IsADirectoryError):
                    raise self._no_file(key) from error
                raise
            if durable:
                os.fsync(directory)
                self._folders.flush_above(folder, directory)
        finally:
            os.close(directory)

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        try:
            file = self._folders.open_unchecked(key)
        except OSError as error:
            raise self._explained(error, key) from None
        try:
            # A small file is read without asking for its size: a second read proves the end.
            # A pipe refuses an offset, and nothing is taken out of it.
            data = os.pread(file, _READ_AT_ONCE, 0)
            if 0 < len(data) < _READ_AT_ONCE and not os.pread(file, 1, len(data)):
                return bytearray(data)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise self._not_found(key)
            size = status.st_size
            if size >= BIG and self._maps:
                mapped = map_file(file, size, mmap.ACCESS_COPY)
                if mapped is not None:
                    return memoryview(mapped)
            return read_all(file, size)
        except OSError as error:
            raise self._explained(error, key) from None
        finally:
            os.close(file)

    def _link_new(self, temporary: str, folder: str, name: str, directory: int) -> None:
        """Give a file in an open folder its name, if no blob has it."""
        try:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except FileExistsError:
            with suppress(FileNotFoundError):  # it was removed meanwhile
                if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    raise self._no_file(f"{folder}/{name}") from None
            raise
        os.unlink(temporary, dir_fd=directory)

    def copy(self, key: str, to: str) -> None:
        """Link a file under a second name, or copy it; see `BlobStore.copy`.

        The first name's time changes, too, because both names are of one file.
        """
        try:
            linked = key == to or self._link(key, to)
        except OSError as error:
            raise self._explained(error, key) from None
        if not linked:
            super().copy(key, to)

    def _link(self, key: str, to: str) -> bool:
        """Link a file under another name; return False if that can't be done, and `get` might."""
        folder, _, name = key.rpartition("/")
        to_folder, _, to_name = to.rpartition("/")
        if self._folders.folds is not False:
            self._folders.refuse_folded(to_folder, to_name)
        source, target = self._folders.open_both(folder, to_folder)
        try:
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return False  # a symbolic link is no blob
            # Before the link: with its old time, the copy could be taken for an old one.
            os.utime(name, dir_fd=source, follow_symlinks=False)
            if status.st_nlink == 1 or not is_file_of(to_name, target, status):
                link_over(name, source, to_name, target, TEMPORARY + unique())
        except IsADirectoryError:
            raise self._no_file(to) from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        finally:
            os.close(source)
            os.close(target)
        return True

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob; see `BlobStore.head`."""
        [data] = self.heads("", [key], size)
        if data is None:
            raise self._not_found(key)
        return data

    def heads(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        """Iterate over the beginnings of blobs; see `BlobStore.heads`."""
        for name in names:
            file, data = -1, None
            try:
                file = self._folders.open_unchecked(f"{folder}{name}")
                data = os.pread(file, size, 0)
                # A system call for those only that are no result: a device has any bytes.
                if data[:2] != MAGIC[:size][:2] and not stat.S_ISREG(os.fstat(file).st_mode):
                    data = None
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
            finally:
                if file >= 0:
                    os.close(file)
            yield data

    def blocks(self, key: str, size: int) -> Iterator[Buffer]:
        """Iterate over a blob in blocks; see `BlobStore.blocks`. They share one buffer."""
        file = self._open(key)
        try:
            view = memoryview(bytearray(size))
            while count := os.readv(file, [view]):
                yield view[:count]
        finally:
            os.close(file)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate over blobs; see `BlobStore.list`. One folder is read at a time."""
        folder, _, beginning = prefix.rpartition("/")
        for key in self._folders.walk(f"{folder}/" if folder else "", beginning):
            if not key.rpartition("/")[2].startswith(TEMPORARY):
                yield from self._described(key)

    def names(self, folder: str) -> Iterator[str]:
        """Iterate over the names in a folder; see `BlobStore.names`. Opens no file."""
        if not os.access(f"{self.root}/{folder}", os.F_OK):
            return  # quicker than catching the error
        yield from [
            entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/"
            for entry in self._folders.scan(folder)
            if not entry.name.startswith(TEMPORARY)
            and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
        ]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs, and folders that become empty; see `BlobStore.delete`."""
        by_folder: dict[str, list[str]] = {}
        for key in keys:
            folder, _, name = key.rpartition("/")
            by_folder.setdefault(folder, []).append(name)
        for folder, names in by_folder.items():
            self._folders.remove(folder, [name for name in names if name])
        for deepest in sorted(by_folder, reverse=True):
            folder = deepest
            while folder and self._folders.remove_folder(folder):
                folder = folder.rpartition("/")[0]

    def prepare(self, folder: str) -> None:
        """Make the folder; raise StoragePathError if it can't be made or written.

        Logs a warning, once, if other users may write to root.
        """
        try:
            directory = self._folders.enter(folder.rstrip("/"))
        except OSError as error:
            if isinstance(error, StoragePathError):
                raise
            raise StoragePathError(
                f"the storage at {self.root!r} can't be used: {error.strerror}: {error.filename!r}."
                " Its option 'path' must be a folder that you can write"
            ) from error
        try:  # not by its path: another process may remove the folder, as long as it is empty
            there = partial(os.access, mode=os.F_OK, dir_fd=directory)
            writes = partial(os.access, mode=os.W_OK | os.X_OK, dir_fd=directory)
            # Once more at the end: another process may have made or removed it meanwhile.
            here = (".", SIDE_DATA, EARLIER)
            refused = [n for n in here if not writes(n) and there(n) and not writes(n)]
        finally:
            os.close(directory)
        if refused:
            path = os.path.normpath(f"{self.root}/{folder}/{refused[0]}")
            raise StoragePathError(
                f"the storage can't be used: no permission to write in {path!r}. Ask its owner for"
                " it, or use another folder as option 'path'"
            )
        if not self._warned:
            self._warned = True
            if os.stat(self.root).st_mode & (stat.S_IWOTH | stat.S_IWGRP):
                logger.warning(
                    "others may write to the storage %r, and who can write a pickle there can run"
                    " code here: take the permission away, or sign results (option 'key')",
                    self.root,
                )

    def protocols(self, folder: str) -> dict[str, Any]:
        """Offer plain files under `folder`; see `BlobStore.protocols`."""
        return {FILE_PROTOCOL: PlainFiles(self._folders, folder)}

    def flush(self, keys: Iterable[str]) -> None:
        """Flush files and their folders; see `BlobStore.flush`. Big files become read-only."""
        folders = set()
        for key in keys:
            folders.add(key.rpartition("/")[0])
            file = self._open(key)
            try:
                protect(file)
            finally:
                flush_and_close(file)
        for folder in sorted(folders):
            directory = os.open(f"{self.root}/{folder}", FOLDER)
            try:
                os.fsync(directory)
                self._folders.flush_above(folder, directory)
            finally:
                os.close(directory)

    def now(self) -> float:
        """Return the time on the file system's clock, by touching a temporary file.

        Without a free inode, root is touched. Who may not do that either gets this machine's time.
        """
        path = f"{self.root}/{TEMPORARY}{os.urandom(8).hex()}"
        try:
            try:
                os.close(os.open(path, NEW, self._folders.file_mode))
            except OSError:
                os.utime(self.root)
                return os.stat(self.root).st_ctime  # some clients set st_mtime by their own clock
        except OSError:
            return time.time()
        try:
            return os.stat(path).st_mtime
        finally:
            unlink(path)

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Remove temporary files of killed writers; see `BlobStore.sweep`.

        Only files with the exact name of a temporary are removed: at the root, directly in its
        folders, and in our own folders of one with a marker.
        """
        if not os.path.isdir(self.root):
            return
        before = self.now() - older_than
        for key in self._temporaries():
            for blob in self._described(key):
                if blob.modified < before:
                    if not dry_run:
                        folder, _, name = key.rpartition("/")
                        self._folders.remove(folder, [name])
                    yield blob

    def _described(self, key: str) -> Iterator[BlobInfo]:
        try:
            status = os.lstat(f"{self.root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return  # removed after the folder was read
        etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        yield BlobInfo(key, status.st_size, status.st_mtime, etag)

    def _temporaries(self) -> Iterator[str]:
        """Iterate over the keys of temporary files of ours; see `sweep`."""
        scan = self._folders.scan
        at_root = [(each.name, each.is_dir(follow_symlinks=False)) for each in scan("")]
        for name, is_folder in sorted(at_root):
            if not is_folder:
                yield from filter(_is_by_us, [name])
                continue
            inside: list[str] = []
            with suppress(PermissionError):  # it belongs to somebody else
                inside += [
                    f"{name}/{each.name}"
                    for each in scan(f"{name}/")
                    if each.name.startswith(".") and each.is_file(follow_symlinks=False)
                ]
            yield from filter(_is_by_us, sorted(inside))
            if f"{name}/{MARKER}" in inside:
                for own in (*OWN, ORIGINAL):
                    yield from filter(_is_by_us, self._folders.walk(f"{name}/{own}"))

    def _open(self, key: str) -> int:
        try:
            if key.endswith("/"):
                return os.open(f"{self.root}/{key}", FOLDER)
            return self._folders.open(key)
        except OSError as error:
            raise self._explained(error, key) from None

    def _explained(self, error: OSError, key: str) -> OSError:
        return self._not_found(key) if error.errno in NO_FILE else error

    def _no_file(self, key: str) -> StoragePathError:
        path = f"{self.root}/{key}"
        return StoragePathError(f"{path!r} is no file, so nothing can be stored there: remove it")

    def _not_found(self, key: str) -> ResultNotFoundError:
        return ResultNotFoundError(f"no blob {key!r} in {self!r}")


def _is_temporary(key: str) -> bool:
    return key.rpartition("/")[2].startswith(TEMPORARY)
