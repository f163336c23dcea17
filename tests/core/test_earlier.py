"""Earlier results: what they cost, how long they stay, and what happens when they can't be had.

The kit of storages has the tests of what they promise: `functionfuse.testing.goingback`.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from any_order import AnyOrder
from kept_values import Kept, KeptSerializer
from remote_store import RemoteStore
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import NewerFormatError, OptionsError, ResultNotFoundError
from functionfuse.storage import BlobInfo, Storage
from functionfuse.storage.catalog import info_of
from functionfuse.storage.earlier import Pruned
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import NEWER, earlier_key

DAY = 86400
TASKS = ("load", "total", "kept", "size")


@workflow(version="1")
def load(number: int) -> list[int]:
    return [number, number + 1]


@workflow(version="1")
def total(rows: list[int]) -> int:
    return sum(rows)


@workflow(version="1")
def kept(number: int) -> Kept:
    return Kept(b"%d" % number)


@workflow(version="1")
def size(of: Kept) -> int:
    return len(of.data)


def chain(storage: Any, number: int, *, until: int = 4) -> LocalWorkflow:
    """Return a workflow of four nodes, of which the third has side data; or of the first ones."""
    last: Any = number
    for function, name in list(zip((load, total, kept, size), TASKS, strict=True))[:until]:
        last = function(last).set_name(name)
    flow = LocalWorkflow(last, workflow_name="w")
    flow.set_storage(storage)
    return flow


def stored(storage: Storage, *names: str) -> list[Any]:
    """Return the latest results of `chain`, or of some of its tasks."""
    values = [storage.read_task("w", name) for name in names or TASKS]
    return [getattr(value, "data", value) for value in values]


def results(number: int) -> list[Any]:
    """Return the results of `chain`."""
    data = b"%d" % (2 * number + 1)
    return [[number, number + 1], 2 * number + 1, data, len(data)]


def computed(flow: LocalWorkflow) -> list[str]:
    assert flow.report is not None
    return flow.report.names("computed")


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage in files, or on a store with four methods."""
    made = FileStorage(tmp_path / "store") if request.param == "files" else Storage(MemoryStore())
    made.register_persistent_serializers(KeptSerializer)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., FileStorage]:
    """Return a function that opens one storage in files again, with options."""

    def opened(**options: Any) -> FileStorage:
        storage = FileStorage(tmp_path / "store", **options)
        storage.register_persistent_serializers(KeptSerializer)
        return storage

    return opened


def call_of(number: int) -> str:
    return f"{number:032x}"


def save(storage: Storage, task: str, number: int, value: object = None) -> None:
    """Save a result as one of a call."""
    value = number if value is None else value
    storage.save("w", task, value, fingerprint={"call": call_of(number)})


def calls(storage: Storage, task: str) -> list[int]:
    """Return the numbers of a task's earlier results, newest first."""
    return [int(info.call, 16) for info in storage.earlier("w", task)]


def aside(storage: Storage) -> list[str]:
    """Return the keys of all earlier results."""
    return [blob.key for blob in storage.store.list("w/.earlier/")]


# What it costs.


