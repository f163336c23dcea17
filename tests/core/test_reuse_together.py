"""Several processes that run one workflow on one storage at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import same_workflow

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

ROUNDS = 40


def test_two_processes_at_once_both_end_right(tmp_path: Path) -> None:
    """Whoever computes and whoever reuses, both have the values of a run without a storage."""
    same_workflow.at_once({"kind": "file", "options": {"path": str(tmp_path)}}, ROUNDS)


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
