"""A temporary folder of this process, for files that have to have a path."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from . import generate_name
from .content import State, state_of

__all__ = ["OwnFolder", "own_folder"]

_PREFIX, _LOCK = "functionfuse-files-", ".lock"
_AGE = 10_000_000_000  # nanoseconds: a copy looks so old that each write changes its time

logger = logging.getLogger(__name__)


class OwnFolder:
    """A folder of this process, which only the user can enter. It is removed when it ends.

    A process that is killed leaves it. So each one holds a lock in its folder, and the next process
    that makes one removes those without a holder.
    """

    def __init__(self) -> None:
        from multiprocessing.util import Finalize  # on use: its import takes a few milliseconds

        self.process = os.getpid()
        self.folder = tempfile.mkdtemp(prefix=_PREFIX)
        new, lock = f"{self.folder}/.new", f"{self.folder}/{_LOCK}"
        self._held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        os.rename(new, lock)  # before, nobody finds it
        self._copies: dict[object, tuple[str, State]] = {}
        self._locks: dict[object, threading.Lock] = {}
        # Unlike `atexit`, also in processes of `multiprocessing`; not in those that are forked.
        Finalize(None, _remove, (self.folder,), exitpriority=-10)

    def lock(self, file: object) -> threading.Lock:
        """Return the lock of those who make the same file in it."""
        return self._locks.setdefault(file, threading.Lock())

    def copied(self, key: object, name: str, blocks: Callable[[], Iterable[bytes]]) -> str:
        """Return the path of a copy, which is made once, and again if a program wrote to it.

        Args:
            key: two copies with the same key are one.
            name: the name of the file, for messages.
            blocks: returns the content.

        Raises OSError if the disk is full, and what `blocks` raises; then there is no copy.
        """
        with self.lock(key):
            path, state = self._copies.get(key) or (f"{self.folder}/{generate_name()}", ())
            found = state_of(os.stat(path)) if os.path.exists(path) else ()
            if not found or found != state:
                if found:
                    logger.warning("a program wrote to the file %r: it is copied again", name)
                try:
                    self._write(path, blocks())
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    text = f"no space to copy the file {name!r}: set TMPDIR to another disk"
                    raise OSError(error.errno, text, path) from None
                self._copies[key] = path, state_of(os.stat(path))
            return path

    def _write(self, path: str, blocks: Iterable[bytes]) -> None:
        partly = f"{path}.part"
        try:
            with open(partly, "wb") as file:
                file.writelines(blocks)
                file.flush()
                os.fchmod(file.fileno(), 0o400)
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now - _AGE))
            os.rename(partly, path)  # links to an earlier copy lead to this one
        except BaseException:
            Path(partly).unlink(missing_ok=True)
            raise

    def remove_leftovers(self) -> None:
        """Remove the folders of processes that were killed."""
        for other in Path(self.folder).parent.glob(f"{_PREFIX}*/{_LOCK}"):
            if str(other.parent) != self.folder:
                _remove_if_free(other)


_locks: dict[int, threading.Lock] = {}  # by process: a thread that isn't forked can hold one
_mine: OwnFolder | None = None


def own_folder() -> OwnFolder:
    """Return the folder of this process, which is made at the first call."""
    global _mine  # noqa: PLW0603  # once per process
    with _locks.setdefault(os.getpid(), threading.Lock()):
        found = _mine
        if found and found.process == os.getpid() and os.path.isdir(found.folder):
            return found
        found = _mine = OwnFolder()
    found.remove_leftovers()
    return found


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_if_free(lock: Path) -> None:
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # of another user, or just removed
    try:
        if os.fstat(file).st_uid == os.getuid():
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(str(lock.parent))
    except OSError:
        return  # its process is alive
    finally:
        os.close(file)
