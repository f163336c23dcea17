"""Files beside results, through the file protocol: read, written in place, and for a short time.

No file is opened by its path: the protocol follows no planted link, and workers get it pickled.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any
from weakref import WeakValueDictionary, ref

import numpy as np

from functionfuse.errors import DamagedResultError, ResultNotFoundError, StoragePathError
from functionfuse.storage.blobstore import Buffer, StagedFiles
from functionfuse.storage.disk import BIG, HUGE_PAGE, lay_out, map_file, on_device

from .elements import Block

__all__ = [
    "BlockFiles",
    "LocalFile",
    "StagedFile",
    "find_room",
    "is_local",
    "open_to_write",
    "remove_all",
    "source_of",
    "write_at",
]

logger = logging.getLogger(__name__)

_MAPPED_FROM = 64 << 10  # bytes; below, a plain read is quicker than page faults

_MOST_MAPS = 16  # each takes a file descriptor

_maps: WeakValueDictionary[tuple[int, int], mmap.mmap] = WeakValueDictionary()
_last_mapped: deque[ref[LocalFile]] = deque()
_changing = threading.Lock()


class LocalFile:
    """A plain local file that never changes. It is opened for each read, and closed.

    Its map is held as long as this object, so that a second read finds the pages in memory. At most
    `_MOST_MAPS` maps are held: those of the files mapped last.

    Args:
        files: the file protocol.
        private: whether bytes are always copied: whoever can write a file can change a map of it.
    """

    def __init__(self, files: Any, name: str, size: int, *, private: bool = False) -> None:
        self.files = files
        self.name = name
        self.size = size
        self.private = private
        self._mapped: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def bytes_at(self, offset: int, size: int) -> Block:
        """Return bytes as a part of a read-only map, which all reads of this process share.

        The bytes are read into memory instead if they are few, or the file is small and so can be
        written by others, or it can't be mapped: see `map_file`.
        """
        with self._open() as file:
            mapped = None
            if size >= _MAPPED_FROM and self.size >= BIG and not self.private:
                mapped = self._map(file.fileno())
            if mapped is None:
                data = np.empty(size, np.uint8)
                _read_into(file, offset, data.data)
                return data
        return np.frombuffer(mapped, np.uint8, size, offset)

    def gathered(self, runs: list[tuple[int, int]]) -> Block:
        """Return several runs of bytes, joined."""
        data, position = np.empty(sum(size for _, size in runs), np.uint8), 0
        with self._open() as file:
            for offset, size in runs:
                _read_into(file, offset, data.data[position : position + size])
                position += size
        return data

    def opened(self) -> IO[bytes]:
        """Open the file, for `hdf5_in`. Checks its size first."""
        return self._open()

    def _open(self) -> io.FileIO:
        try:
            file = _raw(self.files.open(self.name, "rb"))
        except FileNotFoundError:
            raise _gone(self.name) from None
        size = os.fstat(file.fileno()).st_size
        if size != self.size:
            file.close()
            raise DamagedResultError(f"{self.name!r} has {size} bytes and not {self.size}")
        return file

    def _map(self, file: int) -> mmap.mmap | None:
        status = os.fstat(file)
        key = status.st_dev, status.st_ino
        found = _maps.get(key)
        if found is None:
            found = map_file(file, self.size, mmap.ACCESS_READ)
            if found is None:
                return None
            _maps[key] = found
        if self._mapped is not found:
            self._mapped = found
            with _changing:
                _last_mapped.append(ref(self))
                oldest = _last_mapped.popleft()() if len(_last_mapped) > _MOST_MAPS else None
            if oldest is not None:
                oldest._mapped = None
        return found


class StagedFile:
    """A file that only a storage can open. It is read as a whole, once per process and array."""

    def __init__(self, files: Any, name: str, size: int) -> None:
        self.files = files
        self.name = name
        self.size = size
        self._data: bytes | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return StagedFile, (self.files, self.name, self.size)

    def bytes_at(self, offset: int, size: int) -> Block:
        """Return bytes of the file."""
        return np.frombuffer(self._whole(), np.uint8, size, offset)

    def gathered(self, runs: list[tuple[int, int]]) -> Block:
        """Return several runs of bytes, joined."""
        return np.concatenate([self.bytes_at(*run) for run in runs])

    def opened(self) -> IO[bytes]:
        """Return a file in memory, for `hdf5_in`."""
        return io.BytesIO(self._whole())

    def _whole(self) -> bytes:
        with self._lock:
            if self._data is None:
                try:
                    with self.files.open(self.name, "rb") as file:
                        data = file.read()
                except FileNotFoundError:
                    raise _gone(self.name) from None
                if len(data) != self.size:
                    raise DamagedResultError(
                        f"{self.name!r} has {len(data)} bytes and not {self.size}"
                    )
                self._data = data
            return self._data


def source_of(files: Any, name: str, size: int) -> LocalFile | StagedFile:
    """Return the source of a file of the file protocol.

    Raises:
        FileNotFoundError: the file is missing.
    """
    with files.open(name, "rb") as file:
        local = is_local(file)
    if local:
        return LocalFile(files, name, size, private=files.signed)
    return StagedFile(files, name, size)


def is_local(file: IO[Any]) -> bool:
    """Return whether an opened file is a plain local one."""
    return isinstance(getattr(file, "name", None), str)


def open_to_write(files: Any, name: str) -> io.FileIO:
    """Open an existing plain file to change it, unbuffered.

    Raises:
        StoragePathError: it is not there, or is another kind of file, or has another name, too: so
            nobody can plant a hard link that leads the bytes to another file.
    """
    refuse_unseen(files, name)
    file = _raw(files.open(name, "r+b"))
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        file.close()
        raise StoragePathError(
            f"the file {name!r} was replaced by another while a result is saved: look who else"
            " writes to the folder of the storage"
        )
    return file


def refuse_unseen(files: Any, name: str) -> None:
    """Raise StoragePathError if a plain file that the client has made is not there."""
    try:
        files.open(name, "rb").close()
    except FileNotFoundError as error:
        raise _unseen(f"A worker of dask does not see the file {name!r}") from error


def _unseen(problem: str) -> StoragePathError:
    return StoragePathError(
        f"{problem}: mount the folder of the storage at the same path for all workers, or store"
        " in S3, or compute in this process: with dask.config.set(scheduler='threads')"
    )


def _raw(file: Any) -> io.FileIO:
    """Return an opened file without its buffer."""
    found: io.FileIO = file.detach() if hasattr(file, "detach") else file
    return found


def find_room(file: int) -> None:
    """Allocate a big file on disk in one piece, which fails at once if the disk is full.

    A file in memory is allocated by `write_at`: each writer allocates its own bytes.
    """
    size = os.fstat(file).st_size
    if size >= BIG and on_device(file):
        lay_out(file, 0, size)


def write_at(file: IO[bytes], pieces: list[tuple[int, memoryview]]) -> None:
    """Write pieces into a file that is open to be changed, each at its offset."""
    local = isinstance(file, io.FileIO)
    for start, data in pieces:
        if local and len(data) >= HUGE_PAGE and not on_device(file.fileno()):
            lay_out(file.fileno(), start, len(data))
        file.seek(start)
        view = data
        while view:
            view = view[file.write(view) :]


@dataclass(frozen=True)
class BlockFiles:
    """Temporary files beside a result, in which workers leave blocks for the client and others.

    Whoever can write to the store can change them. So the digest of a file goes with the record
    that the worker returns to the client, and is compared before the bytes are used.

    Attributes:
        files: the file protocol, which does not note these files for the result.
        name: of a file that the client has made; the names of the others begin with it.
        local: whether the files are plain local ones.
        digest: that of `files`; it pickles.
    """

    files: Any
    name: str
    local: bool
    digest: Callable[[Buffer], bytes]

    @classmethod
    def beside(cls, files: Any, name: str, local: bool | None = None) -> BlockFiles:
        """Return those of the file protocol of a save; make the file `name` if local is None."""
        plain = files.files
        if local is None:
            with plain.open(name, "xb") as file:
                local = is_local(file)
        return cls(plain, name, local, files.digest)

    def write(self, number: object, parts: Sequence[Buffer]) -> bytes:
        """Write a file, also after another worker began it and died; return its digest."""
        name, data = self._name(number), parts[0] if len(parts) == 1 else b"".join(parts)
        if self.local:
            refuse_unseen(self.files, self.name)
        try:
            file = self.files.open(name, "xb")
        except FileExistsError:
            self.files.remove(name)  # never to be written in place: it may be a link
            file = self.files.open(name, "xb")
        with file:
            file.write(data)
        return self.digest(data)

    def read(self, number: object, expected: bytes) -> bytes:
        """Return the bytes of a file.

        Raises:
            StoragePathError: the file is not there.
            DamagedResultError: its bytes are not those that were written.
        """
        name = self._name(number)
        try:
            with self.files.open(name, "rb") as file:
                data: bytes = file.read()
        except FileNotFoundError as error:
            raise _unseen(f"The file {name!r} of a worker of dask is not seen here") from error
        if self.digest(data) != expected:
            raise DamagedResultError(
                f"the temporary file {name!r} is not what a worker of dask has written: look who"
                " else writes to the storage, and save again"
            )
        return data

    def remove(self, numbers: Iterable[object]) -> None:
        """Remove files; see `remove_all`."""
        remove_all(self.files, map(self._name, numbers))

    def _name(self, number: object) -> str:
        return f"{self.name}.{number}"


def remove_all(files: Any, names: Iterable[str]) -> None:
    """Remove files; missing ones are no error. What can't be removed is left for `gc`."""
    try:
        if isinstance(files, StagedFiles):  # with few requests
            files.store.delete([files.prefix + name for name in names])
        else:
            for name in names:
                files.remove(name)
    except OSError as error:
        logger.warning("temporary files are left for gc: %s", error)


def _read_into(file: io.FileIO, offset: int, view: memoryview) -> None:
    """Read bytes at an offset; raise DamagedResultError if the file ends before."""
    file.seek(offset)
    while view:
        count = file.readinto(view)
        if not count:
            raise DamagedResultError(f"{file.name!r} ends at byte {file.tell()}")
        view = view[count:]


def _gone(name: str) -> ResultNotFoundError:
    return ResultNotFoundError(
        f"{name!r} is gone: the result was removed or replaced since this array was read from the"
        " storage. Read the task again"
    )
