"""A workflow of four nodes whose results are set aside and restored, for the tests of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kept_values import Kept, KeptSerializer
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import BlobStore, Storage
from functionfuse.storage.filestorage import FileStorage

TASKS = ("load", "total", "kept", "size")


@workflow(version="1")
def load(number: int) -> list[int]:
    return [number, number + 1]


@workflow(version="1")
def total(rows: list[int]) -> int:
    return sum(rows)


@workflow(version="1")
def kept(number: int) -> Kept:
    return Kept(b"%d" % number)


@workflow(version="1")
def size(of: Kept) -> int:
    return len(of.data)


def chain(storage: Any, number: int, *, until: int = 4) -> LocalWorkflow:
    """Return a workflow of four nodes, of which the third has side data; or of the first ones."""
    last: Any = number
    for function, name in list(zip((load, total, kept, size), TASKS, strict=True))[:until]:
        last = function(last).set_name(name)
    flow = LocalWorkflow(last, workflow_name="w")
    flow.set_storage(storage)
    return flow


def stored(storage: Storage, *names: str) -> list[Any]:
    """Return the latest results of `chain`, or of some of its tasks."""
    values = [storage.read_task("w", name) for name in names or TASKS]
    return [getattr(value, "data", value) for value in values]


def results(number: int) -> list[Any]:
    """Return the results of `chain`."""
    data = b"%d" % (2 * number + 1)
    return [[number, number + 1], 2 * number + 1, data, len(data)]


def computed(flow: LocalWorkflow) -> list[str]:
    """Return the names of the nodes that the last run has computed."""
    assert flow.report is not None
    return flow.report.names("computed")


def opened(path: Path, **options: Any) -> FileStorage:
    """Return a storage in files, with options."""
    storage = FileStorage(path, **options)
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def on(store: BlobStore) -> Storage:
    """Return a storage on a store."""
    storage = Storage(store)
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def made(kind: str, path: Path) -> Storage:
    """Return a storage in files, or on a store with four methods."""
    return opened(path / "store") if kind == "files" else on(MemoryStore())


def call_of(number: int) -> str:
    return f"{number:032x}"


def save(storage: Storage, task: str, number: int, value: object = None) -> None:
    """Save a result as one of a call."""
    value = number if value is None else value
    storage.save("w", task, value, fingerprint={"call": call_of(number)})


def calls(storage: Storage, task: str) -> list[int]:
    """Return the numbers of a task's earlier results, newest first."""
    return [int(info.call, 16) for info in storage.earlier("w", task)]


def aside(storage: Storage) -> list[str]:
    """Return the keys of all earlier results."""
    return [blob.key for blob in storage.store.list("w/.earlier/")]


def problems(storage: Storage) -> list[str]:
    """Return what `verify` finds."""
    return [record.problem for record in storage.verify() if record.problem]
