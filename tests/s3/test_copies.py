"""Copies within the server: one request, in pieces if the server refuses that, and faults."""

from __future__ import annotations

import os
from typing import Any

import pytest
from s3_proxy import FAULTS, Proxy, Request, faulty, once
from s3_servers import BUCKET, PIECES, Server, counted

from functionfuse.errors import ResultNotFoundError, StorageConnectionError, StorageError
from functionfuse.storage.header import FIRST_READ, read_info
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.heads import HEADERS
from functionfuse_s3.store import S3Store

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
LARGE = os.urandom(11 << 20)  # three pieces
NAMES = [f"t{number}" for number in range(5)]
PIECES_SENT = {"UploadPartCopy": 3, "CompleteMultipartUpload": 1}
# What AWS says of more than 5 GiB, and what others say.
REFUSALS = [
    (400, "InvalidRequest", "The specified copy source is larger than the maximum", {}),
    (400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size", {}),
]


def is_copy(request: Request) -> bool:
    return "x-amz-copy-source" in request.headers and "partNumber=" not in request.path


def is_piece(request: Request) -> bool:
    return "x-amz-copy-source" in request.headers and "partNumber=" in request.path


def is_completing(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


def refusing(fault: Any = "", wanted: Any = lambda _: False, *, refusal: Any = REFUSALS[0]) -> Any:
    """Return what refuses to copy with one request, and has other requests meet a fault."""
    return lambda request: refusal if is_copy(request) else fault if wanted(request) else ""


@pytest.fixture
def store(server: Server, path: str) -> S3Store:
    """A store on each server in turn."""
    found: S3Store = S3FileStorage(**server.options(path, **PIECES)).store
    return found


@pytest.fixture
def faced(storage: S3FileStorage, eager: None) -> S3Store:
    """A store through the proxy, with a large blob and a small one."""
    found: S3Store = storage.store
    found.put("w/large", [LARGE])
    found.put("w/to", [b"before"])
    return found


@pytest.mark.parametrize("size", [0, 1000, len(LARGE)])
def test_a_copy_is_one_request(store: S3Store, size: int) -> None:
    """Of any size up to the server's limit; onto itself it is none, and a missing blob is one."""
    store.put("w/t", [LARGE[:size]])
    with counted(store.bucket.client) as sent:
        store.copy("w/t", "w/.earlier/x")
        assert {"CopyObject": 1} == sent
        store.copy("w/t", "w/t")
        with pytest.raises(ResultNotFoundError, match="w/missing' of bucket"):
            store.copy("w/missing", "w/t")
        assert {"CopyObject": 2} == sent
    assert LARGE[:size] == store.get("w/.earlier/x")


def test_a_copy_has_the_options_of_a_put(server: Server, path: str) -> None:
    """Encryption and storage class are those of the storage, whatever those of the first are."""
    S3FileStorage(**server.options(path)).store.put("w/t", [b"x"])
    options = {"server_side_encryption": "AES256", "storage_class": "STANDARD_IA"}
    store = S3FileStorage(**server.options(path, **options)).store
    for key, to in (("w/t", "w/.earlier/x"), ("w/.earlier/x", "w/t")):
        store.copy(key, to)
        answer = store.bucket.call("head_object", to)
        assert "AES256" == answer["ServerSideEncryption"]
        assert "STANDARD_IA" == answer["StorageClass"]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[refusal[1] for refusal in REFUSALS])
def test_what_is_too_large_for_one_request(server: Server, path: str, refusal: Any) -> None:
    """It is copied in pieces, which stay on the server, too, and with the options of a put."""
    with faulty(server.url) as proxy:
        options = server.behind(proxy.url).options(path, storage_class="STANDARD_IA", **PIECES)
        store = S3FileStorage(**options).store
        store.put("w/large", [LARGE])
        proxy.fault = refusing(refusal=refusal)
        with counted(store.bucket.client) as sent:
            store.copy("w/large", "w/to")
        assert {"CopyObject": 1, "HeadObject": 1, "CreateMultipartUpload": 1, **PIECES_SENT} == sent
        assert LARGE == store.get("w/to")
        assert "STANDARD_IA" == store.bucket.call("head_object", "w/to")["StorageClass"]
        store.delete(["w/large"])
        assert LARGE == store.get("w/to")


def test_what_is_refused_for_another_reason(faced: S3Store, proxy: Proxy) -> None:
    """A small blob is not too large: the server's own words are the error."""
    proxy.fault = refusing()
    start = len(proxy.seen)
    with pytest.raises(StorageError, match=r"copy object of key .*w/to' .*InvalidRequest"):
        faced.copy("w/to", "w/large")
    assert ["PUT", "HEAD"] == [request.method for request in proxy.seen[start:]]
    with pytest.raises(StorageError, match="InvalidRequest"):
        faced.copy("w/missing", "w/to")
    assert LARGE == faced.get("w/large")


@pytest.mark.parametrize("wanted", [is_piece, is_completing])
def test_pieces_that_fail(
    one_server: Server, storage: S3FileStorage, faced: S3Store, proxy: Proxy, wanted: Any
) -> None:
    """Nothing of them is left, and the earlier blob stays."""
    proxy.fault = refusing("503", wanted)
    with pytest.raises(StorageConnectionError, match="fails or is too busy"):
        faced.copy("w/large", "w/to")
    assert b"before" == faced.get("w/to")
    assert [] == one_server.uploads(storage)


def test_a_lost_answer_to_the_last_request_of_a_copy(
    one_server: Server, storage: S3FileStorage, faced: S3Store, proxy: Proxy
) -> None:
    """Sent again, the server knows of no such upload: the mark tells that it is completed."""
    lost = once("reset after", is_completing)
    unknown = (404, "NoSuchUpload", "The specified upload does not exist.", {})
    proxy.fault = lambda request: lost(request) or refusing(unknown, is_completing)(request)
    faced.copy("w/large", "w/to")
    assert LARGE == faced.get("w/to")
    assert [] == one_server.uploads(storage)


def test_a_blob_that_is_replaced_while_it_is_copied_in_pieces(
    seaweedfs_server: Server, storage: S3FileStorage, faced: S3Store, proxy: Proxy
) -> None:
    """Pieces of two blobs never make one: the copy is an error, and the earlier blob stays."""

    def replace(request: Request) -> Any:
        if is_piece(request) and "partNumber=2" in request.path:
            key = f"{faced.bucket.prefix}w/large"
            seaweedfs_server.by_hand.put_object(Bucket=BUCKET, Key=key, Body=LARGE[::-1])
        return refusing()(request)

    proxy.fault = replace
    with pytest.raises(StorageError, match="replaced meanwhile; try again"):
        faced.copy("w/large", "w/to")
    assert b"before" == faced.get("w/to")
    assert [] == seaweedfs_server.uploads(storage)


@pytest.mark.parametrize("fault", FAULTS if FULL else ["503", "reset after", "cut"])
def test_a_fault_that_happens_once_to_a_copy(faced: S3Store, proxy: Proxy, fault: str) -> None:
    """It is made again: that changes nothing."""
    if "hang" in fault:
        options = dict(faced.bucket.options) | {"read_timeout": 0.5, "max_attempts": 9}
        faced = S3FileStorage(**options).store
    proxy.fault = once(fault, is_copy)
    faced.copy("w/large", "w/to")
    assert LARGE == faced.get("w/to")


@pytest.mark.parametrize("times", [2, 9])
@pytest.mark.parametrize("wanted", [is_copy, is_piece])
def test_an_error_in_the_body_of_an_answer_that_begins_well(
    one_server: Server,
    storage: S3FileStorage,
    faced: S3Store,
    proxy: Proxy,
    wanted: Any,
    times: int,
) -> None:
    """To copy takes a server so long that it says 200 before it knows: that is no success."""
    failed = once((200, "InternalError", "It can't be.", {}), wanted, times)
    proxy.fault = (
        failed if wanted is is_copy else (lambda request: refusing()(request) or failed(request))
    )
    if times == 2:
        faced.copy("w/large", "w/to")
        assert LARGE == faced.get("w/to")
    else:
        with pytest.raises(StorageConnectionError, match="at each of 3 attempt"):
            faced.copy("w/large", "w/to")
        assert b"before" == faced.get("w/to")
    assert [] == one_server.uploads(storage)


@pytest.fixture
def results(one_server: Server, path: str) -> S3FileStorage:
    """More results than are asked for at once, whose headers the store has noted."""
    storage = S3FileStorage(**one_server.options(path, concurrency=2))
    for name in NAMES:
        storage.save("w", name, name, replaces=None)
    return storage


def test_the_header_of_what_a_copy_replaced_is_forgotten(results: S3FileStorage) -> None:
    """It is not remembered after a run; plans read that of the copy."""
    store = results.store
    store.copy("w/t1", "w/.earlier/x")
    results.save("w", "t1", "newer", replaces=None)
    store.copy("w/.earlier/x", "w/t1")
    store.finish("w/")
    remembered = S3FileStorage(**dict(store.bucket.options)).store._heads._recalled("w/")
    assert set(NAMES) - {"t1"} == set(remembered)
    [earlier] = store.heads("w/.earlier/", ["x"], FIRST_READ)
    now = dict(zip(NAMES, store.heads("w/", NAMES, FIRST_READ), strict=True))["t1"]
    assert earlier
    assert now
    assert read_info(earlier) == read_info(now)
    assert "t1" == results.read_task("w", "t1")


def test_headers_of_copies(results: S3FileStorage) -> None:
    """They are read where the copies are, and no blob is left there to remember them."""
    store = results.store
    for name in NAMES:
        store.copy(f"w/{name}", f"w/.earlier/{name}")
    keys = [blob.key for blob in store.list("w/")]
    with counted(store.bucket.client) as sent:
        heads = list(store.heads("w/.earlier/", [*NAMES, "missing"], FIRST_READ))
    assert {"GetObject": len(NAMES) + 1} == sent
    read = [read_info(head) for head in store.heads("w/", NAMES, FIRST_READ)]
    assert [*read, None] == [head and read_info(head) for head in heads]
    store.finish("w/.earlier/")
    assert sorted([*keys, f"w/{HEADERS}"]) == [blob.key for blob in store.list("w/")]
