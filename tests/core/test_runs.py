"""Records of runs are read back; each gives the values of its run, and never those of another."""

from __future__ import annotations

import logging
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from remote_store import AT_ONCE, LATE, RemoteStore
from result_bytes import MemoryStore

from functionfuse.errors import DamagedResultError, NoMatchError, ResultNotFoundError, StorageError
from functionfuse.storage import Storage, runs
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.options import StorageOptions
from functionfuse.storage.runrecord import RecordedNode
from functionfuse.storage.runs import Runs, prune, put
from functionfuse.storage.signing import Key
from going_back import chain, made
from run_records import columns, head, id_of, ran, record

FIT = RecordedNode(
    "fit",
    "computed",
    *("first run", 0.5, 1e9, "engine 1", 100, "c" * 32, "d" * 32, "e" * 32, 2),
    parents=("load",),
    arguments={"rows": {"node": "load"}, "c": 0.5},
    function="m.fit",
    code="f" * 32,
    plugins=(("Seed", "0" * 16),),
)
LOAD = RecordedNode("load", "reused", value="1" * 32)


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


@pytest.fixture
def memory() -> Storage:
    return Storage(MemoryStore())


def ids(found: Runs) -> list[str]:
    return [run.id for run in found]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, and forget it."""
    found = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    caplog.clear()
    return found


def test_the_newest_are_read_the_newest_last(storage: Storage) -> None:
    """With all that was put; also from a workflow of another name."""
    for number in (3, 1, 4, 2):
        record(storage, number)
    record(storage, 5, workflow="other")
    assert [id_of(number) for number in (1, 2, 3, 4)] == ids(storage.runs("w"))
    assert [id_of(3), id_of(4)] == ids(storage.runs("w", last=2))
    assert [id_of(number) for number in (1, 2, 3, 4)] == ids(storage.runs("w", last=None))
    for wrong in (0, -1, "all", 2.5, True):
        with pytest.raises(ValueError, match=r"last is a number from 1 on, or None"):
            storage.runs("w", last=wrong)  # type: ignore[arg-type]
    assert [id_of(5)] == ids(storage.runs("other"))


def test_a_record_has_what_was_put(storage: Storage) -> None:
    """About the run, and about its nodes."""
    error = {"type": "ValueError", "text": "no", "node": "fit"}
    record(storage, 1, LOAD, FIT, error=error)
    [run] = storage.runs("w")
    assert head(1, error=error) == {field: getattr(run, field) for field in head(1)}
    assert [LOAD, FIT] == run.nodes
    assert FIT == run["fit"]
    [again] = runs = storage.runs("w")
    assert (0, True, {run}) == (runs.index(run), run in runs, {run, again})
    assert f"<run {id_of(1)!r} of workflow 'w': 1.500 s, ValueError>" == repr(run)
    with pytest.raises(NoMatchError, match=r"has no node 'fitt' \(did you mean 'fit'\?\)"):
        run["fitt"]


def test_runs_are_a_sequence(memory: Storage) -> None:
    """By number, by slice and by id."""
    for number in range(5):
        record(memory, number)
    found = memory.runs("w")
    assert (id_of(4), id_of(1)) == (found[-1].id, found[1].id)
    assert isinstance(found[1:3], Runs)
    assert [id_of(1), id_of(2)] == ids(found[1:3])
    assert found[3] is found[id_of(3)]
    with pytest.raises(
        NoMatchError, match=r"none of these 5 runs of workflow 'w' is '2026'.*last="
    ):
        found["2026"]
    with pytest.raises(IndexError):
        found[5]


def test_runs_print_as_a_table(memory: Storage) -> None:
    """A line for each run."""
    failed = RecordedNode("fit", "failed")
    record(memory, 1, LOAD, FIT, LOAD._replace(name="other"))
    record(memory, 2, failed, seconds=1234, error={"type": "KeyError", "text": "", "node": "fit"})
    expected = f"""\
{id_of(1)}      1.500 s  2 reused, 1 computed
{id_of(2)}   1234.000 s  1 failed              KeyError"""
    assert expected == str(memory.runs("w")) == repr(memory.runs("w"))


def test_nothing_is_no_run(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a workflow that isn't stored, nor one without records."""
    storage.save("w", "t", 1)
    for name in ("w", "missing"):
        assert [] == list(storage.runs(name))
        assert f"no runs of workflow {name!r}" == str(storage.runs(name))
    assert [] == lines(caplog)


