"""The base of all suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .workers import Workers

__all__ = ["Suite"]


class Suite:
    """The base of the suites. Class attributes declare capabilities; a missing one skips tests."""

    @pytest.fixture(scope="class")
    @classmethod
    def workers(cls) -> Iterator[Workers]:
        """Yield Python processes, which start when a test first needs them."""
        workers = Workers()
        yield workers
        workers.close()

    def needs(self, capability: str) -> None:
        """Skip the test if the class declares that a capability is missing."""
        if not getattr(self, capability):
            pytest.skip(f"{type(self).__name__} declares {capability} = False")
