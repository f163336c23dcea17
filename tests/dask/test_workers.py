"""What workers hand to the client: through the storage, checked, and removed when it is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from functionfuse.errors import SerializerError, StoragePathError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer
from functionfuse_dask.dataset import BUILT_IN, PLUGINS

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
NUMBERS = np.arange(400.0).reshape(40, 10)
MASKED = np.ma.masked_array(NUMBERS, NUMBERS % 7 < 2, fill_value=-3)


def numbers() -> da.Array:
    return da.from_array(NUMBERS, chunks=(10, 5))


def unknown(values: Any = NUMBERS) -> da.Array:
    """Return an array whose sizes are unknown, with an empty block."""
    rows = da.from_array(values, chunks=(20, 10))
    return rows[rows[:, 0] >= 220]


def beside(storage: FileStorage) -> list[str]:
    return sorted(path.name for path in Path(storage.store.root).glob("*/.data/*"))


@pytest.fixture
def computing(processes: Any) -> Any:
    """Return how to compute: with a scheduler of dask, in one thread or in one other process."""

    def by(scheduler: str) -> Any:
        other = scheduler == "processes"
        return dask.config.set(
            scheduler=scheduler, pool=processes if other else None, num_workers=1
        )

    return by


REDUCED = BUILT_IN[0], next(iter(PLUGINS))


@pytest.mark.parametrize(
    "compression",
    [
        *REDUCED,
        *(
            pytest.param(name, marks=pytest.mark.battery)
            for name in (*BUILT_IN, *PLUGINS)
            if FULL and name not in REDUCED
        ),
    ],
)
def test_each_filter_works_in_other_processes(storage: FileStorage, compression: str) -> None:
    """They register it themselves, to write and to read."""
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    with dask.config.set(scheduler="processes", num_workers=1):
        storage.save("w", "t", numbers())
        assert np.array_equal(NUMBERS, storage.read_task("w", "t").compute())
    assert 2 == len(beside(storage))


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_blocks_of_unknown_sizes(storage: FileStorage, scheduler: str, computing: Any) -> None:
    """Masks, fill values, text and structures come through the temporary files, which then go."""
    texts = np.array([["a", "é"], ["", "\ud800"]])
    pairs = np.zeros((4, 2), "i4,f8")
    values = [NUMBERS, MASKED, texts, pairs, NUMBERS.astype(">M8[s]")]
    with computing(scheduler):
        storage.save(
            "w",
            "t",
            [da.from_array(v, 2)[da.from_array([True, False] * (len(v) // 2), 2)] for v in values],
        )
    found = storage.read_task("w", "t")
    for value, array in zip(values, found, strict=True):
        block = array.compute()
        assert value.dtype == block.dtype
        assert np.ma.getmaskarray(value[::2]).tolist() == np.ma.getmaskarray(block).tolist()
        assert np.ma.getdata(value[::2]).tobytes() == np.ma.getdata(block).tobytes()
    assert -3 == found[1].compute().fill_value
    assert 10 == len(beside(storage))


@pytest.mark.parametrize(
    ("scheduler", "compression"), [("threads", None), ("threads", "gzip"), ("processes", None)]
)
def test_hdf5_in_s3(
    s3_storage: Storage, scheduler: str, compression: str | None, computing: Any
) -> None:
    """Workers leave the blocks in S3, and the client assembles the file."""
    s3_storage.register_persistent_serializers(
        DaskArraySerializer(format="hdf5", compression=compression)
    )
    arrays = [da.from_array(NUMBERS, chunks=(20, 5)), da.from_array(MASKED, chunks=((15, 25), 10))]
    arrays += [unknown()]
    with computing(scheduler):
        s3_storage.save("w", "t", arrays)
        found = s3_storage.read_task("w", "t")
        assert np.array_equal(NUMBERS, found[0].compute())
        assert MASKED.filled().tolist() == found[1].compute().filled().tolist()
        assert np.array_equal(NUMBERS[NUMBERS[:, 0] >= 220], found[2].compute())
    assert 3 == len(list(s3_storage.store.list("w/.data/")))
    assert [""] == [record.problem for record in s3_storage.verify()]


def failing(block: Any) -> Any:
    if block.size and block[0, 0] >= 200:
        raise ArithmeticError("no block")
    return block


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
@pytest.mark.parametrize("array", [numbers, unknown])
def test_a_failure_leaves_no_temporary_file(
    storage: FileStorage, array: Any, scheduler: str, compression: str | None, computing: Any
) -> None:
    """Also those of blocks that other processes have written before."""
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    broken = array().map_blocks(failing, dtype="f8", meta=np.empty((0, 0)))
    with computing(scheduler), pytest.raises(TypeError, match="no block"):
        storage.save("w", "t", broken)
    assert [] == beside(storage)


def moving(block: Any, folder: str) -> Any:
    """Take the folder away, as if this worker had another disk."""
    if block.size and os.path.isdir(folder):
        os.rename(folder, f"{folder}.elsewhere")
        os.mkdir(folder)
    return block


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("array", [numbers, unknown])
def test_workers_that_do_not_see_the_folder(
    storage: FileStorage, array: Any, compression: str | None, computing: Any
) -> None:
    """The save fails before anything is committed, and the error says what to do."""
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    storage.save("w", "t", 1)
    storage.save("w", "u", numbers())
    folder = str(Path(storage.store.root) / "w" / ".data")
    moved = array().map_blocks(moving, folder, dtype="f8", meta=np.empty((0, 0)))
    with (
        computing("processes"),
        pytest.raises(StoragePathError, match="mount the folder of the storage"),
    ):
        storage.save("w", "t", moved)
    assert 1 == storage.read_task("w", "t")


def test_blocks_that_the_client_does_not_see(storage: FileStorage) -> None:
    """What workers wrote is looked for before the commit."""
    folder = Path(storage.store.root) / "w" / ".data"

    def lost(block: Any) -> Any:
        for path in folder.glob("*.blocks.*"):
            path.unlink()
        return block

    array = unknown().map_blocks(lost, dtype="f8", meta=np.empty((0, 0)))
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(StoragePathError, match="seen here"),
    ):
        storage.save("w", "t", array)
    assert [] == storage.list_tasks("w")


@pytest.mark.parametrize("array", [numbers, unknown])
def test_changed_blocks_are_not_used(storage: FileStorage, array: Any) -> None:
    """Who can write to the store can't slip bytes into a result: digests go another way."""
    storage.register_persistent_serializers(DaskArraySerializer(compression="gzip"))
    folder = Path(storage.store.root) / "w" / ".data"

    def changed(block: Any) -> Any:
        for path in (*folder.glob("*.data-*"), *folder.glob("*.blocks.*")):
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        return block

    saved = array().map_blocks(changed, dtype="f8", meta=np.empty((0, 0)))
    here = dask.config.set(scheduler="synchronous")
    with here, pytest.raises(SerializerError, match="is not what a worker"):
        storage.save("w", "t", saved)
    assert [] == storage.list_tasks("w")


