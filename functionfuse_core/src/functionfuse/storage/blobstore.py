"""The contract that a storage plugin implements: bytes in, bytes out, by key."""

from __future__ import annotations

import io
import mmap
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from xxhash import xxh3_128_digest

from ..errors import DamagedResultError, ResultNotFoundError
from ..serializers import FILE_PROTOCOL
from ..serializers.refused import Private

__all__ = [
    "BlobInfo",
    "BlobStore",
    "Buffer",
    "FirstPartLast",
    "StagedFiles",
    "Streamed",
    "at_once",
    "has_uuid",
    "in_threads",
    "name_is_taken",
]

_PORTION = 1024  # calls

Buffer = bytes | bytearray | memoryview
has_uuid = re.compile("[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}").search
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """The entry of a blob in a listing.

    Attributes:
        key: the blob's key.
        size: in bytes.
        modified: the time of its last put, in seconds since the epoch, on the store's clock.
        etag: differs whenever the bytes differ; "" if the store has none.
    """

    key: str
    size: int
    modified: float
    etag: str = ""


class FirstPartLast(Sequence[Buffer]):
    """Parts of a blob whose first part depends on the others, and is ready last.

    A store may take the parts in order, and then waits for the first. A store that writes at
    offsets need not wait: `first_size` is known from the start.

    Attributes:
        first_size: the size of the first part, in bytes.
        rest: the other parts.
    """

    def __init__(self, first_size: int, rest: Sequence[Buffer]) -> None:
        self.first_size = first_size
        self.rest = rest

    @abstractmethod
    def first(self) -> bytes:
        """Return the first part, once it is ready."""

    def __len__(self) -> int:
        return 1 + len(self.rest)

    def __iter__(self) -> Iterator[Buffer]:
        yield self.first()
        yield from self.rest

    def __getitem__(self, index: Any) -> Any:
        return [*self][index]


class Streamed(Sequence[Buffer]):
    """Parts of a blob that are made one after the other, and are iterated once.

    A store need not have all of them in memory. Each part stays as it is. After the last one, or
    instead of it, an error can be raised: then nothing must be stored. Parts of another size than
    was said raise DamagedResultError.

    Attributes:
        size: of the blob, in bytes.
    """

    def __init__(self, size: int, parts: Iterable[Buffer]) -> None:
        self.size = size
        self._parts = parts

    def __iter__(self) -> Iterator[Buffer]:
        size = 0
        for part in self._parts:
            size += len(part)
            if size <= self.size:
                yield part
        if size != self.size:
            raise DamagedResultError(f"the blob has {size} bytes and not {self.size}")

    def __len__(self) -> int:
        raise TypeError("streamed parts are counted when they are iterated")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("streamed parts come one after the other")


