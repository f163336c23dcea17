"""What a run shows while it runs; the texts and the bar are in `show`.

A thread looks at the run four times a second. The run itself does nothing for it: no listener, no
lock. The thread reads what the run's own thread changes meanwhile, by calls that take no time, so
numbers may be off by one until the next look.

One run at a time is shown in a process. A run inside a node, in any process, shows nothing.

Ctrl-C can come between any two steps of the run's own thread, also in `__enter__` and `__exit__`.
So all that is drawn, and the end of it, is the work of the other thread. That one ends when the run
says so, or else when the lock `running` is free: no Ctrl-C comes between a `with` and its lock.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from itertools import islice
from operator import attrgetter
from time import monotonic
from traceback import walk_tb
from types import TracebackType
from typing import Any, Self

from ..errors import OptionsError
from ..show.progress import End, Lines, News, Notebook, Painter, Row, View, in_notebook
from ..show.terminal import LOCK, Terminal, guard_forks, is_terminal
from .calling import current_node
from .events import RunEvents
from .job import text_of
from .order import RUNNING, STOPPED, SUBMITTED, WAITING, Order

__all__ = ["VARIABLE", "Progress"]

logger = logging.getLogger(__name__)

VARIABLE = "FUNCTIONFUSE_PROGRESS"

_EVERY = 0.25  # seconds between two looks
_QUIET = 1.0  # seconds in which nothing is shown, unless it is asked for
_ROWS = 4  # nodes that are shown
_MOST = 20  # failures that are told one by one, and as many new attempts
_COUNTED = 5_000  # nodes that are looked at, at a time
_TIMED = 200  # of these, how many are asked for their seconds
_AGES = 1e12  # seconds that no function runs
_KNOWN = 0.05  # the part of the nodes that must be computed before the time left is told

_function = attrgetter("function")

# The lock and the thread of the run that is shown, or that was the last one. LOCK guards it.
_shown = [(threading.Lock(), threading.Thread())]

_in_worker = re.compile(r'File "(.+?)", line (\d+)').findall
_LIBRARIES = os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__)


class Progress:
    """Shows a run; a context manager around it, within one of `running`.

    Args:
        wanted: True to show it at once, wherever that is; False not to show it; None: as the
            environment variable says, and else on terminals and in notebooks, after a second.

    Attributes:
        running: a lock that is held while the run may be shown.

    Raises:
        OptionsError: the environment variable is neither 0 nor 1.
    """

    def __init__(self, wanted: bool | None, events: RunEvents, order: Order) -> None:
        self._events = events
        self._order = order
        self._make, self._quiet = _choice(wanted)
        self.running = threading.Lock()
        self._painter: Painter | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._process = os.getpid()
        self._began = monotonic()
        self._planned = 0.0  # when the plan was seen
        self._seen: dict[tuple[int, int], float] = {}  # by node and attempts: when seen to run
        self._ran = False  # whether nodes were running at the last look
        self._tells = False  # whether nodes in `_seen` are known to run
        self._computed = 0  # nodes that were counted
        self._left: dict[int, float] = {}  # by function: nodes that are not computed
        self._done: dict[int, float] = {}  # and that are
        self._timed: dict[int, tuple[int, float]] = {}  # some of these, and their seconds
        self._news: list[News] = []  # to be told
        self._told = 0  # how many failures
        self._interrupted = 0  # nodes that Ctrl-C ended: these didn't fail
        self._why: str | None = None  # the run has ended early; None: it has not ended
        self._again: dict[int, int] = {}  # by node: attempts that were told
        self._is_broken = False

    def __enter__(self) -> Self:
        if self._make is None or current_node():
            return self
        guard_forks()
        run = copy_context().run  # a notebook finds its cell by the context
        thread = threading.Thread(target=run, args=(self._poll,), daemon=True, name=__name__)
        with LOCK:
            running, former = _shown[0]
            if running.locked():
                return self
            _shown[0] = self.running, thread
        if former.is_alive():  # Ctrl-C came when it should end: it ends at its next look
            former.join()
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # there are too many threads
            self._thread = None
        return self

    def last_look(self) -> None:
        """Note the failures that were not told, before they are dropped."""
        if self._thread is not None and self._process == os.getpid():
            self._guarded(self._note)

    def __exit__(
        self, _: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None or self._process != os.getpid():
            return  # a child that leaves the run by an error, too
        self._why = f"ended by {text_of(error)}" if error else ""
        if isinstance(error, KeyboardInterrupt):
            self._why = "interrupted"
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(_EVERY) and self.running.locked() and not self._is_broken:
            self._guarded(lambda: self._paint(self._look))
        why = self._why
        if why is not None:
            self._guarded(lambda: self._paint(lambda painter: self._finish(painter, why)))
        with LOCK:
            self._close()

    def _guarded(self, do: Callable[[], object]) -> None:
        """Do something alone; an error ends only the progress."""
        failed: Exception | None = None
        with LOCK:
            try:
                if not self._is_broken:
                    do()
            except Exception as error:  # noqa: BLE001  # the run is more important
                self._is_broken, failed = True, error
                self._close()
        if failed is not None:  # not under the lock: a handler of the log may wait for it
            logger.warning("the progress of the run isn't shown any more: %r", failed)

    def _close(self) -> None:
        if isinstance(self._painter, Terminal):
            self._painter.close()

    def _paint(self, show: Callable[[Painter], object]) -> None:
        """Show something, if it is time."""
        self._watch(monotonic())
        if self._make and monotonic() >= self._began + self._quiet:
            if self._painter is None:
                self._painter = self._make()
            show(self._painter)

    def _look(self, painter: Painter) -> None:
        self._tell(painter)
        painter.show(self._view())

    def _finish(self, painter: Painter, why: str) -> None:
        self._tell(painter)
        painter.end(self._end(why))

    def _watch(self, now: float) -> None:
        """Note which nodes run; or which are submitted, if the backend doesn't tell what runs."""
        if not self._planned:
            if not (self._events.wanted or self._events.reused):
                return
            self._planned = now
        state, attempts = self._order.state, self._events.attempts
        seen: dict[tuple[int, int], float] = {}
        runs = RUNNING in state
        # Between two nodes of a pool, too, none runs for a moment.
        self._tells, self._ran = runs or self._ran, runs
        code, most = (RUNNING, sys.maxsize) if self._tells else (SUBMITTED, _ROWS)
        index = state.find(code)
        while index >= 0 and len(seen) < most:
            key = index, attempts.get(index, 0)
            seen[key] = self._seen.get(key, now)
            index = state.find(code, index + 1)
        self._seen = seen

    def _view(self) -> View:
        events, state, now = self._events, self._order.state, monotonic()
        name = events.workflow_name
        if not self._planned:
            return View(name, 0, 0)
        # First what has ended: a node that ends meanwhile is missed once, and never counted twice.
        reused, failed = len(events.reused), len(events.failed) - self._interrupted
        done = len(events.ran) + reused + failed
        submitted, running = state.count(SUBMITTED), state.count(RUNNING)
        open_ = state.count(WAITING) + submitted + running
        total = done + open_ + max(0, state.count(STOPPED) - failed)
        oldest = heapq.nsmallest(_ROWS, self._seen.items(), key=lambda item: item[1])
        rows = [Row(events.names[n], now - begun, not self._tells) for (n, _), begun in oldest]
        more = max(0, (running if self._tells else submitted) - len(rows))
        return View(name, done, total, reused, failed, self._time_left(open_, now), rows, more)

    def _time_left(self, open_: int, now: float) -> float | None:
        """Return the seconds until the end; None if that isn't known yet.

        The work that is left is estimated by the mean time of each function. It takes as long as
        the work up to now did, in proportion: so it counts how many nodes run at once, and the time
        between them.
        """
        self._count()
        if not self._computed or self._computed < _KNOWN * (self._computed + open_):
            return None
        means = {key: seconds / timed for key, (timed, seconds) in self._timed.items()}
        done = sum(count * means.get(key, 0.0) for key, count in self._done.items())
        mean = done / self._computed
        nodes = sum(self._left.values())
        work = sum(count * means.get(key, mean) for key, count in self._left.items())
        left = open_ * (work / nodes if nodes else mean)
        for (index, _), since in self._seen.items() if self._tells else ():
            key = id(_function(self._events.graph.nodes[index]))
            done += now - since
            left -= min(now - since, means.get(key, mean))
        return (now - self._planned) * max(0.0, left) / done if done else None

    def _count(self) -> None:
        """Count the nodes that are newly computed, by function; of many, the newest stand for all.

        No line of Python runs for each node, but for a few that are asked for their seconds.
        """
        ran, nodes = self._events.ran, self._events.graph.nodes

        def functions(indexes: Iterable[int]) -> Iterator[int]:
            return map(id, map(_function, map(nodes.__getitem__, indexes)))

        if not self._left:
            self._left |= Counter(functions(self._events.wanted))
        new = len(ran) - self._computed
        if new <= 0:
            return
        self._computed += new
        newest = list(islice(reversed(ran), min(new, _COUNTED)))
        for key, count in Counter(functions(newest)).items():
            stands_for = count * new / len(newest)
            self._done[key] = self._done.get(key, 0.0) + stands_for
            self._left[key] = max(0.0, self._left.get(key, 0.0) - stands_for)
        for key, index in zip(functions(newest), newest[:_TIMED], strict=False):
            timed, seconds = self._timed.get(key, (0, 0.0))
            self._timed[key] = timed + 1, seconds + ran[index][1]

    def _tell(self, painter: Painter) -> None:
        """Tell what is new."""
        self._note()
        while self._news:
            painter.tell(self._news.pop(0))

    def _note(self) -> None:
        """Note the new failures and the new attempts, to be told."""
        events = self._events
        new_attempts = events.retried.items() if len(self._again) < _MOST else ()
        for index, text in list(new_attempts)[:_MOST]:
            failed = events.attempts[index]
            if failed > self._again.get(index, 0) and index not in events.failed:
                self._again[index] = failed
                told = f"{text} (attempt {failed}, is tried again)"
                self._news.append(News(events.names[index], told, again=True))
        for index, error in list(events.errors.items())[self._told + self._interrupted :]:
            if isinstance(error, KeyboardInterrupt):
                self._interrupted += 1
                continue
            self._told += 1
            if self._told <= _MOST:
                name, text = events.names[index], events.failed[index]
                self._news.append(News(name, text, _place(error)))
            elif self._told == _MOST + 1:
                more = "more nodes failed, which the report of the run has"
                self._news.append(News("", more))

    def _end(self, why: str) -> End:
        events, state = self._events, self._order.state
        failed = sum(index not in events.ran for index in events.failed) - self._interrupted
        left_out = sum(map(state.count, (WAITING, SUBMITTED, RUNNING, STOPPED))) - failed
        reused = events.reused.difference(events.ran)  # it looks at the former only
        return End(
            events.workflow_name,
            len(events.ran),
            len(reused),
            failed,
            max(0, left_out),
            self._saved(reused),
            monotonic() - self._began,
            why,
        )

    def _saved(self, reused: set[int]) -> float | None:
        """Return how long the reused results took, as far as the plan has read it."""
        stored: Any = self._events.decisions.stored if self._events.decisions else ()
        found = [getattr(stored[index], "seconds", None) for index in reused] if stored else ()
        # A header can have any number.
        known = [seconds for seconds in found if seconds is not None and 0 <= seconds < _AGES]
        return sum(known) if known else None


