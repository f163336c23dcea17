"""Going back over settings that were computed before, against joblib.Memory's second pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from pairs import time_pair
from table import Row, at_least

SETTINGS = 100
NODES = 50
NUMBERS = (256 << 10) // 8  # of float64


def tiny(before: Any, number: int) -> Any:
    return before + number


def rows(before: Any, number: int) -> Any:
    return np.full(NUMBERS, np.ravel(before)[0] + number)


def measure_in(folder: Path) -> Iterator[Row]:
    bounds = {"tiny nodes": (tiny, 0.8, SETTINGS), "nodes of 256 KiB": (rows, 3.0, SETTINGS // 5)}
    for name, (function, bound, settings) in bounds.items():
        for shape, (ours, theirs) in passes(folder / name, function, settings).items():
            ours()  # the first pass computes
            theirs()
            pair = time_pair(ours, theirs, rounds=5, clock=time.process_time)
            what = f"{settings} settings of {NODES} {name}, {shape} (CPU)"
            yield at_least(f"joblib.Memory's second pass / going back, {what}", bound, pair)


def passes(
    folder: Path, function: Callable[..., Any], settings: int
) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """Return a pass over all settings, ours and joblib's: of nodes in a chain, and side by side."""
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    node, cached = workflow(function), joblib.Memory(folder / "joblib", verbose=0).cache(function)

    def run(nodes: Any, name: str) -> None:
        flow = LocalWorkflow(*nodes, workflow_name=name)
        flow.set_storage(storage)
        flow.run()

    def chain(setting: int) -> None:
        last = setting
        for number in range(NODES):
            last = node(last, number).set_name(f"n{number}")
        run([last], "chain")

    def chain_of_joblib(setting: int) -> None:
        last = setting
        for number in range(NODES):
            last = cached(last, number)

    def beside(setting: int) -> None:
        nodes = [node(setting, number).set_name(f"n{number}") for number in range(NODES)]
        run(nodes, "beside")

    def beside_of_joblib(setting: int) -> None:
        [cached(setting, number) for number in range(NODES)]

    def over(one: Callable[[int], None]) -> None:
        for setting in range(settings):
            one(setting)

    return {
        "in a chain": (partial(over, chain), partial(over, chain_of_joblib)),
        "side by side": (partial(over, beside), partial(over, beside_of_joblib)),
    }
