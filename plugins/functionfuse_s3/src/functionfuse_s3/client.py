"""boto3 clients: one per process for the same options, made on first use."""

from __future__ import annotations

import os
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

from .options import S3Options

__all__ = ["client_for"]

# boto3 puts a longer one together for each request, which takes a fourteenth of the whole request.
_USER_AGENT = f"functionfuse-s3 Boto3/{boto3.__version__} Botocore/{botocore_version}"

# Of these options the client is made; storages that share them share it.
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

# By process id: a connection that two processes write to, after a fork, would mix their requests.
_clients: dict[tuple[Any, ...], Any] = {}


def client_for(options: S3Options) -> Any:
    """Return this process's client for the options.

    Making one sends nothing. Threads that come first at once each make one, and all use the same.
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
        # A pool for reading many results at once, and one for the pieces of one of them.
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
    """Have an answer that sends a HeadBucket elsewhere taken as it is.

    boto3 asks it where a redirected bucket is, and would ask again about the answer to that, until
    the stack is full.
    """
    context["s3_redirect"]["redirected"] = True


def _verify(verify: bool | Path) -> bool | str | None:
    if verify is True:
        return None  # so that AWS_CA_BUNDLE counts
    return str(verify) if verify else False


def _time_of(value: str | float) -> datetime:
    """Return the time in an answer; botocore's own guesses at the format, and takes as long."""
    if isinstance(value, str):
        if value.endswith("GMT"):
            return parsedate_to_datetime(value)
        if value.endswith("Z"):
            return datetime.fromisoformat(value)
    found: datetime = parse_timestamp(value)
    return found
