"""Huge pages for big files in memory: 512 small pages as one, which is found at once.

Linux 6.1 and later makes them of a file on tmpfs when it is asked to (madvise(2), MADV_COLLAPSE),
whatever the mount says. Other kernels and file systems refuse, and nothing is lost.
"""

from __future__ import annotations

import functools
import mmap
import sys
from typing import Any

__all__ = ["HUGE_PAGE", "use_huge_pages"]

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
