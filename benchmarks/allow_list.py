"""Reading results under an allow-list, and without one."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from functionfuse.storage import storage_factory
from pairs import time_pair
from table import Row, at_most

MANY = 200_000
# These are plain values or single objects. Other values are read by Python's own unpickler.
QUICK = {"small dicts", "datetimes", "numbers in one array"}
ALLOW = ["allow_list", "builtins.slice", "builtins.bytearray", "datetime", "numpy", "pandas"]
ALLOW += ["pyarrow.lib", "collections"]


@dataclass
class Point:
    x: int
    y: float


Named = namedtuple("Named", "x y")  # noqa: PYI024


class Shared:
    """A class whose pickles call a function, so that each call is looked at."""

    def __reduce__(self) -> Any:
        return shared, ()


def shared() -> Shared:
    return Shared()


def values() -> dict[str, Any]:
    """Return values of each kind."""
    start = datetime(2026, 1, 1)  # noqa: DTZ001
    texts = pd.Series([str(number) for number in range(MANY)], dtype=object)
    return {
        "small dicts": [{"a": number, "b": number / 2, "c": "x"} for number in range(MANY)],
        "datetimes": [start + timedelta(minutes=number) for number in range(MANY)],
        "dataclass objects": [Point(number, number / 2) for number in range(MANY)],
        "named tuples": [Named(number, number) for number in range(MANY)],
        "numpy numbers": list(np.arange(MANY) / 2),
        "rows of a frame, with a column of texts": pd.DataFrame({"a": range(MANY), "b": texts}),
        "numpy arrays of 5, in one tenth": [np.arange(5) + row for row in range(MANY // 10)],
        "numbers in one array": np.arange(MANY),
        "calls of an own function": [Shared() for _ in range(MANY)],
    }


def measure_in(folder: Path) -> Iterator[Row]:
    options = {"path": str(folder / "storage")}
    without = storage_factory({"kind": "file", "options": options})
    trusting = {**options, "trust": {"allow": ALLOW}}
    under = storage_factory({"kind": "file", "options": trusting})
    for name, value in values().items():
        without.save("bench", "t", value)
        pair = time_pair(
            lambda: under.read_task("bench", "t"),
            lambda: without.read_task("bench", "t"),
            rounds=5,
            clock=time.process_time,
        )
        what = f"read {MANY:,} {name} under an allow-list / without (CPU)"
        yield at_most(what, 3 if name in QUICK else 14, pair)
