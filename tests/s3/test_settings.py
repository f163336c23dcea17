"""The settings of boto3, in the environment and in ~/.aws/config, hold for our clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from s3_proxy import Proxy, once
from s3_servers import BUCKET, Server

from functionfuse.errors import StorageAccessError, StorageConnectionError
from functionfuse_s3 import S3FileStorage, clients
from functionfuse_s3.options import checked

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    """It answers every key."""
    return moto_server


@pytest.fixture
def keys(home: Path) -> None:
    """Credentials that boto3 finds."""
    text = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
    (home / "credentials").write_text(text)


def config_of(**options: Any) -> Any:
    """Return what boto3 was told, for options."""
    return clients.client_for(checked({"path": "bucket", **options})).boto.meta.config


def test_settings_of_our_own_where_boto3_has_none(home: Path) -> None:
    del home
    config = config_of()
    assert {"mode": "standard", "total_max_attempts": 5} == config.retries
    assert (5, 60) == (config.connect_timeout, config.read_timeout)
    assert "when_supported" == config.request_checksum_calculation
    assert config.s3 is None
    assert {"addressing_style": "path"} == config_of(endpoint_url="http://s3.example.org").s3


VARIABLES = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "AWS_MAX_ATTEMPTS": "9",
    "AWS_RETRY_MODE": "adaptive",
    "AWS_DEFAULT_REGION": "eu-west-2",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
}
SETTINGS = """[default]
request_checksum_calculation = when_required
response_checksum_validation = when_required
max_attempts = 9
retry_mode = adaptive
region = eu-west-2
use_fips_endpoint = true
use_dualstack_endpoint = true
s3 =
    addressing_style = virtual
    use_accelerate_endpoint = false
"""
SAME = (
    *("request_checksum_calculation", "response_checksum_validation", "retries", "region_name"),
    *("use_fips_endpoint", "use_dualstack_endpoint", "s3"),
)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_settings_of_boto3_hold(home: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Where no option is given; one that is given wins."""
    if where == "file":
        (home / "config").write_text(SETTINGS)
    for name, value in VARIABLES.items() if where == "environment" else ():
        monkeypatch.setenv(name, value)
    ours, plain = config_of(), boto3.session.Session().client("s3").meta.config
    assert [(name, getattr(plain, name)) for name in SAME] == [
        (name, getattr(ours, name)) for name in SAME
    ]
    assert {"mode": "adaptive", "total_max_attempts": 9} == ours.retries
    given = config_of(
        checksums="when_supported", max_attempts=2, region="us-east-2", addressing_style="path"
    )
    assert {"mode": "adaptive", "total_max_attempts": 2} == given.retries
    assert "when_supported" == given.request_checksum_calculation
    assert "when_supported" == given.response_checksum_validation
    assert ("us-east-2", "path") == (given.region_name, given.s3["addressing_style"])


def test_settings_that_boto3_alone_does_not_have(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_REGION, as in other programs; a style of URLs also at an endpoint; a mode's timeout."""
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    monkeypatch.setenv("AWS_DEFAULTS_MODE", "standard")
    (home / "config").write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    config = config_of(endpoint_url="http://s3.example.org")
    assert ("eu-west-2", "virtual") == (config.region_name, config.s3["addressing_style"])
    assert 3.1 == config.connect_timeout
    assert 7 == config_of(connect_timeout=7).connect_timeout
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert "eu-west-3" == config_of().region_name


def test_attempts_of_the_environment_are_ours_as_well(
    keys: None, proxy: Proxy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3's, and those that we make where boto3 makes none."""
    del keys
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage = S3FileStorage(path, endpoint_url=proxy.url, region="us-east-1")
    storage.save("w", "t", "before")
    for fault in ("503", "cut"):
        proxy.fault = lambda _, fault=fault: fault
        start = len(proxy.seen)
        with pytest.raises(StorageConnectionError):
            storage.read_task("w", "t")
        assert 2 == len(proxy.seen) - start
    proxy.fault = once("cut")
    assert "before" == storage.read_task("w", "t")


ENDPOINTS: dict[str, tuple[dict[str, str], str, str]] = {
    "variable": ({"AWS_ENDPOINT_URL": "URL"}, "", "AWS_ENDPOINT_URL"),
    "variable of S3": (
        {"AWS_ENDPOINT_URL_S3": "URL", "AWS_ENDPOINT_URL": "http://no"},
        "[default]\nendpoint_url = http://no",
        "AWS_ENDPOINT_URL_S3",
    ),
    "config file": ({}, "[default]\nendpoint_url = URL\n", "endpoint_url in the config file"),
    "services": (
        {},
        "[default]\nservices = own\n[services own]\ns3 =\n  endpoint_url = URL\n",
        "services in the config file",
    ),
}


@pytest.mark.parametrize(("variables", "text", "origin"), ENDPOINTS.values(), ids=list(ENDPOINTS))
def test_an_endpoint_of_boto3_is_used_and_named(
    home: Path,
    keys: None,
    proxy: Proxy,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    text: str,
    origin: str,
) -> None:
    """Buckets stand in the path of its URLs; errors say who has named it."""
    del keys
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("URL", proxy.url))
    (home / "config").write_text(text.replace("URL", proxy.url))
    storage = S3FileStorage(path, region="us-east-1")
    if variables:
        assert f"{origin}='{proxy.url}'" in repr(storage)
    proxy.fault = lambda _: (403, "AccessDenied", "No.", {})
    start = len(proxy.seen)
    with pytest.raises(StorageAccessError) as caught:
        storage.list_tasks("w")
    assert f"bucket '{BUCKET}' at {proxy.url} ({origin}): " in str(caught.value)
    assert f"{origin}='{proxy.url}'" in repr(storage)
    assert proxy.seen[start].path.startswith(f"/{BUCKET}?")
    assert {"addressing_style": "path"} == storage.store.bucket.client.meta.config.s3  # type: ignore[attr-defined]


def test_an_endpoint_that_is_ignored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As boto3 does; and a password in one is shown nowhere."""
    (home / "config").write_text("[default]\nendpoint_url = http://no\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:canary@no")
    storage = S3FileStorage("bucket")
    assert "AWS_ENDPOINT_URL='http://no'" in repr(storage)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    made = clients.client_for(checked({"path": "bucket"}))
    assert "https://s3.amazonaws.com" == made.boto.meta.endpoint_url
    assert "AWS" == str(made.endpoint)
