"""The progress of a run where there is no terminal: in logs, in files and in notebooks."""

from __future__ import annotations

import dis
import gc
import io
import logging
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from functionfuse import workflow
from functionfuse.backends.builtin.inplace import OnExecutor
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import OptionsError
from functionfuse.run import progress
from functionfuse.run.progress import Progress
from functionfuse.run.run import Run
from functionfuse.show import progress as texts
from functionfuse.show.progress import End, Lines, News, Row, View, span
from functionfuse.storage import storage_factory


def nap(seconds: float, *after: object) -> float:
    time.sleep(seconds)
    return seconds


naps = workflow(nap)
divide = workflow(lambda n: 1 // n)

LOGGER = progress.logger.name


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE, raising=False)


def flow_of(*nodes: object, name: str = "w") -> LocalWorkflow:
    return LocalWorkflow(*nodes, workflow_name=name)


def test_records_of_a_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, then every 30 seconds, at each failure and at the end."""
    monkeypatch.setattr(texts, "_EVERY", 0.6)
    caplog.set_level(logging.INFO, LOGGER)
    nodes = divide(0).set_name("x"), naps(0.7).set_name("a"), naps(0.7, 1).set_name("b")
    with pytest.raises(ZeroDivisionError):
        flow_of(*nodes).run(keep_going=True)
    told = [(record.name, record.levelname, record.message) for record in caplog.records]
    assert {(LOGGER, "INFO")} == {record[:2] for record in told}
    failed, first, second, *_, last = (record[2] for record in told)
    assert re.fullmatch(r"✕ x  ZeroDivisionError: .*  .*test_progress_elsewhere.py:\d+", failed)
    assert first.startswith("w  1/3  0 reused  1 failed  running: a 0.0 s")
    assert re.fullmatch(r"w  2/3  0 reused  1 failed  about 1 s left  running: b 0\.\d s", second)
    assert re.fullmatch(r"✕ w: 1 failed, 2 computed in 1\.\d s", last)


def test_a_quick_run_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """It has a record of its end."""
    caplog.set_level(logging.INFO, LOGGER)
    flow_of(divide(1)).run()
    assert ["✓ w: 1 computed in 0.0 s"] == caplog.messages


def test_no_thread_if_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    flow_of(divide(1)).run()
    flow_of(divide(1)).run(progress=False)
    assert [] == started


def test_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """If it is asked for, and no log takes it."""
    flow_of(naps(0.3)).run(progress=True)
    flow_of(divide(1)).value(divide(1), progress=True)
    first, *ends = capsys.readouterr().err.splitlines()
    assert "w  0/1  0 reused  0 failed  running: nap_0000 0.0 s" == first
    assert ["✓ w: 1 computed in 0.3 s", "✓ w: 1 computed in 0.0 s"] == ends


def test_the_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The argument comes before it; a wrong value is an error before anything runs."""
    monkeypatch.setenv(progress.VARIABLE, "1")
    flow_of(divide(1)).run()
    flow_of(divide(1)).run(progress=False)
    monkeypatch.setenv(progress.VARIABLE, "0")
    flow_of(divide(1)).run()
    flow_of(divide(1), name="asked").run(progress=True)
    assert ["✓ w: 1 computed in 0.0 s", "✓ asked: 1 computed in 0.0 s"] == (
        capsys.readouterr().err.splitlines()
    )
    monkeypatch.setenv(progress.VARIABLE, "yes")
    ran: list[int] = []
    message = (
        "FUNCTIONFUSE_PROGRESS is 1 to show the progress of runs, 0 not to, or unset, not 'yes'"
    )
    with pytest.raises(OptionsError, match=message):
        flow_of(workflow(ran.append)(1)).run()
    assert [] == ran


