"""What is damaged, removed or killed half-way is never taken for the array."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event
from typing import Any

import dask.array as da
import numpy as np
import pytest

from functionfuse.errors import DamagedResultError, ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

NUMBERS = np.arange(1000 * 60, dtype="f8").reshape(1000, 60)


def array(chunks: Any = (400, 25)) -> da.Array:
    return da.from_array(NUMBERS, chunks=chunks)


def beside(storage: Any) -> list[Path]:
    folder = Path(storage.store.root, "w", ".data")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"format": "zarr"},
        {"format": "zarr", "compression": "zstd"},
    ],
    ids=["hdf5", "gzip", "zarr", "zarr zstd"],
)
@pytest.mark.parametrize("chunks", [(400, 25), (400, 60), ((1, 999), (59, 1))])
def test_every_flipped_bit_is_found(
    storage: FileStorage, options: dict[str, Any], chunks: Any
) -> None:
    """By `verify`, wherever it is; and by reading, or the value is right all the same."""
    rng = np.random.default_rng(0)
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    storage.save("w", "t", array(chunks))
    for path in beside(storage):
        size = path.stat().st_size
        for position in [0, size - 1, *rng.integers(size, size=2)]:
            flip(path, int(position))
            (record,) = storage.verify()
            assert "not what was written" in record.problem, (path, position)
            try:
                found = storage.read_task("w", "t").compute()
            except Exception:  # noqa: BLE001  # any error will do
                found = NUMBERS
            assert np.array_equal(NUMBERS, found), (path, position)
            flip(path, int(position))
    assert [""] == [record.problem for record in storage.verify()]
    assert np.array_equal(NUMBERS, storage.read_task("w", "t").compute())


def test_a_damaged_chunk_is_found_at_first_touch(storage: FileStorage) -> None:
    """Others can be read; the error says which block it is, and what to do."""
    storage.save("w", "t", array((500, 60)))
    (path,) = (path for path in beside(storage) if path.suffix == ".h5")
    flip(path, path.stat().st_size // 4 * 3)
    found = storage.read_task("w", "t")
    assert np.array_equal(NUMBERS[:500], found[:500].compute())
    with pytest.raises(DamagedResultError, match=r"block \(1, 0\) .* not what was written"):
        found.compute()
    storage.register_persistent_serializers(DaskArraySerializer(check=False))
    assert NUMBERS.shape == storage.read_task("w", "t").compute().shape


def test_a_block_is_checked_once(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which block has been checked is known to the array, if nobody can write the file."""
    from functionfuse_dask import stored

    monkeypatch.setattr(stored, "BIG", 1 << 16)
    storage.save("w", "t", array((500, 60)))
    found = storage.read_task("w", "t")
    calls: list[int] = []
    digest = stored._DIGESTS[16]

    def noted(data: Any) -> bytes:
        calls.append(len(data))
        return digest(data)

    monkeypatch.setitem(stored._DIGESTS, 16, noted)
    for _ in range(2):
        found.sum().compute()
    assert [240_000, 240_000] == calls