class BlobStore(Private, ABC):
    """Blobs under keys. Implement `put`, `get`, `list` and `delete`; the rest has defaults.

    A key is one or more segments, joined by "/". A segment has ASCII letters, digits and
    `._-, =+@()%`, at most 200 bytes, and is never "." or "..". Keys come from
    `functionfuse.storage.keys`, so a store never sees a name that a user chose. Segments that
    begin with a dot belong to Function Fuse. Those that begin with ".tmp-" belong to the store
    itself, and are in no listing.

    Several threads use a store at once. A pickle of it has its options only: it makes clients and
    connections on first use, once per process.

    Attributes:
        remote: whether each read is a request over a network.
        concurrency: the useful number of reads at once.
    """

    remote = False
    concurrency = 1

    @abstractmethod
    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store the concatenation of `parts` under `key`, all or nothing.

        The parts are written one after the other, and are not joined first. (For a first part that
        can be written last, see `FirstPartLast`.) Parts that are neither list nor tuple are
        iterated once, to their end: write each before you take the next, if the store can. See
        `Streamed`.

        When this returns, every reader sees the new blob. Until then, and if it raises or the
        process is killed, every reader sees the earlier blob, whole, or none. Of two writers, one
        wins.

        Args:
            if_absent: leave an existing blob as it is, and raise FileExistsError.
            durable: when this returns, the blob survives a loss of power.
        """

    @abstractmethod
    def get(self, key: str) -> Buffer:
        """Return the whole blob as one contiguous buffer of its own, preferably writable.

        Changing the buffer never changes the blob.

        Raises:
            ResultNotFoundError: there is no such blob. Never raised for another reason.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate over the blobs whose keys begin with `prefix`, in the order of their keys."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs. A key without a blob is no error, so a call can be repeated.

        A key that ends in "/" is a folder that `prepare` made; it is removed if it is empty.
        """

    def copy(self, key: str, to: str) -> None:
        """Store a blob's bytes under `to`, too; replace an earlier blob there, all or nothing.

        The entry of the copy in a listing has the time of the copying. Blobs never change, so both
        keys may share the bytes; put and delete of one key leave the other as it is. Nothing
        happens to a copy onto itself. By default the blob is read, and put again.

        Raises:
            ResultNotFoundError: there is no such blob.
        """
        if key != to:
            self.put(to, [self.get(key)])

    def head(self, key: str, size: int) -> Buffer:
        """Return the first `size` bytes of a blob, or all of a shorter one. Raises as `get`."""
        return memoryview(self.get(key))[:size]

    def heads(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        """Iterate over the beginnings of blobs directly in `folder`, in order, for a plan.

        An item has `size` bytes, or more, or all of a shorter blob; it is None for a missing blob.
        By default each is read by `head`, `concurrency` at once.
        """

        def head(name: str) -> Buffer | None:
            try:
                return self.head(folder + name, size)
            except ResultNotFoundError:
                return None

        return at_once(self, head, names)

    def finish(self, folder: str) -> None:
        """Store whatever helps later `heads` of a folder, after a run; raise no error of a store.

        By default nothing.
        """
        del folder

    def blocks(self, key: str, size: int) -> Iterator[Buffer]:
        """Iterate over a blob from its start in blocks of at most `size` bytes. Raises as `get`.

        The next block may overwrite a block. Implement it if the store need not hold a big blob in
        memory. All blocks are of one blob: if it is replaced meanwhile, StorageError may be raised.
        """
        view = memoryview(self.get(key))
        for start in range(0, len(view), size):
            yield view[start : start + size]

    def names(self, folder: str) -> Iterator[str]:
        """Iterate over the names directly in `folder`, in any order, each once.

        The name of a blob is the rest of its key, without a "/". The name of a subfolder is its
        segment, with a "/" at its end.

        Args:
            folder: "", or a key prefix that ends in "/".
        """
        seen = ""
        for info in self.list(folder):
            name, slash, _ = info.key[len(folder) :].partition("/")
            if not slash:
                yield name
            elif seen != name:
                seen = name
                yield f"{name}/"

    def prepare(self, folder: str) -> None:
        """Check that blobs can be put under `folder` later; raise an OSError if not.

        A run calls this before it computes anything, so name the option or the right that helps.
        Where a request is slow, check once for each process and place, with the blob `keys.PROBE`.
        """
        del folder

    def protocols(self, folder: str) -> dict[str, Any]:
        """Return the protocols by which serializers store data under `folder`.

        `FILE_PROTOCOL` is always among them: an object with `open(filename, mode)` and
        `remove(filename)`. By default a file is staged locally, and put when it is closed. A store
        of plain local files opens them directly: the `name` of an opened file is its path. Its
        object also has `folder(filename, mode="r")`: it returns the path of a folder, and makes it
        for "w". Another protocol that opens files has `use_files(files)`; see `SafeFiles.offer`.
        """
        return {FILE_PROTOCOL: StagedFiles(self, folder)}

    def flush(self, keys: Iterable[str]) -> None:
        """Make data that `protocols` wrote under these keys survive a loss of power."""
        del keys

    def now(self) -> float:
        """Return the time, in seconds since the epoch, on the clock of `BlobInfo.modified`."""
        return time.time()

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Remove the leftovers of killed writers from the store, and iterate over them.

        Others may use the same place. Remove only what has a name that nobody else gives, or is in
        a workflow's folder: one with the blob `keys.MARKER`.

        Args:
            older_than: in seconds, on the store's own clock; a younger blob may be in use.
            dry_run: remove nothing.
        """
        del older_than, dry_run
        return iter(())


