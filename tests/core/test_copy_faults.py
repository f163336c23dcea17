"""`Storage.copy`: damage, other writers, kills, errors of a store, and memory."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copies import Tree, actions, again, infos, keys, storage_of
from kept_values import Kept

from functionfuse.errors import DamagedResultError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from going_back import TASKS, call_of, opened, problems
from run_records import record

HERE = Path(__file__).parent
MIB = 1 << 20


def changed(storage: Storage, key: str, offset: int = -1) -> None:
    """Change one byte of a blob."""
    data = bytearray(storage.store.get(key))
    data[offset] ^= 1
    storage.store.put(key, [data])


def side_key(storage: Storage, task: str) -> str:
    """Return the key of a file beside a result."""
    [(name, _, _)] = storage.task_info("w", task).side_data[0].files
    return f"w/.data/{name}"


DAMAGES: dict[str, Callable[[Storage], None]] = {
    "the header": lambda storage: changed(storage, "w/kept", 200),
    "the pickle": lambda storage: changed(storage, "w/kept"),
    "side data": lambda storage: changed(storage, side_key(storage, "kept")),
    "missing": lambda storage: storage.store.delete([side_key(storage, "kept")]),
    "longer": lambda storage: storage.store.put(side_key(storage, "kept"), [b"x" * 2 * MIB]),
    "another": lambda storage: storage.store.copy("w/size", "w/kept"),
    "nothing": lambda storage: storage.store.put("w/kept", [b""]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["files", "memory"])
def test_a_damaged_result(kind: str, source: FileStorage, tmp_path: Path, damage: str) -> None:
    """It is told as `verify` tells it, nothing of it is left there, and the others are copied."""
    target = storage_of(kind, tmp_path / "target")
    DAMAGES[damage](source)
    [found] = [report for report in source.verify() if report.problem]
    for _ in range(2):
        reports = source.copy("w", target)
        [report] = [report for report in reports if report.problem]
        assert ("kept", "not copied", found.problem) == (
            *(report.task, report.action),
            report.problem,
        )
        assert sorted({*TASKS} - {"kept"}) == target.list_tasks("w")
        assert [] == [key for key in keys(target) if ".data/" in key]
    assert 0 == len(target.gc(-60.0))


def test_damage_in_a_folder_and_in_a_big_result(source: FileStorage, target: FileStorage) -> None:
    """What is found only when nearly all is written is not left, either."""
    source, target = again(source), again(target)
    tree = Tree({"a": os.urandom(2 * MIB), "b/c": b"x"})
    source.save("w", "tree", [tree, b"x" * 3 * MIB])
    source.save("w", "big", np.zeros(5 * MIB, "u1"))
    [(name, _, _)] = source.task_info("w", "tree").side_data[0].files
    changed(source, f"w/.data/{name}b/c")
    changed(source, "w/big")
    target.save("w", "big", "before")
    reports = {report.task: report for report in source.copy("w", target)}
    assert "is not what was written" in reports["tree"].problem
    assert "buffer 0" in reports["big"].problem
    assert "before" == target.read_task("w", "big")
    assert 1 == len(list(target.store.list("w/.data/")))
    assert [] == target.gc(-60.0)
    assert [] == problems(target)


def test_a_sound_result_there_keeps_its_side_data(source: FileStorage, target: FileStorage) -> None:
    """Of a copy that fails because the source was damaged since the last one."""
    source.copy("w", target)
    key = side_key(source, "kept")
    changed(target, "w/kept", 20)  # the digest of its header
    target.store.copy("w/kept", "w/kept damaged")
    source.copy("w", target)
    changed(source, key)
    assert ["there already"] * 4 == actions(source.copy("w", target))
    assert b"3" == target.read_task("w", "kept").data


def test_damaged_and_foreign_records(source: FileStorage, target: FileStorage) -> None:
    """They stay behind, with the reason."""
    first = record(source, 1)
    changed(source, record(source, 2))
    source.store.copy(first, record(source, 3))
    reports = source.copy("w", target, runs=True)[4:]
    assert ["copied", "not copied", "not copied", "copied"] == actions(reports)
    assert ["", "the record is not what was written"] == [r.problem for r in reports[:2]]
    assert "it is the record of run" in reports[2].problem
    assert 2 == len(target.runs("w"))


# Others at work.


def meanwhile(storage: Storage, action: Callable[[], object], key: str) -> None:
    """Do something once, when the first block of a blob is read, and before it is given out."""
    blocks, done = storage.store.blocks, list[str]()

    def watched(name: str, size: int) -> Iterator[Any]:
        found = blocks(name, size)
        first = bytes(next(found))
        if key in name and not done:
            done.append(name)
            action()
        yield first
        yield from found

    storage.store.blocks = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("part", ["w/kept", "w/.data/"])
def test_a_result_is_replaced_meanwhile(
    source: FileStorage, target: FileStorage, part: str
) -> None:
    """It is read again: the new one is copied, and nothing of the old one is left."""
    other = opened(Path(source.store.root))
    source.save("w", "kept", [Kept(b"3"), Kept(b"3")])
    meanwhile(source, lambda: other.save("w", "kept", [Kept(b"new")]), part)
    [report] = source.copy("w", target, "kept")
    assert "copied" == report.action
    assert [b"new"] == [part.data for part in target.read_task("w", "kept")]
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


def test_a_result_is_removed_meanwhile(source: FileStorage, target: FileStorage) -> None:
    """Before its side data is read: it is gone, and the others are copied."""
    meanwhile(source, lambda: opened(Path(source.store.root)).remove_task("w", "kept"), "w/kept")
    reports = source.copy("w", target)
    assert {"kept": "gone"} == {r.task: r.action for r in reports if r.action != "copied"}
    assert [] == [key for key in keys(target) if ".data/" in key]


def test_a_result_that_is_replaced_again_and_again(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not copied in the end, and the report says why."""

    def replaced(*_: object) -> None:
        source.save("w", "kept", Kept(b"another"))
        raise DamagedResultError("a file is missing")

    monkeypatch.setattr("functionfuse.storage.copying.check_side_data", replaced)
    [report] = source.copy("w", target, "kept")
    assert ("not copied", "it is replaced again and again") == (report.action, report.problem)


