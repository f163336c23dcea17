"""Requests to one bucket, below one prefix, each with an error that says what failed where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from functionfuse.errors import ResultNotFoundError

from .client import client_for
from .errors import FAILURES, explained
from .options import S3Options, place_of

__all__ = ["Bucket", "etag_of"]


class Bucket:
    """A bucket and a prefix; it pickles by its options.

    Attributes:
        name: the bucket's.
        prefix: what all keys begin with; empty, or it ends in "/".
        writing: what the options say of new blobs, as boto3's arguments.
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
        """Send a request, about a key if one is given; raises what `failed` returns."""
        if key:
            arguments["Key"] = self.prefix + key
        try:
            return self.send(operation, **arguments)
        except FAILURES as error:
            problem = self.failed(error, operation, key)
            raise problem from problem.__cause__

    def send(self, operation: str, **arguments: Any) -> Any:
        """Send a request, and return the answer; raises what boto3 does."""
        return getattr(self.client, operation)(Bucket=self.name, **self.paying, **arguments)

    def failed(self, error: BaseException, operation: str, key: str) -> Exception:
        """Return the error to raise for what boto3 has raised."""
        endpoint = self.options.endpoint_url or "AWS"
        which = f"key {self.prefix + key!r} of " if key else ""
        what = operation.replace("_", " ")
        problem = explained(error, f"S3: {what} of {which}bucket {self.name!r} at {endpoint}")
        if not isinstance(problem, ResultNotFoundError):
            problem.__cause__ = error  # what boto3 says of a blob that isn't there helps nobody
        return problem

    def pages(self, operation: str, prefix: str, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Iterate the answers to a request that lists; one request each."""
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
    """Return the etag in an answer, or in an entry of a listing; "" where there is none."""
    return str(answer.get("ETag", "")).strip('"')
