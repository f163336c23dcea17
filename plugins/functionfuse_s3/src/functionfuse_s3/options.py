"""The options of the kind "S3", and their checks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from functionfuse.errors import OptionsError, without_locals
from functionfuse.storage.options import Secret, StorageOptions, check_options

from .older import S3fsOptions, newer_names

__all__ = ["S3Options", "checked", "is_arn", "place_of"]

_MIB = 1 << 20
_SMALLEST_PART = 5 * _MIB  # S3 refuses smaller ones, except for the last
_is_bucket = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}").fullmatch
_is_access_point = re.compile(
    r"(arn:[a-z0-9-]+:s3:[a-z0-9-]*:[0-9]{12}:accesspoint[/:][A-Za-z0-9.-]+)(?:/(.*))?", re.DOTALL
).fullmatch
_is_proxy = re.compile(r"(https?://)?([^/\s@]*@)?[^/\s@]+/?").fullmatch
_MOST_TAGS, _LONGEST_TAG, _LONGEST_VALUE = 10, 128, 256
_scheme_of = re.compile(r"([A-Za-z0-9+.-]+)://").match
_unsafe = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]").search
_LONGEST_PREFIX = 300  # bytes; leaves room for keys below it that are valid everywhere

ACL = Literal[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]


class S3Options(StorageOptions):
    """Options of the kind "S3"."""

    path: str = Field(
        description=(
            "Bucket and prefix: 'bucket/prefix', '/bucket/prefix' or 's3://bucket/prefix'. The"
            " bucket can be the alias or the ARN of an access point."
        )
    )
    endpoint_url: str | None = Field(
        default=None,
        description=(
            "The server, where it is not AWS: 'https://s3.example.org', for instance; by default,"
            " boto3's settings: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, ~/.aws/config."
        ),
    )
    region: str | None = Field(
        default=None,
        min_length=1,
        description="The bucket's region; by default, that of the environment.",
    )
    profile: str | None = Field(
        default=None, description="A profile of ~/.aws/config that has the credentials."
    )
    access_key_id: Secret | None = Field(
        default=None,
        description=(
            "Credentials, where boto3 doesn't find them by itself (environment, ~/.aws, roles);"
            " better it does: a storage that is pickled takes these along, in clear."
        ),
    )
    secret_access_key: Secret | None = Field(default=None, description="Goes with `access_key_id`.")
    session_token: Secret | None = Field(
        default=None, description="Goes with `access_key_id`, where the credentials are temporary."
    )
    role_arn: str | None = Field(
        default=None,
        min_length=20,
        pattern=r"^arn:\S+:role/\S+$",
        description=(
            "A role to assume with the credentials that are given or found; it is renewed before it"
            " expires."
        ),
    )
    role_session_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$",
        description="Goes with `role_arn`: the name of the session in the logs of AWS.",
    )
    external_id: str | None = Field(
        default=None,
        min_length=2,
        max_length=1224,
        pattern=r"^[A-Za-z0-9_+=,.@:/-]+$",
        description="Goes with `role_arn`, if the role's owner demands it.",
    )
    anonymous: bool = Field(
        default=False, description="Send no credentials, to read a public bucket."
    )
    addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        default=None,
        description=(
            "The bucket in the URL's path, or in its host name; by default ~/.aws/config, else"
            " 'path' where there is an endpoint, and 'auto' at AWS."
        ),
    )
    checksums: Literal["when_supported", "when_required"] | None = Field(
        default=None,
        description=(
            "Whether uploads carry a checksum that the server compares. Some older servers refuse"
            " them: 'when_required'. By default boto3's settings, else 'when_supported'."
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
    connect_timeout: float | None = Field(
        default=None,
        gt=0,
        description="In seconds, until a connection is made; by default 5, or AWS_DEFAULTS_MODE.",
    )
    read_timeout: float = Field(
        default=60.0, gt=0, description="In seconds, without a byte from the server."
    )
    max_attempts: int | None = Field(
        default=None,
        ge=1,
        le=50,
        description=(
            "Of a request that fails and can be sent again; by default boto3's settings, else 5."
        ),
    )
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None, description="What the server encrypts with; by default, the bucket's own."
    )
    kms_key_id: str | None = Field(
        default=None,
        description="The key for 'aws:kms' or 'aws:kms:dsse'; by default, the account's own.",
    )
    bucket_key: bool | None = Field(
        default=None,
        description=(
            "Whether 'aws:kms' uses a key of the bucket, which takes fewer requests to the key"
            " service; by default, as the bucket says."
        ),
    )
    storage_class: str | None = Field(
        default=None,
        description=(
            "For instance 'STANDARD_IA', 'INTELLIGENT_TIERING' or 'GLACIER_IR'; none that must be"
            " restored to be read."
        ),
    )
    acl: ACL | None = Field(
        default=None,
        description=(
            "A canned ACL for all that is written, such as 'bucket-owner-full-control'; by default"
            " none, and a bucket without ACLs refuses most of them."
        ),
    )
    tags: Mapping[str, str] | None = Field(
        default=None,
        description="Tags for all that is written: up to 10 pairs, such as {'project': 'tides'}.",
    )
    expected_bucket_owner: str | None = Field(
        default=None,
        pattern="^[0-9]{12}$",
        description=(
            "The account that owns the bucket, 12 digits in quotes: requests to a bucket of another"
            " account are refused."
        ),
    )
    request_payer: Literal["requester"] | None = Field(
        default=None, description="'requester': pay for the requests to somebody else's bucket."
    )
    proxies: Mapping[Literal["http", "https"], Secret] | None = Field(
        default=None,
        description=(
            "Proxies by the scheme of the server's URL: {'https': 'http://proxy.example.org:3128'};"
            " {} for none. By default, those of the environment."
        ),
    )
    verify: bool | Path = Field(
        default=True,
        description=(
            "A file of certificates (PEM) to trust, in place of the usual ones; False trusts any,"
            " and is unsafe."
        ),
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

    @field_validator("verify")
    @classmethod
    def _make_absolute(cls, verify: bool | Path) -> bool | Path:
        # A worker may work in another folder.
        return Path(os.path.abspath(verify.expanduser())) if isinstance(verify, Path) else verify

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

    @field_validator("storage_class")
    @classmethod
    def _check_class(cls, name: str | None) -> str | None:
        if name in ("GLACIER", "DEEP_ARCHIVE"):
            raise ValueError(
                f"a result in {name!r} can't be read until you restore it, and no run can go on"
                " without reading; 'GLACIER_IR' can be read at once"
            )
        return name

    @field_validator("proxies")
    @classmethod
    def _check_proxies(cls, proxies: Mapping[str, Secret] | None) -> Mapping[str, Secret] | None:
        for secret in (proxies or {}).values():
            if not _is_proxy(secret.get_secret_value()):
                raise ValueError("a URL like 'http://proxy.example.org:3128' is expected")
        return proxies

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: Mapping[str, str] | None) -> Mapping[str, str] | None:
        problem = f"S3 takes at most {_MOST_TAGS}" if len(tags or {}) > _MOST_TAGS else ""
        for name, value in (tags or {}).items():
            if not 0 < len(name) <= _LONGEST_TAG or name.lower().startswith("aws:"):
                problem = (
                    f"the name {name!r} has not 1 to {_LONGEST_TAG} characters, or begins with"
                    " 'aws:'"
                )
            elif len(value) > _LONGEST_VALUE:
                problem = f"the value of {name!r} has more than {_LONGEST_VALUE} characters"
        if problem:
            raise ValueError(problem)
        return tags


def place_of(path: str) -> tuple[str, str]:
    """Return bucket and prefix of a path; the prefix is empty or ends in "/".

    Raises:
        ValueError: the path has no bucket, or a segment that not every store accepts.
    """
    scheme = _scheme_of(path)
    if scheme and scheme[1] not in ("s3", "s3a"):
        raise ValueError("a path like 's3://bucket/prefix' or 'bucket/prefix' is expected")
    place = path[scheme.end() if scheme else 0 :].strip("/")
    found = _is_access_point(place)
    bucket, *segments = place.split("/")
    if found:
        bucket, segments = found[1], found[2].split("/") if found[2] else []
    elif is_arn(path):
        raise ValueError(
            "an ARN like 'arn:aws:s3:eu-west-1:123456789012:accesspoint/NAME' is expected, of an"
            " access point; those of Outposts and Object Lambda are not supported"
        )
    elif ":" in bucket or "@" in bucket:
        raise ValueError("no keys belong into it: use access_key_id and secret_access_key")
    elif not _is_bucket(bucket):
        raise ValueError(
            f"{bucket!r} is no name of a bucket: a path like 'bucket/prefix' is expected"
        )
    for segment in segments:
        problem = _problem_of(segment)
        if problem:
            raise ValueError(f"the prefix {'/'.join(segments)!r}: {problem}")
    prefix = "/".join([*segments, ""])
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise ValueError(f"the prefix has more than {_LONGEST_PREFIX} bytes")
    return bucket, prefix


def is_arn(path: str) -> bool:
    """Return whether the bucket of a path is given as an ARN."""
    return path.removeprefix("s3://").removeprefix("s3a://").lstrip("/").startswith("arn:")


def _problem_of(segment: str) -> str:
    """Return why a segment can't be a part of a prefix; "" if it can."""
    if not segment:
        return "it has '//', and some servers join two slashes, so that they list other names"
    if segment in (".", ".."):
        return f"its part {segment!r} is another folder for some servers"
    if "\\" in segment:
        return f"its part {segment!r} has a backslash, which some servers take for a slash"
    if _unsafe(segment):
        return f"its part {segment!r} has a control character, or one that XML can't have"
    return ""


