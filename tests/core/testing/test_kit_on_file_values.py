"""The kit of serializers on `File`, and on its own serializer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse import File
from functionfuse.serializers import ownfolder
from functionfuse.serializers.file import FileSerializer
from functionfuse.storage import Storage
from functionfuse.testing import SerializerSuite

CONTENTS = {"a.txt": b"a", "b.txt": b"a", "empty": b"", "ü %2F.tar.gz": b"acgt" * 500_000}


class TestFileSerializer(SerializerSuite):
    """A stored file is needed as long as its `File` is used."""

    reads_at_once = False

    @pytest.fixture
    def serializer(self) -> FileSerializer:
        return FileSerializer()

    @pytest.fixture(autouse=True)
    def sources(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "sources"
        self.folder.mkdir()
        for name, content in CONTENTS.items():
            (self.folder / name).write_bytes(content)

    @pytest.fixture(autouse=True)
    def private(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Remove the folder of this process before its end."""
        monkeypatch.setattr(ownfolder, "_mine", None)
        yield
        if ownfolder._mine:
            shutil.rmtree(ownfolder._mine.folder)

    def examples(self) -> list[Any]:
        return [File(self.folder / name) for name in CONTENTS]

    def equal(self, one: Any, two: Any) -> bool:
        return (one.name, Path(one).read_bytes()) == (two.name, Path(two).read_bytes())
