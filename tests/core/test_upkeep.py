"""`verify`, `gc`, `du`, `keep_damaged`: what is sound, what is left over, and how big it is."""

from __future__ import annotations

import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_values import Kept, KeptSerializer
from originals import write_old
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import MARKER
from functionfuse.storage.upkeep import Usage, Verified

TEMPORARY = f".tmp-{bytes(8).hex()}"  # the beginning of the names that our code makes
HOUR = 3600.0


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    storage = FileStorage(tmp_path / "store")
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def place(storage: FileStorage, *names: str) -> Path:
    return Path(storage.path, *names)


def files(storage: FileStorage) -> list[str]:
    """Return all files, without the markers of workflows."""
    root = Path(storage.path)
    found = (path for path in root.rglob("*") if path.is_file() and path.name != MARKER)
    return sorted(str(path.relative_to(root)) for path in found)


def side_file(storage: FileStorage, workflow_name: str, task: str) -> Path:
    (side,) = storage.task_info(workflow_name, task).side_data
    return place(storage, workflow_name, ".data", side.files[0][0])


def put(storage: FileStorage, key: str, data: bytes = b"1234", *, age: float = 0) -> str:
    """Make a file of that age, in seconds; return its key."""
    path = place(storage, *key.split("/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - age,) * 2)
    return key


# verify


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[FileStorage], Any], str]] = {
    "magic": (lambda s: flip(place(s, "w", "t"), 0), "not a result of Function Fuse"),
    "version": (lambda s: flip(place(s, "w", "t"), 9), "format version 257"),
    "digest": (lambda s: flip(place(s, "w", "t"), 20), "header is not what was written"),
    "signature": (lambda s: flip(place(s, "w", "t"), 40), "header is not what was written"),
    "header": (lambda s: flip(place(s, "w", "t"), 80), "header is not what was written"),
    "pickle": (lambda s: flip(place(s, "w", "t"), _pickle_at(s)), "the pickle"),
    "buffer": (lambda s: flip(place(s, "w", "t"), -1), "buffer 0"),
    "cut in the buffer": (lambda s: os.truncate(place(s, "w", "t"), 900), "has 900 bytes"),
    "cut in the header": (lambda s: os.truncate(place(s, "w", "t"), 99), "cut within its header"),
    "empty": (lambda s: os.truncate(place(s, "w", "t"), 0), "cut within its header, at byte 0"),
    "more": (lambda s: os.truncate(place(s, "w", "t"), 9999), "has 9999 bytes and not"),
    "foreign": (lambda s: place(s, "w", "t").write_text("notes"), "not a result"),
    "misplaced": (lambda s: os.replace(place(s, "v", "t"), place(s, "w", "t")), "workflow 'v'"),
    "missing side data": (lambda s: side_file(s, "w", "t").unlink(), "'kept' is missing"),
    "altered side data": (lambda s: flip(side_file(s, "w", "t"), 1), "'kept' is not what"),
    "cut side data": (lambda s: os.truncate(side_file(s, "w", "t"), 1), "'kept' is not what"),
}


def _pickle_at(storage: FileStorage) -> int:
    info = storage.task_info("w", "t")
    data = place(storage, "w", "t").read_bytes()
    return data.index(b"\n\x80\x05") + info.pickle[0] // 2


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_finds_every_kind_of_damage(storage: FileStorage, name: str) -> None:
    """In one record that says what; all others are sound."""
    damage, problem = DAMAGES[name]
    for workflow_name, task in (("v", "t"), ("v", "a"), ("w", "a"), ("w", "t"), ("w", "z")):
        storage.save(workflow_name, task, [np.arange(200), Kept(bytes([1, 2, 3]))])
    assert {""} == {record.problem for record in storage.verify()}
    before = {key: place(storage, *key.split("/")).read_bytes() for key in files(storage)}
    damage(storage)
    found = storage.verify()
    bad = [record for record in found if record.problem]
    assert [("w", "t")] == [(record.workflow, record.task) for record in bad]
    assert problem in bad[0].problem
    assert found == sorted(found, key=lambda record: (record.workflow, record.task))
    assert bad == [record for record in storage.verify("w") if record.problem]
    assert [] == [record for record in storage.verify("v") if record.problem]
    after = {key: place(storage, *key.split("/")).read_bytes() for key in files(storage)}
    assert 1 == sum(before.get(key) != after.get(key) for key in before) - (name == "misplaced")


