"""Check side data: read its files in blocks, and compare their digests with those in the header."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from xxhash import xxh3_128, xxh3_128_hexdigest

from ..errors import DamagedResultError, ResultNotFoundError
from .blobstore import BlobInfo, BlobStore, Buffer
from .header import IN_PIECES, SideData
from .keys import SIDE_DATA

__all__ = ["BLOCK", "PIECES", "Blocks", "check_side_data", "measured", "of_folder"]

BLOCK = 1 << 20  # bytes that one read takes to check a digest
PIECES = ".pieces"

Measured = tuple[int, str]  # size in bytes, and digest


class Blocks:
    """The blobs of a store, in blocks, for those who check them: each block passes once."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def each(
        self, function: Callable[[BlobInfo], Measured], blobs: Sequence[BlobInfo]
    ) -> Iterable[Measured]:
        """Call a function for each of many blobs."""
        return map(function, blobs)

    def through(self, key: str, size: int, update: Callable[[Buffer], object]) -> None:
        """Give all blocks of a blob to a function, in order. Raises as `BlobStore.get`.

        Args:
            size: the size that the blob should have, in bytes.
        """
        del size
        for block in self.store.blocks(key, BLOCK):
            update(block)


def measured(blocks: Blocks, key: str, size: int = 0) -> Measured:
    """Return the size and digest of a file, or of a folder's files.

    Args:
        size: the size that a file should have.

    Raises:
        ResultNotFoundError: there is no such file, or the folder is empty.
    """
    if key.endswith("/"):
        blobs = list(blocks.store.list(key))
        if not blobs:
            raise ResultNotFoundError(f"nothing is in folder {key!r} of {blocks.store!r}")
        found = blocks.each(lambda blob: measured(blocks, blob.key, blob.size), blobs)
        names = [blob.key[len(key) :] for blob in blobs]
        return of_folder(dict(zip(names, found, strict=True)))
    counted, digest = 0, xxh3_128()

    def update(block: Buffer) -> None:
        nonlocal counted
        digest.update(block)
        counted += len(block)

    blocks.through(key, size, update)
    return counted, digest.hexdigest()


def check_side_data(blocks: Blocks, folder: str, side_data: Iterable[SideData]) -> int:
    """Check the digests of all side data of a result, and return its size in bytes.

    Raises:
        DamagedResultError: a file is missing, or has changed.
    """
    size = 0
    for side in side_data:
        for name, length, digest in side.files:
            where = f"side data {name!r} of serializer {side.serializer!r}"
            key = f"{folder}{SIDE_DATA}{name}"
            try:
                if digest == IN_PIECES:
                    sound = _pieces_are_sound(blocks, key, length)
                else:
                    sound = measured(blocks, key, length) == (length, digest)
            except ResultNotFoundError:
                raise DamagedResultError(f"{where} is missing") from None
            except DamagedResultError:
                sound = False  # of another size, or under another key
            if not sound:
                raise DamagedResultError(f"{where} is not what was written")
            size += length
    return size


def _pieces_are_sound(blocks: Blocks, key: str, size: int) -> bool:
    """Compare a file with the digests of its pieces, which are in a second file."""
    lines = bytes(blocks.store.get(key + PIECES)).decode("ascii", "replace").splitlines()
    try:
        table = [
            (int(start), int(length), digest) for start, length, digest in map(str.split, lines)
        ]
        readable = True
    except ValueError:
        table, readable = [], False
    ends = iter([(start + length, digest) for start, length, digest in table])
    end, expected = next(ends, (0, ""))
    position, sound, digest = 0, readable, xxh3_128()

    def update(block: Buffer) -> None:
        nonlocal end, expected, position, sound
        view = memoryview(block)
        while view:
            part = view[: max(0, end - position)]
            if not part:
                sound = False  # the file is longer than its pieces
                return
            digest.update(part)
            position, view = position + len(part), view[len(part) :]
            if position == end:
                sound = sound and digest.hexdigest() == expected
                digest.reset()
                end, expected = next(ends, (end, ""))

    blocks.through(key, size, update)
    return sound and position == end == size and next(ends, None) is None


def of_folder(files: Mapping[str, Measured]) -> Measured:
    """Return the size and digest of a folder, by those of its files."""
    lines = [f"{name} {size} {digest}\n" for name, (size, digest) in sorted(files.items())]
    return sum(size for size, _ in files.values()), xxh3_128_hexdigest("".join(lines).encode())
