"""Tests of bytes in and out: `put`, `get`, `head`, `blocks` and `if_absent`."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..errors import DamagedResultError, ResultNotFoundError
from ..storage.blobstore import BlobStore, Streamed
from .blobbase import Blobs
from .jobs import Blob, Parts, in_parts, is_whole, self_checking
from .workers import together

__all__ = ["BYTES", "KEYS", "BlobBytes"]

KEYS = [
    "a",
    "w/t",
    "w/.data/x",
    "w/.damaged/t/0123456789abcdef",
    "--help/-rf",
    "a b/c d",
    " leading/ trailing ",
    "a,b=c/+d@(e)",
    "%2E%2E/%2Fetc%2Fpasswd",
    "%00/%0A%25",
    "CON/NUL.txt",
    ".../..x",
    "w/a.tmp",
    "w/a.",
    "w/0",
    "1/2/3/4/5/6/7/8",
    "w/" + "x" * 200,
    "%C3%BC" * 33 + "/" + "y" * 200,
]
BYTES = {
    "every byte": bytes(range(256)) * 3,
    "line ends": b"\r\n\n\r\x00\x1a\r\n",
    "zeros": bytes(10_000),
    "text that is no UTF-8": b"\xff\xfe\xfd\x80",
    "a pickle": b"\x80\x05N.",
}
SIZES = [0, 1, 4095, 4096, 4097, (1 << 16) - 1, 1 << 16, (1 << 16) + 1]
SIZES += [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 16 << 20]
each_key = pytest.mark.parametrize("key", KEYS, ids=[key[:24] for key in KEYS])


class BlobBytes(Blobs):
    """`get` returns the bytes of `put`: every byte, under every key, of any size."""

    @each_key
    def test_any_key_is_a_name_of_its_own(self, store: BlobStore, key: str) -> None:
        """A blob under any legal key can be got, listed and deleted, and changes no other."""
        store.put("w/other", [b"other"])
        store.put(key, [b"of ", key.encode()])
        assert b"of " + key.encode() == self.raw_get(store, key)
        assert b"of " + key.encode() == bytes(store.get(key))
        assert sorted([key, "w/other"]) == [blob.key for blob in store.list("")]
        store.delete([key])
        assert self.raw_get(store, key) is None
        assert ["w/other"] == self.raw_keys(store)

    def test_all_keys_stand_side_by_side(self, store: BlobStore) -> None:
        """No two keys share a blob."""
        for key in KEYS:
            store.put(key, [key.encode()])
        assert sorted(KEYS) == self.raw_keys(store)
        assert KEYS == [bytes(store.get(key)).decode() for key in KEYS]

    def test_upper_and_lower_case_are_two_keys(self, store: BlobStore) -> None:
        """Keys that differ in case only are two blobs."""
        self.needs("distinguishes_case")
        store.put("w/task", [b"lower"])
        store.put("w/TASK", [b"upper"])
        assert [b"lower", b"upper"] == [bytes(store.get(key)) for key in ("w/task", "w/TASK")]

    @pytest.mark.parametrize("size", SIZES)
    def test_a_blob_of_any_size_comes_back(self, store: BlobStore, size: int) -> None:
        """Blobs come back, in one part or several, at sizes around limits of pages and buffers."""
        data = self_checking(max(size, 16))[:size]
        store.put("w/one", [data])
        store.put("w/parts", in_parts(data, 3))
        assert Blob(data) == Blob(self.raw_get(store, "w/one"))
        assert Blob(data) == Blob(store.get("w/one"))
        assert Blob(data) == Blob(store.get("w/parts"))
        assert [size, size] == [blob.size for blob in store.list("w/")]

    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_a_blob_around_the_multipart_threshold_comes_back(
        self, store: BlobStore, more: int
    ) -> None:
        """Blobs just below and above the threshold for multipart uploads come back."""
        if not self.multipart_from:
            pytest.skip(f"{type(self).__name__} declares multipart_from = 0")
        data = self_checking(self.multipart_from + more)
        store.put("w/t", in_parts(data, 5))
        assert Blob(data) == Blob(self.raw_get(store, "w/t"))
        assert Blob(data) == Blob(store.get("w/t"))
        assert data[:100] == store.head("w/t", 100)
        assert Blob(data) == Blob(b"".join(map(bytes, store.blocks("w/t", 1 << 20))))

    @pytest.mark.parametrize("data", BYTES.values(), ids=list(BYTES))
    def test_bytes_are_bytes(self, store: BlobStore, data: bytes) -> None:
        """Bytes are not decoded, translated or trimmed."""
        store.put("w/t", [data])
        assert Blob(data) == Blob(self.raw_get(store, "w/t"))
        assert Blob(data) == Blob(store.get("w/t"))

    def test_get_finds_what_something_else_has_put(self, store: BlobStore) -> None:
        """The store finds blobs that others have put: it has no list of its own."""
        self.raw_put(store, "w/t", b"made elsewhere")
        assert b"made elsewhere" == bytes(store.get("w/t"))
        assert ["w/t"] == [blob.key for blob in store.list("w/")]

    def test_parts_are_joined_in_their_order(self, store: BlobStore) -> None:
        """The blob is the parts, joined in order."""
        store.put("w/t", [b"zz,", b"a,", b"mmmm,", b"a,", b""])
        assert b"zz,a,mmmm,a," == self.raw_get(store, "w/t")

    def test_no_parts_make_an_empty_blob(self, store: BlobStore) -> None:
        """An empty blob is a blob: it can be got and is listed."""
        store.put("w/none", [])
        store.put("w/empty", [b"", b""])
        assert [b"", b""] == [bytes(store.get(key)) for key in ("w/none", "w/empty")]
        assert ["w/empty", "w/none"] == self.raw_keys(store)
        assert b"" == bytes(store.head("w/empty", 10))

    def test_empty_parts_add_nothing(self, store: BlobStore) -> None:
        """Empty parts can be anywhere among the others."""
        store.put("w/t", [b"", b"a", b"", b"", b"b", b""])
        assert b"ab" == self.raw_get(store, "w/t")

    def test_thousands_of_parts(self, store: BlobStore) -> None:
        """A blob can have more parts than one system call takes, of different sizes."""
        parts = [bytes([number % 251]) * (number % 7) for number in range(5000)]
        store.put("w/t", parts)
        assert b"".join(parts) == self.raw_get(store, "w/t")

    @pytest.mark.parametrize("kind", ["bytearray", "view", "view of a part", "map"])
    def test_parts_of_any_kind(self, store: BlobStore, kind: str) -> None:
        """Parts can be any buffers, not only bytes."""
        data = self_checking(70_000)
        made: dict[str, Callable[[], Any]] = {
            "bytearray": lambda: bytearray(data),
            "view": lambda: memoryview(data).toreadonly(),
            "view of a part": lambda: memoryview(b"xx" + data + b"yy")[2:-2],
            "map": lambda: _mapped(data),
        }
        store.put("w/t", [b"<", made[kind](), b">"])
        assert b"<" + data + b">" == self.raw_get(store, "w/t")

    def test_parts_that_change_later_change_no_blob(self, store: BlobStore) -> None:
        """A blob doesn't share memory with its parts."""
        part = bytearray(b"before")
        store.put("w/t", [part])
        part[:] = b"after!"
        assert b"before" == bytes(store.get("w/t"))

    @pytest.mark.parametrize("size", [10, 5000, 2 << 20])
    def test_what_is_got_belongs_to_the_caller(self, store: BlobStore, size: int) -> None:
        """Changing a buffer from `get` changes neither the blob nor another buffer of it."""
        data = self_checking(max(16, size))
        store.put("w/t", [data])
        mine, other = memoryview(store.get("w/t")), store.get("w/t")
        if not mine.readonly:
            mine[:] = bytes(len(mine))
        assert data == other
        assert Blob(data) == Blob(store.get("w/t"))
        assert Blob(data) == Blob(self.raw_get(store, "w/t"))

    def test_what_is_got_is_one_piece(self, store: BlobStore) -> None:
        """A buffer from `get` is contiguous bytes, and supports memory views with a length."""
        store.put("w/t", in_parts(self_checking(3 << 20)))
        view = memoryview(store.get("w/t"))
        assert (True, "B", 1, 3 << 20) == (view.c_contiguous, view.format, view.itemsize, len(view))

    @pytest.mark.parametrize("size", [100, 2 << 20])
    @pytest.mark.parametrize("change", ["replaced", "deleted"])
    def test_what_was_got_stays(self, store: BlobStore, size: int, change: str) -> None:
        """A buffer from `get` stays valid and unchanged after its blob is replaced or deleted."""
        data = self_checking(size)
        store.put("w/t", [data])
        held = store.get("w/t")
        if change == "deleted":
            store.delete(["w/t"])
        for _ in range(2):
            store.put("w/t", [bytes(size)])
            assert Blob(bytes(size)) == Blob(store.get("w/t"))
        assert data == held

    @pytest.mark.parametrize(
        ("old", "new"), [(10, 5), (5, 10), (10, 10), (3 << 20, 4096), (4096, 3 << 20), (10, 0)]
    )
    def test_put_replaces(self, store: BlobStore, old: int, new: int) -> None:
        """No reader sees any part of an earlier blob, whatever the sizes."""
        reader = self.reopen(store)
        store.put("w/t", [b"o" * old])
        assert Blob(b"o" * old) == Blob(reader.get("w/t"))
        store.put("w/t", [b"n" * new])
        assert b"n" * new == self.raw_get(store, "w/t")
        assert Blob(b"n" * new) == Blob(reader.get("w/t"))
        assert [("w/t", new)] == [(blob.key, blob.size) for blob in reader.list("")]

    @pytest.mark.parametrize("durable", [False, True])
    @pytest.mark.parametrize("if_absent", [False, True])
    def test_every_way_to_put(self, store: BlobStore, durable: bool, if_absent: bool) -> None:
        """`durable` and `if_absent` change neither the bytes of the blob nor other blobs."""
        store.put("w/other", [b"other"])
        for data in (self_checking(50), self_checking(2 << 20)):
            store.put("v/s/t", in_parts(data), durable=durable, if_absent=if_absent)
            assert Blob(data) == Blob(self.raw_get(store, "v/s/t"))
            store.delete(["v/s/t"])
        assert b"other" == self.raw_get(store, "w/other")

    @pytest.mark.parametrize("key", ["w/none", "w", "w/t/below", "none", "w/T2"])
    def test_a_missing_blob_is_not_found(self, store: BlobStore, key: str) -> None:
        """`get` and `head` raise ResultNotFoundError for a missing blob, and create nothing."""
        store.put("w/t", [b"there"])
        store.put("w/t2", [b"there"])
        with pytest.raises(ResultNotFoundError) as of_get:
            store.get(key)
        with pytest.raises(FileNotFoundError) as of_head:
            store.head(key, 10)
        assert isinstance(of_head.value, ResultNotFoundError)
        assert key in str(of_get.value)
        assert ["w/t", "w/t2"] == self.raw_keys(store)

    @pytest.mark.parametrize("size", [1, 4096, 10_000, 99_999, 100_000, 1 << 30])
    def test_head_is_the_beginning(self, store: BlobStore, size: int) -> None:
        """`head` returns the first `size` bytes, or the whole blob if it is shorter."""
        data = self_checking(100_000)
        store.put("w/t", [data])
        assert data[:size] == bytes(store.head("w/t", size))

    @pytest.mark.parametrize("size", [0, 1, 1000, 10_000])
    def test_blocks_are_the_whole_blob(self, store: BlobStore, size: int) -> None:
        """Blocks are in order, and none exceeds the size; a missing blob raises an error."""
        data = self_checking(size) if size > 100 else bytes(size)
        store.put("w/t", [data])
        found = [bytes(block) for block in store.blocks("w/t", 1000)]
        assert data == b"".join(found)
        assert [] == [len(block) for block in found if len(block) > 1000]
        with pytest.raises(ResultNotFoundError):
            list(store.blocks("w/missing", 1000))

    def test_if_absent_leaves_what_is_there(self, store: BlobStore) -> None:
        """`if_absent` raises FileExistsError if there is a blob, which stays; no file is left."""
        store.put("w/t", [b"first"], if_absent=True)
        with pytest.raises(FileExistsError):
            store.put("w/t", [b"second"], if_absent=True)
        assert b"first" == self.raw_get(store, "w/t")
        assert ["w/t"] == self.raw_keys(store)
        assert [] == self.leftovers(store)

    def test_if_absent_leaves_an_empty_blob(self, store: BlobStore) -> None:
        """An empty blob counts as present."""
        store.put("w/t", [])
        with pytest.raises(FileExistsError):
            store.put("w/t", [b"second"], if_absent=True)
        assert b"" == self.raw_get(store, "w/t")

    def test_if_absent_sees_what_something_else_has_put(self, store: BlobStore) -> None:
        """`if_absent` sees the blobs of others, even if this store saw the key missing before."""
        with pytest.raises(ResultNotFoundError):
            store.get("w/t")
        self.raw_put(store, "w/t", b"first")
        with pytest.raises(FileExistsError):
            store.put("w/t", [b"second"], if_absent=True)
        assert b"first" == bytes(store.get("w/t"))

    def test_if_absent_after_a_delete(self, store: BlobStore) -> None:
        """A deleted blob is absent."""
        store.put("w/t", [b"first"], if_absent=True)
        store.delete(["w/t"])
        store.put("w/t", [b"second"], if_absent=True)
        assert b"second" == self.raw_get(store, "w/t")

    def test_if_absent_of_a_big_blob(self, store: BlobStore) -> None:
        """Big blobs, which may be stored in another way, don't replace a blob either."""
        size = max(16 << 20, self.multipart_from + 1) if self.multipart_from else 4 << 20
        data = self_checking(size)
        store.put("w/t", in_parts(data), if_absent=True)
        with pytest.raises(FileExistsError):
            store.put("w/t", in_parts(data[::-1]), if_absent=True)
        assert Blob(data) == Blob(store.get("w/t"))

    @pytest.mark.parametrize("before", [None, b"before"])
    @pytest.mark.parametrize("if_absent", [False, True])
    def test_a_put_that_fails_changes_nothing(
        self, store: BlobStore, before: bytes | None, if_absent: bool
    ) -> None:
        """If reading the last part fails, `put` raises that error, and an earlier blob stays."""
        if before is not None:
            store.put("w/t", [before])

        def fail() -> None:
            raise RuntimeError("the last part can't be had")

        with pytest.raises((RuntimeError, FileExistsError)) as raised:
            store.put("w/t", Parts(in_parts(self_checking(1 << 20)), fail), if_absent=if_absent)
        if before is None or not if_absent:
            assert raised.type is RuntimeError
        assert before == self.raw_get(store, "w/t")
        assert ([] if before is None else ["w/t"]) == [blob.key for blob in store.list("")]
        assert [] == self.leftovers(store)
        store.put("w/t", [b"after"])
        assert b"after" == self.raw_get(store, "w/t")

    @pytest.mark.parametrize("end", ["sound", "error", "short", "long"])
    @pytest.mark.parametrize("big", [False, True])
    def test_streamed_parts(self, store: BlobStore, end: str, big: bool) -> None:
        """They are iterated to their end; if that raises an error, the earlier blob stays."""
        data = self_checking(max(4 << 20, self.multipart_from + 9) if big else 1000)

        def parts() -> Iterator[Any]:
            yield from in_parts(data, 7)
            if end == "error":
                raise DamagedResultError("the digest is another one")

        store.put("w/t", [b"before"])
        streamed = Streamed(len(data) + {"short": 1, "long": -1}.get(end, 0), parts())
        if end == "sound":
            store.put("w/t", streamed)
            assert Blob(data) == Blob(self.raw_get(store, "w/t"))
            return
        with pytest.raises(DamagedResultError):
            store.put("w/t", streamed)
        assert b"before" == self.raw_get(store, "w/t")
        assert [] == self.leftovers(store)

    def test_readers_see_nothing_of_a_put_that_is_at_work(self, store: BlobStore) -> None:
        """During a put, readers get and list the earlier blob, or wait until the put is done."""
        before, after, other = self_checking(1000), self_checking(1 << 20, 1), self.reopen(store)
        store.put("w/t", [before])
        seen: list[Any] = []

        def look() -> None:
            seen.append((bytes(other.get("w/t")), [(i.key, i.size) for i in other.list("")]))

        store.put("w/t", Parts(in_parts(after), lambda: _for_a_moment(look)))
        _until(lambda: bool(seen))
        data, listed = seen[0]
        assert is_whole(data)
        assert listed in ([("w/t", 1000)], [("w/t", 1 << 20)])
        assert after == self.raw_get(store, "w/t")

    def test_if_absent_holds_until_the_end_of_a_put(self, store: BlobStore) -> None:
        """If one writer puts in the middle of the other's put, exactly one of them wins."""
        self.needs("conditional_put")
        other, won = self.reopen(store), []

        def write(by: BlobStore, name: bytes, parts: Any) -> None:
            try:
                by.put("w/t", parts, if_absent=True)
            except FileExistsError:
                won.append(b"")
            else:
                won.append(name)

        inner = Parts([b"out", b"er"], lambda: _for_a_moment(lambda: write(other, b"inner", IN)))
        write(store, b"outer", inner)
        _until(lambda: len(won) == 2)
        assert 1 == won.count(b"")
        assert b"".join(won) == self.raw_get(store, "w/t")


IN = [b"inn", b"er"]


def _mapped(data: bytes) -> memoryview:
    space = mmap.mmap(-1, len(data))
    space[:] = data
    return memoryview(space)


def _for_a_moment(action: Callable[[], None]) -> None:
    """Call `action` in a thread; return when it is done, or seems to wait for the caller."""
    import threading

    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(0.5)


def _until(done: Callable[[], bool]) -> None:
    import time

    def wait() -> None:
        while not done():
            time.sleep(0.001)

    together(wait)
