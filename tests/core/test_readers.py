"""Reading needs no right to write: runs on a storage that can't be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from readers import readable_folder, seen_by_a_reader

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.cli.main import run as command
from functionfuse.errors import StoragePathError
from functionfuse.storage.filestorage import FileStorage

RAN: list[str] = []


@workflow(version="1")
def load(number: int) -> int:
    RAN.append("load")
    return number


@workflow(version="1")
def parity(number: int) -> int:
    RAN.append("parity")
    return number % 2


@workflow(version="1")
def text(number: int) -> str:
    RAN.append("text")
    return f"rest {number}"


@workflow(version="1")
def show(words: str) -> None:
    RAN.append(f"show {words}")


def flow(storage: Any, number: int) -> LocalWorkflow:
    """A graph whose last node may stay as it is, though the first one changes."""
    rest = parity(load(number).set_name("load")).set_name("parity")
    made = LocalWorkflow(text(rest).set_name("text"), workflow_name="w")
    made.set_storage(storage)
    RAN.clear()
    return made


@pytest.fixture
def folder() -> Iterator[Path]:
    with readable_folder() as folder:
        flow(FileStorage(folder / "store"), 1).run()
        yield folder / "store"


def everything(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder with their bytes."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found}


BACKENDS: dict[str, Callable[[LocalWorkflow], Any]] = {
    "in process": lambda flow: flow.run(),
    "threads": lambda flow: flow.run(ThreadPoolExecutor(2)),
    "keep going": lambda flow: flow.run(keep_going=True),
    "single flight": lambda flow: flow.run(single_flight=True),
    "value": lambda flow: flow.value(flow.leaves[0][0]),
}
on_each = pytest.mark.parametrize("run", BACKENDS.values(), ids=BACKENDS.keys())


@on_each
def test_what_is_stored_is_given(folder: Path, run: Callable[[LocalWorkflow], Any]) -> None:
    """A run that reuses everything gives its value; one line says that it leaves no record."""
    before = everything(folder)

    def look() -> tuple[Any, list[str]]:
        return run(flow(FileStorage(folder), 1)), RAN

    (value, ran), lines = seen_by_a_reader(folder, look)
    assert ("rest 1", []) == (value, ran)
    assert (0 if run is BACKENDS["value"] else 1) == len(lines)
    assert all("the record of run" in line and "Permission denied" in line for line in lines)
    assert before == everything(folder)


@on_each
def test_earlier_results_are_given(folder: Path, run: Callable[[LocalWorkflow], Any]) -> None:
    """They are not made the latest ones again, and one line says so."""
    flow(FileStorage(folder), 2).run()
    before = everything(folder)

    def look() -> tuple[Any, list[str]]:
        return run(flow(FileStorage(folder), 1)), RAN

    (value, ran), [line] = seen_by_a_reader(folder, look)
    assert ("rest 1", []) == (value, ran)
    assert "3 reused earlier result(s) of workflow 'w' can't be made the latest again" in line
    assert "no permission to write" in line
    assert before == everything(folder)
    assert "rest 0" == FileStorage(folder).read_task("w", "text")


@on_each
def test_nothing_runs_before_it_is_known(folder: Path, run: Callable[[LocalWorkflow], Any]) -> None:
    """Neither a node that must be computed, nor one that may stay; the error says how many."""

    def look() -> tuple[Any, ...]:
        asked = flow(FileStorage(folder), 3)
        plan = asked.plan()
        with pytest.raises(StoragePathError, match="no permission to write") as caught:
            run(asked)
        return [node.action for node in plan.nodes], caught.value.__notes__, RAN

    (actions, notes, ran), lines = seen_by_a_reader(folder, look)
    assert ["compute", "maybe", "maybe"] == actions
    assert ["up to 3 node(s) of workflow 'w' must be computed"] == notes
    assert [] == ran
    assert [] == lines


def test_restored_and_computed(folder: Path) -> None:
    """If a node must be computed, the error is all that is said."""
    flow(FileStorage(folder), 2).run()

    def look() -> list[str]:
        asked = flow(FileStorage(folder), 1)
        asked.add(load(7).set_name("more"))
        with pytest.raises(StoragePathError):
            asked.run()
        return RAN

    assert ([], []) == seen_by_a_reader(folder, look)


def test_nodes_that_are_never_stored(folder: Path) -> None:
    """They run: nothing is written for them. What depends on them may have to be stored."""

    def shown(*, more: bool) -> LocalWorkflow:
        asked = flow(FileStorage(folder), 1)
        printed = show(asked.leaves[0][0]).set_name("show")
        asked.add(text(printed).set_name("after") if more else printed)
        asked.log_nodes("show")
        return asked

    def look() -> list[str]:
        shown(more=False).run()
        return RAN

    def look_further() -> list[str]:
        asked = shown(more=True)
        with pytest.raises(StoragePathError):
            asked.run()
        return RAN

    ran, [line] = seen_by_a_reader(folder, look)
    assert ["show rest 1"] == ran
    assert "the record of run" in line
    assert ([], []) == seen_by_a_reader(folder, look_further)


def test_a_damaged_result(folder: Path) -> None:
    """One that no node needs is left as it is; one that is needed can't be computed."""
    path = folder / "w" / "load"
    damaged = path.read_bytes()[:-1] + b"x"
    path.write_bytes(damaged[:20])

    def look() -> tuple[Any, list[str]]:
        return flow(FileStorage(folder), 1).run(), RAN

    (value, ran), lines = seen_by_a_reader(folder, look)
    assert ("rest 1", []) == (value, ran)
    assert "its bytes can't be kept" in lines[0]
    assert "the record of run" in lines[1]
    last = folder / "w" / "text"
    last.chmod(0o644)
    last.write_bytes(last.read_bytes()[:-3] + b"xxx")
    error, lines = seen_by_a_reader(folder, look)
    assert isinstance(error, StoragePathError)
    assert ["up to 1 node(s) of workflow 'w' must be computed"] == error.__notes__
    assert all("can't be used" in line for line in lines)


