"""Results of Function Fuse in one SQLite file."""

from __future__ import annotations

from functionfuse_sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
