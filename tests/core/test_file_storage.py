"""The verbs of a storage, over files."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from functionfuse.errors import (
    DamagedResultError,
    NewerFormatError,
    ResultNotFoundError,
    StoragePathError,
    UnpicklableResultError,
    UnreadableResultError,
)
from functionfuse.storage import Storage, resultfile
from functionfuse.storage.base import InvalidPickle
from functionfuse.storage.disk import identity
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import MARKER

HOSTILE = ["../../../x", "..", ".", ".hidden", "a/b", "/etc/passwd", "a\0b", "x" * 300, "ü" * 300]
HOSTILE += ["[1]", "*", "?", "a b, c", "%2F", "CON", " ", "-", "\udcff", "new\nline"]


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def files(storage: FileStorage) -> list[str]:
    """Return all files, without the markers of workflows."""
    root = Path(storage.path)
    found = (path for path in root.rglob("*") if path.is_file() and path.name != MARKER)
    return sorted(str(path.relative_to(root)) for path in found)


def blob(storage: FileStorage, workflow: str, task: str) -> Path:
    """Return the file of a plainly named task, found without the code under test."""
    return Path(storage.path) / workflow / task


@pytest.mark.parametrize(
    "value",
    [None, 0, "text", b"bytes", [1, {"a": (2.5, {3})}], {"nested": [[], {}, ()]}, Path("x")],
)
def test_a_saved_result_is_read_back(storage: FileStorage, value: Any) -> None:
    """What is saved is read back equal, and of the same type."""
    storage.save("w", "t", value)
    assert value == storage.read_task("w", "t")
    assert type(value) is type(storage.read_task("w", "t"))


@pytest.mark.parametrize("count", [0, 1, 127, 128, 1000, 200_000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_whole_writable_and_apart(
    storage: FileStorage, count: int, order: Any
) -> None:
    """Arrays of every size and order come back; changing one doesn't change what is stored."""
    array = np.asarray(np.arange(count * 2, dtype=">i4").reshape(2, count), order=order)
    storage.save("w", "t", {"array": array, "again": array, "part": array[:, ::3]})
    read = storage.read_task("w", "t")
    np.testing.assert_array_equal(array, read["array"])
    np.testing.assert_array_equal(array[:, ::3], read["part"])
    assert array.dtype == read["array"].dtype
    assert array.flags.f_contiguous == read["array"].flags.f_contiguous
    assert read["again"] is read["array"]
    read["array"][...] = -1
    np.testing.assert_array_equal(array, storage.read_task("w", "t")["array"])


def test_a_read_only_array_stays_read_only(storage: FileStorage) -> None:
    """An array that could not be written comes back such."""
    array = np.zeros(100_000)
    array.flags.writeable = False
    storage.save("w", "t", array)
    assert not storage.read_task("w", "t").flags.writeable


def test_a_data_frame_comes_back(storage: FileStorage) -> None:
    """A pandas frame with several types of columns comes back equal, and can be changed."""
    frame = pd.DataFrame({"a": range(5000), "b": np.linspace(0, 1, 5000), "c": ["x", None] * 2500})
    storage.save("w", "t", frame)
    read = storage.read_task("w", "t")
    pd.testing.assert_frame_equal(frame, read)
    read.loc[0, "a"] = -1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_the_store(storage: FileStorage, tmp_path: Path, name: str) -> None:
    """Any text names a workflow and a task; nothing is written outside of the store."""
    storage.new_workflow(name)
    storage.save(name, name, name)
    assert name == storage.read_task(name, name)
    assert [name] == storage.list_tasks(name)
    assert name in storage.list_tasks(name, name)
    outside = [path for path in tmp_path.rglob("*") if tmp_path / "store" not in path.parents]
    assert [tmp_path / "store"] == outside
    storage.remove_task(name, name)
    assert [] == storage.list_tasks(name)


