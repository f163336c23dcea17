"""What an error advises depends on the options that were given, and on what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from s3_proxy import Proxy
from s3_servers import BUCKET, Server

from functionfuse import LocalWorkflow, workflow
from functionfuse.errors import OptionsError, StorageAccessError, StorageError
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.errors import explained
from functionfuse_s3.options import S3Options, checked
from functionfuse_s3.rights import Request

ONCE = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 1}
ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name"


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    """It has archives."""
    return moto_server


@workflow
def one() -> int:
    return 1


def test_an_archived_result(moto_server: Server, path: str) -> None:
    """The error says how it can be read, or computed again; and nothing is replaced before."""
    storage = S3FileStorage(**moto_server.options(path, **ONCE))
    flow = LocalWorkflow(one().set_name("t"), workflow_name="w")  # type: ignore[attr-defined]
    flow.set_storage(storage)
    flow.run()
    where = {"Bucket": BUCKET, "Key": f"{path.partition('/')[2]}/w/t"}
    moto_server.by_hand.copy_object(**where, CopySource=where, StorageClass="GLACIER")
    for use in (flow.run, flow.plan, lambda: storage.read_task("w", "t")):
        with pytest.raises(StorageAccessError, match=r"archived .*restore it, or delete") as caught:
            use()
        assert "policy" not in str(caught.value)
        assert where["Key"] in str(caught.value)
    assert [] == list(storage.gc(-60))
    moto_server.by_hand.delete_object(**where)
    assert 1 == flow.run() == storage.read_task("w", "t")


def told(error: Exception, operation: str = "get_object", at: str = "AWS", **options: Any) -> str:
    """Return our text for an error of boto3."""
    given = checked({"path": "bucket/prefix", **options})
    return str(explained(error, Request(f"S3: it at {at}", operation, given, {})))


def refused(code: str) -> boto.ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return boto.ClientError(answer, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "at", "named", "not_named"),
    [
        ({}, "AWS", ["'path'", "'region'"], ["endpoint_url", "style"]),
        ({}, "http://s3.example.org", ["'endpoint_url'"], ["'path'", "style"]),
        ({"addressing_style": "virtual"}, "http://s3.example.org", ["'endpoint_url'", "style"], []),
        ({"addressing_style": "virtual"}, "AWS", ["'path'", "style"], ["endpoint_url"]),
        ({"path": ARN}, "AWS", ["access point", "'region'"], ["endpoint_url"]),
    ],
)
def test_no_such_host(
    options: dict[str, Any], at: str, named: list[str], not_named: list[str]
) -> None:
    """What makes up the host's name is named, and nothing that wasn't given."""
    error = boto.EndpointConnectionError(endpoint_url="https://host/key")
    text = told(error, at=at, **options).partition(" (")[0]
    assert [] == [each for each in named if each not in text]
    assert [] == [each for each in not_named if each in text]


def test_sts_is_not_reached() -> None:
    """It is named, and not the bucket's server; whose requests all have a path or a query."""
    for url in ("https://sts.eu-west-1.amazonaws.com/", "http://127.0.0.1:9"):
        text = told(boto.EndpointConnectionError(endpoint_url=url))
        for part in ("STS", "'region'", "AWS_ENDPOINT_URL_STS", url):
            assert part in text
    for url in ("https://bucket.s3.amazonaws.com/?list-type=2", "http://127.0.0.1:9/bucket/key"):
        assert "STS" not in told(boto.EndpointConnectionError(endpoint_url=url))


