"""Options in the spelling of s3fs: taken over, without effect, or refused with what to write."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config

from functionfuse.errors import OptionsError
from functionfuse_s3 import S3FileStorage, older
from functionfuse_s3.options import checked

HERE = "http://localhost:9000"
# What S3FileSystem of s3fs 2026.9.0 takes, and hands on to fsspec.
OF_S3FS = {
    *("anon", "endpoint_url", "key", "secret", "token", "use_ssl", "client_kwargs", "loop"),
    *("requester_pays", "default_block_size", "default_fill_cache", "default_cache_type"),
    *("version_aware", "config_kwargs", "s3_additional_kwargs", "session", "username", "password"),
    *("cache_regions", "asynchronous", "max_concurrency", "fixed_upload_size"),
    *("local_expiry_check", "skip_instance_cache", "use_listings_cache", "listings_expiry_time"),
    "max_paths",
}
NO_EFFECT: dict[str, Any] = {
    "default_block_size": 1 << 23,
    "default_cache_type": "none",
    "version_aware": False,
    "loop": object(),
    "config_kwargs": {"tcp_keepalive": True, "retries": {"mode": "adaptive"}},
    "s3_additional_kwargs": {"ContentType": "text/plain"},
}
NAMED = (
    "s3fs.config_kwargs.retries.mode, s3fs.config_kwargs.tcp_keepalive, s3fs.default_block_size,"
    " s3fs.default_cache_type, s3fs.loop, s3fs.s3_additional_kwargs.ContentType, s3fs.version_aware"
)


@pytest.mark.parametrize(
    ("given", "newer"),
    [
        ({"use_ssl": False, "endpoint_url": HERE}, {"endpoint_url": HERE}),
        ({"use_ssl": False, "endpoint_url": "localhost:9000"}, {"endpoint_url": HERE}),
        ({"endpoint_url": "example.org"}, {"endpoint_url": "https://example.org"}),
        ({"use_ssl": True, "endpoint_url": "a.org"}, {"endpoint_url": "https://a.org"}),
        (
            {"use_ssl": True, "client_kwargs": {"use_ssl": False, "endpoint_url": "a.org"}},
            {"endpoint_url": "http://a.org"},
        ),
        ({"use_ssl": True}, {}),
        ({"config_kwargs": {"signature_version": "s3v4"}}, {}),
        ({"config_kwargs": {"signature_version": "unsigned"}}, {"anonymous": True}),
        ({"config_kwargs": {"signature_version": UNSIGNED}}, {"anonymous": True}),
        ({"config_kwargs": {"region_name": "eu-west-1"}}, {"region": "eu-west-1"}),
        (
            {"config_kwargs": {"request_checksum_calculation": "when_required"}},
            {"checksums": "when_required"},
        ),
        ({"config_kwargs": {"retries": {"total_max_attempts": 3}}}, {"max_attempts": 3}),
        (
            {"s3_additional_kwargs": {"ACL": "private", "ExpectedBucketOwner": "123456789012"}},
            {"acl": "private", "expected_bucket_owner": "123456789012"},
        ),
        (
            {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "BucketKeyEnabled": True}},
            {"server_side_encryption": "aws:kms", "bucket_key": True},
        ),
        (
            {"s3_additional_kwargs": {"Tagging": "a%20b=c%26d&e="}},
            {"tags": {"a b": "c&d", "e": ""}},
        ),
        ({"session": None, "client_kwargs": None, "config_kwargs": {"proxies": None}}, {}),
        ({"config_kwargs": {"proxies": {"https": "http://p"}}}, {"proxies": {"https": "http://p"}}),
    ],
)
def test_what_is_taken_over(
    given: dict[str, Any], newer: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is the same as the newer options, and nothing is logged about it."""
    assert checked({"path": "bucket", **newer}) == checked({"path": "bucket", "s3fs": given})
    assert [] == caplog.records


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"session": object()}, "'session'.*name a profile"),
        ({"client_kwargs": {"config": Config()}}, "'config'.*'config_kwargs'"),
        ({"config_kwargs": {"use_fips_endpoint": True}}, "AWS_USE_FIPS_ENDPOINT"),
        ({"config_kwargs": {"s3": {"use_accelerate_endpoint": True}}}, "s3-accelerate"),
        ({"config_kwargs": {"signature_version": "s3"}}, "'s3v4'"),
        ({"s3_additional_kwargs": {"SSECustomerKey": "canary"}}, "'aws:kms'"),
        ({"s3_additional_kwargs": {"Metadata": {"a": "canary"}}}, "use 'Tagging'"),
        ({"s3_additional_kwargs": {"GrantRead": "id=canary"}}, "use 'ACL'"),
        ({"s3_additional_kwargs": {"ObjectLockMode": "GOVERNANCE"}}, "default retention"),
        ({"s3_additional_kwargs": {"Tagging": "canary"}}, "'s3fs.s3_additional_kwargs.Tagging'"),
        ({"s3_additional_kwargs": {"Tagging": "a=1&a=2"}}, "different names"),
        ({"s3_additional_kwargs": {"ACL": "canary-none"}}, "'acl'"),
        ({"use_ssl": False}, "'endpoint_url' must begin with 'http://'"),
        ({"use_ssl": False, "endpoint_url": "https://a.org"}, "must begin with 'http://'"),
        ({"use_ssl": True, "endpoint_url": HERE}, "must begin with 'https://'"),
        ({"client_kwargs": {"use_ssl": True}, "endpoint_url": HERE}, "must begin with 'https://'"),
        ({"anon": False, "config_kwargs": {"signature_version": "unsigned"}}, "'anonymous'"),
    ],
)
def test_what_can_not_be_taken_over(given: dict[str, Any], told: str) -> None:
    """The message says what to write instead, and shows no value that may be a secret."""
    with pytest.raises(OptionsError, match=told) as caught:
        S3FileStorage("bucket", given)
    assert "canary" not in str(caught.value)


