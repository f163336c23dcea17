"""Nodes that are tried again: when, with which arguments, and after which errors."""

from __future__ import annotations

import random
import re
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worker_functions

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import GraphError, OptionsError, UnpicklableResultError
from functionfuse.graph.settings import Retries
from functionfuse.storage.filestorage import FileStorage

KINDS = ["none", "toy", "threads", "processes", "loky"]


def flow_of(*nodes: Any, storage: Any = None) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow


class Flaky:
    """A function that fails some times, and then returns what it is told to."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left, self.error = times, error or ConnectionError("down")

    def __call__(self, value: Any = None, *after: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return value


def flaky(times: int, error: Exception | None = None) -> Any:
    """Return a node that fails some times."""
    function = Flaky(times, error)
    return workflow(version="1")(lambda value=None: function(value))("done").set_name("flaky")


# Fresh arguments.


def change(value: Any) -> None:
    """Change an object and all that is in it."""
    if isinstance(value, dict):
        for item in value.values():
            change(item)
        value["more"] = 1
    elif isinstance(value, (list, tuple)):
        for item in value:
            change(item)
        if isinstance(value, list):
            value.append("more")
    elif isinstance(value, set):
        value.add("more")
    elif isinstance(value, np.ndarray):
        value.flat[0] = -1


VALUES: dict[str, Callable[[], Any]] = {
    "list": lambda: [3, 1],
    "nested": lambda: {"a": [{1}, (2, [3])]},
    "array": lambda: np.arange(5),
    "big array": lambda: np.arange(1 << 17),  # 1 MiB
    "big in list": lambda: [{"x": np.arange(3 << 17)}, [1]],
}


def shown(value: Any) -> str:
    """Return a text that is equal for equal values."""
    if isinstance(value, np.ndarray):
        return f"array({zlib.crc32(value.tobytes())})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"
    if isinstance(value, dict):
        return repr({key: shown(item) for key, item in value.items()})
    return repr(value)


@workflow(version="1")
def make(kind: str) -> Any:
    return VALUES[kind]()


@workflow(version="1")
def held(kind: str) -> Any:
    return {"in": [VALUES[kind]()]}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "others"])
@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_each_attempt_has_fresh_arguments(
    tmp_path: Path, kind: str, threads: bool, others: bool, stored: bool
) -> None:
    """What an attempt does to its arguments, no other attempt sees, and no other node."""
    seen: list[str] = []

    def spoil(*args: Any, **kwargs: Any) -> int:
        seen.append(shown((args, kwargs)))
        change([args, kwargs])
        if len(seen) % 3:
            raise ConnectionError("down")
        return 7

    literal, parent, pick = VALUES[kind](), make(kind), held(kind)["in"][0]
    spoiled = workflow(version="1")(spoil)(literal, [parent, literal], more={"x": pick})
    nodes = [spoiled.set_name("spoiled")]
    if others:  # that take the same values, before and after
        dumped = workflow(version="1")(lambda *values: shown(values))
        nodes += [dumped(parent, pick).set_name("dumped"), parent, pick]
    flow = flow_of(*nodes, storage=FileStorage(tmp_path) if stored else None)
    flow.query("spoiled").set_retries(2, delay=0)
    if threads:
        with ThreadPoolExecutor(2) as pool:
            result = flow.run(pool)
    else:
        result = flow.run()
    value = VALUES[kind]()
    assert [shown(((value, [value, value]), {"more": {"x": value}}))] * 3 == seen
    assert shown(value) == shown(literal)
    if others:
        assert [shown((value, value)), shown(value), shown(value)] == [
            result[1],
            *map(shown, result[2:]),
        ]


def test_a_node_that_is_tried_again_takes_no_value_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies are no second use: the value stays for another node, which needn't read it."""
    read: list[str] = []
    original = FileStorage.read_unchanged

    def noting(self: Any, workflow_name: str, task_name: str, *more: Any) -> Any:
        read.append(task_name)
        return original(self, workflow_name, task_name, *more)

    monkeypatch.setattr(FileStorage, "read_unchanged", noting)
    parent = make("nested")
    function = Flaky(1)
    first = workflow(version="1")(lambda value: function(len(value)))(parent).set_name("first")
    last = workflow(version="1")(len)(parent)
    flow = flow_of(first, last, storage=FileStorage(tmp_path))
    flow.query("first").set_retries(1, delay=0)
    assert [1, 1] == flow.run()
    assert [] == read


# When.


