"""Text on a terminal beside the progress of a run: what is printed, asked and typed there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pseudo_terminal import Run, in_folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return in_folder(tmp_path)


def typing(*steps: tuple[str, str]) -> Callable[[int, str], None]:
    """Return what types each answer in two halves, 0.6 s apart, when its prompt has come."""
    open_ = list(steps)

    def meanwhile(terminal: int, raw: str) -> None:
        if open_ and open_[0][0] in raw:
            _, answer = open_.pop(0)
            half = len(answer) // 2
            for part in answer[:half], answer[half:] + "\n":
                time.sleep(0.6)
                os.write(terminal, part.encode())

    return meanwhile


def test_text_of_functions(run: Run) -> None:
    """What a function prints stands above the bar, whole and in order; it isn't held back."""
    seen = run(
        """
        @workflow
        def talk():
            for n in range(40):
                print("out", n)
                print("err", n, file=sys.stderr)
                time.sleep(0.03)
            print("name? ", end="")
            time.sleep(0.6)
            print("Ada")
            sys.stderr.writelines(["a\\n", "b\\n"])
            print(sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.fileno())
        LocalWorkflow(talk(), workflow_name="w").run()
        """
    )
    told = [f"{kind} {n}" for n in range(40) for kind in ("out", "err")]
    assert [*told, "name? Ada", "a", "b", "True utf-8 1"] == seen.lines[:-1]
    assert 6 < len(seen.bars)
    assert not any(bar[0].startswith("name?") for bar in seen.bars)


def test_text_of_those_who_hold_a_stream(run: Run) -> None:
    """Such as a log handler, whose lines also stand above the bar."""
    seen = run(
        """
        import contextlib, io, logging
        logging.basicConfig(format="%(message)s")
        streams = sys.stdout, sys.stderr
        @workflow
        def talk():
            time.sleep(0.35)
            for n in range(3):
                logging.warning("warned %d", n)
                print("told", n, file=streams[0])
            with contextlib.redirect_stdout(io.StringIO()):
                print("nothing")
                time.sleep(0.35)
            kept.append(sys.stdout.write)
        kept = []
        LocalWorkflow(talk(), workflow_name="w").run()
        kept[0]("later\\n")
        print(streams == (sys.stdout, sys.stderr), [vars(each).get("write") for each in streams])
        """
    )
    told = [f"{text} {n}" for n in range(3) for text in ("warned", "told")]
    assert told == seen.lines[:6]
    assert ["later", "True [None, None]"] == seen.lines[7:]


def test_text_that_goes_past_the_bar(run: Run) -> None:
    """A line of a worker process, or of C code, stands above the bar."""
    seen = run(
        """
        @workflow
        def talk(n):
            for m in range(3):
                time.sleep(0.35)
                os.write(1, b"wrote %d\\n" % m)
        LocalWorkflow(talk(1), workflow_name="w").run()
        """
    )
    assert ["wrote 0", "wrote 1", "wrote 2"] == [line.rstrip("━ ") for line in seen.lines[:3]]


@pytest.mark.parametrize("now", [True, False])
def test_a_line_that_was_begun_before(run: Run, now: bool) -> None:
    """It stays, and goes on where it was: before the run, and before the first bar."""
    seen = run(
        """
        @workflow
        def talk():
            for n in range(18):
                print(n, end=" ", flush=True)
                time.sleep(0.1)
            print("end")
            time.sleep(0.4)
        print("Computing: ", end="", flush=True)
        LocalWorkflow(talk(), workflow_name="w").run()
        print("x", end="", flush=True)
        LocalWorkflow(naps(1.4).set_name("n"), workflow_name="w").run()
        print("done")
        """,
        now=now,
    )
    numbers = " ".join(map(str, range(18)))
    first, last, begun, end, done = seen.lines
    assert f"Computing: {numbers} end" == first
    assert "x" == begun
    assert "done" == done
    assert all(line.startswith("✓ w: 1 computed in") for line in (last, end))
    assert any(frame[-3] == "x" for frame in seen.frames if frame[-1].startswith("  n "))


