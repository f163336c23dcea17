"""What a run leaves in its storage: a record, and its id in the headers of its results."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from time import time
from typing import Any

import pytest
from any_order import AnyOrder
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import RandomStatePlugin
from functionfuse.errors import ResultNotFoundError, StorageConnectionError
from functionfuse.run.record import _head_of
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from run_records import last, made


@workflow
def load(count: int, name: str = "x") -> list[int]:
    return list(range(count))


@workflow
def fit(data: list[int], factor: float) -> float:
    if factor < 0:
        raise ValueError(f"{factor} is below 0")
    return sum(data) * factor


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def pipeline(storage: Any, factor: float = 2.0, count: int = 3) -> LocalWorkflow:
    data = load(count).set_name("load")
    return made(storage, fit(data, factor).set_name("fit"))


def test_a_run_that_computes_and_one_that_reuses(storage: FileStorage) -> None:
    """Both leave a record; the results name the first, and the second has the same digests."""
    before = time()
    assert 6.0 == pipeline(storage).run()
    assert 6.0 == pipeline(storage).run()
    first, second = storage.runs("w")
    assert first.id < second.id
    flow = pipeline(storage)
    assert "" == flow.plan().run
    flow.run()
    assert flow.report is not None
    assert last(storage).id == flow.report.run
    assert {first.id} == {storage.task_info("w", task).run for task in ("load", "fit")}
    assert ("w", "in process", None) == (first.workflow, first.backend, first.error)
    assert first.started.replace("-", "").replace(":", "") == first.id.partition("-")[0]
    assert 0 < first.seconds < 60
    assert sys.version.startswith(f"{first.python} ")
    assert first.user
    assert first.host
    for task in ("load", "fit"):
        info, node, again = storage.task_info("w", task), first[task], second[task]
        assert ("computed", "nothing stored", 1) == (node.action, node.reason, node.attempts)
        assert ("reused", "", 0) == (again.action, again.reason, again.attempts)
        assert before <= node.begun <= time()
        assert (0.0, 0.0, "") == (again.begun, again.seconds, again.worker)
        assert node.worker.split() == [first.host, str(os.getpid()), "MainThread"]
        assert info.seconds == node.seconds
        assert (
            f"{__name__.rpartition('.')[2]}.{task}"
            == node.function.rpartition("test_")[1] + (node.function.rpartition("test_")[2])
        )
        for found in (node, again):
            assert (info.size, info.call, info.digest) == (found.bytes, found.call, found.digest)
            assert info.fingerprint["code"] == found.code
            assert found.digest == found.value
    assert (["load"], {"data": {"node": "load"}, "factor": 2.0}) == (
        list(first["fit"].parents),
        first["fit"].arguments,
    )
    assert {"count": 3, "name": "x"} == second["load"].arguments


def test_what_failed(storage: FileStorage) -> None:
    """The record of a run that failed has the error, its node, and what did not run."""
    data = load(3).set_name("load")
    bad = fit(data, -1.0).set_name("bad")
    after = fit([bad], 2.0).set_name("after")
    flow = made(storage, after, fit(data, 1.0).set_name("good"))
    with pytest.raises(ValueError, match="below"):
        flow.run(keep_going=True)
    record = last(storage)
    assert {"type": "ValueError", "text": "-1.0 is below 0", "node": "bad"} == record.error
    actions = {node.name: node.action for node in record.nodes}
    assert {
        "load": "computed",
        "bad": "failed",
        "after": "not run",
        "good": "computed",
    } == actions
    assert "ValueError: -1.0 is below 0" == record["bad"].reason
    assert "follows 'bad', which failed" == record["after"].reason
    assert record["bad"].begun
    assert record["bad"].worker
    assert ("", "") == (record["bad"].digest, record["after"].digest)
    assert record["bad"].call
    assert not record["after"].begun


@workflow
def interrupted() -> None:
    raise KeyboardInterrupt


def test_after_ctrl_c(storage: FileStorage) -> None:
    """An interrupted run leaves a record, too."""
    flow = made(storage, load(2).set_name("load"), interrupted().set_name("stop"))
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    record = last(storage)
    assert record.error is not None
    assert ("KeyboardInterrupt", "stop") == (record.error["type"], record.error["node"])
    assert ("computed", "failed") == (record["load"].action, record["stop"].action)


def test_an_error_before_the_plan(storage: FileStorage) -> None:
    """Its record has no nodes."""
    flow = pipeline(storage)
    flow.set_reuse("unchanged", packages=["no_such_package"])
    with pytest.raises(ValueError, match="no_such_package"):
        flow.run()
    record = last(storage)
    assert record.error is not None
    assert ("OptionsError", []) == (record.error["type"], record.nodes)


KILLED = """
import os, signal, sys
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

