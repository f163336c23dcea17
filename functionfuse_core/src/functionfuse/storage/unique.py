"""Texts that no other write has: for temporary names and tokens."""

from __future__ import annotations

import itertools
import os

__all__ = ["unique"]

_numbers = itertools.count()
_process = ""


def unique() -> str:
    """Return a text of letters, digits and hyphens that is given once, by any process anywhere."""
    return f"{_process or _begin()}-{next(_numbers):x}"


def _begin() -> str:
    global _process  # noqa: PLW0603  # made anew after a fork
    _process = os.urandom(8).hex()
    return _process


def _forget() -> None:
    global _process  # noqa: PLW0603
    _process = ""


if hasattr(os, "register_at_fork"):  # asking for the process's number each time costs more
    os.register_at_fork(after_in_child=_forget)
