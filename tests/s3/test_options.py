"""What users write for the kind "S3", and what becomes of it."""

from __future__ import annotations

import json
import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
from s3_servers import BUCKET, Server

from functionfuse.errors import OptionsError, StorageError
from functionfuse.storage import storage_factory
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.options import S3Options, checked, place_of

SECRETS = {
    "access_key_id": "canary-1",
    "secret_access_key": "canary-2",
    "session_token": "canary-3",
}


@pytest.mark.parametrize(
    "path", ["bucket/a/b", "/bucket/a/b", "s3://bucket/a/b", "bucket/a/b/", "s3a://bucket/a/b"]
)
def test_a_path_in_every_spelling(path: str) -> None:
    """Bucket and prefix; a bucket alone is a place as well."""
    assert ("bucket", "a/b/") == place_of(path)
    assert ("bucket", "") == place_of(path.partition("/a")[0])


@pytest.mark.parametrize("spelling", ["{}", "{}/a/b", "/{}/a/b/", "s3://{}/a/b"])
@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/name",
        "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint:name",
        "arn:aws:s3::123456789012:accesspoint/abc.mrap",
    ],
)
def test_a_path_with_an_arn(arn: str, spelling: str) -> None:
    """The slash and the colons in it belong to the name of the access point."""
    prefix = "a/b/" if "a/b" in spelling else ""
    assert (arn, prefix) == place_of(spelling.format(arn))


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "s3://", "gs://b/p", "bu cket/p", "bucket//p", "bucket/../p", "bucket/a\n"),
        *("b" * 300, "bucket/" + "p" * 301, "https://host/bucket"),
        *("arn:aws:s3:::bucket/p", "arn:aws:s3:eu-west-1:1:accesspoint/name"),
        "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/name",
        *(f"arn:aws:s3:eu-west-1:123456789012:accesspoint/name/{end}" for end in ("..", "a//b")),
    ],
)
def test_a_path_that_can_not_be_stored_at_is_refused(path: str) -> None:
    """When the storage is made, not when a result is saved."""
    with pytest.raises(OptionsError, match="'path'"):
        S3FileStorage(path)


def test_the_factory_makes_the_documented_class(server: Server, path: str) -> None:
    """By kind, in either case; and by the older spelling, with what the documentation shows."""
    for kind in ("S3", "s3"):
        assert isinstance(storage_factory({"kind": kind, "options": {"path": path}}), S3FileStorage)
    older = {"key": server.access_key, "secret": server.secret_key, "endpoint_url": server.url}
    storage = storage_factory({"kind": "S3", "options": {"path": f"/{path}", "s3fs": older}})
    storage.save("w", "t", [1, 2])
    assert [1, 2] == S3FileStorage(path, older).read_task("w", "t")
    assert [1, 2] == S3FileStorage(**server.options(f"s3://{path}")).read_task("w", "t")