@workflow
def first():
    return 1

@workflow
def second(value):
    os.kill(os.getpid(), signal.SIGKILL)

flow = LocalWorkflow(second(first().set_name("first")), workflow_name="w")
flow.set_storage(FileStorage(sys.argv[1]))
flow.run()
"""


def test_a_killed_run_has_no_record(tmp_path: Path, storage: FileStorage) -> None:
    """The headers of its results name it all the same."""
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "store"], check=False)
    assert -signal.SIGKILL == done.returncode
    assert [] == list(storage.runs("w"))
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}", storage.task_info("w", "first").run)


def test_a_graph_that_grows(storage: FileStorage) -> None:
    """`value` and the `run` after it are one run with one record, which `value` puts first."""
    data = load(3).set_name("load")
    flow = made(storage)
    assert [0, 1, 2] == flow.value(data)
    [early] = storage.runs("w")
    assert ["load"] == [node.name for node in early.nodes]
    assert [0, 1, 2] == flow.value(data)
    flow.add(fit(data, 2.0).set_name("fit"))
    flow.run()
    [record] = storage.runs("w")
    assert early.id == record.id
    assert ["load", "fit"] == [node.name for node in record.nodes]
    assert early["load"] == record["load"]
    assert {record.id} == {storage.task_info("w", task).run for task in ("load", "fit")}
    flow.run()
    assert 2 == len(storage.runs("w"))


def test_a_part_that_has_left_the_graph(storage: FileStorage) -> None:
    """The record of a growing run has all that the run did, each node once."""
    flow = made(storage)
    first, second = load(1).set_name("first"), load(2).set_name("second")
    flow.value(first)
    flow.value(second)
    [record] = storage.runs("w")
    assert ["first", "second"] == [node.name for node in record.nodes]
    assert {"computed"} == {node.action for node in record.nodes}
    with pytest.raises(ValueError, match="below"):
        flow.value(fit(first, -1.0).set_name("fit"))
    [record] = storage.runs("w")
    assert ["computed", "computed", "failed"] == [
        record[name].action for name in ("first", "second", "fit")
    ]


def test_the_lineage_of_a_run(storage: FileStorage) -> None:
    """It is that of the run's own result; without one, it is not that of another run."""
    for factor in (2.0, 3.0):
        pipeline(storage, factor).run()
    with pytest.raises(ValueError, match="below"):
        pipeline(storage, -1.0).run()
    runs = storage.runs("w")
    assert ["2.0", "3.0"] == [run.lineage("fit")[0].arguments["factor"] for run in runs[:2]]
    assert ["load", "fit"] == [node.task for node in runs[0].lineage("load", down=True)][:2]
    with pytest.raises(ResultNotFoundError, match="has no stored result of 'fit'"):
        runs[2].lineage("fit")
    with pytest.raises(TypeError, match="call is a text"):
        storage.lineage("w", "fit", runs[0]["fit"])  # type: ignore[arg-type]


def test_wrong_uses_are_named(storage: FileStorage) -> None:
    """What is no run, no name, or of no run."""
    pipeline(storage).run()
    runs = storage.runs("w")
    with pytest.raises(TypeError, match="compare takes a run"):
        runs[0].compare("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rows takes names"):
        runs.rows(["fit"])  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no runs of workflow 'v'"):
        storage.runs("v").rows("fit")
    with pytest.raises(IndexError, match="no runs of workflow 'v'"):
        storage.runs("v")[-1]


# Where and by whom.


def test_on_threads_and_processes(storage: FileStorage) -> None:
    """The record names executor and workers."""
    start = time()
    with ThreadPoolExecutor(1) as threads:
        pipeline(storage, 2.0).run(threads)
    record = last(storage)
    assert "ThreadPoolExecutor" == record.backend
    assert f"{record.host} {os.getpid()} ThreadPoolExecutor" in record["fit"].worker
    with ProcessPoolExecutor(1) as processes:
        pipeline(storage, 3.0, 4).run(processes)
    record = last(storage)
    assert "ProcessPoolExecutor" == record.backend
    host, process, _ = record["fit"].worker.split()
    assert (record.host, True) == (host, int(process) != os.getpid())
    assert start <= record["load"].begun <= record["fit"].begun <= time()


