"""The base of all suites."""

from __future__ import annotations

import pytest

from .workers import Workers

__all__ = ["Suite"]

WORKERS = pytest.StashKey[Workers]()


class Suite:
    """The base of the suites. Class attributes declare capabilities; a missing one skips tests."""

    @pytest.fixture(scope="session")
    @classmethod
    def workers(cls, pytestconfig: pytest.Config) -> Workers:
        """Return Python processes, which start when a test first needs them.

        All suites share them, as each takes time to start; they end with pytest.
        """
        if WORKERS not in pytestconfig.stash:
            pytestconfig.stash[WORKERS] = workers = Workers()
            pytestconfig.add_cleanup(workers.close)
        return pytestconfig.stash[WORKERS]

    def needs(self, capability: str) -> None:
        """Skip the test if the class declares that a capability is missing."""
        if not getattr(self, capability):
            pytest.skip(f"{type(self).__name__} declares {capability} = False")
