"""The kit on what core brings: blobs in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestore import FileStore
from functionfuse.testing import BlobStoreSuite, StorageSuite


class TestFileStore(BlobStoreSuite):
    """Blobs in files, looked at past the store."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore(str(tmp_path / "store"))

    def raw_get(self, store, key):
        path = Path(store.root, key)
        return path.read_bytes() if path.is_file() else None

    def raw_put(self, store, key, data):
        path = Path(store.root, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_keys(self, store):
        found = (path for path in Path(store.root).rglob("*") if path.is_file())
        keys = (path.relative_to(store.root).as_posix() for path in found)
        return sorted(key for key in keys if "/.tmp-" not in f"/{key}")

    def leftovers(self, store):
        return [path.name for path in Path(store.root).rglob(".tmp-*")]


class TestFileStorage(StorageSuite):
    """Results in files."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return storage_factory({"kind": "file", "options": {"path": str(tmp_path / "store")}})
