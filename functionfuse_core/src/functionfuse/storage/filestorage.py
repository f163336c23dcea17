"""Kind "file": results in a folder, one file each, in one folder per workflow."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ..errors import ResultNotFoundError, StoragePathError
from ..hookspecs import StorageKind, hookimpl
from .blobstore import BlobInfo, BlobStore, Buffer
from .storage import Storage

__all__ = ["FileOptions", "FileStorage", "FileStore"]

_TEMPORARY = ".tmp-"
_MAPPED_FROM = 1 << 20  # below, a plain read is quicker than a map and its page faults
_PARTS_AT_ONCE = 1000  # IOV_MAX is 1024
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class FileOptions(BaseModel):
    """Options of the kind "file"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="The folder that holds the results; made when it is not there.")
    private: bool = Field(
        default=False,
        description="Only the user may read: files 0600, folders 0700. Else the umask decides.",
    )


class FileStore(BlobStore):
    """Blobs as files below `root`: a key is a path.

    A blob is written to a temporary file beside it and renamed, so it is whole or not there.
    Reads of 1 MiB and more are private, writable memory maps.
    """

    def __init__(self, root: str, *, private: bool = False) -> None:
        self.root = root
        self.private = private
        self._file_mode, self._folder_mode = (0o600, 0o700) if private else (0o666, 0o777)

    def __repr__(self) -> str:
        return f"FileStore({self.root!r})"

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`."""
        path = f"{self.root}/{key}"
        folder = path[: path.rindex("/")]
        temporary = f"{folder}/{_TEMPORARY}{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
        try:
            file = os.open(temporary, flags, self._file_mode)
        except FileNotFoundError:
            os.makedirs(folder, self._folder_mode, exist_ok=True)
            file = os.open(temporary, flags, self._file_mode)
        try:
            try:
                _write(file, parts)
                if durable:
                    os.fsync(file)
            finally:
                os.close(file)
            if if_absent:
                os.link(temporary, path)
                os.unlink(temporary)
            else:
                os.replace(temporary, path)
        except BaseException:
            # The rename can have succeeded before an interrupt: then there is nothing to remove.
            _unlink(temporary)
            raise
        if durable:
            _flush_folder(folder)

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        file = self._open(key)
        try:
            size = os.fstat(file).st_size
            if size >= _MAPPED_FROM:
                try:
                    return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_COPY))
                except OSError:
                    pass  # no maps on this file system, or no file descriptor left: read it
            return _read(file, size)
        finally:
            os.close(file)

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob; see `BlobStore.head`."""
        file = self._open(key)
        try:
            return os.read(file, size)
        finally:
            os.close(file)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs; see `BlobStore.list`. One folder is read at a time."""
        folder, _, beginning = prefix.rpartition("/")
        return self._walk(f"{folder}/" if folder else "", beginning)

    def names(self, folder: str) -> Iterator[str]:
        """Iterate what is in a folder; see `BlobStore.names`. Opens no file."""
        for entry in self._scan(folder):
            if not entry.name.startswith(_TEMPORARY):
                yield entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/"

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs, and folders that are empty then; see `BlobStore.delete`."""
        folders = set()
        for key in keys:
            if not key.endswith("/"):
                _unlink(f"{self.root}/{key}")
            folders.add(key.rpartition("/")[0])
        for deepest in sorted(folders, reverse=True):
            folder = deepest
            while folder:
                try:
                    os.rmdir(f"{self.root}/{folder}")
                except OSError:
                    break  # something is in it, or somebody else has removed it
                folder = folder.rpartition("/")[0]

    def prepare(self, folder: str) -> None:
        """Make the folder, or raise StoragePathError if it can't be made or written."""
        path = f"{self.root}/{folder}"
        try:
            os.makedirs(path, self._folder_mode, exist_ok=True)
        except OSError as error:
            raise StoragePathError(
                f"the storage at {self.root!r} can't be used: {error.strerror}: {error.filename!r}."
                " Its option 'path' must be a folder that you can write"
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoragePathError(f"the storage can't be used: no permission to write in {path!r}")

    def _open(self, key: str) -> int:
        try:
            return os.open(f"{self.root}/{key}", os.O_RDONLY | _NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            raise ResultNotFoundError(f"no blob {key!r} in {self!r}") from None

    def _scan(self, folder: str) -> Sequence[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _walk(self, folder: str, beginning: str = "") -> Iterator[BlobInfo]:
        found = [
            (entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/", entry)
            for entry in self._scan(folder)
            if entry.name.startswith(beginning) and not entry.name.startswith(_TEMPORARY)
        ]
        for name, entry in sorted(found, key=lambda pair: pair[0]):
            key = folder + name
            if name.endswith("/"):
                if not entry.is_symlink():
                    yield from self._walk(key)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since the folder was read
            etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
            yield BlobInfo(key, status.st_size, status.st_mtime, etag)


class FileStorage(Storage):
    """Results in files below `path`. `storage_factory` makes one from a config.

    Args:
        path: the folder; it is made when the first workflow or result is.
        options: the other options of the kind, see `FileOptions`.
    """

    def __init__(self, path: str | os.PathLike[str], **options: bool) -> None:
        self.options = FileOptions(path=Path(path), **options)
        self.path = os.path.abspath(os.path.expanduser(self.options.path))
        super().__init__(FileStore(self.path, private=self.options.private))


def _build(options: FileOptions) -> FileStorage:
    return FileStorage(**dict(options))


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Bring the kind "file"."""
    return [StorageKind("file", FileOptions, _build)]


def _write(file: int, parts: Sequence[Buffer]) -> None:
    """Write all bytes of all parts; a call may take fewer than it was given."""
    for start in range(0, len(parts), _PARTS_AT_ONCE):
        views = parts[start : start + _PARTS_AT_ONCE]
        total = sum(map(len, views))
        written = os.writev(file, views)
        if written != total:
            _write_rest(file, views, written)


def _write_rest(file: int, views: Sequence[Buffer], written: int) -> None:
    for part in views:
        view = memoryview(part)
        if written >= len(view):
            written -= len(view)
            continue
        view = view[written:]
        written = 0
        while view:
            view = view[os.write(file, view) :]


def _read(file: int, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        count = os.readv(file, [view[done:]])
        if not count:
            break
        done += count
    return data if done == size else data[:done]


def _flush_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return