def test_an_endpoint_beside_the_older_options_counts() -> None:
    """`use_ssl` may come from the older options, and the endpoint from the newer ones."""
    given = {"path": "bucket", "endpoint_url": HERE}
    assert checked(given) == checked({**given, "s3fs": {"use_ssl": False}})
    with pytest.raises(OptionsError, match="must begin with 'https://'"):
        checked({**given, "s3fs": {"use_ssl": True}})


def test_what_has_no_effect_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for all names, and again only for other names."""
    monkeypatch.setattr(older, "_logged", set())
    caplog.set_level(logging.WARNING, "functionfuse_s3")
    for _ in range(2):
        assert checked({"path": "bucket"}) == checked({"path": "bucket", "s3fs": NO_EFFECT})
    checked({"path": "bucket", "s3fs": {"max_paths": 1}})
    intro = "storage 'S3': these options have no effect here, and can be left out: "
    assert [f"{intro}{NAMED}", f"{intro}s3fs.max_paths"] == caplog.messages


def test_every_option_of_s3fs_is_known() -> None:
    """A name of s3fs is taken over, without effect, or refused with what to write."""
    model = older.S3fsOptions
    assert OF_S3FS <= {*model.model_fields, *model.instead, "username", "password"}


def test_a_typing_error_is_no_tuning() -> None:
    with pytest.raises(OptionsError, match=r"unknown option 's3fs.default_blocksize'"):
        checked({"path": "bucket", "s3fs": {"default_blocksize": 1}})


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("verify", True, {"client_kwargs": {"verify": False}}),
        ("anonymous", False, {"anon": True}),
        ("read_timeout", 60, {"config_kwargs": {"read_timeout": 5}}),
        ("concurrency", 20, {"max_concurrency": 3}),
        ("region", "a", {"client_kwargs": {"region_name": "b"}}),
    ],
)
def test_two_values_for_one_option(name: str, value: object, given: dict[str, Any]) -> None:
    """They are an error, also if one of them is the default: nobody can know which one is meant."""
    with pytest.raises(OptionsError, match=f"'{name}' is given as an option, and with another"):
        checked({"path": "bucket", name: value, "s3fs": given})
    newer = checked({"path": "bucket", "s3fs": given})
    assert newer == checked({"path": "bucket", name: getattr(newer, name), "s3fs": given})
