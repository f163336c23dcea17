"""Nodes whose functions may take a limited time."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import FunctionFuseError, NodeTimeoutError, OptionsError
from functionfuse.run.calling import in_time
from functionfuse.storage.filestorage import FileStorage

SHORT = 0.05

INTERRUPTIBLE = ["none", "toy", "processes", "loky"]


def flow_of(*nodes: Any, storage: Any = None) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow


def timed(function: Callable[..., Any], *args: Any, time: Any = SHORT) -> LocalWorkflow:
    """Return a workflow of one node, which has a timeout."""
    return flow_of(workflow(version="1", timeout=time)(function)(*args).set_name("node"))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No test leaves a handler or a timer behind."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)
    assert before == signal.getsignal(signal.SIGALRM)


@pytest.fixture
def alarms() -> Iterator[list[float]]:
    """The times at which a timer of the user went off; its handler is in place."""
    went_off: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: went_off.append(time.monotonic()))
    yield went_off
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def too_slow(swallow: bool = True) -> str:
    for _ in range(2):
        try:
            time.sleep(30)
        except Exception:  # what users write around a request
            if not swallow:
                raise
    return "late"


# What the user sees.


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_a_function_that_is_too_slow(executors: Callable[[str], Executor], kind: str) -> None:
    """It is interrupted, though it catches every Exception; other nodes go on."""
    slow = workflow(version="1")(too_slow)().set_name("slow")
    flow = flow_of(slow, workflow(version="1")(lambda: 3)().set_name("other"))
    flow.query("slow").set_timeout(timedelta(milliseconds=50))
    started = time.monotonic()
    with pytest.raises(
        NodeTimeoutError, match=r"the function ran longer than 0\.05 second"
    ) as late:
        flow.run(None if kind == "none" else executors(kind), keep_going=True)
    assert time.monotonic() - started < 20
    assert isinstance(late.value, TimeoutError)
    assert isinstance(late.value, FunctionFuseError)
    assert "in node 'slow' of workflow 'w'" in "\n".join(late.value.__notes__)
    assert ["failed", "computed"] == [record.action for record in flow.report.nodes]
    assert (
        "NodeTimeoutError: the function ran longer than 0.05 seconds" == flow.report["slow"].error
    )


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_a_function_that_goes_on_all_the_same(
    executors: Callable[[str], Executor], kind: str
) -> None:
    """It returns, or raises another error, after it was interrupted: its time was over."""

    def returns() -> str:
        try:
            time.sleep(30)
        except BaseException:  # noqa: BLE001  # as a bare except
            time.sleep(0.01)
        return "late"

    def raises() -> str:
        try:
            time.sleep(30)
        finally:
            raise KeyError("while cleaning up")

    executor = None if kind == "none" else executors(kind)
    with pytest.raises(NodeTimeoutError) as caught:
        timed(returns).run(executor)
    assert caught.value.__cause__ is None
    with pytest.raises(NodeTimeoutError) as caught:
        timed(raises).run(executor)
    if kind in ("none", "toy"):
        assert "KeyError('while cleaning up')" == repr(caught.value.__cause__)


def test_the_traceback_shows_where_the_function_was() -> None:
    """Not where the clean-up was."""
    with pytest.raises(NodeTimeoutError) as caught:
        timed(too_slow).run()
    names = [entry.name for entry in caught.traceback]
    assert "too_slow" in names


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_a_function_that_is_quick_enough(executors: Callable[[str], Executor], kind: str) -> None:
    """Its result and its own errors come out as they are, also a TimeoutError of its own."""

    def fail() -> None:
        raise TimeoutError("of a request")

    executor = None if kind == "none" else executors(kind)
    assert [1] == timed(lambda number: [number], 1, time=60).run(executor)
    with pytest.raises(TimeoutError, match="of a request") as caught:
        timed(fail, time=60).run(executor)
    assert not isinstance(caught.value, NodeTimeoutError)


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_a_timeout_can_be_tried_again(
    executors: Callable[[str], Executor], tmp_path: Path, kind: str
) -> None:
    """It is a TimeoutError, and each attempt has the whole time."""
    notes = tmp_path / "notes"

    def sometimes_slow() -> str:
        with notes.open("ab") as file:
            file.write(b".")
        if notes.stat().st_size < 3:
            time.sleep(30)
        return "done"

    executor = None if kind == "none" else executors(kind)
    flow = timed(sometimes_slow)
    flow.query("node").set_retries(2, on=(TimeoutError,), delay=0)
    assert "done" == flow.run(executor)
    assert 3 == flow.report["node"].attempts
    notes.unlink()
    flow.query("node").set_retries(2, on=ConnectionError, delay=0)
    with pytest.raises(NodeTimeoutError):
        flow.run(executor)
    assert b"." == notes.read_bytes()


def test_methods_have_timeouts_too() -> None:
    """Those of the decorated class; the constructor's is the same."""

    @workflow(timeout=SHORT)
    class Machine:
        def __init__(self, seconds: float) -> None:
            time.sleep(seconds)

        def turn(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    assert 0 == flow_of(Machine(0).turn(0)).run()
    for seconds in ((30, 0), (0, 30)):
        with pytest.raises(NodeTimeoutError):
            flow_of(Machine(seconds[0]).turn(seconds[1])).run()


# What the user had before.


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_stays_one() -> None:
    """Ctrl-C while the function runs, or while it cleans up after its time was over."""

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    def while_cleaning_up() -> None:
        try:
            time.sleep(30)
        finally:
            signal.raise_signal(signal.SIGINT)

    for function, seconds in ((interrupted, 60), (while_cleaning_up, SHORT)):
        with pytest.raises(KeyboardInterrupt):
            timed(function, time=seconds).run(keep_going=True)


@pytest.mark.parametrize("outcome", ["result", "error", "timeout", "interrupt"])
def test_a_handler_and_a_timer_are_put_back(alarms: list[float], outcome: str) -> None:
    """The timer goes on with the time that was left, and again and again if it did."""
    handler = signal.getsignal(signal.SIGALRM)

    def act() -> None:
        if outcome == "error":
            raise KeyError
        if outcome == "timeout":
            time.sleep(30)
        if outcome == "interrupt":
            raise KeyboardInterrupt
        time.sleep(0.02)

    signal.setitimer(signal.ITIMER_REAL, 100, 0.25)
    try:
        timed(act).run()
    except (KeyError, TimeoutError, KeyboardInterrupt):
        assert outcome != "result"
    else:
        assert outcome == "result"
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert handler is signal.getsignal(signal.SIGALRM)
    assert 90 < left < (100 - (0.02 if outcome in ("result", "timeout") else 0))
    assert abs(interval - 0.25) < 0.01
    assert [] == alarms


@pytest.mark.parametrize("outcome", ["result", "timeout"])
def test_a_timer_that_would_have_gone_off_meanwhile(alarms: list[float], outcome: str) -> None:
    """It goes off as soon as the function is over, and not in it."""
    begun = ended = 0.0
    seconds = 0.02

    def act() -> None:
        nonlocal begun, ended
        begun = time.monotonic()
        try:
            while time.monotonic() < begun + (5 * seconds if outcome == "result" else 30):
                time.sleep(0.01)
        finally:
            ended = time.monotonic()

    while not begun or alarms[0] < begun:  # on a busy machine, it can go off before the function
        alarms.clear()
        seconds *= 2
        signal.setitimer(signal.ITIMER_REAL, seconds)
        flow = timed(act, time=60 if outcome == "result" else 5 * seconds)
        if outcome == "timeout":
            with pytest.raises(NodeTimeoutError):
                flow.run()
        else:
            flow.run()
        time.sleep(0.01)
        assert 1 == len(alarms)
    assert ended <= alarms[0]


def test_nothing_is_interrupted_outside_of_the_function(
    alarms: list[float], request: pytest.FixtureRequest
) -> None:
    """1,000 functions, whose times are about as long as they need: each is late, or isn't."""
    handler, rng = signal.getsignal(signal.SIGALRM), random.Random(1)
    late = 0

    def wait(seconds: float) -> str:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return "done"

    gc.disable()  # Python drops what is raised in a callback of the collector, and pytest tells
    request.addfinalizer(gc.enable)
    for _ in range(1000):
        seconds = rng.uniform(0, 0.0008)
        try:
            assert "done" == in_time(max(1e-6, seconds + rng.gauss(0, 5e-5)), wait, (seconds,), {})
        except NodeTimeoutError:
            late += 1
        assert handler is signal.getsignal(signal.SIGALRM)
        assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)
    assert 100 < late < 1000
    assert [] == alarms


