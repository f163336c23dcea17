"""Big files in memory are of huge pages where the kernel makes them; bytes stay as they are."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from functionfuse.storage.disk import HUGE_PAGE, _c_library, lay_out, use_huge_pages, write_all

MEMORY = Path("/dev/shm")
PAGES = Path("/sys/kernel/mm/transparent_hugepage")
COUNT = 8


def makes_huge_pages() -> bool:
    """Tell whether this kernel makes huge pages of files in memory when it is asked to."""
    if sys.platform != "linux" or not os.access(MEMORY, os.W_OK) or not PAGES.exists():
        return False
    version = tuple(map(int, platform.release().split(".")[:2]))
    denied = "[deny]" in (PAGES / "shmem_enabled").read_text()
    size = int((PAGES / "hpage_pmd_size").read_text())
    return version >= (6, 1) and size == HUGE_PAGE and not denied


@pytest.fixture(params=["memory", "disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A new file, in memory and on a disk."""
    folder = tmp_path
    if request.param == "memory":
        if not os.access(MEMORY, os.W_OK):
            pytest.skip(f"there is no memory file system at {MEMORY}")
        folder = MEMORY
    path = folder / f"functionfuse-test-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    path.unlink()
    yield descriptor
    os.close(descriptor)


def huge(file: int) -> int:
    """Return how many bytes of a file are in huge pages, by this process's own table of pages."""
    size, c = os.fstat(file).st_size, _c_library()
    with mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE) as room:
        begin = ctypes.addressof(ctypes.c_char.from_buffer(room))
        address = begin + -begin % HUGE_PAGE
        assert address == c.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | 0x10, file, 0)
        for offset in range(0, size, mmap.PAGESIZE):
            room[address - begin + offset]
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        next(line for line in lines if line.startswith(f"{address:x}-"))
        found = next(line for line in lines if line.startswith("ShmemPmdMapped:"))
    return int(found.split()[1]) << 10


def test_a_big_file_in_memory_is_of_huge_pages(file: int) -> None:
    """All of it that can be; a file on a disk is never."""
    size = COUNT * HUGE_PAGE + 5000
    write_all(file, [b"a" * 5000, os.urandom(COUNT * HUGE_PAGE)])
    assert size == os.fstat(file).st_size
    if os.major(os.fstat(file).st_dev):
        assert 0 == huge(file)
    elif not makes_huge_pages():
        pytest.skip("this kernel makes no huge pages of files in memory")
    else:
        assert COUNT * HUGE_PAGE == huge(file)


def test_a_part_that_is_laid_out_keeps_its_bytes(file: int) -> None:
    """Also when others write to it meanwhile; the file gets as long as it is to be."""
    size = COUNT * HUGE_PAGE + 10
    os.pwrite(file, b"begin", 0)
    lay_out(file, 100, size - 100)
    assert size == os.fstat(file).st_size
    assert b"begin\0" == os.pread(file, 6, 0)
    pieces = [os.urandom(100_000) for _ in range(size // 100_000)]

    def write() -> None:
        for number, piece in enumerate(pieces):
            os.pwrite(file, piece, number * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        lay_out(file, 0, size)
    writer.join()
    data = b"".join(pieces)
    assert data == os.pread(file, len(data), 0)
    assert size == os.fstat(file).st_size


def test_parts_one_after_the_other_are_laid_out_where_they_go(file: int) -> None:
    """Parts that are no list are written as they come."""
    data = os.urandom(16 << 20)
    write_all(file, iter([b"first", data, b"last"]))  # type: ignore[arg-type]
    assert len(data) + 9 == os.fstat(file).st_size
    assert b"first" + data + b"last" == os.pread(file, len(data) + 9, 0)


@pytest.mark.parametrize("size", [0, 1, HUGE_PAGE - 1, HUGE_PAGE])
def test_what_is_too_short_or_closed_to_reading_is_left_alone(tmp_path: Path, size: int) -> None:
    """Without an error: huge pages are an advice."""
    folder = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path
    path = folder / f"functionfuse-test-{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    path.unlink()
    os.ftruncate(file, size)
    use_huge_pages(file, 0, size)
    assert size == os.fstat(file).st_size
    os.close(file)
