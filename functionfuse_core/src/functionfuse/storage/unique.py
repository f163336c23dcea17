"""Texts that no other write has: for temporary names and tokens."""

from __future__ import annotations

import itertools
import os

__all__ = ["unique"]

_numbers = itertools.count()
_process = (0, "")


def unique() -> str:
    """Return a text of letters, digits and hyphens that is given once, by any process anywhere."""
    global _process  # noqa: PLW0603  # made anew after a fork
    pid = os.getpid()
    if _process[0] != pid:
        _process = pid, os.urandom(8).hex()
    return f"{_process[1]}-{next(_numbers):x}"