@without_locals
def checked(options: Mapping[str, Any] | S3Options) -> S3Options:
    """Return checked options; those with older names are also there by their newer names.

    Of options in the model, each is checked already, so they are only checked together.

    Raises:
        OptionsError: an option is unknown, missing, wrong, given with two values, or contradicts
            another.
    """
    if isinstance(options, S3Options):
        found, given = options, {name: getattr(options, name) for name in options.model_fields_set}
    else:
        given = {key: value for key, value in options.items() if key != "s3fs" or value is not None}
        found = check_options(S3Options, kind="S3", options=given)
    if found.s3fs is not None:
        older = newer_names(found.s3fs, found.endpoint_url)
        own = {name: value for name, value in given.items() if name != "s3fs"}
        twice = [
            name
            for name, value in older.items()
            if own.get(name) is not None and getattr(found, name) != value
        ]
        if twice:
            raise OptionsError(
                f"storage 'S3': {', '.join(map(repr, twice))} is given as an option, and with"
                " another value in 's3fs'"
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
    elif options.role_arn and options.anonymous:
        problem = "'role_arn' needs credentials, and 'anonymous' sends none"
    elif (options.role_session_name or options.external_id) and not options.role_arn:
        problem = "'role_session_name' and 'external_id' go with 'role_arn'"
    elif options.addressing_style == "path" and is_arn(options.path):
        problem = "'addressing_style' can't be 'path' for the ARN of an access point"
    elif options.kms_key_id and not (options.server_side_encryption or "").startswith("aws:kms"):
        problem = "'kms_key_id' goes with 'server_side_encryption': 'aws:kms' or 'aws:kms:dsse'"
    elif options.bucket_key is not None and options.server_side_encryption != "aws:kms":
        problem = "'bucket_key' goes with 'server_side_encryption': 'aws:kms'"
    if problem:
        raise OptionsError(f"storage 'S3': {problem}")
