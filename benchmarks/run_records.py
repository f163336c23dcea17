"""What the record of a run costs, and the lineage of a result, against bare system calls."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bare import create_write_rename
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from pairs import Pair, time_pair
from table import Row, amount, at_most

CHAIN = 2_000
FIRST_READ = 4096  # bytes of a file that a header needs


def add(before: int, number: int) -> int:
    return before + number


def measure_in(folder: Path) -> Iterator[Row]:
    for nodes, bound, before, rounds, calls in (
        (5, 60e-6, 1_000, 60, 50),
        (10_000, 60e-3, 0, 7, 1),
    ):
        timed = partial(
            time_pair, rounds=rounds, calls=calls, prepare=gc.collect, clock=time.process_time
        )
        yield from records(folder / f"{nodes}", nodes, bound=bound, before=before, timed=timed)
    yield from lineage(folder / "lineage")


def records(
    folder: Path, count: int, *, bound: float, before: int, timed: Callable[..., Pair]
) -> Iterator[Row]:
    """Measure what the record adds to a run that computes, and to one that reuses.

    Args:
        count: of nodes.
        bound: seconds.
        before: how many runs the workflow that reuses has had already.
        timed: calls `time_pair`.
    """
    node = workflow(add)
    nodes = [node(number, 1).set_name(f"n{number}") for number in range(count)]
    numbers, written = itertools.count(), itertools.count()
    storages = FileStorage(folder / "with"), FileStorage(folder / "without")
    storages[1].run_records = False

    def run(storage: FileStorage, name: str) -> None:
        flow = LocalWorkflow(*nodes, workflow_name=name)
        flow.set_storage(storage)
        flow.run()

    def first(storage: FileStorage) -> None:
        run(storage, f"first-{next(numbers)}")

    def again(storage: FileStorage) -> None:
        run(storage, "again")

    for storage in storages:
        for _ in range(1 + before):
            again(storage)
    for name, call in {"first run": first, "second run": again}.items():
        runs = timed(partial(call, storages[0]), partial(call, storages[1]))
        workflow_name = f"first-{next(numbers)}" if call is first else "again"
        run(storages[0], workflow_name)
        [*_, newest] = storages[0].store.list(f"{workflow_name}/.runs/")
        data = bytes(storages[0].store.get(newest.key))

        def write(data: bytes = data) -> None:
            path = str(folder / f"bare-{next(written)}")
            create_write_rename(f"{path}.tmp", path, data)

        bare = timed(write, tuple).difference
        what = f"record of the {name} of {count:,} nodes"
        unit, scale = ("µs", 1e6) if bound < 1e-3 else ("ms", 1e3)
        cost = runs.difference
        peer = f"{bare * scale:.3g} {unit} ({len(data):,} bytes, {cost / bare:.3g} times)"
        yield amount(f"{what} (CPU)", cost * scale, bound * scale, unit=unit, peer=peer)


def lineage(folder: Path) -> Iterator[Row]:
    """Measure the lineage of the end of a chain, and the descendants of its beginning."""
    storage = FileStorage(folder)
    node, last = workflow(add), 0
    for number in range(CHAIN):
        last = node(last, number).set_name(f"n{number}")
    flow = LocalWorkflow(last, workflow_name="chain")
    flow.set_storage(storage)
    flow.run()
    paths = [folder / "chain" / f"n{number}" for number in range(CHAIN)]

    def up() -> None:
        assert len(storage.lineage("chain", f"n{CHAIN - 1}")) == CHAIN

    def down() -> None:
        assert len(storage.lineage("chain", "n0", down=True)) == CHAIN

    def bare() -> None:
        for path in paths:
            file = os.open(path, os.O_RDONLY)
            try:
                os.read(file, FIRST_READ)
            finally:
                os.close(file)

    for name, call in {"ancestors": up, "descendants": down}.items():
        pair = time_pair(call, bare, rounds=7, clock=time.process_time)
        what = f"{name} of a result in a chain of {CHAIN:,}"
        yield amount(f"{what} (CPU)", pair.ours, 1.0, unit="s")
        yield at_most(f"{what} / open and read their headers (CPU)", 20.0, pair)