def linked(block: Any, folder: str, outside: str, kind: str) -> Any:
    """Put something else in the place of the file of an array, which a worker will write."""
    for path in Path(folder).glob("*.h5"):
        if path.stat(follow_symlinks=False).st_nlink == 1 and not path.is_symlink():
            path.unlink()
            if kind == "pipe":
                os.mkfifo(path)
            else:
                (os.symlink if kind == "link" else os.link)(outside, path)
    return block


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_planted_file_is_not_written(
    storage: FileStorage, tmp_path: Path, compression: str | None, kind: str
) -> None:
    """What took the place of the new file leads no byte to a file outside."""
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs" * 10_000)
    folder = str(Path(storage.store.root) / "w" / ".data")
    array = numbers().map_blocks(
        linked, folder, str(outside), kind, dtype="f8", meta=np.empty((0, 0))
    )
    here = dask.config.set(scheduler="synchronous")
    with here, pytest.raises(OSError, match=r"replaced by another|does not see"):
        storage.save("w", "t", array)
    assert b"theirs" * 10_000 == outside.read_bytes()


LOCKED = """
import sys
import dask.array as da
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer
storage = FileStorage(sys.argv[1])
for name in (None, "gzip"):
    storage.register_persistent_serializers(DaskArraySerializer(compression=name))
    storage.save("w", "t", da.ones((40, 4), chunks=10))
    print(storage.read_task("w", "t").sum().compute(scheduler="synchronous"))
"""


@pytest.mark.parametrize("code", ["ENOLCK", "EAGAIN", "EOPNOTSUPP"])
def test_no_file_is_locked(tmp_path: Path, code: str) -> None:
    """File systems that can't lock keep arrays, too."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    fault = f"inject=flock:error={code}"
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", "trace=flock"]
    command = [*traced, "-e", fault, sys.executable]
    done = subprocess.run(
        [*command, "-c", LOCKED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace doesn't work here: {done.stderr}")
    assert ("160.0\n160.0\n", 0) == (done.stdout, done.returncode), done.stderr
