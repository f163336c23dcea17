"""The events of a run: which come, in which order, and that none is missing."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import pytest
from any_order import AnyOrder
from result_bytes import MemoryStore
from told import Told

from functionfuse import workflow
from functionfuse.backends import Outcome
from functionfuse.backends.builtin.inplace import InProcess
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.errors import NodeTimeoutError, OptionsError
from functionfuse.run import events
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage

LATE = 60  # seconds; what takes longer hangs


def watched(*nodes: Any, storage: Any = None) -> tuple[LocalWorkflow, Told]:
    """Return a workflow, and the events that its runs will have."""
    flow, told = LocalWorkflow(*nodes, workflow_name="w"), Told()
    flow.set_storage(storage)
    flow.listeners.append(told)
    return flow, told


def run(flow: LocalWorkflow, told: Told, backend: Any = None, **options: Any) -> Any:
    """Run a workflow, check its events, and return the error or the result."""
    told.clear()
    result = error = None
    try:
        result = flow.run(backend, **options)
    except BaseException as raised:  # noqa: BLE001  # the tests look at it
        error = raised
    told.check(flow.report, error)
    return result if error is None else error


@workflow(version="1")
def same(value: Any, *after: Any) -> Any:
    return value


@workflow(version="1")
def fail(number: int, *after: Any) -> None:
    raise LookupError(number)


@workflow(version="1")
def flaky(folder: str, name: str, times: int, *after: Any) -> int:
    """Fail some times, which a folder counts."""
    for number in range(times):
        path = Path(folder, f"{name} {number}")
        if not path.exists():
            path.touch()
            raise ConnectionError(name)
    return 1


@workflow(version="1")
class Tally:
    """Adds up."""

    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, number: int) -> int:
        if number == 13:
            raise LookupError(number)
        self.total += number
        return self.total


@pytest.fixture(scope="module")
def spawned() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def backends(spawned: Executor) -> Callable[[str, Random], Any]:
    """Make a backend or an executor of a kind."""
    threads = ThreadPoolExecutor(2)
    made = {
        "in process": lambda _: None,
        "threads": lambda _: threads,
        "processes": lambda _: spawned,
        "any order": lambda rng: AnyOrder(rng, rng.choice([0, 1, 3])),
    }
    return lambda kind, rng: made[kind](rng)


def graph(rng: Random, folder: str) -> list[Any]:
    """Return nodes of a random graph: some fail, some fail at first, some are calls on objects."""
    nodes: list[Any] = []
    tallies = [Tally(1), Tally(2)]
    for number in range(rng.randint(1, 12)):
        after = rng.sample(nodes, min(len(nodes), rng.randint(0, 2)))
        kind = rng.choice(["same", "same", "flaky", "object", "fail" if rng.random() < 0.3 else ""])
        if kind == "fail":
            node = fail(number, *after)
        elif kind == "flaky":
            node = flaky(folder, str(number), rng.randint(0, 3), *after)
        elif kind == "object":
            node = rng.choice(tallies).add(rng.choice([1, 2, 13]))
        else:
            node = same(number, *after)
        nodes.append(node.set_name(f"{kind or 'same'} {number}"))
    return nodes


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        (kind, seed)
        for kind, count in {"in process": 20, "threads": 8, "processes": 3, "any order": 20}.items()
        for seed in range(count)
    ],
)
def test_the_events_of_any_run_are_complete(
    kind: str, seed: int, stored: bool, backends: Any, tmp_path: Path
) -> None:
    """In three runs: everything is new, failures are mended by and by, some results are removed."""
    rng = Random(seed)
    nodes = graph(rng, str(tmp_path))
    storage = FileStorage(tmp_path / "store") if stored else None
    for _ in range(3):
        flow, told = watched(*nodes, storage=storage)
        if flow.find_nodes("flaky.*"):
            flow.query("flaky.*").set_retries(rng.randint(0, 2), delay=0.001)
        run(flow, told, backends(kind, rng), keep_going=rng.random() < 0.7)
        for task in storage.list_tasks("w") if storage else ():
            if rng.random() < 0.3:
                storage.remove_task("w", task)


def test_what_is_told_of_a_node(tmp_path: Path) -> None:
    """The kinds in their order, with their fields."""
    storage = FileStorage(tmp_path / "store")
    first = flaky(str(tmp_path), "flaky", 2).set_name("first")
    flow, told = watched(fail(3, first).set_name("no"), storage=storage)
    flow.query("first").set_retries(2, delay=0.001)
    error = run(flow, told)
    attempt = ["queued", "started", "retrying"]
    stored = ["queued", "started", "finished", "saved"]
    assert ["planned", *attempt, *attempt, *stored] == told.kinds("first")
    assert ["planned", "queued", "started", "failed"] == told.kinds("no")
    assert ["run started", "planned", "planned"] == told.kinds()[:3]
    by_kind = {event.kind: event for event in told}
    assert {"nothing stored"} == {event.reason for event in told if event.node}
    assert ("flaky", 2) == (str(by_kind["retrying"].error), by_kind["retrying"].attempt)
    assert 0 < by_kind["retrying"].seconds < 0.01
    assert storage.task_info("w", "first").size == by_kind["saved"].size
    assert 0 < by_kind["finished"].seconds < by_kind["run finished"].seconds
    assert error is by_kind["failed"].error is by_kind["run finished"].error
    assert 2 == by_kind["run started"].total


def test_a_node_is_queued_again_when_the_run_ends(tmp_path: Path) -> None:
    """Its attempt never begins: it failed, with the error of the attempt before."""
    flow, told = watched(flaky(str(tmp_path), "flaky", 1).set_name("first"))
    flow.query("first").set_retries(1, delay=0.001)

    def stop(event: Any) -> None:
        if event.kind == "queued" and told.kinds("first").count("queued") == 2:
            raise LookupError

    flow.listeners.append(stop)
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(run(flow, told, pool), LookupError)
    assert ["planned", "queued", "started", "retrying", "queued"] == told.kinds("first")
    record = flow.report["first"]
    assert ("failed", "ConnectionError: flaky", 1) == (record.action, record.error, record.attempts)


def test_a_run_that_reuses_everything(tmp_path: Path) -> None:
    """What the plan reuses is told at once; what it can't judge is planned, and judged later."""
    storage = FileStorage(tmp_path)

    def made(value: int) -> tuple[LocalWorkflow, Told]:
        top = same(value).set_name("top")
        even = workflow(version="1")(lambda number: number % 2)(top).set_name("even")
        return watched(same(even).set_name("last"), same(5).set_name("other"), storage=storage)

    run(*made(1))
    flow, told = made(1)
    run(flow, told)
    assert ["run started", "reused", "reused", "reused", "reused", "run finished"] == told.kinds()
    assert {4} == {event.total for event in told}
    assert {""} == {event.reason for event in told if event.node}
    flow, told = made(3)
    run(flow, told)
    assert ["planned", "reused"] == told.kinds("last")
    assert ["reused"] == told.kinds("other")
    assert ["planned", "queued", "started", "finished", "saved"] == told.kinds("even")
    flow, told = made(1)
    run(flow, told)
    assert ["reused"] * 4 == [event.kind for event in told if event.node]


