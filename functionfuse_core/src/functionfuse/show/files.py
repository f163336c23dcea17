"""Write a file so that readers see the old one or the new one, and no part of it."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

__all__ = ["replaced"]


def replaced(path: Path, content: bytes) -> Path:
    """Replace a file atomically, and return its path. Raises OSError; the old file is there then.

    A file keeps its permissions, and a link goes on to lead to its file. A device or a pipe is
    written into. Raises ValueError for a path with a null character.
    """
    target = path.resolve()
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        target.write_bytes(content)
        return path
    beside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(content)
        if mode is not None and stat.S_ISREG(mode):
            beside.chmod(stat.S_IMODE(mode))
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path