class Slow(FileStorage):
    """Needs more time to save than the functions have."""

    def save(self, workflow_name: str, task_name: str, obj: Any, **details: Any) -> Any:
        until = time.monotonic() + 3 * SHORT
        while time.monotonic() < until:
            time.sleep(0.001)
        return super().save(workflow_name, task_name, obj, **details)


@pytest.mark.parametrize("kind", INTERRUPTIBLE)
def test_saving_does_not_count(
    executors: Callable[[str], Executor], tmp_path: Path, kind: str
) -> None:
    flow = timed(lambda: 7)
    flow.set_storage(Slow(tmp_path))
    assert 7 == flow.run(None if kind == "none" else executors(kind))
    assert 7 == flow.storage.read_task("w", "node")


# Runs in nodes.


def nested(outer: float | None, inner: float | None, seconds: float) -> LocalWorkflow:
    """Return a workflow whose node runs another one, whose node sleeps."""

    def run() -> Any:
        flow = flow_of(workflow(version="1")(time.sleep)(seconds).set_name("inner"))
        flow.query("inner").set_timeout(inner)
        return flow.run()

    flow = flow_of(workflow(version="1")(run)().set_name("outer"))
    flow.query("outer").set_timeout(outer)
    return flow


@pytest.mark.parametrize("kind", ["none", "processes"])
@pytest.mark.parametrize(
    ("outer", "inner", "late"),
    [(60, SHORT, "inner"), (SHORT, 60, "outer"), (SHORT, None, "outer"), (None, SHORT, "inner")],
)
def test_a_run_in_a_node(
    executors: Callable[[str], Executor],
    kind: str,
    outer: float | None,
    inner: float | None,
    late: str,
) -> None:
    """Each node has its own time, and the shorter one holds."""
    executor = None if kind == "none" else executors(kind)
    started = time.monotonic()
    with pytest.raises(NodeTimeoutError) as caught:
        nested(outer, inner, 30).run(executor)
    assert time.monotonic() - started < 20
    notes = [note for note in caught.value.__notes__ if note.startswith("in node")]
    assert ["in node 'inner'"] * (late == "inner") + ["in node 'outer'"] == [
        note.partition(" of ")[0] for note in notes
    ]
    assert nested(outer, inner, 0).run(executor) is None