def test_sts_at_an_endpoint_that_is_down(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 tells its URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", **ONCE}
    storage = S3FileStorage(path, role_arn="arn:aws:iam::123456789012:role/a", **keys)
    with pytest.raises(StorageError, match="STS, which gives the credentials of a role"):
        storage.list_tasks("w")


GIVEN = {"server_side_encryption": "aws:kms", "kms_key_id": "k", "tags": {"a": "b"}}


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (501, "NotImplemented")])
def test_options_that_a_server_may_not_know(
    proxy: Proxy, moto_server: Server, path: str, status: int, code: str
) -> None:
    """Some fail instead of saying so; a run hears it before anything is computed."""
    options = moto_server.behind(proxy.url).options(path, **ONCE)
    storage, plain = S3FileStorage(**options, **GIVEN), S3FileStorage(**options)
    proxy.fault = lambda request: (status, code, "No.", {}) if request.method == "PUT" else ""
    text = "leave out .*: server_side_encryption, kms_key_id, tags"
    for use in (lambda: storage.new_workflow("w"), lambda: storage.save("w", "t", 1)):
        with pytest.raises(StorageError, match=text):
            use()
    with pytest.raises(StorageError) as caught:
        plain.save("w", "t", 1)
    assert "leave out" not in str(caught.value)
    proxy.fault = lambda _: (503, "SlowDown", "No.", {})
    with pytest.raises(StorageError) as caught:
        storage.save("w", "t", 1)
    assert "leave out" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["Tests", "te", "no_such"])
def test_a_bucket_that_s3_can_not_have(bucket: str) -> None:
    """Nobody is told to make it."""
    text = told(refused("NoSuchBucket"), path=bucket)
    assert "3 to 63" in text
    assert "make" not in text
    assert "make the bucket" in told(refused("NoSuchBucket"))


def test_a_session_token_belongs_to_its_key() -> None:
    """It is named where one is given."""
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    assert "session_token" not in told(refused("InvalidAccessKeyId"), **keys)
    assert "'session_token'" in told(refused("InvalidAccessKeyId"), **keys, session_token="c")


def test_the_reason_comes_first(path: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that isn't there; a program that fails."""
    monkeypatch.setenv("AWS_PROFILE", "nope")
    with pytest.raises(StorageAccessError, match=r": there is no profile 'nope' .*AWS_PROFILE"):
        S3FileStorage(path).list_tasks("w")
    monkeypatch.delenv("AWS_PROFILE")
    (home / "config").write_text("[default]\ncredential_process = false\nregion = us-east-1\n")
    with pytest.raises(StorageAccessError, match=r": Error when retrieving .*; mend this, or"):
        S3FileStorage(path, endpoint_url="http://127.0.0.1:9").list_tasks("w")


WRONG = {
    "AWS_MAX_ATTEMPTS": "abc",
    "AWS_RETRY_MODE": "bogus",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "bogus",
    "AWS_DEFAULT_REGION": "mars 1",
    "AWS_ENDPOINT_URL": "http://user:canary@a b",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_boto3_refuses(
    path: str, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The error names the variable."""
    del home
    monkeypatch.setenv(name, WRONG[name])
    with pytest.raises((OptionsError, StorageError), match=name) as caught:
        S3FileStorage(path).list_tasks("w")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[default]\ns3 = x\n", "[default]\nservices = own\n[services own]\ns3 = x\n"]
)
def test_a_section_that_has_a_value(path: str, home: Path, text: str) -> None:
    """The error names it, and where it is."""
    (home / "config").write_text(text)
    with pytest.raises(OptionsError, match=r"'s3' .* in ~/.aws/config: its settings"):
        S3FileStorage(path, endpoint_url="http://127.0.0.1:9").list_tasks("w")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"region": ""}, "'region'"),
        ({"storage_class": "GLACIER"}, "restore it"),
        ({"storage_class": "DEEP_ARCHIVE"}, "restore it"),
        ({"s3fs": {"s3_additional_kwargs": {"StorageClass": "GLACIER"}}}, "restore it"),
        ({"role_arn": "arn:aws:iam::123456789012:user/writer"}, "'role_arn'"),
        ({"kms_key_id": "k"}, "'aws:kms:dsse'"),
    ],
)
def test_options_without_use(options: dict[str, Any], named: str) -> None:
    """They are refused when the storage is made."""
    with pytest.raises(OptionsError, match=named):
        S3FileStorage("bucket/prefix", **options)
    assert "GLACIER_IR" == S3Options(path="bucket", storage_class="GLACIER_IR").storage_class
