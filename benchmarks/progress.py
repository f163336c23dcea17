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


def work(before: int, number: int) -> int:
    """Take about 0.1 ms, so that bars are drawn while 10,000 nodes run."""
    return before + sum(range(4000)) + number


def measure() -> Iterator[Row]:
    """Measure runs with the bar from their beginning on, and without."""
    terminal, child = pty.openpty()
    os.set_blocking(terminal, False)
    with open(child, "w", encoding="utf-8") as stream, redirect_stderr(stream):
        yield from runs(terminal)
    os.close(terminal)


def runs(terminal: int) -> Iterator[Row]:
    bars = 0

    def prepare() -> None:
        """Make room in the terminal, which nobody reads meanwhile, and count the bars in it."""
        nonlocal bars
        try:
            while text := os.read(terminal, 1 << 16):
                bars += text.count(b"\x1b8")  # after each bar, the cursor goes back
        except BlockingIOError:
            gc.collect()

    cases = (
        (add, "tiny", 10_000, 3, 15),
        (work, "0.1 ms", 10_000, 1, 15),
        (add, "tiny", 100_000, 1, 7),
    )
    for function, size, count, calls, rounds in cases:
        node, bars = workflow(function), 0
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
        prepare()
        label = f"{count:,} nodes ({size}) with {bars} bars in all / without (CPU)"
        yield at_most(label, 1.05, pair)
