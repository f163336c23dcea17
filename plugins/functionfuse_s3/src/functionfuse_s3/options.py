"""The options of the kind "S3", and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from functionfuse.errors import OptionsError
from functionfuse.storage.options import StorageOptions, check_options

from .older import S3fsOptions, newer_names

__all__ = ["S3Options", "checked", "place_of"]

_MIB = 1 << 20
_SMALLEST_PART = 5 * _MIB  # S3 refuses smaller ones, except for the last
_is_bucket = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}").fullmatch
_LONGEST_PREFIX = 300  # bytes; leaves room for keys below it that are valid everywhere


class S3Options(StorageOptions):
    """Options of the kind "S3"."""

    path: str = Field(
        description="Bucket and prefix: 'bucket/prefix', '/bucket/prefix' or 's3://bucket/prefix'."
    )
    endpoint_url: str | None = Field(
        default=None,
        description="The server, where it is not AWS: 'https://s3.example.org', for instance.",
    )
    region: str | None = Field(
        default=None, description="The bucket's region; by default, that of the environment."
    )
    profile: str | None = Field(
        default=None, description="A profile of ~/.aws/config that has the credentials."
    )
    access_key_id: SecretStr | None = Field(
        default=None,
        description=(
            "Credentials, where boto3 doesn't find them by itself (environment, ~/.aws, roles);"
            " better it does: a storage that is pickled takes these along, in clear."
        ),
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="Goes with `access_key_id`."
    )
    session_token: SecretStr | None = Field(
        default=None, description="Goes with `access_key_id`, where the credentials are temporary."
    )
    anonymous: bool = Field(
        default=False, description="Send no credentials, to read a public bucket."
    )
    addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        default=None,
        description=(
            "The bucket in the URL's path, or in its host name; by default 'path' where an"
            " endpoint_url is given, and 'auto' else."
        ),
    )
    checksums: Literal["when_supported", "when_required"] = Field(
        default="when_supported",
        description=(
            "Whether uploads carry a checksum that the server compares. Some older servers refuse"
            " them: 'when_required'."
        ),
    )
    multipart_threshold: int = Field(
        default=16 * _MIB,
        ge=_SMALLEST_PART,
        le=5 << 30,
        description="In bytes; larger blobs are written and read in parallel pieces.",
    )
    multipart_chunk: int = Field(
        default=16 * _MIB,
        ge=_SMALLEST_PART,
        le=5 << 30,
        description="In bytes, of one piece; larger where a blob would have over 10,000 pieces.",
    )
    concurrency: int = Field(
        default=20, ge=1, le=256, description="How many requests are under way at once."
    )
    connect_timeout: float = Field(
        default=5.0, gt=0, description="In seconds, until a connection is made."
    )
    read_timeout: float = Field(
        default=60.0, gt=0, description="In seconds, without a byte from the server."
    )
    max_attempts: int = Field(
        default=5, ge=1, le=50, description="Of a request that fails and can be sent again."
    )
    server_side_encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="What the server encrypts with; by default, the bucket's own."
    )
    kms_key_id: str | None = Field(
        default=None, description="The key for 'aws:kms'; by default, the account's own."
    )
    storage_class: str | None = Field(
        default=None, description="For instance 'STANDARD_IA' or 'INTELLIGENT_TIERING'."
    )
    request_payer: Literal["requester"] | None = Field(
        default=None, description="'requester': pay for the requests to somebody else's bucket."
    )
    verify: bool | Path = Field(
        default=True,
        description="A file of certificates to trust; False trusts any, and is unsafe.",
    )
    s3fs: S3fsOptions | None = Field(
        default=None,
        description="The same in the spelling of the package s3fs, for older configs.",
    )

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        place_of(path)
        return path

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        # Not urllib: a wrong URL may hold a password, so no message may show it.
        if url is None:
            return None
        found = re.fullmatch(r"https?://(?P<host>[^/\s]+)/*", url)
        if not found:
            raise ValueError("a URL like 'https://s3.example.org' is expected, without a path")
        if "@" in found["host"]:
            raise ValueError(
                "no user or password belongs into it: use access_key_id and secret_access_key"
            )
        return url.rstrip("/")


def place_of(path: str) -> tuple[str, str]:
    """Return bucket and prefix of a path; the prefix is empty or ends in "/".

    Raises:
        ValueError: the path has no bucket, or a segment that not every store accepts.
    """
    scheme, separator, rest = path.partition("://")
    if separator and scheme not in ("s3", "s3a"):
        raise ValueError("a path like 's3://bucket/prefix' or 'bucket/prefix' is expected")
    bucket, *segments = (rest if separator else path).strip("/").split("/")
    if not _is_bucket(bucket):
        raise ValueError(
            f"{bucket!r} is no name of a bucket: a path like 'bucket/prefix' is expected"
        )
    for segment in segments:
        if segment in ("", ".", "..") or not segment.isprintable():
            raise ValueError(f"{segment!r} can't be a part of the prefix")
    prefix = "/".join([*segments, ""])
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise ValueError(f"the prefix has more than {_LONGEST_PREFIX} bytes")
    return bucket, prefix


def checked(options: Mapping[str, Any] | S3Options) -> S3Options:
    """Return checked options; those with older names are also there by their newer names.

    Of options in the model, each is checked already, so they are only checked together.

    Raises:
        OptionsError: an option is unknown, missing, wrong, given twice, or contradicts another.
    """
    if isinstance(options, S3Options):
        found, given = options, {name: getattr(options, name) for name in options.model_fields_set}
    else:
        given = {key: value for key, value in options.items() if key != "s3fs" or value is not None}
        found = check_options(S3Options, kind="S3", options=given)
    if found.s3fs is not None:
        older = newer_names(found.s3fs)
        own = {name: value for name, value in given.items() if name != "s3fs"}
        fields = S3Options.model_fields
        twice = [name for name in older if own.get(name) not in (None, fields[name].default)]
        if twice:
            raise OptionsError(
                f"storage 'S3': {', '.join(map(repr, twice))} is given as an option and in 's3fs'"
            )
        found = check_options(S3Options, kind="S3", options={**own, **older})
    _check_together(found)
    return found


def _check_together(options: S3Options) -> None:
    """Raise OptionsError if options contradict each other."""
    key, secret = options.access_key_id, options.secret_access_key
    problem = ""
    if (key is None) != (secret is None):
        problem = "'access_key_id' and 'secret_access_key' belong together"
    elif options.session_token and key is None:
        problem = "'session_token' goes with 'access_key_id' and 'secret_access_key'"
    elif options.anonymous and (key or options.profile):
        problem = "'anonymous' sends no credentials, and some are given"
    elif key and options.profile:
        problem = "credentials are given, and a 'profile' that has others"
    elif options.kms_key_id and options.server_side_encryption != "aws:kms":
        problem = "'kms_key_id' goes with 'server_side_encryption': 'aws:kms'"
    if problem:
        raise OptionsError(f"storage 'S3': {problem}")
