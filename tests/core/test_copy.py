"""`Storage.copy`: results, side data, earlier results and run records, between all kinds."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copies import KINDS, NOBODY, Tree, actions, again, infos, keys, storage_of
from kept_values import Kept
from remote_store import AT_ONCE, RemoteStore
from result_bytes import MemoryStore

from functionfuse.errors import InvalidNameError, ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import NEWER, earlier_key
from functionfuse.testing.results import NAMES
from going_back import TASKS, call_of, calls, chain, computed, opened, problems, results, stored

MIB = 1 << 20


def save(storage: Storage, task: str, number: int, value: Any = None) -> None:
    storage.save("w", task, value or number, fingerprint={"call": call_of(number)})


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_workflow_is_copied(kind: str, to: str, tmp_path: Path) -> None:
    """Headers are equal, a run reuses all, and nothing is unpickled on the way."""
    source = storage_of(kind, tmp_path / "source")
    chain(source, 1).run()
    target = storage_of(to, tmp_path / "target")
    reader, writer = again(source, trust=NOBODY), again(target, trust=NOBODY)
    reports = reader.copy("w", writer)
    assert sorted(TASKS) == [report.task for report in reports]
    assert ["copied"] * 4 == actions(reports)
    sizes = [info.size + info.side_size for info in infos(source)]
    assert sizes == [report.size for report in reports]
    assert list(infos(source)) == list(infos(target))
    assert [] == problems(target)
    flow = chain(target, 1)
    assert results(1)[-1] == flow.run()
    assert [] == computed(flow)
    assert results(1) == stored(target)
    assert ["there already"] * 4 == actions(reader.copy("w", writer))


def test_the_bytes_are_equal(source: FileStorage, target: FileStorage) -> None:
    """With the same key, or without one, each file is."""
    source.copy("w", target)
    for info in infos(source):
        assert source.store.get(f"w/{info.task}") == target.store.get(f"w/{info.task}")
    assert [key for key in keys(source) if ".runs/" not in key] == keys(target)


@pytest.mark.parametrize("pattern", ["t*", "total", "[st]*", "*"])
def test_a_pattern(source: FileStorage, target: FileStorage, pattern: str) -> None:
    """Of the tasks, as `list_tasks` has it."""
    expected = source.list_tasks("w", pattern)
    assert expected == [report.task for report in source.copy("w", target, pattern)]
    assert expected == target.list_tasks("w")


def test_nothing_to_copy(source: FileStorage, target: FileStorage) -> None:
    """Nothing is made in the target, and the error names storage, workflow and pattern."""
    for workflow, pattern in (("v", "*"), ("w", "x*")):
        with pytest.raises(ResultNotFoundError) as raised:
            source.copy(workflow, target, pattern, runs=True)
        for part in (repr(source), repr(workflow), repr(pattern)):
            assert part in str(raised.value)
    with pytest.raises(InvalidNameError):
        source.copy("", target)
    assert not os.path.exists(target.store.root)


def test_onto_itself(source: FileStorage, tmp_path: Path) -> None:
    """It is an error, whatever the path is called; a folder elsewhere is another storage."""
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for same in (source, opened(tmp_path / "source"), opened(tmp_path / "link")):
        with pytest.raises(ValueError, match="is the storage that the results are in"):
            source.copy("w", same)
    memory = Storage(MemoryStore())
    memory.save("w", "t", 1)
    assert ["copied"] == actions(memory.copy("w", Storage(MemoryStore())))


def test_any_name(target: FileStorage) -> None:
    """Long ones and those with odd characters, for workflows and tasks."""
    source = Storage(MemoryStore())
    for name in NAMES:
        source.save(name, name, name)
        source.save("all", name, name)
    source.copy("all", target)
    for name in NAMES:
        assert [name] == [report.task for report in source.copy(name, target)]
        assert [name, name] == [target.read_task(where, name) for where in (name, "all")]


def test_a_dry_run(source: FileStorage, target: FileStorage) -> None:
    """It says the same, and writes nothing."""
    save(target, "total", 7)
    save(source, "load", 8)
    for earlier in (False, True):
        before = [(blob.key, blob.etag) for blob in target.store.list("")]
        dry = source.copy("w", target, earlier=earlier, runs=earlier, dry_run=True)
        assert before == [(blob.key, blob.etag) for blob in target.store.list("")]
        assert dry == source.copy("w", target, earlier=earlier, runs=earlier)
        assert {"copied", "there already" if earlier else "replaced"} == set(actions(dry))
    again = source.copy("w", target, earlier=True, runs=True, dry_run=True)
    assert {"there already"} == set(actions(again))


def test_a_folder_of_files(source: FileStorage, target: FileStorage) -> None:
    """Side data that is a tree of blobs, and a file of several pieces."""
    files = {"zarr.json": b"{}", "c/0/0": os.urandom(3 * MIB + 1), "c/0/1": b"", "c/1/0": b"x"}
    source, target = again(source), again(target)
    source.save("w", "tree", [Tree(files), Kept(os.urandom(2 * MIB))])
    source.copy("w", target, "tree")
    assert files == target.read_task("w", "tree")[0].files
    assert source.read_task("w", "tree")[1].data == target.read_task("w", "tree")[1].data
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


def test_a_big_result(target: FileStorage) -> None:
    """Its buffers are aligned as before."""
    source, array = Storage(MemoryStore()), np.arange(MIB)
    source.save("w", "big", [array, array[1:], "text"])
    source.copy("w", target)
    assert source.store.get("w/big") == target.store.get("w/big")
    assert np.array_equal(array, target.read_task("w", "big")[0])


# What is in the target already.


@pytest.mark.parametrize("kept", [True, False])
def test_another_result_is_replaced(source: FileStorage, tmp_path: Path, kept: bool) -> None:
    """It is set aside if the target keeps earlier results; else its side data is removed."""
    target = opened(tmp_path / "target", **({} if kept else {"earlier": False}))
    chain(target, 2).run()
    assert ["replaced"] * 4 == actions(source.copy("w", target))
    assert list(infos(source)) == list(infos(target))
    assert (2 if kept else 1) == len(list(target.store.list("w/.data/")))
    flow = chain(target, 2)
    flow.run()
    assert (0 if kept else 4) == len(computed(flow))
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


def test_a_newer_result_is_replaced(source: FileStorage, target: FileStorage) -> None:
    """As by a save, whatever the clocks say; one of the same call is not set aside."""
    chain(target, 1).run()
    assert target.task_info("w", "kept").created > source.task_info("w", "kept").created
    assert ["replaced"] * 4 == actions(source.copy("w", target))
    assert list(infos(source)) == list(infos(target))
    assert [] == target.earlier("w", "kept")
    assert 1 == len(list(target.store.list("w/.data/")))


def test_a_damaged_result_in_the_target(source: FileStorage, target: FileStorage) -> None:
    """It is replaced if its header is damaged."""
    source.copy("w", target)
    target.store.put("w/total", [b"nothing"])
    assert 1 == actions(source.copy("w", target)).count("replaced")
    assert results(1) == stored(target)


def test_the_limits_of_the_target_hold(tmp_path: Path) -> None:
    """Those of earlier results: what was set aside last is kept."""
    source = storage_of("memory", tmp_path)  # its clock tells one from the next
    for number in (5, 3, 8, 2, 7, 4, 6):
        save(source, "total", number)
    target = storage_of("memory", tmp_path, earlier={"bytes": 1500})
    source.copy("w", target, "total", earlier=True)
    left = calls(target, "total")
    assert 0 < len(left) < 6
    assert calls(source, "total")[: len(left)] == left  # those set aside last


# On request.


def test_earlier_results(source: FileStorage, target: FileStorage) -> None:
    """They are found by a run, and the oldest release that knows of none keeps their side data."""
    for number in (2, 3):
        chain(source, number).run()
    assert ["copied"] * 4 == actions(source.copy("w", target))
    assert [] == target.earlier("w", "kept")
    reports = source.copy("w", target, earlier=True)
    assert {"there already": 4, "copied": 8} == {
        action: actions(reports).count(action) for action in set(actions(reports))
    }
    assert {info.call for name in TASKS for info in source.earlier("w", name)} == {
        report.call for report in reports if report.call
    }
    for name in TASKS:
        assert source.earlier("w", name) == target.earlier("w", name)
    assert NEWER in target.store.names("w/")
    for number in (1, 2, 3):
        flow = chain(target, number)
        assert results(number)[-1] == flow.run()
        assert [] == computed(flow)
        assert results(number) == stored(target)
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


def test_a_restored_result_is_copied_once(source: FileStorage, target: FileStorage) -> None:
    """Its copy among the earlier results is not: the latest one is the same."""
    for number in (2, 1):
        chain(source, number).run()
    assert 8 == len(list(source.store.list("w/.earlier/")))
    reports = source.copy("w", target, earlier=True)
    assert 4 == actions(reports).count("there already")
    assert 4 == len(list(target.store.list("w/.earlier/")))
    assert 2 == len(list(target.store.list("w/.data/")))


def test_earlier_results_that_are_there(source: FileStorage, target: FileStorage) -> None:
    """One of the same call stays, whoever computed it, with its side data."""
    for storage in (source, target):
        for number in (2, 3):
            save(storage, "kept", number, Kept(b"%d" % number))
    [one] = target.earlier("w", "kept")
    source.copy("w", target, "kept", earlier=True)
    assert one in target.earlier("w", "kept")
    assert b"2" == target.read_task("w", "kept", call=call_of(2)).data
    assert [] == problems(target)


def test_an_earlier_result_under_another_key(source: FileStorage, target: FileStorage) -> None:
    """Two writers at once can have exchanged two: such a blob is of no use, and stays behind."""
    save(source, "total", 2)
    save(source, "total", 3)
    source.store.copy("w/total", earlier_key("w", "total", call_of(2)))
    reports = source.copy("w", target, "total", earlier=True)
    assert {"gone", "copied"} == set(actions(reports))
    assert [] == [report.problem for report in reports if report.problem]
    assert call_of(2) not in {info.call for info in target.earlier("w", "total")}


@pytest.mark.parametrize("keyed", [False, True])
def test_run_records(source: FileStorage, tmp_path: Path, keyed: bool) -> None:
    """All of the workflow, whatever the pattern; signed with the target's key."""
    chain(source, 2).run()
    target = opened(tmp_path / "target", **({"key": "k"} if keyed else {}))
    reports = source.copy("w", target, "total", runs=True)
    assert ["copied"] * 3 == actions(reports)
    runs = source.runs("w")
    assert [run.id for run in runs] == [report.run for report in reports[1:]]
    assert [run.nodes for run in runs] == [run.nodes for run in target.runs("w")]
    assert ["there already"] * 3 == actions(source.copy("w", target, "total", runs=True))
    assert 5 == runs[-1].read("total")
    assert 5 == target.runs("w")[-1].read("total")


