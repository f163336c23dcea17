"""The boto3 clients of this process: how they are made, found again, and given up.

boto3 reads credentials when a client is made. So a client is kept under the options and a look at
what boto3 reads: the variables AWS_* and those of proxies and certificates, and the times of the
files in ~/.aws. A storage looks with its first request, and again after an error of access. If
nothing has changed, it gets the same client. A client whose credentials a server refuses is
forgotten, and another one is made.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any, NamedTuple

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore import __version__ as botocore_version
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import NoCredentialsError
from botocore.utils import ensure_boolean, parse_timestamp

from functionfuse.errors import OptionsError, without_locals
from functionfuse.storage.options import Secret

from .options import S3Options, is_arn

__all__ = ["Client", "Endpoint", "client_for", "endpoint_for", "forget"]


# boto3 builds a longer one for each request, which takes 1/14 of the time of the request.
_USER_AGENT = f"functionfuse-s3 Boto3/{boto3.__version__} Botocore/{botocore_version}"


def _attempts(given: str | int) -> int:
    """Return boto3's setting as a number. Raises OptionsError if it isn't one from 1 on."""
    if str(given).isdecimal() and int(given) > 0:
        return int(given)
    raise OptionsError(
        "storage 'S3': AWS_MAX_ATTEMPTS, or 'max_attempts' in ~/.aws/config: a number from 1 on is"
        f" expected, not {given!r}"
    )


# Settings of boto3: key of the config file, variable, our default, type.
_SETTINGS = {
    "connect_timeout": (None, None, 5.0, None),  # AWS_DEFAULTS_MODE has others
    "max_attempts": ("max_attempts", "AWS_MAX_ATTEMPTS", 5, _attempts),
    "region": ("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], None, None),
    "retry_mode": ("retry_mode", "AWS_RETRY_MODE", "standard", None),
}

# The client depends on these options; storages with equal ones share a client.
_FIELDS = (
    "endpoint_url",
    "region",
    "profile",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "role_arn",
    "role_session_name",
    "external_id",
    "anonymous",
    "addressing_style",
    "checksums",
    "concurrency",
    "connect_timeout",
    "read_timeout",
    "max_attempts",
    "verify",
)

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# boto3 reads these as well when a client is made, in capitals or not.
_OTHER_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")
_FOLDERS = ("~/.aws", "~/.aws/sso/cache", "~/.aws/login/cache")
_MOST = 8  # clients, of 12 MB; a storage holds its own, also if it isn't found here any more
_SALT = os.urandom(32)  # the key of a look, which is made of secrets, too

_clients: dict[tuple[tuple[Any, ...], bytes], Client] = {}
_locks: dict[int, Lock] = {}  # by process id: at a fork, a thread may hold the parent's


class Endpoint(NamedTuple):
    """The server that requests go to, as text for messages.

    Attributes:
        url: without user and password; "" for AWS.
        origin: the option, the variable or the setting that names it.
    """

    url: str
    origin: str

    def __str__(self) -> str:
        if self.origin in ("", "endpoint_url"):
            return self.url or "AWS"
        return f"{self.url} ({self.origin})"


class Client(NamedTuple):
    """A client of boto3, and its server."""

    boto: Any
    endpoint: Endpoint


def client_for(options: S3Options) -> Client:
    """Return this process's client for the options and what boto3 reads now.

    Making a client sends nothing. One thread makes it, and others wait meanwhile.
    """
    proxies = None if options.proxies is None else frozenset(options.proxies.items())
    more = (getattr(options, name) for name in _FIELDS)
    # After a fork, two processes on one connection would mix requests.
    own = (os.getpid(), *more, proxies, is_arn(options.path))
    key = own, _look()
    with _locks.setdefault(os.getpid(), Lock()):
        client = _clients.get(key)
        if client is None:
            client = _clients[key] = _made(options)
            known = list(_clients)
            for old in known:
                if (old[0] == own and old != key) or old in known[:-_MOST]:
                    _clients.pop(old, None)
    return client


def forget(boto: Any) -> None:
    """Give a client of boto3 to no storage any more; requests that run on it go on."""
    for key, client in list(_clients.items()):
        if client.boto is boto:
            _clients.pop(key, None)


@without_locals
def _look() -> bytes:
    """Return a digest of what boto3 finds credentials by; it sends nothing."""
    names = sorted(
        name for name in os.environ if name.startswith("AWS_") or name.upper() in _OTHER_VARIABLES
    )
    variables = [(name, os.environ.get(name)) for name in names]
    files = [os.environ.get("AWS_CONFIG_FILE"), os.environ.get("AWS_SHARED_CREDENTIALS_FILE")]
    for folder in _FOLDERS:
        with suppress(OSError):  # it is not there, or boto3 can't read it either
            files += [entry.path for entry in os.scandir(os.path.expanduser(folder))]
    times = []
    for file in sorted(filter(None, files)):
        with suppress(OSError):
            found = os.stat(os.path.expanduser(file))
            times.append((file, found.st_mtime_ns, found.st_size, found.st_ino))
    return blake2b(repr((variables, times)).encode(), key=_SALT, digest_size=32).digest()


def endpoint_for(options: S3Options) -> Endpoint:
    """Return the server as far as it is known without a client."""
    return _configured(options)[1]


@without_locals
def _configured(options: S3Options, core: Any = None) -> tuple[str | None, Endpoint]:
    """Return the URL that is configured, and the endpoint, by the order of boto3.

    Args:
        core: the session of botocore; without it, no config file is looked into.
    """
    settings = {} if core is None else core.get_scoped_config()
    services = {} if core is None else core.full_config.get("services", {})
    service = _section(services.get(settings.get("services")), "s3", "in the section of services")
    found = {"endpoint_url": options.endpoint_url}
    ignored = settings.get("ignore_configured_endpoint_urls", "false")
    if not ensure_boolean(os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", ignored)):
        found |= {name: os.environ.get(name) for name in _ENDPOINT_VARIABLES}
        found["services in the config file"] = service.get("endpoint_url")
        found["endpoint_url in the config file"] = settings.get("endpoint_url")
    for origin, url in found.items():
        if url:
            return url, Endpoint(re.sub(r"//[^/]*@", "//", url), origin)
    return None, Endpoint("", "")


@without_locals
def _made(options: S3Options) -> Client:
    role, keys = options.role_arn, [options.access_key_id, options.secret_access_key]
    core = botocore.session.Session(session_vars=_SETTINGS)
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_of)
    session = boto3.session.Session(
        *([] if role else map(_plain, [*keys, options.session_token])),
        region_name=options.region,
        botocore_session=core,
        profile_name=options.profile,
    )
    url, endpoint = _configured(options, core)
    if "@" in (url or ""):
        raise OptionsError(
            f"storage 'S3': {endpoint.origin}: no user or password belongs into the URL of the"
            " server: use access_key_id and secret_access_key, or their variables"
        )
    s3 = _section(core.get_scoped_config(), "s3", "of the profile")
    config = _config(options, _style(options, url, s3))
    if role:
        source = core.get_component("credential_provider").load_credentials
        assume = partial(_assumed, core, options, config, source)
        core.register_component("credential_provider", SimpleNamespace(load_credentials=assume))
    verify = _verify(options, core)
    try:
        boto = session.client("s3", endpoint_url=url, verify=verify, config=config)
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        # Without boto3's message, which can have a password.
        raise OptionsError(
            f"storage 'S3': {endpoint.origin}: {endpoint.url!r} is no URL of a server; one like"
            " 'https://s3.example.org' is expected"
        ) from None
    boto.meta.events.register("before-call.s3.HeadBucket", _stay)
    return Client(boto, endpoint)


def _section(settings: Mapping[str, Any] | None, name: str, where: str) -> Mapping[str, Any]:
    """Return the settings below a name in the config file; none if it is not there."""
    found = (settings or {}).get(name) or {}
    if not isinstance(found, Mapping):
        raise OptionsError(
            f"storage 'S3': {name!r} {where} in ~/.aws/config: its settings are expected in the"
            " lines below it, each with spaces before it, and no value behind it"
        )
    return found


def _style(options: S3Options, url: str | None, s3: Mapping[str, Any]) -> str | None:
    """Return where URLs have the bucket; None leaves it to boto3."""
    if options.addressing_style or not url or is_arn(options.path):
        return options.addressing_style
    return s3.get("addressing_style") or "path"


def _config(options: S3Options, style: str | None) -> Config:
    attempts, proxies = options.max_attempts, options.proxies
    return Config(
        user_agent=_USER_AGENT,
        signature_version=UNSIGNED if options.anonymous else None,
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries=None if attempts is None else {"total_max_attempts": attempts},
        # Many results are read at once; one of them can be read in as many pieces.
        max_pool_connections=2 * options.concurrency,
        request_checksum_calculation=options.checksums,
        response_checksum_validation=options.checksums,
        s3={"addressing_style": style} if style else None,
        proxies=(
            None if proxies is None else {scheme: _plain(url) for scheme, url in proxies.items()}
        ),
    )


def _assumed(
    core: Any, options: S3Options, config: Config, found: Callable[[], Any]
) -> DeferredRefreshableCredentials:
    """Return credentials of the role: they are fetched when a request needs them, and renewed.

    Args:
        found: returns the credentials that boto3 finds, to assume the role with.
    """
    if options.access_key_id is None:
        source = found()
    else:
        keys = options.access_key_id, options.secret_access_key, options.session_token
        source = Credentials(*map(_plain, keys))
    if source is None:
        raise NoCredentialsError
    more = {"RoleSessionName": options.role_session_name, "ExternalId": options.external_id}
    fetcher = AssumeRoleCredentialFetcher(
        partial(core.create_client, verify=_verify(options, core), config=config),
        source,
        options.role_arn,
        extra_args={name: value for name, value in more.items() if value is not None},
    )
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _plain(secret: Secret | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Don't follow the redirect of a HeadBucket.

    boto3 sends a HeadBucket to find a redirected bucket. If that is redirected too, boto3 would
    send the next, until the stack overflows.
    """
    context["s3_redirect"]["redirected"] = True


