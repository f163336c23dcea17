"""One bucket and prefix: its boto3 client, and requests whose errors name the cause."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from functionfuse.errors import (
    ResultNotFoundError,
    StorageAccessError,
    StorageError,
    without_locals,
)

from .clients import Client, client_for, endpoint_for, forget
from .errors import FAILURES, about_credentials, explained
from .options import S3Options, place_of
from .rights import Request

__all__ = ["Bucket", "etag_of"]

# What answers must have, by operation; and how the next page of a listing is asked for.
_NEEDED = {
    "create_multipart_upload": ("UploadId",),
    "get_object": ("ContentLength",),
    "upload_part": ("ETag",),
    "upload_part_copy": ("ETag",),
}
_FOLLOWING = {
    "list_multipart_uploads": {
        "KeyMarker": "NextKeyMarker",
        "UploadIdMarker": "NextUploadIdMarker",
    },
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
}


class Bucket:
    """A bucket and a prefix; it pickles by its options.

    Attributes:
        name: the bucket's.
        prefix: the beginning of all keys; empty, or it ends in "/".
        always: the options that go with every request, as arguments of boto3.
        writing: the options for new blobs, in the same form.
        source: the options of a blob that is copied.
        copying: the options for a copy made by one request.
        endpoint: the server; one that only a config file names is known after the first request.
        attempts, checksums: how often a request is sent at most, and whether uploads carry
            checksums, by the option, or else by boto3's settings, known after the first request.
    """

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self.name, self.prefix = place_of(options.path)
        self.endpoint = endpoint_for(options)
        self.attempts = options.max_attempts or 1
        self.checksums = options.checksums
        self._held: tuple[int, Client] | None = None  # the client, and its process
        owner, tags = options.expected_bucket_owner, options.tags
        self.always = _given(RequestPayer=options.request_payer, ExpectedBucketOwner=owner)
        self.writing = _given(
            ServerSideEncryption=options.server_side_encryption,
            SSEKMSKeyId=options.kms_key_id,
            BucketKeyEnabled=options.bucket_key,
            StorageClass=options.storage_class,
            ACL=options.acl,
            Tagging=urlencode(tags, quote_via=quote, safe="") if tags else None,
        )
        self.source = _given(ExpectedSourceBucketOwner=owner)
        replacing = _given(TaggingDirective="REPLACE" if tags else None)
        self.copying = {**self.writing, **self.source, **replacing}

    def __reduce__(self) -> tuple[type[Bucket], tuple[S3Options]]:
        return type(self), (self.options,)

    def __repr__(self) -> str:
        url, origin = self.endpoint
        server = f", {origin}={url!r}" if url else ""
        return f"{f'{self.name}/{self.prefix}'.rstrip('/')!r}{server}"

    @property
    def client(self) -> Any:
        """This process's boto3 client; after an error of access it can be another one.

        Raises:
            StorageError: none can be made; there is no such profile, for instance.
        """
        held = self._held
        if held is None or held[0] != os.getpid():
            try:
                client = client_for(self.options)
            except FAILURES as error:
                raise self.failed(error, "make_client", "") from error
            self.endpoint = client.endpoint
            config = client.boto.meta.config
            self.attempts = int(config.retries["total_max_attempts"])
            self.checksums = config.request_checksum_calculation
            held = self._held = os.getpid(), client
        return held[1].boto

    def look_again(self) -> None:
        """Have the next request look whether there are new credentials."""
        self._held = None

    def call(self, operation: str, key: str = "", **arguments: Any) -> Any:
        """Send a request, with a key if one is given. Raises the error that `failed` returns."""
        if key:
            arguments["Key"] = self.prefix + key
        try:
            return self.send(operation, **arguments)
        except FAILURES as error:
            problem = self.failed(error, operation, key)
            raise problem from problem.__cause__

    @without_locals
    def send(self, operation: str, **arguments: Any) -> Any:
        """Send a request, and return the answer. Raises boto3's errors.

        If the credentials are refused, and there are other ones now, it is sent once more.
        """
        arguments = {"Bucket": self.name, **self.always, **arguments}
        for again in (True, False):
            client = self.client
            try:
                answer = getattr(client, operation)(**arguments)
                self.check(answer, operation, arguments.get("Key", ""))
            except FAILURES as error:
                if not about_credentials(error):
                    raise
                self.look_again()
                if not again or self.client is client:
                    forget(client)
                    raise
            else:
                return answer
            if isinstance(body := arguments.get("Body"), io.IOBase):
                body.seek(0)
        raise AssertionError("the second attempt returns or raises")

    def failed(self, error: BaseException, operation: str, key: str) -> Exception:
        """Return our error for an error of boto3; it names operation, key, bucket and endpoint."""
        if isinstance(error, StorageError):
            return error  # no client could be made
        doing = self._doing(operation, self.prefix + key if key else "")
        request = Request(doing, operation, self.options, self.writing, self.checksums)
        problem = explained(error, request)
        if isinstance(problem, StorageAccessError):
            self.look_again()
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
            for name, following in _FOLLOWING[operation].items():
                self.check(page, operation, arguments["Prefix"], (following,))
                arguments[name] = page[following]

    def check(
        self, answer: Mapping[str, Any], operation: str, key: str, needed: Sequence[str] = ()
    ) -> None:
        """Raise StorageError if an answer lacks what is needed of it.

        Args:
            key: with the prefix.
            needed: names; by default, those that the operation always needs.
        """
        result = answer.get("CopyPartResult", answer)
        for name in needed or _NEEDED.get(operation, ()):
            if result.get(name) is None:
                raise StorageError(
                    f"{self._doing(operation, key)}: the answer has no {name!r}; the server isn't"
                    " compatible with S3, or a proxy on the way changes answers"
                )

    def _doing(self, operation: str, key: str) -> str:
        which = f"key {key!r} of " if key else ""
        action = operation.replace("_", " ")
        return f"S3: {action} of {which}bucket {self.name!r} at {self.endpoint}"


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def etag_of(answer: Mapping[str, Any]) -> str:
    """Return the etag in an answer or an entry of a listing; "" if it has none."""
    return str(answer.get("ETag", "")).strip('"')
