"""Read a blob: a small one with one request, the rest of a large one with parallel requests.

The first request asks for `multipart_threshold` bytes; its answer has the blob's size and etag. If
the blob is larger, the rest is read in parallel chunks. An answer with another etag means that the
blob was replaced: reading starts again. If a connection breaks, the missing bytes are requested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from botocore.exceptions import ClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from functionfuse.errors import StorageConnectionError, StorageError
from functionfuse.storage.disk import own_memory

from .bucket import Bucket
from .errors import FAILURES, code_of

__all__ = ["read", "read_blocks", "read_range"]

_BLOCK = 1 << 20  # bytes
_TIMES = 100  # attempts to read a blob that is replaced meanwhile

_content_range = re.compile(r"bytes (\d+)-(\d+)/(\d+)").fullmatch


class _Answer(NamedTuple):
    """An answer whose body is still to be read.

    Attributes:
        start: the offset of the body in the blob.
        size: bytes of the body.
        total: bytes of the blob.
    """

    body: Any
    start: int
    size: int
    total: int
    etag: str


class _ReplacedError(Exception):
    """The blob was replaced after its beginning was read."""


def read(bucket: Bucket, key: str) -> bytearray | memoryview:
    """Return a whole blob. Raises ResultNotFoundError if it is missing."""
    for _ in range(_TIMES):
        answer = _ask(bucket, key, f"bytes=0-{bucket.options.multipart_threshold - 1}")
        # The system fills its pages with zeros on first use, in the thread that uses them.
        large = answer.total > answer.size
        data = own_memory(answer.total) if large else bytearray(answer.total)
        try:
            _receive(bucket, key, memoryview(data), answer)
        except _ReplacedError:
            continue
        return data
    raise StorageConnectionError(f"S3: {key!r} of {bucket!r} is replaced again and again")


def read_range(bucket: Bucket, key: str, wanted: str) -> bytearray:
    """Return a range of a blob, given in HTTP notation; b"" if the blob ends before it."""
    for _ in range(_TIMES):
        try:
            answer = _ask(bucket, key, wanted, part=True)
        except _ReplacedError:
            return bytearray()
        data = bytearray(answer.size)
        try:
            with memoryview(data) as view:
                _fill(bucket, key, view, answer)
        except _ReplacedError:
            continue
        return data
    raise StorageConnectionError(f"S3: {key!r} of {bucket!r} is replaced again and again")


def read_blocks(bucket: Bucket, key: str, size: int) -> Iterator[memoryview]:
    """Iterate a blob in blocks of at most `size` bytes.

    Each chunk is read with one request, into the same buffer.

    Raises:
        ResultNotFoundError: the blob is missing, or was removed meanwhile.
        StorageError: the blob was replaced meanwhile.
    """
    chunk, buffer = bucket.options.multipart_chunk, bytearray()
    start, total, etag = 0, 1, None
    while start < total:
        try:
            answer = _ask(bucket, key, f"bytes={start}-{start + chunk - 1}")
            if etag not in (None, answer.etag):
                answer.body.close()
                raise _ReplacedError
            total, etag = answer.total, answer.etag
            if len(buffer) < answer.size:
                buffer = bytearray(answer.size)
            view = memoryview(buffer)[: answer.size]
            _fill(bucket, key, view, answer)
        except _ReplacedError:
            raise StorageError(
                f"S3: {key!r} of {bucket!r} was replaced while it was read; read it again"
            ) from None
        for at in range(0, len(view), size):
            yield view[at : at + size]
        start += len(view)


def _receive(bucket: Bucket, key: str, view: memoryview, first: _Answer) -> None:
    """Read a blob into a buffer: the body of the first answer, and in parallel the rest."""
    chunk = bucket.options.multipart_chunk
    starts = range(first.size, first.total, chunk)
    if not starts:
        _fill(bucket, key, view, first)
        return

    def receive(start: int) -> None:
        end = min(start + chunk, first.total)
        answer = _ask(bucket, key, f"bytes={start}-{end - 1}")
        if answer.etag != first.etag:
            answer.body.close()
            raise _ReplacedError
        _fill(bucket, key, view[start:end], answer)

    workers = min(1 + len(starts), bucket.options.concurrency)
    with ThreadPoolExecutor(workers, thread_name_prefix="functionfuse-s3") as pool:
        pieces = [pool.submit(_fill, bucket, key, view[: first.size], first)]
        pieces += [pool.submit(receive, start) for start in starts]
        try:
            for piece in pieces:
                piece.result()
        finally:
            for piece in pieces:
                piece.cancel()


def _fill(bucket: Bucket, key: str, view: memoryview, answer: _Answer) -> None:
    """Read a body into a buffer; if the connection breaks, request the rest and go on.

    boto3 repeats a request until an answer begins, but not if the body ends too early.
    """
    start, etag, attempts, done = answer.start, answer.etag, 1, 0
    while True:
        try:
            while done < len(view):
                count = answer.body.readinto(view[done : done + _BLOCK])
                if not count:
                    raise IncompleteReadError(actual_bytes=done, expected_bytes=len(view))
                done += count
        except FAILURES as error:
            answer.body.close()
            if attempts == bucket.attempts:
                problem = bucket.failed(error, "get_object", key)
                raise problem from problem.__cause__
            attempts += 1
            answer = _ask(bucket, key, f"bytes={start + done}-{start + len(view) - 1}")
            if answer.etag != etag:
                answer.body.close()
                raise _ReplacedError from None
        else:
            return


def _ask(bucket: Bucket, key: str, wanted: str, *, part: bool = False) -> _Answer:
    """Request a range of a blob. Raises _ReplacedError if the blob ends before it.

    A range from the start never ends before it, unless `part` says so: then an empty blob is one
    request and not two.
    """
    arguments, attempts = {"Key": bucket.prefix + key, "Range": wanted}, 1
    while True:
        try:
            answer = bucket.send("get_object", **arguments)
            break
        except FAILURES as error:
            if _status(error) == 416:
                if part or not wanted.startswith("bytes=0-"):
                    raise _ReplacedError from None
                del arguments["Range"]  # the blob is empty
            elif attempts < bucket.attempts and _is_cut(error):
                attempts += 1
            else:
                problem = bucket.failed(error, "get_object", key)
                raise problem from problem.__cause__
    size, body = int(answer["ContentLength"]), answer["Body"]
    given = answer.get("ContentRange", f"bytes 0-{size}/{size}")
    found, start = _content_range(given), wanted.removeprefix("bytes=").partition("-")[0]
    if found is None or (start and start != found[1]):
        body.close()
        raise StorageError(f"S3: {wanted!r} of {key!r} of {bucket!r}: the server sends {given!r}")
    if not size:
        body.close()
    return _Answer(body, int(found[1]), size, int(found[3]), answer.get("ETag", ""))


def _status(error: BaseException) -> int:
    answer = error.response if isinstance(error, ClientError) else {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_cut(error: BaseException) -> bool:
    """Return whether the body of an error answer was cut off, which boto3 does not notice.

    "404" without a server's own code must not count as a missing blob: the server may not be S3.
    """
    return isinstance(error, HTTPError) or code_of(error).isdecimal()
