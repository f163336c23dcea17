"""Earlier results: what fails, what others remove meanwhile, and side data that is shared."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kept_values import Kept
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.header import MAGIC
from functionfuse.storage.keys import NEWER, earlier_key
from going_back import (
    TASKS,
    aside,
    chain,
    computed,
    load,
    made,
    on,
    opened,
    problems,
    results,
    save,
    stored,
    total,
)


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., FileStorage]:
    """Return a function that opens one storage in files again, with options."""
    return partial(opened, tmp_path / "store")


# Without links, and when something fails.


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "EMLINK"])
def test_without_hard_links(storage: Storage, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Where a file can't be linked, it is copied."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), "no link")

    monkeypatch.setattr(os, "link", refuse)
    for number, count in ((1, 4), (2, 4), (1, 0), (2, 0)):
        flow = chain(storage, number)
        assert results(number)[-1] == flow.run()
        assert count == len(computed(flow))
        assert results(number) == stored(storage)


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    RuntimeError("the client is closed"),
]


def fail(monkeypatch: pytest.MonkeyPatch, storage: Storage, method: str, error: Exception) -> None:
    """Let a method of a store fail where earlier results are concerned."""
    call = getattr(storage.store, method)

    def failing(*arguments: Any, **more: Any) -> Any:
        if "/.earlier/" in str(arguments):
            raise type(error)(*error.args)
        return call(*arguments, **more)

    monkeypatch.setattr(storage.store, method, failing)


each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@each_error
def test_nothing_can_be_set_aside(
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """The results are replaced, and one line of the log says so; the next run computes."""
    fail(monkeypatch, storage, "copy", error)
    for number in (1, 2, 1):
        flow = chain(storage, number)
        assert results(number)[-1] == flow.run()
        assert 4 == len(computed(flow))
        assert results(number) == stored(storage)
    [record] = caplog.records
    assert "are not set aside" in record.getMessage()
    assert repr(error) in record.getMessage()
    assert [] == problems(storage)
    storage.gc(-60)
    assert 1 == len(list(storage.store.list("w/.data/")))


def test_one_that_is_removed_just_before_it_is_set_aside(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to set aside then, and no line of the log says that it failed."""
    save(storage, "t", 1)
    copy = storage.store.copy

    def removed_before(key: str, to: str) -> None:
        storage.store.delete([key])
        copy(key, to)

    monkeypatch.setattr(storage.store, "copy", removed_before)
    save(storage, "t", 2)
    assert [] == caplog.records
    assert [] == storage.earlier("w")


@each_error
@pytest.mark.parametrize("logged", [False, True])
def test_nothing_can_be_restored(
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    logged: bool,
) -> None:
    """The earlier results are used, the latest stay, and one line of the log says so.

    Also if they are found one after the other, because a parent had to run first.
    """

    def flow(number: int) -> LocalWorkflow:
        made = chain(storage, number)
        if logged:
            made.log_nodes("load")
        return made

    for number in (1, 2):
        flow(number).run()
    keys = aside(storage)
    fail(monkeypatch, storage, "copy", error)
    again = flow(1)
    assert results(1)[-1] == again.run()
    assert ["load"] * logged == computed(again)
    assert again.report is not None
    assert ["size"] == [
        node.name for node in again.report.nodes if node.reason == "an earlier result"
    ][-1:]
    [record] = caplog.records
    assert "the latest again" in record.getMessage()
    assert repr(error) in record.getMessage()
    assert results(2)[-1] == storage.read_task("w", "size")
    assert keys == aside(storage)


@each_error
@pytest.mark.parametrize("method", ["list", "delete"])
def test_nothing_can_be_pruned(
    files: Callable[..., FileStorage],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    method: str,
) -> None:
    """The run ends as if there were no limits, and one line of the log says so."""
    storage = files(earlier={"bytes": 0})
    chain(storage, 1).run()
    fail(monkeypatch, storage, method, error)
    assert results(2)[-1] == chain(storage, 2).run()
    assert results(2) == stored(storage)
    [record] = caplog.records
    assert "are not pruned" in record.getMessage()
    assert repr(error) in record.getMessage()
    monkeypatch.undo()
    assert [1] * 4 == [len(storage.earlier("w", name)) for name in TASKS]