@workflow(retries=2, retry_on=OSError, retry_delay=0)
def sometimes(folder: str) -> int:
    with open(f"{folder}/attempts", "a", encoding="ascii") as file:
        file.write("x")
        if file.tell() < 2:
            raise OSError("not yet")
    return 1


def test_attempts(storage: FileStorage, tmp_path: Path) -> None:
    """They are counted; the times are those of the last one."""
    made(storage, sometimes(str(tmp_path)).set_name("s")).run()
    assert ("computed", 2) == (last(storage)["s"].action, last(storage)["s"].attempts)


def test_plugins_that_count(storage: FileStorage) -> None:
    """They are recorded by type and digest."""
    flow = pipeline(storage)
    flow.set_plugin("fit", RandomStatePlugin(0, 9, 1, random.seed))
    flow.run()
    [[kind, digest]] = last(storage)["fit"].plugins
    assert "RandomStatePlugin" == kind
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert [] == list(last(storage)["load"].plugins)


def test_sets_count_as_equal(storage: FileStorage) -> None:
    """`value` is equal for equal sets, although `digest` may differ."""

    @workflow
    def names() -> set[str]:
        return {"one", "two", "three"}

    made(storage, names().set_name("n")).run()
    node, info = last(storage)["n"], storage.task_info("w", "n")
    assert (info.digest, info.value) == (node.digest, node.value)
    assert node.value != node.digest


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit(tmp_path: Path) -> None:
    """It is read from `.git` as git finds it: of a branch, packed, detached, in a worktree."""
    repository, tree = tmp_path / "repository", tmp_path / "tree"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    with pytest.raises(FileNotFoundError):  # there is no commit yet
        _head_of(repository / ".git")
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    first = git(repository, "rev-parse", "HEAD")
    assert first == _head_of(repository / ".git")
    git(repository, "pack-refs", "--all")
    assert first == _head_of(repository / ".git")
    git(repository, "worktree", "add", "-q", "-b", "other", str(tree))
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    second = git(tree, "rev-parse", "HEAD")
    assert (first, second) == (_head_of(repository / ".git"), _head_of(tree / ".git"))
    git(repository, "checkout", "-q", "--detach", second)
    assert second == _head_of(repository / ".git")
    script = repository / "deep" / "script.py"
    script.parent.mkdir()
    script.write_text("from functionfuse.run.record import _commit\nprint(_commit())", "utf-8")
    found = subprocess.run(
        [sys.executable, script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert second == found.stdout.strip()


# When there is none.


def test_no_records(tmp_path: Path) -> None:
    """The option `run_records` switches them off; headers name the run all the same."""
    options = {"path": str(tmp_path), "run_records": False}
    storage = storage_factory({"kind": "file", "options": options})
    pipeline(storage).run()
    assert [] == list(storage.runs("w"))
    assert not (tmp_path / "w" / ".runs").exists()
    assert storage.task_info("w", "fit").run


def test_a_storage_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run says so, before it begins; no line about a record comes beside it."""
    (tmp_path / "store").touch()
    with pytest.raises(OSError, match="store"):
        pipeline(FileStorage(tmp_path / "store")).run()
    assert [] == caplog.messages


class Refusing(MemoryStore):
    """Refuses to put records."""

    def put(self, key: str, parts: Any, **options: Any) -> None:
        if "/.runs/" in key:
            raise PermissionError(13, "Permission denied")
        super().put(key, parts, **options)


def test_a_record_that_cannot_be_put(caplog: pytest.LogCaptureFixture) -> None:
    """The run has its values, and one line of the log says so; also one that only reuses."""
    storage = Storage(Refusing())
    assert 6.0 == pipeline(storage).run()
    assert 6.0 == pipeline(storage).run()
    for line in caplog.messages:
        assert re.fullmatch(r"the record of run '.*' of workflow 'w' can't be stored: Perm.*", line)
    assert 2 == len(caplog.messages)


def test_a_storage_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A subclass whose `save` doesn't know `run` works, and so does one with the four members."""

    class Older(FileStorage):
        def save(self, workflow_name: str, task_name: str, obj: Any, **given: Any) -> Any:
            run = given.pop("run", "")
            assert run
            return super().save(workflow_name, task_name, obj, **given)

    class Oldest(FileStorage):
        def save(  # type: ignore[override]
            self,
            workflow_name: str,
            task_name: str,
            obj: Any,
            *,
            function: str = "",
            seconds: float | None = None,
            fingerprint: Any = None,
            describe: Any = None,
        ) -> Any:
            about = {"function": function, "seconds": seconds}
            more = {"fingerprint": fingerprint, "describe": describe}
            return super().save(workflow_name, task_name, obj, **about, **more)

    for kind in (Older, Oldest):
        storage = kind(tmp_path / kind.__name__)
        assert 6.0 == pipeline(storage).run()
        assert "" == storage.task_info("w", "fit").run
        assert 1 == len(storage.runs("w"))
    assert [] == caplog.messages


def test_only_the_newest_are_kept(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process looks after them at every fiftieth record; it begins anywhere."""
    monkeypatch.setattr("functionfuse.storage.runs._MOST", 20)
    monkeypatch.setattr("functionfuse.storage.storage._PRUNED_EVERY", 50)
    counts, flow = [], pipeline(storage)
    for _ in range(120):
        flow.run()
        counts.append(len(list(storage.store.list("w/.runs/"))))
    removals = [number for number, count in enumerate(counts[1:]) if count < counts[number]]
    assert 20 == min(counts[removals[0] :])
    assert [50] * (len(removals) - 1) == [b - a for a, b in itertools.pairwise(removals)]
    assert removals[0] < 70  # where the first look finds 20 or fewer, the next one removes some
    assert flow.report is not None
    assert max(counts) <= 70


def test_two_workflows_take_turns(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own count."""
    monkeypatch.setattr("functionfuse.storage.runs._MOST", 5)
    monkeypatch.setattr("functionfuse.storage.storage._PRUNED_EVERY", 50)
    flows = [made(storage, load(1).set_name("a"), name=name) for name in ("one", "two")]
    for _ in range(60):
        for flow in flows:
            flow.run()
    for name in ("one", "two"):
        assert len(list(storage.store.list(f"{name}/.runs/"))) <= 55


def test_removed_with_the_workflow(storage: FileStorage, tmp_path: Path) -> None:
    """Records go with the workflow; results go without them."""
    pipeline(storage).run()
    storage.remove_task("w", pattern="*")
    assert [] == storage.list_tasks("w")
    assert 1 == len(storage.runs("w"))
    storage.remove_workflow("w")
    assert 0 == len(storage.runs("w"))
    assert [] == [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_events_tell_where_and_when(storage: FileStorage) -> None:
    """`finished`, `failed` and `retrying` have the worker, and the time when the function began."""
    events: list[Any] = []
    flow = pipeline(storage, -1.0)
    flow.listeners.append(events.append)
    start = time()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="below"):
        flow.run(pool)
    found = {event.kind: event for event in events}
    for kind in ("finished", "failed"):
        assert start <= found[kind].begun <= found[kind].time
        assert f" {os.getpid()} ThreadPoolExecutor" in found[kind].worker
    assert (0.0, "") == (found["started"].begun, found["started"].worker)
    assert {last(storage).id} == {event.run for event in events}


class Lost(FileStorage):
    """Can't be reached any more from its first save or read on."""

    refused: tuple[str, ...] = ()

    def save(self, *args: Any, **about: Any) -> Any:
        raise StorageConnectionError("the line is dead")

    read_unchanged = save

    def record_run(self, *args: Any) -> None:
        pytest.fail("the run tries again")

    remember = record_run  # type: ignore[assignment]


@pytest.mark.parametrize(("keeps", "reads"), [(False, False), (True, False), (True, True)])
def test_a_storage_that_is_lost(tmp_path: Path, keeps: bool, reads: bool) -> None:
    """The run ends, and tries nothing else: each attempt can take minutes."""
    if reads:
        pipeline(FileStorage(tmp_path)).run()
    flow = pipeline(Lost(tmp_path), factor=3.0)
    flow.add(load(2).set_name("other"))
    with pytest.raises(StorageConnectionError, match="the line is dead"):
        flow.run(AnyOrder(random.Random(1), limit=1) if keeps else None, keep_going=True)
    assert {"failed", "not run"} <= {record.action for record in flow.report.nodes}
