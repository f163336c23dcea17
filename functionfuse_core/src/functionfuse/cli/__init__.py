"""The command line. A plugin's command uses `open_storage`, `emit` and `UsageError`."""

from __future__ import annotations

from .commands import UsageError, emit, open_storage

__all__ = ["UsageError", "emit", "open_storage"]
