"""The kit of blob stores and storages on the kind "ray"."""

from __future__ import annotations

import shutil

import pytest
import ray

from functionfuse.storage import Storage, storage_factory
from functionfuse.testing import BlobStoreSuite, StorageSuite
from functionfuse_ray.store import RayStore


@pytest.fixture(scope="session")
def folder(ray_up, tmp_path_factory):
    """One folder and one server for all: a server takes a second to start."""
    path = tmp_path_factory.mktemp("kept") / "store"
    yield path
    ray.kill(ray.get_actor(f"storage {path}", namespace="functionfuse"))


@pytest.fixture
def emptied(folder):
    """Empty the folder, past the store."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


class TestRayStore(BlobStoreSuite):
    """Blobs behind a server."""

    forks = False
    many = 1200
    rounds = 20
    multipart_from = 16 << 20

    @pytest.fixture
    def store(self, emptied) -> RayStore:
        return RayStore(str(emptied))


class TestRayStorage(StorageSuite):
    """Results behind a server."""

    forks = False
    many = 200

    @pytest.fixture
    def storage(self, emptied) -> Storage:
        return storage_factory({"kind": "ray", "options": {"path": str(emptied)}})