def test_tasks_are_listed_by_glob_pattern(storage: FileStorage) -> None:
    """Names are sorted, and picked by a case-sensitive glob pattern or by themselves."""
    for name in ["b", "a", "B", "a[1]", "a1", "a/1", "long" * 100]:
        storage.save("w", name, 0)
    storage.save("w2", "z", 0)
    assert sorted(["b", "a", "B", "a[1]", "a1", "a/1", "long" * 100]) == storage.list_tasks("w")
    assert ["a", "a/1", "a1", "a[1]"] == storage.list_tasks(workflow_name="w", pattern="a*")
    assert ["a1", "a[1]"] == storage.list_tasks("w", "a[1]")
    assert ["long" * 100] == storage.list_tasks("w", "longlong*")
    assert [] == storage.list_tasks("w", "nothing*")
    assert [] == storage.list_tasks("never heard of")


def test_missing_results_are_file_not_found_errors(storage: FileStorage) -> None:
    """Reading or removing what isn't stored names workflow, task and storage."""
    calls = [
        lambda: storage.read_task("w", "t"),
        lambda: storage.task_info("w", "t"),
        lambda: storage.remove_task("w", "t"),
        lambda: storage.remove_task("w", pattern="t*"),
        lambda: storage.remove_workflow("w"),
    ]
    for call in calls:
        with pytest.raises(ResultNotFoundError, match="'w'") as caught:
            call()
        assert isinstance(caught.value, FileNotFoundError)
        assert storage.path in str(caught.value)
    assert not storage.file_exists("w", "t")


def test_tasks_and_workflows_are_removed(storage: FileStorage) -> None:
    """One task, the tasks of a pattern, or all of a workflow; others stay."""
    for workflow in ("w", "w2"):
        for task in ("a", "b1", "b2", "c"):
            storage.save(workflow, task, 0)
    storage.remove_task("w", "a")
    assert ["b1", "b2", "c"] == storage.list_tasks("w")
    storage.remove_task("w", task_name="c", pattern="b*")
    assert ["c"] == storage.list_tasks("w")
    storage.remove_workflow("w")
    assert [] == storage.list_tasks("w")
    assert ["a", "b1", "b2", "c"] == storage.list_tasks("w2")
    storage.new_workflow("empty")
    storage.remove_workflow("empty")
    assert ["w2/a", "w2/b1", "w2/b2", "w2/c"] == files(storage)
    with pytest.raises(ValueError, match="pattern"):
        storage.remove_task("w2")
    with pytest.raises(ValueError, match="empty"):
        storage.remove_workflow("")


class Explosive:
    """Its unpickling is noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


def test_only_reading_unpickles(storage: FileStorage) -> None:
    """Listing, asking for the header and removing run no code of the result."""
    storage.save("w", "t", Explosive())
    with pytest.raises(SystemExit):
        storage.read_task("w", "t")
    assert ["t"] == storage.list_tasks("w")
    assert "Explosive" in storage.task_info("w", "t").type
    storage.remove_task("w", "t")


@pytest.mark.parametrize("value", [{"a": 1}, np.arange(1000), np.zeros(1 << 17)])
def test_every_change_of_the_bytes_is_detected(storage: FileStorage, value: Any) -> None:
    """A flipped bit or a cut anywhere is an error that is a ValueError, before unpickling."""
    storage.save("w", "t", value)
    path = blob(storage, "w", "t")
    whole = path.read_bytes()
    places = range(0, len(whole), len(whole) // (500 if len(whole) < 1 << 20 else 50) or 1)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises((DamagedResultError, NewerFormatError)):
            storage.read_task("w", "t")
        path.write_bytes(whole[:place])
        with pytest.raises(InvalidPickle) as caught:
            storage.read_task("w", "t")
        assert isinstance(caught.value, ValueError)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedResultError, match="bytes"):
        storage.read_task("w", "t")
    assert ["t"] == storage.list_tasks("w")
    storage.remove_task("w", "t")


def test_a_blob_in_another_place_is_damage(storage: FileStorage) -> None:
    """Files that were swapped are not taken for each other's results."""
    storage.save("w", "a", 1)
    storage.save("w", "b", 2)
    os.replace(blob(storage, "w", "a"), blob(storage, "w", "b"))
    with pytest.raises(DamagedResultError, match="'a'"):
        storage.read_task("w", "b")
    with pytest.raises(DamagedResultError, match="'a'"):
        storage.task_info("w", "b")


