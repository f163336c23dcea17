"""The kit of blob stores and storages on the kind "ray"."""

from __future__ import annotations

import os

import pytest

from functionfuse.storage import Storage, storage_factory
from functionfuse.testing import BlobStoreSuite, StorageSuite
from functionfuse_ray.store import RayStore

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"


class TestRayStore(BlobStoreSuite):
    """Blobs behind a server."""

    forks = False
    many = 450  # more than two pages of a listing
    rounds = 20
    multipart_from = 16 << 20

    @pytest.fixture
    def store(self, emptied) -> RayStore:
        return RayStore(str(emptied))


@pytest.mark.battery
class TestRayStorage(StorageSuite):
    """Results behind a server."""

    forks = False
    processes = FULL  # one that joins Ray takes seconds; `TestRayStore` has them always
    many = 200 if FULL else 50

    @pytest.fixture
    def storage(self, emptied) -> Storage:
        return storage_factory({"kind": "ray", "options": {"path": str(emptied)}})
