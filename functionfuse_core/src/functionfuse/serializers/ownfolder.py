"""A temporary folder of this process, for files that have to have a path."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

__all__ = ["OwnFolder", "own_folder"]

_PREFIX, _LOCK = "functionfuse-files-", ".lock"


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
        self._locks: dict[str, threading.Lock] = {}
        # Unlike `atexit`, also in processes of `multiprocessing`; not in those that are forked.
        Finalize(None, _remove, (self.folder,), exitpriority=-10)
        for other in Path(self.folder).parent.glob(f"{_PREFIX}*/{_LOCK}"):
            if str(other) != lock:
                _remove_if_free(other)

    def lock(self, path: str) -> threading.Lock:
        """Return the lock of those who make the same file in it."""
        with _lock:
            return self._locks.setdefault(path, threading.Lock())


_lock = threading.Lock()
_mine: OwnFolder | None = None


def own_folder() -> OwnFolder:
    """Return the folder of this process, which is made at the first call."""
    global _mine  # noqa: PLW0603  # once per process
    with _lock:
        found = _mine
        if found is None or found.process != os.getpid() or not os.path.isdir(found.folder):
            found = _mine = OwnFolder()
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
