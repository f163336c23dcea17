"""Ctrl-C: what waits does not begin, what runs is waited for, and nothing is left over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import pytest
from failing import calls, flow_of, random_plans, value_of

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def interrupted_after(seconds: float, run: Callable[[], Any]) -> bool:
    """Run, and send SIGINT to this process after some time; return whether the run ended by it.

    The signal ends nothing else, such as the tests.
    """
    armed = True

    def interrupt(*_: object) -> None:
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    try:
        try:
            timer.start()
            run()
        finally:
            armed = False
    except KeyboardInterrupt:
        return True
    else:
        return False
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)


# The signal may come between the opening of a file and its `with`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.battery
@pytest.mark.parametrize("seed", range(1000 if FULL else 20))
def test_ctrl_c_at_any_moment(tmp_path: Path, seed: int) -> None:
    """What is computed is stored; the next run computes what is missing, and nothing else."""
    rng, notes = Random(seed), tmp_path / "notes"
    notes.mkdir()
    plans = random_plans(rng, str(notes), ["flaky"], stored=True)
    flow = flow_of(plans, 0.0005)
    flow.set_storage(storage := FileStorage(tmp_path / "store"))

    def run() -> None:
        with contextlib.suppress(ConnectionError):
            flow.run(keep_going=True)

    ended = interrupted_after(rng.uniform(0, 0.003 * len(plans)), run)
    stored = set(storage.list_tasks("w"))
    logged = {plan.name for plan in plans if plan.logged}
    if flow.report is not None:
        computed = set(flow.report.names("computed"))
        unlogged = computed - logged
        assert unlogged <= stored
        # One may have been stored just when the signal came.
        assert len(stored - unlogged) <= ended
        again = [r.name for r in flow.report.nodes if r.attempts != calls(str(notes), r.name)]
        assert len(again) <= ended
    before = {plan.name: calls(str(notes), plan.name) for plan in plans}
    (notes / "mended").touch()
    flow = flow_of(plans, 0)
    flow.set_storage(storage)
    values = flow.run()
    assert [value_of(plan) for plan in plans] == (values if len(plans) > 1 else [values])
    missing = {plan.name for plan in plans} - stored
    assert missing == set(flow.report.names("computed"))
    for name, count in before.items():
        assert count + (name in missing) == calls(str(notes), name)


def test_ctrl_c_while_a_node_waits_for_its_next_attempt() -> None:
    """The run doesn't wait for it, also under `keep_going`."""

    def fail() -> None:
        raise ConnectionError("down")

    flow = LocalWorkflow(workflow(version="1")(fail)().set_name("node"), workflow_name="w")
    flow.query(None).set_retries(3, delay=40)
    started = time.monotonic()
    assert interrupted_after(0.1, lambda: flow.run(keep_going=True))
    assert time.monotonic() - started < 15
    record = flow.report["node"]
    assert ("failed", 1, "ConnectionError: down") == (record.action, record.attempts, record.error)