def test_calls_that_are_replayed(tmp_path: Path) -> None:
    """They are computed as all others, and not saved."""
    storage, tally = FileStorage(tmp_path), Tally(1)
    calls = [tally.add(number).set_name(f"add {number}") for number in (1, 2)]
    flow, told = watched(*calls, storage=storage)
    run(flow, told)
    storage.remove_task("w", "add 2")
    run(flow, told)
    computed = ["planned", "queued", "started", "finished"]
    assert [computed, [*computed, "saved"]] == [told.kinds("add 1"), told.kinds("add 2")]


@pytest.mark.parametrize("kind", ["in process", "threads", "any order"])
def test_a_stored_result_that_cannot_be_read_is_planned_again(
    kind: str, backends: Any, tmp_path: Path
) -> None:
    """Whether a node needs it, or it is returned: so the total grows."""
    storage = FileStorage(tmp_path)
    one = same(1).set_name("one")
    flow, told = watched(one, same(one).set_name("two"), storage=storage)
    run(flow, told)
    for removed in (["two"], []):
        for task in removed:
            storage.remove_task("w", task)
        path = tmp_path / "w" / "one"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert [1, 1] == run(flow, told, backends(kind, Random(1)))
        again = ["reused", "planned", "queued", "started", "finished", "saved"]
        assert again == told.kinds("one")
        assert (2, 3) == (told[0].total, told[-1].total)


