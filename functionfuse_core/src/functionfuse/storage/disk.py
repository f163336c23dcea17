"""Files on a disk: written whole, flushed, read and mapped."""

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
    """Open a file as `open` asks for it, following no symbolic link."""
    return os.open(path, flags | SAFELY)


def write_all(file: int, parts: Sequence[Buffer]) -> None:
    """Write all bytes of all parts; a call may take fewer than it was given."""
    if isinstance(parts, (list, tuple)):
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
    """Have the file system find room for a big part of a file before it is written.

    A disk lays it out in one piece, and says at once if it is full. In memory it is in huge pages,
    if the file is open for reading, too. Bytes that are there stay as they are.
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
    """Tell whether a file is on a device; those in memory and over a network are on none."""
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
    """Return what a file of a known size has from here on; less if it was cut meanwhile."""
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
    """Flush a folder, so that what was made or renamed in it survives a loss of power."""
    try:
        descriptor = os.open(path, FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
    except PermissionError:
        return  # whoever owns it made it: it was there before the store
    flush_and_close(descriptor)


def make_folder(segment: str, mode: int, directory: int) -> None:
    """Make a folder in an open folder, unless it is there."""
    try:
        os.mkdir(segment, mode, dir_fd=directory)
    except FileExistsError:
        return


def unlink(path: str, directory: int | None = None) -> None:
    """Remove a file, in an open folder if one is given; one that isn't there is no error."""
    try:
        os.unlink(path, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # a folder of that name is no file


HUGE_PAGE = 2 << 20
_WINDOW = 8 << 20  # bytes that are mapped at once: address space may be limited
_POPULATE_READ, _COLLAPSE = 22, 25
_MAP_FIXED = 0x10


def use_huge_pages(file: int, start: int, end: int) -> None:
    """Have the bytes of a file in huge pages, as far as it is long; they stay what they are.

    Where pages are missing they are made, of zeros, before anything is written: that takes half
    the time, and so does the first read. The file must be open for reading, too. Other threads may
    write to it meanwhile.
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
    """Map a part of the file over a part of `room` where huge pages can begin, and make them."""
    import ctypes  # its functions let other threads run, those of mmap don't

    c = _c_library()
    begin = ctypes.addressof(ctypes.c_char.from_buffer(room))
    address = begin + -begin % HUGE_PAGE
    if c.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, file, offset) != address:
        return False
    for page in range(address, address + size, HUGE_PAGE):  # where nothing is, none are made
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
