"""Turn errors of boto3 and of servers into ours, which name bucket, key, endpoint and the cure.

No message shows a secret: it takes only the code and the message from a server's answer.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

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

from .options import is_arn, place_of
from .rights import Request, denied

__all__ = ["CHECKSUMS", "FAILURES", "about_credentials", "code_of", "explained"]

# All errors that a client can raise while it sends a request and receives the answer.
FAILURES = (boto.BotoCoreError, boto.ClientError, HTTPError, OSError, ResponseParserError)

_LOG_IN = (
    "give the option 'profile', or 'access_key_id' and 'secret_access_key', or set AWS_PROFILE,"
    " or log in (aws sso login)"
)
_DENIED = {"AccessDenied", "Forbidden", "Unauthorized", "401", "403"}
CHECKSUMS = "give the option 'checksums': 'when_required'"
# The requests that have a checksum, or tell of one.
_UPLOADS = {
    "complete_multipart_upload",
    "create_multipart_upload",
    "put_object",
    "upload_part",
}
_OF_CHECKSUMS = (
    "BadDigest",
    "NotImplemented",
    "SignatureDoesNotMatch",
    "XAmzContentSHA256Mismatch",
)
_REFUSED = 400, 411, 501
_EXPIRED = "the credentials have expired; log in again (aws sso login), or renew 'session_token'"
_ACCESS = {
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
    "IncompleteBody": "the bytes were changed or cut on their way; try again",
    "InvalidDigest": "the bytes were changed on their way; try again",
    "InvalidStorageClass": "the server doesn't know this; correct the option 'storage_class'",
    "KMS.DisabledException": "the key for encryption is disabled; correct 'kms_key_id'",
    "KMS.NotFoundException": "there is no such key for encryption; correct 'kms_key_id'",
    "NotImplemented": "the server doesn't know a part of the request",
    "PreconditionFailed": "the blob was replaced meanwhile; try again",
    "XAmzContentSHA256Mismatch": "the bytes were changed on their way; try again",
}
_ENDS = "the server can't be reached, or ends the connection; check the network and"
_OTHER_HOST = (
    "the server's certificate is for another host; correct the option 'endpoint_url', or, where the"
    " bucket is a part of the host's name, give 'addressing_style': 'path'"
)
_NO_TLS = "the server doesn't speak https; write http:// in the option 'endpoint_url'"
# The problem, by a part of what OpenSSL says.
_TLS = {
    "certificate has expired": (
        "the server's certificate has expired; renew it, or set the clock of this machine"
    ),
    "certificate is not yet valid": (
        "the server's certificate is not valid yet; set the clock of this machine"
    ),
    "certificate is not valid for": _OTHER_HOST,
    "doesn't match": _OTHER_HOST,
    "CERTIFICATE_VERIFY_FAILED": (
        "the server's certificate is not trusted; if it is your own, give the file of its authority"
        " in the option 'verify'"
    ),
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "No such file": (
        "the file of certificates to trust is gone; it is that of the option 'verify', or of"
        " AWS_CA_BUNDLE"
    ),
}
# What boto3 says about its own settings, and where they are.
_SETTINGS: dict[type[BaseException], str] = {
    boto.InvalidChecksumConfigError: (
        "AWS_REQUEST_CHECKSUM_CALCULATION, AWS_RESPONSE_CHECKSUM_VALIDATION, or the same in"
        " ~/.aws/config"
    ),
    boto.InvalidDefaultsMode: "AWS_DEFAULTS_MODE, or 'defaults_mode' in ~/.aws/config",
    boto.InvalidRegionError: (
        "the option 'region', AWS_DEFAULT_REGION, AWS_REGION, or 'region' in ~/.aws/config"
    ),
    boto.InvalidRetryModeError: "AWS_RETRY_MODE, or 'retry_mode' in ~/.aws/config",
    boto.NoRegionError: "the option 'region'",
}
# Options that go with these requests; a server that doesn't know one of them may just fail.
_OF_UPLOADS = "server_side_encryption", "kms_key_id", "bucket_key", "storage_class", "acl", "tags"
_WITH_OPTIONS = "copy_object", "create_multipart_upload", "put_object"
_is_name_of_s3 = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
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
# With other credentials, the same request can work.
_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",  # STS says it for an unknown access key
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}


def code_of(error: BaseException) -> str:
    """Return the code in a server's answer, such as "NoSuchKey"; "" for an error without one."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code") or "")


