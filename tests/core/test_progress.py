"""The progress of a run on a terminal: each script runs in a pseudo-terminal of its own."""

from __future__ import annotations

import fcntl
import re
import struct
import termios
from pathlib import Path

import pytest
from pseudo_terminal import Run, in_folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return in_folder(tmp_path)


SOME = """
nodes = [naps(0.1 if n < 4 else 1.5).set_name(f"nap {n}") for n in range(14)]
flow = LocalWorkflow(*nodes, workflow_name="a day")
"""


def test_a_run_on_a_terminal(run: Run) -> None:
    """By default a bar comes after a second: counts, the four oldest nodes, and how many more."""
    seen = run(SOME + "with ThreadPoolExecutor(7) as pool: flow.run(pool)", now=False)
    first, *_ = seen.bars
    assert re.fullmatch(r"a day ━+╸?━*  \d+/14  0 reused  0 failed( +about \d+ s left)?", first[0])
    assert re.fullmatch(r"  nap \d+ +\d\.\d s", first[1])
    assert 2 <= len(first) <= 5
    assert re.fullmatch(r"✓ a day: 14 computed in \d\.\d s", seen.lines[-1])
    assert seen.lines[:-1] == []
    assert seen.code == 0


def test_a_quick_run_shows_nothing(run: Run) -> None:
    """Nor does it import rich; the same if it fails."""
    seen = run(
        """
        for flow in (
            LocalWorkflow(naps(0.4), workflow_name="quick"),
            LocalWorkflow(naps("x"), workflow_name="failing"),
        ):
            try:
                flow.run()
            except TypeError:
                print("failed")
        print([name for name in sys.modules if name.partition(".")[0] == "rich"])
        """,
        now=False,
    )
    assert ["failed", "[]"] == seen.lines


def test_the_oldest_four(run: Run) -> None:
    seen = run(
        """
        flow = LocalWorkflow(*[naps(1.2).set_name(f"n{n}") for n in range(12)], workflow_name="w")
        with ThreadPoolExecutor(10) as pool:
            flow.run(pool)
        """
    )
    bar = next(bar for bar in seen.bars if len(bar) == 5)
    assert re.fullmatch(r"w  *0/12  0 reused  0 failed", bar[0].replace("━", " "))
    assert [line[:5].strip() for line in bar[1:]] == ["n0", "n1", "n2", "n3"]
    assert bar[4].endswith("s  … and 6 more")
    assert all("more" not in line for line in bar[1:4])


def test_what_a_pool_has_in_its_queue_does_not_run(run: Run) -> None:
    seen = run(
        """
        flow = LocalWorkflow(*[naps(0.4).set_name(f"n{n}") for n in range(6)], workflow_name="w")
        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as pool:
                flow.run(pool)
        """
    )
    running = [[line for line in bar[1:] if "submitted" not in line] for bar in seen.bars]
    assert 2 == max(map(len, running))
    assert not any("more" in line for bar in running for line in bar)


STORED = """
storage = storage_factory({"kind": "file", "options": {"path": "results"}})
def flow_of(count):
    nodes = [naps(0.15).set_name(f"nap {n}") for n in range(count)]
    flow = LocalWorkflow(*nodes, workflow_name="stored")
    flow.set_storage(storage)
    return flow
flow_of(6).run(progress=False)
"""


def test_what_is_reused_and_what_that_saved(run: Run) -> None:
    seen = run(STORED + "flow_of(10).run(); flow_of(10).run()")
    assert any(re.search(r" \d+/10  6 reused  0 failed", bar[0]) for bar in seen.bars)
    first, second = seen.lines
    assert re.fullmatch(r"✓ stored: 4 computed, 6 reused \(saved (0\.9|1\.0) s\) in 0\.\d s", first)
    assert re.fullmatch(r"✓ stored: 10 reused \(saved 1\.[56] s\) in 0\.\d s", second)


def test_the_time_left(run: Run) -> None:
    """It goes by the function, and by how many run at once: two quick nodes, and 8 slow ones."""
    seen = run(
        """
        slow = workflow(lambda n, *after: time.sleep(0.8))
        quick = naps(0.01, 1), naps(0.01, 2)
        first = slow(0), slow(1)
        nodes = [*quick, *first, *[slow(n, first) for n in range(8)]]
        with ThreadPoolExecutor(2) as pool:
            LocalWorkflow(*nodes, workflow_name="w").run(pool)
        """
    )
    left: dict[int, list[int]] = {}
    for bar in seen.bars:
        for done, seconds in re.findall(r" (\d+)/12 .* about (\d+) s left", bar[0]):
            left.setdefault(int(done), []).append(int(seconds))
    # The longest: at first, only one of two ends is counted; and a busy machine draws late.
    assert 3 <= max(left[4]) <= 4  # 8 are left, of 0.8 s each, on two workers
    assert 1 <= max(left[8]) <= 2


