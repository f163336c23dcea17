"""Run commands of `functionfuse` in processes, also in a pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["TIME", "Said", "Terminal", "process"]

TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?")


class Said(NamedTuple):
    """What a command printed, and how it ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The only JSON document of the output."""
        assert "\x1b" not in self.out
        return json.loads(self.out)

    @property
    def masked(self) -> Said:
        """The same without the times and the digests of calls."""
        return self._replace(out=re.sub(r"\b[0-9a-f]{8,32}\b", "CALL", TIME.sub("TIME", self.out)))


def process(*words: str) -> Said:
    """Run a command as it is typed."""
    command = [sys.executable, "-m", "functionfuse", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


class Terminal:
    """A process of `functionfuse` in a pseudo-terminal; only its output is piped."""

    def __init__(self, *words: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "functionfuse", *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        """Type text; the character 4 is Ctrl-D."""
        os.write(self.ours, text.encode())

    def ends(self, question: str, answer: Callable[[Terminal], object]) -> Said:
        """Wait for a question, and answer it; `err` is all that the terminal shows."""
        shown = b""
        while not shown.endswith(question.encode()):
            ready = select.poll()  # `select.select` takes no descriptor above 1023
            ready.register(self.ours, select.POLLIN)
            if not ready.poll(60_000):
                self.process.kill()
                raise AssertionError(f"no question, but {shown!r}")
            shown += os.read(self.ours, 1000)
        answer(self)
        out, _ = self.process.communicate(timeout=60)
        try:
            while more := os.read(self.ours, 1000):
                shown += more
        except OSError:  # Linux: nobody has the other end open
            pass
        os.close(self.ours)
        return Said(self.process.returncode, out.decode(), shown.decode())
