"""The import path that users of the original know for damaged results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..errors import DamagedResultError as InvalidPickle

__all__ = ["InvalidPickle"]

__getattr__ = resolver(__name__)
