"""Copying a workflow from files to files, against `shutil.copytree`, which checks nothing."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from functionfuse.storage import Storage, storage_factory
from pairs import Pair, time_pair
from table import Row, at_most

SMALL = 1000
BIG = (256 << 20) // 8  # of float64
WORKFLOW = "bench"


def measure_in(folder: Path) -> Iterator[Row]:
    small, big = storage_in(folder / "small"), storage_in(folder / "big")
    for number in range(SMALL):
        small.save(WORKFLOW, f"t{number}", {"number": number, "name": "x" * 100})
    big.save(WORKFLOW, "array", np.random.default_rng(0).random(BIG))
    for what, source, rounds, bound in (
        (f"{SMALL} small results", "small", 15, 2.0),
        ("one of 256 MiB", "big", 7, 2.0),
    ):
        for name, clock in (("CPU", time.process_time), ("wall", time.perf_counter)):
            pair = copied(folder, source, rounds, clock)
            yield at_most(f"copy {what} / shutil.copytree ({name})", bound, pair)
    to = storage_in(folder / "there")
    small.copy(WORKFLOW, to)
    pair = time_pair(
        lambda: small.copy(WORKFLOW, to),
        lambda: shutil.copytree(folder / "small", folder / "tree", dirs_exist_ok=True),
        rounds=15,
        clock=time.process_time,
    )
    yield at_most(f"copy {SMALL} small results that are there / copytree again (CPU)", 1.0, pair)


def storage_in(folder: Path) -> Storage:
    return storage_factory({"kind": "file", "options": {"path": str(folder)}})


def copied(folder: Path, name: str, rounds: int, clock: Callable[[], float]) -> Pair:
    """Compare copies to new folders, which are removed before the next turn."""
    source, targets = storage_in(folder / name), folder / "targets"
    numbers = itertools.count()

    def ours() -> None:
        source.copy(WORKFLOW, storage_in(targets / str(next(numbers))))

    def theirs() -> None:
        shutil.copytree(folder / name, targets / str(next(numbers)))

    def remove() -> None:
        shutil.rmtree(targets, ignore_errors=True)
        targets.mkdir()

    return time_pair(ours, theirs, rounds=rounds, prepare=remove, clock=clock)