def about_credentials(error: BaseException) -> bool:
    """Return whether an error says that the credentials are missing, expired or wrong.

    Not whether they lack a right.
    """
    return isinstance(error, _NO_CREDENTIALS) or code_of(error) in _CREDENTIALS


def explained(error: BaseException, request: Request) -> Exception:
    """Return the error to raise for one of `FAILURES`."""
    doing = request.doing
    if isinstance(error, boto.ClientError):
        if error.operation_name == "AssumeRole" and not _is_busy(error):
            role = request.options.role_arn or "of the profile"
            return StorageAccessError(
                f"{doing}: STS refuses the role {role}; check 'role_arn', 'external_id', the role's"
                " trust policy, and the credentials that assume it"
                f" ({code_of(error)}: {_message(error)})"
            )
        return _answer(error, request)
    if _is_of_sts(error):
        return StorageConnectionError(
            f"{doing}: STS, which gives the credentials of a role, can't be reached; check the"
            " network, the option 'region', and AWS_ENDPOINT_URL_STS or AWS_ENDPOINT_URL"
            f" ({_last_line(error)})"
        )
    if isinstance(error, boto.SSLError):
        said = str(error)
        problem = next((text for part, text in _TLS.items() if part in said), "")
        problem = problem or f"{_ENDS} {_cure(request)}"
        return StorageConnectionError(f"{doing}: {problem} ({_last_line(error)})")
    if isinstance(error, boto.ProfileNotFound):
        name = error.kwargs["profile"]
        return StorageAccessError(
            f"{doing}: there is no profile {name!r} in ~/.aws/config or ~/.aws/credentials; correct"
            " the option 'profile', or AWS_PROFILE"
        )
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StorageAccessError(f"{doing}: no credentials are found; {_LOG_IN} ({error})")
    if isinstance(error, _NO_CREDENTIALS):
        return StorageAccessError(f"{doing}: {error}; mend this, or {_LOG_IN}")
    if isinstance(error, ResponseParserError):
        return StoragePathError(f"{doing}: {_LOCATION['404']}")
    if isinstance(error, tuple(_SETTINGS)):
        return StoragePathError(f"{doing}: {error} Correct {_SETTINGS[type(error)]}")
    if isinstance(error, boto.ParamValidationError):
        return StoragePathError(f"{doing}: {error}")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return StorageConnectionError(
            f"{doing}: no answer within 'connect_timeout' or 'read_timeout'; check the network and"
            f" {_cure(request)} ({_last_line(error)})"
        )
    if isinstance(error, boto.ProxyConnectionError):
        return StorageConnectionError(
            f"{doing}: the proxy can't be reached, or refuses; check the option 'proxies', or the"
            f" variables HTTP_PROXY and HTTPS_PROXY ({_last_line(error)})"
        )
    if isinstance(error, _BROKEN):
        return StorageConnectionError(f"{doing}: {_ENDS} {_cure(request)} ({_last_line(error)})")
    return StorageError(f"{doing}: {type(error).__name__}: {error}")


def _is_of_sts(error: BaseException) -> bool:
    """Return whether a request to STS failed: only those have neither a path nor a query."""
    url = str(getattr(error, "kwargs", {}).get("endpoint_url", ""))
    found = urlsplit(url)
    return bool(url) and found.path in ("", "/") and not found.query


def _cure(request: Request) -> str:
    """Return which options decide where requests go."""
    path = request.options.path
    if is_arn(path):
        return "the options 'path', which has the region and the access point, and 'region'"
    if request.options.addressing_style == "virtual":
        named = "'path'" if _is_aws(request) else "'path', 'endpoint_url'"
        return (
            f"the options {named} and 'addressing_style': 'virtual' makes the bucket a part of the"
            " host's name"
        )
    if _is_aws(request):
        return "the options 'path' and 'region': the host's name has the bucket and the region"
    return "the option 'endpoint_url', also whether it begins with http:// or https://"


def _is_aws(request: Request) -> bool:
    """Return whether no endpoint is given, nor found in boto3's settings."""
    return request.doing.endswith(" at AWS")


