"""The kit on the least that a plugin can be."""

from __future__ import annotations

import pytest
from kit_plugins import DictStore, Table, Tables

from functionfuse.testing import BlobStoreSuite, SerializerSuite


class TestDictStore(BlobStoreSuite):
    """Four methods, in one process."""

    processes = False
    reads_ahead = None

    @pytest.fixture
    def store(self) -> DictStore:
        return DictStore()


class TestTables(SerializerSuite):
    """A serializer that is an instance."""

    @pytest.fixture
    def serializer(self) -> Tables:
        return Tables()

    def examples(self) -> list[Table]:
        return [Table([[1, "a", None], [2.5, "b", True]]), Table([]), Table([["é\n"] * 1000])]
