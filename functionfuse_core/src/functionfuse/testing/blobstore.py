"""`BlobStoreSuite`: the conformance kit of blob stores."""

from __future__ import annotations

from .blobbytes import BlobBytes
from .blobfiles import BlobFiles
from .bloblisting import BlobListing
from .blobsharing import BlobSharing

__all__ = ["BlobStoreSuite"]


class BlobStoreSuite(BlobBytes, BlobListing, BlobFiles, BlobSharing):
    """Inherit it, with a fixture `store` that returns a fresh, empty store.

    Capabilities are class attributes; what is declared to be missing skips tests, by name.

    Attributes:
        processes: another process that unpickles the store sees the same blobs.
        forks: a process that was forked while the store was in use can use it, too.
        conditional_put: of writers with `if_absent` at the same time, exactly one wins.
        distinguishes_case: keys that differ in case only are two blobs.
        reads_ahead: how many keys a listing reads at once, at most; None: all.
        multipart_from: the size in bytes from which blobs take another way; 0: none.
        many: the number of keys in tests with thousands of them; lower it for a slow server.
        rounds: the number of races for an absent key.

    Methods to override where the store's place can be reached past the store, so that a store that
    lies is found out: `raw_get`, `raw_put`, `raw_keys`, `leftovers`, `reopen`. By default they use
    a second store, made by pickling the first.
    """
