"""Do something as another user, in a forked process; a folder that all users can reach."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root"
)


def as_user(user: int, action: Callable[[], object], *, group: int = NOBODY) -> None:
    """Call a function as another user; an error, which is printed, fails the test."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            action()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # also what pytest raises
            traceback.print_exc()
        finally:
            os._exit(1)
    assert (child, 0) == os.waitpid(child, 0)


@contextmanager
def open_folder(mode: int = 0o777, *, group: int = -1) -> Iterator[Path]:
    """Make a folder that other users can reach, without the umask that takes rights away."""
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            store = Path(folder, "store")
            store.mkdir()
            os.chown(store, -1, group)
            store.chmod(mode)
            yield store
    finally:
        os.umask(before)