def test_a_result_that_is_restored_is_reused(tmp_path: Path) -> None:
    """Also an earlier one that is found when its parents are computed."""
    storage = FileStorage(tmp_path)

    def made(value: int, top_policy: str = "unchanged") -> tuple[LocalWorkflow, Told]:
        top = same(value).set_name("top")
        flow, told = watched(same(top, 1).set_name("last"), storage=storage)
        flow.query("top").set_reuse(top_policy)
        return flow, told

    for value in (1, 2):
        run(*made(value))
    flow, told = made(1)
    run(flow, told)
    assert ["run started", "reused", "reused", "run finished"] == told.kinds()
    flow, told = made(2, "never")
    run(flow, told)
    assert ["planned", "reused"] == told.kinds("last")


class Shelf:
    """The four members of a storage that has no headers."""

    always_read = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_workflow(self, name: str) -> None:
        """Nothing is to be done."""

    def save(self, workflow_name: str, task: str, value: Any) -> None:
        (self.folder / task).write_bytes(pickle.dumps(value))

    def read_task(self, workflow_name: str, task: str) -> Any:
        return pickle.loads((self.folder / task).read_bytes())


@pytest.mark.parametrize("kind", ["in process", "any order"])
def test_a_storage_without_headers(kind: str, backends: Any, tmp_path: Path) -> None:
    """What is found by reading is told of after the start of the run."""
    shelf = Shelf(tmp_path)
    one = same(1).set_name("one")
    flow, told = watched(one, same(2, one).set_name("two"), storage=shelf)
    assert [1, 2] == run(flow, told, backends(kind, Random(1)))
    (tmp_path / "two").unlink()
    assert [1, 2] == run(flow, told, backends(kind, Random(1)))
    assert ["run started", "planned", "reused"] == told.kinds()[:3]
    assert (["reused"], 2) == (told.kinds("one"), told[0].total)


def test_another_run_stores_a_result_meanwhile() -> None:
    """With `single_flight`, a node that has started is reused."""
    storage = Storage(MemoryStore())
    other = LocalWorkflow(same(1).set_name("one"), workflow_name="w")
    other.set_storage(storage)
    flow, told = watched(same(1).set_name("one"), storage=storage)
    flow.listeners.append(lambda event: event.kind == "started" and other.run())
    assert 1 == run(flow, told, single_flight=True)
    assert ["planned", "queued", "started", "reused"] == told.kinds("one")
    assert ["one"] == flow.report.names("reused")


def test_an_initializer_that_fails(backends: Any, spawned: Executor) -> None:
    """Its node has failed, and was not queued; the others go on."""

    def refuse() -> None:
        raise LookupError("no seed")

    class Refuses(InitializerPlugin):
        def local_initialize(self) -> None:
            refuse()

    flow, told = watched(same(1).set_name("one"), same(2).set_name("two"))
    flow.set_plugin("one", Refuses(int))
    assert isinstance(run(flow, told, spawned, keep_going=True), LookupError)
    assert ["planned", "failed"] == told.kinds("one")
    assert ["planned", "queued", "started", "finished"] == told.kinds("two")


def test_an_error_of_the_plan_comes_without_events() -> None:
    """Nothing has been started, so nothing is finished."""
    with ThreadPoolExecutor(1) as threads:
        for settle, backend, options in (
            (lambda query: query.set_resources(gpu=1), None, {"resources": {}}),
            (lambda query: query.set_timeout(1), threads, {}),
        ):
            flow, told = watched(same(1))
            settle(flow.query())
            with pytest.raises(OptionsError):
                flow.run(backend, **options)
            assert [] == told