def test_what_a_run_leaves_is_read(storage: Storage) -> None:
    """Actions, arguments and values, also of a result that was restored."""
    for number in (1, 2, 1):
        chain(storage, number).run()
    found = storage.runs("w")
    assert ["computed", "computed", "reused"] == [run["total"].action for run in found]
    assert [1, 2, 1] == [run["load"].arguments["number"] for run in found]
    assert [3, 5, 3] == [run.read("total") for run in found]
    expected = {"load.number": [1, 2, 1], "total": [3, 5, 3]}
    rows = found.rows("total")
    assert expected == {key: [row[key] for row in rows] for key in list(rows[0])[1:]}


def test_requests(caplog: pytest.LogCaptureFixture) -> None:
    """A listing, and a read for each record that is asked for."""
    store = RemoteStore()
    storage = Storage(store)
    for number in range(60):
        record(storage, number, FIT)
    store.asked.clear()
    assert 50 == len(storage.runs("w"))
    assert {"list": 1, "get": 50} == store.asked
    store.asked.clear()
    found = storage.runs("w", last=None)
    str(found)
    assert {"list": 1, "get": 60} == store.asked
    assert [] == lines(caplog)


def test_many_reads_run_at_once() -> None:
    """Of records, and of the results in rows, where a read is a request."""

    class Meets(RemoteStore):
        meeting: threading.Barrier | None = None

        def get(self, key: str) -> Buffer:
            if self.meeting is not None:
                self.meeting.wait(LATE)
            return super().get(key)

    storage = Storage(store := Meets())
    for number in range(2 * AT_ONCE):
        record(storage, number, RecordedNode("t", "computed", call=id_of(number), digest="d" * 32))
    store.meeting = threading.Barrier(AT_ONCE)
    found = storage.runs("w")
    assert 2 * AT_ONCE == len(found)
    assert [None] * 2 * AT_ONCE == [row["t"] for row in found.rows("t")]


def test_each_damaged_byte_is_seen(memory: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """The record is skipped, with a line; the others are read."""
    store: Any = memory.store
    record(memory, 1, LOAD)
    key = record(memory, 2, LOAD)
    whole = bytes(store.get(key))
    changed = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(len(whole))]
    cut = [whole[:n] for n in range(len(whole))]
    for data in [*changed, *cut, whole + b"\n"]:
        store.put(key, [data])
        assert [id_of(1)] == ids(memory.runs("w"))
        [line] = lines(caplog)
        assert f"the record of run {id_of(2)!r} of workflow 'w'" in line


def test_other_records_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """Those of a later version, without the signature, or of another run or workflow."""
    signed = Storage(MemoryStore(), StorageOptions(key="key"))
    store = signed.store
    key = record(signed, 1)
    data = bytes(store.get(key))
    store.put("w/.runs/" + id_of(2), [data])
    put(store, "w", head(3), {"name": []}, Key("another"))
    put(store, "w", head(4), {"name": []}, None)
    put(store, "w", head(5, workflow="v"), {"name": []}, Key("key"))
    store.put("w/.runs/" + id_of(6), [data[:8] + b"\2\0\0\0" + data[12:]])
    assert [id_of(1)] == ids(signed.runs("w"))
    found = [line.partition(" is skipped: ")[2] for line in lines(caplog)]
    unsigned = "it is not signed with the storage's key"
    assert f"it is the record of run {id_of(1)!r} of workflow 'w'" == found[0]
    assert [unsigned, unsigned] == found[1:3]
    assert f"it is the record of run {id_of(5)!r} of workflow 'v'" == found[3]
    assert ["it has format version 2: upgrade functionfuse-core"] == found[4:]
    assert [id_of(1), id_of(3), id_of(4)] == ids(Storage(store).runs("w"))


