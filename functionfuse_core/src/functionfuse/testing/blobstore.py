"""`BlobStoreSuite`: the conformance kit of blob stores."""

from __future__ import annotations

from .blobbytes import BlobBytes
from .blobcopies import BlobCopies
from .blobfiles import BlobFiles
from .bloblisting import BlobListing
from .blobsharing import BlobSharing

__all__ = ["BlobStoreSuite"]


class BlobStoreSuite(BlobBytes, BlobCopies, BlobListing, BlobFiles, BlobSharing):
    """Inherit it, with a fixture `store` that returns a fresh, empty store.

    Capabilities are class attributes; one that is declared missing skips its tests.

    Attributes:
        processes: another process that unpickles the store sees the same blobs.
        forks: a process that was forked while the store was in use can use it, too.
        conditional_put: of writers with `if_absent` at the same time, exactly one wins.
        distinguishes_case: keys that differ in case only are two blobs.
        reads_ahead: the largest number of keys that a listing reads at once; None: all.
        multipart_from: the size in bytes from which blobs are stored in another way, such as
            multipart uploads; 0: none.
        many: the number of keys in tests with thousands of keys; lower it for a slow server.
        rounds: the number of races for an absent key.

    Override `raw_get`, `raw_put`, `raw_keys`, `leftovers` and `reopen` if the blobs can be reached
    past the store; then the tests detect a store that lies. By default these methods use a second
    store, made by pickling the first.
    """