def test_runs_have_ids_that_sort() -> None:
    """Also those of one second."""
    flow, told = watched(same(1))
    ids = []
    for _ in range(20):
        run(flow, told)
        ids.append(told[0].run)
    assert sorted(set(ids)) == ids
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}", each) for each in ids)


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is earlier than the one before, and no run ends before it starts."""
    monkeypatch.setattr(events, "time", iter(range(100, 0, -1)).__next__)
    flow, told = watched(same(1))
    run(flow, told)
    assert {99} == {event.time for event in told}
    assert 0 == told[-1].seconds
    flow, told = watched()
    flow.value(same(2))
    flow.add(same(3))
    flow.run()
    assert (2, 1) == (told.kinds().count("finished"), len({event.time for event in told}))


# When a node starts.


@workflow
def wait_for(folder: str, name: str) -> list[str]:
    """Wait for a file of this name; return what was there at first beside it."""
    for _ in range(100 * LATE):
        there = os.listdir(folder)
        if name in there:
            return there
        sleep(0.01)
    raise TimeoutError(name)


@pytest.mark.parametrize("kind", ["in process", "threads", "processes"])
def test_a_node_is_told_of_when_it_starts(kind: str, backends: Any, tmp_path: Path) -> None:
    """While it runs, and not when it waits for a worker."""
    names = [f"n{number}" for number in range(5)]
    flow, told = watched(*[wait_for(str(tmp_path), name).set_name(name) for name in names])
    flow.listeners.append(lambda event: event.kind == "started" and (tmp_path / event.node).touch())
    found = run(flow, told, backends(kind, Random(1)))
    for number, there in enumerate(found):
        assert f"n{number}" in there
        # There are two threads: while one node looks, the other thread can run any number.
        assert kind == "threads" or len(there) <= number + 1


# The end of a run that is interrupted.


class Interrupted(InProcess):
    """Ctrl-C comes while it cancels, too."""

    def cancel(self) -> Sequence[Outcome]:
        super().cancel()
        raise KeyboardInterrupt("the second")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("backend", [InProcess, Interrupted])
def test_ctrl_c(backend: type[InProcess]) -> None:
    """The run is finished, with the first error; what waited has not started."""

    @workflow
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    flow, told = watched(interrupt().set_name("first"), same(1).set_name("second"))
    with pytest.raises(KeyboardInterrupt) as caught:
        flow.run(backend(), keep_going=True)
    assert ("the second",) * (backend is Interrupted) == caught.value.args
    assert [*["planned"] * 2, "queued", "started", "failed"] == told.kinds()[1:-1]
    assert ("run finished", ()) == (told[-1].kind, told[-1].error.args)


def test_what_fails_while_a_run_ends_is_not_tried_again() -> None:
    """It has failed, and the report says so."""
    running, failed = threading.Event(), threading.Event()

    @workflow
    def ends() -> None:
        running.wait(LATE)
        raise ValueError("the end")

    @workflow(retries=3)
    def late() -> None:
        running.set()
        failed.wait(LATE)
        raise ConnectionError("late")

    flow, told = watched(ends().set_name("ends"), late().set_name("late"))
    flow.listeners.append(lambda event: event.kind == "failed" and failed.set())
    with ThreadPoolExecutor(2) as threads:
        assert isinstance(run(flow, told, threads), ValueError)
    assert ["planned", "queued", "started", "failed"] == told.kinds("late")
    assert {"failed"} == {record.action for record in flow.report.nodes}


def test_a_timeout_is_a_failed_attempt() -> None:
    """It is told of as any other error."""

    @workflow(retries=1, retry_on=(TimeoutError,), retry_delay=0.001, timeout=0.01)
    def slow() -> None:
        sleep(LATE)

    flow, told = watched(slow().set_name("slow"))
    assert isinstance(run(flow, told), NodeTimeoutError)
    attempt = ["queued", "started"]
    assert ["planned", *attempt, "retrying", *attempt, "failed"] == told.kinds("slow")


@pytest.mark.parametrize("kind", ["run started", "planned", "started", "finished", "run finished"])
def test_a_listener_that_raises_ends_the_run(kind: str) -> None:
    """The others are told that the run has finished."""

    def refuse(event: Any) -> None:
        if event.kind == kind:
            raise RuntimeError(kind)

    flow, told = watched(same(1))
    flow.listeners.append(refuse)
    with pytest.raises(RuntimeError, match=kind) as caught:
        flow.run()
    assert ("run started", "run finished") == (told[0].kind, told[-1].kind)
    assert told[-1].error is (None if kind == "run finished" else caught.value)


def test_events_of_several_runs_at_once() -> None:
    """Each has its own id, also a run inside a node of another."""

    @workflow
    def outer() -> Any:
        flow, told = watched(same(1))
        run(flow, told)
        return told[0].run

    with ThreadPoolExecutor(2) as threads:
        flow, told = watched(outer(), outer())
        ids = run(flow, told, threads)
    assert 3 == len({*ids, told[0].run})