def at_once(
    store: BlobStore, function: Callable[[Item], Found], items: Sequence[Item]
) -> Iterator[Found]:
    """Return what a function returns for each item; if a read is a request, many run at once."""
    workers = min(store.concurrency, len(items))
    if workers <= 1:
        return map(function, items)
    return in_threads(workers, function, items)


def in_threads(
    workers: int, function: Callable[[Item], Found], items: Sequence[Item]
) -> Iterator[Found]:
    """Return what a function returns for each item, in order; the calls run in threads.

    The calls are made in portions: one that waits takes much more memory than its item.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="functionfuse") as pool:
        for start in range(0, len(items), _PORTION):
            yield from pool.map(function, items[start : start + _PORTION])


def name_is_taken(name: str) -> FileExistsError:
    """Return the error for a file of a serializer, if another object's file has the name."""
    return FileExistsError(f"the file name {name!r} is taken: use generate_name() for each file")


class StagedFiles:
    """The file protocol over `put` and `get`: a file is staged locally, and put when it is closed.

    Args:
        folder: the key prefix of the files; it ends in "/". File names are key segments.

    Attributes:
        digest: returns the digest of bytes: XXH3-128; SHA-256 for a result that is signed.
        digests: size and digest of each file that was put, in hexadecimal digits.
        others: names of files that are not put yet, or never: others may have files of these names.
    """

    def __init__(self, store: BlobStore, folder: str) -> None:
        self.store = store
        self.prefix = folder
        self.digest: Callable[[Any], bytes] = xxh3_128_digest
        self.digests: dict[str, tuple[int, str]] = {}
        self.others: set[str] = set()

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file for reading or for writing a new one, as the builtin `open` does.

        With mode "x", closing it raises FileExistsError if there is such a file. A name with a
        UUID, such as those of `generate_name`, is not looked for.

        Raises:
            ResultNotFoundError: there is no such file to read.
            ValueError: the mode is for appending or updating.
        """
        key = self.prefix + filename
        if mode.replace("t", "b") in ("r", "rb"):
            file: IO[bytes] = io.BytesIO(self.store.get(key))
        elif "".join(sorted(mode.replace("t", ""))) in ("w", "bw", "x", "bx", "+bw", "+bx"):
            self.digests.pop(filename, None)
            new = "x" in mode and not has_uuid(filename)
            if new:
                self.others.add(filename)
            file = _Staged(self, filename, new=new)
        else:
            raise ValueError(f"files beside results are read, or written anew, not {mode!r}")
        return file if "b" in mode else _Text(file, encoding="utf-8")

    def remove(self, filename: str) -> None:
        """Remove a file; a missing one is no error."""
        self.store.delete([self.prefix + filename])


class _Staged(io.BufferedRandom):
    """A local temporary file that becomes a blob when it is closed without an error."""

    def __init__(self, files: StagedFiles, filename: str, *, new: bool) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by close
        super().__init__(self._file)
        self._files, self._filename, self._new = files, filename, new

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            super().close()
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.flush()
        size = self.seek(0, io.SEEK_END)
        try:
            data = mmap.mmap(self.fileno(), size, access=mmap.ACCESS_READ) if size else b""
            key = self._files.prefix + self._filename
            self._files.store.put(key, [memoryview(data)], if_absent=self._new)
            self._files.digests[self._filename] = size, self._files.digest(data).hex()
            self._files.others.discard(self._filename)
        except FileExistsError:
            raise name_is_taken(self._filename) from None
        finally:
            super().close()


class _Text(io.TextIOWrapper):
    """Text in a file that an error closes without storing it; `TextIOWrapper` would store half."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.buffer.__exit__(kind, *rest)  # type: ignore[attr-defined]
        self.close()
