"""Storages of every kind to copy between, and what both must have in common afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kept_values import KeptSerializer
from result_bytes import MemoryStore

from functionfuse.config.options import StorageOptions
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import BlobStore, Storage
from functionfuse.storage.header import TaskInfo
from going_back import opened

# The example is not installed for every Python that runs these tests.
KINDS = ("files", "memory", *(["sqlite"] if find_spec("functionfuse_sqlite") else []))
NOBODY: Any = {"allow": []}  # trust: nothing can be unpickled


class Tree:
    """A value of many files in one folder."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files


class TreeSerializer:
    """Writes a folder of files, with digests; by hand where the storage has no plain files."""

    name = "tree"
    serializer_class = Tree

    @staticmethod
    def pickle(obj: Tree, protocols: dict[str, Any]) -> tuple[str, str]:
        pid = generate_name()
        folder = Path(protocols[FILE_PROTOCOL].folder(pid, "w"))
        for name, data in obj.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return TreeSerializer.name, pid

    @staticmethod
    def unpickle(pid: str, protocols: dict[str, Any]) -> Tree:
        folder = Path(protocols[FILE_PROTOCOL].folder(pid))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return Tree({str(path.relative_to(folder)): path.read_bytes() for path in files})

    @staticmethod
    def remove(pid: str, protocols: dict[str, Any]) -> None:
        raise AssertionError("a copy needs no serializer")


def storage_of(kind: str, path: Path, **options: Any) -> Storage:
    """Return a storage of a kind, with options."""
    if kind == "files":
        return opened(path, **options)
    store: BlobStore = MemoryStore()
    if kind == "sqlite":
        from functionfuse_sqlite import SqliteStore

        store = SqliteStore(str(path / "results.db"))
    return again(Storage(store), **options)


def again(storage: Storage, **options: Any) -> Storage:
    """Return another storage of the same results, with options."""
    found = Storage(storage.store, StorageOptions.model_validate(options))
    found.register_persistent_serializers(KeptSerializer, TreeSerializer)
    return found


def infos(storage: Storage, workflow_name: str = "w") -> Iterator[TaskInfo]:
    """Iterate over the headers of all latest results, without what a signature changes."""
    for name in storage.list_tasks(workflow_name):
        yield storage.task_info(workflow_name, name)._replace(signed=False)


def actions(reports: list[Any]) -> list[str]:
    return [report.action for report in reports]


def keys(storage: Storage) -> list[str]:
    """Return the keys of all blobs, without the marks for older releases and of workflows."""
    keys = [blob.key for blob in storage.store.list("")]
    return [key for key in keys if "newer" not in key and not key.endswith("/.functionfuse")]
