"""How files are written and read: past HDF5's lock, from maps, in huge pages."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest

from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer, sources

NUMBERS = np.arange(70 * 50, dtype="f8").reshape(70, 50)
FORMATS = {
    "grid": (30, 20),
    "slabs": (30, 50),
    "irregular": ((3, 67), (49, 1)),
}
MEMORY = Path("/dev/shm")


@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_no_number_goes_through_h5py(
    storage: FileStorage, chunks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are written and read at their offsets; HDF5 sees neither."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("through h5py")

    monkeypatch.setattr(h5py.Dataset, "__setitem__", refuse)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    storage.save("w", "t", da.from_array(NUMBERS, chunks=chunks))
    monkeypatch.setattr(h5py, "File", refuse)
    assert np.array_equal(NUMBERS, storage.read_task("w", "t").compute())


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"format": "zarr"}])
@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_nothing_that_only_some_systems_have_is_needed(
    storage: FileStorage, chunks: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of POSIX, and maps of files: what is without them reads and writes all the same."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENODEV, "no maps here")

    for name in ("preadv", "pwrite", "pwritev", "posix_fallocate", "statvfs", "major"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(mmap, "mmap", refuse)
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    values = np.tile(NUMBERS, (20, 1))
    array = da.from_array(values, chunks=tuple(map(multiplied, chunks, (20, 1))))
    storage.save("w", "t", array)
    assert np.array_equal(values, storage.read_task("w", "t").compute())
    assert [""] == [record.problem for record in storage.verify()]


def multiplied(sizes: Any, times: int) -> Any:
    """Return the chunks of an axis, so many times as long."""
    return sizes * times if isinstance(sizes, int) else tuple(size * times for size in sizes)


def test_blocks_are_views_of_one_map(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of a big file is not copied, and the file is open as long as the array or a block."""
    monkeypatch.setattr(sources, "BIG", 1 << 16)
    array = da.from_array(np.arange(1 << 18), chunks=1 << 16)
    storage.save("w", "t", array)
    found = storage.read_task("w", "t")
    before = {*sources._maps}  # what other tests have left, until it is collected

    def maps() -> set[Any]:
        return {*sources._maps} - before

    assert not maps()
    flags = found.map_blocks(lambda block: np.array([block.flags.owndata, block.flags.writeable]))
    assert 0 == len(opened(storage))
    assert not flags.compute().any()
    del flags
    held = found.persist()
    assert (1, 1) == (len(maps()), len(opened(storage)))
    assert 1 << 17 == (1 << 18) - int((held < 1 << 17).sum().compute())
    del held, found
    gc.collect()
    assert not maps()
    assert [] == opened(storage)


def test_no_more_than_some_files_stay_open(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of arrays that live; those that were read first are closed."""
    monkeypatch.setattr(sources, "BIG", 1 << 16)
    arrays = []
    for number in range(20):
        storage.save("w", f"{number}", da.from_array(np.full(1 << 14, number), chunks=1 << 14))
        arrays.append(storage.read_task("w", f"{number}"))
        assert number << 14 == arrays[-1].sum().compute()
    assert 16 == len(opened(storage))
    assert [0, 19 << 14] == [arrays[number].sum().compute() for number in (0, 19)]
    assert 16 == len(opened(storage))


def opened(storage: Storage) -> list[str]:
    """Return what this process has open of the storage."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [path for path in paths if path.startswith(storage.store.root)]  # type: ignore[attr-defined]


def test_reading_imports_no_h5py(storage: FileStorage) -> None:
    """You pay for what you use: numbers are read without the library."""
    storage.save("w", "t", da.from_array(NUMBERS, chunks=(30, 20)))
    program = (
        "import sys; from functionfuse.storage.filestorage import FileStorage;"
        f"array = FileStorage({storage.store.root!r}).read_task('w', 't');"
        "assert array.sum().compute() == 6123250.0; print('h5py' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "False\n" == done.stdout


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_room_is_found_before_big_blocks_are_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory by each thread for its block, on a disk once for the file."""
    if place == "memory" and not os.access(MEMORY, os.W_OK):
        pytest.skip(f"there is no memory file system at {MEMORY}")
    found, lay_out = [], sources.lay_out

    def noted(file: int, start: int, size: int) -> None:
        found.append(size)
        lay_out(file, start, size)

    monkeypatch.setattr(sources, "lay_out", noted)
    values = np.arange(5 << 19, dtype="f8")
    with tempfile.TemporaryDirectory(dir=MEMORY if place == "memory" else tmp_path) as folder:
        storage = FileStorage(folder)
        storage.save("w", "t", da.from_array(values, chunks=1 << 19))
        (path,) = Path(folder).rglob("*.h5")
        size, on_device = path.stat().st_size, os.major(path.stat().st_dev)
        assert np.array_equal(values, storage.read_task("w", "t").compute())
        assert [""] == [record.problem for record in storage.verify()]
    assert ([size] if on_device else [4 << 20] * 5) == found
