"""One SQLite connection for each thread, and none that is open while the process forks."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Connections"]


class _Slot:
    """The connection of one thread, and who uses it just now: its thread, or a fork."""

    def __init__(self) -> None:
        # A thread may come again before Python has ended what a KeyboardInterrupt has left.
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def __del__(self) -> None:
        self.close()


class Connections:
    """Opens a connection when a thread first needs it; it is closed when the thread ends.

    SQLite keeps in memory which locks its process holds. A forked process would take over that
    memory without the locks, and damage the file. So whoever forks waits until nobody uses a
    connection, and closes them all; both sides open them anew.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self.connect = connect
        self.local = threading.local()

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection."""
        slot: _Slot | None = getattr(self.local, "slot", None)
        if slot is None:
            _watch_forks()
            slot = self.local.slot = _Slot()
            with _registering:
                _slots.add(slot)
        with slot.lock:
            if slot.connection is None:
                slot.connection = self.connect()
            yield slot.connection


_slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
_registering = threading.Lock()
_held: list[_Slot] = []


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_close_all, after_in_parent=_free, after_in_child=_free)


def _close_all() -> None:
    _registering.acquire()
    for slot in list(_slots):
        slot.lock.acquire()
        _held.append(slot)
        slot.close()


def _free() -> None:
    while _held:
        _held.pop().lock.release()
    _registering.release()
