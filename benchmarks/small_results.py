"""Saving, reading and listing results of a few bytes, where only the overhead counts."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib  # type: ignore[import-untyped]

from bare import create_write_rename
from functionfuse.reuse.described import describing
from functionfuse.storage import Storage, storage_factory
from pairs import time_pair
from table import Row, at_least, at_most


@dataclass
class Result:
    model: str


RESULT = {"model": "random forest", "depth": 3, "scores": [0.91, 0.93, 0.89], "seconds": 0.5}
WORKFLOW = "bench"
MANY = 100_000


def measure_in(folder: Path) -> Iterator[Row]:
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    storage.new_workflow(WORKFLOW)
    save(storage, "first")
    blob = (folder / "storage" / WORKFLOW / "first").read_bytes()
    yield from saves(folder, storage, blob)
    yield read(folder, storage)
    yield against_joblib(folder, storage)
    yield listing(folder, storage)


def saves(folder: Path, storage: Storage, blob: bytes) -> Iterator[Row]:
    """Save under new names, and an object of an own class."""
    bare = str(folder / "bare")
    os.mkdir(bare)
    ours, theirs = itertools.count(), itertools.count()

    def write() -> None:
        number = next(theirs)
        create_write_rename(f"{bare}/.tmp-{number}", f"{bare}/new-{number}", blob)

    new = time_pair(
        lambda: save(storage, f"new-{next(ours)}"),
        write,
        rounds=300,
        calls=20,
        clock=time.process_time,
    )
    yield at_most("save a result / create, write, rename its bytes (CPU)", 2.4, new)
    describe, result = describing(), Result("random forest")
    described = time_pair(
        lambda: storage.save(WORKFLOW, "own", result, describe=describe),
        lambda: storage.save(WORKFLOW, "own", result),
        rounds=300,
        calls=20,
    )
    yield at_most("save an object of an own class / the same, not described", 1.5, described)


def read(folder: Path, storage: Storage) -> Row:
    path = str(folder / "result.pickle")
    Path(path).write_bytes(pickle.dumps(RESULT, 5))

    def open_read_unpickle() -> object:
        file = os.open(path, os.O_RDONLY)
        data = os.read(file, 1 << 16)
        os.close(file)
        return pickle.loads(data)

    assert open_read_unpickle() == storage.read_task(WORKFLOW, "first") == RESULT
    pair = time_pair(
        lambda: storage.read_task(WORKFLOW, "first"), open_read_unpickle, rounds=300, calls=50
    )
    return at_most("read a result / open, read, unpickle", 3, pair)


def against_joblib(folder: Path, storage: Storage) -> Row:
    """Compare with what joblib.Memory does once it has a function's value: output and metadata.

    Its call, and its hashing of arguments, are not counted.
    """
    backend = joblib.Memory(folder / "joblib", verbose=0).store_backend
    ours, theirs = itertools.count(), itertools.count()

    def store() -> None:
        call = ("bench", str(next(theirs)))
        backend.dump_item(call, RESULT, verbose=0)
        metadata = {"duration": 0.001, "input_args": {"depth": "3"}, "time": time.time()}
        backend.store_metadata(call, metadata)

    pair = time_pair(lambda: save(storage, f"joblib-{next(ours)}"), store, rounds=200, calls=10)
    return at_least("joblib.Memory's store of a result / save", 8, pair)


def listing(folder: Path, storage: Storage) -> Row:
    names = [f"task-{number}" for number in range(MANY)]
    storage.new_workflow("many")
    for name in names:
        storage.save("many", name, 1)
    path = folder / "storage" / "many"

    def scan() -> list[str]:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.name != ".functionfuse")

    assert scan() == storage.list_tasks("many") == sorted(names)
    pair = time_pair(lambda: storage.list_tasks("many"), scan, rounds=15)
    return at_most(f"list {MANY:,} results / scandir and sort", 2, pair)


def save(storage: Storage, name: str) -> object:
    """Save as a run does."""
    about = {"function": "bench.train", "seconds": 0.001, "replaces": None}
    return storage.save(WORKFLOW, name, RESULT, **about)
