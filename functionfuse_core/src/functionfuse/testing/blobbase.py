"""The base of the tests of a blob store: its fixture, capabilities, and raw access."""

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
        """Return a second store of the same blobs, which shares nothing else with the first."""
        if not self.processes:
            return store
        copy: BlobStore = pickle.loads(pickle.dumps(store))
        return copy

    def raw_get(self, store: BlobStore, key: str) -> bytes | None:
        """Return a blob or None, past the store under test if possible."""
        try:
            return bytes(self.reopen(store).get(key))
        except ResultNotFoundError:
            return None

    def raw_put(self, store: BlobStore, key: str, data: bytes) -> None:
        """Make a blob, past the store under test if possible."""
        self.reopen(store).put(key, [data])

    def raw_keys(self, store: BlobStore) -> list[str]:
        """Return the sorted keys of all blobs, past the store under test if possible."""
        return sorted(blob.key for blob in self.reopen(store).list(""))

    def leftovers(self, store: BlobStore) -> list[str]:
        """Return the names of stored things that are not blobs, past the store if possible.

        By default, the keys that the store itself would sweep.
        """
        return [blob.key for blob in self.reopen(store).sweep(-60.0, dry_run=True)]

    def put_many(self, store: BlobStore, keys: list[str]) -> None:
        """Put a small blob under each of many keys, from several threads."""
        together(*(partial(_put_each, store, keys[start::8]) for start in range(8)))


def _put_each(store: BlobStore, keys: list[str]) -> None:
    for key in keys:
        store.put(key, [key.encode()])
