"""The kit on the least that a plugin can be."""

from __future__ import annotations

import pytest
from kit_plugins import DictStore, Table, Tables

from functionfuse.storage import Storage
from functionfuse.testing import BlobStoreSuite, SerializerSuite, StorageSuite


class TestDictStore(BlobStoreSuite):
    """Four methods, in one process."""

    processes = False
    reads_ahead = None

    @pytest.fixture
    def store(self) -> DictStore:
        return DictStore()


class TestDictStorage(StorageSuite):
    """Results in a dict."""

    processes = False

    @pytest.fixture
    def storage(self) -> Storage:
        return Storage(DictStore())


class TestTables(SerializerSuite):
    """A serializer that is an instance."""

    @pytest.fixture
    def serializer(self) -> Tables:
        return Tables()

    def examples(self) -> list[Table]:
        return [Table([[1, "a", None], [2.5, "b", True]]), Table([]), Table([["é\n"] * 1000])]
