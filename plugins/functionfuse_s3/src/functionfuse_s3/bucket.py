"""One bucket and prefix: its boto3 client, and requests whose errors name the cause."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore import __version__ as botocore_version
from botocore.config import Config
from botocore.utils import parse_timestamp

from functionfuse.errors import ResultNotFoundError

from .errors import FAILURES, explained
from .options import S3Options, place_of

__all__ = ["Bucket", "client_for", "etag_of"]


# boto3 builds a longer one for each request, which takes 1/14 of the time of the request.
_USER_AGENT = f"functionfuse-s3 Boto3/{boto3.__version__} Botocore/{botocore_version}"

# The client depends on these options; storages with equal ones share a client.
_FIELDS = (
    "endpoint_url",
    "region",
    "profile",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "anonymous",
    "addressing_style",
    "checksums",
    "concurrency",
    "connect_timeout",
    "read_timeout",
    "max_attempts",
    "verify",
)

# By process id and options. After a fork, two processes on one connection would mix requests.
_clients: dict[tuple[Any, ...], Any] = {}


def client_for(options: S3Options) -> Any:
    """Return this process's client for the options.

    Making a client sends nothing. If several threads make the first one, all use the same one.
    """
    key = (os.getpid(), *(getattr(options, name) for name in _FIELDS))
    client = _clients.get(key)
    return client if client is not None else _clients.setdefault(key, _made(options))


def _made(options: S3Options) -> Any:
    secrets = options.access_key_id, options.secret_access_key, options.session_token
    key, secret, token = (value and value.get_secret_value() for value in secrets)
    core = botocore.session.Session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_of)
    session = boto3.session.Session(
        botocore_session=core,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        profile_name=options.profile,
    )
    style = options.addressing_style or ("path" if options.endpoint_url else "auto")
    config = Config(
        user_agent=_USER_AGENT,
        signature_version=UNSIGNED if options.anonymous else None,
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "standard", "total_max_attempts": options.max_attempts},
        # Many results are read at once; one of them can be read in as many pieces.
        max_pool_connections=2 * options.concurrency,
        request_checksum_calculation=options.checksums,
        response_checksum_validation=options.checksums,
        s3={"addressing_style": style},
    )
    client = session.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region,
        verify=_verify(options.verify),
        config=config,
    )
    client.meta.events.register("before-call.s3.HeadBucket", _stay)
    return client


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Don't follow the redirect of a HeadBucket.

    boto3 sends a HeadBucket to find a redirected bucket. If that is redirected too, boto3 would
    send the next, until the stack overflows.
    """
    context["s3_redirect"]["redirected"] = True


def _verify(verify: bool | Path) -> bool | str | None:
    if verify is True:
        return None  # then boto3 uses AWS_CA_BUNDLE
    return str(verify) if verify else False


def _time_of(value: str | float) -> datetime:
    """Return the time in an answer; faster than botocore, which guesses the format."""
    if isinstance(value, str):
        if value.endswith("GMT"):
            return parsedate_to_datetime(value)
        if value.endswith("Z"):
            return datetime.fromisoformat(value)
    found: datetime = parse_timestamp(value)
    return found


class Bucket:
    """A bucket and a prefix; it pickles by its options.

    Attributes:
        name: the bucket's.
        prefix: the beginning of all keys; empty, or it ends in "/".
        writing: the options for new blobs, as arguments of boto3.
    """

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self.name, self.prefix = place_of(options.path)
        self.paying: dict[str, str] = {}
        if options.request_payer:
            self.paying["RequestPayer"] = options.request_payer
        writing = {
            "ServerSideEncryption": options.server_side_encryption,
            "SSEKMSKeyId": options.kms_key_id,
            "StorageClass": options.storage_class,
        }
        self.writing = {name: value for name, value in writing.items() if value}

    def __reduce__(self) -> tuple[type[Bucket], tuple[S3Options]]:
        return type(self), (self.options,)

    def __repr__(self) -> str:
        endpoint = self.options.endpoint_url
        server = f", endpoint_url={endpoint!r}" if endpoint else ""
        return f"{f'{self.name}/{self.prefix}'.rstrip('/')!r}{server}"

    @property
    def client(self) -> Any:
        """This process's boto3 client."""
        return client_for(self.options)

    def call(self, operation: str, key: str = "", **arguments: Any) -> Any:
        """Send a request, with a key if one is given. Raises the error that `failed` returns."""
        if key:
            arguments["Key"] = self.prefix + key
        try:
            return self.send(operation, **arguments)
        except FAILURES as error:
            problem = self.failed(error, operation, key)
            raise problem from problem.__cause__

    def send(self, operation: str, **arguments: Any) -> Any:
        """Send a request, and return the answer. Raises boto3's errors."""
        return getattr(self.client, operation)(Bucket=self.name, **self.paying, **arguments)

    def failed(self, error: BaseException, operation: str, key: str) -> Exception:
        """Return our error for an error of boto3; it names operation, key, bucket and endpoint."""
        endpoint = self.options.endpoint_url or "AWS"
        which = f"key {self.prefix + key!r} of " if key else ""
        action = operation.replace("_", " ")
        problem = explained(error, f"S3: {action} of {which}bucket {self.name!r} at {endpoint}")
        if not isinstance(problem, ResultNotFoundError):
            problem.__cause__ = error  # boto3's message about a missing blob adds nothing
        return problem

    def pages(self, operation: str, prefix: str, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Iterate the pages of a listing; each takes one request."""
        arguments["Prefix"] = self.prefix + prefix
        while True:
            try:
                page = self.send(operation, **arguments)
            except FAILURES as error:
                problem = self.failed(error, operation, prefix)
                raise problem from problem.__cause__
            yield page
            if not page.get("IsTruncated"):
                return
            if operation == "list_objects_v2":
                arguments["ContinuationToken"] = page["NextContinuationToken"]
            else:
                arguments["KeyMarker"] = page["NextKeyMarker"]
                arguments["UploadIdMarker"] = page["NextUploadIdMarker"]


def etag_of(answer: Mapping[str, Any]) -> str:
    """Return the etag in an answer or an entry of a listing; "" if it has none."""
    return str(answer.get("ETag", "")).strip('"')
