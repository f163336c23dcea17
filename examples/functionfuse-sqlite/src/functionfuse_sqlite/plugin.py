"""Kind "sqlite": results in one file, for one machine."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from functionfuse.hookspecs import StorageKind, hookimpl
from functionfuse.storage import Storage
from functionfuse.storage.options import StorageOptions

__all__ = ["SqliteOptions"]


class SqliteOptions(StorageOptions):
    """Options of the kind "sqlite"."""

    path: Path = Field(description="The database file, on a local disk; made when it is not there.")
    timeout: float = Field(
        default=60.0, gt=0, description="How long to wait for other writers, in seconds."
    )


def _build(options: SqliteOptions) -> Storage:
    from functionfuse_sqlite.store import SqliteStore

    path = os.path.abspath(os.path.expanduser(options.path))
    return Storage(SqliteStore(path, timeout=options.timeout), options)


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Bring the kind "sqlite"."""
    return [StorageKind("sqlite", SqliteOptions, _build, api_version=1)]