def test_a_newer_format_is_refused_by_name(storage: FileStorage) -> None:
    """A result of a later format version says so, and what to upgrade."""
    storage.save("w", "t", 1)
    path = blob(storage, "w", "t")
    data = bytearray(path.read_bytes())
    data[8] = 99
    path.write_bytes(data)
    with pytest.raises(NewerFormatError, match=r"version 99.*upgrade functionfuse-core"):
        storage.read_task("w", "t")


def test_the_header_tells_without_the_value(storage: FileStorage) -> None:
    """`task_info` tells what, by whom, when, with what, and how large; also a person sees it."""
    storage.save("w", "t", np.zeros(1000), function="m.f", seconds=1.5)
    info = storage.task_info("w", "t")
    assert ("w", "t", "m.f", 1.5) == (info.workflow, info.task, info.function, info.seconds)
    assert "numpy.ndarray" == info.type
    assert {"numpy": np.__version__} == dict(info.packages)
    path = blob(storage, "w", "t")
    assert path.stat().st_size == info.size
    assert b'"workflow":"w","task":"t"' in path.read_bytes()[:4000]


def test_equal_values_have_equal_digests(storage: FileStorage) -> None:
    """The digest tells whether a value changed; the token differs for every write."""
    first, second, third = (storage.save("w", "t", np.full(5000, x)) for x in (1, 1, 2))
    assert first.digest == second.digest != third.digest
    assert first.token != second.token


def test_an_unpicklable_result_leaves_the_earlier_one(storage: FileStorage) -> None:
    """The error names task, workflow and cause; what was stored is still there."""
    storage.save("w", "t", "earlier")
    with pytest.raises(UnpicklableResultError, match="lock") as caught:
        storage.save("w", "t", {"lock": threading.Lock()})
    assert isinstance(caught.value, TypeError)
    assert any("'t'" in note and "'w'" in note for note in caught.value.__notes__)
    assert "earlier" == storage.read_task("w", "t")
    assert ["w/t"] == files(storage)


def test_a_failed_write_leaves_the_earlier_result(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk raises, and leaves the earlier result and no temporary file."""
    storage.save("w", "t", "earlier")

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call, value in (("write", "later"), ("writev", np.zeros(1000)), ("rename", "later")):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left") as caught:
                storage.save("w", "t", value)
        assert any("'t'" in note for note in caught.value.__notes__)
        assert "earlier" == storage.read_task("w", "t")
        assert ["w/t"] == files(storage)


def test_short_writes_are_continued(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call that takes fewer bytes than it was given is followed by more."""
    writev, write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda file, parts: writev(file, [memoryview(parts[0])[:3]]))
    monkeypatch.setattr(os, "write", lambda file, part: write(file, memoryview(part)[:777]))
    value = {"a": np.arange(3000), "b": np.arange(5000)}
    storage.save("w", "t", value)
    np.testing.assert_array_equal(value["b"], storage.read_task("w", "t")["b"])
    storage.save("w", "small", "x" * 2000)
    assert "x" * 2000 == storage.read_task("w", "small")