@pytest.mark.parametrize("field", [field for field in head(1) if field != "id"])
def test_fields_are_as_specified(
    field: str, memory: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """A record without one, or with another type, is skipped. One of a later release is read."""
    fields = head(1)
    del fields[field]
    wrong = [True, ["x"], {}, {"type": "E", "text": "no"}, 10**400, float("nan")]
    given = [{field: value} for value in wrong]
    heads = [fields, *(head(number, **more) for number, more in enumerate(given, 2))]
    for about in heads:
        put(memory.store, "w", about, {"name": []}, None)
    put(memory.store, "w", {**head(99), "new": 1}, {"name": [], "new": []}, None)
    assert [id_of(99)] == ids(memory.runs("w"))
    assert len(heads) == len(lines(caplog))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": [1]},
        {"name": []},
        {"arguments": [["c"]]},
        {"parents": ["b"]},
        {"parents": [["b", 1]]},
        {"parents": [[{}]]},
        {"plugins": [["b"]]},
        {"plugins": [[["b", 1]]]},
        {"seconds": ["long"]},
        {"action": []},
        {"action": [None]},
    ],
)
def test_nodes_are_as_specified(wrong: dict[str, Any], memory: Storage) -> None:
    """Else the error names the run; what is told about the run can be read all the same."""
    nodes = {"name": ["a"], "action": ["computed"]}
    put(memory.store, "w", head(1), nodes, None)
    assert [RecordedNode("a", "computed")] == memory.runs("w")[0].nodes
    put(memory.store, "w", head(1), {**nodes, **wrong}, None)
    [run] = found = memory.runs("w")
    with pytest.raises(DamagedResultError, match=f"run '{id_of(1)}' of workflow 'w': the nodes"):
        _ = run.nodes
    assert str(found).endswith("nodes are damaged")


@pytest.mark.parametrize("field", ["seconds", "begun", "bytes", "attempts"])
def test_a_number_that_no_run_has_is_0(field: str, memory: Storage, tmp_path: Path) -> None:
    """So all that is told of a run can be shown."""
    for number in (float("nan"), float("-inf"), 10**400, 1e308):
        nodes = {"name": ["a"], "action": ["computed"], field: [number]}
        put(memory.store, "w", head(1), nodes, None)
        [run] = memory.runs("w")
        assert [RecordedNode("a", "computed")] == run.nodes
        memory.report("w").save(tmp_path / "page.html")


def test_only_the_first_object_is_unpacked(memory: Storage) -> None:
    """So a small record that unpacks to a huge one costs no memory until its nodes are read."""
    large = [LOAD._replace(reason="x" * 1000)] * 20_000
    put(memory.store, "w", head(1), columns(large), None)
    tracemalloc.start()
    try:
        [run] = memory.runs("w")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert 20_000 == len(run.nodes)


def test_what_is_removed_meanwhile_is_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """It was listed, and is gone: that is no problem. But an error of the store is raised."""

    class Removes(MemoryStore):
        def get(self, key: str) -> Buffer:
            if key.endswith(id_of(2)):
                raise ResultNotFoundError("gone")
            if key.endswith(id_of(3)):
                raise StorageError("broken")
            return super().get(key)

    storage = Storage(Removes())
    record(storage, 1)
    record(storage, 2)
    assert [id_of(1)] == ids(storage.runs("w"))
    assert [] == lines(caplog)
    record(storage, 3)
    with pytest.raises(StorageError, match="broken"):
        storage.runs("w")


def test_any_name_is_good(storage: Storage) -> None:
    """Of a workflow and of its nodes: each run stays one line, and in its own folder."""
    for name in ("../../w", ".runs", "w\n\x1b[2Jx", "é" * 300, "a/b", "\ud800"):
        node = RecordedNode(name, "computed", arguments={"a\nb": {"node": name}})
        record(storage, 1, node, workflow=name, error={"type": "E\nF", "text": "", "node": name})
        [run] = found = storage.runs(name)
        assert (name, node) == (run.workflow, run[name]._replace(parents=(), plugins=()))
        assert r"E\nF" == str(found).rpartition("  ")[2]
        changed = RecordedNode(name, "computed", arguments={"a\nb": 1})
        record(storage, 2, changed, workflow=name)
        assert 1 == len(str(run.compare(storage.runs(name)[1])).splitlines())


