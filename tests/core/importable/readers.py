"""Runs a function as a user who may read a folder, and not write it."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NOBODY = 65534


@contextmanager
def readable_folder() -> Iterator[Path]:
    """Give a folder that other users can read: those of pytest are closed to them."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        try:
            yield Path(folder)
        finally:
            for path in [Path(folder), *Path(folder).rglob("*")]:
                path.chmod(0o755)


def seen_by_a_reader(folder: Path, look: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return the answer of a function, or its error, and the warnings in the log.

    It runs in a forked process, as another user if this one is root. The folder has no right to
    write for anybody then.
    """
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(receive)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            lines: list[str] = []
            handler = logging.Handler(logging.WARNING)
            handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger().handlers[:] = [handler]
            try:
                answer = look()
            except Exception as error:  # noqa: BLE001  # the test looks at it
                answer = error
            with os.fdopen(send, "wb") as pipe:
                pickle.dump((answer, lines), pipe)
            os._exit(0)
        except BaseException:  # noqa: BLE001  # nothing of pytest may go on in the child
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        data = pipe.read()
    assert (child, 0) == os.waitpid(child, 0)
    found: tuple[Any, list[str]] = pickle.loads(data)
    return found
