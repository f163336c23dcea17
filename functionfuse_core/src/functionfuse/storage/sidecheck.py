"""Check side data: read its files in blocks, and compare their digests with those in the header."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..errors import DamagedResultError, ResultNotFoundError
from .blobstore import BlobInfo, BlobStore, Buffer
from .disk import BIG, own_memory, owned
from .header import IN_PIECES, SideData, is_strong
from .keys import SIDE_DATA
from .signing import hasher

__all__ = [
    "BLOCK",
    "PIECES",
    "Blocks",
    "Check",
    "check_file",
    "check_side_data",
    "filled",
    "get_at_most",
    "measured",
    "of_folder",
    "strengthened_files",
]

BLOCK = 1 << 20  # bytes that one read takes to check a digest
PIECES = ".pieces"

Measured = tuple[int, str]  # size in bytes, and digest


class Check(NamedTuple):
    """The check of one blob, whose blocks pass.

    Attributes:
        update: takes each block.
        ended: called after the last block; raises an error if the blob is not sound.
    """

    update: Callable[[Buffer], object]
    ended: Callable[[], object]


class Blocks:
    """The blobs of a store, in blocks, for those who check them: each block passes once.

    Args:
        signs: whether sizes and SHA-256 digests of blobs are kept for `strengthened_files`. They
            are of the same blocks whose other digests are checked: a blob that is read a second
            time can have been replaced.
    """

    def __init__(self, store: BlobStore, *, signs: bool = False) -> None:
        self.store = store
        self.strong: dict[str, Measured] | None = {} if signs else None

    def each(
        self, function: Callable[[BlobInfo], Measured], blobs: Sequence[BlobInfo]
    ) -> Iterable[Measured]:
        """Call a function for each of many blobs."""
        return map(function, blobs)

    def inside(self, folder: str) -> list[BlobInfo]:
        """Return the blobs in a folder."""
        return list(self.store.list(folder))

    def through(self, key: str, size: int, check: Check) -> None:
        """Let all blocks of a blob pass, in order. Raises as `BlobStore.get`.

        Args:
            size: the size that the blob should have, in bytes.
        """
        del size
        for block in self.store.blocks(key, BLOCK):
            check.update(block)
        check.ended()


def measured(
    blocks: Blocks, key: str, size: int = 0, expected: str = "", *, strong: bool = False
) -> Measured:
    """Return the size and digest of a file, or of a folder's files.

    Args:
        size, expected: the size and the digest that a file should have; "" if it is unknown.
        strong: whether the digest is of SHA-256, if `expected` doesn't tell.

    Raises:
        ResultNotFoundError: there is no such file, or the folder is empty.
        DamagedResultError: a file has not the expected digest.
    """
    if key.endswith("/"):
        blobs = blocks.inside(key)
        if not blobs:
            raise ResultNotFoundError(f"nothing is in folder {key!r} of {blocks.store!r}")
        strong = is_strong(expected) if expected else strong
        if expected and sum(blob.size for blob in blobs) != size:
            raise DamagedResultError(f"{key!r} has other sizes than what was written")

        def each(blob: BlobInfo) -> Measured:
            return measured(blocks, blob.key, blob.size, strong=strong)

        found = blocks.each(each, blobs)
        names = [blob.key[len(key) :] for blob in blobs]
        return of_folder(dict(zip(names, found, strict=True)), strong=strong)
    counted, digest = 0, hasher(strong=is_strong(expected) if expected else strong)

    def update(block: Buffer) -> None:
        nonlocal counted
        digest.update(block)
        counted += len(block)
        if expected and counted > size:  # it can be longer than any disk: a file with holes
            raise DamagedResultError(f"{key!r} has more than {size} bytes")

    def ended() -> None:
        if expected and digest.hexdigest() != expected:
            raise DamagedResultError(f"{key!r} is not what was written")

    _pass(blocks, key, size, Check(update, ended))
    return counted, digest.hexdigest()


def _pass(blocks: Blocks, key: str, size: int, check: Check) -> None:
    """Let a blob pass, and keep the SHA-256 of the blocks that passed; see `Blocks`."""
    if blocks.strong is None:
        blocks.through(key, size, check)
        return
    counted, digest = 0, hasher(strong=True)

    def both(block: Buffer) -> None:
        nonlocal counted
        counted += len(block)
        digest.update(block)
        check.update(block)

    blocks.through(key, size, check._replace(update=both))
    blocks.strong[key] = counted, digest.hexdigest()


def get_at_most(store: BlobStore, key: str, size: int) -> Buffer:
    """Return a blob of a known size in memory of our own. Raises as `BlobStore.get`.

    A file with holes can be longer than any memory, and takes no space. So no more is read than the
    size says. From a remote store all is read: there, bytes take space, and requests take time.

    Raises DamagedResultError if the blob has another size.
    """
    return owned(store.get(key)) if store.remote else filled(store.blocks(key, BLOCK), size)


def filled(blocks: Iterable[Buffer], size: int) -> Buffer:
    """Return blocks that have a size together; raise DamagedResultError if they have another."""
    data: Any = own_memory(size) if size >= BIG else bytearray(size)
    position = 0
    for block in blocks:
        end = position + len(block)
        if end > size:
            raise DamagedResultError(f"the blob has more than {size} bytes")
        data[position:end] = block
        position = end
    if position < size:
        raise DamagedResultError(f"the blob has {position} bytes and not {size}")
    return cast("Buffer", data)


def strengthened_files(
    blocks: Blocks, folder: str, side_data: Iterable[SideData]
) -> list[SideData]:
    """Return checked side data with the SHA-256 digests of the bytes that passed the check."""
    passed = blocks.strong
    assert passed is not None

    def strong(key: str) -> Measured:
        if not key.endswith("/"):
            return passed[key]
        inside = {name[len(key) :]: each for name, each in passed.items() if name.startswith(key)}
        return of_folder(inside, strong=True)

    where = folder + SIDE_DATA
    return [
        side._replace(files=tuple((name, *strong(where + name)) for name, *_ in side.files))
        for side in side_data
    ]


def check_side_data(blocks: Blocks, folder: str, side_data: Iterable[SideData]) -> int:
    """Check the digests of all side data of a result, and return its size in bytes.

    Raises:
        DamagedResultError: a file is missing, or has changed.
    """
    return sum(
        check_file(blocks, folder, side, name) for side in side_data for name, *_ in side.files
    )


def check_file(blocks: Blocks, folder: str, side: SideData, name: str) -> int:
    """Check the digest of one file or folder among side data, and return its size in bytes.

    Raises DamagedResultError as `check_side_data`.
    """
    listed = {file: (length, digest) for file, length, digest in side.files}
    length, digest = listed[name]
    where = f"side data {name!r} of serializer {side.serializer!r}"
    key = f"{folder}{SIDE_DATA}{name}"
    try:
        if digest == IN_PIECES:
            _check_pieces(blocks, key, length, listed.get(name + PIECES, (0, "")))
            return length
        sound = measured(blocks, key, length, digest) == (length, digest)
    except ResultNotFoundError:
        raise DamagedResultError(f"{where} is missing") from None
    except DamagedResultError:
        sound = False  # of other bytes, or under another key
    if not sound:
        raise DamagedResultError(f"{where} is not what was written")
    return length


def _check_pieces(blocks: Blocks, key: str, size: int, expected_table: Measured) -> None:
    """Compare a file with the digests of its pieces, which are in a second file.

    Args:
        expected_table: the size and the digest of the second file.

    Raises:
        ResultNotFoundError: one of the files is missing.
        DamagedResultError: they differ.
    """
    strong, table_size = is_strong(expected_table[1]), expected_table[0]
    data = bytes(get_at_most(blocks.store, key + PIECES, table_size))
    whole = hasher(strong=strong)
    whole.update(data)
    if whole.hexdigest() != expected_table[1]:
        raise DamagedResultError(f"{key + PIECES!r} is not what was written")
    lines = data.decode("ascii", "replace").splitlines()
    try:
        table = [
            (int(start), int(length), digest) for start, length, digest in map(str.split, lines)
        ]
        readable = True
    except ValueError:
        table, readable = [], False
    ends = iter([(start + length, digest) for start, length, digest in table])
    end, expected = next(ends, (0, ""))
    position, sound, digest = 0, readable, hasher(strong=strong)

    def update(block: Buffer) -> None:
        nonlocal digest, end, expected, position, sound
        view = memoryview(block)
        while view:
            part = view[: max(0, end - position)]
            if not part:
                raise DamagedResultError(f"{key!r} is longer than its pieces")
            digest.update(part)
            position, view = position + len(part), view[len(part) :]
            if position == end:
                sound = sound and digest.hexdigest() == expected
                digest = hasher(strong=strong)
                end, expected = next(ends, (end, ""))

    def ended() -> None:
        if not (sound and position == end == size and next(ends, None) is None):
            raise DamagedResultError(f"{key!r} is not what was written")

    _pass(blocks, key, size, Check(update, ended))


def of_folder(files: Mapping[str, Measured], *, strong: bool) -> Measured:
    """Return the size and digest of a folder, by those of its files."""
    whole = hasher(strong=strong)
    for name, (size, digest) in sorted(files.items()):
        whole.update(f"{name} {size} {digest}\n".encode())
    return sum(size for size, _ in files.values()), whole.hexdigest()
