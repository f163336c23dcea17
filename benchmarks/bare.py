"""The bare system calls that put bytes into a file safely, as the peer of what a storage does."""

from __future__ import annotations

import os

__all__ = ["create_write_rename"]


def create_write_rename(temporary: str, path: str, data: bytes) -> None:
    """Write a new file, and rename it; nothing is flushed to the drive."""
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(file, data)
    os.close(file)
    os.rename(temporary, path)