def test_the_time_between_attempts_doubles_up_to_a_minute() -> None:
    """It varies by half of it, and the user's random numbers stay as they are."""
    random.seed(1)
    state = random.getstate()
    for delay in (0.0, 0.1, 1.0, 7.0, 60.0, 300.0):
        retries = Retries(3, (Exception,), delay)
        for failed in (1, 2, 3, 6, 7, 20, 5000):
            middle = max(delay, min(delay * 2 ** min(failed - 1, 100), 60.0))
            drawn = [retries.after(failed) for _ in range(300)]
            assert 0.5 * middle <= min(drawn) <= 0.6 * middle
            assert 1.4 * middle <= max(drawn) <= 1.5 * middle
    assert state == random.getstate()


def test_events_tell_how_long_a_node_waits() -> None:
    """And the number of the attempt, and the error."""
    node, told = flaky(4), []
    flow = flow_of(node)
    flow.query("flaky").set_retries(4, delay=timedelta(milliseconds=4))
    flow.listeners.append(lambda event: told.append(event) if event.node else None)
    assert "done" == flow.run()
    retrying = [event for event in told if event.kind == "retrying"]
    assert [1, 2, 3, 4] == [event.attempt for event in retrying]
    assert [1, 2, 3, 4, 5] == [event.attempt for event in told if event.kind == "started"]
    for event in retrying:
        middle = 0.004 * 2 ** (event.attempt - 1)
        assert 0.5 * middle <= event.seconds <= 1.5 * middle
        assert "down" == str(event.error)
    for before, after in pairwise(told):
        if before.kind == "retrying":
            assert before.seconds <= after.time - before.time
    record = flow.report["flaky"]
    assert (5, "ConnectionError: down") == (record.attempts, record.error)
    assert "5 attempts, the last error was ConnectionError: down" == record.why


def test_the_run_goes_on_while_a_node_waits() -> None:
    """With what does not follow it; when the node is due, it is the next again."""
    order: list[str] = []

    def note(name: str, *after: Any) -> str:
        order.append(name)
        if name == "first" and order.count("first") == 1:
            raise ConnectionError("down")
        if name == "long":
            time.sleep(0.8)
        return name

    step = workflow(version="1")(note)
    first = step("first").set_name("first")
    nodes = [first, step("follows", first), step("a"), step("b"), step("long"), step("last")]
    flow = flow_of(*nodes)
    flow.query("first").set_retries(1, delay=0.5)
    flow.run()
    assert ["first", "a", "b", "long", "first", "follows", "last"] == order


def test_a_node_is_tried_again_while_another_runs() -> None:
    """On an executor, nobody waits for all that runs."""
    tried = threading.Event()

    def again() -> str:
        if len(calls) == 0:
            calls.append(1)
            raise ConnectionError("down")
        tried.set()
        return "done"

    calls: list[int] = []
    waits = workflow(version="1")(tried.wait)(20).set_name("waits")
    flow = flow_of(waits, workflow(version="1")(again)().set_name("again"))
    flow.query("again").set_retries(1, delay=0.05)
    with ThreadPoolExecutor(2) as pool:
        assert [True, "done"] == flow.run(pool)


# After which errors.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["local", "unpicklable", "two arguments"])
def test_any_class_of_errors(
    executors: Callable[[str], Executor], tmp_path: Path, kind: str, which: str
) -> None:
    """Defined in a function, one that can't be pickled: the worker knows it by its class."""

    class LocalError(Exception):
        pass

    class OtherError(Exception):
        pass

    errors: dict[str, tuple[type[Exception], tuple[Any, ...]]] = {
        "local": (LocalError, ("no",)),
        "unpicklable": (worker_functions.LockedError, ("no",)),
        "two arguments": (worker_functions.TwoArgumentsError, (5, "no")),
    }
    error, args = errors[which]
    notes = tmp_path / "notes"

    def fail(times: int) -> int:
        with notes.open("ab") as file:
            file.write(b".")
        if notes.stat().st_size <= times:
            raise error(*args)
        return notes.stat().st_size

    executor = None if kind == "none" else executors(kind)
    for on, expected in (((OtherError, error), 3), (OtherError, 1)):
        notes.unlink(missing_ok=True)
        flow = flow_of(workflow(version="1")(fail)(2).set_name("node"))
        flow.query("node").set_retries(2, on=on, delay=0)
        if expected == 3:
            assert 3 == flow.run(executor)
        else:
            with pytest.raises(Exception, match="no"):
                flow.run(executor)
        assert expected == notes.stat().st_size
        assert expected == flow.report["node"].attempts
        assert error.__name__ in flow.report["node"].error


