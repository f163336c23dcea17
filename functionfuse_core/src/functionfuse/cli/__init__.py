"""The command line. The names here are for the commands of plugins: see docs/plugins.md."""

from __future__ import annotations

from ..show.texts import table
from .commands import UsageError, emit, open_storage

__all__ = ["UsageError", "emit", "open_storage", "table"]
