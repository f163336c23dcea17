"""What it costs to show a run on a terminal while it runs: CPU seconds with and without."""

from __future__ import annotations

import gc
import os
import pty
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import partial

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from pairs import time_pair
from table import Row, at_most


def add(before: int, number: int) -> int:
    return before + number


def measure() -> Iterator[Row]:
    """Measure runs with the bar from their beginning on, and without."""
    terminal, child = pty.openpty()
    os.set_blocking(terminal, False)
    with open(child, "w", encoding="utf-8") as stream, redirect_stderr(stream):
        yield from runs(terminal)
    os.close(terminal)


def runs(terminal: int) -> Iterator[Row]:
    node = workflow(add)

    def prepare() -> None:
        """Make room in the terminal, which nobody reads meanwhile."""
        try:
            while os.read(terminal, 1 << 16):
                pass
        except BlockingIOError:
            gc.collect()

    for count, calls, rounds in ((10_000, 3, 15), (100_000, 1, 7)):
        nodes = [node(number, 1).set_name(f"n{number}") for number in range(count)]
        flow = LocalWorkflow(*nodes, workflow_name="progress")
        pair = time_pair(
            partial(flow.run, progress=True),
            partial(flow.run, progress=False),
            rounds=rounds,
            calls=calls,
            prepare=prepare,
            clock=time.process_time,
        )
        yield at_most(f"a run of {count:,} nodes with a bar / without (CPU)", 1.05, pair)
