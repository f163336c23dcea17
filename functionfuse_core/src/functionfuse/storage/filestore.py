"""`FileStore`: blobs as files below a folder."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import InvalidNameError, ResultNotFoundError, StoragePathError
from ..serializers import FILE_PROTOCOL
from .blobstore import BlobInfo, BlobStore, Buffer
from .disk import FOLDER, SAFELY, flush_and_close, read_all, unlink, write_all
from .folders import Folders, PlainFiles
from .keys import unique

__all__ = ["FileStore"]

logger = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_MAPPED_FROM = 1 << 20  # bytes; below, a plain read is quicker than a map and its page faults
_READ_AT_ONCE = 4096
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
_READ = os.O_RDONLY | SAFELY
# A symbolic link is no blob; for it, O_NOFOLLOW gives ELOOP or EMLINK.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK)
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
    below `root`. Reads of 1 MiB and more are private, writable memory maps.
    """

    def __init__(self, root: str, *, private: bool = False) -> None:
        self.root = root
        self.private = private
        self._folders = Folders(root, private=private)
        self._folds: bool | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"FileStore({self.root!r})"

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`."""
        folder, _, name = key.rpartition("/")
        if self._folds is not False:
            self._refuse_folded(folder, name)
        temporary = _TEMPORARY + unique()
        directory, file = self._folders.create(folder, temporary, _NEW)
        try:
            try:
                try:
                    write_all(file, parts)
                    if durable:
                        os.fsync(file)
                finally:
                    os.close(file)
                if if_absent:
                    os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                    os.unlink(temporary, dir_fd=directory)
                else:
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException as error:
                try:
                    unlink(temporary, directory)
                except OSError as second:
                    error.add_note(f"its temporary file {temporary!r} is left for gc: {second}")
                raise
            if durable:
                os.fsync(directory)
                self._folders.flush_above(folder)
        finally:
            os.close(directory)

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        try:
            file = os.open(f"{self.root}/{key}", _READ)
        except OSError as error:
            raise self._explained(error, key) from None
        try:
            # A small file is read without asking for its size: a second read proves the end.
            data = bytearray(_READ_AT_ONCE)
            count = os.readv(file, [data])
            if count < _READ_AT_ONCE and not os.read(file, 1):
                del data[count:]
                return data
            os.lseek(file, 0, os.SEEK_SET)
            size = os.fstat(file).st_size
            if size >= _MAPPED_FROM:
                try:
                    return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_COPY))
                except OSError:
                    # No maps on this file system, or too many open: read it instead.
                    return read_all(file, size)
            return read_all(file, size)
        except IsADirectoryError:
            raise self._not_found(key) from None
        finally:
            os.close(file)

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
        if self._folds is not False:
            self._refuse_folded(to_folder, to_name)
        source, target = self._folders.open_both(folder, to_folder)
        try:
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return False  # a symbolic link is no blob
            # Before the link: with its old time, the copy could be taken for an old one.
            os.utime(name, dir_fd=source, follow_symlinks=False)
            if status.st_nlink == 1 or not _is_file(to_name, target, status):
                _link_over(name, source, to_name, target)
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
            try:
                file = os.open(f"{self.root}/{folder}{name}", _READ)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                yield None
                continue
            data: Buffer | None = None
            try:
                data = os.read(file, size)
            except IsADirectoryError:
                pass  # a folder is no blob
            finally:
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
        for path, entry in self._folders.walk(f"{folder}/" if folder else "", beginning):
            if not entry.name.startswith(_TEMPORARY):
                yield from _described(path, entry)

    def names(self, folder: str) -> Iterator[str]:
        """Iterate over the names in a folder; see `BlobStore.names`. Opens no file."""
        if not os.access(f"{self.root}/{folder}", os.F_OK):
            return  # quicker than catching the error
        for entry in self._folders.scan(folder):
            if not (entry.name.startswith(_TEMPORARY) or entry.is_symlink()):
                yield entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/"

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
            writable = os.access(".", os.W_OK | os.X_OK, dir_fd=directory)
        finally:
            os.close(directory)
        if not writable:
            path = f"{self.root}/{folder}"
            raise StoragePathError(f"the storage can't be used: no permission to write in {path!r}")
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
        """Flush files and their folders; see `BlobStore.flush`."""
        folders = set()
        for key in keys:
            folders.add(key.rpartition("/")[0])
            flush_and_close(self._open(key))
        for folder in sorted(folders):
            flush_and_close(os.open(f"{self.root}/{folder}", FOLDER))
            self._folders.flush_above(folder)

    def now(self) -> float:
        """Return the time on the file system's clock, by touching a temporary file."""
        path = f"{self.root}/{_TEMPORARY}{os.urandom(8).hex()}"
        try:
            os.close(os.open(path, _NEW | SAFELY, self._folders.file_mode))
        except FileNotFoundError:
            return time.time()  # there is no root, so no blob has an age
        try:
            return os.stat(path).st_mtime
        finally:
            unlink(path)

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Remove temporary files of killed writers; see `BlobStore.sweep`."""
        if not os.path.isdir(self.root):
            return
        before = self.now() - older_than
        for path, entry in self._folders.walk(""):
            if entry.name.startswith(_TEMPORARY):
                for blob in _described(path, entry):
                    if blob.modified < before:
                        if not dry_run:
                            folder, _, name = path.rpartition("/")
                            self._folders.remove(folder, [name])
                        yield blob

    def _open(self, key: str) -> int:
        try:
            return os.open(f"{self.root}/{key}", _READ)
        except OSError as error:
            raise self._explained(error, key) from None

    def _explained(self, error: OSError, key: str) -> OSError:
        return self._not_found(key) if error.errno in _ABSENT else error

    def _not_found(self, key: str) -> ResultNotFoundError:
        return ResultNotFoundError(f"no blob {key!r} in {self!r}")

    def _refuse_folded(self, folder: str, name: str) -> None:
        """Refuse a second name that differs only in case, if the file system folds case."""
        os.close(self._folders.enter(folder))
        if self._folds is None:
            probe = f"{self.root}/{_TEMPORARY}{os.urandom(8).hex()}-probe"
            file = os.open(probe, _NEW | SAFELY, 0o600)
            try:
                os.close(file)
                self._folds = os.path.lexists(probe[: -len("probe")] + "PROBE")
            finally:
                unlink(probe)
        if self._folds:
            workflow, _, rest = folder.partition("/")
            for where, segment in (("", workflow), (workflow if not rest else folder, name)):
                for entry in self._folders.scan(where):
                    if entry.name != segment and entry.name.casefold() == segment.casefold():
                        raise InvalidNameError(
                            f"{segment!r} can't be stored beside {entry.name!r}: the file system"
                            f" of {self.root!r} does not tell upper from lower case"
                        )


def _is_file(name: str, directory: int, status: os.stat_result) -> bool:
    """Return whether a name in an open folder is of this file."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, status)


def _link_over(name: str, source: int, to_name: str, target: int) -> None:
    """Link a file under a name in another open folder, replacing a file there."""
    try:
        os.link(name, to_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        temporary = _TEMPORARY + unique()
        os.link(name, temporary, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        try:
            os.rename(temporary, to_name, src_dir_fd=target, dst_dir_fd=target)
        finally:
            unlink(temporary, target)  # it is still there if both names were of one file


def _described(key: str, entry: os.DirEntry[str]) -> Iterator[BlobInfo]:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # removed after the folder was read
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    yield BlobInfo(key, status.st_size, status.st_mtime, etag)