def test_the_older_spelling_has_newer_names() -> None:
    """Each of its fields that means something here."""
    older = {
        "key": "k",
        "secret": "s",
        "token": "t",
        "endpoint_url": "https://example.org",
        "requester_pays": True,
        "max_concurrency": 7,
        "client_kwargs": {"region_name": "eu-west-1", "verify": "/ca.pem"},
        "config_kwargs": {
            "connect_timeout": 3,
            "read_timeout": 4,
            "retries": {"max_attempts": 2, "mode": "standard"},
            "s3": {"addressing_style": "virtual"},
        },
        "s3_additional_kwargs": {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": "key",
            "StorageClass": "STANDARD_IA",
        },
    }
    newer = {
        "access_key_id": "k",
        "secret_access_key": "s",
        "session_token": "t",
        "endpoint_url": "https://example.org",
        "request_payer": "requester",
        "concurrency": 7,
        "region": "eu-west-1",
        "verify": Path("/ca.pem"),
        "connect_timeout": 3,
        "read_timeout": 4,
        "max_attempts": 3,
        "addressing_style": "virtual",
        "server_side_encryption": "aws:kms",
        "kms_key_id": "key",
        "storage_class": "STANDARD_IA",
    }
    assert checked({"path": "bucket", **newer}) == checked({"path": "bucket", "s3fs": older})
    assert checked({"path": "bucket", "anonymous": True}) == checked(
        {"path": "bucket", "s3fs": {"anon": True}}
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pth": 1}, "'pth'"),
        ({"s3fs": {"kay": 1}}, "'s3fs.kay'"),
        ({"s3fs": {"client_kwargs": {"regin_name": 1}}}, "'s3fs.client_kwargs.regin_name'"),
        ({"s3fs": {"config_kwargs": {"signature_version": 1}}}, "signature_version"),
        ({"region": "a", "s3fs": {"client_kwargs": {"region_name": "b"}}}, "'region'"),
        ({"s3fs": {"key": "a", "client_kwargs": {"aws_access_key_id": "b"}}}, "access_key_id"),
        ({"access_key_id": "a"}, "'secret_access_key'"),
        ({"session_token": "a"}, "'session_token'"),
        ({"anonymous": True, "access_key_id": "a", "secret_access_key": "b"}, "'anonymous'"),
        ({"profile": "p", "access_key_id": "a", "secret_access_key": "b"}, "'profile'"),
        ({"kms_key_id": "a"}, "'kms_key_id'"),
        ({"role_arn": "arn:aws:iam::123456789012:role/a", "anonymous": True}, "'role_arn'"),
        ({"role_arn": "writer, of our account"}, "'role_arn'"),
        ({"external_id": "ab"}, "'role_arn'"),
        ({"role_session_name": "ab"}, "'role_arn'"),
        ({"addressing_style": "host"}, "'addressing_style'"),
        ({"multipart_chunk": 1000}, "'multipart_chunk'"),
        ({"concurrency": 0}, "'concurrency'"),
        ({"max_attempts": 0}, "'max_attempts'"),
        ({"read_timeout": 0}, "'read_timeout'"),
        ({"endpoint_url": "example.org"}, "'endpoint_url'"),
        ({"endpoint_url": "https://canary:canary@example.org"}, "'endpoint_url'"),
        ({"endpoint_url": "https://example.org/path"}, "'endpoint_url'"),
    ],
)
def test_what_is_wrong_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    """And no secret stands in the message."""
    with pytest.raises(OptionsError) as caught:
        S3FileStorage("bucket", **options)
    assert named in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pth": 1},
        {"anonymous": True},
        {"s3fs": {"kay": 1}},
        {"s3fs": {"secret": "canary-4"}},
        {"profile": "none"},
        {"session_token": ["canary-5"]},
        {"endpoint_url": "https://canary:canary@example.org"},
    ],
    ids=str,
)
def test_no_frame_of_ours_shows_a_secret(wrong: dict[str, Any]) -> None:
    """Also with the local variables of an error."""
    options = {"path": "bucket", "key": "canary-6", **SECRETS, **wrong}
    for make in (
        lambda: S3FileStorage(**options),
        lambda: storage_factory({"kind": "S3", "options": options}),
        lambda: checked(options),
    ):
        with pytest.raises(OptionsError) as caught:
            make()
        _assert_hidden(caught.value)


def test_no_client_shows_a_secret_of_ours() -> None:
    """Where boto3 can't make one: its own frames are not ours."""
    storage = S3FileStorage("bucket", endpoint_url="https://[canary", **SECRETS)
    with pytest.raises(ValueError, match="Invalid") as caught:
        storage.list_workflows()
    _assert_hidden(caught.value)