def test_failures_and_retries_are_told_at_once(run: Run) -> None:
    seen = run(
        """
        tries = []
        @workflow(retries=2, retry_on=OSError, retry_delay=0.4)
        def busy():
            tries.append(1)
            if len(tries) < 2:
                raise OSError("server is busy")
        @workflow
        def bad(x):
            raise ValueError("a\\x1b[31mb\\nc")
        fails = bad(1).set_name("fails")
        nodes = [busy().set_name("busy"), fails, naps(1, fails).set_name("follows"), naps(0.9)]
        try:
            LocalWorkflow(*nodes, workflow_name="w").run(keep_going=True)
        except ValueError:
            pass
        """
    )
    busy, fails, last = seen.lines
    assert "↻ busy  OSError: server is busy (attempt 1, is tried again)" == busy
    assert re.fullmatch(r"✕ fails  ValueError: a\\x1b\[31mb\\nc  script\.py:\d+", fails)
    assert re.fullmatch(r"✕ w: 1 failed, 1 not run, 2 computed in \d\.\d s", last)
    assert "raise ValueError" in seen.script[int(fails.rpartition(":")[2]) - 1]
    shown = [frame for frame in seen.frames if any("✕ fails" in line for line in frame)]
    assert shown, "it is told before the end"


def test_many_failures_are_told_once(run: Run) -> None:
    seen = run(
        """
        bad = workflow(lambda n: 1 / 0)
        flow = LocalWorkflow(*[bad(n).set_name(f"n{n}") for n in range(60)], workflow_name="w")
        try:
            flow.run(keep_going=True)
        except ZeroDivisionError:
            pass
        """
    )
    told = [line for line in seen.lines if line.startswith("✕ n")]
    assert 20 == len(told)
    assert "✕ more nodes failed, which the report of the run has" == seen.lines[20]
    assert seen.lines[21].startswith("✕ w: 60 failed in")


def test_the_line_of_a_worker(run: Run) -> None:
    """The place is the line in the user's file, also if a library raised, in another process."""
    seen = run(
        """
        import json
        @workflow
        def load(text):
            return json.loads(text)  # here
        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as pool:
                try:
                    LocalWorkflow(load("{").set_name("x"), workflow_name="w").run(pool)
                except ValueError:
                    pass
        """
    )
    assert seen.lines[0].startswith("✕ x  JSONDecodeError: Expecting property name")
    assert "# here" in seen.script[int(seen.lines[0].rpartition("script.py:")[2]) - 1]


def test_ctrl_c(run: Run) -> None:
    """A node that it ends has not failed."""
    seen = run(
        """
        flow = LocalWorkflow(naps(0.1), naps(30, 1), naps(30, 2), workflow_name="w")
        try:
            flow.run()
        except KeyboardInterrupt:
            print(vars(sys.stdout).get("write"), vars(sys.stderr).get("write"))
        """,
        interrupt=" 1/3",
    )
    typed, last, streams = seen.lines
    assert "^C" == typed
    assert last.startswith("✕ w: interrupted, 2 not run, 1 computed in")
    assert "None None" == streams
    assert 0 == seen.code


def test_ctrl_c_while_a_run_starts(run: Run) -> None:
    """Nothing is left of it, and the next run is shown."""
    seen = run(
        """
        import signal, threading
        start = threading.Thread.start
        def start_late(thread):
            start(thread)
            signal.raise_signal(signal.SIGINT)
        threading.Thread.start = start_late
        try:
            LocalWorkflow(naps(0.6), workflow_name="first").run()
        except KeyboardInterrupt:
            threading.Thread.start = start
        time.sleep(0.6)
        print([vars(each).get("write") for each in (sys.stdout, sys.stderr)])
        print([thread.name for thread in threading.enumerate()])
        LocalWorkflow(naps(0.6), workflow_name="second").run()
        """
    )
    assert ["[None, None]", "['MainThread']"] == seen.lines[:2]
    assert re.fullmatch(r"✓ second: 1 computed in 0\.\d s", seen.lines[2])
    assert all(bar[0].startswith("second") for bar in seen.bars)


