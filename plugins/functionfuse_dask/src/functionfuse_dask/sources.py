"""Sources of bytes: local or staged files beside results; and a folder for temporary files."""

from __future__ import annotations

import io
import logging
import mmap
import os
import shutil
import tempfile
import threading
from collections import deque
from contextlib import ExitStack
from typing import IO, Any, Self
from weakref import WeakValueDictionary, ref

import numpy as np

from functionfuse.errors import DamagedResultError, OptionsError, ResultNotFoundError
from functionfuse.serializers import generate_name
from functionfuse.storage.disk import HUGE_PAGE, lay_out, on_device, open_safely

from .elements import Block

__all__ = ["LocalFile", "Room", "StagedFile", "find_room", "source_of", "write_at"]

logger = logging.getLogger(__name__)

_LAID_OUT_FROM = 16 << 20  # bytes
_MAPPED_FROM = 64 << 10  # bytes; below, a plain read is quicker than page faults

_MOST_MAPS = 16  # each takes a file descriptor

_maps: WeakValueDictionary[tuple[int, int], mmap.mmap] = WeakValueDictionary()
_last_mapped: deque[ref[LocalFile]] = deque()
_changing = threading.Lock()


class LocalFile:
    """A plain local file that never changes. It is opened for each read, and closed.

    Its map is held as long as this object, so that a second read finds the pages in memory. At most
    `_MOST_MAPS` maps are held: those of the files mapped last.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._mapped: mmap.mmap | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFile, (self.path, self.size)

    def bytes_at(self, offset: int, size: int) -> Block:
        """Return bytes as a part of a read-only map, which all reads of this process share.

        The bytes are read into memory instead if they are few, or if the file can't be mapped as a
        whole (too little address space, too many maps).
        """
        with self._open() as file:
            mapped = self._map(file.fileno()) if size >= _MAPPED_FROM else None
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

    def opened(self) -> IO[bytes] | str:
        """Return the path, for h5py. Checks the file's size first."""
        self._open().close()
        return self.path

    def _open(self) -> io.FileIO:
        try:
            file = io.FileIO(self.path, "r", opener=open_safely)
        except FileNotFoundError:
            raise _gone(self.path) from None
        size = os.fstat(file.fileno()).st_size
        if size != self.size:
            file.close()
            raise DamagedResultError(f"{self.path!r} has {size} bytes and not {self.size}")
        return file

    def _map(self, file: int) -> mmap.mmap | None:
        status = os.fstat(file)
        key = status.st_dev, status.st_ino
        found = _maps.get(key)
        if found is None:
            try:
                found = mmap.mmap(file, self.size, access=mmap.ACCESS_READ)
            except OSError:
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

    def opened(self) -> IO[bytes] | str:
        """Return a file in memory, for h5py."""
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
        path = getattr(file, "name", None)
    if isinstance(path, str):
        return LocalFile(os.path.abspath(path), size)
    return StagedFile(files, name, size)


def find_room(path: str) -> None:
    """Allocate a big file on disk in one piece, which fails at once if the disk is full.

    A file in memory is allocated by `write_at`: each writer allocates its own bytes.
    """
    with io.FileIO(path, "r+", opener=open_safely) as file:
        size = os.fstat(file.fileno()).st_size
        if size >= _LAID_OUT_FROM and on_device(file.fileno()):
            lay_out(file.fileno(), 0, size)


def write_at(path: str, pieces: list[tuple[int, memoryview]]) -> None:
    """Write pieces into an existing file, each at its offset."""
    with io.FileIO(path, "r+", opener=open_safely) as file:
        for start, data in pieces:
            if len(data) >= HUGE_PAGE and not on_device(file.fileno()):
                lay_out(file.fileno(), start, len(data))
            file.seek(start)
            view = data
            while view:
                view = view[file.write(view) :]


class Room:
    """A folder for temporary files, made on first use, beside the results if possible.

    The workers share the folder of the result's files, and it has enough space.
    """

    def __init__(self, files: Any) -> None:
        self.files = files
        self._path = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def path(self) -> str:
        """The folder."""
        if not self._path:
            name = generate_name()
            try:
                self._path = os.path.abspath(self.files.folder(name, "w"))
            except (AttributeError, OptionsError):
                folder = tempfile.TemporaryDirectory(prefix="functionfuse-")
                self._path = self._stack.enter_context(folder)
            else:
                self._stack.callback(self._remove, name)
        return self._path

    def _remove(self, name: str) -> None:
        try:
            shutil.rmtree(self._path)
        except OSError as error:  # after a failure, another process may still write into it
            logger.warning("temporary files are left for gc: %s", error)
        else:
            self.files.remove(name)


def _read_into(file: io.FileIO, offset: int, view: memoryview) -> None:
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