@pytest.mark.parametrize(
    ("more", "profile"),
    [({}, ""), ({}, "missing"), ({"proxies": {"http": "http://a:canary-7@127.0.0.1:PORT"}}, "")],
    ids=["nobody answers", "no profile", "no proxy"],
)
def test_no_frame_of_boto3_shows_a_secret(
    more: dict[str, Any], profile: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one of what the error came from, whose headers have the token."""
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    more = json.loads(json.dumps(more).replace("PORT", port))
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "max_attempts": 1, **SECRETS, **more}
    storage = S3FileStorage("bucket", **options)
    del options, more
    with pytest.raises(StorageError) as caught:
        storage.list_workflows()
    found = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(found.format())
    assert "botocore" in text
    assert "canary" not in text


def test_no_password_in_an_endpoint_of_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3's errors have it in their texts: so no request is sent."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://someone:canary@127.0.0.1:9")
    with pytest.raises(OptionsError, match="AWS_ENDPOINT_URL_S3: no user or pass") as caught:
        S3FileStorage("bucket").list_workflows()
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("path", ["s3a://KEY:canary@b/p", "KEY:can/ary@b", "s3://canary@bucket"])
def test_no_keys_in_the_path(path: str) -> None:
    """As Hadoop writes them: the error doesn't repeat them."""
    with pytest.raises(OptionsError, match=r"'path': .*no keys belong into it") as caught:
        S3FileStorage(path)
    assert [] == [part for part in ("can", "KEY") if part in str(caught.value)]


def _assert_hidden(error: BaseException) -> None:
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in found.stack if "/src/functionfuse" in frame.filename]
    assert ours
    assert "canary-" not in str(error)
    assert [] == [frame.name for frame in ours if "canary-" in str(frame.locals)]


def test_secrets_are_no_attributes() -> None:
    storage = S3FileStorage("bucket/p", **SECRETS)
    options = storage.store.bucket.options  # type: ignore[attr-defined]
    for name, value in SECRETS.items():
        secret = getattr(options, name)
        assert value == secret.get_secret_value()
        assert "canary" not in str(vars(secret))


def test_secrets_show_nowhere() -> None:
    """Neither in what is printed of a storage, nor of its options."""
    proxies = {"https": "http://someone:canary-4@proxy.example.org:3128"}
    storage = S3FileStorage("bucket/p", **SECRETS, proxies=proxies)
    for thing in (storage, storage.store, storage.store.bucket, storage.store.bucket.options):
        assert "canary" not in repr(thing) + str(thing)
    assert "canary" not in json.dumps(storage.store.bucket.options.model_dump(mode="json"))
    copy = pickle.loads(pickle.dumps(storage))
    assert storage.store.bucket.options == copy.store.bucket.options


def test_options_reach_the_client_and_the_requests(moto_server: Server, path: str) -> None:
    """What was asked for is what boto3 is told, and what the server stores."""
    options = moto_server.options(
        path,
        region="eu-central-1",
        checksums="when_required",
        connect_timeout=2,
        read_timeout=3,
        max_attempts=4,
        storage_class="STANDARD_IA",
        server_side_encryption="AES256",
        request_payer="requester",
        multipart_threshold=5 << 20,
    )
    storage = S3FileStorage(**options)
    config = storage.store.bucket.client.meta.config
    assert ("eu-central-1", 2, 3) == (
        config.region_name,
        config.connect_timeout,
        config.read_timeout,
    )
    assert {"mode": "standard", "total_max_attempts": 4} == config.retries
    assert "when_required" == config.request_checksum_calculation
    assert "path" == config.s3["addressing_style"]
    for value in (1, bytes(6 << 20)):
        storage.save("w", "t", value)
        key = f"{storage.store.bucket.prefix}w/t"
        found = moto_server.by_hand.head_object(Bucket=BUCKET, Key=key)
        assert ("STANDARD_IA", "AES256") == (found["StorageClass"], found["ServerSideEncryption"])
        assert value == storage.read_task("w", "t")
    assert ["t"] == storage.list_tasks("w")
    storage.remove_task("w", "t")


def test_a_public_bucket_is_read_without_credentials(moto_server: Server, path: str) -> None:
    """No signature is sent."""
    private = S3FileStorage(**moto_server.options(path))
    private.save("w", "t", 1)
    key = f"{private.store.bucket.prefix}w/t"
    moto_server.by_hand.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")
    storage = S3FileStorage(path, endpoint_url=moto_server.url, region="us-east-1", anonymous=True)
    headers: list[Any] = []
    storage.store.bucket.client.meta.events.register(
        "before-send.s3", lambda request, **_: headers.append(dict(request.headers))
    )
    assert 1 == storage.read_task("w", "t")
    assert ["Authorization" in sent for sent in headers] == [False]


def test_every_option_is_documented() -> None:
    """In the model, which makes the schema, and in the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "s3.md").read_text(encoding="utf-8")
    for name, field in S3Options.model_fields.items():
        assert field.description
        assert f"`{name}`" in text, name
