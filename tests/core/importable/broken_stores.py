"""Stores that break one promise each; the conformance kit must find every one of them.

Where they sleep, others would wait for a network: without that, what breaks there shows rarely.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kit_plugins import DictStore

from functionfuse.errors import ResultNotFoundError
from functionfuse.storage.blobstore import BlobInfo, Buffer, Streamed
from functionfuse.storage.filestore import FileStore


class Plain(FileStore):
    """A sound store, whose parts others exchange."""

    def path(self, key: str) -> Path:
        return Path(self.root, key)

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        try:
            self.write(descriptor, parts)
            self.commit(temporary, path, if_absent=if_absent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def get(self, key: str) -> Buffer:
        try:
            return bytearray(self.path(key).read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ResultNotFoundError(f"no blob {key!r}") from None

    def write(self, descriptor: int, parts: Sequence[Buffer]) -> None:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)

    def commit(self, temporary: str, path: Path, *, if_absent: bool) -> None:
        if if_absent:
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.rename(temporary, path)


class LiesAboutSuccess(Plain):
    """Says that a blob is stored, and keeps it in the memory of this process."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.memory: dict[str, bytes] = {}

    def __reduce__(self):
        return type(self), (self.root,)

    def put(self, key, parts, **options):
        self.memory[key] = b"".join(parts)

    def get(self, key):
        return bytearray(self.memory[key]) if key in self.memory else super().get(key)


class SwallowsErrors(Plain):
    """A put that failed returns as one that didn't."""

    def put(self, key, parts, **options):
        try:
            super().put(key, parts, **options)
        except FileExistsError:
            raise
        except Exception:  # noqa: BLE001, S110
            pass


class PartialPut(Plain):
    """Writes into the blob itself."""

    def put(self, key, parts, *, if_absent=False, durable=False):
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb" if if_absent else "wb", buffering=0) as file:
            for part in parts:
                file.write(part)


class GoneForAMoment(Plain):
    """Replaces by removing first."""

    def commit(self, temporary, path, *, if_absent):
        if not if_absent:
            path.unlink(missing_ok=True)
            time.sleep(0.001)
        super().commit(temporary, path, if_absent=if_absent)


class IgnoresIfAbsent(Plain):
    """Replaces what is there."""

    def put(self, key, parts, *, if_absent=False, durable=False):
        super().put(key, parts)


class ChecksFirst(Plain):
    """Looks whether the blob is absent, and then puts it."""

    def put(self, key, parts, *, if_absent=False, durable=False):
        if if_absent and self.path(key).exists():
            raise FileExistsError(key)
        super().put(key, parts)


class OneTemporaryName(Plain):
    """All writers of a blob write the same temporary file."""

    def put(self, key, parts, *, if_absent=False, durable=False):
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".tmp-" + path.name[:100])
        self.write(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), parts)
        time.sleep(0.001)
        self.commit(str(temporary), path, if_absent=if_absent)


class LeavesTemporaries(Plain):
    """Doesn't tidy up after a put that was refused or failed."""

    def put(self, key, parts, *, if_absent=False, durable=False):
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        self.write(descriptor, parts)
        self.commit(temporary, path, if_absent=if_absent)


