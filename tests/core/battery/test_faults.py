"""Calls that fail, full disks, read-only folders: a failed save changes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse.storage.keys import MARKER

Message = dict[str, Any]

OLD, NEW = 1, 2
_old: Message = {"do": "save", "seed": OLD}
_new: Message = {"do": "save", "seed": NEW}
_FSYNC: Message = {"durability": "fsync"}
_SIDE: Message = {"side": True}

# name: (what is there, what fails)
SAVES: dict[str, tuple[list[Message], Message]] = {
    "save in a new store": ([], _new | _FSYNC),
    "save, if absent": ([_old | {"task": "other"}], _new | {"if_absent": True} | _FSYNC),
    "save with side data": ([_old | {"task": "other"}], _new | _SIDE),
    "overwrite": ([_old], _new),
    "overwrite, fsync": ([_old], _new | _FSYNC | {"size": 100_000}),
    "overwrite with side data, fsync": ([_old | _SIDE], _new | _SIDE | _FSYNC),
}
MUST_RAISE = ("fsync", "write", "writev", "rename", "renameat", "renameat2", "link", "linkat")
COMMITS = ("rename", "renameat", "renameat2", "link", "linkat")
LEAVES = ("access", "close", "fstat", "openat", "pread64", "read", "readv", "unlink", "unlinkat")


def assert_explains(answer: Message, root: str) -> None:
    """Assert that a failed save is an OSError which says what was saved, and where."""
    assert answer["os_error"], answer
    notes = " ".join(answer["notes"])
    assert "task 't' of workflow 'w'" in notes, answer
    assert root in notes, answer


@pytest.mark.parametrize("name", SAVES)
def test_every_call_fails(
    name: str, full: bool, workers: Any, strace: Any, tmp_path: Path, counts: Any
) -> None:
    """ENOSPC, EIO, EDQUOT and EINTR at every call of a save, once and from then on."""
    setup, operation = SAVES[name]
    before = OLD if any("task" not in op for op in setup) else None
    recorded = {"root": str(tmp_path / "recorded" / "store")}
    Path(recorded["root"]).parent.mkdir()
    for op in setup:
        workers.one(op | recorded)
    calls = strace.calls([operation | recorded], tmp_path / "recorded", harmless=True)
    calls = [call for call in calls if call.name != "mmap"]
    renamed = [place for place, call in enumerate(calls) if call.name in COMMITS]
    commit = max(place for place in renamed if MARKER not in calls[place].text)
    cases = [
        (place, error, lasting)
        for place in range(len(calls))
        for error in ("ENOSPC", "EIO", "EDQUOT", "EINTR")
        for lasting in ("", "+")
        if not (error == "EINTR" and lasting)  # Python tries again for ever, as it should
    ]
    if not full:
        cases = counts.random.sample(cases, min(len(cases), 15))
    for number, (place, error, lasting) in enumerate(cases):
        call = calls[place]
        target = {"root": str(tmp_path / str(number) / "store")}
        Path(target["root"]).parent.mkdir()
        for op in setup:
            workers.one(op | target)
        inject = f"inject={call.name}:error={error}:when={call.number}{lasting}"
        found, text, finished = strace.run(
            [operation | target], "-e", inject, "-e", f"trace={call.name}"
        )
        assert finished, text
        assert "(INJECTED)" in text, text
        checked = workers.one({"do": "check", "gc": True, **target})
        where = f"{error}{lasting} at {call}: {found}; {checked}"
        counts.add("faults")
        state = checked["states"].get("w/t")
        if "error" in found[0]:
            counts.add("raised")
            assert_explains(found[0], target["root"])
            # A lasting fault that was no reason to stop may have struck again after the commit.
            if place <= commit and not (lasting and call.name not in MUST_RAISE):
                assert before == state, where
            else:
                counts.add("of them after the commit")
                assert state in (before, NEW), where
        else:
            marks = place > commit and call.name != "fsync"  # the result is stored all the same
            assert error == "EINTR" or call.name not in MUST_RAISE or marks, where
            assert NEW == state, where
        assert checked["problems"] == [], where
        # Without these it can't be told what is to be removed, or it can't be removed; and who is
        # told that the commit may not last, still has what it replaced.
        told = "error" in found[0] and (state == NEW or "left for gc" in str(found[0]["notes"]))
        if call.name not in LEAVES and not told:
            assert checked["orphans"] == [], where
        counts.add("left for gc", len(checked["orphans"]))
        assert checked["left"] == [], where
        again = workers.run(operation | target)[0]
        if not (operation.get("if_absent") and state == NEW):
            assert "error" not in again, again
        shutil.rmtree(tmp_path / str(number))
    counts.add("earlier results lost", 0)


def test_writes_that_take_a_part(full: bool, workers: Any, tmp_path: Path, counts: Any) -> None:
    """Where every write takes only a part of what it is given, the whole is written."""
    for _ in range(300 if full else 40):
        seed = counts.random.randrange(1 << 30)
        size = int(200_000 ** counts.random.random())
        op = {"do": "save", "seed": seed, "size": size, "root": str(tmp_path / "store")}
        op["side"] = counts.random.random() < 0.3
        for answer in workers.run({"do": "short_writes", "seed": seed}, op):
            assert "error" not in answer, answer
        assert {"state": seed} == workers.one(op | {"do": "read"})
        counts.add("saves")


def test_a_write_that_takes_nothing(workers: Any, strace: Any, tmp_path: Path, counts: Any) -> None:
    """A write that takes no byte, without an error, is done again."""
    op = _new | {"root": str(tmp_path / "store")}
    _, text, _ = strace.run([op], "-e", "inject=writev:retval=0:when=1", "-e", "trace=writev")
    assert "(INJECTED)" in text
    assert {"state": NEW} == workers.one(op | {"do": "read"})
    counts.add("saves")


def test_files_that_may_not_grow(full: bool, workers: Any, tmp_path: Path, counts: Any) -> None:
    """A write that is cut, and then refused: OSError, the earlier result, no temporary."""
    target = {"root": str(tmp_path / "store")}
    workers.one(_old | target)
    for _ in range(200 if full else 30):
        size = counts.random.choice([1, 1000, 4096, 60_000, 250_000])
        op = _new | target | {"size": 300_000, "side": counts.random.random() < 0.3}
        limit, failed = workers.run({"do": "limit_files", "size": size}, op)
        assert limit == {}
        assert "EFBIG" == failed["errno"], failed
        assert_explains(failed, target["root"])
        found = workers.one({"do": "check", **target})
        assert {"w/t": OLD} == found["states"]
        assert [] == found["problems"] + found["orphans"]
        counts.add("failed saves")


def test_a_full_disk(full: bool, workers: Any, mounts: Any, counts: Any) -> None:
    """On a full file system saves raise, and every result that was there stays."""
    target = {"root": str(mounts.tmpfs("3m") / "store")}
    known: dict[str, int] = {}
    for seed in range(1, 500 if full else 30):
        task = f"t{counts.random.randrange(5)}"
        size = int(1_500_000 ** (counts.random.random() ** 0.05))
        op = {"do": "save", "task": task, "seed": seed, "size": size, **target}
        op |= {"side": counts.random.random() < 0.3, "durable": counts.random.random() < 0.3}
        (answer,) = workers.run(op)
        counts.add("saves")
        if "error" in answer:
            counts.add("without room")
            assert "ENOSPC" == answer["errno"], answer
            assert f"task {task!r}" in " ".join(answer["notes"]), answer
        else:
            known[f"w/{task}"] = seed
        found = workers.one({"do": "check", **target})
        assert known == found["states"]
        assert [] == found["problems"] + found["orphans"]
    assert counts.counted["without room"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that other users can come to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_read_only_folder(root_user: None, workers: Any, open_folder: Path, counts: Any) -> None:
    """A user who may not write gets an OSError from a save, and can still read."""
    target = {"root": str(open_folder / "store")}
    workers.one(_old | target)
    nobody = {"do": "become", "user": 65534}
    operations = ["save", "remove_task", "new_workflow"]
    for operation in operations:
        _, failed = workers.run(nobody, _new | target | {"do": operation})
        assert failed["os_error"], failed
        if operation == "save":
            assert "StoragePathError" == failed["error"], failed
            assert_explains(failed, target["root"])
        counts.add("refused")
    assert {"state": OLD} == workers.run(nobody, {"do": "read", **target})[1]
    found = workers.run(nobody, {"do": "check", **target})[1]
    assert ({"w/t": OLD}, [], []) == (found["states"], found["problems"], found["orphans"])


def test_a_read_only_file_system(workers: Any, mounts: Any, counts: Any) -> None:
    """On a read-only file system saves raise, reads, lists and `verify` work."""
    place = mounts.tmpfs("3m")
    target = {"root": str(place / "store")}
    workers.one(_old | target | _SIDE)
    mounts.call("mount", "-o", "remount,ro", str(place))
    for change in ({}, _SIDE, _FSYNC, {"if_absent": True, "workflow": "w2"}):
        (failed,) = workers.run(_new | target | change)
        assert failed["os_error"], failed
        assert "Read-only file system" in failed["text"], failed
        assert "while saving task 't'" in " ".join(failed["notes"]), failed
        counts.add("refused")
    for operation in ("remove_task", "remove_workflow"):
        (failed,) = workers.run({"do": operation, **target})
        assert failed["os_error"], failed
        counts.add("refused")
    found = workers.one({"do": "check", **target})
    assert ({"w/t": OLD}, [], []) == (found["states"], found["problems"], found["orphans"])