def test_the_system_calls_of_a_small_result(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save in a run writes, and looks at nothing; by hand it reads one header; whatever lies by.

    A blob that is missing is found missing by one call.
    """
    storage.save("w", "t", 1)
    for number in range(100):
        storage.store.put(f"w/.data/other-{number}", [b"x"])
    called: Counter[str] = Counter()
    for name in ("access", "close", "fstat", "fsync", "listdir", "mkdir", "open", "pread", "read"):
        _count(monkeypatch, name, called)
    for name in ("rename", "scandir", "stat", "unlink", "write", "writev"):
        _count(monkeypatch, name, called)
    for name in ("t", "new"):
        called.clear()
        storage.save("w", name, 2, replaces=None)
        assert {"open": 2, "write": 1, "close": 2, "rename": 1} == called
    called.clear()
    storage.save("w", "t", 3)
    assert {"open": 3, "pread": 1, "write": 1, "close": 3, "rename": 1} == called
    called.clear()
    assert 3 == storage.read_task("w", "t")
    assert {"open": 1, "pread": 2, "close": 1} == called
    called.clear()
    infos = list(storage.task_infos("w", ["t", "missing", "new"]))
    assert [False, True, False] == [info is None for info in infos]
    assert {"open": 3, "pread": 2, "close": 2} == called
    storage.save("w", "t", 4, durable=True, replaces=None)
    known = identity_of(Path(storage.path))
    called.clear()
    storage.save("w", "t", 5, durable=True, replaces=None)
    if known:
        saved = {"open": 2, "write": 1, "close": 2, "rename": 1}
        assert saved | {"fsync": 2, "fstat": 1} == called


def _count(monkeypatch: pytest.MonkeyPatch, name: str, called: Counter[str]) -> None:
    call = getattr(os, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        called[name] += 1
        return call(*args, **kwargs)

    monkeypatch.setattr(os, name, counted)


def test_many_buffers_in_one_result(storage: FileStorage) -> None:
    """More buffers than one system call takes are written and read."""
    value = [np.full(200, number) for number in range(3000)]
    storage.save("w", "t", value)
    np.testing.assert_array_equal(value, storage.read_task("w", "t"))


@pytest.mark.parametrize(
    ("durability", "durable", "seconds", "expected"),
    [
        ("auto", False, None, False),
        ("auto", False, 0.001, False),
        ("auto", False, 10.0, True),
        ("auto", True, 0.001, True),
        ("fsync", False, 0.001, True),
        ("rename", True, 10.0, False),
    ],
)
def test_what_is_flushed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    durable: bool,
    seconds: float | None,
    expected: bool,
) -> None:
    """By default what was asked for, or took long; else by the option alone."""
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    storage = FileStorage(tmp_path, durability=durability)
    storage.save("w", "t", 1, durable=durable, seconds=seconds)
    assert expected == bool(flushed)


def test_put_if_absent_leaves_what_is_there(storage: FileStorage) -> None:
    """`if_absent` raises FileExistsError for a key that is there."""
    storage.store.put("w/t", [b"first"], if_absent=True)
    with pytest.raises(FileExistsError):
        storage.store.put("w/t", [b"second"], if_absent=True)
    assert b"first" == bytes(storage.store.get("w/t"))
    assert ["w/t"] == files(storage)


def test_a_folder_that_is_new_to_a_process_is_flushed_above(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has made it, also in the place of another one; times of files don't count."""
    flushed: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: flushed.append(os.readlink(f"/proc/self/fd/{file}"))
    )

    def flushed_by(key: str) -> list[str]:
        """Return the folders that are flushed by a durable save."""
        flushed.clear()
        storage.store.put(key, [b"2"], durable=True)
        for folder in (root, *root.iterdir()):
            os.utime(folder, (1, 1))
        return [path for path in flushed if os.path.isdir(path)]

    storage.store.put("first/t", [b"1"])
    root = Path(storage.path)
    above, w = list(map(str, root.parents)), str(root / "w")
    assert [str(root / "first"), str(root), *above] == flushed_by("first/t")
    (root / "w").mkdir()  # as another process does, which is killed then
    if identity_of(root) is None:
        assert [w, str(root), *above] == flushed_by("w/t") == flushed_by("w/t")
        return
    assert [w, str(root)] == flushed_by("w/t")
    assert [w] == flushed_by("w/t") == flushed_by("w/u")
    assert [f"{w}/.data", w] == flushed_by("w/.data/f")
    for _ in range(3):  # some file systems give it the number of the old one
        shutil.rmtree(w)
        assert [w, str(root)] == flushed_by("w/t")
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert [w, str(root), *above] == flushed_by("w/t") == flushed_by("w/t")


def identity_of(folder: Path) -> object:
    file = os.open(folder, os.O_RDONLY)
    try:
        return identity(file)
    finally:
        os.close(file)


def refuse(*_: object) -> None:
    """As file systems that don't know this call."""
    raise OSError(errno.ENOTTY, "no such call")


def test_the_flushes_of_a_process_are_not_pickled(storage: FileStorage) -> None:
    """Another process may have other folders under the same names."""
    storage.store.put("w/t", [b"1"], durable=True)
    assert {} == pickle.loads(pickle.dumps(storage.store))._folders._flushed


