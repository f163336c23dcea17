"""Dask arrays of float64: written, and read and summed; in 8 chunks. See `--big`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np

from functionfuse.storage import storage_factory
from functionfuse_dask import DaskArraySerializer
from memory import STATUS, held
from pairs import time_pair
from table import Row, amount, at_least

big = False  # whether to measure 2 GiB, too: `run.py bench arrays --big`

WORKFLOW = "bench"
CHUNKS = 8
WORKERS = 2
ROUNDS = 7


def measure_in(folder: Path) -> Iterator[Row]:
    dask.config.set(scheduler="threads", num_workers=WORKERS)
    for size in (256, 2048) if big else (256,):
        yield from array(folder, size)
    yield from memory(folder)


def array(folder: Path, mebibytes: int) -> Iterator[Row]:
    count = (mebibytes << 20) // 8
    values = da.from_array(np.random.default_rng(0).random(count), chunks=count // CHUNKS)
    storage = storage_in(folder)
    hdf5, zarr = folder / "peer.h5", folder / "peer.zarr"
    rounds = ROUNDS if mebibytes < 1024 else 3

    def save() -> None:
        storage.save(WORKFLOW, "array", values)

    def to_hdf5() -> None:
        values.to_hdf5(str(hdf5), "/data")
        flush(hdf5)

    def to_zarr() -> None:
        da.to_zarr(values, str(zarr))
        for path in zarr.rglob("*"):
            flush(path)

    def remove() -> None:
        if storage.list_tasks(WORKFLOW):
            storage.remove_task(WORKFLOW, "array")
        hdf5.unlink(missing_ok=True)
        shutil.rmtree(zarr, ignore_errors=True)

    what = f"{mebibytes} MiB"
    pair = time_pair(save, to_hdf5, rounds=rounds, prepare=remove)
    yield at_least(f"write {what}, flushed: da.to_hdf5 / ours", 2, pair)
    pair = time_pair(save, to_zarr, rounds=rounds, prepare=remove)
    yield at_least(f"write {what}, flushed: da.to_zarr / ours", 4, pair)

    remove()
    save()
    to_hdf5()
    unchecked = storage_in(folder, check=False)

    found = unchecked.read_task(WORKFLOW, "array")

    def read(storage: Any) -> float:
        return float(storage.read_task(WORKFLOW, "array").sum().compute())

    def again() -> float:
        return float(found.sum().compute())

    def from_h5py() -> float:
        with h5py.File(hdf5) as file:
            return float(da.from_array(file["data"], chunks=values.chunks).sum().compute())

    peers = {
        "da.from_array(h5py)": (from_h5py, 2.0),
        "in memory": (lambda: values.sum().compute(), 0.6),
    }
    turns = {
        "": lambda: read(storage),
        ", check=False": lambda: read(unchecked),
        ", the same array again": again,
    }
    for how, ours in turns.items():
        for name, (peer, bound) in peers.items():
            pair = time_pair(ours, peer, rounds=rounds)
            yield at_least(f"read and sum {what}{how}: {name} / ours", bound, pair)
    remove()


def memory(folder: Path) -> Iterator[Row]:
    """How far the peak of a process of its own rises while it writes 8 chunks for each worker."""
    if not STATUS.exists():
        return
    child = [sys.executable, __file__, str(folder)]
    printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield amount("memory while writing, for each worker", float(printed), 3, unit="chunks")


def storage_in(folder: Path, *, check: bool = True) -> Any:
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    storage.register_persistent_serializers(DaskArraySerializer(check=check))
    return storage


def flush(path: Path) -> None:
    """Flush a file, as a storage does with what it keeps beside a result."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def main(folder: Path) -> None:
    chunk = (32 << 20) // 8
    dask.config.set(scheduler="threads", num_workers=WORKERS)
    storage = storage_in(folder)

    def made(count: int) -> da.Array:
        return da.random.default_rng(0).random(count * chunk, chunks=chunk)

    storage.save(WORKFLOW, "small", da.ones(4, chunks=2))
    before = held()
    storage.save(WORKFLOW, "array", made(8 * WORKERS))
    print((held() - before) / (chunk * 8) / WORKERS)
    storage.remove_workflow(WORKFLOW)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