class Requests(RemoteStore):
    """A store over a network whose server copies blobs, which are all of now."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return (replace(blob, modified=self.now()) for blob in super().list(prefix))

    def copy(self, key: str, to: str) -> None:
        self.asked["copy"] += 1
        self.blobs_held[to] = self._blob(key)


def test_the_requests_of_a_run() -> None:
    """None for earlier results, unless results are replaced; then they are listed once.

    A save that replaces is three requests: header, copy, put. A restore is two after the header.
    """
    store, asked = Requests(), {}
    for turn, number in enumerate((1, 1, 2, 2, 1)):
        store.asked.clear()
        flow = chain(Storage(store), number, until=2)
        assert 2 * number + 1 == flow.run()
        asked[turn] = dict(+store.asked)
    plan = {"head": 2}
    assert asked[0] == plan | {"put": 2}
    assert asked[1] == asked[3] == plan | {"get": 1}
    # Listed are: the earlier results for the plan and for the limits, and side data, if any.
    assert asked[2] == {"head": 2 + 2, "list": 3, "copy": 2, "put": 2}
    assert asked[4] == {"head": 2 + 2, "list": 3, "copy": 4, "get": 1}
    store.asked.clear()
    chain(Storage(store), 1, until=2).plan()
    assert plan == store.asked


def test_the_requests_of_a_storage() -> None:
    """The limits are looked at once by a process, while what it sets aside is far below them."""
    store = Requests()
    storage = Storage(store)
    for number in range(3):
        chain(storage, number, until=1).run()
    store.asked.clear()
    chain(storage, 3, until=1).run()
    assert {"head": 2, "list": 1, "copy": 1, "put": 1} == +store.asked


def test_the_system_calls_on_files(
    files: Callable[..., FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy to a new name is seven, over another file ten; before it a header is read: three."""
    storage, called = files(), Counter[str]()
    for number in (1, 2):
        save(storage, "t", number)

    def count(name: str) -> None:
        call = getattr(os, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            called[name] += 1
            return call(*arguments, **more)

        monkeypatch.setattr(os, name, counted)

    names = "access close fstat fsync link listdir lseek mkdir open read readv rename scandir stat"
    for name in f"{names} unlink utime write writev".split():
        count(name)
    save(storage, "t", 2)
    assert 3 + 6 == called.total()
    called.clear()
    storage.save("w", "new", 1, fingerprint={"call": call_of(1)}, replaces=None)
    assert {"open": 2, "write": 1, "close": 2, "rename": 1} == called
    called.clear()
    save(storage, "t", 3)
    assert {
        "link": 1,
        "stat": 1,
        "utime": 1,
        "read": 1,
        "write": 1,
    }.items() <= called.items()
    assert 3 + 7 + 6 == called.total()
    [latest] = storage.task_infos("w", ["t"])
    called.clear()
    assert {} == storage.restore("w", {"t": (call_of(1), latest)})
    assert 3 + 7 + 10 == called.total()
    called.clear()
    assert {} == storage.restore("w", {"t": (call_of(1), latest)})
    assert 3 == called.total()
    monkeypatch.undo()
    assert [1, {2, 3}] == [storage.read_task("w", "t"), set(calls(storage, "t"))]


def test_a_sweep_is_computed_once(files: Callable[..., FileStorage]) -> None:
    """A hundred settings of five nodes, twice: the second time nothing is computed."""

    def flow(number: int) -> LocalWorkflow:
        rows = load(7).set_name("constant")
        first = total(load(number).set_name("load")).set_name("first")
        both = load(first).set_name("both")
        made = LocalWorkflow(total(both).set_name("last"), total(rows), workflow_name="w")
        made.set_storage(files())
        return made

    for expected in (100 * 4 + 2, 0):
        count = 0
        for number in range(100):
            made = flow(number)
            assert [2 * (2 * number + 1) + 1, 15] == made.run()
            count += len(computed(made))
        assert expected == count
    assert 99 == len(files().earlier("w", "last"))


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
    assert [] == [found for found in storage.verify() if found.problem]
    storage.gc(-60)
    assert 1 == len(list(storage.store.list("w/.data/")))


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
    assert "not made the latest ones" in record.getMessage()
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
    note = "storage.prune('w', bytes=0) removes the workflow's earlier results"
    assert note in caught.value.__notes__
    assert 1 == storage.read_task("w", "t")


# How long they stay.


def age(storage: FileStorage, key: str, days: float) -> None:
    """Make a blob as old as if it had been put so many days ago."""
    path = os.path.join(storage.path, key)
    os.utime(path, (time.time() - days * DAY,) * 2)


def test_days_count_from_the_setting_aside(files: Callable[..., FileStorage]) -> None:
    """A result that was computed long ago stays for as long as one of today."""
    options = {"earlier": {"days": 2}}
    chain(files(**options), 1, until=1).run()
    age(files(), "w/load", 100)
    chain(files(**options), 2, until=1).run()
    [one] = aside(files())
    chain(files(**options), 3, until=1).run()
    assert 2 == len(aside(files()))
    age(files(), one, 1.9)
    chain(files(**options), 4, until=1).run()
    assert 3 == len(aside(files()))
    age(files(), one, 2.1)
    chain(files(**options), 4, until=1).run()  # it sets nothing aside
    assert one in aside(files())
    chain(files(**options), 5, until=1).run()
    assert one not in aside(files())
    assert 3 == len(aside(files()))


def test_a_long_process_looks_at_the_days_again(
    files: Callable[..., FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the oldest result that it has seen is too old."""
    storage, clock = files(earlier={"days": 2}), [1000.0]
    monkeypatch.setattr("functionfuse.storage.inventory.time", lambda: clock[0])
    for number in range(3):
        chain(storage, number, until=1).run()
    for key in aside(storage):
        age(storage, key, 3)
    clock[0] += 1.9 * DAY
    chain(storage, 3, until=1).run()
    assert 3 == len(aside(storage))
    clock[0] += 0.2 * DAY
    chain(storage, 4, until=1).run()
    assert 2 == len(aside(storage))


@workflow(version="1")
def big(number: int) -> Kept:
    return Kept(bytes(100_000))


def test_bytes_are_with_side_data(files: Callable[..., FileStorage]) -> None:
    """After each run no more are left than the limit allows, whether or not it was looked at."""
    storage = files(earlier={"bytes": "350 kB"})
    counts = []
    for number in range(7):
        flow = LocalWorkflow(big(number).set_name("big"), workflow_name="w")
        flow.set_storage(storage)
        flow.run()
        counts.append(len(storage.earlier("w", "big")))
        assert 1 + counts[-1] == len(list(storage.store.list("w/.data/")))
    assert [0, 1, 2, 3, 3, 3, 3] == counts


def test_the_oldest_go_first(files: Callable[..., FileStorage]) -> None:
    """Of all tasks together, by the time when they were set aside."""
    storage, ages = files(), list(range(1, 9))
    for number in range(5):
        for task in ("a", "b"):
            save(storage, task, number)
    random.Random(1).shuffle(ages)
    by_age = dict(zip(ages, aside(storage), strict=True))
    for days, key in by_age.items():
        age(storage, key, days)
    sizes = {blob.key: blob.size for blob in storage.store.list("w/.earlier/")}
    for left in (5, 2, 0):
        limit = sum(sizes[by_age[days]] for days in sorted(by_age)[:left])
        removed = storage.prune("w", bytes=limit)
        assert {by_age.pop(days) for days in sorted(by_age)[left:]} == {old.key for old in removed}
        assert sorted(by_age.values()) == aside(storage)


def test_one_that_is_bigger_than_the_limit(storage: Storage) -> None:
    """It goes, and the others stay, whether they are older or newer."""
    for number, value in enumerate([0, 1, Kept(bytes(100_000)), 3, 4]):
        save(storage, "t", number, value)
    [removed] = storage.prune("w", bytes=10_000)
    assert removed.key == earlier_key("w", "t", call_of(2))
    assert removed.size > 100_000
    assert {0, 1, 3} == set(calls(storage, "t"))
    assert [] == list(storage.store.list("w/.data/"))


@pytest.mark.parametrize(
    ("option", "days", "size"),
    [
        ({"bytes": "10 GiB"}, 30, 10 << 30),
        ({"bytes": 5, "days": 1.5}, 1.5, 5),
        ({"bytes": None}, 30, None),
        ({"days": None}, None, 10 << 30),
        ({"bytes": None, "days": None}, None, None),
        ({"bytes": 0, "days": 0}, 0, 0),
    ],
)
def test_the_option(
    files: Callable[..., FileStorage],
    monkeypatch: pytest.MonkeyPatch,
    option: Any,
    days: Any,
    size: Any,
) -> None:
    """Sizes are numbers or texts; None is no limit. `prune` without limits takes those."""
    given = []
    monkeypatch.setattr(
        "functionfuse.storage.earlier.prune",
        lambda store, name, limits, **more: given.append(limits) or Pruned([]),
    )
    files(earlier=option).prune("w")
    assert [(days, size, None)] == given


@pytest.mark.parametrize(
    "option",
    [
        *(True, None, "10 GiB", 30, []),
        *({"bytes": "many"}, {"bytes": -1}, {"days": -1}, {"days": "x"}, {"size": 1}),
    ],
    ids=repr,
)
def test_a_wrong_option(files: Callable[..., FileStorage], option: Any) -> None:
    """It is an error that names the option."""
    with pytest.raises(OptionsError, match="option 'earlier"):
        files(earlier=option)


def test_prune_without_a_limit_where_none_are_kept(files: Callable[..., FileStorage]) -> None:
    """It removes those that another storage has set aside."""
    for number in (1, 2, 3):
        save(files(), "t", number)
    storage = files(earlier=False)
    assert 2 == len(storage.prune("w"))
    assert [] == aside(storage)


# Settings of a workflow.


def test_a_node_that_is_never_reused(storage: Storage) -> None:
    """It is computed each time; what follows is found again."""
    for number, found in ((1, 4), (2, 4), (1, 1), (2, 1)):
        flow = chain(storage, number)
        flow.query("total").set_reuse("never")
        assert results(number)[-1] == flow.run()
        assert found == len(computed(flow))
        assert results(number) == stored(storage)
    assert ["total"] == computed(flow)
    flow = chain(storage, 1)
    flow.log_nodes("load")
    flow.query("total").set_reuse("never")
    assert ["load", "total"] == flow.plan().names("compute")


def test_a_node_that_is_always_reused(storage: Storage) -> None:
    """Its latest result is taken, whatever it was computed from; no earlier one is sought."""
    for number in (1, 2):
        chain(storage, number).run()
    flow = chain(storage, 1)
    flow.query("total").set_reuse("always")
    assert results(2)[-1] == flow.run()
    assert [] == computed(flow)
    assert [results(1)[0], *results(2)[1:]] == stored(storage)
    assert results(1)[-1] == chain(storage, 1).run()
    assert results(1) == stored(storage)


def test_a_node_that_is_not_stored(storage: Storage) -> None:
    """What follows waits for it; then its earlier results are found."""
    for number, found in ((1, 4), (2, 4), (1, 1), (2, 1)):
        flow = chain(storage, number)
        flow.log_nodes("load")
        if found == 1:
            plan = flow.plan()
            assert ["load"] == plan.names("compute")
            assert ["total", "kept", "size"] == plan.names("maybe")
        assert results(number)[-1] == flow.run()
        assert found == len(computed(flow))
        assert results(number)[1:] == stored(storage, *TASKS[1:])


def test_a_plan_does_not_know_the_call_yet(storage: Storage) -> None:
    """It says so, if there are earlier results; then they are found, or the node is computed."""

    @workflow(version="1")
    def longer(rows: list[int], by: int) -> list[int]:
        return rows * by

    def made(number: int, by: int) -> LocalWorkflow:
        rows = load(number).set_name("load")
        flow = LocalWorkflow(longer(rows, by).set_name("longer"), workflow_name="w")
        flow.log_nodes("load")
        flow.set_storage(storage)
        return flow

    assert [1, 2] == made(1, 1).run()
    assert "argument 'by' changed (1 → 2)" == made(2, 2).plan()["longer"].reason
    assert [2, 3, 2, 3] == made(2, 2).run()
    for number, by, action in ((1, 1, "reused"), (2, 2, "reused"), (1, 2, "computed")):
        record = made(number, by).plan()["longer"]
        if action == "reused":
            assert ("maybe", "compute unless an earlier result fits") == (
                record.action,
                record.reason,
            )
        flow = made(number, by)
        assert [number, number + 1] * by == flow.run()
        assert flow.report is not None
        assert action == flow.report["longer"].action
        assert [number, number + 1] * by == storage.read_task("w", "longer")


def test_calls_on_an_object(storage: Storage) -> None:
    """Its calls go back together; a call that is made again goes through those before it."""
    made: list[tuple[int, int]] = []

    @workflow(version="1")
    class Counter:
        def __init__(self, start: int) -> None:
            self.count = start

        def add(self, number: int) -> int:
            made.append((self.count, number))
            self.count += number
            return self.count

    def run(start: int, *numbers: int) -> Any:
        counter, made[:] = Counter(start), []
        nodes = [counter.add(number).set_name(f"add {n}") for n, number in enumerate(numbers)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        found = flow.run()
        assert found == [storage.read_task("w", node.name) for node in nodes]
        return found

    for start, numbers, found, expected in (
        (0, (1, 2, 3), [1, 3, 6], 3),
        (10, (1, 2, 3), [11, 13, 16], 3),
        (0, (1, 2, 3), [1, 3, 6], 0),
        (0, (1, 5, 3), [1, 6, 9], 3),
        (10, (1, 2, 3), [11, 13, 16], 0),
        (0, (1, 5, 3), [1, 6, 9], 0),
        (10, (1, 2, 4), [11, 13, 17], 3),
    ):
        assert found == run(start, *numbers)
        assert expected == len(made)
    storage.store.delete(
        [key for key in aside(storage) if key.startswith(earlier_key("w", "add 1", ""))]
    )
    assert [1, 6, 9] == run(0, 1, 5, 3)
    assert [(0, 1), (1, 5)] == made[:2]


def test_a_node_that_is_not_needed(storage: Storage) -> None:
    """What is stored for it stays, and the report says so and why."""
    chain(storage, 1).run()
    chain(storage, 2, until=1).run()
    storage.store.delete(aside(storage))
    flow = chain(storage, 1)
    assert results(1)[-1] == flow.run()
    assert flow.report is not None
    reason = "an older result stays: argument 'number' changed (2 → 1)"
    assert ("not needed", reason) == (flow.report["load"].action, flow.report["load"].reason)
    assert [2, 3] == storage.read_task("w", "load")


@pytest.mark.parametrize("seed", range(3))
def test_a_backend_that_keeps_values(files: Callable[..., FileStorage], seed: int) -> None:
    """Its workers read earlier results where they are."""
    storage = files()
    for number, count in ((1, 4), (2, 4), (1, 0), (2, 0)):
        flow = chain(storage, number)
        assert results(number)[-1] == flow.run(AnyOrder(random.Random(seed)))
        assert count == len(computed(flow))
        assert results(number) == stored(storage)


# Side data, and other releases.


def test_an_older_release_keeps_side_data(storage: Storage) -> None:
    """Its `gc` reads every header of a workflow, and removes no side data beside a later format."""
    for number in (1, 2):
        save(storage, "plain", number)
    assert "w/" + NEWER not in [blob.key for blob in storage.store.list("")]
    for number in (1, 2):
        save(storage, "kept", number, Kept(b"x"))
    assert NEWER in [*storage.store.names("w/")]
    with pytest.raises(NewerFormatError):
        info_of(storage.store, "w/" + NEWER)
    assert ["kept", "plain"] == storage.list_tasks("w")
    assert {"kept", "plain"} == {record.task for record in storage.verify()}
    assert [2] == [usage.tasks for usage in storage.du()]
    assert [] == storage.gc(-60)
    storage.remove_task("w", pattern="*")
    assert [] == storage.list_workflows()
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
        assert [] == [found for found in storage.verify() if found.problem]
    storage.gc(-60)
    assert results(1) == stored(storage)
    assert [] == [found for found in storage.verify() if found.problem]
    needed = {
        name
        for task in storage.list_tasks("w")
        for info in [storage.task_info("w", task), *storage.earlier("w", task)]
        for side in info.side_data
        for name, *_ in side.files
    }
    assert needed == {blob.key.rpartition("/")[2] for blob in storage.store.list("w/.data/")}


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
        storage.prune("w", days=-1)
    assert [] == aside(storage)
    left = 3 if how == "unused" else 4
    assert results(1)[:left] == stored(storage, *TASKS[:left])
    assert left == len(storage.verify())
    assert [] == [found for found in storage.verify() if found.problem]
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

    def opened() -> Storage:
        storage = Storage(store)
        storage.register_persistent_serializers(KeptSerializer)
        return storage

    def run(number: int) -> None:
        value: Any = chain(opened(), number, until=3).run()
        assert results(number)[2] == value.data
        assert results(number)[:3] == stored(opened(), *TASKS[:3])

    def again() -> None:
        flow = chain(opened(), 2, until=3)
        flow.set_reuse("never")
        flow.run()

    actions: dict[str, Callable[[], object]] = {
        "prune": lambda: opened().prune("w", bytes=0),
        "remove_task": lambda: opened().remove_task("w", "kept"),
        "remove_workflow": lambda: opened().remove_workflow("w"),
        "save": again,
    }
    for number in (1, 2):
        run(number)
    store.where, store.meanwhile = where, actions[what]
    value: Any = chain(opened(), 1, until=3).run()
    assert results(1)[2] == value.data
    assert store.meanwhile is None
    for number in (2, 1, 2):
        run(number)
    opened().gc(-60)
    assert [] == [found for found in opened().verify() if found.problem]
    for number in (1, 2):
        run(number)


def test_one_that_is_damaged_is_replaced(storage: Storage) -> None:
    """Once it is computed again, going back and forth leaves no damage."""
    for number in (1, 2):
        chain(storage, number).run()
    [info] = storage.earlier("w", "total")
    key = earlier_key("w", "total", info.call)
    data = bytearray(storage.store.get(key))
    data[-1] ^= 1
    storage.store.put(key, [data])
    for number in (1, 2):
        assert results(number)[-1] == chain(storage, number).run()
    with pytest.raises(ResultNotFoundError):
        storage.read_task("w", "total", call=call_of(5))
