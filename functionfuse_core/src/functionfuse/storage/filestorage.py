"""The documented import path of `FileStorage`, the kind "file"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..kinds import FileOptions, FileStorage

__all__ = ["FileOptions", "FileStorage"]

__getattr__ = resolver(__name__)
