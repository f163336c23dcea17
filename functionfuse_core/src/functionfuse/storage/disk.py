"""Files on a disk: write them whole, flush, read and map them."""

from __future__ import annotations

import errno
import functools
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Any

from .blobstore import Buffer, FirstPartLast

__all__ = [
    "FOLDER",
    "HUGE_PAGE",
    "SAFELY",
    "flush_and_close",
    "flush_folder",
    "lay_out",
    "make_folder",
    "on_device",
    "open_safely",
    "read_all",
    "unlink",
    "use_huge_pages",
    "write_all",
]


SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | SAFELY
_LAID_OUT_FROM = 16 << 20  # bytes
_PARTS_AT_ONCE = 1000  # IOV_MAX is 1024


def open_safely(path: str, flags: int) -> int:
    """Open a file without following a symbolic link; an opener for the builtin `open`."""
    return os.open(path, flags | SAFELY)


def write_all(file: int, parts: Sequence[Buffer]) -> None:
    """Write all bytes of all parts; a single system call may write fewer."""
    if isinstance(parts, (list, tuple)):
        if len(parts) == 1 and len(parts[0]) < _LAID_OUT_FROM:
            written = os.write(file, parts[0])
            if written < len(parts[0]):
                _write_rest(file, parts, written)
            return
        total = sum(map(len, parts))
        if total >= _LAID_OUT_FROM:
            lay_out(file, os.lseek(file, 0, os.SEEK_CUR), total)
        _write(file, parts)
    elif isinstance(parts, FirstPartLast):
        lay_out(file, 0, parts.first_size + sum(map(len, parts.rest)))
        os.lseek(file, parts.first_size, os.SEEK_SET)
        _write(file, parts.rest)
        os.lseek(file, 0, os.SEEK_SET)
        _write(file, [parts.first()])
    else:
        for part in parts:
            write_all(file, [part])


def lay_out(file: int, start: int, size: int) -> None:
    """Reserve space for a big part of a file before it is written.

    A disk reserves it in one piece, and reports at once if it is full. A file in memory gets huge
    pages, if it is open for reading, too. Existing bytes don't change.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    if on_device(file):
        try:
            os.posix_fallocate(file, start, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    else:
        end = start + size
        if os.fstat(file).st_size < end:
            os.ftruncate(file, end)
        use_huge_pages(file, start, end)


def on_device(file: int) -> bool:
    """Return whether a file is on a device; those in memory and over a network are not."""
    return hasattr(os, "major") and os.major(os.fstat(file).st_dev) != 0


def _write(file: int, parts: Sequence[Buffer]) -> None:
    if len(parts) > _PARTS_AT_ONCE:
        for start in range(0, len(parts), _PARTS_AT_ONCE):
            _write(file, parts[start : start + _PARTS_AT_ONCE])
        return
    written = os.writev(file, parts)
    if written != sum(map(len, parts)):
        _write_rest(file, parts, written)


def _write_rest(file: int, parts: Sequence[Buffer], written: int) -> None:
    for part in parts:
        view = memoryview(part)
        if written >= len(view):
            written -= len(view)
            continue
        view = view[written:]
        written = 0
        while view:
            view = view[os.write(file, view) :]


def read_all(file: int, size: int) -> bytearray:
    """Read `size` bytes from the current position; fewer if the file was cut meanwhile."""
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        count = os.readv(file, [view[done:]])
        if not count:
            break
        done += count
    return data if done == size else data[:done]


def flush_and_close(descriptor: int) -> None:
    """Flush a file or a folder, and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: str) -> None:
    """Flush a folder, so that files made or renamed in it survive a loss of power."""
    try:
        descriptor = os.open(path, FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
    except PermissionError:
        return  # it belongs to another user, so it is older than the store
    flush_and_close(descriptor)


def make_folder(segment: str, mode: int, directory: int) -> None:
    """Make a folder in an open folder, unless it exists."""
    try:
        os.mkdir(segment, mode, dir_fd=directory)
    except FileExistsError:
        return


def unlink(path: str, directory: int | None = None) -> None:
    """Remove a file, in an open folder if one is given; a missing file is no error."""
    try:
        os.unlink(path, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # a folder of that name is no file


HUGE_PAGE = 2 << 20
_WINDOW = 8 << 20  # bytes that are mapped at once: address space may be limited
_POPULATE_READ, _COLLAPSE = 22, 25  # advice of madvise(2)
_MAP_FIXED = 0x10


def use_huge_pages(file: int, start: int, end: int) -> None:
    """Move the bytes of a file into huge pages, up to its end at most, without changing them.

    Missing pages are made of zeros before anything is written: this halves the time of the write,
    and of the first read. Window by window, the file is mapped, populated and collapsed into huge
    pages. The file must be open for reading, too. Other threads may write to it meanwhile.
    """
    first, last = start - start % HUGE_PAGE, end - end % HUGE_PAGE
    if sys.platform != "linux" or first >= last:
        return
    size = min(_WINDOW, last - first)
    try:
        room = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE)
    except OSError:
        return  # no address space for it
    with room:
        for offset in range(first, last, size):
            if not _collapse(file, offset, min(size, last - offset), room):
                return


def _collapse(file: int, offset: int, size: int, room: mmap.mmap) -> bool:
    """Map a part of the file over an aligned part of `room`, and make its pages huge.

    Returns whether the system did it.
    """
    import ctypes  # its functions let other threads run, those of mmap don't

    c = _c_library()
    begin = ctypes.addressof(ctypes.c_char.from_buffer(room))
    address = begin + -begin % HUGE_PAGE
    if c.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, file, offset) != address:
        return False
    for page in range(address, address + size, HUGE_PAGE):  # missing pages are not collapsed
        if c.madvise(page, mmap.PAGESIZE, _POPULATE_READ):
            return False
    return not c.madvise(address, size, _COLLAPSE)


@functools.cache
def _c_library() -> Any:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        *[ctypes.c_int] * 3,
        ctypes.c_long,  # off_t
    ]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library