def test_an_error_of_the_run_is_raised_though_nothing_can_be_pruned(
    files: Callable[..., FileStorage],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the other one."""

    @workflow(version="1")
    def broken(number: int) -> int:
        raise LookupError(number)

    storage = files(earlier={"bytes": 0})
    chain(storage, 1, until=2).run()
    fail(monkeypatch, storage, "delete", RuntimeError("the client is closed"))
    last = broken(total(load(2).set_name("load")).set_name("total"))
    flow = LocalWorkflow(last, workflow_name="w")
    flow.set_storage(storage)
    with pytest.raises(LookupError):
        flow.run()
    assert ["are not pruned" in record.getMessage() for record in caplog.records] == [True]


def test_a_full_disk_says_what_makes_room(
    files: Callable[..., FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a save has a note with the call that removes earlier results."""
    storage = files()
    save(storage, "t", 1)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        save(storage, "t", 2)
    cure = "storage.prune('w', bytes=0) removes the earlier results of the workflow"
    assert caught.value.__notes__[0].endswith(f"; {cure}")
    assert 1 == storage.read_task("w", "t")


# Side data, and other releases.


def test_an_older_release_keeps_side_data(storage: Storage) -> None:
    """Its `gc` reads every header of a workflow, and removes no side data beside a later format."""
    for number in (1, 2):
        save(storage, "plain", number)
    assert "w/" + NEWER not in [blob.key for blob in storage.store.list("")]
    for number in (1, 2):
        save(storage, "kept", number, Kept(b"x"))
    assert NEWER in [*storage.store.names("w/")]
    # Such a release refuses a version above 1, and so keeps all side data here.
    assert MAGIC + b"\2\0\0\0" == bytes(storage.store.head("w/" + NEWER, 12))
    assert ["kept", "plain"] == storage.list_tasks("w")
    assert {"kept", "plain"} == {record.task for record in storage.verify()}
    assert [2] == [usage.tasks for usage in storage.du()]
    assert [] == storage.gc(-60)
    storage.remove_task("w", pattern="*")
    assert [] == storage.list_tasks("w")
    assert [] == storage.verify()


def test_the_result_of_a_call_that_is_made_again(storage: Storage) -> None:
    """It replaces the one that was restored, and its copy; nothing is left that nobody needs."""
    for number in (1, 2, 1):
        chain(storage, number).run()
    for number in (1, 1, 2, 1):
        flow = chain(storage, number)
        flow.set_reuse("never")
        assert results(number)[-1] == flow.run()
        assert results(number) == stored(storage)
        assert [] == problems(storage)
    needed = {
        name
        for task in storage.list_tasks("w")
        for info in [storage.task_info("w", task), *storage.earlier("w", task)]
        for side in info.side_data
        for name, *_ in side.files
    }
    assert needed == {blob.key.rpartition("/")[2] for blob in storage.store.list("w/.data/")}
    assert [] == storage.gc(-60)
    assert results(1) == stored(storage)
    assert [] == problems(storage)


@pytest.mark.parametrize("how", ["prune", "prune the oldest", "unused"])
def test_the_copy_of_the_latest_result_is_pruned(storage: Storage, how: str) -> None:
    """A restored result shares its side data with the copy, which is not removed with that."""
    for number in (1, 2, 1):
        chain(storage, number).run()
    if how == "prune":
        storage.prune("w", bytes=0)
    elif how == "prune the oldest":
        storage.prune("w", keep=0)
    else:
        storage.prune("w", unused_by=chain(storage, 1, until=3))
        storage.prune("w", bytes="0 B")
    assert [] == aside(storage)
    left = 3 if how == "unused" else 4
    assert results(1)[:left] == stored(storage, *TASKS[:left])
    assert left == len(storage.verify())
    assert [] == problems(storage)
    assert 1 == len(list(storage.store.list("w/.data/")))


class Paused(MemoryStore):
    """A store whose copies of one task take as long as an action of another process."""

    meanwhile: Callable[[], object] | None = None
    where = ""

    def copy(self, key: str, to: str) -> None:
        data = self.get(key)
        action = self.meanwhile
        if action is not None and self.where in key:
            self.meanwhile = None
            action()
        self.put(to, [data])


@pytest.mark.parametrize(
    "where", [earlier_key("w", "kept", ""), "w/kept"], ids=["restored", "set aside"]
)
@pytest.mark.parametrize("what", ["prune", "remove_task", "remove_workflow", "save"])
def test_side_data_that_is_removed_while_its_result_is_copied(what: str, where: str) -> None:
    """The run has its values all the same; the results that were hit are computed again."""
    store = Paused()

    def run(number: int) -> None:
        value: Any = chain(on(store), number, until=3).run()
        assert results(number)[2] == value.data
        assert results(number)[:3] == stored(on(store), *TASKS[:3])

    def again() -> None:
        flow = chain(on(store), 2, until=3)
        flow.set_reuse("never")
        flow.run()

    actions: dict[str, Callable[[], object]] = {
        "prune": lambda: on(store).prune("w", bytes=0),
        "remove_task": lambda: on(store).remove_task("w", "kept"),
        "remove_workflow": lambda: on(store).remove_workflow("w"),
        "save": again,
    }
    for number in (1, 2):
        run(number)
    store.where, store.meanwhile = where, actions[what]
    value: Any = chain(on(store), 1, until=3).run()
    assert results(1)[2] == value.data
    assert store.meanwhile is None
    for number in (2, 1, 2):
        run(number)
    on(store).gc(-60)
    assert [] == problems(on(store))
    for number in (1, 2):
        run(number)


def test_a_result_that_is_set_aside_while_its_workflow_is_removed() -> None:
    """It was not listed for removal, so it keeps its side data."""

    class Late(MemoryStore):
        meanwhile: Callable[[], object] | None = None

        def delete(self, keys: Iterable[str]) -> None:
            if action := self.meanwhile:
                self.meanwhile = None
                action()
            super().delete(keys)

    store = Late()
    for number in (1, 2):
        chain(on(store), number, until=3).run()
    store.meanwhile = lambda: chain(on(store), 3, until=3).run()
    on(store).remove_workflow("w")
    assert [] == problems(on(store))
    flow = chain(on(store), 2, until=3)
    kept: Any = flow.run()
    assert results(2)[2] == kept.data
    for info in on(store).earlier("w", "kept"):
        assert results(2)[2] == on(store).read_task("w", "kept", call=info.call).data


def test_one_that_is_damaged_is_replaced(storage: Storage) -> None:
    """A run that reads it computes it again; going back and forth leaves no damage."""
    for number in (1, 2):
        chain(storage, number, until=2).run()
    [info] = storage.earlier("w", "total")
    key = earlier_key("w", "total", info.call)
    data = bytearray(storage.store.get(key))
    data[-1] ^= 1
    storage.store.put(key, [data])
    for number in (1, 2):
        assert results(number)[1] == chain(storage, number, until=2).run()
    assert [] == problems(storage)


def test_a_storage_without_earlier_results_leaves_their_side_data(
    files: Callable[..., FileStorage],
) -> None:
    """Also that of a copy of the result that it replaces."""
    for number in (1, 2, 1):
        chain(files(), number).run()
    chain(files(earlier=False), 3).run()
    chain(files(), 1).run()
    assert results(1) == stored(files())
    assert [] == [found for found in files().verify() if found.problem]


def test_a_result_that_is_set_aside_again_while_it_is_pruned(storage: Storage) -> None:
    """Its side data stays."""
    for number in (1, 2, 1):
        chain(storage, number).run()
    delete, times = storage.store.delete, [1]

    def slow(keys: Any) -> None:
        delete(keys)
        if times:
            times.pop()
            chain(storage, 3).run()

    storage.store.delete = slow  # type: ignore[method-assign]
    storage.prune("w", bytes=0)
    assert not times
    assert [] == [found for found in storage.verify() if found.problem]
    chain(storage, 1).run()
    assert results(1) == stored(storage)


def test_an_earlier_result_without_its_side_data(storage: Storage) -> None:
    """It is damaged, and not missing: somebody must be told."""
    for number in (1, 2):
        chain(storage, number, until=3).run()
    [info] = storage.earlier("w", "kept")
    storage.store.delete([f"w/.data/{name}" for name, *_ in info.side_data[0].files])
    with pytest.raises(DamagedResultError, match="missing"):
        storage.read_task("w", "kept", call=info.call)