def test_a_folder_that_is_gone(run: Run) -> None:
    """A failure is told, also if the working folder was removed."""
    seen = run(
        """
        @workflow
        def clear():
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
            raise ValueError("no folder")
        try:
            LocalWorkflow(clear().set_name("x"), workflow_name="w").run()
        except ValueError:
            pass
        """
    )
    assert re.fullmatch(r"✕ x  ValueError: no folder  (/.*)?script\.py:\d+", seen.lines[0])
    assert seen.lines[1].startswith("✕ w: 1 failed in")


def test_what_ends_a_run_is_told(run: Run) -> None:
    seen = run(
        """
        @workflow
        def die():
            time.sleep(0.4)
            os._exit(1)
        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as pool:
                try:
                    LocalWorkflow(die(), workflow_name="w").run(pool)
                except RuntimeError:
                    pass
        """
    )
    assert seen.lines[-1].startswith("✕ w: ended by WorkerDiedError: a worker of")


@pytest.mark.parametrize("columns", [40, 20, 6])
def test_a_narrow_terminal(run: Run, columns: int) -> None:
    """Nothing is wrapped, however hostile the names are."""
    seen = run(
        """
        hostile = ["x" * 290, "\\x1b[2Jcls", "a\\nb", "\\u202egnp.exe", "表" * 60, "e\\u0301" * 50]
        nodes = [naps(0.5).set_name(name) for name in hostile]
        nodes.append(workflow(lambda: 1 / 0)().set_name("\\x1b]0;" + "表" * 200))
        with ThreadPoolExecutor(7) as pool:
            for name in ("w", hostile[4], hostile[0]):
                try:
                    LocalWorkflow(*nodes, workflow_name=name).run(pool, keep_going=True)
                except ZeroDivisionError:
                    pass
        """,
        columns=columns,
    )
    assert [] == seen.wrapped
    assert 3 <= len(seen.frames)
    assert not re.search("\x1b(?![\\[D78])|\u202e", seen.raw)
    if columns == 40:
        assert any(re.fullmatch("w ━*╸?━* +\\d/7  0 reused  1 failed", bar[0]) for bar in seen.bars)


def test_a_terminal_of_another_size_meanwhile(run: Run) -> None:
    def narrow(terminal: int, raw: str) -> None:
        if "/2" in raw:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))

    seen = run(
        'LocalWorkflow(naps(0.6).set_name("n" * 90), naps(0.6, 1), workflow_name="w").run()',
        meanwhile=narrow,
    )
    assert len(seen.bars[0][1]) > 90
    assert all(len(line) < 30 for line in seen.bars[-1])


