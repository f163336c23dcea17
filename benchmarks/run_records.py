"""The lineage of a result, by the headers alone, against the bare calls that read their bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from pairs import time_pair
from table import Row, amount, at_most

CHAIN = 2_000
FIRST_READ = 4096  # bytes of a file that a header needs


def add(before: int, number: int) -> int:
    return before + number


def measure_in(folder: Path) -> Iterator[Row]:
    yield from lineage(folder / "lineage")


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
