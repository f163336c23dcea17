"""`S3Store`: blobs as objects of a bucket."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL
from functionfuse.storage import BlobInfo, BlobStore
from functionfuse.storage.blobstore import Buffer, FirstPartLast, StagedFiles
from functionfuse.storage.keys import PROBE
from functionfuse.storage.ours import is_marked

from .bucket import Bucket, etag_of
from .heads import Heads
from .options import S3Options
from .probing import probe
from .protocol import S3Protocol
from .reading import read, read_blocks, read_range
from .writing import TEMPORARY, copy, write, write_if_absent

__all__ = ["S3Store"]

_AT_ONCE = 1000  # keys that one request removes
_BUSY = {"InternalError", "ServiceUnavailable", "SlowDown"}


class S3Store(BlobStore):
    """Blobs as objects of a bucket below a prefix; the key of a blob is the rest after the prefix.

    A blob is durable and visible to all readers when the server acknowledges its PUT. The store
    pickles by its options, secrets included; each process makes its own client.
    """

    remote = True

    def __init__(self, options: S3Options) -> None:
        self.bucket = Bucket(options)
        self.concurrency = options.concurrency
        self._heads = Heads(self, self.blobs)
        self._clock: float | None = None  # the server's time minus time.monotonic

    def __reduce__(self) -> tuple[type[S3Store], tuple[S3Options]]:
        return type(self), (self.bucket.options,)

    def __repr__(self) -> str:
        return f"S3Store({self.bucket!r})"

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a blob; see `BlobStore.put`.

        Raises:
            StorageError: it failed. After a lost connection, the blob may be stored anyway.
        """
        del durable
        etag = (write_if_absent if if_absent else write)(self.bucket, key, parts)
        if isinstance(parts, (list, FirstPartLast)) and parts:
            self._heads.note(key, etag, parts[0])

    def get(self, key: str) -> Buffer:
        """Return a blob; see `BlobStore.get`."""
        return read(self.bucket, key)

    def copy(self, key: str, to: str) -> None:
        """Copy a blob within the server, with one request up to 5 GiB; see `BlobStore.copy`."""
        if key != to:
            copy(self.bucket, key, to)
            self._heads.forget(to)

    def head(self, key: str, size: int) -> Buffer:
        """Return the beginning of a blob; see `BlobStore.head`."""
        return read_range(self.bucket, key, f"bytes=0-{max(size, 1) - 1}")[:size]

    def heads(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        """Iterate over the headers of results; see `BlobStore.heads`. They are remembered.

        Not those of earlier results, whose names a plan has listed already.
        """
        if "/." in folder:
            return super().heads(folder, names, size)
        return self._heads.read(folder, names, size)

    def prepare(self, folder: str) -> None:
        """Put an object, read it back, and remove it, once for each process; see `probing`.

        Each time, the next request looks whether there are new credentials.
        """
        del folder
        self.bucket.look_again()
        probe(self.bucket)

    def finish(self, folder: str) -> None:
        """Remember the headers of the results that were put; see `BlobStore.finish`."""
        self._heads.finish(folder)

    def blocks(self, key: str, size: int) -> Iterator[Buffer]:
        """Iterate a blob in blocks; see `BlobStore.blocks`. One chunk at a time is in memory."""
        return read_blocks(self.bucket, key, size)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs; see `BlobStore.list`. All are listed before the first is yielded."""
        found = [
            _described(key, entry)
            for page in self.bucket.pages("list_objects_v2", prefix)
            for entry in page.get("Contents", ())
            if _is_blob(key := entry["Key"][len(self.bucket.prefix) :])
        ]
        # Not every server sorts by key: some go folder by folder.
        return iter(sorted(found, key=lambda blob: blob.key))

    def blobs(self, folder: str) -> Iterator[BlobInfo]:
        """Iterate the blobs directly in a folder, as `list` does, but no deeper ones."""
        for page in self.bucket.pages("list_objects_v2", folder, Delimiter="/"):
            for entry in page.get("Contents", ()):
                if _is_blob(key := entry["Key"][len(self.bucket.prefix) :]):
                    yield _described(key, entry)

    def names(self, folder: str) -> Iterator[str]:
        """Iterate the names in a folder; see `BlobStore.names`."""
        above = len(self.bucket.prefix) + len(folder)
        for page in self.bucket.pages("list_objects_v2", folder, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][above:]
            for entry in page.get("Contents", ()):
                name = entry["Key"][above:]
                if _is_blob(name):
                    yield name

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs, 1,000 with each request; see `BlobStore.delete`."""
        found = [key for key in keys if not key.endswith("/")]
        server = ""
        for start in range(0, len(found), _AT_ONCE):
            server = self._delete(found[start : start + _AT_ONCE])
        if server.startswith("SeaweedFS"):
            # SeaweedFS has real folders, and lists empty ones until they are removed.
            above = sorted({folder for key in found for folder in _above(key)}, reverse=True)
            for start in range(0, len(above), _AT_ONCE):
                self._delete(above[start : start + _AT_ONCE])

    def protocols(self, folder: str) -> dict[str, Any]:
        """Offer staged files, and boto3's client with a zarr store; see `BlobStore.protocols`."""
        files = StagedFiles(self, folder)
        return {FILE_PROTOCOL: files, S3_PROTOCOL: S3Protocol(self, self.bucket, folder, files)}

    def now(self) -> float:
        """Return the time on the server's clock, which is read once."""
        if self._clock is None:
            page = next(self.bucket.pages("list_objects_v2", TEMPORARY, MaxKeys=1))
            date = page["ResponseMetadata"]["HTTPHeaders"]["date"]
            self._clock = parsedate_to_datetime(date).timestamp() - time.monotonic()
        return self._clock + time.monotonic()

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Abort uploads of killed writers, and remove their probes; see `BlobStore.sweep`.

        Any upload in a folder with a marker is aborted: an upload doesn't tell who began it.
        """
        before, marked = self.now() - older_than, dict[str, bool]()
        for page in self.bucket.pages("list_multipart_uploads", ""):
            for upload in page.get("Uploads", ()):
                begun = upload["Initiated"].timestamp()
                key = upload["Key"][len(self.bucket.prefix) :]
                folder = key.partition("/")[0] + "/"
                if begun < before and folder not in marked:
                    marked[folder] = is_marked(self, folder)
                if begun < before and marked[folder]:
                    size = self._size_of_upload(key, upload["UploadId"])
                    if not dry_run:
                        self.bucket.call("abort_multipart_upload", key, UploadId=upload["UploadId"])
                    yield BlobInfo(key, size, begun)
        for page in self.bucket.pages("list_objects_v2", f"{PROBE}-"):
            for entry in page.get("Contents", ()):
                key, modified = entry["Key"][len(self.bucket.prefix) :], entry["LastModified"]
                if modified.timestamp() < before:
                    if not dry_run:
                        self._delete([key])
                    yield BlobInfo(key, entry["Size"], modified.timestamp())

    def _size_of_upload(self, key: str, upload: str) -> int:
        """Return the number of bytes received for an upload, or for its first 1,000 pieces."""
        answer = self.bucket.call("list_parts", key, UploadId=upload)
        return sum(part["Size"] for part in answer.get("Parts", ()))

    def _delete(self, keys: Sequence[str]) -> str:
        """Remove up to 1,000 blobs; retry those for which the server was too busy.

        Returns the server's name for itself.
        """
        attempt = 0
        while True:
            attempt += 1
            objects = [{"Key": self.bucket.prefix + key} for key in keys]
            answer = self.bucket.call("delete_objects", Delete={"Objects": objects, "Quiet": True})
            errors = [entry for entry in answer.get("Errors", ()) if entry["Code"] != "NoSuchKey"]
            if not errors:
                return str(answer["ResponseMetadata"]["HTTPHeaders"].get("server", ""))
            keys = [entry["Key"][len(self.bucket.prefix) :] for entry in errors]
            busy = {entry["Code"] for entry in errors} <= _BUSY
            if not busy or attempt >= self.bucket.attempts:
                error = ClientError({"Error": errors[0]}, "")
                raise self.bucket.failed(error, "delete_objects", keys[0])
            time.sleep(0.1 * attempt)


def _above(key: str) -> Iterator[str]:
    """Iterate the folders that a key is in, the deepest first."""
    while folder := key.rpartition("/")[0]:
        yield f"{folder}/"
        key = folder


def _described(key: str, entry: dict[str, Any]) -> BlobInfo:
    return BlobInfo(key, entry["Size"], entry["LastModified"].timestamp(), etag_of(entry))


def _is_blob(key: str) -> bool:
    """Return whether a key is of a blob: not of a folder, nor of a temporary object."""
    return bool(key) and not key.endswith("/") and f"/{TEMPORARY}" not in f"/{key}"