def test_a_result_that_can_t_be_read_is_a_problem_too(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is told, and does not end the check of the others."""
    for task in "abc":
        storage.save("w", task, 1)
    blocks = storage.store.blocks

    def fail(key: str, size: int) -> Any:
        if key == "w/b":
            raise OSError(5, "Input/output error")
        return blocks(key, size)

    monkeypatch.setattr(storage.store, "blocks", fail)
    problems = {record.task: record.problem for record in storage.verify()}
    assert {"a": "", "b": "[Errno 5] Input/output error", "c": ""} == problems


def test_verify_reads_in_several_threads(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several results are on their way at once; the records stay in the order of the keys."""
    for number in range(8):
        storage.save("w", f"t{number}", number)
    get, together = storage.store.get, threading.Barrier(4)

    def wait(key: str) -> Any:
        together.wait(timeout=300)
        return get(key)

    monkeypatch.setattr(storage.store, "get", wait)
    assert [f"t{number}" for number in range(8)] == [record.task for record in storage.verify()]


def test_verify_tells_names_and_sizes(storage: FileStorage) -> None:
    """Long and hostile names are whole where the header is; a damaged one's are its key's."""
    long = "long name " * 40
    for name in ("../x", long, "plain"):
        storage.save(name, name, Kept(bytes([1, 2])))
    found = {(record.workflow, record.task): record for record in storage.verify()}
    assert {("../x", "../x"), (long, long), ("plain", "plain")} == found.keys()
    info = storage.task_info(long, long)
    assert Verified(long, long, info.size + 2, "") == found[long, long]
    for path in Path(storage.path).rglob("*"):
        if path.is_file() and path.parent.name != ".data" and path.name != MARKER:
            path.write_bytes(b"x")
    names = {(record.workflow, record.task) for record in storage.verify()}
    assert {("../x", "../x"), ("plain", "plain")} < names
    (cut,) = [name for name in names if name[0].startswith("long name")]
    assert "%-" in cut[1]
    assert [] == storage.verify("nothing here")


def test_verify_beside_a_writer(storage: FileStorage) -> None:
    """A result that is replaced meanwhile, and its old side data removed, is no damage."""
    storage.save("w", "t", Kept(bytes([0])))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 256
            storage.save("w", "t", Kept(bytes([number])))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        problems = {record.problem for _ in range(150) for record in storage.verify()}
    finally:
        stop.set()
        writer.join()
    assert {""} == problems


# gc


def test_gc_removes_what_nothing_needs(storage: FileStorage) -> None:
    """Temporaries, side data that no result refers to, damaged bytes: by age, everywhere."""
    for workflow_name in ("w", "../v"):
        storage.save(workflow_name, "t", Kept(bytes([1])))
    for path in Path(storage.path).rglob("*"):
        os.utime(path, (time.time() - 9 * HOUR,) * 2)
    kept = files(storage)
    storage.new_workflow("gone")
    expected = {
        put(storage, TEMPORARY, age=2 * HOUR): "temporary",
        put(storage, f"w/{TEMPORARY}-2", age=2 * HOUR): "temporary",
        put(storage, f"w/.data/{TEMPORARY}-3", age=2 * HOUR): "temporary",
        put(storage, "w/.data/orphan", age=2 * HOUR): "side data",
        put(storage, "%2E.%2Fv/.data/orphan", age=2 * HOUR): "side data",
        put(storage, "gone/.data/orphan", age=2 * HOUR): "side data",
        put(storage, "w/.damaged/t/1234", b"\x93FUS", age=2 * HOUR): "damaged",
    }
    young = [
        put(storage, key) for key in (f"w/{TEMPORARY}-4", "w/.data/young", "w/.data/young too")
    ]
    planned = storage.gc(HOUR, dry_run=True)
    assert expected == {leftover.key: leftover.kind for leftover in planned}
    assert {4} == {leftover.size for leftover in planned}
    for leftover in planned:
        told = place(storage, *leftover.key.split("/")).stat().st_mtime
        assert told == pytest.approx(leftover.modified, abs=0.001)
    assert sorted([*kept, *young, *expected]) == files(storage)
    assert [] == storage.gc()
    assert planned == storage.gc(HOUR)
    assert sorted([*kept, *young]) == files(storage)
    assert ["gone"] == [name for name in storage.list_workflows() if not storage.list_tasks(name)]
    assert 3 == len(storage.gc(-1))
    assert kept == files(storage)
    assert [b"\1", b"\1"] == [storage.read_task(name, "t").data for name in ("w", "../v")]
    assert [] == FileStorage(place(storage, "never made")).gc(-1)


def test_a_damaged_header_keeps_its_workflow_s_side_data(storage: FileStorage) -> None:
    """What it refers to can't be told; when it is gone, the rest goes."""
    storage.save("w", "t", Kept(bytes([1])))
    storage.save("w", "u", Kept(bytes([2])))
    storage.save("v", "t", 1)
    put(storage, "w/.data/orphan", age=2 * HOUR)
    put(storage, "v/.data/orphan", age=2 * HOUR)
    before = place(storage, "w", "t").read_bytes()
    flip(place(storage, "w", "t"), 70)
    assert ["v/.data/orphan"] == [leftover.key for leftover in storage.gc(-1)]
    place(storage, "w", "t").write_bytes(before)
    assert b"\1" == storage.read_task("w", "t").data
    flip(place(storage, "w", "t"), 70)
    storage.remove_task("w", "t")
    assert 2 == len(storage.gc(-1))
    assert b"\2" == storage.read_task("w", "u").data
    assert 2 == len([key for key in files(storage) if key.startswith("w/")])


def test_gc_beside_a_running_save(storage: FileStorage) -> None:
    """Nothing that a save needs is taken away: before its commit, or after."""
    stop, failures = threading.Event(), []
    storage.save("w", "fixed", Kept(bytes([7])))

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number = (number + 1) % 256
                storage.save("w", "t", [Kept(bytes([number])), Kept(bytes([number]))])
                assert [bytes([number])] * 2 == [kept.data for kept in storage.read_task("w", "t")]
        except Exception as error:  # noqa: BLE001  # raised below
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    removed = []
    try:
        for _ in range(100):
            put(storage, "w/.data/orphan", age=2 * HOUR)
            put(storage, f"w/{TEMPORARY}-0", age=2 * HOUR)
            removed += storage.gc(HOUR)
    finally:
        stop.set()
        writer.join()
    assert [] == failures
    assert {"w/.data/orphan", f"w/{TEMPORARY}-0"} == {leftover.key for leftover in removed}
    assert {""} == {record.problem for record in storage.verify()}
    assert [] == storage.gc(-1)


def test_many_results_take_little_memory(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing holds names, and `verify` its records and a portion of its calls."""
    blocks = storage.store.blocks
    monkeypatch.setattr(storage.store, "blocks", lambda key, _: blocks(key, 4096))
    monkeypatch.setattr("functionfuse.storage.blobstore._PORTION", 20)
    calls: dict[str, tuple[Callable[[], Any], int]] = {  # with most bytes for each result
        "verify": (storage.verify, 350),
        "gc": (lambda: storage.gc(0), 200),
        "du": (storage.du, 200),
        "list_tasks": (lambda: storage.list_tasks("w"), 200),
        "remove_workflow": (lambda: storage.remove_workflow("w"), 300),
    }

    def peaks(count: int) -> dict[str, int]:
        for number in range(count):
            storage.save("w", f"result-{number}", 1 if number % 10 else Kept(b"1"))
        found = {}
        for name, (call, _) in calls.items():
            tracemalloc.start()
            try:
                kept = call()
                found[name] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            del kept
        return found

    peaks(100)  # what is imported and kept on the first call
    few, many = peaks(100), peaks(600)
    each = {name: (many[name] - few[name]) / 500 for name in calls}
    assert {} == {name: size for name, size in each.items() if size > calls[name][1]}


def test_gc_leaves_temporaries_of_others(storage: FileStorage) -> None:
    """Only a name that only our code makes is removed, and nothing in folders of others.

    A folder in the place of the marker is none.
    """
    storage.save("w", "t", 1)
    mine = [TEMPORARY, f"{TEMPORARY}-probe", f"photos/{TEMPORARY}-1f", f"w/.original/{TEMPORARY}-0"]
    mine += [f"w/{TEMPORARY}-1f", f"w/.data/a/{TEMPORARY}-2"]
    theirs = [".tmp-1", ".tmp-upload", "photos/.tmp-1", f"photos/2020/{TEMPORARY}-1f"]
    theirs += [f"w/2020/{TEMPORARY}-1f", "photos/.data/a", f"photos/.tmp-old/{TEMPORARY}-1"]
    theirs += ["w/.tmp-notes", f"w/{TEMPORARY}-1f.txt", f"w/.git/{TEMPORARY}-1f", "w/.git/o/.tmp-1"]
    theirs += ["marked/.functionfuse/x", "marked/.tmp-1", f"marked/.data/{TEMPORARY}-1"]
    for key in (*mine, *theirs):
        put(storage, key, age=2 * HOUR)
    assert sorted(mine) == sorted(leftover.key for leftover in storage.gc(HOUR))
    assert sorted(["w/t", *theirs]) == files(storage)


@pytest.mark.parametrize("theirs", ["original", "copied"])
def test_a_result_from_elsewhere_makes_no_folder_ours(storage: FileStorage, theirs: str) -> None:
    """Neither one of the original, nor a copy of another workflow's, which a user put there."""
    write_old(place(storage), "t") if theirs == "original" else storage.save("other", "t", 1)
    if theirs == "copied":
        put(storage, "w/t", place(storage, "other", "t").read_bytes())
    for name in (".data/raw.csv", ".data/sub/x", ".lease/a", ".runs/log", ".damaged/a", "empty"):
        put(storage, f"w/{name}", b"", age=2 * HOUR)
    before = files(storage)
    assert "w" in storage.list_workflows()
    assert [] == storage.gc(HOUR)
    storage.remove_workflow("w")
    assert before == files(storage)


def test_the_folders_of_an_earlier_release_are_ours(storage: FileStorage) -> None:
    """It wrote no marker; a result of the workflow shows whose they are."""
    storage.save("w", "t", 1)
    place(storage, "w", MARKER).unlink()
    put(storage, "w/.data/left", age=2 * HOUR)
    put(storage, "w/.runs/1")
    assert ["w/.data/left"] == [leftover.key for leftover in storage.gc(HOUR)]
    storage.remove_workflow("w")
    assert [] == files(storage)


def test_gc_counts_what_it_leaves(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """The copy of a file that stood in the place of a result, and was none of ours."""
    storage.save("w", "t", 1)
    place(storage, "w", "t").write_text("a note")
    assert storage.keep_damaged("w", "t")
    storage.save("w", "t", 2)
    assert [] == storage.gc(-1)
    assert "1 file(s) or folder(s) in" in caplog.text
    storage.remove_workflow("w")
    [left] = files(storage)
    assert "a note" == place(storage, *left.split("/")).read_text()


def test_a_folder_that_can_t_be_entered_is_no_workflow(tmp_path: Path) -> None:
    """As `lost+found` of a disk, for a user who is not root."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", 1)
    (tmp_path / "lost+found").mkdir(mode=0)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o755)
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            os._exit(0 if storage.list_workflows() == ["w"] else 1)
        finally:
            os._exit(2)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_of_others_keeps_no_earlier_results(
    storage: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """`remove_task` removes them, and leaves the file that has the place of the latest."""
    for value in "abc", "abcd":
        node = workflow(len)(value)
        flow = LocalWorkflow(node.set_name("t"), workflow_name="w")
        flow.set_storage(storage)
        flow.run()
    assert 1 == len(storage.earlier("w", "t"))
    put(storage, "w/t", b"my notes")
    storage.remove_task("w", "t")
    assert "1 file(s) or folder(s) in" in caplog.text
    assert [] == storage.earlier("w", "t")
    with pytest.raises(DamagedResultError, match="is left"):
        storage.remove_task("w", "t")
    assert b"my notes" == place(storage, "w", "t").read_bytes()


def test_prune_leaves_what_is_no_result(storage: FileStorage) -> None:
    """`unused_by` removes results of tasks that are gone, and no other files."""
    storage.save("w", "old", 1)
    put(storage, "w/notes.txt")
    node = workflow(len)(())
    flow = LocalWorkflow(node.set_name("new"), workflow_name="w")
    assert ["w/old"] == [leftover.key for leftover in storage.prune("w", unused_by=flow)]
    assert ["w/notes.txt"] == files(storage)


# du, list_workflows


def test_du_counts_all_that_lies_there(storage: FileStorage) -> None:
    """Results, side data, left-overs; by workflow, reading no result."""
    storage.save("w", "a", Kept(bytes([1, 2])))
    storage.save("w", "b", np.arange(5000))
    storage.save("../v", "a", 1)
    put(storage, "w/.data/orphan")
    put(storage, "w/.damaged/a/1234")
    sizes = {
        name: sum(path.stat().st_size for path in place(storage, name).rglob("*") if path.is_file())
        for name in ("w", "%2E.%2Fv")
    }
    expected = [Usage("../v", 1, sizes["%2E.%2Fv"]), Usage("w", 2, sizes["w"])]
    assert expected == storage.du()
    assert expected[1:] == storage.du("w")
    assert [Usage("nothing", 0, 0)] == storage.du("nothing")


@pytest.mark.parametrize("memory", [False, True])
def test_list_workflows(storage: FileStorage, memory: bool) -> None:
    """All that have results, under the names that they were given."""
    names = [
        "../../x",
        "..",
        ".hidden",
        "a/b",
        "a",
        "A b, c",
        "x" * 300,
        "ü" * 300,
        "%2F",
        "\udcff",
    ]
    listed: Storage = Storage(MemoryStore()) if memory else storage
    for name in names:
        listed.save(name, f"task of {name}", 1)
    assert sorted(names) == listed.list_workflows()
    for name in names[::2]:
        listed.remove_workflow(name)
    assert sorted(names[1::2]) == listed.list_workflows()
    listed.store.put("other/.data/orphan", [b"1"])
    listed.new_workflow("made")
    assert sorted([*names[1::2], "made"]) == listed.list_workflows()


@pytest.mark.parametrize("odd", ["100%FF", "\udcff%41"])
def test_names_that_are_no_text_are_listed(storage: FileStorage, odd: str) -> None:
    """Of files and folders of others; they stay."""
    storage.save("w", "t", 1)
    theirs = [put(storage, f"w/{odd}"), put(storage, f"{odd}/{MARKER}", b"")]
    assert sorted(["t", odd]) == storage.list_tasks("w")
    assert sorted(["w", odd]) == storage.list_workflows()
    assert {"w/t": "", f"w/{odd}": "the blob is not a result of Function Fuse"} == {
        f"{found.workflow}/{found.task}": found.problem for found in storage.verify()
    }
    assert {"w", odd} == {usage.workflow for usage in storage.du()}
    assert odd[-3:] in storage._repr_html_()
    storage.remove_task("w", pattern="*")
    assert all(place(storage, *key.split("/")).exists() for key in theirs)


def test_empty_files_are_nobody_s(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """They are left, as `__init__.py` in a project; only one that is named is removed."""
    storage.save("w", "t", 1)
    put(storage, "w/__init__.py", b"")
    storage.remove_task("w", pattern="*")
    storage.remove_workflow("w")
    assert ["w/__init__.py"] == files(storage)
    assert "__init__.py" in caplog.text
    storage.save("w", "t", 1)
    put(storage, "w/t", b"")
    storage.remove_task("w", "t")
    assert not storage.file_exists("w", "t")


def test_a_marker_of_others_is_none(storage: FileStorage) -> None:
    """Ours is empty. The other file stays as it is, and so does the folder."""
    key = put(storage, f"papers/{MARKER}", b"my own settings")
    put(storage, "papers/draft.txt")
    assert [] == storage.list_workflows()
    with pytest.raises(ResultNotFoundError, match="it has no marker"):
        storage.remove_workflow("papers")
    storage.save("papers", "t", 1)
    assert ["papers"] == storage.list_workflows()
    storage.remove_workflow("papers")
    assert b"my own settings" == place(storage, *key.split("/")).read_bytes()
    assert ["papers/draft.txt"] == files(storage)


def test_a_save_keeps_a_copy_of_a_file_of_others(storage: FileStorage) -> None:
    """It can't be told from a damaged result, and `gc` leaves it."""
    put(storage, "w/a.jpg", b"a photo")
    storage.save("w", "a.jpg", 3)
    assert [] == storage.gc(-1)
    [kept, _] = files(storage)
    assert b"a photo" == place(storage, *kept.split("/")).read_bytes()
    assert 3 == storage.read_task("w", "a.jpg")


def test_a_workflow_is_made_again(storage: FileStorage) -> None:
    """Also if another process has removed it, and this one has made it before."""
    storage.new_workflow("w")
    FileStorage(storage.path).remove_workflow("w")
    storage.new_workflow("w")
    assert ["w"] == storage.list_workflows()


def test_a_damaged_header_of_a_long_name_hides_nothing_else(storage: FileStorage) -> None:
    """What its name was can't be told; it is listed by its segment, and can be removed by name."""
    long = "long name " * 40
    for task in ("a", long):
        storage.save(long, task, 1)
        storage.save("w", task, 1)
    (segment,) = [path.name for path in place(storage, "w").glob("long*")]
    for path in Path(storage.path).rglob(segment):
        if path.is_file():
            flip(path, 70)
    assert sorted(["a", segment]) == storage.list_tasks("w")
    assert ["w"] == [name for name in storage.list_workflows() if name in ("w", "a")]
    assert 2 == len(storage.du())
    assert 2 == len([record for record in storage.verify() if record.problem])
    for name in ("w", long):
        storage.remove_task(name, long)
        assert ["a"] == storage.list_tasks(name)
    assert sorted(["w", long]) == storage.list_workflows()


# keep_damaged, and a run that meets damage


def test_keep_damaged_keeps_a_copy_of_damaged_bytes(storage: FileStorage) -> None:
    """Under a name that no list shows; sound and absent results are left alone."""
    storage.save("w", "../t", [1])
    assert not storage.keep_damaged("w", "../t")
    assert not storage.keep_damaged("w", "nothing")
    path = place(storage, "w", "%2E.%2Ft")
    flip(path, -1)
    damaged = path.read_bytes()
    assert storage.keep_damaged("w", "../t")
    assert storage.keep_damaged("w", "../t")
    aside = [key for key in files(storage) if "/.damaged/" in key]
    assert 1 == len(aside)
    assert damaged == place(storage, *aside[0].split("/")).read_bytes() == path.read_bytes()
    assert ["../t"] == storage.list_tasks("w")
    assert 1 == len(storage.verify())
    storage.remove_task("w", "../t")
    assert [] == storage.list_tasks("w")
    assert ["damaged"] == [leftover.kind for leftover in storage.gc(-1)]
    assert [] == files(storage)


ran: list[str] = []


@workflow(ignore=["ran"])
def first() -> Kept:
    ran.append("first")
    return Kept(bytes([1, 2]))


@workflow(ignore=["ran"])
def second(kept: Kept) -> int:
    ran.append("second")
    return sum(kept.data)


def run(storage: FileStorage) -> Any:
    ran.clear()
    last = second(first().set_name("first")).set_name("second")
    graph = LocalWorkflow(last, workflow_name="w")
    graph.set_storage(storage)
    return graph.run()


def test_a_run_over_a_damaged_result(
    storage: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """It sets the bytes aside, computes anew, and warns once."""
    caplog.set_level(logging.WARNING)
    assert 3 == run(storage)
    assert 3 == run(storage)
    assert ([], []) == (ran, caplog.records)
    path = place(storage, "w", "second")
    for byte in (70, -1):
        flip(path, byte)
        damaged = path.read_bytes()
        caplog.clear()
        assert 3 == run(storage)
        assert ["second"] == ran
        (record,) = caplog.records
        assert "'second' of workflow 'w'" in record.getMessage()
        assert "a copy of its bytes is in '.damaged'" in record.getMessage()
        aside = [key for key in files(storage) if key.startswith("w/.damaged/second/")]
        assert damaged in [place(storage, *key.split("/")).read_bytes() for key in aside]
        caplog.clear()
        assert 3 == run(storage)
        assert ([], []) == (ran, caplog.records)
    assert ["damaged", "damaged"] == [leftover.kind for leftover in storage.gc(-1)]
    assert {""} == {record.problem for record in storage.verify()}


def test_a_run_over_missing_side_data(
    storage: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """It computes anew what it can't load, and warns once."""
    assert 3 == run(storage)
    side_file(storage, "w", "first").unlink()
    storage.remove_task("w", "second")
    caplog.clear()
    assert 3 == run(storage)
    assert ["first", "second"] == ran
    (record,) = caplog.records
    assert "'first' of workflow 'w'" in record.getMessage()
    assert {""} == {record.problem for record in storage.verify()}


def test_a_newer_format_is_computed_again_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run with an older version doesn't end at it, and doesn't throw it away either."""
    storage = FileStorage(tmp_path)
    local = LocalWorkflow(workflow(lambda: 7)().set_name("t"), workflow_name="w")
    local.set_storage(storage)
    assert 7 == local.run()
    path = tmp_path / "w" / "t"
    newer = bytearray(path.read_bytes())
    newer[8] = 99
    path.write_bytes(newer)
    assert "compute" == local.plan()["t"].action
    assert 7 == local.run()
    assert 1 == len([record for record in caplog.records if "version 99" in record.message])
    assert 7 == storage.read_task("w", "t")
    (kept,) = (tmp_path / "w" / ".damaged" / "t").iterdir()
    assert bytes(newer) == kept.read_bytes()
