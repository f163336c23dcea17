"""Write or copy a blob: with one request, or with a multipart upload of parallel pieces.

A client repeats a request if its answer is lost, so a write can fail because it succeeded before:
a conditional PUT finds its own blob, a completed upload is gone. Therefore such a write marks its
blob with a unique text in the metadata, and looks for the mark before it reports a failure.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from functionfuse.errors import StorageError
from functionfuse.storage.blobstore import Buffer, Streamed
from functionfuse.storage.keys import PROBE, unique

from .bucket import Bucket, etag_of
from .errors import FAILURES, code_of

__all__ = [
    "TEMPORARY",
    "Parts",
    "body_of",
    "copy",
    "piece_of",
    "remove_probe",
    "views_of",
    "write",
    "write_if_absent",
]


logger = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
_CONDITION = f"{PROBE}-condition"
_MOST_PIECES = 10_000
_LARGEST_PUT = 5 << 30  # bytes
_STREAMED_AT_ONCE = 48 << 20  # bytes of a streamed blob in memory, in pieces
_CONFLICTS = 5
_TOO_LARGE = ("EntityTooLarge", "InvalidRequest")  # AWS says the second, and also for other reasons
_MARK = "functionfuse-write"  # metadata: identifies the write that made a blob

_keeps_conditions: dict[tuple[str, str], bool] = {}  # by endpoint and bucket


def write(bucket: Bucket, key: str, parts: Sequence[Buffer]) -> str:
    """Put a blob, replacing an earlier one; return its etag, or "" if the answer was lost.

    Few pieces of a large streamed blob are in memory at once.
    """
    if isinstance(parts, Streamed) and parts.size > bucket.options.multipart_threshold:
        size = parts.size
        piece_from: Callable[[int, int], list[memoryview]] = _InOrder(parts).piece
        most: int | None = max(1, _STREAMED_AT_ONCE // bucket.options.multipart_chunk)
    else:
        views = views_of(parts)
        size, piece_from, most = sum(map(len, views)), partial(piece_of, views), None
        if size <= bucket.options.multipart_threshold:
            return etag_of(bucket.call("put_object", key, Body=body_of(views), **bucket.writing))

    def send(start: int, end: int, **piece: Any) -> Mapping[str, Any]:
        body = body_of(piece_from(start, end))
        answer: Mapping[str, Any] = bucket.call("upload_part", key, Body=body, **piece)
        return answer

    return _upload(bucket, key, size, send, most)


def copy(bucket: Bucket, key: str, to: str) -> None:
    """Copy a blob within the server, replacing an earlier one; in pieces if it must be.

    S3 copies up to 5 GiB with one request, and refuses larger blobs; some servers refuse at less.

    Raises:
        ResultNotFoundError: there is no such blob.
        StorageError: a blob that is copied in pieces was replaced meanwhile; or another failure.
    """
    source = {"Bucket": bucket.name, "Key": bucket.prefix + key}
    try:
        bucket.send("copy_object", Key=bucket.prefix + to, CopySource=source, **bucket.copying)
    except FAILURES as error:
        found = _head(bucket, key) if code_of(error) in _TOO_LARGE else {}
        size: int = found.get("ContentLength", 0)
        if size <= bucket.options.multipart_threshold:
            problem = bucket.failed(error, "copy_object", key)
            raise problem from problem.__cause__
    else:
        return

    def send(start: int, end: int, **piece: Any) -> Mapping[str, Any]:
        bucket.check(found, "head_object", source["Key"], ["ETag"])
        which = {"CopySource": source, "CopySourceIfMatch": found["ETag"], **bucket.source, **piece}
        chosen = f"bytes={start}-{end - 1}"
        answer = bucket.call("upload_part_copy", to, CopySourceRange=chosen, **which)
        result: Mapping[str, Any] = answer["CopyPartResult"]
        return result

    _upload(bucket, to, size, send)


def write_if_absent(bucket: Bucket, key: str, parts: Sequence[Buffer]) -> str:
    """Put a blob with one conditional request; return its etag, or "" if the answer was lost.

    Raises:
        FileExistsError: there is a blob already.
        StorageError: the server doesn't know conditional requests, or the blob is too large.
    """
    views = views_of(parts)
    if sum(map(len, views)) > _LARGEST_PUT:
        # Some servers know the condition of a PUT, but not that of a multipart upload.
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
                time.sleep(0.05 * attempt)  # another writer is writing the key, and may fail
                continue
            if not _is_refused(error):
                problem = bucket.failed(error, "put_object", key)
                raise problem from problem.__cause__
            # The request may have been sent twice, and lost against itself.
            if _is_marked(bucket, key, mark):
                return ""
            raise FileExistsError(f"there is a blob {key!r} in {bucket!r} already") from None
        else:
            return etag_of(answer)
    raise AssertionError("the last attempt returns or raises")


def _check_conditions(bucket: Bucket) -> None:
    """Raise StorageError if the server ignores `If-None-Match`; tried once per bucket.

    All processes put the same key. Who has made the object removes it, and nobody else does.
    """
    where = bucket.client.meta.endpoint_url, bucket.name
    if where not in _keeps_conditions:
        key, arguments = _CONDITION, {"IfNoneMatch": "*", "Body": b"", **bucket.writing}
        known = made = False
        try:
            for _ in range(2):
                bucket.send("put_object", Key=bucket.prefix + key, **arguments)
                made = True
        except FAILURES as error:
            known = _is_refused(error)
            if not known and code_of(error) not in ("NotImplemented", "InvalidArgument"):
                problem = bucket.failed(error, "put_object", key)
                raise problem from problem.__cause__  # gc finds the probe, if it is there
        if made:
            remove_probe(bucket, key)
        _keeps_conditions[where] = known
    if not _keeps_conditions[where]:
        raise StorageError(
            f"S3: the server at {bucket.endpoint} ignores the condition"
            " 'If-None-Match', so nothing can be written there with if_absent, and single_flight"
            " can't be used"
        )


def remove_probe(bucket: Bucket, key: str) -> None:
    """Remove an object that has tried the server, or leave it: nothing else needs this right."""
    try:
        bucket.call("delete_object", key)
    except StorageError as error:
        logger.info("an object that has tried the server stays: %s", error)


def _upload(
    bucket: Bucket,
    key: str,
    size: int,
    send: Callable[..., Mapping[str, Any]],
    most: int | None = None,
) -> str:
    """Write a blob in pieces; return its etag, or "" if unknown. A failed upload is aborted.

    Args:
        send: sends the bytes from one offset to another as a piece, of which it gets number and
            upload as arguments of boto3. It returns the ETag and the checksums.
        most: the number of pieces at once; by default the storage's `concurrency`.
    """
    mark = unique()
    arguments: dict[str, Any] = {"Metadata": {_MARK: mark}, **bucket.writing}
    upload = bucket.call("create_multipart_upload", key, **arguments)["UploadId"]
    try:
        done = _send_pieces(bucket, size, partial(send, UploadId=upload), most)
        try:
            answer = bucket.call(
                "complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": done}
            )
        except OSError as error:
            # If the answer to an earlier attempt was lost, the upload is completed and gone.
            try:
                marked = _is_marked(bucket, key, mark)
            except OSError as second:
                error.add_note(f"whether it is stored is unknown: {second}")
                marked = False
            if not marked:
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
    bucket: Bucket, size: int, send: Callable[..., Mapping[str, Any]], most: int | None
) -> list[dict[str, Any]]:
    """Send all pieces; return the list that completes the upload. No request is left running."""
    chunk = max(bucket.options.multipart_chunk, -(-size // _MOST_PIECES))

    def send_piece(number: int) -> dict[str, Any]:
        start = (number - 1) * chunk
        answer = send(start, min(start + chunk, size), PartNumber=number)
        sums = {name: value for name, value in answer.items() if name in _CHECKSUMS}
        return {"PartNumber": number, "ETag": answer["ETag"], **sums}

    count = -(-size // chunk)
    workers = min(count, bucket.options.concurrency, most or count)
    with ThreadPoolExecutor(workers, thread_name_prefix="functionfuse-s3") as pool:
        pieces = [pool.submit(send_piece, number) for number in range(1, count + 1)]
        try:
            wait(pieces, return_when=FIRST_EXCEPTION)
        finally:
            for piece in pieces:
                piece.cancel()
    failed = [piece for piece in pieces if not piece.cancelled() and piece.exception()]
    return [piece.result() for piece in failed or pieces]


class _InOrder:
    """Cuts streamed parts into pieces, which threads take in order: each waits for its turn."""

    def __init__(self, parts: Streamed) -> None:
        self._parts, self._size = iter(parts), parts.size
        self._rest = memoryview(b"")
        self._position = 0
        self._failed = False
        self._turn = threading.Condition()

    def piece(self, start: int, end: int) -> list[memoryview]:
        """Return the bytes from `start` to `end`; the last one ends with the parts."""
        with self._turn:
            # The threads take up pieces in order, so those before this one are being taken.
            self._turn.wait_for(lambda: self._failed or self._position == start)
            if self._failed:
                raise StorageError("S3: an earlier piece of the blob can't be made")
            try:
                found = list(self._taken(end))
            except BaseException:
                self._failed = True
                raise
            finally:
                self._turn.notify_all()
        return found

    def _taken(self, end: int) -> Iterator[memoryview]:
        while self._position < end:
            if not self._rest:
                self._rest = memoryview(next(self._parts))
            size = end - self._position
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._position += len(piece)
            if self._position == self._size:
                for _ in self._parts:  # to their end, where an error may be raised
                    pass
            yield piece


_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA256")


def _is_refused(error: BaseException) -> bool:
    """Return whether a condition of the request was not met."""
    return isinstance(error, ClientError) and (
        error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
    )


def _is_marked(bucket: Bucket, key: str, mark: str) -> bool:
    """Return whether the blob was made by the write with this mark, or is a copy of that blob."""
    return bool(_head(bucket, key).get("Metadata", {}).get(_MARK) == mark)


def _head(bucket: Bucket, key: str) -> Mapping[str, Any]:
    """Return size, etag and metadata of a blob, in boto3's form; nothing if it is missing."""
    try:
        answer: Mapping[str, Any] = bucket.send("head_object", Key=bucket.prefix + key)
    except FAILURES as error:
        if code_of(error) in ("404", "NoSuchKey"):
            return {}
        problem = bucket.failed(error, "head_object", key)
        raise problem from problem.__cause__
    return answer