def _verify(options: S3Options, core: Any) -> str | bool | None:
    """Return boto3's argument, after a look at the file that it will read for each connection."""
    if not isinstance(options.verify, bool):
        _check_certificates(options.verify, "the option 'verify'")
        return str(options.verify)
    if options.verify and not (_configured(options, core)[0] or "").startswith("http:"):
        bundle = core.get_config_variable("ca_bundle")
        other = os.environ.get("REQUESTS_CA_BUNDLE")
        if bundle:
            _check_certificates(bundle, "AWS_CA_BUNDLE, or 'ca_bundle' of ~/.aws/config")
        elif other:
            _check_certificates(other, "REQUESTS_CA_BUNDLE")
    return None if options.verify else False  # None: boto3 looks at these variables


def _check_certificates(file: str | Path, source: str) -> None:
    """Raise OptionsError if a file is missing, can't be read, or has no certificates.

    Args:
        source: the option or variable that names the file.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        problem = error.strerror
        if isinstance(error, ssl.SSLError):
            problem = f"no certificates (PEM) are in it ({problem})"
        raise OptionsError(
            f"storage 'S3': {source}: the file of certificates {str(file)!r} can't be used on this"
            f" machine: {problem}"
        ) from error


def _time_of(value: str | float) -> datetime:
    """Return the time in an answer; faster than botocore, which guesses the format."""
    if isinstance(value, str):
        if value.endswith("GMT"):
            return parsedate_to_datetime(value)
        if value.endswith("Z"):
            return datetime.fromisoformat(value)
    found: datetime = parse_timestamp(value)
    return found
