"""Storages that a worker sees otherwise than the driver."""

from __future__ import annotations

import os

from functionfuse.errors import StorageAccessError
from functionfuse.storage import Storage
from functionfuse.storage.filestore import FileStore


class Places(FileStore):
    """A folder for each value of the variable `PLACE`, as disks of nodes that aren't shared."""

    def __init__(self, path):
        self.path = str(path)
        super().__init__(os.path.join(self.path, os.environ.get("PLACE", "")))

    def __reduce__(self):
        return type(self), (self.path,)


class ReadOnly(Places):
    """A folder that can't be written where `PLACE` is not set."""

    def prepare(self, folder):
        if "PLACE" not in os.environ:
            raise StorageAccessError("no permission to write")
        super().prepare(folder)


class Keeps(Places):
    """A folder in which nothing can be removed."""

    def delete(self, keys):
        raise PermissionError(keys)


def storage(kind, path):
    return Storage(kind(path))