_JOINED_UP_TO = 64 << 10  # bytes; a copy is quicker than the 'Expect: 100-continue' of files
_BLOCK = 1 << 20  # bytes; urllib3 reads 16 KiB at a time, which uses a whole core at 1 GB/s


class Parts(io.RawIOBase):
    """A readable file whose content is a sequence of buffers."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views
        self.size = sum(map(len, views))
        self.position = 0

    def __len__(self) -> int:
        return self.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, relative to the beginning, the current position or the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes; a whole block if `size` is smaller and not 0."""
        if size == 0:
            return b""
        wanted = self.size if size is None or size < 0 else max(size, _BLOCK)
        found = b"".join(piece_of(self.views, self.position, self.position + wanted))
        self.position += len(found)
        return found


def views_of(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts as views of bytes, without empty ones."""
    views = [memoryview(part) for part in parts]
    return [view.cast("B") for view in views if view.nbytes]


def piece_of(views: Iterable[memoryview], start: int, end: int) -> list[memoryview]:
    """Return the bytes from `start` to `end` of a sequence of views."""
    found, position = [], 0
    for view in views:
        piece = view[max(0, start - position) : max(0, end - position)]
        if len(piece):
            found.append(piece)
        position += len(view)
        if position >= end:
            break
    return found


def body_of(views: Sequence[memoryview]) -> bytes | Parts:
    """Return the body for boto3: bytes if it is small, else a file."""
    parts = Parts(views)
    return b"".join(views) if parts.size <= _JOINED_UP_TO else parts
