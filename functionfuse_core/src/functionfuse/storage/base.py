"""The import path that users of the original know for damaged results."""

from __future__ import annotations

from ..errors import DamagedResultError as InvalidPickle

__all__ = ["InvalidPickle"]
