"""Arrays in workflows: read back, under every scheduler, and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
calls: list[int] = []
lock = threading.Lock()


def noted(block: Any) -> Any:
    if block.size:
        with lock:
            calls.append(1)
    return block


@workflow(version="1")
def make() -> Any:
    return {"x": da.arange(100, chunks=30).map_blocks(noted, dtype=int)}


@workflow(version="1")
def mean(found: Any) -> Any:
    return found["x"].mean().compute(), found["x"].name


def run(storage: Storage) -> Any:
    made = make().set_name("make")
    flow = LocalWorkflow(mean(made).set_name("mean"), workflow_name="w")
    flow.set_storage(storage)
    return flow.run()


def test_what_follows_reads_the_stored_array(each_storage: Storage) -> None:
    """The graph is computed once: to be stored. A second run computes nothing."""
    calls.clear()
    value, name = run(each_storage)
    assert 4 == len(calls)
    assert 49.5 == value
    assert name.startswith("functionfuse-")
    assert (value, name) == run(each_storage)
    assert 4 == len(calls)
    assert not each_storage.always_read


def test_going_back_over_arrays(each_storage: Storage) -> None:
    """Each array is computed once; it is there as long as an earlier or the latest result is."""

    @workflow(version="1")
    def shifted(number: int) -> Any:
        return da.arange(100, chunks=30).map_blocks(noted, dtype=int) + number

    @workflow(version="1")
    def first(array: Any) -> int:
        return int(array[0].compute())

    def run(number: int) -> tuple[Any, list[str]]:
        flow = LocalWorkflow(first(shifted(number).set_name("a")).set_name("f"), workflow_name="w")
        flow.set_storage(each_storage)
        return flow.run(), [node.action for node in flow.report.nodes]

    calls.clear()
    for number, action in ((1, "computed"), (2, "computed"), (1, "reused"), (2, "reused")):
        assert (number, [action] * 2) == run(number)
        assert number == each_storage.read_task("w", "a")[0].compute()
    assert 8 == len(calls)
    assert [] == each_storage.gc(0)
    [earlier] = each_storage.earlier("w", "a")
    assert 1 == each_storage.read_task("w", "a", call=earlier.call)[0].compute()
    assert {""} == {checked.problem for checked in each_storage.verify()}
    before = each_storage.du("w")[0]
    pruned = each_storage.prune("w", bytes=0)
    after = each_storage.du("w")[0]
    assert 4 == len(pruned)  # each of both nodes, and the copies of the latest
    assert (before.size, 0) == (after.size, after.earlier)
    assert before.earlier > earlier.size + earlier.side_size
    assert 2 == each_storage.read_task("w", "a")[0].compute()
    assert [] == each_storage.gc(0)
    assert (2, ["reused"] * 2) == run(2)
    each_storage.remove_task("w", "a")
    assert [] == list(each_storage.store.list("w/.data/"))


def test_results_without_arrays_are_not_read_back(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is lazy is."""
    read: list[str] = []
    monkeypatch.setattr(
        FileStorage, "read_task", lambda self, workflow, task: read.append(task), raising=True
    )

    @workflow(version="1")
    def one() -> int:
        return 1

    @workflow(version="1")
    def two(value: int) -> int:
        return value + 1

    node = two(one().set_name("one")).set_name("two")
    flow = LocalWorkflow(node, workflow_name="w")
    flow.set_storage(storage)
    assert 2 == flow.run()
    assert [] == read


def half(block: Any) -> Any:
    return block / 2


def saved_and_read(storage: Storage) -> None:
    values = np.arange(1000.0).reshape(50, 20)
    array = da.from_array(values, chunks=(30, 7)).map_blocks(half, dtype=float)
    storage.save("w", "t", [array, array[array > 400]])
    found, picked = storage.read_task("w", "t")
    assert values.sum() / 2 == found.sum().compute()
    assert (values[values > 800] / 2).sum() == picked.sum().compute()
    assert [""] == [record.problem for record in storage.verify()]


@workflow
def count_up(start: int, note: str) -> da.Array:
    return da.arange(start, start + 1000, chunks=300)


@workflow
def total(array: da.Array) -> int:
    return int(array.sum().compute())


def test_an_equal_array_is_no_reason_to_compute_again(each_storage: Storage) -> None:
    """What is made from an array that was computed again, and is equal, is reused."""

    def run(start: int, note: str) -> list[str]:
        flow = LocalWorkflow(total(count_up(start, note)), workflow_name="again")
        flow.set_storage(each_storage)
        flow.run()
        assert flow.report is not None
        return sorted(flow.report.names("computed"))

    assert ["count_up_0000", "total_0000"] == run(0, "first")
    assert ["count_up_0000"] == run(0, "second")
    assert ["count_up_0000", "total_0000"] == run(1, "second")


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_schedulers_of_this_process(each_storage: Storage, scheduler: str) -> None:
    """Written and read by each; progress is dask's own."""
    from dask.diagnostics import Callback

    done: list[Any] = []
    with dask.config.set(scheduler=scheduler), Callback(posttask=lambda *a: done.append(a[0])):
        saved_and_read(each_storage)
    assert any("store-" in str(key) for key in done)


def test_the_scheduler_of_processes(each_storage: Storage, processes: Any) -> None:
    """What is written there is written by the workers."""
    with dask.config.set(scheduler="processes", pool=processes):
        saved_and_read(each_storage)


def test_a_distributed_client(each_storage: Storage, client: Any) -> None:
    """The active client computes, as for all of dask."""
    with dask.config.set(scheduler=client):
        saved_and_read(each_storage)


@pytest.fixture(scope="module")
def client() -> Any:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0", processes=True
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


IN_LITTLE_MEMORY = """
import json, resource, sys, threading
import dask, dask.array as da, numpy as np
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

CHUNK, COUNT = 4 << 20, 20

def block(block_id):
    return np.full(CHUNK // 8, float(block_id[0]))

@workflow
def make(count):
    return da.map_blocks(block, chunks=((CHUNK // 8,) * count,), dtype=float, meta=np.empty(0))

@workflow
def total(array):
    return array.sum().compute()

def run(count, name):
    flow = LocalWorkflow(total(make(count).set_name("make")), workflow_name=name)
    flow.set_storage(storage)
    return flow.run()

threading.stack_size(2 << 20)  # of threads there are many
dask.config.set(scheduler="threads", num_workers=2)
storage = FileStorage(sys.argv[1])
storage.register_persistent_serializers(DaskArraySerializer(**json.loads(sys.argv[2])))
run(4, "small")
with open("/proc/self/status") as status:
    (size,) = (int(line.split()[1]) << 10 for line in status if line.startswith("VmSize:"))
limit = size + 12 * CHUNK
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    np.ones(COUNT * CHUNK // 8)
except MemoryError:
    print("limited")
print(run(COUNT, "big") == sum(range(COUNT)) * (CHUNK // 8), [r.problem for r in storage.verify()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS does nothing elsewhere")
@pytest.mark.parametrize(
    "options",
    [
        "{}",
        '{"format": "zarr"}',
        *([pytest.param('{"compression": "lzf"}', marks=pytest.mark.battery)] if FULL else []),
    ],
)
def test_an_array_that_is_larger_than_memory(tmp_path: Path, options: str) -> None:
    """80 MiB are made, stored, read, reduced and verified with 48 MiB of address space."""
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path), options],
        check=False,
        capture_output=True,
        text=True,
        env={"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert "limited\nTrue ['', '', '', '']\n" == done.stdout, done.stderr