def _no_bucket(request: Request) -> str:
    bucket = place_of(request.options.path)[0]
    if is_arn(request.options.path):
        return "there is no such access point; correct the option 'path'"
    if not _is_name_of_s3(bucket):
        return (
            "there is no such bucket, and S3 takes only names of 3 to 63 small letters, digits, '-'"
            " and '.'; correct the option 'path'"
        )
    return "there is no such bucket; correct the option 'path', or make the bucket"


def _access(error: boto.ClientError, request: Request, code: str) -> str:
    """Return why access is denied; "" if the code doesn't tell."""
    told = error.response.get("Error", {})
    if code in _DENIED:
        return denied(request)
    if code == "InvalidObjectState":
        kind = told.get("AccessTier") or told.get("StorageClass") or "in which class is unknown"
        return (
            f"the object is archived ({kind}); restore it, or"
            " delete the object to compute the result again, and let no lifecycle rule archive it"
        )
    if code == "RequestTimeTooSkewed":
        skew = _skew(error.response.get("ResponseMetadata", {}))
        return f"the clock of this machine{skew}; set it"
    if code == "InvalidAccessKeyId" and request.options.session_token:
        return f"{_ACCESS[code]}; 'session_token' belongs to the key: check it, too"
    return _ACCESS.get(code, "")


def _answer(error: boto.ClientError, request: Request) -> Exception:
    """Return the error for a server's answer."""
    doing = request.doing
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    code = code_of(error) or str(status)
    said = f"({code}: {_message(error)})"
    if code == "NoSuchKey":
        return ResultNotFoundError(f"{doing}: there is no such blob")
    if status == 501:
        code = "NotImplemented"
    also = _also(request, code, status)
    access = _access(error, request, code)
    if access:
        return StorageAccessError(f"{doing}: {access}{also} {said}")
    if code == "400" and " at http://" in doing:
        return StoragePathError(
            f"{doing}: what answers is no S3 server, or speaks only https; correct the option"
            f" 'endpoint_url' {said}"
        )
    location = _no_bucket(request) if code == "NoSuchBucket" else _LOCATION.get(code)
    if location:
        return StoragePathError(f"{doing}: {location}{also} {said}")
    if code in _REGION:
        region, endpoint = _region(error), error.response.get("Error", {}).get("Endpoint")
        cure = "'region', or 'endpoint_url'"
        if region:
            cure = f"'region': {region!r}"
        elif endpoint:
            cure += f", which for this bucket is said to be {endpoint!r}"
        return StoragePathError(f"{doing}: the bucket is in another region; give {cure} {said}")
    if code in _OPTION:
        return StorageError(f"{doing}: {_OPTION[code]}{also} {said}")
    if _is_busy(error):
        attempts = answer.get("RetryAttempts", 0) + 1
        return StorageConnectionError(
            f"{doing}: the server fails or is too busy, at each of {attempts} attempt(s); try again"
            f" later, or raise 'max_attempts'{_unknown_options(request, status)} {said}"
        )
    if status == 403:
        return StorageAccessError(f"{doing}: {denied(request)}{also} {said}")
    return StorageError(f"{doing}: the server refuses it{also} {said}")


def _also(request: Request, code: str, status: int) -> str:
    """Return the cure for a server that may not know a part of an upload; "" for other answers."""
    unknown = code not in _OPTION and code not in _ACCESS and code != "EntityTooLarge"
    also = _unknown_options(request, status)
    if request.operation == "create_multipart_upload" and (unknown or code == "NotImplemented"):
        also += "; or, if the server doesn't know uploads in pieces, raise 'multipart_threshold'"
    checked = request.operation in _UPLOADS and request.checksums != "when_required"
    if checked and (code in _OF_CHECKSUMS or (status in _REFUSED and unknown)):
        cure = f"; it may be one that doesn't know the checksums of uploads: then {CHECKSUMS}"
        return cure + also
    return also


def _unknown_options(request: Request, status: int) -> str:
    """Return the given options that a server may not know, if it fails at a request with them."""
    given = [name for name in _OF_UPLOADS if getattr(request.options, name) is not None]
    if not given or request.operation not in _WITH_OPTIONS or status not in (500, 501):
        return ""
    return f"; or leave out the option(s) that the server may not know: {', '.join(given)}"


def _is_busy(error: boto.ClientError) -> bool:
    """Return whether the server fails or is too busy."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return bool(status >= 500 or status == _TOO_MANY or code_of(error) in _BUSY)


def _message(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


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