def test_rich_is_imported_only_to_draw() -> None:
    code = """
        import sys
        from functionfuse import workflow
        from functionfuse.backends.builtin.localback import LocalWorkflow
        LocalWorkflow(workflow(int)(1), workflow_name="w").run(progress=True)
        print([name for name in sys.modules if name.partition(".")[0] == "rich"])
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert ("[]\n", "✓ w: 1 computed in 0.0 s\n") == (done.stdout, done.stderr)


def test_workers_show_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    executors: Callable[[str], Executor],
) -> None:
    """A run in a node, in another process, too, although that has the variable."""
    monkeypatch.setenv(progress.VARIABLE, "1")

    def inner(n: int) -> int:
        flow = LocalWorkflow(naps(0.3), workflow_name="inner")
        flow.run(progress=True)
        thread = threading.Thread(target=flow.run)
        thread.start()
        thread.join()
        return n

    nodes = [workflow(inner)(n) for n in range(2)]
    flow_of(*nodes).run(executors("processes"))
    first, last = capfd.readouterr().err.splitlines()
    assert first.startswith("w  0/2")
    assert last.startswith("✓ w: 2 computed in")


def test_a_backend_that_does_not_tell_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its nodes are submitted; the first ones are named."""
    monkeypatch.setattr(OnExecutor, "_begun", lambda _: [])
    nodes = [naps(0.6).set_name(f"n{n}") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        flow_of(*nodes).run(pool, progress=True)
    names = ", ".join(f"n{n} submitted 0.0 s" for n in range(4))
    first, _ = capsys.readouterr().err.splitlines()
    assert f"w  0/6  0 reused  0 failed  {names} … and 2 more" == first


def test_a_run_beside_another(capsys: pytest.CaptureFixture[str]) -> None:
    """The first one is shown; afterwards, the next one can be."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flow_of(naps(0.6), name="first").run, progress=True)
        time.sleep(0.2)
        flow_of(divide(1), name="second").run(progress=True)
        first.result()
        flow_of(divide(1), name="third").run(progress=True)
    names = [re.split("[: ]+", line)[:2] for line in capsys.readouterr().err.splitlines()]
    assert [["first", "0/1"], ["✓", "first"], ["✓", "third"]] == names


def test_ctrl_c_at_any_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it comes when a run begins and ends, no thread stays, and the next run is shown.

    Python looks for signals when a function begins, and after each call.
    """
    monkeypatch.setattr(progress, "_EVERY", 0.005)
    codes = {Run.run.__code__, Progress.__enter__.__code__, Progress.__exit__.__code__}
    flow, main, steps, last = flow_of(divide(1)), threading.get_ident(), 0, 0
    before = ""  # the last instruction

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal before, steps
        if frame.f_code not in codes or threading.get_ident() != main:
            return None
        frame.f_trace_opcodes = True
        is_looking = event == "call" or (event == "opcode" and before.startswith("CALL"))
        before = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        steps += is_looking
        if is_looking and steps == last:
            raise KeyboardInterrupt
        return trace

    former = sys.gettrace()
    while steps == last:
        steps, last = 0, last + 1
        sys.settrace(trace)
        try:
            flow.run(progress=True)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(former)
        capsys.readouterr()
        flow_of(divide(1), name="next").run(progress=True)
        assert "✓ next: 1 computed in" in capsys.readouterr().err, last
        assert not [each for each in threading.enumerate() if each.name == progress.__name__]
    assert last > 12


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        if text.startswith("w "):
            raise ConnectionError("the pager has ended")
        return super().write(text)


def test_an_error_ends_only_the_progress(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    assert 0.6 == flow_of(naps(0.6)).run(progress=True)
    message = "the progress of the run isn't shown any more: ConnectionError('the pager has ended')"
    assert [("WARNING", message)] == [(each.levelname, each.message) for each in caplog.records]


def test_no_value_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    class Value:
        pass

    kept: list[weakref.ref[Any]] = []

    def make() -> Value:
        value = Value()
        kept.append(weakref.ref(value))
        return value

    def fail(value: Value) -> None:
        time.sleep(0.3)
        raise ValueError("no")

    def look(*after: object) -> bool:
        time.sleep(0.6)
        gc.collect()
        return kept[0]() is None

    made = workflow(make)()
    with pytest.raises(ValueError, match="no"):
        flow_of(workflow(fail)(made)).run(progress=True, keep_going=True)
    assert "✕ " in capsys.readouterr().err
    gc.collect()
    assert kept[0]() is None
    assert not [each for each in threading.enumerate() if each.name == progress.__name__]


def test_what_was_judged_later_is_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line agrees with the report, also where a call on an object is made again."""
    storage = storage_factory({"kind": "file", "options": {"path": tmp_path}})

    def run(n: int, calls: int) -> LocalWorkflow:
        @workflow
        class Counter:
            def __init__(self) -> None:
                self.count = 0

            def add(self, n: int) -> int:
                self.count += n
                return self.count

        counter = Counter()
        last = [counter.add(n).set_name(f"add {n}") for n in range(calls)]
        half = workflow(lambda n: n // 2)(n).set_name("half")
        flow = flow_of(*last, naps(0.01, half).set_name("after"))
        flow.set_storage(storage)
        flow.run(progress=True)
        return flow

    for n, calls in ((2, 2), (3, 3)):
        flow = run(n, calls)
        counts = {word: len(flow.report.names(word)) for word in ("computed", "reused", "failed")}
        line = capsys.readouterr().err.splitlines()[-1]
        told = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]\w+)", line)}
        assert {word: count for word, count in counts.items() if count} == told
    assert counts["reused"]


@pytest.mark.parametrize("seconds", [None, 0.25, 3.0, 1e-7, 2e15, 1.5e17, 7])
def test_the_seconds_of_a_header(tmp_path: Path, seconds: float | None) -> None:
    """They are found without parsing it, whatever the names in it are."""
    storage = storage_factory({"kind": "file", "options": {"path": tmp_path}})
    function = 'f","seconds":9.0,"type":"g'
    storage.save("w", function, 1, function=function, seconds=seconds)
    [summary] = storage.task_infos("w", [function])
    assert seconds == summary.seconds == summary.info.seconds == summary.seconds


@pytest.mark.parametrize(
    ("seconds", "digits", "expected"),
    [
        (0.04, 1, "0.0 s"),
        (59.94, 1, "59.9 s"),
        (59.96, 1, "1 min 0 s"),
        (7.6, 0, "8 s"),
        (3599.6, 0, "1 h 0 min"),
        (86400, 0, "24 h 0 min"),
    ],
)
def test_spans(seconds: float, digits: int, expected: str) -> None:
    assert expected == span(seconds, digits)


def test_texts() -> None:
    lines: list[str] = []
    painter = Lines(lines.append)
    painter.show(View("w", 0, 0))
    painter.show(
        View("w\n", 41_000, 70_000, 14, 2, 0.2, [Row("a\x1b", 3.2), Row("b", 61, True)], 6)
    )
    painter.show(View("w", 42, 70))
    painter.tell(News("n" * 400, "E: a\nb", "f.py:3"))
    painter.end(End("w", 8, 62, 0, 0, 4.6, 0.3, ""))
    painter.end(End("w", 0, 0, 0, 0, None, 0.3, ""))
    painter.end(End("w", 0, 0, 0, 3, None, 0.3, "interrupted"))
    painter.end(End("w", 1, 0, 2, 3, None, 0.3, "ended by E: a"))
    painter.end(End("w", 1, 0, 0, 0, None, 0.3, "ended by E: a\x1b"))
    running = "a\\x1b 3.2 s, b submitted 1 min 1 s … and 6 more"
    assert [
        f"w\\n  41,000/70,000  14 reused  2 failed  about 1 s left  running: {running}",
        f"✕ {'n' * 299}…  E: a\\nb  f.py:3",
        "✓ w: 8 computed, 62 reused (saved 4.6 s) in 0.3 s",
        "✓ w: nothing to do in 0.3 s",
        "✕ w: interrupted, 3 not run in 0.3 s",
        "✕ w: 2 failed, 3 not run, 1 computed in 0.3 s",
        "✕ w: ended by E: a\\x1b, 1 computed in 0.3 s",
    ] == lines


def test_a_notebook(tmp_path: Path) -> None:
    """One output, which is replaced in place; after a second by default."""
    cell = """
import time
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
nap = workflow(time.sleep)
bad = workflow(lambda: 1 / 0)().set_name("<b>bad</b>")
flow = LocalWorkflow(bad, nap(0.8).set_name("<i>"), nap(0.9), workflow_name="w & v")
LocalWorkflow(nap(0.1), workflow_name="quick").run()
try:
    flow.run(keep_going=True)
except ZeroDivisionError:
    print("after")
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    seen: list[str] = []

    class Client(NotebookClient):
        def process_message(self, message: Any, *args: Any) -> Any:
            if message["msg_type"] in {"display_data", "update_display_data"}:
                seen.append(message["content"]["data"]["text/html"])
            return super().process_message(message, *args)

    Client(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, *_ = seen
    assert 3 <= len(seen)
    assert '<progress value="2" max="3"></progress> w &amp; v&nbsp; 2/3&nbsp;' in first
    assert "✕ &lt;b&gt;bad&lt;/b&gt;  ZeroDivisionError: division by zero" in first
    output, printed = notebook.cells[0].outputs
    assert "after\n" == printed.text
    assert re.fullmatch(
        r"<div>✕ .*<br>✕ w &amp; v: 1 failed, 2 computed in 1\.\d s</div>",
        output.data["text/html"],
    )
    assert re.fullmatch(r"✕ w & v: 1 failed, 2 computed in 1\.\d s", output.data["text/plain"])