def test_records_of_a_workflow_without_results(source: FileStorage, target: FileStorage) -> None:
    """They are copied, too: of a run that failed, for example."""
    source.remove_task("w", pattern="*")
    assert [1, 0] == [len(source.copy("w", target, runs=True)), len(target.list_tasks("w"))]
    assert 1 == len(target.runs("w"))


def test_hooks_are_not_called(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a result that is restored: nothing was saved or read."""
    called: list[str] = []

    class Hooks:
        def call(self, name: str, **_: object) -> None:
            called.append(name)

    for module in ("storage", "inventory"):
        monkeypatch.setattr(f"functionfuse.storage.{module}.event_hooks", Hooks)
    source.copy("w", target, earlier=True, runs=True)
    assert [] == called
    source.read_task("w", "total")
    assert ["functionfuse_result_read"] == called


@pytest.mark.parametrize("slow", ["source", "target"])
def test_many_at_once(slow: str) -> None:
    """If a request is slow: one for each new result, and none for what is there already."""
    source = Storage(RemoteStore() if slow == "source" else MemoryStore())
    target = Storage(RemoteStore() if slow == "target" else MemoryStore())
    for number in range(40):
        source.save("w", f"t{number}", number)
    store: Any = source.store if slow == "source" else target.store
    threads: set[str] = set()
    target.new_workflow("w")
    put = target.store.put

    def noted(*arguments: Any, **options: Any) -> None:
        threads.add(threading.current_thread().name)
        time.sleep(0.001)  # so that one thread is not quick enough for all
        put(*arguments, **options)

    target.store.put = noted  # type: ignore[method-assign]
    store.asked.clear()
    source.copy("w", target)
    assert 40 == store.asked["get" if slow == "source" else "put"]
    assert 1 < len(threads) <= AT_ONCE
    store.asked.clear()
    assert {"there already"} == set(actions(source.copy("w", target)))
    assert 0 == store.asked["get"] + store.asked["put"]


def test_a_report_is_frozen(source: FileStorage, target: FileStorage) -> None:
    """And as JSON it is plain."""
    [report] = source.copy("w", target, "total")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.action = "x"  # type: ignore[misc]
    expected = {"workflow": "w", "task": "total", "action": "copied", "problem": ""}
    assert expected.items() <= dataclasses.asdict(report).items()