class Broken(FileStorage):
    """Can't save one result."""

    def __init__(self, path: Path, error: Exception, name: str = "flaky") -> None:
        super().__init__(path)
        self.error, self.name = error, name

    def save(self, workflow_name: str, task_name: str, obj: Any, **details: Any) -> Any:
        if task_name == self.name:
            raise self.error
        return super().save(workflow_name, task_name, obj, **details)


@pytest.mark.parametrize("kind", ["none", "threads", "processes", "loky"])
@pytest.mark.parametrize("error", [ValueError("full"), OSError(28, "full")])
def test_a_save_that_fails_is_not_tried_again(
    executors: Callable[[str], Executor], tmp_path: Path, kind: str, error: Exception
) -> None:
    """An error of the storage ends the run, too, whatever `keep_going` says."""
    notes = tmp_path / "notes"

    def called() -> None:
        with notes.open("ab") as file:
            file.write(b".")

    step = workflow(version="1")(lambda *_: 1)
    first = workflow(version="1")(called)().set_name("flaky")
    second = step(first).set_name("second")
    chain = [step().set_name("c0")]
    for number in range(1, 30):
        chain.append(step(chain[-1]).set_name(f"c{number}"))
    flow = flow_of(first, second, *chain, storage=Broken(tmp_path / "store", error))
    flow.query("flaky").set_retries(3, delay=0)
    with pytest.raises(type(error), match="full"):
        flow.run(None if kind == "none" else executors(kind), keep_going=True)
    assert b"." == notes.read_bytes()
    assert ("failed", 1) == (flow.report["flaky"].action, flow.report["flaky"].attempts)
    ended = isinstance(error, OSError)
    assert ("not run" if ended else "computed") == flow.report["c29"].action


def test_an_error_of_the_function_is_none_of_the_storage(tmp_path: Path) -> None:
    """Also if it is an OSError, with a storage: the run goes on."""
    other = workflow(version="1")(lambda: 1)().set_name("other")
    flow = flow_of(flaky(1, OSError(28, "full")), other, storage=FileStorage(tmp_path))
    with pytest.raises(OSError, match="full"):
        flow.run(keep_going=True)
    assert "computed" == flow.report["other"].action


def test_a_result_that_can_not_be_stored_is_not_computed_again(tmp_path: Path) -> None:
    """Its error is none of the function."""
    made = []

    def lock() -> Any:
        made.append(1)
        return threading.Lock()

    flow = flow_of(workflow(version="1")(lock)().set_name("lock"), storage=FileStorage(tmp_path))
    flow.query("lock").set_retries(3, delay=0)
    with pytest.raises(UnpicklableResultError):
        flow.run()
    assert [1] == made


# Settings.


def test_the_workflow_s_setting_replaces_the_decorator_s() -> None:
    """Also by none at all."""
    for count, attempts in ((None, 3), (1, 2), (0, 1)):
        function = Flaky(9)
        decorated = workflow(retries=2, retry_on=OSError, retry_delay=0)(lambda f=function: f())
        flow = flow_of(decorated().set_name("node"))
        if count is not None:
            flow.query("node").set_retries(count, delay=0)
        with pytest.raises(ConnectionError) as caught:
            flow.run()
        assert attempts == 9 - function.left == flow.report["node"].attempts
        assert (f"(attempt {attempts})" in caught.value.__notes__[0]) == (attempts > 1)


def test_a_run_that_ends_while_a_node_waits() -> None:
    """The node has failed: it is not tried again, and its error is in the report."""
    step = workflow(version="1")(lambda *_: 1)
    first = flaky(1)
    flow = flow_of(first, step(first).set_name("follows"), flaky(9, KeyError("k")).set_name("bad"))
    flow.query("flaky").set_retries(1, delay=60)
    with pytest.raises(KeyError):
        flow.run()
    record = flow.report["flaky"]
    assert ("failed", 1, "ConnectionError: down") == (record.action, record.attempts, record.error)
    assert "follows 'flaky', which failed" == flow.report["follows"].reason


def test_what_runs_when_the_run_ends_is_not_tried_again() -> None:
    """Its failure is its last; no event says anything else."""
    failed, told = threading.Event(), []

    def fail() -> None:
        assert failed.wait(20)
        raise ConnectionError("down")

    def listen(event: Any) -> None:
        told.append((event.node, event.kind))
        if event.kind == "failed":
            failed.set()

    flow = flow_of(workflow(version="1")(fail)().set_name("node"), flaky(9, KeyError("k")))
    flow.query("node").set_retries(3, delay=0)
    flow.listeners.append(listen)
    with ThreadPoolExecutor(2) as pool, pytest.raises(KeyError):
        flow.run(pool)
    assert ["planned", "queued", "started", "failed"] == [
        kind for name, kind in told if name == "node"
    ]
    assert ("failed", 1) == (flow.report["node"].action, flow.report["node"].attempts)


