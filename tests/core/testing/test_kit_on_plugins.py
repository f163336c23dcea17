"""The kit on the least that a plugin can be."""

from __future__ import annotations

from typing import ClassVar

import pytest
from kit_plugins import DictStore, Table, Tables

from functionfuse.storage import Storage
from functionfuse.testing import BlobStoreSuite, SerializerSuite, StorageSuite
from functionfuse.testing.suite import Suite
from functionfuse.testing.workers import Workers


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


class Sharing(Suite):
    """Each suite is given what the suites before it were given."""

    found: ClassVar[list[Workers]] = []

    def test_processes_are_shared(self, workers: Workers) -> None:
        self.found.append(workers)
        assert all(workers is other for other in self.found)


class TestSharing(Sharing):
    """A suite."""


class TestSharingAgain(Sharing):
    """Another one, with the same processes."""
