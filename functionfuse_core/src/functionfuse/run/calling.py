"""The call of a node's function: whose it is, and how long it may take.

A time limit needs SIGALRM, so it works in the main thread of a process on Linux and macOS. While
the function runs, a handler and a timer of the user wait; afterwards they are as before. If a
function with a time limit runs inside another one, such as a run in a node, the shorter time holds.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import CodeType, FrameType
from typing import Any, TypeVar

from ..errors import NodeTimeoutError, OptionsError
from ..graph.settings import shown

# `signal.signal` is this function, and looks for enum members in what it gets and returns. That
# takes longer than all the rest of a call with a timeout.
try:
    from _signal import signal as set_handler  # type: ignore[import-not-found]
except ImportError:  # a Python without this module
    from signal import signal as set_handler

__all__ = ["NodeFilter", "check_interruptible", "current_node", "in_time", "runs_nodes"]

Method = TypeVar("Method", bound=Callable[..., Any])

_LONGEST = 1e9  # seconds; a timer can't be set to any number

_runs: set[CodeType] = set()


def runs_nodes(method: Method) -> Method:
    """Mark the method of a job that calls its function, while its variable `running` is the job."""
    _runs.add(method.__code__)
    return method


def current_node() -> str:
    """Return the name of the node whose function calls this, in any process; "" outside of nodes.

    It is found on the stack of calls, so it costs nothing while no one asks. A coroutine has the
    node of the function that runs the event loop; a thread that the function starts has none.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _runs and (job := frame.f_locals.get("running")):
            return str(job.name)
        frame = frame.f_back
    return ""


class NodeFilter(logging.Filter):
    """Adds `record.node` to log records: the node whose function logs, or "".

    Add it to a handler, so that the format can have `%(node)s`. It lets all records pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute; return True."""
        record.node = current_node()
        return True


class _TimeIsOver(BaseException):
    """Ends a function. It is no Exception, so that `except Exception` doesn't catch it."""


class _Alarm:
    """The handler of SIGALRM while a function runs.

    Attributes:
        due: whether the function runs, so that it can be interrupted.
        over: whether it was interrupted.
        around: the alarm of a function around this one, if its time is over first.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due = True
        self.over = False
        self.around: _Alarm | None = None

    def __call__(self, *_: object) -> None:
        if self.due and self.around:
            self.around()
        elif self.due:
            self.over = True
            raise _TimeIsOver(f"the node's time of {shown(self.seconds)} is over")


def check_interruptible() -> None:
    """Raise OptionsError if a function that runs here can't be interrupted."""
    if not hasattr(signal, "setitimer"):
        raise OptionsError("functions can't be interrupted on this system")
    if threading.current_thread() is not threading.main_thread():
        raise OptionsError("threads can't be interrupted: use processes")


def in_time(seconds: float, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function; return its result.

    Raises:
        NodeTimeoutError: the time was over before the function returned, even if the function
            caught the interruption.
        OptionsError: functions can't be interrupted here.
    """
    check_interruptible()
    alarm, result, cause, traceback = _Alarm(seconds), None, None, None
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    began = monotonic()
    handler = set_handler(signal.SIGALRM, alarm)
    first = min(seconds, _LONGEST)
    if isinstance(handler, _Alarm) and 0 < left < first:
        first, alarm.around = left, handler
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, first)
            result = call(*args, **kwargs)
        finally:
            alarm.due = False
    except BaseException as error:
        if not alarm.over or isinstance(error, KeyboardInterrupt):
            raise
        cause = None if isinstance(error, _TimeIsOver) else error
        traceback = error.__traceback__
    finally:
        # The alarm comes once: if it has come before `due` was false, it can't come here.
        signal.setitimer(signal.ITIMER_REAL, 0)
        set_handler(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left and not (isinstance(handler, _Alarm) and handler.over):
            left = max(left - (monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
    if alarm.over:
        late = NodeTimeoutError(f"the function ran longer than {shown(seconds)}")
        raise late.with_traceback(traceback) from cause
    return result