def wait_for(folder: Path, number: int) -> int:
    (folder / f"{number}.begun").touch()
    until((folder / "go").exists, "the node may go on")
    return number


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_ctrl_c_while_a_node_is_handed_over(tmp_path: Path, pool: type) -> None:
    """The executor has it, and the run doesn't know: it does not begin either."""

    class Interrupted(pool):  # type: ignore[misc]
        submitted = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(fn)
            self.submitted += 1
            if self.submitted == 3:
                until((tmp_path / "0.begun").exists, "the first node has begun")
                timer.start()
                raise KeyboardInterrupt
            return future

    options = {} if pool is ThreadPoolExecutor else {"mp_context": get_context("spawn")}
    step = workflow(version="1")(wait_for)
    nodes = [step(tmp_path, number).set_name(f"n{number}") for number in range(5)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    timer = threading.Timer(0.3, (tmp_path / "go").touch)
    with Interrupted(1, **options) as executor, pytest.raises(KeyboardInterrupt):
        flow.run(executor)
    assert ["0.begun"] == [path.name for path in tmp_path.glob("*.begun")]
    assert ["n0"] == flow.report.names("computed")


SCRIPT = """
import json, multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

def work(number, folder):
    with open(f"{folder}/{number}.begun", "x"):
        pass
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    return number

def pool(kind):
    if kind == "threads":
        return ThreadPoolExecutor(2)
    if kind == "loky":
        from loky import ProcessPoolExecutor as Loky
        return Loky(2)
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind))

def noted(number, frame):
    open(f"{folder}/signalled", "w").close()
    raise KeyboardInterrupt

if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    signal.signal(signal.SIGINT, noted)
    step = workflow(version="1", ignore=["folder"])(work)
    nodes = [step(number, folder).set_name(f"n{number}") for number in range(12)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(f"{folder}/store"))
    executor, raised = pool(kind), "nothing"
    try:
        flow.run(executor, keep_going=True)
    except BaseException as error:
        raised = type(error).__name__
    actions = {record.name: record.action for record in flow.report.nodes}
    print(json.dumps([raised, actions]))
    executor.shutdown()
"""


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("threads", "driver"),
        ("spawn", "driver"),
        ("spawn", "group"),
        ("spawn", "twice"),
        ("forkserver", "driver"),
        ("loky", "driver"),
        ("loky", "group"),
    ],
)
def test_what_waits_does_not_begin_after_ctrl_c(tmp_path: Path, kind: str, how: str) -> None:
    """Also what an executor of processes took in advance; and the folder for such files is empty.

    The signal goes to the process of the run, or to its workers, too, as from a terminal.
    """
    # A short path: the socket of a fork server is in there.
    temporary = Path(tempfile.mkdtemp(prefix="ff-"))
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", kind, tmp_path],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def begun() -> set[str]:
        return {f"n{path.stem}" for path in tmp_path.glob("*.begun")}

    try:
        until(lambda: len(begun()) == 2, "two nodes have begun")
        # All are handed over then: a handler of one's own, as in this script, could interrupt it.
        time.sleep(0.3)
        if how == "group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        until((tmp_path / "signalled").exists, "the signal has come")
        if how == "twice":
            until(lambda: [*temporary.glob("functionfuse-*")], "the run ends")
            time.sleep(0.3)  # what is queued is cancelled: see above
            process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # now the run waits for what has begun
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        left = [*temporary.glob("*functionfuse*")]
        shutil.rmtree(temporary, ignore_errors=True)
    raised, actions = json.loads(out)
    assert "KeyboardInterrupt" == raised, err
    assert 2 == len(begun())
    storage = FileStorage(tmp_path / "store")
    computed = {name for name, action in actions.items() if action == "computed"}
    if how == "driver":
        assert "" == err
        assert begun() == computed
    if how != "twice":
        assert sorted(computed) == storage.list_tasks("w")
    assert {"not run"} == {action for name, action in actions.items() if name not in begun()}
    assert [] == left


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_at_any_moment_of_a_run_on_threads() -> None:
    """What has begun is waited for, and is in the report, also if its job was on its way."""
    ended: list[int] = []

    @workflow
    def interrupts() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.005)
        ended.append(0)
        return 0

    @workflow
    def other(number: int) -> int:
        time.sleep(0.001)
        ended.append(number)
        return number

    for _ in range(30):
        ended.clear()
        nodes = [other(0), interrupts(), *[other(number) for number in range(30)]]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        with ThreadPoolExecutor(2) as pool:
            with pytest.raises(KeyboardInterrupt):
                flow.run(pool)
            count = len(ended)
        assert len(ended) == count == len(flow.report.names("computed"))
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_comes_through_at_once(tmp_path: Path) -> None:
    """The run waits for what runs; then it doesn't any more."""

    def interrupt() -> None:
        until((tmp_path / "0.begun").exists, "the node has begun")
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    step = workflow(version="1")(wait_for)
    flow = LocalWorkflow(step(tmp_path, 0), workflow_name="w")
    with ThreadPoolExecutor(1) as pool:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            flow.run(pool)
        assert not (tmp_path / "go").exists()
        (tmp_path / "go").touch()
    time.sleep(0.4)