def _choice(wanted: bool | None) -> tuple[Callable[[], Painter] | None, float]:
    """Return what makes the painter, None for no painter, and the seconds without any text."""
    if wanted is None:
        given = os.environ.get(VARIABLE, "")
        processes: Any = sys.modules.get("multiprocessing.process")
        if given not in {"", "0", "1"}:
            raise OptionsError(
                f"the environment variable {VARIABLE} is 1 to show the progress of runs, 0 not to,"
                f" or unset, not {given!r}"
            )
        if given == "0" or (processes and processes.parent_process()):
            return None, 0.0  # a worker inherits the variable, and the terminal
        wanted = True if given else None
    if wanted is False:
        return None, 0.0
    quiet = 0.0 if wanted else _QUIET
    if in_notebook(sys.modules):
        return Notebook, quiet
    if is_terminal(sys.stderr):
        # Such a terminal can't move its cursor.
        is_dumb = os.environ.get("TERM", "") in {"dumb", "unknown"}
        return (_on_stderr if is_dumb else Terminal), quiet
    if logger.isEnabledFor(logging.INFO):
        return (lambda: Lines(lambda line: logger.info("%s", line))), 0.0
    return (_on_stderr if wanted else None), 0.0


def _on_stderr() -> Painter:
    stream: Any = sys.stderr
    return Lines(lambda line: stream.write(f"{line}\n"))


def _place(error: BaseException) -> str:
    """Return file and line where an error was raised; "" if that is unknown.

    It is the last line that isn't in a library, here or in the worker.
    """
    lines = [(frame.f_code.co_filename, str(line)) for frame, line in walk_tb(error.__traceback__)]
    for note in getattr(error, "__notes__", ()):
        if note.startswith("in the worker:\n"):
            lines += _in_worker(note)
    own = [line for line in lines if not _is_library(line[0])]
    if not lines:
        return ""
    file, line = (own or lines)[-1]
    try:
        here = os.getcwd() + os.sep
    except OSError:  # the folder is gone
        here = ""
    return f"{file.removeprefix(here)}:{line}"


def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, "<")) or "site-packages" in file
