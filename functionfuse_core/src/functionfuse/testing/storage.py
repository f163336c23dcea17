"""`StorageSuite`: the conformance kit of storages."""

from __future__ import annotations

from .goingback import GoingBack
from .results import ResultsByName
from .resultsafety import ResultSafety

__all__ = ["StorageSuite"]


class StorageSuite(ResultsByName, ResultSafety, GoingBack):
    """Inherit it, with a fixture `storage` that returns a fresh, empty `Storage`.

    It tests the storage as its users see it. `BlobStoreSuite` tests the store below; it finds more
    faults, and its messages are more precise. Capabilities are class attributes.

    Attributes:
        processes: another process that unpickles the storage sees the same results.
        forks: a process that was forked while the storage was in use can use it, too.
        conditional_put: of several that save with `if_absent` at the same time, exactly one wins.
        many: the number of tasks in tests with thousands of tasks.
    """
