"""A script in a pseudo-terminal, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from threading import Timer
from typing import Any

from rich.cells import cell_len

HEAD = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

def nap(seconds, *after):
    time.sleep(seconds)
    return seconds

naps = workflow(nap)

def wait_for_bar():  # until it is on the terminal, and has taken the streams
    from functionfuse.show import terminal
    while True:
        with terminal.LOCK:
            if any(shown._is_there for shown in terminal._shown):
                return
        time.sleep(0.01)
"""

_PARTS = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\x1b([D78])|([\r\n])|[^\x1b\r\n]+")
_TOP = re.compile(r" [\d,]+/[\d,]+|planning")


class Seen:
    """What came to a terminal.

    Attributes:
        script: the lines of the script.
        raw: the characters.
        code: the exit code of the script.
        frames: all lines, each time after the cursor has gone back: then there is a whole bar.
        lines: all lines in the end.
        wrapped: lines that were too long.
    """

    def __init__(  # noqa: C901  # a branch for each thing that a terminal does
        self, raw: str, script: str, code: int, columns: int
    ) -> None:
        self.script = script.splitlines()
        self.raw = raw
        self.code = code
        self.frames: list[list[str]] = []
        self.wrapped: list[str] = []
        rows: list[list[str]] = [[]]  # cells; a wide character has an empty one behind it
        row = column = 0
        kept = 0, 0
        for part in _PARTS.finditer(raw):
            text, number, kind = part[0], part[1], part[2] or part[3] or part[4]
            if kind == "m":
                continue
            if kind == "J":
                del rows[row + 1 :], rows[row][column:]
            elif kind == "A":
                row -= int(number)
            elif kind == "7":
                kept = row, column
            elif kind == "8":
                row, column = kept
                self.frames.append(_lines(rows))
            elif kind in {"D", "\n"}:
                row, column = row + 1, column if kind == "D" else 0
                rows += [[]] * (row + 1 - len(rows))
            elif kind == "\r":
                column = 0
            elif kind:
                raise AssertionError(f"the terminal got {text!r}")
            for character in "" if kind else text:
                width = cell_len(character)
                if not width:  # an accent
                    rows[row][column - 1] += character
                    continue
                if column + width > columns:
                    if character != " ":
                        self.wrapped.append("".join(rows[row]))
                    row, column = row + 1, 0
                    rows += [[]] * (row + 1 - len(rows))
                rows[row] = rows[row] + [" "] * (column - len(rows[row]))
                rows[row][column : column + width] = [character, *[""] * (width - 1)]
                column += width
        self.lines = _lines(rows)
        while self.lines and not self.lines[-1]:
            self.lines.pop()

    @property
    def bars(self) -> list[list[str]]:
        """The lines of each bar that was drawn, first line first."""
        found = []
        for frame in self.frames:
            tops = [n for n, line in enumerate(frame) if _TOP.search(line)]
            found.append(frame[tops[-1] :] if tops else [])
        return found


def _lines(rows: list[list[str]]) -> list[str]:
    return ["".join(row).rstrip() for row in rows]


def run(
    script: Path,
    code: str,
    *,
    columns: int = 100,
    interrupt: str = "",
    meanwhile: Callable[[int, str], object] = lambda *_: None,
    **variables: str,
) -> Seen:
    """Run code in a Python with a terminal of its own, for stdin, stdout and stderr.

    Args:
        interrupt: when this text has come, Ctrl-C is pressed, once.
        meanwhile: is called with the terminal, and what has come up to now.
        variables: of the environment; "" unsets one.
    """
    script.write_text(dedent(code))
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "FUNCTIONFUSE_PROGRESS")
    unset = (*unset, "PYTHONBREAKPOINT")  # `ray.init` sets it, and leaves it after the session
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TERM": "xterm-256color", **variables}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=script.parent,
        env={name: value for name, value in environment.items() if value},
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        # Without it, Ctrl-C goes to nobody; and in the background, a shell has it ignored.
        preexec_fn=lambda: (  # noqa: PLW1509
            fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            signal.signal(signal.SIGINT, signal.default_int_handler),
        ),
    )
    os.close(child)
    late = Timer(120, process.kill)  # the test fails then, and doesn't hang
    late.start()
    raw, pressed = b"", False
    while True:
        try:
            raw += (piece := os.read(parent, 65536))
        except OSError:  # all who had the terminal are gone
            break
        if not piece:
            break
        if interrupt and not pressed and interrupt in raw.decode(errors="replace"):
            pressed = True
            os.write(parent, b"\x03")
        meanwhile(parent, raw.decode(errors="replace"))
    late.cancel()
    os.close(parent)
    return Seen(raw.decode(), script.read_text(), process.wait(60), columns)


Run = Callable[..., Seen]


def in_folder(folder: Path) -> Run:
    """Return a `run` for code about workflows; progress is shown at once, unless `now` is false."""

    def run_in_folder(code: str, *, now: bool = True, **options: Any) -> Seen:
        if now:
            options.setdefault("FUNCTIONFUSE_PROGRESS", "1")
        return run(folder / "script.py", HEAD + dedent(code), **options)

    return run_in_folder
