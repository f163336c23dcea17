"""The conformance kits, on both servers, and over https."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from s3_servers import BUCKET, Server, weed

from functionfuse.storage import Storage
from functionfuse.testing import BlobStoreSuite, StorageSuite
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.store import S3Store

THRESHOLD = 5 << 20  # the smallest that S3 allows


# On moto in the battery, and where the real server isn't installed.
FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
BOTH = FULL or weed() is None
MOTO = ["moto"] if BOTH else []
# What is another way over https: bodies are followed by their checksum. All of it in the battery.
OVER_HTTPS = {
    "test_a_blob_around_the_multipart_threshold_comes_back",
    "test_thousands_of_parts",
    "test_every_way_to_put",
    "test_if_absent_of_a_big_blob",
    "test_if_absent_leaves_what_is_there",
    "test_a_put_that_fails_changes_nothing",
    "test_streamed_parts",
    "test_a_file_is_written_in_any_order",
    "test_delete_removes",
    "test_values_come_back",
    "test_side_data",
    "test_a_lease",
    "test_signed_results",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each server in turn."""
    https = FULL or metafunc.function.__name__ in OVER_HTTPS
    names = ["seaweedfs", *(["seaweedfs_https"] if https else []), *MOTO]
    marks = {"moto": [pytest.mark.battery]}
    given = [pytest.param(name, marks=marks.get(name, [])) for name in names]
    metafunc.parametrize("server", given, indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


class OnS3:
    """Blobs past the store: boto3 by hand."""

    @pytest.fixture
    def storage(self, server: Server, below: str) -> Storage:
        self.client, self.prefix = server.by_hand, f"{below}/"
        sizes = {"multipart_threshold": THRESHOLD, "multipart_chunk": THRESHOLD}
        return S3FileStorage(**server.options(f"{BUCKET}/{below}", **sizes))


class TestS3Store(OnS3, BlobStoreSuite):
    """The blob store."""

    reads_ahead = None
    multipart_from = THRESHOLD
    many = 1010
    rounds = 20

    @pytest.fixture
    def store(self, storage: S3FileStorage) -> S3Store:
        store: S3Store = storage.store
        return store

    def raw_get(self, store: S3Store, key: str) -> bytes | None:
        try:
            answer = self.client.get_object(Bucket=BUCKET, Key=self.prefix + key)
        except self.client.exceptions.NoSuchKey:
            return None
        data: bytes = answer["Body"].read()
        return data

    def raw_put(self, store: S3Store, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=self.prefix + key, Body=data)

    def raw_keys(self, store: S3Store) -> list[str]:
        found = self._objects()
        return sorted(key for key in found if "/.tmp-" not in f"/{key}")

    def leftovers(self, store: S3Store) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix)
        temporary = [key for key in self._objects() if "/.tmp-" in f"/{key}"]
        return [upload["Key"] for upload in answer.get("Uploads", [])] + temporary

    def _objects(self) -> list[str]:
        pages: Iterator[Any] = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=self.prefix
        )
        return [
            entry["Key"][len(self.prefix) :] for page in pages for entry in page.get("Contents", ())
        ]


@pytest.mark.battery
class TestS3Storage(OnS3, StorageSuite):
    """The storage."""

    processes = FULL  # `TestS3Store` has them always
    many = 50
