"""Call the function of a node: under the node's name, and for a limited time.

A time limit needs SIGALRM, so it works in the main thread of a process on Linux and macOS. While
the function runs, a handler and a timer of the user wait; afterwards they are as before.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from ..errors import NodeTimeoutError, OptionsError
from ..graph.settings import shown

__all__ = ["NodeFilter", "check_interruptible", "current_node", "in_time", "running"]

running: ContextVar[str] = ContextVar("functionfuse_node", default="")


def current_node() -> str:
    """Return the name of the node whose function calls this, in any process; "" outside of nodes.

    A thread that the function starts has no node, unless it runs in a copy of the context.
    """
    return running.get()


class NodeFilter(logging.Filter):
    """Adds `record.node` to log records: the node whose function logs, or "".

    Add it to a handler, so that the format can have `%(node)s`. It lets all records pass. A record
    that has the attribute keeps it: so it can come from another thread or process, by a queue.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute; return True."""
        if not hasattr(record, "node"):
            record.node = running.get()
        return True


class _TimeIsOver(BaseException):
    """Ends a function. It is no Exception, so that `except Exception` doesn't catch it."""


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
    due, over, result, cause, traceback = True, False, None, None, None

    def interrupt(*_: object) -> None:
        nonlocal over
        if due:
            over = True
            raise _TimeIsOver(f"the node's time of {shown(seconds)} is over")

    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    began = monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            result = call(*args, **kwargs)
        finally:
            due = False
    except BaseException as error:
        if not over or isinstance(error, KeyboardInterrupt):
            raise
        cause = None if isinstance(error, _TimeIsOver) else error
        traceback = error.__traceback__
    finally:
        # The alarm comes once: if it has come before `due` was false, it can't come here.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:
            left = max(left - (monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
    if over:
        late = NodeTimeoutError(f"the function ran longer than {shown(seconds)}")
        raise late.with_traceback(traceback) from cause
    return result
