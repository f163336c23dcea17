"""What a node costs on Ray, beside bare Ray doing the same calls; and what comes to the driver."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from functionfuse import workflow
from functionfuse.storage import storage_factory
from pairs import time_pair
from table import Row, amount, at_most

ROUNDS = 5
COUNT = 1000
MANY = 50_000
BIG = (256 << 20) // 8  # float64 numbers


@workflow
def one(value: int) -> int:
    return value


@workflow
def increment(value: int) -> int:
    return value + 1


@workflow
def array(count: int) -> np.ndarray:
    return np.ones(count)


@workflow
def total(numbers: np.ndarray) -> float:
    return float(numbers.sum())


def measure() -> Iterator[Row]:
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=1 << 30,
        log_to_driver=False,
    )
    folder = Path(tempfile.mkdtemp(prefix="functionfuse-bench-ray-", dir="/dev/shm"))
    try:
        yield from _rows(folder)
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


def _rows(folder: Path) -> Iterator[Row]:
    compare = partial(time_pair, rounds=ROUNDS, prepare=gc.collect)
    wide(None)
    yield at_most(f"{COUNT:,} nodes / bare Ray", 1.15, compare(partial(wide, None), bare_wide))
    yield at_most(f"chain of {COUNT:,} nodes / bare Ray", 1.1, compare(chain, bare_chain))
    fresh = partial(stored, folder)
    yield at_most(f"{COUNT:,} nodes stored / not stored", 1.3, compare(fresh, partial(wide, None)))
    store = folder / "again"
    wide(store)
    started = perf_counter()
    wide(store)
    seconds = perf_counter() - started
    yield amount(f"second run, {COUNT:,} nodes, per node", seconds / COUNT * 1e3, 1, unit="ms")
    yield amount("256 MiB passed and saved: growth of the driver", passed(folder), 16, unit="MiB")
    yield amount(f"{MANY:,} nodes, per node", many() * 1e3, 5, unit="ms")


def wide(store: Path | None) -> None:
    from functionfuse_ray import RayWorkflow

    flow = RayWorkflow(*[one(value) for value in range(COUNT)], workflow_name="bench")
    if store is not None:
        flow.set_storage(storage_factory({"kind": "file", "options": {"path": str(store)}}))
    flow.run()


def stored(folder: Path) -> None:
    wide(folder / os.urandom(8).hex())


def bare_wide() -> None:
    import ray

    function = ray.remote(one.func)
    ray.get([function.remote(value) for value in range(COUNT)])


def chain() -> None:
    from functionfuse_ray import RayWorkflow

    node = one(1)
    for _ in range(COUNT - 1):
        node = increment(node)
    flow = RayWorkflow(node, workflow_name="bench")
    assert flow.run(return_results=True) == COUNT


def bare_chain() -> None:
    import ray

    first, function = ray.remote(one.func), ray.remote(increment.func)
    reference = first.remote(1)
    for _ in range(COUNT - 1):
        reference = function.remote(reference)
    assert ray.get(reference) == COUNT


def passed(folder: Path) -> float:
    """Return by how many MiB the driver's peak memory grows while others pass a big array on."""
    from functionfuse_ray import RayWorkflow

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flow = RayWorkflow(total(array(BIG)), workflow_name="big")
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": str(folder / "big")}}))
    assert flow.run(return_results=True) == BIG
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def many() -> float:
    """Return the seconds per node of a graph of chains of five nodes."""
    from functionfuse_ray import RayWorkflow

    nodes = []
    for value in range(MANY // 5):
        node = one(value)
        for _ in range(4):
            node = increment(node)
        nodes.append(node)
    flow = RayWorkflow(*nodes, workflow_name="bench")
    started = perf_counter()
    flow.run(max_pending_tasks=1000)
    seconds = perf_counter() - started
    assert flow.report is not None
    assert {record.action for record in flow.report.nodes} == {"computed"}
    return seconds / MANY