def test_saving_reads_no_chunk_again(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are digested as they are written; only what HDF5 wrote is read for its digest."""
    from functionfuse.storage import filestore
    from functionfuse_dask import hdf5

    read: list[int] = []
    pieces, blocks = hdf5._other_pieces, filestore.FileStore.blocks

    def noted(*args: Any) -> Any:
        for piece in pieces(*args):
            read.append(piece[1])
            yield piece

    def noted_blocks(*args: Any) -> Any:
        for block in blocks(*args):
            read.append(len(block))
            yield block

    monkeypatch.setattr(hdf5, "_other_pieces", noted)
    monkeypatch.setattr(filestore.FileStore, "blocks", noted_blocks)
    for chunks in ((500, 60), (250, 20)):
        storage.save("w", "t", array(chunks))
        assert 0 < sum(read) < 20_000
        read.clear()


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"format": "zarr"}])
def test_a_removed_result_is_a_clear_error(storage: FileStorage, options: dict[str, Any]) -> None:
    """At the next read of a lazy array; also of a copy of it."""
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    storage.save("w", "t", array())
    found = storage.read_task("w", "t")
    copy = pickle.loads(pickle.dumps(found))
    assert NUMBERS[0, 0] == found[0, 0].compute()
    storage.remove_task("w", "t")
    assert [] == beside(storage)
    for lazy in (found, copy):
        with pytest.raises(ResultNotFoundError, match=r"is gone: .* Read the task again"):
            lazy.compute()


def test_a_removed_result_in_s3_is_a_clear_error(s3_storage: Storage) -> None:
    """Zarr itself would give zeros."""
    s3_storage.save("w", "t", array())
    found = s3_storage.read_task("w", "t")
    s3_storage.remove_task("w", "t")
    with pytest.raises(ResultNotFoundError, match=r"is gone: .* Read the task again"):
        found.compute()


def test_a_missing_chunk_is_not_zeros(storage: FileStorage) -> None:
    """Of zarr, which takes it for a chunk that was never written."""
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    storage.save("w", "t", array())
    found = storage.read_task("w", "t")
    beside(storage)[0].unlink()
    assert "not what was written" in storage.verify()[0].problem
    with pytest.raises(ResultNotFoundError, match="is gone"):
        found.compute()


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"format": "zarr"}])
def test_a_pipe_in_place_of_a_file_is_a_missing_one(
    storage: FileStorage, options: dict[str, Any]
) -> None:
    """No read waits for it: neither for the file of HDF5, nor for a chunk of zarr."""
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    storage.save("w", "t", array())
    found = storage.read_task("w", "t")
    for path in beside(storage):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(ResultNotFoundError, match="is gone"):
        found.compute()
    assert storage.verify()[0].problem


def test_zeros_are_written(storage: FileStorage) -> None:
    """A chunk of zeros is a chunk: zarr would leave it out."""
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    storage.save("w", "t", da.zeros((4, 4), chunks=2))
    assert np.array_equal(np.zeros((4, 4)), storage.read_task("w", "t").compute())


FORMATS: dict[str, dict[str, Any]] = {
    "hdf5": {},
    "gzip": {"compression": "gzip"},
    "zarr": {"format": "zarr"},
}
READ_ONLY = """
import os, sys
import dask
from functionfuse.storage.filestorage import FileStorage

def total():
    storage = FileStorage(sys.argv[1])
    tasks = storage.list_tasks("w")
    return [float(storage.read_task("w", task).sum().compute(scheduler="sync")) for task in tasks]

total()  # which imports all that is needed: another user may not see where it is
os.getuid() or os.setuid(65534)
for path in (sys.argv[1], *sys.argv[2:]):
    assert not os.access(path, os.W_OK)
print(total())
"""


def test_read_only_folders_are_read() -> None:
    """By a user who may not write there; nothing is made, locked or touched beside the files."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        storage = FileStorage(os.path.join(folder, "store"))
        for name, options in FORMATS.items():
            storage.register_persistent_serializers(DaskArraySerializer(**options))
            storage.save("w", name, array())
        paths = [Path(folder, "store"), *Path(folder, "store").rglob("*")]
        before = sorted((str(path), path.stat().st_mtime_ns) for path in paths)
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            done = run(READ_ONLY, *map(str, paths))
            assert f"{[NUMBERS.sum().item()] * len(FORMATS)}\n" == done.stdout
            paths = [Path(folder, "store"), *Path(folder, "store").rglob("*")]
            assert before == sorted((str(path), path.stat().st_mtime_ns) for path in paths)
        finally:
            for path in paths:
                path.chmod(0o755)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


KILLED = """
import os, signal, sys
import dask.array as da, numpy as np
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

def die(block):
    if block[0] > 250:
        os.kill(os.getpid(), signal.SIGKILL)
    return block

storage = FileStorage(sys.argv[1])
for options in ({}, {"format": "zarr"}):
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    storage.save("w", "t", da.from_array(np.arange(400), 100))
    pid = os.fork()
    if not pid:
        array = da.from_array(np.arange(400), 100).map_blocks(die, dtype=int, meta=np.empty(0, int))
        storage.save("w", "t", array + 1, durable=True)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert storage.read_task("w", "t").sum().compute(scheduler="sync") == 79800
print(len([left for left in storage.gc(-60) if left.kind == "side data"]) > 0)
print([record.problem for record in storage.verify()], storage.gc(-60))
"""


def test_a_killed_write_leaves_the_earlier_result(tmp_path: Path) -> None:
    """What it leaves is referred to by nothing, and `gc` removes it."""
    program = KILLED.replace(
        "storage = ", "import dask; dask.config.set(scheduler='sync')\nstorage = "
    )
    done = run(program, str(tmp_path))
    assert "True\n[''] []\n" == done.stdout


def test_what_still_runs_after_a_failure_writes_nothing(storage: FileStorage) -> None:
    """When a block fails, dask leaves the others to their threads, which come too late to write."""
    for options in ({"format": "zarr"}, {"compression": "gzip"}, {}):
        storage.register_persistent_serializers(DaskArraySerializer(**options))
        begun, second, raised, ended = itertools.count(), Event(), Event(), Event()

        def slow(block: Any, begun=begun, second=second, raised=raised, ended=ended) -> Any:
            if not next(begun):
                assert second.wait(300)
                raise OSError("no")
            second.set()
            assert raised.wait(300)
            ended.set()
            return block

        with pytest.raises(OSError, match="no"):
            storage.save("w", "t", array().map_blocks(slow, meta=np.empty((0, 0))))
        raised.set()
        assert ended.wait(300)
        time.sleep(0.1)  # for a write that there must not be
        assert [] == list(storage.store.list(""))
        assert 2 == next(begun)


def test_a_failure_waits_for_the_writes_that_have_begun() -> None:
    """So that what is cleaned up after it stays clean."""
    from functionfuse_dask.blocks import compute

    class Slow:
        begun, ended = 0, 0

        def write(self, block: Any, number: int, place: tuple[int, ...]) -> None:
            if number:
                while not self.begun:
                    time.sleep(0.001)
                raise OSError("no")
            self.begun = 1
            time.sleep(0.3)
            self.ended = 1

    slow = Slow()
    with pytest.raises(OSError, match="no"):
        compute([da.zeros(2, chunks=1)], [slow])
    assert (1, 1) == (slow.begun, slow.ended)
