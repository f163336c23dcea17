"""The older names of the options, from the package s3fs, and the newer ones for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr

from functionfuse.errors import OptionsError

__all__ = ["S3fsOptions", "newer_names"]


class _Older(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class S3ClientKeywords(_Older):
    """The older option `client_kwargs`."""

    region_name: str | None = None
    endpoint_url: str | None = None
    verify: bool | Path | None = None
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None


class S3Addressing(_Older):
    """The older option `s3` in `config_kwargs`."""

    addressing_style: Literal["auto", "path", "virtual"] | None = None


class S3Attempts(_Older):
    """The older option `retries` in `config_kwargs`."""

    max_attempts: int | None = None
    total_max_attempts: int | None = None
    mode: Literal["standard"] | None = None


class S3ConfigKeywords(_Older):
    """The older option `config_kwargs`."""

    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_pool_connections: int | None = None
    retries: S3Attempts | None = None
    s3: S3Addressing | None = None


class S3UploadKeywords(_Older):
    """The older option `s3_additional_kwargs`."""

    ServerSideEncryption: Literal["AES256", "aws:kms"] | None = None
    SSEKMSKeyId: str | None = None
    StorageClass: str | None = None
    RequestPayer: Literal["requester"] | None = None


class S3fsOptions(_Older):
    """The options by their older names, from the package s3fs."""

    key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("key", "username"))
    secret: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("secret", "password")
    )
    token: SecretStr | None = None
    anon: bool | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    requester_pays: bool | None = None
    max_concurrency: int | None = None
    client_kwargs: S3ClientKeywords = S3ClientKeywords()
    config_kwargs: S3ConfigKeywords = S3ConfigKeywords()
    s3_additional_kwargs: S3UploadKeywords = S3UploadKeywords()


def newer_names(older: S3fsOptions) -> dict[str, Any]:
    """Return the options that have an older name, by their newer names.

    Raises:
        OptionsError: two older names give one option different values.
    """
    client, config = older.client_kwargs, older.config_kwargs
    upload, retries = older.s3_additional_kwargs, older.config_kwargs.retries or S3Attempts()
    attempts = retries.total_max_attempts
    if attempts is None and retries.max_attempts is not None:
        attempts = retries.max_attempts + 1  # boto3 doesn't count the first one here
    requester = older.requester_pays or upload.RequestPayer
    given = [
        ("access_key_id", older.key),
        ("access_key_id", client.aws_access_key_id),
        ("secret_access_key", older.secret),
        ("secret_access_key", client.aws_secret_access_key),
        ("session_token", older.token),
        ("session_token", client.aws_session_token),
        ("anonymous", older.anon),
        ("endpoint_url", older.endpoint_url),
        ("endpoint_url", client.endpoint_url),
        ("profile", older.profile),
        ("region", client.region_name),
        ("verify", client.verify),
        ("connect_timeout", config.connect_timeout),
        ("read_timeout", config.read_timeout),
        ("concurrency", older.max_concurrency),
        ("concurrency", config.max_pool_connections),
        ("max_attempts", attempts),
        ("addressing_style", config.s3.addressing_style if config.s3 else None),
        ("server_side_encryption", upload.ServerSideEncryption),
        ("kms_key_id", upload.SSEKMSKeyId),
        ("storage_class", upload.StorageClass),
        ("request_payer", "requester" if requester else None),
    ]
    newer: dict[str, Any] = {}
    for name, value in given:
        if value is not None and newer.setdefault(name, value) != value:
            raise OptionsError(f"storage 'S3': 's3fs' gives two values for {name!r}")
    return newer
