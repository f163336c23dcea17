"""Several processes that run one workflow on one storage at the same time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import same_workflow

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

ROUNDS = 40


def test_two_processes_at_once_both_end_right(tmp_path: Path) -> None:
    """Whoever computes and whoever reuses, both have the values of a run without a storage.

    Each round changes what the first node is given, sometimes back to what it was, and removes some
    results; what is stored in the end is whole, and a third run computes nothing.
    """
    command = [sys.executable, str(Path(same_workflow.__file__)), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    storage, chance, actions = FileStorage(str(tmp_path)), random.Random(0), []
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
        for process in processes:
            assert "\n" == process.stdout.readline()
        for number in (chance.randrange(8) for _ in range(ROUNDS)):
            for name in chance.sample(storage.list_tasks("w"), 3) if actions else ():
                storage.remove_task("w", name)
            for process in processes:
                process.stdin.write(f"{number}\n")
                process.stdin.flush()
            expected = same_workflow.made(number).run()
            for process in processes:
                result, done = json.loads(process.stdout.readline())
                assert expected == result
                actions.append(done)
        for process in processes:
            process.stdin.close()
    assert [] == [found for found in storage.verify() if found.problem]
    assert any(done.get("computed") for done in actions)
    last = subprocess.run(command, input=f"{number}\n", capture_output=True, text=True, check=True)
    result, done = json.loads(last.stdout.splitlines()[-1])
    assert expected == result
    assert "computed" not in done


def test_what_another_run_puts_in_the_place_of_a_planned_result_is_not_taken(
    tmp_path: Path,
) -> None:
    """Between the plan and the reading: it is computed again; small values and arrays."""

    class Replaced(FileStorage):
        def task_infos(self, *names: Any) -> Iterator[Any]:
            found = list(super().task_infos(*names))
            FileStorage(tmp_path).save("w", "n", [np.zeros(size)])
            return iter(found)

    for size in (1, 10_000):

        @workflow(version="1")
        def ones(count: int) -> list[Any]:
            return [np.ones(count)]

        def run(storage: FileStorage, count: int = size) -> Any:
            flow = LocalWorkflow(ones(count).set_name("n"), workflow_name="w")
            flow.set_storage(storage)
            return flow.run()[0].sum()

        assert size == run(FileStorage(tmp_path))
        assert size == run(Replaced(tmp_path))
