"""The import path of the error for damaged results in the original Function Fuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..errors import DamagedResultError as InvalidPickle

__all__ = ["InvalidPickle"]

__getattr__ = resolver(__name__)
