"""What `worker.py` does with earlier results: runs of a workflow, and a look at all they stored."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

from kept_values import Kept

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import FunctionFuseError, ResultNotFoundError
from functionfuse.storage import Storage

TASKS = ("first", "second")


def made(number: int, *, side: bool) -> list[Any]:
    """Return a value that tells its number, and has side data or not."""
    data = random.Random(number).randbytes(2000)
    return [number, Kept(data) if side else data]


def number_of(value: list[Any]) -> int:
    """Return the number of a value that is, byte for byte, what `made` gave for it."""
    number, data = value
    data = data.data if isinstance(data, Kept) else data
    if random.Random(number).randbytes(2000) != data:
        raise AssertionError(f"the value of {number} is torn")
    return int(number)


@workflow(version="1")
def first(number: int, side: bool) -> list[Any]:
    return made(number, side=side)


@workflow(version="1")
def second(value: list[Any], side: bool) -> list[Any]:
    return made(number_of(value) + 1000, side=side)


def run(storage: Storage, number: int, *, side: bool, policy: str = "unchanged") -> dict[str, Any]:
    """Run a workflow of two tasks; return the numbers of the results, and the actions."""
    node = first(number, side).set_name("first")
    flow = LocalWorkflow(node, second(node, side).set_name("second"), workflow_name="w")
    flow.set_storage(storage)
    flow.set_reuse(policy)
    values = flow.run()
    actions = [record.action for record in flow.report.nodes]
    return {"numbers": list(map(number_of, values)), "actions": actions}


def look(storage: Storage) -> dict[str, Any]:
    """Return the numbers of all results, read by their calls, and all problems."""
    latest, earlier = {}, {}
    for task in storage.list_tasks("w"):
        latest[task] = number_of(storage.read_task("w", task)) % 1000
        calls = [info.call for info in storage.earlier("w", task)]
        values = [storage.read_task("w", task, call=call) for call in calls]
        earlier[task] = [number_of(value) % 1000 for value in values]
    problems = [record.problem for record in storage.verify() if record.problem]
    return {"latest": latest, "earlier": earlier, "problems": problems}


def look_twice(storage: Storage) -> dict[str, Any]:
    """Look, remove all leftovers, and look again; tell of side data that nothing refers to."""
    found = look(storage)
    time.sleep(0.02)  # a file system's clock ticks slower than ours
    storage.gc(older_than=0)
    found["after gc"] = look(storage)
    used = {
        name
        for task in storage.list_tasks("w")
        for info in [storage.task_info("w", task), *storage.earlier("w", task)]
        for side in info.side_data
        for name, *_ in side.files
    }
    names = {blob.key.rpartition("/")[2] for blob in storage.store.list("w/.data/")}
    found["side data"] = sorted(names ^ used)
    return found


def race(storage: Storage, op: dict[str, Any], number: int, wrong: list[str]) -> int:
    """Do one part of a race for some seconds; return how often."""
    chance, count, end = random.Random(op["seed"] + number), 0, time.monotonic() + op["seconds"]
    what = op["parts"][number]
    while not count or time.monotonic() < end:
        count += 1
        if what == "run":
            setting = chance.randrange(3)
            found = run(storage, setting, side=op["side"])
            if found["numbers"] != [setting, setting + 1000]:
                wrong.append(f"setting {setting} gave {found['numbers']}")
                break
            continue
        with contextlib.suppress(ResultNotFoundError):
            if what == "prune":
                storage.prune("w", bytes=0)
            elif what == "gc":
                storage.gc()
            elif what == "remove_task":
                storage.remove_task("w", chance.choice(TASKS))
            else:
                storage.remove_workflow("w")
        time.sleep(chance.random() * op["pause"])
    return count


def errors_of(storage: Storage) -> list[str]:
    """Return what is wrong in a store when nobody uses it any more."""
    try:
        return [f"{r.task} {r.call}: {r.problem}" for r in storage.verify() if r.problem]
    except FunctionFuseError as error:
        return [repr(error)]
