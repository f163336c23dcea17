"""Files on a disk: write them whole, flush, read and map them."""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from .blobstore import Buffer, FirstPartLast

__all__ = [
    "BIG",
    "FOLDER",
    "HUGE_PAGE",
    "NO_FILE",
    "SAFELY",
    "flush_and_close",
    "flush_folder",
    "identity",
    "is_file_of",
    "lay_out",
    "link_over",
    "make_folder",
    "map_file",
    "on_device",
    "open_safely",
    "own_memory",
    "owned",
    "protect",
    "read_all",
    "unlink",
    "use_huge_pages",
    "write_all",
]


# Follow no symbolic link; and don't wait for a writer, if the path is a pipe.
_FLAGS = ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NONBLOCK")
SAFELY: int = sum(getattr(os, flag, 0) for flag in _FLAGS)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | SAFELY
BIG = 16 << 20  # bytes; from here on, a file is laid out, can't be written later, and is mapped
_MOST_MAPS = 64  # alive at once in a process, because each takes a file descriptor
# Errors of open and pread where no regular file is: nothing, a symbolic link (ELOOP or EMLINK), a
# folder (EISDIR), a pipe (ESPIPE), a socket (ENXIO or EOPNOTSUPP), a device without a driver.
NO_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.EISDIR),
    *(errno.ESPIPE, errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV),
)
_GET_GENERATION = 0x80087601  # FS_IOC_GETVERSION of Linux
_PARTS_AT_ONCE = 1000  # IOV_MAX is 1024


def open_safely(path: str, flags: int, directory: int | None = None) -> int:
    """Open a regular file without following a symbolic link; an opener for the builtin `open`.

    Args:
        directory: an open folder that the path begins in, if one is given.

    Raises FileNotFoundError for a folder, a pipe, a socket and a device, at once.
    """
    try:
        file = os.open(path, flags | SAFELY, dir_fd=directory)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise FileNotFoundError(errno.ENOENT, "no regular file", path) from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", path)
    except BaseException:  # an interrupt, too
        os.close(file)
        raise
    return file


def write_all(file: int, parts: Sequence[Buffer]) -> int:
    """Write all bytes of all parts, and return their number; a system call may write fewer."""
    if isinstance(parts, (list, tuple)):
        if len(parts) == 1 and len(parts[0]) < BIG:
            written = os.write(file, parts[0])
            if written < len(parts[0]):
                _write_rest(file, parts, written)
            return len(parts[0])
        total = sum(map(len, parts))
        if total >= BIG:
            lay_out(file, os.lseek(file, 0, os.SEEK_CUR), total)
        _write(file, parts)
        return total
    if isinstance(parts, FirstPartLast):
        total = parts.first_size + sum(map(len, parts.rest))
        lay_out(file, 0, total)
        os.lseek(file, parts.first_size, os.SEEK_SET)
        _write(file, parts.rest)
        os.lseek(file, 0, os.SEEK_SET)
        _write(file, [parts.first()])
        return total
    return sum([write_all(file, [part]) for part in parts])


def protect(file: int, smallest: int = BIG) -> None:
    """Take the right to write a big file away from everybody: readers may have a map of it.

    Root can still write it. Smaller files, and file systems without rights, stay as they are.
    """
    status = os.fstat(file)
    if status.st_size < smallest or not stat.S_ISREG(status.st_mode):
        return
    try:
        os.fchmod(file, stat.S_IMODE(status.st_mode) & ~0o222)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


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


def read_all(file: int, size: int) -> bytearray | memoryview:
    """Read `size` bytes from the current position into memory that only this process has.

    They are fewer if the file was cut meanwhile. Big memory is mapped without a file, in huge
    pages: it takes a fifth of the time of a `bytearray`, which is filled with zeros first, in small
    pages. (The buffer of a `BytesIO` would be as quick. But Python 3.12 crashes when the garbage
    collector meets such buffers in cycles.)
    """
    data = own_memory(size) if size >= BIG else bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size and (count := os.readv(file, [view[done:]])):
        done += count
    return data if done == size else data[:done]


class OwnMemory(mmap.mmap):
    """Memory that only this process has. It needs no file, and is freed with the last view."""


def own_memory(size: int) -> bytearray | memoryview:
    """Return zeros in memory of our own, in huge pages if the system has them."""
    try:
        memory = OwnMemory(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (AttributeError, OSError):  # not on this system; or it has no more maps
        return bytearray(size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # the system has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def owned(data: Buffer) -> Buffer:
    """Return the same bytes in memory that only this process has, copied if they aren't yet."""
    if not isinstance(data, memoryview) or isinstance(data.obj, (bytes, bytearray, OwnMemory)):
        return data
    memory = own_memory(len(data)) if len(data) >= BIG else bytearray(len(data))
    memory[:] = data
    return memory


_maps: WeakSet[mmap.mmap] = WeakSet()


def map_file(file: int, size: int, access: int) -> mmap.mmap | None:
    """Return a map of the first bytes of a file; None if the system refuses, or 64 are alive.

    A map is alive as long as a value uses its memory, also in forked processes.
    """
    if len(_maps) >= _MOST_MAPS:  # threads that look at the same time can exceed it a little
        return None
    try:
        found = mmap.mmap(file, size, access=access)
    except (OSError, ValueError):  # no maps on this file system; or the file was cut meanwhile
        return None
    _maps.add(found)
    return found


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


def identity(folder: int) -> tuple[int, int, bytes] | None:
    """Return the identity of an open folder, which no other folder ever has; None if unknown.

    The number of a removed folder is given to a new one. So the inode's generation is a part of it,
    which Linux tells of ext4, XFS, btrfs and F2FS.
    """
    try:
        generation = fcntl.ioctl(folder, _GET_GENERATION, bytes(8))
    except OSError:
        return None
    status = os.fstat(folder)
    return status.st_dev, status.st_ino, generation


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


def is_file_of(name: str, directory: int, status: os.stat_result) -> bool:
    """Return whether a name in an open folder is of this file."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, status)


def link_over(name: str, source: int, to_name: str, target: int, temporary: str) -> None:
    """Link a file under a name in another open folder, replacing a file there, by a temporary."""
    try:
        os.link(name, to_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        os.link(name, temporary, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        try:
            os.rename(temporary, to_name, src_dir_fd=target, dst_dir_fd=target)
        finally:
            unlink(temporary, target)  # it is still there if both names were of one file


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
