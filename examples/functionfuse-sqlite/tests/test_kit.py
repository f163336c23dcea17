"""The conformance kit, on blobs and on results in SQLite."""

from __future__ import annotations

import sqlite3

import pytest

from functionfuse import storage_factory
from functionfuse.testing import BlobStoreSuite, StorageSuite
from functionfuse_sqlite import SqliteStore


class TestSqliteStore(BlobStoreSuite):
    """The helpers of the kit look into the database themselves."""

    multipart_from = 1 << 20

    @pytest.fixture
    def store(self, tmp_path):
        return SqliteStore(str(tmp_path / "results.db"))

    def query(self, store, statement, *values):
        store.prepare("")
        connection = sqlite3.connect(store.path)
        rows = connection.execute(statement, values).fetchall()
        connection.close()
        return rows

    def raw_get(self, store, key):
        if not self.query(store, "SELECT key FROM blobs WHERE key = ?", key):
            return None
        pieces = "SELECT data FROM pieces WHERE key = ? ORDER BY number"
        return b"".join(data for (data,) in self.query(store, pieces, key))

    def raw_keys(self, store):
        return [key for (key,) in self.query(store, "SELECT key FROM blobs ORDER BY key")]

    def leftovers(self, store):
        orphans = "SELECT key FROM pieces WHERE key NOT IN (SELECT key FROM blobs)"
        damage = self.query(store, "PRAGMA integrity_check")
        return [row for row in self.query(store, orphans) + damage if row != ("ok",)]


class TestSqliteStorage(StorageSuite):
    """The storage is made as users make it."""

    @pytest.fixture
    def storage(self, tmp_path):
        options = {"path": str(tmp_path / "results.db")}
        return storage_factory({"kind": "sqlite", "options": options})
