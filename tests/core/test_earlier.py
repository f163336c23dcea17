"""Earlier results: what they cost, and how the settings of a workflow concern them.

The kit of storages has the tests of their promises: `functionfuse.testing.goingback`.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from any_order import AnyOrder
from remote_store import RemoteStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import BlobInfo, Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import earlier_key
from going_back import (
    TASKS,
    aside,
    call_of,
    calls,
    chain,
    computed,
    load,
    made,
    on,
    opened,
    results,
    save,
    stored,
    total,
)


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., FileStorage]:
    """Return a function that opens one storage in files again, with options."""
    return partial(opened, tmp_path / "store")


# What it costs.


class Requests(RemoteStore):
    """A store over a network whose server copies blobs, which are all of now."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return (replace(blob, modified=self.now()) for blob in super().list(prefix))

    def copy(self, key: str, to: str) -> None:
        self.asked["copy"] += 1
        self.blobs_held[to] = self._blob(key)


def test_the_requests_of_a_run() -> None:
    """None for earlier results, unless results are replaced; then they are listed once.

    A save that replaces is three requests: header, copy, put. A restore is two after the header.
    The record of the run is one more put. So is the marker, if a run computes or restores.
    """
    store, asked = Requests(), {}
    for turn, number in enumerate((1, 1, 2, 2, 1)):
        store.asked.clear()
        flow = chain(Storage(store), number, until=2)
        assert 2 * number + 1 == flow.run()
        asked[turn] = dict(+store.asked)
    plan = {"head": 2}
    assert asked[0] == plan | {"put": 2 + 2}
    assert asked[1] == asked[3] == plan | {"get": 1, "put": 1}
    # Listed are: the earlier results for the plan and for the limits, and side data, if any.
    assert asked[2] == {"head": 2 + 2, "list": 3, "copy": 2, "put": 2 + 2}
    assert asked[4] == {"head": 2 + 2, "list": 3, "copy": 4, "get": 1, "put": 2}
    store.asked.clear()
    chain(Storage(store), 1, until=2).plan()
    assert plan == store.asked


@pytest.mark.parametrize(("until", "listings"), [(2, 1), (3, 2)])
def test_the_listings_of_a_removal(until: int, listings: int) -> None:
    """A workflow is listed once; with side data twice, for what a run set aside meanwhile."""
    store = Requests()
    chain(on(store), 1, until=until).run()
    called: list[str] = []

    def listing(prefix: str) -> Any:
        called.append(prefix)
        return Requests.list(store, prefix)

    store.list = listing  # type: ignore[method-assign]
    on(store).remove_workflow("w")
    assert listings == called.count("w/")


def test_the_requests_of_a_storage() -> None:
    """The limits are looked at once by a process, while what it sets aside is far below them."""
    store = Requests()
    storage = Storage(store)
    storage.run_records = False
    for number in range(3):
        chain(storage, number, until=1).run()
    store.asked.clear()
    chain(storage, 3, until=1).run()
    assert {"head": 2, "list": 1, "copy": 1, "put": 1} == +store.asked


