"""The kit on what is broken; `test_kit_catches.py` runs this, and expects it to fail."""

from __future__ import annotations

from typing import Any

import broken_stores
import pytest
from broken_copies import COPIES
from broken_earlier import EARLIER
from broken_plugins import BACKENDS, SERIALIZERS
from broken_runs import RUNS
from kit_on_files import OnFiles
from kit_plugins import DictStore, Table

from functionfuse.storage import Storage
from functionfuse.testing import BackendSuite, BlobStoreSuite, SerializerSuite, StorageSuite


class OnDict(BlobStoreSuite):
    processes = False
    reads_ahead = None


class OnTables(SerializerSuite):
    def examples(self) -> list[Table]:
        return [Table([[1, "a", None], [2.5, "b", True]]), Table([]), Table([["é\n"] * 1000])]


def _suite_of(kind: type) -> type:
    if issubclass(kind, DictStore):

        class Suite(OnDict):
            @pytest.fixture
            def store(self) -> Any:
                return kind()
    else:

        class Suite(OnFiles):  # type: ignore[no-redef]
            @pytest.fixture
            def store(self, tmp_path) -> Any:
                return kind(str(tmp_path / "store"))

    return Suite


def _suite_of_storage(kind: type) -> type:
    class Suite(StorageSuite):
        processes = False

        @pytest.fixture
        def storage(self) -> Storage:
            return Storage(kind()) if issubclass(kind, DictStore) else kind()

    return Suite


def _suite_of_serializer(kind: type) -> type:
    class Suite(OnTables):
        @pytest.fixture
        def serializer(self) -> Any:
            return kind()

    return Suite


def _suite_of_backend(kind: type) -> type:
    class Suite(BackendSuite):
        keeps_values = getattr(kind, "keeps_values", False)
        interrupts = getattr(kind, "interrupts", True)
        resources = getattr(kind, "placed", None)

        @pytest.fixture
        def backend(self) -> Any:
            return kind

    return Suite


for _kinds, _made in (
    (broken_stores.kinds(), _suite_of),
    (COPIES, _suite_of),
    (EARLIER, _suite_of_storage),
    (SERIALIZERS, _suite_of_serializer),
    ([*BACKENDS, *RUNS], _suite_of_backend),
):
    for _kind in _kinds:
        _suite = _made(_kind)
        _suite.__name__ = _suite.__qualname__ = f"Test{_kind.__name__}"
        globals()[_suite.__name__] = _suite
del _suite
