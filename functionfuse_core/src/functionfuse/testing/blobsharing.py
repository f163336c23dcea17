"""Tests of one store with many users: threads, processes, pickles, forks, kills."""

from __future__ import annotations

import os
import pickle
import random
import time

import pytest

from ..errors import ResultNotFoundError
from ..storage.blobstore import BlobStore
from ..storage.keys import MARKER
from .blobbase import Blobs
from .jobs import (
    Blob,
    copy_all,
    in_parts,
    is_whole,
    put_all,
    race,
    replace,
    self_checking,
    watch,
)
from .workers import Workers, together

__all__ = ["BlobSharing"]

SOON = 0.25  # seconds of reading and writing one blob


def three(sizes: tuple[int, int, int]) -> list[bytes]:
    """Return three different blobs."""
    return [self_checking(size, seed) for seed, size in enumerate(sizes)]


SMALL, BIG = (100, 5000, 3000), (300_000, 1_500_000, 1_100_000)
each_size = pytest.mark.parametrize("sizes", [SMALL, BIG], ids=["small", "big"])


class BlobSharing(Blobs):
    """A blob is whole, whatever others do at the same time, or however they end."""

    def test_threads_with_keys_of_their_own(self, store: BlobStore) -> None:
        """Eight threads put, get, list and delete; each finds exactly its own blobs."""

        def work(name: int) -> None:
            blobs = {f"w/{name} {n}": f"{name} {n} ".encode() * (1 + 50 * n) for n in range(20)}
            put_all(store, blobs)
            assert sorted(blobs) == [blob.key for blob in store.list(f"w/{name} ")]
            store.delete([key for key in blobs if key.endswith("1")])

        together(*(lambda name=name: work(name) for name in range(8)))
        expected = [f"w/{name} {n}" for name in range(8) for n in range(20) if n not in (1, 11)]
        assert sorted(expected) == self.raw_keys(store)

    @each_size
    def test_threads_read_while_one_writes(
        self, store: BlobStore, sizes: tuple[int, int, int]
    ) -> None:
        """Every get returns a whole blob, one of those that were put."""
        blobs = three(sizes)
        store.put("w/t", [blobs[0]])
        together(
            lambda: replace(store, "w/t", blobs, SOON),
            lambda: watch(store, "w/t", SOON),
            lambda: watch(store, "w/t", SOON),
        )
        assert self.raw_get(store, "w/t") in blobs

    def test_threads_write_one_key(self, store: BlobStore) -> None:
        """Of several writers, one wins, and its blob is whole."""
        blobs = three((400_000, 500_000, 600_000))
        together(*(lambda blob=blob: replace(store, "w/t", [blob], SOON / 2) for blob in blobs))
        assert self.raw_get(store, "w/t") in blobs
        assert ["w/t"] == self.raw_keys(store)
        assert [] == self.leftovers(store)

    def test_threads_delete_what_others_write(self, store: BlobStore) -> None:
        """A blob is whole or missing, even while its folder is deleted and created again."""
        end = time.monotonic() + SOON

        def delete() -> None:
            while time.monotonic() < end:
                store.delete(["v/w/t"])

        together(
            lambda: replace(store, "v/w/t", three(SMALL), SOON),
            lambda: watch(store, "v/w/t", SOON, absent=True),
            delete,
        )
        store.put("v/w/t", [b"after"])
        assert b"after" == self.raw_get(store, "v/w/t")

    def test_threads_race_for_an_absent_key(self, store: BlobStore) -> None:
        """Exactly one of eight threads wins each race, and its blob is stored."""
        self.needs("conditional_put")
        keys = [f"w/{number}" for number in range(self.rounds)]
        blobs = [self_checking(64 << 10, seed) for seed in range(8)]
        start = time.time() + 0.05
        won = together(*(lambda blob=blob: race(store, keys, blob, start, 0.002) for blob in blobs))
        assert keys == sorted((key for mine in won for key in mine), key=lambda key: int(key[2:]))
        for blob, mine in zip(blobs, won, strict=True):
            for key in mine:
                assert Blob(blob) == Blob(self.raw_get(store, key))

    def test_processes_race_for_an_absent_key(self, store: BlobStore, workers: Workers) -> None:
        """Exactly one of four processes wins each race, and its blob is stored."""
        self.needs("processes")
        self.needs("conditional_put")
        keys = [f"w/{number}" for number in range(self.rounds)]
        blobs = [self_checking(64 << 10, seed) for seed in range(4)]
        workers.warm(4, store)
        start = time.time() + 0.1
        won = workers.run_all([("race", store, keys, blob, start, 0.003) for blob in blobs])
        assert keys == sorted((key for mine in won for key in mine), key=lambda key: int(key[2:]))
        for blob, mine in zip(blobs, won, strict=True):
            for key in mine:
                assert Blob(blob) == Blob(self.raw_get(store, key))

    def test_processes_with_keys_of_their_own(self, store: BlobStore, workers: Workers) -> None:
        """All blobs that four processes put at the same time are stored."""
        self.needs("processes")
        mine = [
            {f"w{n % 3}/{name} {n}": f"{name} {n} ".encode() * 500 for n in range(25)}
            for name in range(4)
        ]
        workers.run_all([("put_all", store, blobs) for blobs in mine])
        everything = {key: blob for blobs in mine for key, blob in blobs.items()}
        assert sorted(everything) == [blob.key for blob in store.list("")]
        assert everything == {key: bytes(store.get(key)) for key in everything}

    @each_size
    def test_processes_read_while_others_write(
        self, store: BlobStore, workers: Workers, sizes: tuple[int, int, int]
    ) -> None:
        """With two writers and two readers of one blob, every get returns a whole blob."""
        self.needs("processes")
        blobs = three(sizes)
        store.put("w/t", [blobs[0]])
        workers.warm(4, store)
        workers.run_all(
            [
                ("replace", store, "w/t", blobs, SOON),
                ("watch", store, "w/t", SOON),
                ("replace", store, "w/t", blobs[::-1], SOON),
                ("watch", store, "w/t", SOON),
            ]
        )
        assert self.raw_get(store, "w/t") in blobs
        assert [] == self.leftovers(store)

    def test_another_process_finds_the_same_blobs(self, store: BlobStore, workers: Workers) -> None:
        """A store crosses to another process by pickle, unused or used, and works there."""
        self.needs("processes")
        workers.run("put_all", store, {"w/theirs": b"theirs"})
        store.put("w/mine", [b"mine"])
        assert b"theirs" == bytes(store.get("w/theirs"))
        assert b"mine" == workers.run("call", store, "get", "w/mine")
        workers.run("call", store, "delete", ["w/mine", "w/theirs"])
        assert [] == list(store.list(""))
        assert [] == workers.run("call", store, "list", "")

    def test_a_pickle_holds_no_blobs(self, store: BlobStore) -> None:
        """A store pickles by its options, with all pickle protocols, also while it is used."""
        self.needs("processes")
        store.put("w/t", [b"found " * 50_000])
        assert Blob(b"found " * 50_000) == Blob(store.get("w/t"))
        listing = store.list("")
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(store, protocol)
            assert b"found found" not in pickled
            assert len(pickled) < 10_000
            assert Blob(b"found " * 50_000) == Blob(pickle.loads(pickled).get("w/t"))
        assert ["w/t"] == [blob.key for blob in listing]

    def test_a_repr_is_one_line(self, store: BlobStore) -> None:
        """The repr, for messages, is one line with the name of the class, and uses no request."""
        text = repr(store)
        assert 1 == len(text.splitlines())
        assert type(store).__name__ in text

    def test_use_after_a_fork(self, store: BlobStore, workers: Workers) -> None:
        """A forked process makes its own clients and connections."""
        self.needs_forks()
        workers.run("forked", store, "w/t", 25)
        assert ["w/t", "w/t-0", "w/t-1", "w/t-2"] == [blob.key for blob in store.list("")]

    @each_size
    def test_killed_at_any_time(
        self, store: BlobStore, workers: Workers, sizes: tuple[int, int, int]
    ) -> None:
        """A killed writer leaves an earlier or a later blob, whole, and a usable store."""
        self.needs_forks()
        blobs, dice = three(sizes), random.Random(len(sizes))
        store.put("w/t", [blobs[0]])
        workers.run("killed", store, "w/t", blobs, [dice.uniform(0.001, 0.02) for _ in range(12)])
        assert self.raw_get(store, "w/t") in blobs
        self._still_works(store)

    @pytest.mark.parametrize("before", [None, 1000])
    def test_killed_in_mid_put(
        self, store: BlobStore, workers: Workers, before: int | None
    ) -> None:
        """A writer killed before the last part leaves the earlier blob, or none."""
        self.needs_forks()
        earlier = None if before is None else self_checking(before)
        if earlier is not None:
            store.put("w/t", [earlier])
        workers.run("killed_in_put", store, "w/t", self_checking(8 << 20, 7))
        assert Blob(earlier) == Blob(self.raw_get(store, "w/t"))
        assert ([] if earlier is None else ["w/t"]) == [blob.key for blob in store.list("")]
        self._still_works(store)

    @each_size
    def test_threads_read_while_copies_replace(
        self, store: BlobStore, sizes: tuple[int, int, int]
    ) -> None:
        """Every get returns a whole blob, one of those that were copied."""
        blobs, keys = three(sizes), self._sources(store, sizes)
        together(
            lambda: copy_all(store, keys, "w/t", SOON),
            lambda: copy_all(store, keys[::-1], "w/t", SOON),
            lambda: watch(store, "w/t", SOON),
            lambda: watch(store, "w/t", SOON),
        )
        assert self.raw_get(store, "w/t") in blobs
        assert [*keys, "w/t"] == self.raw_keys(store)
        assert [] == self.leftovers(store)

    @each_size
    def test_processes_read_while_copies_replace(
        self, store: BlobStore, workers: Workers, sizes: tuple[int, int, int]
    ) -> None:
        """With a process that copies, one that puts and two that read, every get is whole."""
        self.needs("processes")
        blobs, keys = three(sizes), self._sources(store, sizes)
        workers.warm(4, store)
        workers.run_all(
            [
                ("copy_all", store, keys, "w/t", SOON),
                ("watch", store, "w/t", SOON),
                ("replace", store, "w/t", blobs, SOON),
                ("watch", store, "w/t", SOON),
            ]
        )
        assert self.raw_get(store, "w/t") in blobs
        assert [] == self.leftovers(store)

    def test_threads_copy_what_others_replace(self, store: BlobStore) -> None:
        """A copy is whole, also if its first blob is replaced or deleted meanwhile."""
        blobs, end = three((100, 5000, 300_000)), time.monotonic() + SOON
        store.put("w/a", [blobs[0]])
        store.copy("w/a", "w/t")

        def change() -> None:
            while time.monotonic() < end:
                for blob in blobs:
                    store.put("w/a", in_parts(blob))
                store.delete(["w/a"])

        def copy() -> None:
            while time.monotonic() < end:
                try:
                    store.copy("w/a", "w/t")
                except ResultNotFoundError:
                    continue

        together(change, copy, copy, lambda: watch(store, "w/t", SOON))
        assert self.raw_get(store, "w/t") in blobs
        assert [] == self.leftovers(store)

    def test_threads_delete_what_others_copy(self, store: BlobStore) -> None:
        """A blob is always found, even while the folder of its copy is deleted and made again."""
        store.put("w/a", [self_checking(5000)])
        end = time.monotonic() + SOON

        def delete() -> None:
            while time.monotonic() < end:
                store.delete(["w/.earlier/x"])

        together(
            lambda: copy_all(store, ["w/a"], "w/.earlier/x", SOON),
            lambda: watch(store, "w/.earlier/x", SOON, absent=True),
            delete,
        )
        store.copy("w/a", "w/.earlier/x")
        assert self_checking(5000) == self.raw_get(store, "w/.earlier/x")
        assert [] == self.leftovers(store)

    @each_size
    def test_killed_in_mid_copy(
        self, store: BlobStore, workers: Workers, sizes: tuple[int, int, int]
    ) -> None:
        """A killed process leaves both blobs whole, and a usable store."""
        self.needs_forks()
        blobs, keys, dice = three(sizes), self._sources(store, sizes), random.Random(len(sizes))
        delays = [dice.uniform(0.001, 0.02) for _ in range(12)]
        workers.run("killed_copies", store, keys, "w/t", delays)
        assert self.raw_get(store, "w/t") in blobs
        assert [Blob(blob) for blob in blobs] == [Blob(self.raw_get(store, key)) for key in keys]
        store.delete(keys)
        self._still_works(store)

    def test_a_failing_thread_hurts_no_other(self, store: BlobStore) -> None:
        """An error in one thread, such as a missing blob, does not affect other threads."""

        def miss() -> None:
            for number in range(50):
                with pytest.raises(FileNotFoundError):
                    store.get(f"none/{number}")

        together(miss, lambda: put_all(store, {f"w/{n}": b"x" * n for n in range(50)}))
        assert 50 == len(self.raw_keys(store))

    def test_two_stores_of_one_place(self, store: BlobStore) -> None:
        """Each of two stores sees the changes of the other at once."""
        other = self.reopen(store)
        for number in range(20):
            one, two = (store, other) if number % 2 else (other, store)
            data = self_checking(20 + number * 1000, number)
            one.put("w/t", in_parts(data))
            assert is_whole(two.get("w/t"))
            assert Blob(data) == Blob(two.get("w/t"))

    def needs_forks(self) -> None:
        """Skip the test if processes can't be forked, or don't see the same blobs."""
        self.needs("processes")
        self.needs("forks")
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")

    def _sources(self, store: BlobStore, sizes: tuple[int, int, int]) -> list[str]:
        """Put three blobs, and a copy of the first as "w/t"; return their keys."""
        keys = [f"w/{number}" for number in range(3)]
        for key, blob in zip(keys, three(sizes), strict=True):
            store.put(key, [blob])
        store.copy(keys[0], "w/t")
        return keys

    def _still_works(self, store: BlobStore) -> None:
        """Use a store after a writer was killed, and sweep the files that it left."""
        store.put("w/t", [b"after"])
        store.put("w/u", [b"after"], if_absent=True)
        store.put(f"w/{MARKER}", [b""])  # what is in there is ours
        for _ in store.sweep(-60.0):
            pass
        store.delete([f"w/{MARKER}"])
        assert ["w/t", "w/u"] == self.raw_keys(store)
        assert b"after" == self.raw_get(store, "w/t")
        assert [] == self.leftovers(store)
