"""Saving and reading 256 MiB, where the passes over the bytes count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


def touch(array: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Use a number of every page."""
    return float(array[::PAGE].sum())


def memory_beyond(folder: Path) -> Iterator[Row]:
    for what, extra in memory.beyond_the_value(folder, SIZE).items():
        share = extra / SIZE * 100
        yield amount(f"memory beyond the value while saving, {what}", share, 5, unit="%")
