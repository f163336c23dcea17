"""Write a file so that readers see the old one or the new one, and no part of it."""

from __future__ import annotations

import uuid
from pathlib import Path

__all__ = ["replaced"]


def replaced(path: Path, content: bytes) -> Path:
    """Replace a file atomically, and return its path. Raises OSError; the old file is there then.

    Raises ValueError for a path with a null character.
    """
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(content)
        return beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
