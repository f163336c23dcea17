"""Kind "file": results in a folder, one file each, in one folder per workflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from ..hookspecs import StorageKind, hookimpl
from .filestore import FileStore
from .options import StorageOptions, check_options
from .storage import Storage

__all__ = ["FileOptions", "FileStorage"]


class FileOptions(StorageOptions):
    """Options of the kind "file"."""

    path: Path = Field(description="The folder that holds the results; made when it is not there.")
    private: bool = Field(
        default=False,
        description="Only the user may read: files 0600, folders 0700. Else the umask decides.",
    )


class FileStorage(Storage):
    """Results in files below `path`. `storage_factory` makes one from a config.

    Args:
        path: the folder; it is made when the first workflow or result is.
        options: the other options of the kind, see `FileOptions`.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        checked = check_options(FileOptions, kind="file", options={"path": path, **options})
        self.path = os.path.abspath(os.path.expanduser(checked.path))
        super().__init__(FileStore(self.path, private=checked.private), checked)


def _build(options: FileOptions) -> FileStorage:
    return FileStorage(**dict(options))


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Bring the kind "file"."""
    return [StorageKind("file", FileOptions, _build, api_version=1)]
