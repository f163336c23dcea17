"""Conformance kits: inherit a suite, add its fixture, and run pytest.

`docs/testing.md` lists the promises of each suite. Needs pytest:
`pip install "functionfuse-core[testing]"`.
"""

from __future__ import annotations

import pytest

# Before the imports, or failed assertions would not show values.
_TESTS = ["backendbase", "backendgraphs", "backendresults", "backendruns", "results"]
_TESTS += ["resultsafety", "blobbytes", "blobcopies", "blobfiles", "bloblisting", "blobsharing"]
_TESTS += ["serializer"]
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _TESTS))

from .backend import BackendSuite  # noqa: E402
from .blobstore import BlobStoreSuite  # noqa: E402
from .serializer import SerializerSuite  # noqa: E402
from .storage import StorageSuite  # noqa: E402

__all__ = ["BackendSuite", "BlobStoreSuite", "SerializerSuite", "StorageSuite"]
