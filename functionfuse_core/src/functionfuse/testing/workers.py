"""Processes and threads in which the kits use the tested objects."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import jobs

__all__ = ["LATE", "Workers", "together"]

LATE = 300.0  # seconds, after which a job counts as hanging


class Workers:
    """Fresh Python processes, which share no state with this one."""

    def __init__(self) -> None:
        self.idle: list[subprocess.Popen[bytes]] = []

    def run(self, job: str, *arguments: Any) -> Any:
        """Run a job of `jobs.py` in another process; its arguments are pickled."""
        return self.run_all([(job, *arguments)])[0]

    def run_all(self, asked: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run jobs at the same time, each in its own process; raise the error of the first one."""
        while len(self.idle) < len(asked):
            self.idle.append(_started())
        busy, self.idle = self.idle[: len(asked)], self.idle[len(asked) :]
        ends = threading.Timer(LATE, _kill, [busy])
        ends.start()
        try:
            for process, (job, *arguments) in zip(busy, asked, strict=True):
                question = pickle.dumps((job, arguments))
                _ask(process, (sys.path, question))
            answers = [_answer(process) for process in busy]
        except BaseException:
            _end(busy)
            raise
        finally:
            ends.cancel()
        self.idle += busy
        for raised, result in answers:
            if raised:
                raise result
        return [result for _, result in answers]

    def warm(self, count: int, owner: Any) -> None:
        """Start processes, and let them import all modules that unpickling `owner` needs."""
        self.run_all([("call", owner, "__repr__")] * count)

    def close(self) -> None:
        """End all processes, which remove their temporary files."""
        for process in self.idle:
            if process.stdin is not None:
                process.stdin.close()
        ends = threading.Timer(LATE, _kill, [self.idle])
        ends.start()
        for process in self.idle:
            process.wait()
        ends.cancel()
        _end(self.idle)
        self.idle = []


def together(*actions: Callable[[], Any]) -> list[Any]:
    """Call functions at the same time, each in a thread; return the results, or raise an error."""
    results: list[Any] = [None] * len(actions)
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(actions))

    def act(index: int) -> None:
        try:
            barrier.wait(LATE)
            results[index] = actions[index]()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [
        threading.Thread(target=act, args=(index,), daemon=True) for index in range(len(actions))
    ]
    end = time.monotonic() + LATE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
        if not errors and thread.is_alive():
            raise AssertionError(f"a thread hangs: it isn't done after {LATE:.0f} s")
    if errors:
        raise errors[0]
    return results


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", jobs.__file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _ask(process: subprocess.Popen[bytes], question: Any) -> None:
    if process.stdin is None:
        raise AssertionError
    pickle.dump(question, process.stdin)
    process.stdin.flush()


def _answer(process: subprocess.Popen[bytes]) -> tuple[bool, Any]:
    if process.stdout is None:
        raise AssertionError
    try:
        raised, result = pickle.load(process.stdout)
    except EOFError:
        raise AssertionError(
            f"a process ended, or hung for {LATE:.0f} s and was killed, while it used the store"
        ) from None
    return raised, result


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    _kill(processes)
    for process in processes:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.wait()
