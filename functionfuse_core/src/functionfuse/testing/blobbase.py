"""What the tests of a blob store have in common: its fixture, its capabilities, and raw access."""

from __future__ import annotations

import pickle
from functools import partial

import pytest

from ..errors import ResultNotFoundError
from ..storage.blobstore import BlobStore
from .suite import Suite
from .workers import together

__all__ = ["Blobs"]


class Blobs(Suite):
    """See `BlobStoreSuite`."""

    processes = True
    forks = True
    conditional_put = True
    distinguishes_case = True
    reads_ahead: int | None = 1000
    multipart_from = 0
    many = 2500
    rounds = 100

    @pytest.fixture
    def store(self) -> BlobStore:
        """Return a fresh, empty store."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `store`: an empty store")

    def reopen(self, store: BlobStore) -> BlobStore:
        """Return a store that shows the same blobs, and shares nothing else with the first."""
        if not self.processes:
            return store
        copy: BlobStore = pickle.loads(pickle.dumps(store))
        return copy

    def raw_get(self, store: BlobStore, key: str) -> bytes | None:
        """Return a blob, or None, past the store under test if that can be done."""
        try:
            return bytes(self.reopen(store).get(key))
        except ResultNotFoundError:
            return None

    def raw_put(self, store: BlobStore, key: str, data: bytes) -> None:
        """Make a blob past the store under test if that can be done."""
        self.reopen(store).put(key, [data])

    def raw_keys(self, store: BlobStore) -> list[str]:
        """Return the keys of all blobs, sorted, past the store under test if that can be done."""
        return sorted(blob.key for blob in self.reopen(store).list(""))

    def leftovers(self, store: BlobStore) -> list[str]:
        """Return what is in the place of the store and is no blob, past it if that can be done.

        By default, what the store itself would sweep.
        """
        return [blob.key for blob in self.reopen(store).sweep(-60.0, dry_run=True)]

    def put_many(self, store: BlobStore, keys: list[str]) -> None:
        """Put a small blob under each of many keys, from several threads."""
        together(*(partial(_put_each, store, keys[start::8]) for start in range(8)))


def _put_each(store: BlobStore, keys: list[str]) -> None:
    for key in keys:
        store.put(key, [key.encode()])