def test_the_system_calls_on_files(
    files: Callable[..., FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy to a new name is seven, over another file ten; before it a header is read: three."""
    storage, called = files(), Counter[str]()
    for number in (1, 2):
        save(storage, "t", number)

    def count(name: str) -> None:
        call = getattr(os, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            called[name] += 1
            return call(*arguments, **more)

        monkeypatch.setattr(os, name, counted)

    names = "access close fstat fsync link listdir lseek mkdir open pread rename scandir stat"
    for name in f"{names} unlink utime write writev".split():
        count(name)
    save(storage, "t", 2)
    assert 3 + 6 == called.total()
    called.clear()
    storage.save("w", "new", 1, fingerprint={"call": call_of(1)}, replaces=None)
    assert {"open": 2, "write": 1, "close": 2, "rename": 1} == called
    called.clear()
    save(storage, "t", 3)
    assert {
        "link": 1,
        "stat": 1,
        "utime": 1,
        "pread": 1,
        "write": 1,
    }.items() <= called.items()
    assert 3 + 7 + 6 == called.total()
    [latest] = storage.task_infos("w", ["t"])
    called.clear()
    assert {} == storage.restore("w", {"t": (call_of(1), latest)})
    assert 3 + 7 + 10 == called.total()
    called.clear()
    assert {} == storage.restore("w", {"t": (call_of(1), latest)})
    assert 3 == called.total()
    monkeypatch.undo()
    assert [1, {2, 3}] == [storage.read_task("w", "t"), set(calls(storage, "t"))]


def test_a_sweep_is_computed_once(files: Callable[..., FileStorage]) -> None:
    """A hundred settings of five nodes, twice: the second time nothing is computed."""

    def flow(number: int) -> LocalWorkflow:
        rows = load(7).set_name("constant")
        first = total(load(number).set_name("load")).set_name("first")
        both = load(first).set_name("both")
        made = LocalWorkflow(total(both).set_name("last"), total(rows), workflow_name="w")
        made.set_storage(files())
        return made

    for expected in (100 * 4 + 2, 0):
        count = 0
        for number in range(100):
            made = flow(number)
            assert [2 * (2 * number + 1) + 1, 15] == made.run()
            count += len(computed(made))
        assert expected == count
    assert 99 == len(files().earlier("w", "last"))
    # Of all tasks: each list is as for the task alone, and nothing else is there.
    every = files().earlier("w")
    for task in ("load", "first", "both", "last", "constant"):
        expected_infos = files().earlier("w", task)
        assert expected_infos == [info for info in every if info.task == task]
    assert 4 * 99 == len(every)


# Settings of a workflow.


def test_a_node_that_is_never_reused(storage: Storage) -> None:
    """It is computed each time; what follows is found again."""
    for number, found in ((1, 4), (2, 4), (1, 1), (2, 1)):
        flow = chain(storage, number)
        flow.query("total").set_reuse("never")
        assert results(number)[-1] == flow.run()
        assert found == len(computed(flow))
        assert results(number) == stored(storage)
    assert ["total"] == computed(flow)
    flow = chain(storage, 1)
    flow.log_nodes("load")
    flow.query("total").set_reuse("never")
    assert ["load", "total"] == flow.plan().names("compute")


def test_a_node_that_is_always_reused(storage: Storage) -> None:
    """Its latest result is taken, whatever it was computed from; no earlier one is sought."""
    for number in (1, 2):
        chain(storage, number).run()
    flow = chain(storage, 1)
    flow.query("total").set_reuse("always")
    assert results(2)[-1] == flow.run()
    assert [] == computed(flow)
    assert [results(1)[0], *results(2)[1:]] == stored(storage)
    assert results(1)[-1] == chain(storage, 1).run()
    assert results(1) == stored(storage)


def test_a_node_that_is_not_stored(storage: Storage) -> None:
    """What follows waits for it; then its earlier results are found."""
    for number, found in ((1, 4), (2, 4), (1, 1), (2, 1)):
        flow = chain(storage, number)
        flow.log_nodes("load")
        if found == 1:
            plan = flow.plan()
            assert ["load"] == plan.names("compute")
            assert ["total", "kept", "size"] == plan.names("maybe")
        assert results(number)[-1] == flow.run()
        assert found == len(computed(flow))
        assert results(number)[1:] == stored(storage, *TASKS[1:])


def test_a_plan_does_not_know_the_call_yet(storage: Storage) -> None:
    """It says so, if there are earlier results; then they are found, or the node is computed."""

    @workflow(version="1")
    def longer(rows: list[int], by: int) -> list[int]:
        return rows * by

    def made(number: int, by: int) -> LocalWorkflow:
        rows = load(number).set_name("load")
        flow = LocalWorkflow(longer(rows, by).set_name("longer"), workflow_name="w")
        flow.log_nodes("load")
        flow.set_storage(storage)
        return flow

    assert [1, 2] == made(1, 1).run()
    assert "argument 'by' changed (1 → 2)" == made(2, 2).plan()["longer"].reason
    assert [2, 3, 2, 3] == made(2, 2).run()
    for number, by, action in ((1, 1, "reused"), (2, 2, "reused"), (1, 2, "computed")):
        record = made(number, by).plan()["longer"]
        if action == "reused":
            assert ("maybe", "compute unless an earlier result fits") == (
                record.action,
                record.reason,
            )
        flow = made(number, by)
        assert [number, number + 1] * by == flow.run()
        assert flow.report is not None
        assert action == flow.report["longer"].action
        assert [number, number + 1] * by == storage.read_task("w", "longer")


def test_calls_on_an_object(storage: Storage) -> None:
    """Its calls go back together; a call that is made again goes through those before it."""
    made: list[tuple[int, int]] = []

    @workflow(version="1")
    class Counter:
        def __init__(self, start: int) -> None:
            self.count = start

        def add(self, number: int) -> int:
            made.append((self.count, number))
            self.count += number
            return self.count

    def run(start: int, *numbers: int) -> Any:
        counter, made[:] = Counter(start), []
        nodes = [counter.add(number).set_name(f"add {n}") for n, number in enumerate(numbers)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        found = flow.run()
        assert found == [storage.read_task("w", node.name) for node in nodes]
        return found

    for start, numbers, found, expected in (
        (0, (1, 2, 3), [1, 3, 6], 3),
        (10, (1, 2, 3), [11, 13, 16], 3),
        (0, (1, 2, 3), [1, 3, 6], 0),
        (0, (1, 5, 3), [1, 6, 9], 3),
        (10, (1, 2, 3), [11, 13, 16], 0),
        (0, (1, 5, 3), [1, 6, 9], 0),
        (10, (1, 2, 4), [11, 13, 17], 3),
    ):
        assert found == run(start, *numbers)
        assert expected == len(made)
    storage.store.delete(
        [key for key in aside(storage) if key.startswith(earlier_key("w", "add 1", ""))]
    )
    assert [1, 6, 9] == run(0, 1, 5, 3)
    assert [(0, 1), (1, 5)] == made[:2]


def test_a_node_that_is_not_needed(storage: Storage) -> None:
    """What is stored for it stays, and the report says so and why."""
    chain(storage, 1).run()
    chain(storage, 2, until=1).run()
    storage.store.delete(aside(storage))
    flow = chain(storage, 1)
    assert results(1)[-1] == flow.run()
    assert flow.report is not None
    reason = "an older result stays: argument 'number' changed (2 → 1)"
    assert ("not needed", reason) == (flow.report["load"].action, flow.report["load"].reason)
    assert [2, 3] == storage.read_task("w", "load")


@pytest.mark.parametrize("seed", range(3))
def test_a_backend_that_keeps_values(files: Callable[..., FileStorage], seed: int) -> None:
    """Its workers read earlier results where they are."""
    storage = files()
    for number, count in ((1, 4), (2, 4), (1, 0), (2, 0)):
        flow = chain(storage, number)
        assert results(number)[-1] == flow.run(AnyOrder(random.Random(seed)))
        assert count == len(computed(flow))
        assert results(number) == stored(storage)
