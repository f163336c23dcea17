"""The second run: what it takes to find that nothing changed, and what fingerprints cost."""

from __future__ import annotations

import gc
import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
from xxhash import xxh3_128_digest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.reuse.bytecode import shape_of
from functionfuse.reuse.identity import Identities
from functionfuse.reuse.values import digest_of
from functionfuse.storage import Storage, storage_factory
from pairs import time_pair
from table import Row, amount, at_least, at_most

CHAIN, MANY = 2_000, 100_000
OFFSET = 1


@workflow
def increment(value: int) -> int:
    return value + OFFSET


def measure_in(folder: Path) -> Iterator[Row]:
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    yield from chains(folder, storage)
    yield from many(storage)
    yield from takers(storage)
    yield from values()
    yield from functions()


def chains(folder: Path, storage: Storage) -> Iterator[Row]:
    """Compare with the same calls through joblib.Memory, stored as well."""
    remembered = joblib.Memory(folder / "joblib", verbose=0).cache(increment.func)

    def calls() -> None:
        value = 0
        for _ in range(CHAIN):
            value = remembered(value)
        assert value == CHAIN

    run_chain(storage, CHAIN)
    calls()
    ours = partial(run_chain, storage, CHAIN)
    pair = time_pair(ours, calls, rounds=9, prepare=gc.collect)
    yield amount(
        f"second run of a {CHAIN:,}-node chain, per node", pair.ours / CHAIN * 1e6, 25, unit="µs"
    )
    yield at_least("joblib.Memory's second run of the same calls / ours", 10, pair)


def many(storage: Storage) -> Iterator[Row]:
    """Compare with a tenth of the nodes: the time must grow with their number, and no faster."""
    run_chain(storage, MANY)
    run_chain(storage, MANY // 10)
    pair = time_pair(
        partial(run_chain, storage, MANY),
        partial(run_chain, storage, MANY // 10),
        rounds=3,
        prepare=gc.collect,
    )
    yield amount(f"second run of {MANY:,} nodes, per node", pair.ours / MANY * 1e6, 40, unit="µs")
    yield at_most(f"second run of {MANY:,} nodes / {MANY // 10:,}", 12, pair)


def takers(storage: Storage) -> Iterator[Row]:
    """Compare ten calls that take a computed frame of objects, each its own copy, with one."""
    for kind, count in (("texts", 1_000_000), ("tuples", 100_000)):
        runs = [partial(take, storage, kind, count, number) for number in (10, 1)]
        pair = time_pair(*runs, rounds=5, prepare=gc.collect)
        yield at_most(f"ten takers of a computed frame of {count:,} {kind} / one", 8, pair)


def values() -> Iterator[Row]:
    """Compare arguments with the hash alone, and with what pickle takes for them."""
    array = np.ones(256 << 17)
    view = memoryview(array).cast("B")
    pair = time_pair(partial(digest_of, array), partial(xxh3_128_digest, view), rounds=15)
    yield at_least("XXH3-128 of 256 MiB / their fingerprint as an argument", 0.8, pair)
    data = bytes(view)
    pair = time_pair(partial(digest_of, data), partial(digest_of, array), rounds=15)
    yield at_most("fingerprint of 256 MiB as bytes / as an array", 1.5, pair)
    numbers = list(range(1_000_000))
    pair = time_pair(partial(digest_of, numbers), partial(pickle.dumps, numbers, 5), rounds=5)
    yield at_most("fingerprint of a list of 1,000,000 numbers / its pickle", 3, pair)


def functions() -> Iterator[Row]:
    """Fingerprint a function of average length, seen for the first time, and asked for again."""

    def cold(function: Callable[..., object]) -> None:
        shape_of.cache_clear()
        digest_of(function)

    node = increment(1)
    known = Identities({})
    known.own(node)
    pair = time_pair(partial(cold, typical), partial(known.own, node), rounds=50, calls=20)
    yield amount("fingerprint of a function, cold", pair.ours * 1e3, 2, unit="ms")
    yield amount("fingerprint of a call of a known function", pair.peer * 1e6, 2, unit="µs")
    pair = time_pair(partial(cold, reaching), partial(cold, typical), rounds=20, calls=10)
    yield at_most("the same of a function that reaches seven others / of one, cold", 6, pair)


def typical(values: list[float], depth: int = 3, scale: float = 1.0) -> dict[str, float]:
    """Be of average length, and refer to nothing of the project's."""
    found: dict[str, float] = {}
    for level in range(depth):
        chosen = [value * scale for value in values if value > level]
        if not chosen:
            continue
        try:
            mean = sum(chosen) / len(chosen)
        except ZeroDivisionError:
            mean = 0.0
        found[f"level {level}"] = np.sqrt(mean)
    return dict(sorted(found.items()))


@dataclass
class Point:
    x: float
    y: float = 0

    def norm(self) -> float:
        return math.hypot(self.x, self.y)


def reaching(value: float) -> float:
    """Reach seven other functions, and a class."""
    return _one(value) + typical([value])["level 1"]


def _one(value: float) -> float:
    return _two(value) + OFFSET


def _two(value: float) -> float:
    return _three(value) * len(_TABLE)


def _three(value: float) -> float:
    return _four(value, _TABLE["x"])


def _four(value: float, other: list[int]) -> float:
    return _five(value) + float(json.loads(str(other[0])))


def _five(value: float) -> float:
    for first, second in itertools.product(range(3), repeat=2):
        if first > second:
            value += _six(first)
    return value


def _six(value: float) -> float:
    return Point(value, 1).norm()


_TABLE = {"x": [1, 2], "y": [3]}


def run_chain(storage: Storage, count: int) -> None:
    node = increment(0)
    for _ in range(count - 1):
        node = increment(node)
    local = LocalWorkflow(node, workflow_name=f"chain of {count}")
    local.set_storage(storage)
    assert local.run() == count


@workflow
def frame(kind: str, count: int) -> pd.DataFrame:
    texts = (f"text {number}" for number in range(count))
    items = list(texts) if kind == "texts" else [(number, number) for number in range(count)]
    return pd.DataFrame({"x": pd.Series(items, dtype=object)})


@workflow
def rows_of(taken: pd.DataFrame, number: int) -> int:
    return len(taken) + number


def take(storage: Storage, kind: str, count: int, number: int) -> None:
    made = frame(kind, count).set_name("frame")
    nodes = [rows_of(made, taker).set_name(str(taker)) for taker in range(number)]
    local = LocalWorkflow(*nodes, workflow_name="takers")
    local.set_reuse("never")
    local.set_storage(storage)
    local.run()
