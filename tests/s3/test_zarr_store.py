"""The zarr store over S3, by zarr's own store tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from s3_servers import BUCKET, Server
from zarr.core.buffer import Buffer, cpu
from zarr.testing.store import StoreTests

from functionfuse.serializers import S3_PROTOCOL
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.zarrstore import ZarrStore

FOLDER = "workflow/.data/array/"


class TestZarrStore(StoreTests[ZarrStore, cpu.Buffer]):
    """zarr's own tests; `set` and `get` are boto3 by hand."""

    store_cls = ZarrStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, server: Server, below: str) -> dict[str, Any]:
        self.client, self.prefix = server.by_hand, f"{below}/{FOLDER}"
        storage = S3FileStorage(**server.options(f"{BUCKET}/{below}"))
        return {"store": storage.store, "bucket": storage.store.bucket, "folder": FOLDER}

    async def set(self, store: ZarrStore, key: str, value: Buffer) -> None:
        self.client.put_object(Bucket=BUCKET, Key=self.prefix + key, Body=value.to_bytes())

    async def get(self, store: ZarrStore, key: str) -> Buffer:
        answer = self.client.get_object(Bucket=BUCKET, Key=self.prefix + key)
        return cpu.Buffer.from_bytes(answer["Body"].read())

    def test_store_repr(self, store: ZarrStore) -> None:
        """It tells bucket and folder, and no secret."""
        assert f"s3://{BUCKET}/{self.prefix}" == str(store)
        assert BUCKET in repr(store)
        assert "canary" not in repr(store)

    def test_store_supports_writes(self, store: ZarrStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: ZarrStore) -> None:
        assert store.supports_listing


def test_an_array_comes_back(server: Server, path: str) -> None:
    """A zarr array in the store that serializers are handed has the values written to it."""
    storage = S3FileStorage(**server.options(f"s3://{path}"))
    protocol = storage.store.protocols("w/.data/")[S3_PROTOCOL]
    expected = np.random.default_rng(0).random((300, 200))
    array = zarr.create_array(
        protocol["zarr_store"]("a name/with: anything"), data=expected, chunks=(100, 100)
    )
    assert (100, 100) == array.chunks
    found = zarr.open_array(protocol["zarr_store"]("a name/with: anything"), mode="r")
    assert np.array_equal(expected, found[:])
    keys = [blob.key for blob in storage.store.list("")]
    assert 7 == len(keys)
    assert ["w/.data/a name%2Fwith%3A anything/c/0/0"] == keys[:1]


def test_a_missing_bucket_is_no_empty_array(moto_server: Server) -> None:
    """That there is no bucket is an error and not None, which for zarr is a chunk of zeros."""
    store = S3FileStorage(**moto_server.options("no-such-bucket")).store
    with pytest.raises(OSError, match="no such bucket"):
        ZarrStore(store, store.bucket).get_sync("c/0")


def test_the_client_is_handed_on(server: Server, path: str) -> None:
    """Serializers that write to S3 themselves get a client, and a folder to write to."""
    storage = S3FileStorage(**server.options(path))
    protocol = storage.protocols[S3_PROTOCOL]
    assert path == protocol["folder"]
    bucket, _, prefix = protocol["folder"].partition("/")
    protocol["client"].put_object(Bucket=bucket, Key=f"{prefix}/key", Body=b"value")
    assert b"value" == bytes(storage.store.get("key"))
