"""Answers that lack something, and servers that don't know uploads in pieces: the error says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from s3_proxy import Proxy, Request, once
from s3_servers import Server

from functionfuse.errors import StorageAccessError, StorageError
from functionfuse_s3 import S3FileStorage

pytestmark = pytest.mark.usefixtures("eager")

EMPTY = 201, "", "", {}
DENIED = 403, "AccessDenied", "No.", {}
LARGE = [bytes(6 << 20)]  # in two pieces


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    return moto_server


@pytest.fixture
def one_server(moto_server: Server) -> Server:
    return moto_server


def begins(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("?uploads")


def is_piece(request: Request) -> bool:
    return "partNumber=" in request.path


@pytest.mark.parametrize(
    ("wanted", "operation", "name"),
    [(begins, "create multipart upload", "UploadId"), (is_piece, "upload part", "ETag")],
)
def test_an_upload(
    storage: S3FileStorage,
    proxy: Proxy,
    moto_server: Server,
    wanted: Callable[[Request], bool],
    operation: str,
    name: str,
) -> None:
    """It fails with key, bucket and endpoint, and nothing of it is left."""
    proxy.fault = once(EMPTY, wanted)
    told = rf"{operation} of key '.*/w/t' of bucket 'tests' at {proxy.url}: .* has no '{name}'"
    with pytest.raises(StorageError, match=told):
        storage.store.put("w/t", LARGE)
    assert [] == moto_server.uploads(storage)


@pytest.mark.parametrize("operation", ["head object", "upload part copy"])
def test_a_copy_in_pieces(storage: S3FileStorage, proxy: Proxy, operation: str) -> None:
    storage.store.put("w/large", LARGE)

    def fault(request: Request) -> Any:
        if is_piece(request):
            return EMPTY
        if operation == "head object" and request.method == "HEAD":
            return 201, "", "", {"Content-Length": str(6 << 20)}
        return (400, "EntityTooLarge", "No.", {}) if request.method == "PUT" else ""

    proxy.fault = fault
    with pytest.raises(StorageError, match=f"{operation} of key '.*: the answer has no 'ETag'"):
        storage.store.copy("w/large", "w/copy")


@pytest.mark.parametrize(
    ("query", "name"), [("list-type", "NextContinuationToken"), ("uploads", "NextKeyMarker")]
)
def test_a_listing(storage: S3FileStorage, proxy: Proxy, query: str, name: str) -> None:
    """One that isn't at its end says how it goes on."""
    more = (*EMPTY, "<IsTruncated>true</IsTruncated>")
    proxy.fault = once(more, lambda request: query in request.path.partition("?")[2])
    with pytest.raises(StorageError, match=f"the answer has no '{name}'"):
        list(storage.store.list("w/") if query == "list-type" else storage.store.sweep(0))


REFUSALS = [(501, "NotImplemented"), (400, "InvalidRequest"), (403, "AccessDenied"), (405, "")]


@pytest.mark.parametrize(("status", "code"), [*REFUSALS, (405, "MethodNotAllowed"), (403, "Odd")])
def test_a_server_without_uploads_in_pieces(
    storage: S3FileStorage, proxy: Proxy, status: int, code: str
) -> None:
    """The error names the option that avoids them; no error of another request does."""
    proxy.fault = once((status, code, "No.", {}), begins)
    with pytest.raises(StorageError, match="raise 'multipart_threshold'"):
        storage.store.put("w/t", LARGE)
    proxy.fault = once((status, code, "No.", {}), lambda request: request.method == "PUT")
    with pytest.raises(StorageError) as caught:
        storage.store.put("w/t", [b"small"])
    assert "multipart_threshold" not in str(caught.value)
    proxy.fault = once((400, "ExpiredToken", "No.", {}), begins, 2)
    with pytest.raises(StorageAccessError) as denied:
        storage.store.put("w/t", LARGE)
    assert "multipart_threshold" not in str(denied.value)


def test_the_first_error_of_an_upload_is_raised(storage: S3FileStorage, proxy: Proxy) -> None:
    """If it can't be completed, and nobody can say whether it has been all the same."""

    def fault(request: Request) -> Any:
        return "503" if "uploadId=" in request.path and request.method == "POST" else ""

    proxy.fault = fault
    with pytest.raises(StorageError, match="complete multipart upload") as caught:
        storage.store.put("w/t", LARGE)
    assert not hasattr(caught.value, "__notes__")
    proxy.fault = lambda request: DENIED if request.method == "HEAD" else fault(request)
    with pytest.raises(StorageError, match="complete multipart upload") as caught:
        storage.store.put("w/t", LARGE)
    [note] = caught.value.__notes__
    assert "whether it is stored is unknown: S3: head object" in note
