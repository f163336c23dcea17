"""Saving and reading 256 MiB, where the passes over the bytes count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

import memory
from functionfuse.storage import storage_factory
from pairs import time_pair
from table import Row, amount, at_least, at_most

SIZE = 256 << 20
WORKFLOW = "bench"
ROUNDS = 11
PAGE = 4096 // 8  # items of float64


def measure_in(folder: Path) -> Iterator[Row]:
    yield from array(folder)
    yield from signed(folder)
    yield from memory_beyond(folder)


def array(folder: Path) -> Iterator[Row]:
    """Save the array as a new file each time, and read it back with every page touched."""
    value = np.random.default_rng(0).random(SIZE // 8)
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    blob = folder / "storage" / WORKFLOW / "array"
    plain = folder / "array.npy"

    def remove() -> None:
        blob.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)

    saved = time_pair(
        lambda: storage.save(WORKFLOW, "array", value),
        lambda: np.save(plain, value),
        rounds=ROUNDS,
        prepare=remove,
    )
    yield at_most("save 256 MiB of float64 / np.save", 1.1, saved)

    storage.save(WORKFLOW, "array", value)
    np.save(plain, value)
    read = time_pair(
        lambda: touch(storage.read_task(WORKFLOW, "array")),
        lambda: touch(np.load(plain)),
        rounds=ROUNDS,
    )
    yield at_least("np.load of 256 MiB of float64 / read, verified", 1.5, read)
    remove()


def signed(folder: Path) -> Iterator[Row]:
    """Read a result with a key: into own memory, checked by SHA-256. Without, it is mapped."""
    value = np.random.default_rng(0).random(SIZE // 8)
    storages = []
    for name, options in (("with", {"key": "a key"}), ("without", {})):
        where = {"path": str(folder / name), **options}
        storages.append(storage_factory({"kind": "file", "options": where}))
        storages[-1].save(WORKFLOW, "array", value)
    with_key, without = (
        lambda each=each: touch(each.read_task(WORKFLOW, "array")) for each in storages
    )
    for clock in (perf_counter, process_time):
        read = time_pair(with_key, without, rounds=ROUNDS, clock=clock)
        kind = "wall" if clock is perf_counter else "CPU"
        yield at_most(f"read 256 MiB with a key / without ({kind})", 15, read)
    for each in storages:
        each.remove_workflow(WORKFLOW)


def touch(array: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Use a number of every page."""
    return float(array[::PAGE].sum())


def memory_beyond(folder: Path) -> Iterator[Row]:
    for what, extra in memory.beyond_the_value(folder, SIZE).items():
        share = extra / SIZE * 100
        yield amount(f"memory beyond the value while saving, {what}", share, 5, unit="%")