def test_a_failure_after_a_line_that_was_begun(run: Run) -> None:
    """It has a line of its own, also if the line was begun in its first or its last column."""
    for begun in ("1", "1234567890" * 4):
        seen = run(
            f"""
            bad = workflow(lambda: 1 / 0)().set_name("bad")
            print({begun!r}, end="", flush=True)
            try:
                LocalWorkflow(bad, naps(0.6), workflow_name="w").run(keep_going=True)
            except ZeroDivisionError:
                pass
            """,
            columns=40,
        )
        assert begun == seen.lines[0]
        assert seen.lines[1].startswith("✕ bad  Zero")
        assert seen.lines[2].startswith("✕ w: 1 failed")
        assert 3 == len(seen.lines)


def test_input_and_the_debugger(run: Run) -> None:
    """There is no bar while they wait, and the prompt and a text that is half typed stay."""
    script = """
    import builtins
    @workflow
    def ask():
        wait_for_bar()
        name = input("name? ")
        breakpoint()
        print("Hello", name)
        wait_for_bar()
    own = builtins.input
    LocalWorkflow(ask(), workflow_name="w").run()
    print(builtins.input is own)
    """
    steps = ("name? ", "Ada"), ("(Pdb) ", "p 6 * 7"), ("\n42", "c")
    seen = run(script, meanwhile=typing(*steps))
    assert "(Pdb) p 6 * 7" in seen.lines, seen.raw
    assert "name? Ada" == seen.lines[0]
    debugger = seen.lines.index("(Pdb) p 6 * 7")
    assert ["42", "(Pdb) c", "Hello Ada"] == seen.lines[debugger + 1 : debugger + 4]
    assert seen.lines[-2].startswith("✓ w: 1 computed in")
    assert "True" == seen.lines[-1]
    for typed in "name? Ada\r\n", "(Pdb) p 6 * 7\r\n", "(Pdb) c\r\n":
        assert typed in seen.raw
    assert "━" in seen.raw.partition("name? ")[0]
    assert "━" in seen.raw.partition("Hello")[2]


def test_what_asks_past_the_bar(run: Run) -> None:
    """A password, and what another process asks: the prompt stands above the bar."""
    seen = run(
        """
        import getpass, subprocess
        @workflow
        def ask():
            wait_for_bar()
            word = getpass.getpass("Password: ")
            subprocess.run(["sh", "-c", "printf 'Key: '; read key"])
            print("asked", word)
        LocalWorkflow(ask().set_name("ask"), workflow_name="w").run()
        """,
        meanwhile=typing(("Password: ", "open"), ("Key: ", "sesame")),
    )
    assert ["Password:", "Key: sesame", "asked open"] == seen.lines[:3]
    assert seen.lines[3].startswith("✓ w: 1 computed in")
    for begun in ("Password:", "Key:", "Key: ses"):
        assert any(begun in frame[-3:-2] for frame in seen.frames), begun


def test_getpass_without_a_terminal_of_its_own(run: Run) -> None:
    """It writes its prompt to stderr, and the bar is away."""
    seen = run(
        """
        import getpass
        @workflow
        def ask():
            wait_for_bar()
            sys.stderr.write("Password: ")
            sys.stderr.flush()
            return sys.stdin.readline()
        print(LocalWorkflow(ask(), workflow_name="w").run())
        """,
        meanwhile=typing(("Password: ", "open")),
    )
    assert "Password: open" == seen.lines[0]
    assert "━" not in seen.raw.partition("Password: ")[2]


def test_streams_with_a_write_of_their_own(run: Run) -> None:
    """As IPython gives them in each cell: they get it back, and it never sees a bar."""
    seen = run(
        """
        written = []
        def tee(stream):
            write = stream.write
            def write_both(text):
                written.append(text)
                return write(text)
            stream.write = write_both
            return write_both
        tees = [tee(stream) for stream in (sys.stdout, sys.stderr)]
        @workflow
        def talk(tees):
            for n in range(12):
                print(n)
                time.sleep(0.1)
            if tees:
                sys.stderr.write = tees[1] = lambda text: len(text)
        LocalWorkflow(talk([]), workflow_name="w").run()
        print([sys.stdout.write, sys.stderr.write] == tees)
        print([text for text in written if "\\x1b" in text])
        LocalWorkflow(naps(0.3), workflow_name="w").run()
        """
    )
    assert [str(n) for n in range(12)] == seen.lines[:12]
    assert ["True", "[]"] == seen.lines[13:15]
    assert 4 < len(seen.bars)
