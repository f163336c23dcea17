"""The older names of the options, from the package s3fs, and the newer ones for them.

An older option is taken over, or has no effect here, or is refused with the words for what to write
instead. What has no effect is logged once, by name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from functionfuse.errors import OptionsError
from functionfuse.storage.options import Secret

__all__ = ["S3fsOptions", "newer_names"]

logger = logging.getLogger(__name__)

_NO_EFFECT = "Is accepted, and has no effect here."
NoEffect = Annotated[object, Field(description=_NO_EFFECT)]
_logged: set[frozenset[str]] = set()  # names that this process has logged together


class _Older(BaseModel):
    """Options by their older names.

    Attributes:
        instead: what to write for the options that can't be taken over, by their names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    instead: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for name in cls.instead.keys() & given.keys():
            if given[name] not in (None, False):  # they are not used
                raise ValueError(f"{name!r} can't be taken over: {cls.instead[name]}")
        return {name: value for name, value in given.items() if name not in cls.instead}


class S3ClientKeywords(_Older):
    """The older option `client_kwargs`."""

    instead = {"config": "write its settings into 'config_kwargs'"}

    region_name: str | None = None
    endpoint_url: str | None = None
    use_ssl: bool | None = None
    verify: bool | Path | None = None
    aws_access_key_id: Secret | None = None
    aws_secret_access_key: Secret | None = None
    aws_session_token: Secret | None = None
    api_version: NoEffect = None


class S3Addressing(_Older):
    """The older option `s3` in `config_kwargs`."""

    instead = {
        "use_accelerate_endpoint": (
            "write 'endpoint_url': 'https://s3-accelerate.amazonaws.com', and"
            " 'addressing_style': 'virtual'"
        ),
        "use_dualstack_endpoint": "set AWS_USE_DUALSTACK_ENDPOINT=true in the environment",
    }

    addressing_style: Literal["auto", "path", "virtual"] | None = None
    payload_signing_enabled: NoEffect = None
    us_east_1_regional_endpoint: NoEffect = None


class S3Attempts(_Older):
    """The older option `retries` in `config_kwargs`."""

    max_attempts: int | None = None
    total_max_attempts: int | None = None
    mode: NoEffect = None


class S3ConfigKeywords(_Older):
    """The older option `config_kwargs`."""

    instead = {
        "use_dualstack_endpoint": "set AWS_USE_DUALSTACK_ENDPOINT=true in the environment",
        "use_fips_endpoint": "set AWS_USE_FIPS_ENDPOINT=true in the environment",
        "ignore_configured_endpoint_urls": (
            "set AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true in the environment"
        ),
    }

    region_name: str | None = None
    signature_version: Literal["s3v4", "v4", "unsigned"] | None = None
    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_pool_connections: int | None = None
    proxies: Mapping[str, Secret] | None = None
    retries: S3Attempts | None = None
    s3: S3Addressing | None = None
    request_checksum_calculation: Literal["when_supported", "when_required"] | None = None
    response_checksum_validation: Literal["when_supported", "when_required"] | None = None
    account_id_endpoint_mode: NoEffect = None
    disable_request_compression: NoEffect = None
    endpoint_discovery_enabled: NoEffect = None
    inject_host_prefix: NoEffect = None
    parameter_validation: NoEffect = None
    request_min_compression_size_bytes: NoEffect = None
    tcp_keepalive: NoEffect = None
    user_agent: NoEffect = None
    user_agent_appid: NoEffect = None
    user_agent_extra: NoEffect = None

    @field_validator("signature_version", mode="before")
    @classmethod
    def _name_unsigned(cls, version: Any) -> Any:
        # botocore's own object for it; if somebody has it here, botocore is imported.
        unsigned = getattr(sys.modules.get("botocore"), "UNSIGNED", None)
        return "unsigned" if version is not None and version is unsigned else version


_OWN_KEYS = "no keys of your own are sent: use 'ServerSideEncryption': 'aws:kms'"
_LOCKS = "give the bucket a default retention"
_GRANTS = "use 'ACL'"


class S3UploadKeywords(_Older):
    """The older option `s3_additional_kwargs`."""

    instead = {
        "ChecksumAlgorithm": "uploads carry a CRC32, see the option 'checksums'",
        "GrantFullControl": _GRANTS,
        "GrantRead": _GRANTS,
        "GrantReadACP": _GRANTS,
        "GrantWriteACP": _GRANTS,
        "Metadata": "use 'Tagging'",
        "ObjectLockLegalHoldStatus": _LOCKS,
        "ObjectLockMode": _LOCKS,
        "ObjectLockRetainUntilDate": _LOCKS,
        "SSECustomerAlgorithm": _OWN_KEYS,
        "SSECustomerKey": _OWN_KEYS,
        "SSECustomerKeyMD5": _OWN_KEYS,
    }

    ACL: str | None = None
    BucketKeyEnabled: bool | None = None
    ExpectedBucketOwner: str | None = None
    RequestPayer: Literal["requester"] | None = None
    SSEKMSKeyId: str | None = None
    ServerSideEncryption: str | None = None
    StorageClass: str | None = None
    Tagging: str | None = None
    CacheControl: NoEffect = None
    ContentDisposition: NoEffect = None
    ContentEncoding: NoEffect = None
    ContentLanguage: NoEffect = None
    ContentType: NoEffect = None