def test_a_function_around_another_is_interrupted_once() -> None:
    """It can clean up, as if there were no function inside."""
    cleaned: list[str] = []

    def outer() -> None:
        try:
            in_time(60, time.sleep, (30,), {})
        finally:
            time.sleep(0.02)
            cleaned.append("up")

    with pytest.raises(NodeTimeoutError, match=r"longer than 0\.05 seconds"):
        in_time(SHORT, outer, (), {})
    assert ["up"] == cleaned


# Where functions can't be interrupted.


def run_in_thread(flow: LocalWorkflow) -> list[BaseException]:
    """Run a workflow in a thread; return what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            flow.run()
        except BaseException as error:  # noqa: BLE001  # it is looked at
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return raised


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("where", ["threads", "thread"])
def test_threads_can_not_be_interrupted(tmp_path: Path, where: str, stored: bool) -> None:
    """An error says so before anything runs, whichever node has the timeout."""
    ran: list[int] = []
    events: list[Any] = []
    step = workflow(version="1")(lambda number, *_: ran.append(number))
    first = step(1)
    flow = flow_of(step(2, first).set_name("timed"), storage=FileStorage(tmp_path))
    flow.query("timed").set_timeout(60)
    flow.listeners.append(events.append)
    message = "node 'timed' has a timeout, but threads can't be interrupted: use processes"
    if not stored:
        flow.set_storage(None)
    if where == "thread":
        (error,) = run_in_thread(flow)
        assert isinstance(error, OptionsError)
        assert message == str(error)
    else:
        with ThreadPoolExecutor(2) as pool, pytest.raises(OptionsError) as caught:
            flow.run(pool)
        assert message == str(caught.value)
    assert ([], []) == (ran, events)
    flow.run()
    assert [1, 2] == ran
    if stored:  # nothing is left to compute, so nothing has to be interrupted
        with ThreadPoolExecutor(2) as pool:
            assert flow.run(pool) is None
        assert [] == run_in_thread(flow)


def test_a_thread_may_run_nodes_on_processes(executors: Callable[[str], Executor]) -> None:
    """They are interrupted there."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            timed(time.sleep, 30).run(executors("processes"))
        except NodeTimeoutError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert 1 == len(raised)


def test_a_system_without_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Windows."""
    monkeypatch.delattr(signal, "setitimer")
    with pytest.raises(OptionsError, match="can't be interrupted on this system"):
        timed(lambda: 1).run()
    monkeypatch.undo()
    assert 1 == timed(lambda: 1, time=60).run()


# Settings.


@pytest.mark.parametrize("wrong", [0, -1, "1", float("inf"), float("nan"), timedelta(0), True])
def test_a_timeout_that_is_no_time(wrong: Any) -> None:
    with pytest.raises(OptionsError, match="a timeout is more than 0 seconds, or a timedelta"):
        timed(lambda: 1).query("node").set_timeout(wrong)
    with pytest.raises(OptionsError, match="a timeout is more than 0 seconds, or a timedelta"):
        workflow(timeout=wrong)


def test_the_workflow_s_timeout_replaces_the_decorator_s() -> None:
    """Also by none."""
    flow = timed(time.sleep, 2 * SHORT)
    flow.query("node").set_timeout(None)
    assert flow.run() is None
    flow.query("node").set_timeout(1e-3)
    with pytest.raises(NodeTimeoutError):
        flow.run()


def test_a_very_long_time() -> None:
    """Is no more than the function needs."""
    for seconds in (1e9, 1e300, timedelta.max):
        assert 1 == timed(lambda: 1, time=seconds).run()
