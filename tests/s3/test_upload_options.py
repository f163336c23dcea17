"""The options of all that is written, and of all requests: which requests have which headers."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from s3_proxy import Request, faulty
from s3_servers import BUCKET, PIECES, Server

from functionfuse.errors import OptionsError
from functionfuse.serializers import S3_PROTOCOL
from functionfuse_s3 import S3FileStorage

LARGE = os.urandom(6 << 20)  # two pieces
OWNER = "123456789012"
TAGS = {"a project": "tides + waves", "team": "x=y/1@z:0", "empty": ""}
AS_TEXT = "a%20project=tides%20%2B%20waves&team=x%3Dy%2F1%40z%3A0&empty="
OPTIONS: dict[str, Any] = {
    "acl": "bucket-owner-full-control",
    "tags": TAGS,
    "storage_class": "STANDARD_IA",
    "server_side_encryption": "aws:kms",
    "kms_key_id": "a-key",
    "bucket_key": True,
    "expected_bucket_owner": OWNER,
    "request_payer": "requester",
}
WRITING = {"put", "put if absent", "copy", "create upload"}
OF_PIECES = {"put piece", "copy piece", "complete upload", "abort upload"}
READING = {"get", "head", "list", "list uploads", "list pieces"}
ALL = WRITING | OF_PIECES | READING | {"delete", "delete many"}
# By the header: its value, and the requests that have it.
EXPECTED = {
    "x-amz-acl": ("bucket-owner-full-control", WRITING),
    "x-amz-tagging": (AS_TEXT, WRITING),
    "x-amz-tagging-directive": ("REPLACE", {"copy"}),
    "x-amz-storage-class": ("STANDARD_IA", WRITING),
    "x-amz-server-side-encryption": ("aws:kms", WRITING),
    "x-amz-server-side-encryption-aws-kms-key-id": ("a-key", WRITING),
    "x-amz-server-side-encryption-bucket-key-enabled": ("true", WRITING),
    "x-amz-expected-bucket-owner": (OWNER, ALL),
    "x-amz-source-expected-bucket-owner": (OWNER, {"copy", "copy piece"}),
    "x-amz-request-payer": ("requester", ALL),
}


def kind_of(request: Request) -> str:
    """Return the kind of a request, for which the headers stand in `EXPECTED`."""
    query = request.path.partition("?")[2]
    names = {part.partition("=")[0] for part in query.split("&")}
    copies = "x-amz-copy-source" in request.headers
    if "uploads" in names:
        return "list uploads" if request.method == "GET" else "create upload"
    if "uploadId" in names:
        found = {"GET": "list pieces", "POST": "complete upload", "DELETE": "abort upload"}
        return found.get(request.method, "copy piece" if copies else "put piece")
    if request.method == "PUT":
        absent = "If-None-Match" in request.headers
        return "copy" if copies else "put if absent" if absent else "put"
    if request.method == "GET":
        return "list" if "list-type" in names else "get"
    return {"HEAD": "head", "POST": "delete many", "DELETE": "delete"}[request.method]


def everything(storage: S3FileStorage, proxy: Any) -> None:
    """Do all that a storage does: small and large, copies, upkeep, side data, and a failure."""
    zarr = pytest.importorskip("zarr")
    store, names = storage.store, [f"t{number}" for number in range(4)]
    storage.save("w", "large", LARGE)
    storage.save("w", "absent", 1, if_absent=True)
    for name in names:
        storage.save("w", name, 1)
    store.finish("w/")  # more headers than `concurrency`: they are remembered
    assert any(blob.key.startswith("w/.headers/") for blob in store.list("w/"))
    store.copy("w/t1", "w/.earlier/x")
    large = "w/large"
    proxy.fault = lambda request: kind_of(request) == "copy" and (400, "EntityTooLarge", "big", {})
    store.copy(large, "w/copy")
    proxy.fault = lambda request: kind_of(request) == "put piece" and (403, "AccessDenied", "", {})
    with pytest.raises(PermissionError):
        storage.save("w", "failed", LARGE)
    proxy.fault = lambda _: ""
    upload = store.bucket.client.create_multipart_upload(
        Bucket=BUCKET, Key=f"{store.bucket.prefix}w/killed", **store.bucket.writing, **ALWAYS
    )
    assert ["w/killed"] == [blob.key for blob in storage.gc(-60)]
    assert upload["UploadId"]
    side = store.protocols("w/.data/")[S3_PROTOCOL]["zarr_store"]("z")
    zarr.create_array(side, data=np.arange(9))
    assert 36 == zarr.open_array(side, mode="r")[:].sum()
    assert LARGE == storage.read_task("w", "large")
    assert dict.fromkeys(names, 1) == storage.read_tasks("w", names)
    assert len(names) + 3 == len(storage.list_tasks("w"))
    storage.verify()
    storage.remove_workflow("w")


ALWAYS = {"ExpectedBucketOwner": OWNER, "RequestPayer": "requester"}


@pytest.fixture(scope="module")
def seen(moto_server: Server) -> Iterator[dict[str, list[Request]]]:
    """All requests of a storage with all the options, by their kinds."""
    with faulty(moto_server.url) as proxy:
        options = moto_server.behind(proxy.url).options(
            f"{BUCKET}/all options", **PIECES, **OPTIONS, max_attempts=1, concurrency=3
        )
        everything(S3FileStorage(**options), proxy)
        found = defaultdict(list)
        for request in proxy.seen:
            found[kind_of(request)].append(request)
        yield found


def test_all_kinds_of_requests_are_seen(seen: dict[str, list[Request]]) -> None:
    assert set(seen) == ALL


@pytest.mark.parametrize("header", EXPECTED)
def test_a_header_is_on_the_right_requests(seen: dict[str, list[Request]], header: str) -> None:
    """On each request of these kinds, and on no other."""
    value, kinds = EXPECTED[header]
    for kind, requests in seen.items():
        expected = {value if kind in kinds else None}
        assert expected == {request.headers.get(header) for request in requests}, kind


def test_without_options_no_header_is_sent(moto_server: Server, path: str) -> None:
    with faulty(moto_server.url) as proxy:
        storage = S3FileStorage(**moto_server.behind(proxy.url).options(path))
        storage.save("w", "t", 1)
        storage.store.copy("w/t", "w/.earlier/x")
        assert 1 == storage.read_task("w", "t")
        sent = {name.lower() for request in proxy.seen for name in request.headers}
    assert sent.isdisjoint(EXPECTED)


def test_the_server_stores_what_is_asked_for(moto_server: Server, path: str) -> None:
    """Of a small blob, one in pieces, and a copy, whose source has other tags."""
    wanted = {name: OPTIONS[name] for name in ("tags", "storage_class")}
    storage = S3FileStorage(**moto_server.options(path, acl="public-read", **wanted, **PIECES))
    by_hand, prefix = moto_server.by_hand, storage.store.bucket.prefix
    source = {"Bucket": BUCKET, "Key": f"{prefix}w/source"}
    by_hand.put_object(**source, Body=b"x", Tagging="other=1")
    storage.store.put("w/small", [b"x"])
    storage.store.put("w/absent", [b"x"], if_absent=True)
    storage.store.put("w/large", [LARGE])
    storage.store.copy("w/source", "w/copy")
    for name in ("small", "absent", "large", "copy"):
        where = {"Bucket": BUCKET, "Key": f"{prefix}w/{name}"}
        tags = by_hand.get_object_tagging(**where)["TagSet"]
        assert TAGS == {tag["Key"]: tag["Value"] for tag in tags}, name
        assert "STANDARD_IA" == by_hand.head_object(**where)["StorageClass"]
        grants = by_hand.get_object_acl(**where)["Grants"]
        assert "READ" in [each["Permission"] for each in grants if "URI" in each["Grantee"]], name


def test_tags_are_stored_by_the_real_server(one_server: Server, path: str) -> None:
    storage = S3FileStorage(**one_server.options(path, tags={"a b": "c+d/é"}))
    storage.save("w", "t", 1)
    where = {"Bucket": BUCKET, "Key": f"{storage.store.bucket.prefix}w/t"}
    tags = one_server.by_hand.get_object_tagging(**where)["TagSet"]
    assert [{"Key": "a b", "Value": "c+d/é"}] == tags


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"acl": "public"}, "'acl'"),
        ({"tags": {str(number): "" for number in range(11)}}, "at most 10"),
        ({"tags": {"": "x"}}, "'tags'.*''"),
        ({"tags": {"n" * 129: "x"}}, "'tags'.*128"),
        ({"tags": {"aws:n": "x"}}, "'tags'.*'aws:n'"),
        ({"tags": {"n": "x" * 257}}, "value of 'n'.*256"),
        ({"tags": {"n": 1}}, "'tags.n'"),
        ({"tags": "n=1"}, "'tags'"),
        ({"expected_bucket_owner": "12345"}, "'expected_bucket_owner'"),
        ({"expected_bucket_owner": 123456789012}, "'expected_bucket_owner'"),
        ({"bucket_key": True}, "'bucket_key' goes with"),
        ({"bucket_key": False, "server_side_encryption": "AES256"}, "'bucket_key' goes with"),
        ({"bucket_key": True, "server_side_encryption": "aws:kms:dsse"}, "'bucket_key' goes with"),
        ({"kms_key_id": "k", "server_side_encryption": "AES256"}, "'kms_key_id' goes with"),
    ],
)
def test_what_is_wrong_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionsError, match=named):
        S3FileStorage("bucket", **options)


def test_limits_are_allowed() -> None:
    """Ten tags of the greatest length, and each kind of encryption with a key."""
    tags = {f"{number}" + "n" * 127: "v" * 256 for number in range(10)}
    options = {"tags": tags, "server_side_encryption": "aws:kms:dsse", "kms_key_id": "k"}
    found = S3FileStorage("bucket", **options).store.bucket
    assert "aws:kms:dsse" == found.writing["ServerSideEncryption"]
    assert tags == json.loads(found.options.model_dump_json())["tags"]
    off = S3FileStorage("bucket", server_side_encryption="aws:kms", bucket_key=False)
    assert off.store.bucket.writing["BucketKeyEnabled"] is False
