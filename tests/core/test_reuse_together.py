"""Several processes that run one workflow on one storage at the same time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import same_workflow
from any_order import AnyOrder

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, ResultNotFoundError
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
ROUNDS = 400 if FULL else 15


@pytest.mark.battery
def test_two_processes_at_once_both_end_right(tmp_path: Path) -> None:
    """Whoever computes and whoever reuses, both have the values of a run without a storage."""
    same_workflow.at_once({"kind": "file", "options": {"path": str(tmp_path)}}, ROUNDS)


@pytest.mark.battery
@pytest.mark.parametrize(
    ("settings", "always_read"),
    [((0, 1), False), ((0, 1, 2, 3), True)]
    + [((0, 1), True), ((0, 1, 2, 3), False), ((0, 1, 2), True)] * FULL,
)
def test_processes_with_other_settings_never_mix(
    tmp_path: Path, settings: tuple[int, ...], always_read: bool
) -> None:
    """They store under the same names; each has the values of its own setting, in every run."""
    config = {"kind": "file", "options": {"path": str(tmp_path)}}
    rounds = (2000 if FULL else 40) // len(settings)
    same_workflow.at_once(config, rounds, settings=settings, always_read=always_read)


def test_another_run_stores_between_a_save_and_its_reading(tmp_path: Path) -> None:
    """The worker that saved a result reads it back: as an earlier one, or it is computed again."""

    class Overtaken(FileStorage):
        times = 1

        def save(self, *names: Any, **about: Any) -> Any:
            info = super().save(*names, **about)
            if names[1] == "one" and self.times:
                self.times = 0
                super().save("w", "one", 100)
            return info

    @workflow(version="1")
    def one() -> int:
        return 1

    @workflow(version="1")
    def twice(number: int) -> int:
        return 2 * number

    for earlier, latest in (({}, 100), ({"earlier": False}, 1)):
        storage = Overtaken(tmp_path / str(latest), **earlier)
        storage.always_read = True
        flow = LocalWorkflow(twice(one().set_name("one")), workflow_name="w")
        flow.set_storage(storage)
        assert 2 == flow.run(AnyOrder(random.Random(0)))
        assert latest == storage.read_task("w", "one")


def test_a_read_task_of_ones_own_gives_no_result_of_another_call(tmp_path: Path) -> None:
    """If it reads the latest result, and that can't be made the wanted one, the run computes."""

    class Mine(FileStorage):
        def read_task(self, workflow_name: str, task_name: str) -> Any:  # type: ignore[override]
            return super().read_task(workflow_name, task_name)

    class Stuck(FileStore):
        def copy(self, key: str, to: str) -> None:
            if not to.startswith("w/.earlier/"):
                raise PermissionError(key)
            super().copy(key, to)

    @workflow(version="1")
    def one(number: int) -> int:
        return number

    @workflow(version="1")
    def twice(number: int) -> int:
        return 2 * number

    storage = Mine(tmp_path)
    storage.store = Stuck(str(tmp_path))
    for number in (1, 2, 1):
        flow = LocalWorkflow(twice(one(number).set_name("one")), workflow_name="w")
        flow.set_storage(storage)
        assert 2 * number == flow.run()


def test_a_store_that_loses_or_damages_what_is_saved(tmp_path: Path) -> None:
    """With `always_read`, a run ends with the error, and not never."""

    class Loses(FileStorage):
        times = 0
        damages = False

        def save(self, *arguments: Any, **about: Any) -> Any:
            self.times += 1
            info = super().save(*arguments, **about)
            path = tmp_path / "w" / "one"
            if self.damages:
                path.write_bytes(path.read_bytes()[:-1] + b"!")
            else:
                path.unlink()
            return info

    one = workflow(version="1")(lambda: 1)
    for damages, kind, times in ((False, ResultNotFoundError, 101), (True, DamagedResultError, 1)):
        storage = Loses(tmp_path)
        storage.always_read, storage.damages = True, damages
        flow = LocalWorkflow(one().set_name("one"), workflow_name="w")
        flow.set_storage(storage)
        with pytest.raises(kind):
            flow.run()
        assert times == storage.times


