"""Writing a blob: one PUT, or a multipart upload of its pieces in parallel."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from botocore.exceptions import ClientError

from functionfuse.errors import StorageError
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.keys import unique

from .body import body_of, piece_of, views_of
from .bucket import Bucket, etag_of
from .errors import FAILURES, code_of

__all__ = ["TEMPORARY", "write", "write_if_absent"]

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
_MOST_PIECES = 10_000
_LARGEST_PUT = 5 << 30  # bytes
_CONFLICTS = 5
_MARK = "functionfuse-write"  # metadata: which write a blob is of

_keeps_conditions: dict[tuple[str | None, str], bool] = {}  # by endpoint and bucket


def write(bucket: Bucket, key: str, parts: Sequence[Buffer]) -> str:
    """Put a blob, replacing one that is there; return its etag."""
    views = views_of(parts)
    size = sum(map(len, views))
    if size > bucket.options.multipart_threshold:
        return _upload(bucket, key, views, size)
    return etag_of(bucket.call("put_object", key, Body=body_of(views), **bucket.writing))


def write_if_absent(bucket: Bucket, key: str, parts: Sequence[Buffer]) -> str:
    """Put a blob in one conditional request; return its etag, or "" where the answer was lost.

    Raises:
        FileExistsError: there is one.
        StorageError: the server doesn't know conditional requests, or the blob is too large.
    """
    views = views_of(parts)
    if sum(map(len, views)) > _LARGEST_PUT:
        # Not every server that knows the condition of a PUT knows that of a multipart upload.
        raise StorageError(
            f"S3: what has more than {_LARGEST_PUT >> 30} GiB can't be written with if_absent"
        )
    _check_conditions(bucket)
    mark = unique()
    arguments = {"IfNoneMatch": "*", "Metadata": {_MARK: mark}, **bucket.writing}
    for attempt in range(1, _CONFLICTS + 1):
        body = body_of(views)
        try:
            answer = bucket.send("put_object", Key=bucket.prefix + key, Body=body, **arguments)
        except FAILURES as error:
            conflict = code_of(error) in ("ConditionalRequestConflict", "OperationAborted")
            if conflict and attempt < _CONFLICTS:
                time.sleep(0.05 * attempt)  # another writer is at it, and may fail
                continue
            if not _is_refused(error):
                problem = bucket.failed(error, "put_object", key)
                raise problem from problem.__cause__
            # A request that was sent twice has lost against itself.
            if _is_marked(bucket, key, mark):
                return ""
            raise FileExistsError(f"there is a blob {key!r} in {bucket!r} already") from None
        else:
            return etag_of(answer)
    raise AssertionError("the last attempt returns or raises")


def _check_conditions(bucket: Bucket) -> None:
    """Raise StorageError where the server doesn't know `If-None-Match`; asks it once."""
    where = bucket.options.endpoint_url, bucket.name
    if where not in _keeps_conditions:
        key = f"{TEMPORARY}probe-{unique()}"
        arguments = {"IfNoneMatch": "*", "Body": b"", **bucket.writing}
        kept = False
        try:
            for _ in range(2):
                bucket.send("put_object", Key=bucket.prefix + key, **arguments)
        except FAILURES as error:
            kept = _is_refused(error)
            if not kept and code_of(error) not in ("NotImplemented", "InvalidArgument"):
                problem = bucket.failed(error, "put_object", key)
                raise problem from problem.__cause__
        finally:
            bucket.call("delete_object", key)
        _keeps_conditions[where] = kept
    if not _keeps_conditions[where]:
        raise StorageError(
            f"S3: the server at {bucket.options.endpoint_url or 'AWS'} ignores the condition"
            " 'If-None-Match', so nothing can be written there with if_absent, and single_flight"
            " can't be used"
        )


def _upload(bucket: Bucket, key: str, views: Sequence[memoryview], size: int) -> str:
    """Write a blob in pieces; if that fails, nothing of it is left. Returns its etag if known."""
    mark = unique()
    arguments: dict[str, Any] = {"Metadata": {_MARK: mark}, **bucket.writing}
    upload = bucket.call("create_multipart_upload", key, **arguments)["UploadId"]
    try:
        done = _send_pieces(bucket, key, upload, views, size)
        try:
            answer = bucket.call(
                "complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": done}
            )
        except OSError:
            # The answer to an earlier attempt may have been lost: then there is no upload any more.
            if not _is_marked(bucket, key, mark):
                raise
            return ""
    except BaseException as error:
        try:
            bucket.call("abort_multipart_upload", key, UploadId=upload)
        except OSError as second:
            error.add_note(f"its pieces are left for gc: {second}")
        raise
    return etag_of(answer)


def _send_pieces(
    bucket: Bucket, key: str, upload: str, views: Sequence[memoryview], size: int
) -> list[dict[str, Any]]:
    """Send all pieces; returns what completes the upload. None is under way when this returns."""
    chunk = max(bucket.options.multipart_chunk, -(-size // _MOST_PIECES))

    def send(number: int) -> dict[str, Any]:
        start = (number - 1) * chunk
        body = body_of(piece_of(views, start, start + chunk))
        answer = bucket.call("upload_part", key, UploadId=upload, PartNumber=number, Body=body)
        sums = {name: value for name, value in answer.items() if name in _CHECKSUMS}
        return {"PartNumber": number, "ETag": answer["ETag"], **sums}

    count = -(-size // chunk)
    workers = min(count, bucket.options.concurrency)
    with ThreadPoolExecutor(workers, thread_name_prefix="functionfuse-s3") as pool:
        pieces = [pool.submit(send, number) for number in range(1, count + 1)]
        try:
            wait(pieces, return_when=FIRST_EXCEPTION)
        finally:
            for piece in pieces:
                piece.cancel()
    failed = [piece for piece in pieces if not piece.cancelled() and piece.exception()]
    return [piece.result() for piece in failed or pieces]


_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA256")


def _is_refused(error: BaseException) -> bool:
    """Tell whether a condition was not met."""
    return isinstance(error, ClientError) and (
        error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
    )


def _is_marked(bucket: Bucket, key: str, mark: str) -> bool:
    """Tell whether a blob is of this very write."""
    try:
        answer = bucket.send("head_object", Key=bucket.prefix + key)
    except FAILURES as error:
        if code_of(error) in ("404", "NoSuchKey"):
            return False
        problem = bucket.failed(error, "head_object", key)
        raise problem from problem.__cause__
    return bool(answer.get("Metadata", {}).get(_MARK) == mark)
