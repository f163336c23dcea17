"""What `worker.py` does to a storage at random, for `test_histories.py`; each step is reported."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from kept_values import KeptSerializer
from values import seed_of, value_of

from functionfuse.config.options import StorageOptions
from functionfuse.errors import DamagedResultError, ResultExistsError, ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import BlobStore
from functionfuse.storage.catalog import info_of, is_earlier, is_result
from functionfuse.storage.filestore import FileStore

Op = dict[str, Any]
Report = Callable[[Op], None]
WORKFLOWS, TASKS, CALLS = ("a", "b"), ("t0", "t1", "t2"), 3
WEIGHTS = {
    "save": 40,
    "read": 34,
    "restore": 8,
    "remove_task": 5,
    "prune": 3,
    "list": 4,
    "gc": 3,
    "verify": 2,
    "remove_workflow": 1,
}
BIG = 17 << 20


def opened(op: Op) -> Storage:
    store: BlobStore
    if op["store"] == "sqlite":
        from functionfuse_sqlite import SqliteStore

        store = SqliteStore(f"{op['root']}/results.db")
    else:
        store = FileStore(op["root"])
    options = StorageOptions.model_validate({"key": op["key"]} if op["key"] else {})
    storage = Storage(store, options)
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def digest_of(call: int) -> str:
    """Return the digest of a call, by its number."""
    return f"{call:032x}" if call else ""


def chosen(rng: random.Random, op: Op, seed: int) -> Op:
    """Draw an operation."""
    [kind] = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    found: Op = {"kind": kind, "workflow": rng.choice(op.get("workflows", WORKFLOWS))}
    if kind in ("save", "read", "restore", "remove_task"):
        found["task"] = rng.choice(op.get("tasks", TASKS))
    if kind == "save":
        found |= {"seed": seed, "call": rng.randrange(1 + CALLS), "side": rng.random() < 0.4}
        found |= {
            "if_absent": rng.random() < op.get("if_absent", 0.2),
            "durable": rng.random() < 0.05,
        }
        found["size"] = BIG if rng.random() < op["big"] else int(300_000 ** rng.random())
        found["patience"] = int((op["older_than"] - 0.1) * 1e9)
    elif kind == "read":
        found["call"] = rng.choice([0, 0, 0, 1, 2, 3])
    elif kind == "restore":
        found["call"] = rng.randint(1, CALLS)
    elif kind == "prune":
        found["keep"] = rng.randint(0, 1)
    elif kind == "gc":
        found["older_than"] = op["older_than"]
    return found


def answer_of(storage: Storage, op: Op) -> Any:
    """Do an operation, and return its answer as `histories` understands it."""
    workflow, task, call = op["workflow"], op.get("task", ""), op.get("call", 0)
    match op["kind"]:
        case "save":
            storage.save(
                workflow,
                task,
                value_of(op["seed"], op["size"], side=op["side"]),
                fingerprint={"call": digest_of(call)} if call else None,
                if_absent=op["if_absent"],
                durable=op["durable"],
            )
        case "read":
            return seed_of(storage.read_task(workflow, task, call=digest_of(call)))
        case "restore":
            [latest] = storage.task_infos(workflow, [task])
            errors = storage.restore(workflow, {task: (digest_of(call), latest)})
            for error in errors.values():
                raise error
        case "remove_task":
            storage.remove_task(workflow, task)
        case "remove_workflow":
            storage.remove_workflow(workflow)
        case "prune":
            storage.prune(workflow, **({"keep": 1} if op["keep"] else {"bytes": 0}))
        case "list":
            return storage.list_tasks(workflow)
        case "gc":
            storage.gc(older_than=op["older_than"])
        case "verify":
            problems = [record for record in storage.verify(workflow) if record.problem]
            return [(found.task, int(found.call or "0", 16)) for found in problems]
    return "ok"


def reported(storage: Storage, op: Op, report: Report) -> None:
    """Do an operation, and report it before and after it; an error that may not be is "wrong"."""
    report({"begin": time.monotonic_ns(), "op": op})
    try:
        answer = answer_of(storage, op)
    except ResultNotFoundError:
        answer = "absent"
    except ResultExistsError:
        answer = "exists"
    except DamagedResultError:
        answer = "damaged"
    except Exception as error:  # noqa: BLE001  # whatever it is, the test judges it
        notes = "; ".join(getattr(error, "__notes__", []))
        report({"wrong": f"{op}: {type(error).__name__}: {error} ({notes})"})
        return
    report({"end": time.monotonic_ns(), "answer": answer})


def act(op: Op, report: Report) -> Op:
    """Do operations until killed."""
    rng, storage = random.Random(op["seed"]), opened(op)
    if op.get("broken"):
        BROKEN[op["broken"]](storage)
    for number in itertools.count(op["first"]):
        reported(storage, chosen(rng, op, number), report)
    return {}


def steps(op: Op, report: Report) -> Op:
    """Do operations in their order; one that "dies" is killed right after its commit."""
    storage = opened(op)
    put = storage.store.put

    def put_and_die(key: str, parts: Any, **options: Any) -> None:
        put(key, parts, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    for step in op["steps"]:
        if step.get("dies"):
            storage.store.put = put_and_die
        reported(storage, step, report)
    return {}


def close(op: Op, report: Report) -> Op:
    """Read everything when nobody else is there, collect, and return what is left over."""
    storage = opened(op)
    for workflow in WORKFLOWS:
        reported(storage, {"kind": "verify", "workflow": workflow}, report)
        reported(storage, {"kind": "list", "workflow": workflow}, report)
        for task, call in itertools.product(TASKS, range(1 + CALLS)):
            read = {"kind": "read", "workflow": workflow, "task": task, "call": call}
            reported(storage, read, report)
    for workflow in WORKFLOWS:
        storage.new_workflow(workflow)  # without a marker, `gc` leaves what a killed save has left
    time.sleep(0.02)  # a file system's clock ticks slower than ours
    storage.gc(older_than=0)
    keys = [blob.key for name in WORKFLOWS for blob in storage.store.list(f"{name}/")]
    results = [key for key in keys if is_result(key) or is_earlier(key)]
    # Those of another call than their key tells count, too: `gc` leaves their side data.
    sides = [
        side for key in results for side in info_of(storage.store, key, signed_by=None).side_data
    ]
    needed = {name for side in sides for name, *_ in side.files}
    kept = {key.rpartition("/")[2] for key in keys if "/.data/" in key}
    again = [found.key for found in storage.gc(older_than=0)]
    return {"left": sorted(kept - needed) + again}


# What must be found: each breaks a storage in one way.


def write_in_place(storage: Storage) -> None:
    def put(key: str, parts: Any, *, if_absent: bool = False, durable: bool = False) -> None:
        path = f"{storage.store.root}/{key}"
        storage.store.prepare(key.rpartition("/")[0] + "/")
        with open(path, "xb" if if_absent else "wb", buffering=0) as file:
            file.writelines(parts)

    storage.store.put = put


def replace_by_two_steps(storage: Storage) -> None:
    put = storage.store.put

    def in_two_steps(key: str, parts: Any, **options: Any) -> None:
        if not options.get("if_absent"):
            storage.store.delete([key])
        put(key, parts, **options)

    storage.store.put = in_two_steps


def look_before_the_put(storage: Storage) -> None:
    put, names = storage.store.put, storage.store.names

    def if_unseen(key: str, parts: Any, *, if_absent: bool = False, durable: bool = False) -> None:
        folder, _, name = key.rpartition("/")
        if if_absent and name in names(f"{folder}/"):
            raise FileExistsError(key)
        time.sleep(0.001)  # the moment that is dangerous
        put(key, parts, durable=durable)

    storage.store.put = if_unseen


def remove_side_data_first(storage: Storage) -> None:
    put = storage.store.put

    def too_early(key: str, parts: Any, **options: Any) -> None:
        workflow, _, task = key.partition("/")
        if "/" not in task and not options.get("if_absent"):
            for info in storage.task_infos(workflow, [task]):
                if info is not None:
                    names = [name for side in info.side_data for name, *_ in side.files]
                    storage.store.delete([f"{workflow}/.data/{name}" for name in names])
        put(key, parts, **options)

    storage.store.put = too_early


def ignore_the_age(storage: Storage) -> None:
    gc = storage.gc
    storage.gc = lambda older_than: gc(older_than=-1)


def restore_by_moving(storage: Storage) -> None:
    copy = storage.store.copy

    def move(key: str, to: str) -> None:
        copy(key, to)
        storage.store.delete([key])

    storage.store.copy = move


BROKEN: dict[str, Callable[[Storage], None]] = {
    "writes in place": write_in_place,
    "replaces by two steps": replace_by_two_steps,
    "looks before it puts, if absent": look_before_the_put,
    "removes side data before the commit": remove_side_data_first,
    "collects what is young": ignore_the_age,
    "restores by moving": restore_by_moving,
}
