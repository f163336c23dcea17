"""The backends of `LocalWorkflow`: this process, and executors of `concurrent.futures`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from ...errors import WorkerDiedError
from ...run.contract import Started
from ...run.crossing import JobError, NotBegunError, Portable, end_run
from ...run.job import Job, Outcome

__all__ = ["InProcess", "OnExecutor"]

_WAKE = -1  # no job has this key: values don't stay here, so no job is a load
_LOOK = 0.05  # seconds between looks at the jobs that have begun


class InProcess:
    """Runs each job in this process, when it is submitted."""

    name = "in process"
    remote = False
    keeps = False
    limit = 1

    def __init__(self) -> None:
        self._done: list[Outcome] = []

    def submit(self, job: Job) -> None:
        """Run a job."""
        self._done.append(job.run())

    def wait(self, timeout: float | None) -> Sequence[Outcome]:
        """Return the outcome of the job."""
        del timeout
        done, self._done = self._done, []
        return done

    def cancel(self) -> Sequence[Outcome]:
        """Return the outcome of a job that has run."""
        return self.wait(0)

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        """Never called: values come in outcomes."""
        del handles
        return []


class OnExecutor:
    """Runs jobs on an executor of `concurrent.futures`, which it doesn't shut down.

    An executor of processes takes some jobs in advance, and can't cancel these any more. So the
    worker looks, before each job, for a file that `cancel` makes; it runs no job of this run then.

    Ctrl-C must not come between the executor and the note of a job, or of its outcome: the report
    would be wrong, and the job not waited for. So `interruptible` lets it wait until `wait`.

    Args:
        workflow_name: for the error of an executor that breaks.
    """

    remote = True
    keeps = False
    limit = 0

    def __init__(self, executor: Executor, workflow_name: str) -> None:
        self._executor = executor
        self.name = type(executor).__name__
        self._workflow_name = workflow_name
        self._jobs: dict[int, tuple[str, Future[Portable]]] = {}  # by key: name and future
        self._queued: deque[int] = deque()  # of these, what isn't known to have begun
        self._running: set[int] = set()  # of these, what is
        self._done: SimpleQueue[int] = SimpleQueue()
        self._ends = f"{tempfile.gettempdir()}/functionfuse-{os.urandom(8).hex()}.ended"
        self._handed = False  # whether the executor may have a job whose future isn't known
        self._interrupted = False  # whether Ctrl-C has come, and `wait` has not raised it
        self._cancelled = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C come through in `wait`, or at once if no job is out, or if it comes again."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if self._interrupted or self._cancelled or not (self._jobs or self._handed):
            raise KeyboardInterrupt
        self._interrupted = True
        self._done.put(_WAKE)

    def submit(self, job: Job) -> None:
        """Hand a job over to the executor.

        Raises:
            WorkerDiedError: the executor is broken.
        """
        self._handed = True
        try:
            future = self._executor.submit(Portable(job, ends=self._ends))
            self._jobs[job.key] = job.name, future
        except Exception as error:
            self._handed = False
            if isinstance(error, BrokenExecutor):
                raise self._died() from error
            raise
        self._handed = False
        self._queued.append(job.key)
        future.add_done_callback(lambda _: self._done.put(job.key))

    def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
        """Wait until a job begins or ends.

        Raises:
            WorkerDiedError: the executor broke; names the jobs that may have broken it.
        """
        until = None if timeout is None else monotonic() + timeout
        while True:
            if self._interrupted:
                self._interrupted = False
                raise KeyboardInterrupt
            news = self._begun()
            if news:
                return news
            left = None if until is None else max(0.0, until - monotonic())
            if self._queued and self._has_workers():
                left = _LOOK if left is None else min(left, _LOOK)
            try:
                key = self._done.get(timeout=left)
            except Empty:
                if until is not None and monotonic() >= until:
                    return ()
                continue
            if key == _WAKE:
                continue
            try:
                return (self._outcome(key),)
            except BrokenExecutor as error:
                raise self._died() from error

    def cancel(self) -> Sequence[Outcome]:
        """Cancel the jobs that have not begun, wait for the others, and return their outcomes."""
        self._cancelled = True
        end_run(self._ends)
        ends, threads = Path(self._ends), isinstance(self._executor, ThreadPoolExecutor)
        if not threads and (self._jobs or self._handed):
            with suppress(OSError):  # then those that the executor took in advance run, too
                ends.touch()
                atexit.register(ends.unlink, missing_ok=True)
        for key, (_, future) in list(self._jobs.items()):
            if _is_cancelled(future):
                del self._jobs[key]
        wait([future for _, future in self._jobs.values()])
        if not self._handed:
            ends.unlink(missing_ok=True)
            atexit.unregister(ends.unlink)
        lost = [key for key, (_, future) in self._jobs.items() if _is_lost(future)]
        for key in lost:
            del self._jobs[key]
        outcomes = [self._outcome(key) for key in list(self._jobs)]
        return [each for each in outcomes if not isinstance(each.error, NotBegunError)]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        """Never called: values come in outcomes."""
        del handles
        return []

    def _has_workers(self) -> bool:
        """Return whether a worker may be free for a job that isn't known to have begun.

        Executors of processes say that a job is running when it is in the queue of the workers. In
        truth no more jobs run than there are workers: those of Python and loky have this attribute.
        """
        workers = getattr(self._executor, "_max_workers", None) or sys.maxsize
        return len(self._running) < workers

    def _begun(self) -> list[Started]:
        """Return the jobs that have begun; executors begin them in the order of submission."""
        begun = []
        while self._queued and self._has_workers():
            _, future = self._jobs.get(self._queued[0], ("", None))
            if future is not None and not (future.running() or future.done()):
                break
            key = self._queued.popleft()
            if future is not None and not _is_lost(future):
                self._running.add(key)
                begun.append(Started(key))
        return begun

    def _outcome(self, key: int) -> Outcome:
        _, future = self._jobs[key]
        try:
            try:
                outcome: Outcome = future.result().content
            except JobError as failed:
                outcome = failed.outcome.content
        except BrokenExecutor:
            raise
        except BaseException as error:  # noqa: BLE001  # the job or its outcome can't cross
            outcome = Outcome.of_error(key, error)
        outcome.key = key
        del self._jobs[key]
        self._running.discard(key)
        return outcome

    def _died(self) -> WorkerDiedError:
        """Return the error of a broken executor: it names the nodes that may have broken it."""
        names = [
            repr(name)
            for name, future in self._jobs.values()
            if not future.done() or _is_lost(future)
        ]
        if not names:  # it broke earlier
            return WorkerDiedError(f"{self._executor!r} is broken: make a new one")
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return WorkerDiedError(
            f"a worker of {self._executor!r} died; it was given, in this order, node(s)"
            f" {', '.join(names[:10])}{more} of workflow {self._workflow_name!r}. Stored results"
            " stay: run again with a new executor"
        )


def _is_lost(future: Future[Any]) -> bool:
    """Return whether a future ended without its job: cancelled, or its executor broke."""
    if not future.done():
        return False
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _is_cancelled(future: Future[Any]) -> bool:
    """Cancel a future if it hasn't begun; some executors can't, and raise."""
    try:
        return future.cancel()
    except Exception:  # noqa: BLE001  # then it is waited for
        return False
