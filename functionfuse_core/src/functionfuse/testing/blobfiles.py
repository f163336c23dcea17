"""Tests of the methods with defaults: `prepare`, `protocols`, `flush`, `now`, `sweep`."""

from __future__ import annotations

import io

import pytest

from ..serializers import FILE_PROTOCOL
from ..storage.blobstore import BlobStore
from .blobbase import Blobs
from .jobs import Blob, self_checking

__all__ = ["BlobFiles"]


class BlobFiles(Blobs):
    """A store offers files to serializers, and can be prepared and swept."""

    def test_prepare(self, store: BlobStore) -> None:
        """`prepare` can be repeated, adds nothing to listings, and its folder can be deleted."""
        for _ in range(2):
            store.prepare("v/w/")
        assert [] == list(store.list(""))
        store.put("v/w/t", [b"x"])
        store.prepare("v/w/")
        assert b"x" == self.raw_get(store, "v/w/t")
        store.delete(["v/w/t", "v/w/"])
        assert [] == list(store.names("v/"))

    @pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
    def test_a_file_is_a_blob(self, store: BlobStore, size: int) -> None:
        """A file that a serializer writes is the blob of that name in the folder."""
        data = self_checking(max(size, 16))[:size]
        with store.protocols("w/.data/")[FILE_PROTOCOL].open("f", "wb") as file:
            file.write(data[: size // 2])
            file.write(data[size // 2 :])
        assert Blob(data) == Blob(self.raw_get(store, "w/.data/f"))
        with store.protocols("w/.data/")[FILE_PROTOCOL].open("f", "rb") as file:
            assert data == file.read()

    def test_a_blob_is_a_file(self, store: BlobStore) -> None:
        """A blob is read like a file: in pieces, from any offset."""
        data = self_checking(100_000)
        store.put("w/.data/f", [data])
        with store.protocols("w/.data/")[FILE_PROTOCOL].open("f") as file:
            assert data[:10] == file.read(10)
            assert 50_000 == file.seek(50_000)
            assert data[50_000:50_010] == file.read(10)
            file.seek(-5, io.SEEK_END)
            assert data[-5:] == file.read()

    def test_a_file_is_written_in_any_order(self, store: BlobStore) -> None:
        """A file can be written in any order: HDF5 and zip go back to write a header at the end."""
        with store.protocols("w/.data/")[FILE_PROTOCOL].open("f", "wb") as file:
            file.write(b"????-body")
            file.seek(0)
            file.write(b"head")
            assert 4 == file.tell()
        assert b"head-body" == self.raw_get(store, "w/.data/f")

    def test_a_file_of_text(self, store: BlobStore) -> None:
        """Text is UTF-8 on every system."""
        files = store.protocols("w/.data/")[FILE_PROTOCOL]
        with files.open("f", "w") as file:
            file.write("Größe: 3 µm")
        assert "Größe: 3 µm".encode() == self.raw_get(store, "w/.data/f")
        with files.open("f", "r") as file:
            assert "Größe: 3 µm" == file.read()

    def test_a_missing_file(self, store: BlobStore) -> None:
        """Reading a missing file raises FileNotFoundError; removing it raises nothing."""
        files = store.protocols("w/.data/")[FILE_PROTOCOL]
        with pytest.raises(FileNotFoundError):
            files.open("none", "rb")
        files.remove("none")
        assert [] == self.raw_keys(store)

    def test_a_file_is_removed(self, store: BlobStore) -> None:
        """Removing a file removes no other."""
        files = store.protocols("w/.data/")[FILE_PROTOCOL]
        for name in ("a", "b"):
            with files.open(name, "wb") as file:
                file.write(name.encode())
        files.remove("a")
        assert ["w/.data/b"] == self.raw_keys(store)

    def test_files_of_two_folders(self, store: BlobStore) -> None:
        """Each folder has its own files; flushing them changes nothing."""
        for folder in ("v/.data/", "w/.data/"):
            with store.protocols(folder)[FILE_PROTOCOL].open("f", "wb") as file:
                file.write(folder.encode())
        store.flush(["v/.data/f", "w/.data/f"])
        assert b"v/.data/" == self.raw_get(store, "v/.data/f")
        assert b"w/.data/" == self.raw_get(store, "w/.data/f")

    def test_now_goes_forward(self, store: BlobStore) -> None:
        """The store's clock does not go back."""
        times = [store.now() for _ in range(5)]
        assert sorted(times) == times
        assert all(isinstance(moment, float) for moment in times)

    def test_sweep_keeps_blobs(self, store: BlobStore) -> None:
        """If all writers have ended, there is nothing to sweep, at any age."""
        for key in ("w/t", "w/.data/f", "a"):
            store.put(key, [b"x"])
        assert [] == list(store.sweep(-60.0, dry_run=True))
        assert [] == list(store.sweep(-60.0))
        assert ["a", "w/.data/f", "w/t"] == self.raw_keys(store)
        assert [] == self.leftovers(store)
