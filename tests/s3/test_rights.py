"""A denied request is explained by the right that it needs, and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_proxy import Proxy
from s3_servers import Server

import functionfuse_s3
from functionfuse.errors import StorageAccessError
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.options import S3Options
from functionfuse_s3.rights import Request, denied

ONCE = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 1}
DENIED = 403, "AccessDenied", "No.", {}

USES: dict[str, tuple[Callable[[Any], object], str]] = {
    "read": (lambda store: store.get("w/t"), "s3:GetObject"),
    "put": (lambda store: store.put("w/t", [b"x"]), "s3:PutObject"),
    "put in pieces": (lambda store: store.put("w/t", [bytes(6 << 20)]), "s3:PutObject"),
    "put if absent": (lambda store: store.put("w/t", [b"x"], if_absent=True), "s3:PutObject"),
    "copy": (lambda store: store.copy("w/t", "w/u"), "s3:GetObject, s3:PutObject"),
    "delete": (lambda store: store.delete(["w/t"]), "s3:DeleteObject"),
    "list": (lambda store: list(store.list("w/")), "s3:ListBucket"),
    "names": (lambda store: list(store.names("w/")), "s3:ListBucket"),
}


@pytest.fixture
def store(proxy: Proxy, one_server: Server, path: str) -> Any:
    """A store through a proxy that lets nothing pass."""
    proxy.fault = lambda _: DENIED
    options = {**ONCE, "multipart_threshold": 5 << 20}
    return S3FileStorage(**one_server.behind(proxy.url).options(path, **options)).store


@pytest.mark.parametrize(("use", "right"), USES.values(), ids=list(USES))
def test_the_right_is_named(store: Any, use: Callable[[Any], object], right: str) -> None:
    """That of the operation, and no other one, as a thing to add."""
    with pytest.raises(StorageAccessError, match=rf"It needs the rights? {right}: add") as caught:
        use(store)
    missing = "an object that doesn't exist" in str(caught.value)
    assert missing == ("s3:GetObject" in right)


def test_every_request_has_a_right() -> None:
    """Each operation that the code sends can be explained."""
    folder = Path(functionfuse_s3.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    sent = set(re.findall(r'\.(?:call|send|pages|failed)\((?:\w+, )?\s*"(\w+)"', text))
    assert {"put_object", "get_object", "upload_part_copy", "list_parts"} <= sent
    for operation in sent - {"make_client"}:  # which sends nothing
        assert "It needs the right" in told(operation)


def told(operation: str, options: dict[str, Any] | None = None, **writing: str) -> str:
    """Return the explanation of a denied operation."""
    given = S3Options(**{"path": "bucket", **(options or {})})
    return denied(Request("doing", operation, given, writing))


def test_options_for_uploads_need_rights() -> None:
    """Those that are given, with uploads and copies; a key for encryption with reading, too."""
    writing = {"Tagging": "a=b", "ACL": "private", "ServerSideEncryption": "aws:kms"}
    rights = "s3:PutObject, s3:PutObjectAcl, s3:PutObjectTagging"
    keys = "kms:GenerateDataKey, kms:Decrypt"
    assert f"the rights {rights}, {keys}: add" in told("put_object", **writing)
    assert f"the rights s3:GetObject, {rights}, {keys}: add" in told("copy_object", **writing)
    assert "the rights s3:GetObject, kms:Decrypt: add" in told("get_object", **writing)
    assert "the right s3:ListBucket: add" in told("list_objects_v2", **writing)
    assert "the right s3:PutObject: add" in told("put_object", ServerSideEncryption="AES256")
    assert "s3:GetObjectTagging" in told("copy_object")
    assert "Tagging" not in told("put_object")


def test_nobody_in_particular_has_no_policy() -> None:
    """Who sends no credentials is told who can allow it, and that credentials can."""
    text = told("get_object", {"anonymous": True})
    assert "s3:GetObject, which the bucket doesn't give to everybody. Ask its owner" in text
    assert "instead of the option 'anonymous'" in text
    assert "the credentials don't" not in text
    assert "log in" not in text


def test_a_result_that_may_not_be_looked_at_is_replaced(
    proxy: Proxy, one_server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without s3:ListBucket, nobody is told that a result is not there: one warning says so."""
    storage = S3FileStorage(**one_server.behind(proxy.url).options(path, **ONCE))
    proxy.fault = lambda request: DENIED if request.method == "GET" else ""
    for number in range(3):
        storage.save("w", "t", number)
    proxy.fault = lambda _: ""
    assert 2 == storage.read_task("w", "t")
    [line] = caplog.messages
    assert "It needs the right s3:GetObject" in line
    assert "Without s3:ListBucket, a server says the same" in line


def test_a_save_that_fails_leaves_nothing(
    proxy: Proxy, one_server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So nothing is said to be left: the error is all there is to say."""
    storage = S3FileStorage(**one_server.behind(proxy.url).options(path, **ONCE))
    proxy.fault = lambda _: (403, "InvalidAccessKeyId", "No.", {})
    with pytest.raises(StorageAccessError):
        storage.save("w", "t", 1)
    assert [] == caplog.messages
