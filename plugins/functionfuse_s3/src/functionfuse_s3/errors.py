"""Turn errors of boto3 and of servers into ours, which name bucket, key, endpoint and the cure.

No message shows a secret: it takes only the code and the message from a server's answer.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from functionfuse.errors import (
    ResultNotFoundError,
    StorageAccessError,
    StorageConnectionError,
    StorageError,
    StoragePathError,
)

__all__ = ["FAILURES", "code_of", "explained"]

# All errors that a client can raise while it sends a request and receives the answer.
FAILURES = (boto.BotoCoreError, boto.ClientError, HTTPError, OSError, ResponseParserError)

_LOG_IN = (
    "give the option 'profile', or 'access_key_id' and 'secret_access_key', or set AWS_PROFILE,"
    " or log in (aws sso login)"
)
_DENIED = (
    "the credentials don't allow it; the policy that suffices is in the documentation of the"
    " storage S3. Without s3:ListBucket, a server says the same of what is not there"
)
_EXPIRED = "the credentials have expired; log in again (aws sso login), or renew 'session_token'"
_ACCESS = {
    "AccessDenied": _DENIED,
    "Forbidden": _DENIED,
    "Unauthorized": _DENIED,
    "401": _DENIED,
    "403": _DENIED,
    "AllAccessDisabled": "all access to the bucket is disabled; ask its owner",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidAccessKeyId": f"the server doesn't know the access key; {_LOG_IN}",
    "InvalidToken": f"the session token is not valid; {_LOG_IN}",
    "SignatureDoesNotMatch": (
        "the secret key isn't that of the access key, or something on the way changes requests;"
        " check 'secret_access_key', 'region', and proxies"
    ),
}
_LOCATION = {
    "NoSuchBucket": "there is no such bucket; correct the option 'path', or make the bucket",
    "InvalidBucketName": "that can't be a bucket's name; correct the option 'path'",
    "KeyTooLongError": "the key is too long; give a shorter prefix in the option 'path'",
    "404": "what answers is no S3 server; correct the option 'endpoint_url'",
    "405": "what answers is no S3 server; correct the option 'endpoint_url'",
}
_REGION = {
    "301",
    "302",
    "307",
    "308",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "Redirect",
    "TemporaryRedirect",
}
_OPTION = {
    "BadDigest": "the bytes were changed on their way; try again",
    "InvalidStorageClass": "the server doesn't know this; correct the option 'storage_class'",
    "KMS.DisabledException": "the key for encryption is disabled; correct 'kms_key_id'",
    "KMS.NotFoundException": "there is no such key for encryption; correct 'kms_key_id'",
    "NotImplemented": (
        "the server doesn't know a part of the request; try the option 'checksums': 'when_required'"
    ),
    "PreconditionFailed": "the blob was replaced meanwhile; try again",
    "XAmzContentSHA256Mismatch": (
        "the bytes were changed on their way; try again, and if that doesn't help, the option"
        " 'checksums': 'when_required'"
    ),
}
_BUSY = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
_TOO_MANY = 429
_BROKEN = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    HTTPError,
    OSError,
)
_NO_CREDENTIALS = (
    boto.ConfigNotFound,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.TokenRetrievalError,
)


def code_of(error: BaseException) -> str:
    """Return the code in a server's answer, such as "NoSuchKey"; "" for an error without one."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code") or "")


def explained(error: BaseException, doing: str) -> Exception:
    """Return the error to raise for one of `FAILURES`.

    Args:
        doing: the failed operation, with bucket, key and endpoint.
    """
    if isinstance(error, boto.ClientError):
        return _answer(error, doing)
    if isinstance(error, boto.SSLError):
        return StorageConnectionError(
            f"{doing}: the server's certificate is not trusted; if it is your own, give the file of"
            f" its authority in the option 'verify' ({_last_line(error)})"
        )
    if isinstance(error, _NO_CREDENTIALS):
        return StorageAccessError(f"{doing}: no credentials are found; {_LOG_IN} ({error})")
    if isinstance(error, ResponseParserError):
        return StoragePathError(f"{doing}: {_LOCATION['404']}")
    if isinstance(error, boto.ParamValidationError | boto.NoRegionError | boto.InvalidRegionError):
        return StoragePathError(f"{doing}: {error}")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return StorageConnectionError(
            f"{doing}: no answer within 'connect_timeout' or 'read_timeout'; check the network and"
            f" the option 'endpoint_url' ({_last_line(error)})"
        )
    if isinstance(error, _BROKEN):
        return StorageConnectionError(
            f"{doing}: the server can't be reached, or ends the connection; check the network and"
            f" the option 'endpoint_url' ({_last_line(error)})"
        )
    return StorageError(f"{doing}: {type(error).__name__}: {error}")


def _answer(error: boto.ClientError, doing: str) -> Exception:
    """Return the error for a server's answer."""
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    code = code_of(error) or str(status)
    said = f"({code}: {error.response.get('Error', {}).get('Message', '')})"
    if code == "NoSuchKey":
        return ResultNotFoundError(f"{doing}: there is no such blob")
    if code in _ACCESS:
        return StorageAccessError(f"{doing}: {_ACCESS[code]} {said}")
    if code in _LOCATION:
        return StoragePathError(f"{doing}: {_LOCATION[code]} {said}")
    if code in _REGION:
        region, endpoint = _region(error), error.response.get("Error", {}).get("Endpoint")
        cure = "'region', or 'endpoint_url'"
        if region:
            cure = f"'region': {region!r}"
        elif endpoint:
            cure += f", which for this bucket is said to be {endpoint!r}"
        return StoragePathError(f"{doing}: the bucket is in another region; give {cure} {said}")
    if code == "RequestTimeTooSkewed":
        return StorageAccessError(
            f"{doing}: the clock of this machine{_skew(answer)}; set it {said}"
        )
    if status >= 500 or status == _TOO_MANY or code in _BUSY:
        attempts = answer.get("RetryAttempts", 0) + 1
        return StorageConnectionError(
            f"{doing}: the server fails or is too busy, at each of {attempts} attempt(s); try again"
            f" later, or raise 'max_attempts' {said}"
        )
    if code in _OPTION:
        return StorageError(f"{doing}: {_OPTION[code]} {said}")
    if status == 403:
        return StorageAccessError(f"{doing}: {_DENIED} {said}")
    return StorageError(f"{doing}: the server refuses {said}")


def _region(error: boto.ClientError) -> str:
    """Return the bucket's region, if the answer names it, else ""."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return str(found or "")


def _skew(answer: dict[str, Any]) -> str:
    try:
        server = parsedate_to_datetime(answer["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return " differs from the server's"
    late = server - time.time()
    return f" is {abs(late):.0f} seconds {'behind' if late > 0 else 'ahead of'} the server's"


def _last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[-1][:300]