def test_blobs_are_listed_in_key_order(storage: FileStorage) -> None:
    """All keys with a prefix, in the order of the keys, and never a temporary file."""
    keys = ["a/b", "a/.data/x/y", "a-/c", "a/b.c", "b/a", "ab/c"]
    for key in keys:
        storage.store.put(key, [b"12", b"3"])
    (Path(storage.path) / "a" / ".tmp-1").write_bytes(b"half")
    listed = list(storage.store.list(""))
    assert sorted(keys) == [info.key for info in listed]
    assert {3} == {info.size for info in listed}
    assert ["a/.data/x/y", "a/b", "a/b.c"] == [info.key for info in storage.store.list("a/")]
    assert ["a-/c", "a/.data/x/y", "a/b", "a/b.c", "ab/c"] == [
        info.key for info in storage.store.list("a")
    ]
    assert [".data/", "b", "b.c"] == sorted(storage.store.names("a/"))


@pytest.mark.parametrize("private", [False, True])
def test_modes_follow_the_umask_or_are_private(tmp_path: Path, private: bool) -> None:
    """Files and folders follow the umask; `private` makes them the user's own."""
    storage = FileStorage(tmp_path / "store", private=private)
    before = os.umask(0o027)
    try:
        storage.save("w", "t", 1)
    finally:
        os.umask(before)
    assert (0o600 if private else 0o640) == stat.S_IMODE(blob(storage, "w", "t").stat().st_mode)
    assert (0o700 if private else 0o750) == stat.S_IMODE((tmp_path / "store" / "w").stat().st_mode)


def test_a_path_that_is_a_file_is_refused_early(tmp_path: Path) -> None:
    """The error comes with `new_workflow`, before any work, and is an OSError."""
    (tmp_path / "file").write_text("mine")
    storage = FileStorage(tmp_path / "file")
    with pytest.raises(StoragePathError, match=r"can't be used.*'path' must be a folder") as caught:
        storage.new_workflow("w")
    assert isinstance(caught.value, OSError)
    assert "mine" == (tmp_path / "file").read_text()


def test_a_folder_that_is_removed_while_it_is_prepared(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without results may go at any time; that is no missing permission."""
    enter, removed = storage.store._folders.enter, []

    def entered(folder: str) -> int:
        directory = enter(folder)
        if not removed:
            os.rmdir(os.path.join(storage.path, folder))
            removed.append(folder)
        return directory

    monkeypatch.setattr(storage.store._folders, "enter", entered)
    storage.new_workflow("w")
    assert ["w"] == removed
    monkeypatch.undo()
    storage.save("w", "t", 1)
    assert 1 == storage.read_task("w", "t")


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage keeps its place when the current directory changes, and when it is pickled."""
    monkeypatch.chdir(tmp_path)
    storage = FileStorage("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.save("w", "t", 1)
    copied: Storage = pickle.loads(pickle.dumps(storage))
    assert 1 == copied.read_task("w", "t")
    assert (tmp_path / "store" / "w" / "t").is_file()


def test_a_class_of_a_script_is_read_by_another_process(tmp_path: Path) -> None:
    """What is defined in `__main__` goes by value, so that a process without it can read it."""
    script = """
        import sys
        from functionfuse.storage.filestorage import FileStorage

        class Point:
            def __init__(self, x): self.x = x
            def double(self): return 2 * self.x

        FileStorage(sys.argv[1]).save("w", "t", {"point": Point(21), "call": lambda x: x + 1})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True)
    storage = FileStorage(tmp_path)
    read = storage.read_task("w", "t")
    assert 42 == read["point"].double()
    assert 2 == read["call"](1)
    assert storage.task_info("w", "t").by_value


def test_code_by_value_of_another_python_is_refused(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such bytes would crash the interpreter; the error names both versions."""
    with monkeypatch.context() as patched:
        patched.setattr(resultfile, "PYTHON", "2.7.18")
        storage.save("w", "t", lambda: 1)
        storage.save("w", "plain", 1)
    with pytest.raises(UnreadableResultError, match=r"by value, written by Python 2\.7\.18"):
        storage.read_task("w", "t")
    assert 1 == storage.read_task("w", "plain")
