"""Tests of `copy`: the same bytes under a second key, and two blobs from then on."""

from __future__ import annotations

import time

import pytest

from ..errors import ResultNotFoundError
from ..storage.blobstore import BlobInfo, BlobStore
from .blobbase import Blobs
from .jobs import Blob, in_parts, self_checking

__all__ = ["BlobCopies"]

each_pair = pytest.mark.parametrize(
    ("key", "to"),
    [
        ("w/a", "w/b"),
        ("w/a", "w/.earlier/x"),
        ("w/.earlier/x", "w/a"),
        ("v/w/a", "x"),
        ("a", "b/c"),
    ],
)
each_change = pytest.mark.parametrize("size", [0, 10, 5000, 3 << 20])


class BlobCopies(Blobs):
    """A copy is a blob like any other: whole, young, and apart from the first."""

    @pytest.mark.parametrize("size", [0, 1, 4096, 4097, 1 << 20, 9 << 20])
    def test_a_copy_has_the_same_bytes(self, store: BlobStore, size: int) -> None:
        """Both blobs have all the bytes, whatever their size, and are listed."""
        data = self_checking(max(size, 16))[:size]
        store.put("w/a", in_parts(data, 3))
        store.copy("w/a", "w/.earlier/x")
        assert Blob(data) == Blob(self.raw_get(store, "w/.earlier/x"))
        assert Blob(data) == Blob(store.get("w/.earlier/x"))
        assert Blob(data) == Blob(self.raw_get(store, "w/a"))
        assert [("w/.earlier/x", size), ("w/a", size)] == [(b.key, b.size) for b in store.list("")]
        assert [] == self.leftovers(store)

    @pytest.mark.parametrize("more", [0, 1])
    def test_a_copy_around_the_multipart_threshold(self, store: BlobStore, more: int) -> None:
        """Blobs that were stored in another way are copied, too."""
        if not self.multipart_from:
            pytest.skip(f"{type(self).__name__} declares multipart_from = 0")
        data = self_checking(self.multipart_from + more)
        store.put("w/a", in_parts(data, 5))
        store.copy("w/a", "w/b")
        store.delete(["w/a"])
        assert Blob(data) == Blob(self.raw_get(store, "w/b"))
        assert Blob(data) == Blob(store.get("w/b"))

    @each_pair
    def test_a_copy_to_another_folder(self, store: BlobStore, key: str, to: str) -> None:
        """A blob is copied between any two folders; a missing one is made."""
        self.raw_put(store, key, b"found")
        store.copy(key, to)
        assert [b"found", b"found"] == [self.raw_get(store, name) for name in (key, to)]
        assert sorted([key, to]) == self.raw_keys(store)
        assert [] == self.leftovers(store)

    def test_there_and_back(self, store: BlobStore) -> None:
        """A blob that was set aside in a deeper folder is brought back."""
        store.put("w/a", [b"first"])
        store.copy("w/a", "w/.earlier/x")
        store.put("w/a", [b"second"])
        store.copy("w/.earlier/x", "w/a")
        assert b"first" == self.raw_get(store, "w/a")
        store.delete(["w/.earlier/x"])
        assert b"first" == bytes(store.get("w/a"))
        assert ["w/a"] == self.raw_keys(store)

    def test_a_copy_is_made_again(self, store: BlobStore) -> None:
        """A copy that is there already can be made again, in both directions."""
        store.put("w/a", [b"x"])
        for key, to in (("w/a", "w/b"), ("w/a", "w/b"), ("w/b", "w/a")):
            store.copy(key, to)
            assert [b"x", b"x"] == [self.raw_get(store, name) for name in ("w/a", "w/b")]
        assert ["w/a", "w/b"] == self.raw_keys(store)
        assert [] == self.leftovers(store)

    @pytest.mark.parametrize(
        ("old", "new"), [(10, 5), (10, 0), (0, 10), (3 << 20, 10), (10, 3 << 20)]
    )
    def test_a_copy_replaces(self, store: BlobStore, old: int, new: int) -> None:
        """No reader sees any part of the blob that was replaced."""
        reader = self.reopen(store)
        store.put("w/a", [b"n" * new])
        store.put("w/b", [b"o" * old])
        held = reader.get("w/b")
        store.copy("w/a", "w/b")
        assert Blob(b"n" * new) == Blob(reader.get("w/b"))
        assert Blob(b"n" * new) == Blob(self.raw_get(store, "w/b"))
        assert Blob(b"o" * old) == Blob(held)
        assert [("w/a", new), ("w/b", new)] == [(b.key, b.size) for b in reader.list("")]
        assert [] == self.leftovers(store)

    @each_change
    @pytest.mark.parametrize(("changed", "other"), [("w/a", "w/.c/b"), ("w/.c/b", "w/a")])
    def test_a_change_of_one_leaves_the_other(
        self, store: BlobStore, size: int, changed: str, other: str
    ) -> None:
        """Put and delete of either blob leave the other as it is."""
        data = self_checking(max(size, 16))[:size]
        store.put("w/a", [data])
        store.copy("w/a", "w/.c/b")
        for new in (data[::-1], b"", self_checking(2 << 20, 1)):
            store.put(changed, [new])
            assert Blob(new) == Blob(self.raw_get(store, changed))
            assert Blob(data) == Blob(self.raw_get(store, other))
            assert Blob(data) == Blob(store.get(other))
        store.copy(other, changed)
        store.delete([changed])
        assert Blob(data) == Blob(self.raw_get(store, other))
        assert [other] == self.raw_keys(store)

    @pytest.mark.parametrize("key", ["w/a", "w/b"])
    def test_what_is_got_of_either_belongs_to_the_caller(self, store: BlobStore, key: str) -> None:
        """A changed buffer of either blob changes neither of them."""
        for size in (100, 3 << 20):
            data = self_checking(size)
            store.put("w/a", [data])
            store.copy("w/a", "w/b")
            mine = memoryview(store.get(key))
            if not mine.readonly:
                mine[:] = bytes(len(mine))
            assert [Blob(data)] * 2 == [Blob(self.raw_get(store, name)) for name in ("w/a", "w/b")]

    def test_a_copy_is_present(self, store: BlobStore) -> None:
        """`if_absent` leaves a copy as it is."""
        store.put("w/a", [b"first"])
        store.copy("w/a", "w/b")
        with pytest.raises(FileExistsError):
            store.put("w/b", [b"second"], if_absent=True)
        assert b"first" == self.raw_get(store, "w/b")

    @pytest.mark.parametrize("before", [None, b"before"])
    @pytest.mark.parametrize("key", ["w/none", "w", "w/t/below", "none/t", "none"])
    def test_a_copy_of_nothing(self, store: BlobStore, key: str, before: bytes | None) -> None:
        """If there is no such blob, ResultNotFoundError names it, and nothing changes."""
        store.put("w/t", [b"there"])
        if before is not None:
            store.put("w/to", [before])
        keys = self.raw_keys(store)
        with pytest.raises(ResultNotFoundError) as raised:
            store.copy(key, "w/to")
        assert key in str(raised.value)
        assert before == self.raw_get(store, "w/to")
        assert keys == self.raw_keys(store)
        assert [] == self.leftovers(store)

    def test_a_copy_of_what_was_deleted(self, store: BlobStore) -> None:
        """A deleted blob is missing, and its copy is not."""
        store.put("w/a", [b"x"])
        store.copy("w/a", "w/b")
        store.delete(["w/a"])
        with pytest.raises(ResultNotFoundError):
            store.copy("w/a", "w/c")
        store.copy("w/b", "w/a")
        assert ["w/a", "w/b"] == self.raw_keys(store)

    @pytest.mark.parametrize("size", [0, 3, 3 << 20])
    def test_a_copy_onto_itself(self, store: BlobStore, size: int) -> None:
        """Nothing happens, not even to the time of the blob."""
        data = bytes(size)
        store.put("w/t", [data])
        before = list(store.list(""))
        store.copy("w/t", "w/t")
        assert Blob(data) == Blob(self.raw_get(store, "w/t"))
        assert before == list(store.list(""))

    def test_a_copy_is_young(self, store: BlobStore) -> None:
        """A listing has the time of the copying, not that of an older first blob."""
        store.put("w/a", [b"old"])
        later = self._later(store, self._entry(store, "w/a"))
        store.copy("w/a", "w/.earlier/x")
        copied = self._entry(store, "w/.earlier/x")
        assert later <= copied.modified <= store.now() + 2  # some clocks tick in seconds
        later = self._later(store, copied)
        store.copy("w/.earlier/x", "w/a")
        assert later <= self._entry(store, "w/a").modified

    def test_an_etag_of_a_copy(self, store: BlobStore) -> None:
        """The etag of a key differs after a copy of other bytes; or all are ""."""
        etags = []
        for data in (b"one", b"two", b"six"):
            store.put("w/a", [data])
            store.copy("w/a", "w/t")
            etags.append(self._entry(store, "w/t").etag)
        assert ["", "", ""] == etags or len(set(etags)) == 3

    def _entry(self, store: BlobStore, key: str) -> BlobInfo:
        [found] = [blob for blob in store.list(key) if blob.key == key]
        return found

    def _later(self, store: BlobStore, entry: BlobInfo) -> float:
        """Wait until the store's clock shows another time than that of a blob; return this time."""
        end = time.monotonic() + 60
        while True:
            store.put("w/later", [b"x"])
            later = self._entry(store, "w/later").modified
            if later > entry.modified:
                return later
            assert time.monotonic() < end, "the clock of the store stands still"
            time.sleep(0.001)