def test_gc_in_the_target_meanwhile(source: FileStorage, target: FileStorage) -> None:
    """Side data that is written, but not committed yet, is young."""
    found: list[Any] = []
    put = target.store.put

    def collecting(key: str, *arguments: Any, **options: Any) -> None:
        if key == "w/kept":
            found.extend(target.gc())
        put(key, *arguments, **options)

    target.store.put = collecting  # type: ignore[method-assign]
    source.copy("w", target)
    assert [] == found
    assert [] == problems(target)


def test_a_copy_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """What is there is sound each time, and never less; in the end nothing is left over."""
    paths = tmp_path / "source", tmp_path / "target"
    source, target = (storage_of("files", path) for path in paths)
    for number in range(30):
        value = [Kept(os.urandom(300_000)), Tree({"a": os.urandom(50_000), "b/c": b"x"}), number]
        for call in (1, 2):
            source.save("w", f"t{number}", value, fingerprint={"call": call_of(call)})
    there: set[str] = set()
    randomness = random.Random(5)
    fork = multiprocessing.get_context("fork")
    source.copy("w", target, dry_run=True)  # so that no child imports it
    for _ in range(60):
        process = fork.Process(target=source.copy, args=("w", target), kwargs={"earlier": True})
        process.start()
        time.sleep(randomness.uniform(0, 0.05))
        process.kill()
        process.join()
        assert [] == problems(target)
        now = set(target.list_tasks("w"))
        assert there <= now
        there = now
        if there:
            first = min(there)
            assert source.task_info("w", first) == target.task_info("w", first)
        if len(there) == 30:
            break
    reports = source.copy("w", target, earlier=True)
    assert len(there) <= actions(reports).count("there already")
    assert {"copied", "there already"} >= set(actions(reports))
    assert list(infos(source)) == list(infos(target))
    assert [] == problems(target)
    kinds = {leftover.kind for leftover in target.gc(-60.0)}
    assert kinds <= {"temporary"}
    assert [] == target.gc(-60.0)
    assert 60 == len(target.verify())


