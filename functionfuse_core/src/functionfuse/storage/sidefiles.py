"""Files and folders beside results: their names, their digests, and what belongs to a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, Any

from xxhash import xxh3_128, xxh3_128_hexdigest

from ..errors import DamagedResultError, OptionsError, ResultNotFoundError
from .blobstore import BlobStore
from .header import IN_PIECES, SideData
from .keys import LONGEST, SIDE_DATA, segment_of

__all__ = ["SafeFiles", "check_side_data", "measured", "side_keys"]

BLOCK = 1 << 20  # bytes that are read at once to check a digest
PIECES = ".pieces"


class SafeFiles:
    """A file protocol whose file names can be any text, and which remembers what was written.

    Attributes:
        written: of each file, and of each folder (its name ends in "/"): size and digest, or None
            where they are still to be measured.
    """

    def __init__(self, files: Any) -> None:
        self.files = files
        self.written: dict[str, tuple[int, str] | None] = {}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file beside the result, as the builtin `open` does.

        Where the file is a plain local one, the opened file's `name` is its path.
        """
        name = segment_of(filename)
        if mode.strip("bt") != "r":
            self.written[name] = None
        file: IO[Any] = self.files.open(name, mode)
        return file

    def remove(self, filename: str) -> None:
        """Remove a file beside the result; a folder must be gone already."""
        name = segment_of(filename)
        self.files.remove(name)
        self.written.pop(name, None)
        self.written.pop(f"{name}/", None)

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder beside the result; "w" makes it.

        Raises:
            OptionsError: this storage does not keep side data in plain local files.
        """
        name = segment_of(filename)
        if not hasattr(self.files, "folder"):
            raise OptionsError(
                f"{self.files!r} can't keep a folder beside a result: it has no plain local files"
            )
        if mode == "w":
            self.written[f"{name}/"] = None
        path: str = self.files.folder(name, mode)
        return path

    def claim(self, filename: str) -> None:
        """Say that a folder beside the result is written by other means, before it is.

        So it is removed when the save fails, and with the result.
        """
        self.written[f"{segment_of(filename)}/"] = None

    def digested(self, filename: str, pieces: Iterable[tuple[int, int, str]]) -> None:
        """Take over the digests of a file that `open` has made, so that it isn't read for them.

        Args:
            pieces: first byte, size and XXH3-128 digest; one after the other, they are the file.
        """
        name, size, lines = segment_of(filename), 0, []
        for start, length, digest in sorted(pieces):
            if start != size:
                raise ValueError(f"no piece of {filename!r} begins at byte {size}")
            if not length:
                continue
            size += length
            lines.append(f"{start} {length} {digest}\n")
        beside = name + PIECES
        if len(beside) <= LONGEST:
            self.written[beside] = None
            with self.files.open(beside, "wb") as file:
                file.write("".join(lines).encode())
            self.written[name] = size, IN_PIECES

    def digested_folder(self, filename: str, files: Mapping[str, tuple[int, str]]) -> None:
        """Take over the sizes and digests of all files in a folder, by their names in it."""
        self.written[f"{segment_of(filename)}/"] = _of_folder(files)


def measured(store: BlobStore, key: str) -> tuple[int, str]:
    """Return size and digest of a file, or of a folder's files; reads them in blocks.

    Raises:
        ResultNotFoundError: there is no such file, or nothing in the folder.
    """
    if key.endswith("/"):
        keys = [blob.key for blob in store.list(key)]
        if not keys:
            raise ResultNotFoundError(f"nothing is in folder {key!r} of {store!r}")
        return _of_folder({name[len(key) :]: measured(store, name) for name in keys})
    size, digest = 0, xxh3_128()
    for block in store.blocks(key, BLOCK):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def check_side_data(store: BlobStore, folder: str, side_data: Iterable[SideData]) -> int:
    """Check the digests of all side data of a result, and return its size in bytes.

    Raises:
        DamagedResultError: a file is missing, or it is not what was written.
    """
    size = 0
    for side in side_data:
        for name, length, digest in side.files:
            where = f"side data {name!r} of serializer {side.serializer!r}"
            key = f"{folder}{SIDE_DATA}{name}"
            try:
                if digest == IN_PIECES:
                    sound = _pieces_are_sound(store, key, length)
                else:
                    sound = measured(store, key) == (length, digest)
            except ResultNotFoundError:
                raise DamagedResultError(f"{where} is missing") from None
            if not sound:
                raise DamagedResultError(f"{where} is not what was written")
            size += length
    return size


def side_keys(store: BlobStore, folder: str, names: Iterable[str]) -> list[str]:
    """Return the keys of side data by its names in the header; those in folders are listed."""
    keys = []
    for name in names:
        key = f"{folder}{SIDE_DATA}{name}"
        if name.endswith("/"):
            keys += [blob.key for blob in store.list(key)]
        keys.append(key)
    return keys


def _pieces_are_sound(store: BlobStore, key: str, size: int) -> bool:
    """Compare a file with the digests of its pieces, which are a file of their own."""
    lines = bytes(store.get(key + PIECES)).decode("ascii", "replace").splitlines()
    try:
        table = [
            (int(start), int(length), digest) for start, length, digest in map(str.split, lines)
        ]
    except ValueError:
        return False
    ends = iter([(start + length, digest) for start, length, digest in table])
    end, expected = next(ends, (0, ""))
    position, digest = 0, xxh3_128()
    for block in store.blocks(key, BLOCK):
        view = memoryview(block)
        while view:
            part = view[: end - position]
            if not part:
                return False  # there is more than the pieces tell
            digest.update(part)
            position, view = position + len(part), view[len(part) :]
            if position == end:
                if digest.hexdigest() != expected:
                    return False
                digest.reset()
                end, expected = next(ends, (end, ""))
    return position == end == size and next(ends, None) is None


def _of_folder(files: Mapping[str, tuple[int, str]]) -> tuple[int, str]:
    lines = [f"{name} {size} {digest}\n" for name, (size, digest) in sorted(files.items())]
    return sum(size for size, _ in files.values()), xxh3_128_hexdigest("".join(lines).encode())