def test_too_many_are_removed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest 1,000 stay; of these as many as are small enough, and the newest in any case."""
    for number in range(1050):
        record(storage, number)
    prune(storage.store, "w")
    assert [id_of(number) for number in range(50, 1050)] == ids(storage.runs("w", last=None))
    [size] = {blob.size for blob in storage.store.list("w/.runs/")}
    monkeypatch.setattr(runs, "_MOST_BYTES", 7 * size)
    prune(storage.store, "w")
    assert [id_of(number) for number in range(1043, 1050)] == ids(storage.runs("w"))
    monkeypatch.setattr(runs, "_MOST_BYTES", size - 1)
    prune(storage.store, "w")
    prune(storage.store, "w")
    assert [id_of(1049)] == ids(storage.runs("w"))
    prune(storage.store, "missing")


def test_requests_of_removing() -> None:
    """A listing, and one removal of all that are too many."""
    store = RemoteStore()
    for number in range(1003):
        put(store, "w", head(number), columns([]), None)
    store.asked.clear()
    prune(store, "w")
    assert {"list": 1, "delete": 1} == store.asked
    prune(store, "w")
    assert {"list": 2, "delete": 1} == store.asked


def test_a_run_gives_its_own_values(storage: Storage) -> None:
    """Whether they are the latest or earlier ones; those that are gone are not replaced."""
    for number in range(4):
        ran(storage, number, {"fit": [number], "score": 10 * number})
    found = storage.runs("w")
    assert [[0], [1], [2], [3]] == [run.read("fit") for run in found]
    assert [0, 10, 20, 30] == [run.read("score") for run in found]
    storage.prune("w", keep=1)
    assert [20, 30] == [run.read("score") for run in found[2:]]
    for run in found[:2]:
        with pytest.raises(ResultNotFoundError, match="is gone, or another one has replaced it"):
            run.read("score")
    storage.remove_task("w", "score")
    with pytest.raises(ResultNotFoundError):
        found[3].read("score")
    with pytest.raises(NoMatchError, match="did you mean 'score'"):
        found[3].read("scores")


def test_another_result_of_the_same_call_is_not_read(storage: Storage) -> None:
    """As of a function that isn't deterministic, or of another order of a set."""
    ran(storage, 1, {"t": "one"}, call=7)
    ran(storage, 2, {"t": "two"}, call=7)
    first, second = storage.runs("w")
    assert "two" == second.read("t")
    with pytest.raises(ResultNotFoundError):
        first.read("t")
    assert [None, "two"] == [row["t"] for row in storage.runs("w").rows("t")]


@pytest.mark.parametrize("action", ["failed", "not run", "not needed", "computed"])
def test_what_a_run_did_not_store_is_not_read(action: str, storage: Storage) -> None:
    """Although another run has stored a result of the node."""
    storage.save("w", "t", 1, fingerprint={"call": "c" * 32})
    record(storage, 1, RecordedNode("t", action, call="c" * 32))
    problem = f"run '{id_of(1)}' of workflow 'w' has no stored result of 't', which was '{action}'"
    with pytest.raises(ResultNotFoundError, match=problem):
        storage.runs("w")[0].read("t")


def test_a_storage_that_reads_otherwise() -> None:
    """Its own `read_task` is called, but never for another run's result."""
    asked = []

    class Other(Storage):
        def read_task(self, workflow_name: str, task_name: str) -> Any:  # type: ignore[override]
            asked.append(task_name)
            return ["other", super().read_task(workflow_name, task_name)]

    storage = Other(MemoryStore())
    ran(storage, 1, {"t": 1})
    ran(storage, 2, {"t": 2})
    first, second = storage.runs("w")
    assert ["other", 2] == second.read("t")
    with pytest.raises(ResultNotFoundError):
        first.read("t")
    assert ["t"] == asked
    assert [None, ["other", 2]] == [row["t"] for row in storage.runs("w").rows("t")]


def test_a_storage_that_reads_otherwise_while_another_run_saves() -> None:
    """The result that was replaced just before it was read is not taken for the recorded one."""

    class Late(Storage):
        def read_task(self, workflow_name: str, task_name: str) -> Any:  # type: ignore[override]
            ran(self, 2, {"t": 2})
            return super().read_task(workflow_name, task_name)

    storage = Late(MemoryStore())
    ran(storage, 1, {"t": 1})
    with pytest.raises(ResultNotFoundError):
        storage.runs("w")[0].read("t")


def test_small_records_are_counted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes are not looked at; those of large ones are."""
    storage = FileStorage(tmp_path)
    monkeypatch.setattr(runs, "_MOST", 3)
    for number in range(5):
        record(storage, number, LOAD)
    listed: list[str] = []

    def listing(prefix: str) -> Any:
        listed.append(prefix)
        return FileStore.list(storage.store, prefix)

    monkeypatch.setattr(storage.store, "list", listing)
    prune(storage.store, "w", 1000)
    assert [] == listed
    assert [id_of(number) for number in (2, 3, 4)] == sorted(storage.store.names("w/.runs/"))
    monkeypatch.setattr(runs, "_MOST_BYTES", 1500)
    prune(storage.store, "w", 1000)
    assert ["w/.runs/"] == listed
    assert id_of(4) in set(storage.store.names("w/.runs/"))
    assert 3 > len(list(storage.store.names("w/.runs/")))
