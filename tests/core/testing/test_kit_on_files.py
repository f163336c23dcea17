"""The kit on what core brings: blobs in files."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_on_files import OnFiles

from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestore import FileStore
from functionfuse.testing import StorageSuite


class TestFileStore(OnFiles):
    """Blobs in files, looked at past the store."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore(str(tmp_path / "store"))


class TestFileStorage(StorageSuite):
    """Results in files."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return storage_factory({"kind": "file", "options": {"path": str(tmp_path / "store")}})