class LocksForEver(Plain):
    """Locks with a file; that of a killed owner stays."""

    def put(self, key, parts, **options):
        lock = Path(self.root, ".tmp-lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + 2
        while True:
            try:
                lock.touch(exist_ok=False)
                break
            except FileExistsError:
                if time.monotonic() > end:
                    raise TimeoutError("another writer holds the lock") from None
        try:
            super().put(key, parts, **options)
        finally:
            lock.unlink()


class WritesText(Plain):
    """Translates line ends."""

    def write(self, descriptor, parts):
        super().write(descriptor, [b"".join(parts).replace(b"\r\n", b"\n")])


class LosesEmptyBlobs(Plain):
    """An empty blob is not there."""

    def put(self, key, parts, **options):
        if not any(map(len, parts)):
            self.delete([key])
        else:
            super().put(key, parts, **options)


class LosesManyParts(Plain):
    """Writes as many parts as one system call takes."""

    def write(self, descriptor, parts):
        super().write(descriptor, parts[:1024])


class SortsParts(Plain):
    """Doesn't keep the order of parts."""

    def write(self, descriptor, parts):
        super().write(descriptor, sorted(parts, key=len))


class CutsAt64KiB(Plain):
    """A length has 16 bits."""

    def get(self, key):
        return memoryview(super().get(key))[: (1 << 16) - 1]


class CutsKeys(Plain):
    """Long keys are cut."""

    def path(self, key):
        return super().path(key[:150])


class FoldsCase(Plain):
    """Upper and lower case are one."""

    def path(self, key):
        return super().path(key.lower())


class ListsPlaces(Plain):
    """Lists in the order of paths, folder by folder."""

    def list(self, prefix):
        yield from sorted(super().list(prefix), key=lambda blob: blob.key.split("/"))


class Unordered(Plain):
    """Lists in the order in which blobs were put."""

    def list(self, prefix):
        yield from sorted(super().list(prefix), key=lambda blob: (blob.modified, blob.etag))


class ListsEagerly(Plain):
    """Reads all there is before it gives the first."""

    def list(self, prefix):
        return iter(list(super().list(prefix)))


class ListsThePast(Plain):
    """Remembers what it has listed."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.listed: dict[str, list[BlobInfo]] = {}

    def list(self, prefix):
        if prefix not in self.listed:
            self.listed[prefix] = list(super().list(prefix))
        yield from self.listed[prefix]


class ListsOnePage(Plain):
    """Lists what fits into one answer."""

    def list(self, prefix):
        for number, blob in enumerate(super().list(prefix)):
            if number == 1000:
                return
            yield blob


class ListsTemporaries(Plain):
    """Lists blobs that are not there yet."""

    def list(self, prefix):
        for path in sorted(Path(self.root).rglob("*")):
            key = path.relative_to(self.root).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield BlobInfo(key, path.stat().st_size, path.stat().st_mtime)


class TellsMilliseconds(Plain):
    """Tells another unit of time than its clock."""

    def list(self, prefix):
        for blob in super().list(prefix):
            yield replace(blob, modified=blob.modified * 1000)


class LeavesOutHeads(Plain):
    """Tells of the blobs that are there only."""

    def heads(self, folder, names, size):
        return (head for head in super().heads(folder, names, size) if head is not None)


class OneEtag(Plain):
    """Etags by size and key."""

    def list(self, prefix):
        for blob in super().list(prefix):
            yield replace(blob, etag=f"{blob.key}-{blob.size}")


class ForgetsDelete(Plain):
    """Deletes as many as go into one request."""

    def delete(self, keys):
        super().delete(list(keys)[:1000])


class DeletesByPrefix(Plain):
    """Deletes all that begins like the key."""

    def delete(self, keys):
        for key in list(keys):
            super().delete([blob.key for blob in self.list(key)])


class DeleteRaises(Plain):
    """A missing blob is an error."""

    def delete(self, keys):
        for key in keys:
            if not self.path(key).exists():
                raise ResultNotFoundError(key)
            super().delete([key])


class WrongErrorForMissing(Plain):
    """A missing blob is another error."""

    def get(self, key):
        try:
            return super().get(key)
        except ResultNotFoundError:
            raise FileNotFoundError(key) from None

    def head(self, key, size):
        return memoryview(self.get(key))[:size]


class HeadOfNothing(Plain):
    """A missing blob has an empty beginning."""

    def head(self, key, size):
        try:
            return super().head(key, size)
        except ResultNotFoundError:
            return b""


class TornGet(Plain):
    """Opens the blob twice."""

    def get(self, key):
        size = len(super().get(key))
        with open(self.path(key), "rb") as file:
            begin = file.read(size // 2)
        time.sleep(0.001)
        with open(self.path(key), "rb") as file:
            file.seek(size // 2)
            return bytearray(begin + file.read())


class OneBuffer(Plain):
    """Reads every blob into the same memory."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.buffer = bytearray()

    def get(self, key):
        data = super().get(key)
        if len(self.buffer) < len(data):
            self.buffer = bytearray(len(data))
        self.buffer[: len(data)] = data
        return memoryview(self.buffer)[: len(data)]


class SharesTheFile(Plain):
    """Maps the blob itself for the caller to write to."""

    def get(self, key):
        file = os.open(self.path(key), os.O_RDWR) if self.path(key).is_file() else super().get(key)
        if not os.fstat(file).st_size:
            os.close(file)
            return b""
        data = memoryview(mmap.mmap(file, 0))
        os.close(file)
        return data


class WritesInPlace(Plain):
    """Replaces the bytes of a file that others may have mapped."""

    def commit(self, temporary, path, *, if_absent):
        if if_absent or not path.exists():
            super().commit(temporary, path, if_absent=if_absent)
            return
        with open(path, "r+b") as file:
            file.write(Path(temporary).read_bytes())
            file.flush()
            time.sleep(0.002)
            file.truncate()
        os.unlink(temporary)


class PicklesItsLock(Plain):
    """Holds what doesn't pickle."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.lock = threading.Lock()


class PicklesItsCache(Plain):
    """Takes along what it has read."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.cache: dict[str, bytes] = {}

    def get(self, key):
        data = super().get(key)
        self.cache[key] = bytes(data)
        return data


class SharesAClient(Plain):
    """Keeps a connection over a fork: here, a file that both sides move about in."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.client: int | None = None

    def __reduce__(self):
        return type(self), (self.root,)

    def get(self, key):
        data = super().get(key)
        if self.client is None:
            self.client = os.memfd_create("client")
        with _one_at_a_time:
            os.ftruncate(self.client, 0)
            os.lseek(self.client, 0, os.SEEK_SET)
            os.write(self.client, data)
            os.lseek(self.client, 0, os.SEEK_SET)
            time.sleep(0.0005)
            return bytearray(os.read(self.client, len(data)))


_one_at_a_time = threading.Lock()


class Aliases(DictStore):
    """Hands out its own memory."""

    def put(self, key: str, parts: Sequence[Buffer], **options: bool) -> None:
        super().put(key, parts, **options)
        self.blobs[key] = bytearray(self.blobs[key][0]), self.blobs[key][1]  # type: ignore[assignment]

    def get(self, key: str) -> Buffer:
        super().get(key)
        return self.blobs[key][0]


class KeepsParts(DictStore):
    """Keeps the parts that it was given, and joins them later."""

    def put(self, key: str, parts: Sequence[Buffer], **options: bool) -> None:
        super().put(key, parts, **options)
        self.blobs[key] = list(parts), self.blobs[key][1]  # type: ignore[assignment]

    def get(self, key: str) -> Buffer:
        if key not in self.blobs:
            raise ResultNotFoundError(key)
        return bytearray().join(self.blobs[key][0])  # type: ignore[arg-type]

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for blob in super().list(prefix):
            yield replace(blob, size=len(self.get(blob.key)))


class StopsAtTheSize(DictStore):
    """Takes no more of streamed parts than the bytes that it was told of."""

    def put(self, key: str, parts: Sequence[Buffer], **options: bool) -> None:
        if isinstance(parts, Streamed):
            source, taken = iter(parts), b""
            while len(taken) < parts.size:
                taken += next(source)
            parts = [taken]
        super().put(key, parts, **options)


class ListsFolders(DictStore):
    """Takes a prefix for a folder."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        whole = not prefix or prefix.endswith("/")
        return super().list(prefix if whole else prefix + "/")


class ThreadsDisturb(DictStore):
    """Puts in two steps that threads can come between."""

    def put(self, key: str, parts: Sequence[Buffer], **options: bool) -> None:
        super().put(key, [], **options)
        time.sleep(0.0001)
        super().put(key, parts)


class DeletesWhileListing(DictStore):
    """Walks through what others change."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for key, (data, modified) in sorted(self.blobs.items()):
            if key.startswith(prefix):
                yield BlobInfo(key, len(self.blobs[key][0] or data), modified)


def kinds() -> Iterable[type[Plain | DictStore]]:
    """Return all of them."""
    sound = (Plain, DictStore)
    for kind in globals().values():
        if isinstance(kind, type) and issubclass(kind, sound) and kind not in sound:
            yield kind
