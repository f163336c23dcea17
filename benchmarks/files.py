"""`File`: 512 MiB through a program, 76 small files, and digests that are remembered."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from functionfuse import File, LocalWorkflow, Storage, workflow
from functionfuse.reuse.values import digest_of
from functionfuse.serializers import content
from functionfuse.storage import storage_factory
from memory import held
from pairs import time_pair
from table import Row, amount, at_most

BIG, SMALL, COUNT, ROUNDS = 512 << 20, 64 << 10, 76, 9


@workflow
def upper(source: File, target: str) -> File:
    """Send a file through a program."""
    with open(source, "rb") as given, open(target, "wb") as made:
        subprocess.run(["tr", "a-z", "A-Z"], stdin=given, stdout=made, check=True)
    return File(target)


@workflow
def size(found: Any) -> int:
    """Use a stored file."""
    return os.stat(found).st_size


@workflow
def as_file(path: str, data: bytes) -> File:
    """Write a file, and return it."""
    Path(path).write_bytes(data)
    return File(path)


@workflow
def as_bytes(path: str, data: bytes) -> bytes:
    """Write a file, and return its bytes."""
    Path(path).write_bytes(data)
    return Path(path).read_bytes()


@workflow
def all_of(found: list[Any]) -> int:
    """Take all of them."""
    return len(found)


def measure_in(folder: Path) -> Iterator[Row]:
    source, target, copied = (folder / name for name in ("source", "target", "copied"))
    with source.open("wb") as file:
        for number in range(BIG >> 20):
            file.write(bytes([97 + number % 20]) * (1 << 20))
    storage = storage_in(folder)

    def ours() -> None:
        content._digests.clear()
        run(storage, source, target)

    def bare() -> None:
        """Read and write the same bytes: the program, and a copy of what it has written."""
        with source.open("rb") as given, target.open("wb") as made:
            subprocess.run(["tr", "a-z", "A-Z"], stdin=given, stdout=made, check=True)
        with target.open("rb") as given, copied.open("wb") as made:
            shutil.copyfileobj(given, made, 1 << 20)
            made.flush()
            os.fsync(made.fileno())

    def remove() -> None:
        for path in (target, copied):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / "storage", ignore_errors=True)

    pair = time_pair(ours, bare, rounds=3, prepare=remove)
    yield at_most("512 MiB through `tr`, a run with File / `tr` and a flushed copy", 2.5, pair)
    remove()
    child = [sys.executable, __file__, str(folder)]
    printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield amount("memory of that run, beyond imports", float(printed), 100, unit="MiB")
    remove()

    # A digest that is remembered.
    past = time.time() - 60
    os.utime(source, (past, past))
    time.sleep(2.1)
    digest_of(File(source))
    began = time.perf_counter()
    for _ in range(1000):
        digest_of(File(source))
    each = (time.perf_counter() - began) * 1e3
    yield amount("a second look at 512 MiB", each, 100, unit="µs")
    source.unlink()
    yield small(folder)


def small(folder: Path) -> Row:
    """Time a run in which each node writes a file, and returns it; or returns its bytes."""
    data = [os.urandom(SMALL) for _ in range(COUNT)]

    def ran(function: Any) -> None:
        nodes = [
            function(str(folder / f"{number}.csv"), each).set_name(str(number))
            for number, each in enumerate(data)
        ]
        flow = LocalWorkflow(all_of(nodes).set_name("all"), workflow_name="w")
        flow.set_storage(storage_in(folder))
        assert flow.run() == COUNT

    def remove() -> None:
        shutil.rmtree(folder / "storage", ignore_errors=True)

    pair = time_pair(lambda: ran(as_file), lambda: ran(as_bytes), rounds=ROUNDS, prepare=remove)
    return at_most(f"a run of {COUNT} files of 64 KiB, File / their bytes", 1.5, pair)


def run(storage: Storage, source: Path, target: Path) -> None:
    written = upper(File(source), str(target)).set_name("upper")
    flow = LocalWorkflow(size(written).set_name("size"), workflow_name="w")
    flow.set_storage(storage)
    assert flow.run() == BIG


def storage_in(folder: Path) -> Storage:
    return storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})


def main(folder: Path) -> None:
    storage = storage_in(folder)
    storage.save("w", "small", pickle.dumps(1))
    before = held()
    run(storage, folder / "source", folder / "target")
    print((held() - before) / (1 << 20))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
