"""Tests of listing and deleting: `list`, `names`, `delete`."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from ..errors import ResultNotFoundError
from ..storage.blobstore import BlobInfo, BlobStore
from .blobbase import Blobs
from .blobbytes import KEYS

__all__ = ["BlobListing"]

# "/" sorts after " +,-." and before digits, so a folder's keys don't sort like its name.
ORDERED = {
    "folders among blobs": ["w 1", "w+1", "w-1", "w.1", "w/1", "w/1-", "w/2", "w0", "w1/a", "wx"],
    "numbers are text": ["w/1", "w/10", "w/100", "w/11", "w/2", "w/20"],
    "case": ["W/B", "W/a", "w/B", "w/a"],
    "depth": ["a-/x", "a/b-/c", "a/b/c", "a/b0", "a0/b"],
    "ours among theirs": ["w/-", "w/.damaged/t/0", "w/.data/f", "w/.lease/t", "w/0", "w/t"],
    "long": ["w/" + "x" * count for count in (1, 2, 199, 200)],
}
PREFIXES = {
    "": ["a", "w/ta", "w/tab", "w/tb", "w2/ta", "x/y/z"],
    "w": ["w/ta", "w/tab", "w/tb", "w2/ta"],
    "w/": ["w/ta", "w/tab", "w/tb"],
    "w/ta": ["w/ta", "w/tab"],
    "w/tab": ["w/tab"],
    "x/y": ["x/y/z"],
    "x/y/": ["x/y/z"],
    "w/tc": [],
    "none/": [],
    "a/": [],
}


def keys(blobs: Iterator[BlobInfo]) -> list[str]:
    """Return the keys of a listing."""
    return [blob.key for blob in blobs]


class BlobListing(Blobs):
    """Listings are complete and in order; `delete` removes the given blobs, and no others."""

    def test_an_empty_store(self, store: BlobStore) -> None:
        """An empty store lists nothing, and deleting in it is no error."""
        assert [] == list(store.list(""))
        assert [] == list(store.list("w/"))
        assert [] == list(store.names(""))
        store.delete(["w/t", "w/"])
        assert [] == self.raw_keys(store)

    @pytest.mark.parametrize("ordered", ORDERED.values(), ids=list(ORDERED))
    def test_listing_is_in_the_order_of_keys(self, store: BlobStore, ordered: list[str]) -> None:
        """A listing is sorted by whole key as text, in whatever order the blobs were put."""
        if not self.distinguishes_case and len({key.lower() for key in ordered}) < len(ordered):
            self.needs("distinguishes_case")
        for key in random.Random(5).sample(ordered, len(ordered)):
            store.put(key, [b"x"])
        assert ordered == sorted(ordered)
        assert ordered == keys(store.list(""))

    @pytest.mark.parametrize("prefix", PREFIXES, ids=[prefix or "all" for prefix in PREFIXES])
    def test_a_prefix_is_text(self, store: BlobStore, prefix: str) -> None:
        """All keys that begin with the prefix are listed, even if it ends within a segment."""
        for key in PREFIXES[""]:
            store.put(key, [b"x"])
        assert PREFIXES[prefix] == keys(store.list(prefix))

    def test_a_listing_tells_size_and_time(self, store: BlobStore) -> None:
        """`size` is in bytes; `modified` is on the same clock as `now`."""
        before = store.now()
        for size in (0, 1, 70_000):
            store.put(f"w/{size}", [bytes(size)])
        after = store.now()
        blobs = list(store.list("w/"))
        assert [("w/0", 0), ("w/1", 1), ("w/70000", 70_000)] == [(b.key, b.size) for b in blobs]
        for blob in blobs:
            assert before - 2 <= blob.modified <= after + 2  # some clocks tick in seconds
            assert isinstance(blob, BlobInfo)

    def test_an_etag_differs_when_the_bytes_do(self, store: BlobStore) -> None:
        """Etags of different bytes differ, even if key and size are the same; or all are ""."""
        etags = []
        for data in (b"one", b"two", b"six"):
            store.put("w/t", [data])
            etags += [blob.etag for blob in store.list("w/t")]
        assert ["", "", ""] == etags or len(set(etags)) == 3

    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_heads_of_a_folder(self, store: BlobStore, count: int) -> None:
        """`heads` gives at least the wanted bytes of each blob, in order; None for no blob."""
        names = [f"{number}" for number in range(count)]
        for name in names[::2]:
            store.put(f"w/{name}", [name.encode() * 100])
        for name in names[1::2]:
            store.put(f"v/{name}", [b"another folder's"])
        for order in (names, names[::-1]):
            for name, head in zip(order, store.heads("w/", order, 10), strict=True):
                if int(name) % 2:
                    assert head is None
                else:
                    assert head is not None
                    assert len(head) >= 10
                    assert (name.encode() * 100).startswith(head)

    def test_a_listing_is_an_iterator(self, store: BlobStore) -> None:
        """A listing is an iterator, and can be abandoned at any time."""
        self.put_many(store, [f"w/{number}" for number in range(20)])
        listing = store.list("w/")
        assert iter(listing) is listing
        assert ["w/0", "w/1"] == [next(listing).key, next(listing).key]
        del listing
        store.delete(["w/0"])
        assert "w/1" == next(store.list("w/")).key

    def test_two_listings_at_once(self, store: BlobStore) -> None:
        """Two listings don't disturb each other, nor do reads between their steps."""
        self.put_many(store, [f"w/{number}" for number in range(10)])
        found = []
        for one, two in zip(store.list("w/"), store.list("w/"), strict=True):
            assert one.key.encode() == bytes(store.get(one.key))
            found.append((one.key, two.key))
        assert [(f"w/{number}", f"w/{number}") for number in range(10)] == found

    def test_thousands_of_keys(self, store: BlobStore) -> None:
        """Thousands of keys are listed once, in order, also by prefix; one call deletes them."""
        expected = sorted(f"w{n % 7}/{n * 7919 % 100_003}" for n in range(self.many))
        self.put_many(store, expected)
        assert expected == keys(store.list(""))
        assert [key for key in expected if key[:2] == "w3"] == keys(store.list("w3"))
        store.put("w3/0 stays", [b"x"])
        store.delete(iter(expected))
        assert ["w3/0 stays"] == self.raw_keys(store)

    def test_thousands_of_keys_in_one_folder(self, store: BlobStore) -> None:
        """A folder can have more keys than a server lists in one answer."""
        expected = sorted(f"w/{number}" for number in range(self.many))
        self.put_many(store, expected)
        assert expected == keys(store.list("w/"))
        assert {key[2:] for key in expected} == set(store.names("w/"))

    def test_a_listing_does_not_read_far_ahead(self, store: BlobStore) -> None:
        """A blob deleted more than `reads_ahead` keys after the listing's position isn't listed."""
        if self.reads_ahead is None:
            pytest.skip(f"{type(self).__name__} declares reads_ahead = None")
        expected = sorted(f"w/{n // 50:03}/{n % 50:02}" for n in range(self.reads_ahead + 200))
        self.put_many(store, expected)
        listing = store.list("")
        found = [next(listing).key]
        self.reopen(store).delete(expected[self.reads_ahead + 100 :])
        found += keys(listing)
        assert expected[: self.reads_ahead + 100] == found

    def test_a_listing_while_blobs_come_and_go(self, store: BlobStore) -> None:
        """A blob that exists all the time is listed once, in order."""
        stay = [f"w{n // 10}/stay {n}" for n in range(10, 60)]
        self.put_many(store, [*stay, *(f"w{number % 6}/z {number}" for number in range(20))])
        found = []
        for number, blob in enumerate(store.list("")):
            found.append(blob.key)
            store.put(f"w{number % 6}/more {number}", [b"x"])
            store.delete([f"w{number % 6}/more {number - 6}", f"w{number % 6}/z {number}"])
        assert stay == [key for key in found if "stay" in key]
        assert sorted(set(found)) == found

    def test_a_listing_is_never_of_the_past(self, store: BlobStore) -> None:
        """A listing shows all changes made before it began, by this store and by others."""
        other = self.reopen(store)
        for number in range(5):
            store.put(f"w/{number}", [bytes(number)])
            assert number + 1 == len(list(other.list("w/")))
            assert number == list(store.list("w/"))[-1].size
        other.delete(["w/0", "w/3"])
        assert ["w/1", "w/2", "w/4"] == keys(store.list(""))

    def test_names_of_a_folder(self, store: BlobStore) -> None:
        """`names` gives the rest of each key, and for deeper keys their next segment, once."""
        for key in ("a", "w/t", "w/t2", "w/.data/x", "w/.data/y", "w/d/e/f", "w2/t"):
            store.put(key, [b"x"])
        assert ["a", "w/", "w2/"] == sorted(store.names(""))
        assert [".data/", "d/", "t", "t2"] == sorted(store.names("w/"))
        assert ["x", "y"] == sorted(store.names("w/.data/"))
        assert ["e/"] == sorted(store.names("w/d/"))
        assert [] == list(store.names("none/"))

    def test_names_agree_with_the_listing(self, store: BlobStore) -> None:
        """`names` agrees with `list` for every folder."""
        for key in KEYS:
            store.put(key, [b"x"])
        for folder in sorted({key.rpartition("/")[0] for key in KEYS}):
            prefix = f"{folder}/" if folder else ""
            rests = [key[len(prefix) :].partition("/") for key in KEYS if key.startswith(prefix)]
            assert {name + slash for name, slash, _ in rests} == set(store.names(prefix))

    def test_delete_removes(self, store: BlobStore) -> None:
        """A deleted blob is gone for every reader, and no other blob is."""
        other = self.reopen(store)
        for key in ("w/a", "w/a0", "w/a-", "w/b", "w2/a"):
            store.put(key, [b"x"])
        store.delete(["w/a", "w/b"])
        assert ["w/a-", "w/a0", "w2/a"] == self.raw_keys(store)
        assert ["w/a-", "w/a0", "w2/a"] == keys(other.list(""))
        for reader in (store, other):
            with pytest.raises(FileNotFoundError):
                reader.get("w/a")

    def test_delete_of_what_is_not_there(self, store: BlobStore) -> None:
        """Deleting a missing key is no error, and the other keys are still deleted."""
        store.put("w/a", [b"x"])
        store.put("w/z", [b"x"])
        store.delete(["w/none", "none/none", "w/a", "w/a", "w/none/none"])
        assert ["w/z"] == self.raw_keys(store)
        store.delete(["w/a"])
        store.delete([])
        assert ["w/z"] == self.raw_keys(store)

    def test_delete_is_no_prefix(self, store: BlobStore) -> None:
        """A key deletes only its own blob; the key of a folder deletes nothing inside."""
        for key in ("w/t/a", "w/tt", "ww/t"):
            store.put(key, [b"x"])
        store.delete(["w/t", "w", "w/t/", "w/", "ww/"])
        assert ["w/t/a", "w/tt", "ww/t"] == self.raw_keys(store)

    def test_delete_and_put_again(self, store: BlobStore) -> None:
        """A key can be put again after its blob and folder were deleted."""
        for number in range(3):
            store.put("v/w/t", [bytes([number])])
            assert bytes([number]) == self.raw_get(store, "v/w/t")
            store.delete(["v/w/t", "v/w/", "v/"])
            assert [] == list(store.names(""))

    @pytest.mark.parametrize("seed", range(4))
    def test_it_does_what_a_dict_does(self, store: BlobStore, seed: int) -> None:
        """Random puts, copies, deletes, gets and listings behave as on a dict."""
        dice, model = random.Random(seed), dict[str, bytes]()
        some = [f"{folder}/{name}" for folder in ("a", "a-", "b/c") for name in ("t", "t0", "t-")]
        for step in range(20 + self.rounds):
            key, data = dice.choice(some), dice.randbytes(dice.choice((0, 5, 5000)))
            match dice.choice(("put", "put", "absent", "copy", "delete", "list")):
                case "put":
                    store.put(key, [data[:3], data[3:]])
                    model[key] = data
                case "absent" if key not in model:
                    store.put(key, [data], if_absent=True)
                    model[key] = data
                case "absent":
                    with pytest.raises(FileExistsError):
                        store.put(key, [data], if_absent=True)
                case "copy":
                    source = dice.choice(some)
                    if source in model:
                        store.copy(source, key)
                        model[key] = model[source]
                    elif source != key:
                        with pytest.raises(ResultNotFoundError):
                            store.copy(source, key)
                case "delete":
                    gone = dice.sample(some, 3)
                    store.delete(gone)
                    model = {name: blob for name, blob in model.items() if name not in gone}
                case "list":
                    prefix = dice.choice(("", "a", "a/", "b/", "b/c/t", "a-/t0"))
                    listed = {blob.key: blob.size for blob in store.list(prefix)}
                    expected = sorted(name for name in model if name.startswith(prefix))
                    assert expected == list(listed)
                    assert [len(model[name]) for name in expected] == list(listed.values())
            assert model.get(key) == self.raw_get(store, key), f"step {step}"
        assert sorted(model) == self.raw_keys(store)
