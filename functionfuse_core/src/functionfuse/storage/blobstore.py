"""The contract that a storage plugin implements: bytes in, bytes out, by key."""

from __future__ import annotations

import io
import mmap
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, overload

from xxhash import xxh3_128_hexdigest

from ..serializers import FILE_PROTOCOL

__all__ = ["BlobInfo", "BlobStore", "Buffer", "FirstPartLast", "StagedFiles"]


Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a listing tells of a blob.

    Attributes:
        key: the blob's key.
        size: in bytes.
        modified: when it was last put, in seconds since the epoch, on the store's clock.
        etag: differs whenever the bytes differ; "" where the store has none.
    """

    key: str
    size: int
    modified: float
    etag: str = ""


class FirstPartLast(Sequence[Buffer]):
    """Parts of a blob whose first part tells of the others, and is ready last.

    To take them in order is right, and waits at the first. A store that writes at offsets need not
    wait: `first_size` is known at once.

    Attributes:
        first_size: of the first part, in bytes.
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

    @overload
    def __getitem__(self, index: int) -> Buffer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Buffer]: ...
    def __getitem__(self, index: int | slice) -> Buffer | Sequence[Buffer]:
        return [self.first(), *self.rest][index]


class BlobStore(ABC):
    """Blobs under keys. Implement `put`, `get`, `list` and `delete`; the rest has defaults.

    A key is segments joined by "/"; a segment is ASCII letters, digits and `._-, =+@()%`, at most
    200 bytes, and never "." or "..". Keys come from `functionfuse.storage.keys`: a store never
    sees a name that a user chose. Segments that begin with a dot belong to Function Fuse, those
    that begin with ".tmp-" to the store itself: they are in no listing.

    A store is used by several threads at once, and pickles by its options: clients and connections
    are made on first use, once per process.

    Attributes:
        remote: whether each read is a request over a network. The listings of such a store give
            etags, and `put` returns one where it is known.
        concurrency: how many reads at once are worth it.
    """

    remote = False
    concurrency = 1

    @abstractmethod
    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> str | None:
        """Store the concatenation of `parts` under `key`, all or nothing.

        The parts are written one after the other; they are not joined first (see `FirstPartLast`
        for those whose first part can be written last). Parts that are no list and no tuple are
        iterated once: a store that can writes each before it takes the next. When this returns,
        every reader sees the new blob; until then, and if it raises or the process is killed, every
        reader sees the blob that was there before, whole, or none. Of two writers, one wins.

        Returns the etag that listings will give for this very blob, if the store is told it.

        Args:
            if_absent: leave a blob that is there as it is, and raise FileExistsError.
            durable: when this returns, the blob survives a loss of power.
        """

    @abstractmethod
    def get(self, key: str) -> Buffer:
        """Return the whole blob, as one contiguous, preferably writable, buffer of its own.

        Changing the buffer never changes the blob.

        Raises:
            ResultNotFoundError: there is no such blob. Never raised for another reason.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate the blobs whose keys begin with `prefix`, in the order of their keys."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs. A key without a blob is no error, so it can be done again.

        A key that ends in "/" is a folder that `prepare` made; it goes if nothing is in it.
        """

    def head(self, key: str, size: int) -> Buffer:
        """Return the first `size` bytes of a blob, or all of a shorter one. Raises as `get`."""
        return memoryview(self.get(key))[:size]

    def blocks(self, key: str, size: int) -> Iterator[Buffer]:
        """Iterate a blob from its beginning, in blocks of at most `size` bytes. Raises as `get`.

        A block may be overwritten by the next. Implement it where a big blob need not be held. The
        blocks are of one blob: where that is replaced meanwhile, StorageError may be raised.
        """
        view = memoryview(self.get(key))
        for start in range(0, len(view), size):
            yield view[start : start + size]

    def blobs(self, folder: str) -> Iterator[BlobInfo]:
        """Iterate the blobs directly in `folder`, as `list` does, and none that are deeper."""
        return (info for info in self.list(folder) if "/" not in info.key[len(folder) :])

    def names(self, folder: str) -> Iterator[str]:
        """Iterate what is directly in `folder` ("" or a key prefix that ends in "/"), in any order.

        A blob gives the rest of its key, without a "/"; several deeper blobs give the segment that
        they share once, with a "/" at its end.
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
        """Raise StoragePathError now if nothing could be put under `folder` later."""
        del folder

    def protocols(self, folder: str) -> dict[str, Any]:
        """Return what serializers are handed to keep data under `folder`, by protocol.

        `FILE_PROTOCOL` is always among them: an object with `open(filename, mode)` and
        `remove(filename)`. By default a file is staged locally and put when it is closed. A store
        of plain local files opens them: the `name` of an opened file is its path; and it has
        `folder(filename, mode="r")`, which returns the path of a folder, and makes it for "w".
        """
        return {FILE_PROTOCOL: StagedFiles(self, folder)}

    def flush(self, keys: Iterable[str]) -> None:
        """Have what `protocols` wrote under these keys survive a loss of power."""
        del keys

    def now(self) -> float:
        """Return the time, in seconds since the epoch, on the clock of `BlobInfo.modified`."""
        return time.time()

    def sweep(self, older_than: float, *, dry_run: bool = False) -> Iterator[BlobInfo]:
        """Remove what killed writers left inside the store, and iterate what it was.

        Args:
            older_than: in seconds, on the store's own clock; what is younger may be in use.
            dry_run: remove nothing.
        """
        del older_than, dry_run
        return iter(())


class StagedFiles:
    """The file protocol over `put` and `get`: a file is staged locally, and put when it is closed.

    Args:
        folder: the key prefix of the files; it ends in "/". File names are key segments.

    Attributes:
        digests: size and XXH3-128 digest of each file that was put.
    """

    def __init__(self, store: BlobStore, folder: str) -> None:
        self.store = store
        self.prefix = folder
        self.digests: dict[str, tuple[int, str]] = {}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file, as the builtin `open` does, for reading or for writing anew.

        Raises:
            ResultNotFoundError: there is no such file to read.
            ValueError: the mode is for appending or updating.
        """
        key = self.prefix + filename
        if mode.replace("t", "b") in ("r", "rb"):
            file: IO[bytes] = io.BytesIO(self.store.get(key))
        elif mode.replace("t", "b") in ("w", "wb", "x", "xb", "w+b", "wb+"):
            self.digests.pop(filename, None)
            file = _Staged(self, filename)
        else:
            raise ValueError(f"files beside results are read, or written anew, not {mode!r}")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def remove(self, filename: str) -> None:
        """Remove a file; one that isn't there is no error."""
        self.store.delete([self.prefix + filename])


class _Staged(io.BufferedRandom):
    """A local temporary file that becomes a blob when it is closed without an error."""

    def __init__(self, files: StagedFiles, filename: str) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by close
        super().__init__(self._file)
        self._files, self._filename = files, filename

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
            self._files.store.put(self._files.prefix + self._filename, [memoryview(data)])
            self._files.digests[self._filename] = size, xxh3_128_hexdigest(data)
        finally:
            super().close()