def test_the_storage_is_asked_once_and_late(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a run that reuses everything; once by one that computes or restores."""
    asked: list[list[str]] = []

    def note(_: FileStorage, name: str) -> None:
        asked.append([name, *RAN])

    monkeypatch.setattr(FileStorage, "new_workflow", note)
    storage = FileStorage(folder)
    for number, times in ((1, 0), (2, 1), (1, 1), (2, 1), (2, 0), (4, 1)):
        asked.clear()
        flow(storage, number).run()
        assert [["w"]] * times == asked


class Oldest:
    """A storage with the four documented members, that can't be written."""

    always_read = False

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def new_workflow(self, name: str) -> None:
        raise PermissionError(13, f"{name} can't be written")

    def save(self, *_: Any) -> None:
        raise AssertionError

    def read_task(self, _: str, task: str) -> Any:
        if task not in self.values:
            raise FileNotFoundError(task)
        return self.values[task]


def test_a_storage_with_four_members() -> None:
    """It is read before it is asked."""
    assert "rest 1" == flow(Oldest({"text": "rest 1"}), 1).run()
    with pytest.raises(PermissionError, match="w can't be written"):
        flow(Oldest({"load": 1}), 1).run()
    assert [] == RAN


def test_a_storage_that_cannot_be_read_gets_no_record(tmp_path: Path) -> None:
    """It would be asked a second time, and an unreachable server let everybody wait again."""

    class Unreachable(FileStorage):
        def task_infos(self, *_: Any) -> Any:
            raise ConnectionError("no server")

        def record_run(self, *_: Any) -> None:
            records.append("")

    records: list[str] = []
    with pytest.raises(ConnectionError):
        flow(Unreachable(tmp_path), 1).run()
    assert [] == records


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_read_only_mount() -> None:
    """As a folder without the right, also for root; a snapshot is one."""
    with readable_folder() as mount:
        mounted = ["mount", "-t", "tmpfs", "none", str(mount)]
        if subprocess.run(mounted, check=False, capture_output=True).returncode:
            pytest.skip("mount is not allowed here")
        try:
            storage = FileStorage(mount / "store")
            flow(storage, 1).run()
            flow(storage, 2).run()
            subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
            assert "rest 0" == flow(storage, 2).run()
            assert "rest 1" == flow(storage, 1).run()
            with pytest.raises(StoragePathError):
                flow(storage, 3).run()
            assert [] == RAN
            for each in (storage, FileStorage(mount / "store")):  # one has written already
                with pytest.raises(StoragePathError, match="Read-only") as caught:
                    each.save("w", "text", 1)
                assert ".tmp-" not in str(caught.value)
            for words in COMMANDS:
                assert 0 == command([*words, "--storage", str(mount / "store")]), words
        finally:
            subprocess.run(["umount", mount], check=True)


COMMANDS = (
    ["list"],
    ["list", "w"],
    ["earlier", "w"],
    ["lineage", "w", "text"],
    ["show", "w", "text"],
    ["runs", "w"],
    ["verify"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_that_read(folder: Path, words: list[str]) -> None:
    """They say nothing about rights."""

    def look() -> int:
        return command([*words, "--storage", str(folder)])

    assert (0, []) == seen_by_a_reader(folder, look)