def test_without_color(run: Run) -> None:
    """What is left of the bar is empty then."""
    seen = run('LocalWorkflow(naps(0.6), naps(0.6, 1), workflow_name="w").run()', NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*m", seen.raw)
    assert any(re.search(r"^w ━{10}╸ {12}1/2 ", bar[0]) for bar in seen.bars)


@pytest.mark.parametrize("now", [True, False])
def test_a_terminal_without_a_cursor(run: Run, now: bool) -> None:
    seen = run(
        """
        flow = LocalWorkflow(naps(0.8).set_name("a"), naps(0.8, 1), workflow_name="w")
        flow.run()
        """,
        now=now,
        TERM="dumb",
    )
    first, last = seen.lines
    assert "\x1b" not in seen.raw
    assert first.startswith(f"w  {0 if now else 1}/2  0 reused  0 failed")
    assert "running: " in first
    assert re.fullmatch(r"✓ w: 2 computed in 1\.\d s", last)


def test_pools_that_fork(run: Run) -> None:
    """A child neither waits for a lock of the thread that draws, nor draws."""
    seen = run(
        """
        import multiprocessing
        fork = multiprocessing.get_context("fork")
        @workflow
        def forks(n):
            until, count = time.monotonic() + 1.5, 0
            while time.monotonic() < until:
                child = os.fork()
                if not child:
                    print("child", n, "write" in vars(sys.stdout), flush=True)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                count += 1
            return count
        flow = LocalWorkflow(forks(1), forks(2), workflow_name="w")
        with ThreadPoolExecutor(2) as pool:
            assert min(flow.run(pool)) > 9
        def show(n):
            LocalWorkflow(naps(0.6), workflow_name="inner").run()
            return nap(0.1)
        inner = workflow(show)
        with ProcessPoolExecutor(2, mp_context=fork) as pool:
            LocalWorkflow(*map(inner, range(4)), workflow_name="pool").run(pool)
        """
    )
    assert 0 == seen.code
    assert any("child 1 False" in line for line in seen.lines)
    assert not any("child 1 True" in line for line in seen.lines)
    assert any(re.fullmatch(r"✓ w: 2 computed in 1\.\d s", line) for line in seen.lines)
    assert re.fullmatch(r"✓ pool: 4 computed in \d\.\d s", seen.lines[-1])
    assert "inner" not in seen.raw


def test_only_the_outer_run_is_shown(run: Run) -> None:
    """Not one in a node, nor one in another thread; `value` and the next run are shown."""
    seen = run(
        """
        import threading
        @workflow
        def outer():
            LocalWorkflow(naps(0.4), workflow_name="inner").run(progress=True)
            LocalWorkflow(naps(0.1), workflow_name="inner").value(naps(0.3))
        flow = LocalWorkflow(outer(), workflow_name="outer")
        other = LocalWorkflow(naps(0.3), workflow_name="other")
        thread = threading.Timer(0.1, other.run)
        thread.start()
        flow.run()
        thread.join()
        flow.value(naps(0.3))
        """
    )
    assert "inner" not in seen.raw
    assert "other" not in seen.raw
    assert re.fullmatch(r"✓ outer: 1 computed in 0\.\d s", seen.lines[0])
    assert re.fullmatch(r"✓ outer: 1 computed in 0\.\d s", seen.lines[1])
    assert 2 == len(seen.lines)


@pytest.mark.parametrize("code", ["flow.run(progress=False)", "flow.value(node, progress=False)"])
def test_off_by_the_argument(run: Run, code: str) -> None:
    seen = run(f"node = naps(0.5); flow = LocalWorkflow(node, workflow_name='w'); {code}")
    assert "" == seen.raw


def test_off_by_the_variable(run: Run) -> None:
    code = "LocalWorkflow(naps(1.4), workflow_name='w').run({})"
    assert "" == run(code.format(""), FUNCTIONFUSE_PROGRESS="0").raw
    seen = run(code.format("progress=True"), FUNCTIONFUSE_PROGRESS="0")
    assert "✓ w: 1 computed in 1.4 s" == seen.lines[-1]


def test_a_terminal_that_is_closed(run: Run) -> None:
    """The run goes on without a bar."""
    seen = run(
        """
        @workflow
        def close():
            wait_for_bar()
            terminal = os.open("/dev/null", os.O_RDWR)
            os.dup2(os.open("here", os.O_CREAT | os.O_RDONLY), 2)  # it can't be written to
            time.sleep(0.6)
            return 3
        print(LocalWorkflow(close(), workflow_name="w").run())
        """
    )
    assert any(line.startswith("3") for line in seen.lines)
    assert seen.code in (0, 120)  # that of Python, if stderr has a text that it can't write


def test_an_error_gives_the_streams_back(run: Run) -> None:
    """Nothing is drawn any more."""
    seen = run(
        """
        from functionfuse.show import terminal
        make, count = terminal._bar, []
        def fail(*given):
            count.append(1)
            if len(count) == 2:
                raise ValueError("no bar")
            return make(*given)
        terminal._bar = fail
        @workflow
        def look():
            while terminal._shown or len(count) < 2:
                time.sleep(0.01)
            print("write" in vars(sys.stdout), len(count))
        LocalWorkflow(look(), workflow_name="w").run()
        """
    )
    message = "the progress of the run isn't shown any more: ValueError('no bar')"
    assert [message, "False 2"] == seen.lines


def test_100_000_nodes(run: Run) -> None:
    """They look as few nodes do."""
    seen = run(
        """
        one = workflow(lambda n: n)
        LocalWorkflow(*map(one, range(100_000)), workflow_name="many").run()
        """
    )
    *_, bar = [bar for bar in seen.bars if "left" in bar[0]]
    assert re.fullmatch(
        r"many ━+╸?━*  [\d,]+/(100,000|99,99\d)  0 reused  0 failed  about \d+ s left", bar[0]
    )
    assert len(bar) <= 2
    assert re.fullmatch(r"✓ many: 100,000 computed in \d+\.\d s", seen.lines[-1])