@pytest.mark.parametrize("wrong", [-1, 1.0, "3", True, None])
def test_a_number_of_retries_that_is_none(wrong: Any) -> None:
    flow = flow_of(flaky(0))
    with pytest.raises(OptionsError, match=r"whole number from 0"):
        flow.query("flaky").set_retries(wrong)
    with pytest.raises(OptionsError, match=r"whole number from 0"):
        workflow(retries=wrong)


@pytest.mark.parametrize(
    "wrong", [BaseException, KeyboardInterrupt, int, (OSError, 3), [KeyboardInterrupt], "OSError"]
)
def test_errors_that_no_node_is_tried_again_on(wrong: Any) -> None:
    """What is no class of Exception: an interrupt ends the run."""
    flow = flow_of(flaky(0))
    with pytest.raises(OptionsError, match="on classes of Exception, not on"):
        flow.query("flaky").set_retries(1, on=wrong)
    with pytest.raises(OptionsError, match="on classes of Exception, not on"):
        workflow(retries=1, retry_on=wrong)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), "1", timedelta(-1), None])
def test_a_delay_that_is_no_time(wrong: Any) -> None:
    flow = flow_of(flaky(0))
    with pytest.raises(OptionsError, match="the delay of retries is 0 or more seconds"):
        flow.query("flaky").set_retries(1, delay=wrong)
    with pytest.raises(OptionsError, match="the delay of retries is 0 or more seconds"):
        workflow(retries=1, retry_delay=wrong)


def test_calls_on_objects_are_not_tried_again() -> None:
    """A call that failed may have changed its object; no node of the query is set then."""

    @workflow
    class Counter:
        def add(self) -> int:
            return 1

    made = Counter()
    node = workflow(version="1")(Flaky(1))().set_name("add")
    flow = flow_of(node, made.add())
    for pattern in (None, r".*Counter_\d+", ".*add.*"):
        with pytest.raises(OptionsError, match="can't be tried again"):
            flow.query(pattern).set_retries(1, delay=0)
    with pytest.raises(ConnectionError):
        flow.run()
    flow.query(".*add.*").set_retries(0)  # this can be said of all
    with pytest.raises(GraphError, match=r"class .*Counter' can't have retries"):
        workflow(retries=1)(Counter.func)


# In use.


class Server:
    """Answers four calls in each 30 ms, and not always."""

    def __init__(self) -> None:
        self.random, self.lock = random.Random(5), threading.Lock()
        self.calls, self.recent = 0, [0.0] * 4

    def answer(self, number: int) -> int:
        with self.lock:
            self.calls += 1
            now = time.monotonic()
            if now - self.recent[0] < 0.03:
                raise ConnectionRefusedError("too many requests")
            self.recent = [*self.recent[1:], now]
            if self.random.random() < 0.1:
                raise ConnectionResetError("try later")
        time.sleep(0.03)
        return number * number


def test_a_client_of_a_server_with_a_limit() -> None:
    """With a resource that limits how many call at once, few calls are refused."""
    server = Server()
    get = workflow(version="1")(server.answer)
    flow = flow_of(*[get(number).set_name(f"get{number}") for number in range(63)])
    flow.query("get.*").set_retries(8, on=ConnectionError, delay=0.03).set_resources(api=1)
    with ThreadPoolExecutor(8) as pool:
        squares = flow.run(pool, resources={"api": 2})
    assert [number * number for number in range(63)] == squares
    assert 63 < server.calls <= 90
    assert server.calls == sum(record.attempts for record in flow.report.nodes)


@pytest.mark.parametrize("on", ["ConnectionError", None, ConnectionError("x"), [5], (OSError, str)])
def test_what_is_no_class_of_errors_is_named(on: Any) -> None:
    wrong = on[-1] if isinstance(on, (list, tuple)) else on
    with pytest.raises(OptionsError, match=re.escape(f"not on {wrong!r}")):
        workflow(retries=1, retry_on=on)


@pytest.mark.parametrize("settings", [{"retry_on": OSError}, {"retry_delay": 5}])
def test_what_only_counts_with_retries_needs_them(settings: Any) -> None:
    with pytest.raises(OptionsError, match="needs retries="):
        workflow(**settings)
