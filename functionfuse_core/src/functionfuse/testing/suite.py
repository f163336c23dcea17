"""What all suites have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .workers import Workers

__all__ = ["Suite"]


class Suite:
    """The base of the suites: capabilities are class attributes, and switch tests visibly."""

    @pytest.fixture(scope="class")
    @classmethod
    def workers(cls) -> Iterator[Workers]:
        """Give Python processes, started when a test first needs them."""
        workers = Workers()
        yield workers
        workers.close()

    def needs(self, capability: str) -> None:
        """Skip the test if the class declares that something can't be had."""
        if not getattr(self, capability):
            pytest.skip(f"{type(self).__name__} declares {capability} = False")
