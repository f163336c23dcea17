"""The older spelling of the options, that of the package s3fs, and its newer names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr

from functionfuse.errors import OptionsError

__all__ = ["S3fsOptions", "newer_names"]


class _Older(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class S3ClientKeywords(_Older):
    """`client_kwargs` of the older spelling."""

    region_name: str | None = None
    endpoint_url: str | None = None
    verify: bool | Path | None = None
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None


class S3Addressing(_Older):
    """`s3` in `config_kwargs` of the older spelling."""

    addressing_style: Literal["auto", "path", "virtual"] | None = None


class S3Attempts(_Older):
    """`retries` in `config_kwargs` of the older spelling."""

    max_attempts: int | None = None
    total_max_attempts: int | None = None
    mode: Literal["standard"] | None = None


class S3ConfigKeywords(_Older):
    """`config_kwargs` of the older spelling."""

    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_pool_connections: int | None = None
    retries: S3Attempts | None = None
    s3: S3Addressing | None = None


class S3UploadKeywords(_Older):
    """`s3_additional_kwargs` of the older spelling."""

    ServerSideEncryption: Literal["AES256", "aws:kms"] | None = None
    SSEKMSKeyId: str | None = None
    StorageClass: str | None = None
    RequestPayer: Literal["requester"] | None = None


class S3fsOptions(_Older):
    """The older spelling, of the package s3fs."""

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
    """Return what the older spelling gives, by the newer names."""
    client, config = older.client_kwargs, older.config_kwargs
    upload, retries = older.s3_additional_kwargs, older.config_kwargs.retries or S3Attempts()
    attempts = retries.total_max_attempts
    if attempts is None and retries.max_attempts is not None:
        attempts = retries.max_attempts + 1  # boto3 counts only the further ones
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