# Errors of a store, and what a store is asked.


@pytest.mark.parametrize("where", ["source", "target"])
def test_an_error_of_a_store(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It names both storages and the task; what was copied stays, and the next copy goes on."""
    chosen = source if where == "source" else target
    method = "blocks" if where == "source" else "put"
    call = getattr(chosen.store, method)

    def failing(key: str, *arguments: Any, **options: Any) -> Any:
        if key == "w/size":
            raise OSError(errno.EIO, "Input/output error")
        return call(key, *arguments, **options)

    monkeypatch.setattr(chosen.store, method, failing)
    with pytest.raises(OSError, match="Input/output") as raised:
        source.copy("w", target)
    [note] = raised.value.__notes__
    for part in ("task 'size'", "workflow 'w'", repr(source), repr(target)):
        assert part in note
    assert ["load"] == target.list_tasks("w")[:1]
    monkeypatch.undo()
    assert 4 == len(source.copy("w", target))
    assert [] == problems(target)


@pytest.mark.parametrize(
    ("durability", "expected"),
    [("rename", [False]), ("fsync", [True]), ("auto", [False, True])],
)
def test_durability_of_the_target(
    source: FileStorage, tmp_path: Path, durability: str, expected: list[bool]
) -> None:
    """Side data is flushed before its result is put, whatever the option; results as it says."""
    source.save("w", "slow", 1, seconds=1.0)
    target = opened(tmp_path / "target", durability=durability)
    done: list[tuple[str, Any]] = []
    put, flush = target.store.put, target.store.flush

    def noted(key: str, *arguments: Any, durable: bool = False) -> None:
        done.append((key, durable))
        put(key, *arguments, durable=durable)

    def flushed(names: Any) -> None:
        done.append(("flush", list(names)))
        flush(names)

    target.store.put, target.store.flush = noted, flushed  # type: ignore[method-assign]
    source.copy("w", target)
    assert expected == sorted({how for key, how in done if key in ("w/load", "w/slow")})
    order = [key for key, _ in done]
    side = side_key(source, "kept")
    assert order.index(side) < order.index("flush") < order.index("w/kept")
    assert ("flush", [side]) in done


MEMORY = """
import resource, sys
from pathlib import Path
from copies import storage_of
source, target = (storage_of("files", Path(path)) for path in sys.argv[1:])
source.copy("w", target, "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert ["copied"] * 3 == [report.action for report in source.copy("w", target, "big*")]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory(source: FileStorage, tmp_path: Path) -> None:
    """A result of 200 MiB, and side data of the same size, pass in blocks."""
    data = bytes(200 * MIB)
    for task, value in {
        "small": Kept(b"x"),
        "big": bytearray(data),
        "big side": Kept(data),
    }.items():
        source.save("w", task, value)
    source.save("w", "big too", [bytearray(2 * MIB)] * 2)
    command = [sys.executable, "-c", MEMORY, source.store.root, str(tmp_path / "target")]
    folders = [str(HERE / "importable"), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 << 10  # KiB
    store = FileStore(str(tmp_path / "target"))
    assert 200 * MIB < next(iter(store.list("w/big"))).size


def test_gc_removes_nothing_that_is_put_again_meanwhile(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was killed long ago is repeated while `gc` looks what is used."""
    key = side_key(source, "kept")
    target.store.put(key, [b"left"])
    os.utime(Path(target.store.root, key), (1, 1))
    target.new_workflow("w")
    heads, looks = target.store.heads, list[Any]()

    def copied(*arguments: Any) -> Any:
        found = list(heads(*arguments))
        if arguments[0]:  # not a look for the marker
            looks.append(found)
        if len(looks) == 3:  # the last look of three
            monkeypatch.undo()
            source.copy("w", target)
        return iter(found)

    monkeypatch.setattr(target.store, "heads", copied)
    assert [] == target.gc()
    assert [] == problems(target)
    assert b"3" == target.read_task("w", "kept").data