class S3fsOptions(_Older):
    """The options by their older names, from the package s3fs."""

    instead = {"session": "name a profile of ~/.aws/config with 'profile'"}

    key: Secret | None = Field(default=None, validation_alias=AliasChoices("key", "username"))
    secret: Secret | None = Field(default=None, validation_alias=AliasChoices("secret", "password"))
    token: Secret | None = None
    anon: bool | None = None
    endpoint_url: str | None = None
    use_ssl: bool | None = None
    profile: str | None = None
    requester_pays: bool | None = None
    max_concurrency: int | None = None
    client_kwargs: S3ClientKeywords | None = None
    config_kwargs: S3ConfigKeywords | None = None
    s3_additional_kwargs: S3UploadKeywords | None = None
    asynchronous: NoEffect = None
    batch_size: NoEffect = None
    cache_regions: NoEffect = None
    default_block_size: NoEffect = None
    default_cache_type: NoEffect = None
    default_fill_cache: NoEffect = None
    fixed_upload_size: NoEffect = None
    listings_expiry_time: NoEffect = None
    local_expiry_check: NoEffect = None
    loop: NoEffect = None
    max_paths: NoEffect = None
    skip_instance_cache: NoEffect = None
    use_listings_cache: NoEffect = None
    version_aware: NoEffect = None


def newer_names(older: S3fsOptions, endpoint_url: str | None) -> dict[str, Any]:
    """Return the options that have an older name, by their newer names.

    Args:
        endpoint_url: the option of this name, if it is given with the older ones.

    Raises:
        OptionsError: two older names give one option different values, or contradict each other.
    """
    client = older.client_kwargs or S3ClientKeywords()
    config = older.config_kwargs or S3ConfigKeywords()
    upload = older.s3_additional_kwargs or S3UploadKeywords()
    retries = config.retries or S3Attempts()
    attempts = retries.total_max_attempts
    if attempts is None and retries.max_attempts is not None:
        attempts = retries.max_attempts + 1  # boto3 doesn't count the first one here
    requester = older.requester_pays or upload.RequestPayer
    tls = older.use_ssl if client.use_ssl is None else client.use_ssl
    given = [
        ("access_key_id", older.key),
        ("access_key_id", client.aws_access_key_id),
        ("secret_access_key", older.secret),
        ("secret_access_key", client.aws_secret_access_key),
        ("session_token", older.token),
        ("session_token", client.aws_session_token),
        ("anonymous", older.anon),
        ("anonymous", True if config.signature_version == "unsigned" else None),
        ("endpoint_url", _with_scheme(older.endpoint_url, tls)),
        ("endpoint_url", _with_scheme(client.endpoint_url, tls)),
        ("profile", older.profile),
        ("region", client.region_name),
        ("region", config.region_name),
        ("verify", client.verify),
        ("connect_timeout", config.connect_timeout),
        ("read_timeout", config.read_timeout),
        ("concurrency", older.max_concurrency),
        ("concurrency", config.max_pool_connections),
        ("proxies", config.proxies),
        ("max_attempts", attempts),
        ("addressing_style", config.s3.addressing_style if config.s3 else None),
        ("checksums", config.request_checksum_calculation),
        ("checksums", config.response_checksum_validation),
        ("server_side_encryption", upload.ServerSideEncryption),
        ("kms_key_id", upload.SSEKMSKeyId),
        ("bucket_key", upload.BucketKeyEnabled),
        ("storage_class", upload.StorageClass),
        ("acl", upload.ACL),
        ("tags", _tags_in(upload.Tagging) if upload.Tagging else None),
        ("expected_bucket_owner", upload.ExpectedBucketOwner),
        ("request_payer", "requester" if requester else None),
    ]
    newer: dict[str, Any] = {}
    for name, value in given:
        if value is not None and newer.setdefault(name, value) != value:
            raise OptionsError(f"storage 'S3': 's3fs' gives two values for {name!r}")
    _check_scheme(newer.get("endpoint_url") or endpoint_url, tls)
    _log(frozenset(_without_effect(older)))
    return newer


def _with_scheme(url: str | None, tls: bool | None) -> str | None:
    if url and "://" not in url:
        return f"http://{url}" if tls is False else f"https://{url}"
    return url


def _check_scheme(url: str | None, tls: bool | None) -> None:
    wanted = "http://" if tls is False else "https://"
    if tls is not None and not (url or "https://").startswith(wanted):
        raise OptionsError(
            f"storage 'S3': 's3fs' has 'use_ssl': {tls}, so 'endpoint_url' must begin with"
            f" {wanted!r}; or leave out 'use_ssl'"
        )


def _tags_in(text: str) -> dict[str, str]:
    """Return the tags in a text like 'name=value&name=value', where special letters are quoted."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
    if not pairs or len(dict(pairs)) < len(pairs):
        raise OptionsError(
            "storage 'S3': option 's3fs.s3_additional_kwargs.Tagging': different names with values"
            " are expected, like 'name=value&name=value'"
        )
    return dict(pairs)


def _without_effect(older: _Older, above: str = "s3fs.") -> Iterator[str]:
    """Iterate the dotted names of the given options that have no effect."""
    for name in older.model_fields_set:
        value = getattr(older, name)
        if isinstance(value, _Older):
            yield from _without_effect(value, f"{above}{name}.")
        elif type(older).model_fields[name].description == _NO_EFFECT:
            yield above + name


def _log(names: frozenset[str]) -> None:
    if names and names not in _logged:
        _logged.add(names)
        logger.warning(
            "storage 'S3': these options have no effect here, and can be left out: %s",
            ", ".join(sorted(names)),
        )