@pytest.mark.parametrize("always_read", [False, True])
@pytest.mark.parametrize("how", ["here", "threads", "elsewhere"])
def test_another_run_stores_between_two_nodes(tmp_path: Path, how: str, always_read: bool) -> None:
    """What a node is given is what its own run planned or saved, not what is stored by then."""

    @workflow(version="1")
    def load(number: int) -> list[int]:
        return [number, number]

    @workflow(version="1")
    def mean(rows: list[int]) -> float:
        return sum(rows) / 2

    def made(number: int) -> LocalWorkflow:
        rows = load(number).set_name("load")
        last = mean(mean_of(mean(rows).set_name("mean")).set_name("again")).set_name("last")
        flow = LocalWorkflow(last, workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        flow.storage.always_read = always_read
        return flow

    @workflow(version="1")
    def mean_of(number: float) -> list[float]:
        return [number, number]

    def run(flow: LocalWorkflow) -> Any:
        if how == "here":
            return flow.run()
        if how == "elsewhere":
            return flow.run(AnyOrder(random.Random(0)))
        with ThreadPoolExecutor(2) as pool:
            return flow.run(pool)

    for kind, node in [
        ("saved", "load"),
        ("saved", "mean"),
        ("saved", "again"),
        ("reused", "mean"),
    ]:
        flow = made(1)
        if kind == "reused":
            flow.run()
            for name in ("again", "last"):
                flow.storage.remove_task("w", name)
        flow.listeners.append(
            lambda event, at=(kind, node): made(2).run() if (event.kind, event.node) == at else None
        )
        assert 1.0 == run(flow)
        assert 1.0 == made(1).run()


def test_what_another_run_puts_in_the_place_of_a_planned_result_is_not_taken(
    tmp_path: Path,
) -> None:
    """Between the plan and the reading: it is computed again; small values and arrays.

    Also where several are read at once.
    """

    class Replaced(FileStorage):
        def task_infos(self, *names: Any) -> Iterator[Any]:
            found = list(super().task_infos(*names))
            FileStorage(tmp_path).save("w", "n", [np.zeros(size)])
            return iter(found)

    for size in (1, 10_000):

        @workflow(version="1")
        def ones(count: int) -> list[Any]:
            return [np.ones(count)]

        def run(storage: FileStorage, several: int, count: int = size) -> Any:
            nodes = ones(count).set_name("n"), ones(count + 1).set_name("m")
            flow = LocalWorkflow(*nodes[:several], workflow_name="w")
            flow.set_storage(storage)
            found = flow.run()
            return [array.sum() for [array] in (found if several > 1 else [found])]

        for several in (1, 2):
            assert [size, size + 1][:several] == run(FileStorage(tmp_path), several)
            assert [size, size + 1][:several] == run(Replaced(tmp_path), several)


def test_a_call_that_is_made_again_keeps_its_stored_result(tmp_path: Path) -> None:
    """And its children get that: a node and its child must not contradict each other."""
    drawn = iter(range(100))

    @workflow(version="1")
    class Urn:
        def draw(self) -> int:
            return next(drawn)

    @workflow
    def doubled(number: int) -> int:
        return 2 * number

    storage = FileStorage(tmp_path)

    def flow() -> LocalWorkflow:
        urn = Urn()
        first, second = urn.draw().set_name("first"), urn.draw().set_name("second")
        made = LocalWorkflow(first, doubled(first).set_name("doubled"), second, workflow_name="w")
        made.set_storage(storage)
        return made

    flow().run()
    for name in ("second", "doubled"):
        storage.remove_task("w", name)
    assert 0 == flow().run()[0]
    values = [storage.read_task("w", name) for name in ("first", "doubled")]
    assert [0, 0] == values
