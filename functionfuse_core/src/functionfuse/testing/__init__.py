"""Conformance kits: inherit a suite, give it its fixture, run pytest, and you are done.

`docs/testing.md` says what each suite promises. Needs pytest:
`pip install "functionfuse-core[testing]"`.
"""

from __future__ import annotations

import pytest

# Before they are imported, or a failed assertion says nothing of the values.
_TESTS = ["backendbase", "backendgraphs", "backendresults", "results", "resultsafety"]
_TESTS += ["blobbytes", "blobfiles", "bloblisting", "blobsharing", "serializer"]
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _TESTS))

from .backend import BackendSuite  # noqa: E402
from .blobstore import BlobStoreSuite  # noqa: E402
from .serializer import SerializerSuite  # noqa: E402
from .storage import StorageSuite  # noqa: E402

__all__ = ["BackendSuite", "BlobStoreSuite", "SerializerSuite", "StorageSuite"]
