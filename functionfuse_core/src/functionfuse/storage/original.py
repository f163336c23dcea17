"""Results of the original Function Fuse: a pickle, and the SHA-1 digest of the pickle.

Such a file has no header. `header_end` recognises it by its first bytes, and raises
`OriginalResultError`. The functions here read the whole file, and compare the digest. An object of
a serializer is a persistent id in the pickle: the serializer's name, and its own id. The files of
the serializers are in the folder `bigdata/`.

Before another result replaces such a file, the file is copied, or linked, to `.original/`. So the
name has a whole result at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from xxhash import xxh3_128

from ..errors import (
    DamagedResultError,
    ResultNotFoundError,
    UntrustedResultError,
)
from ..serializers import Serializer
from .blobstore import BlobStore, Buffer
from .header import FIRST_READ, SideData, TaskInfo, is_original
from .keys import DAMAGED, ORIGINAL, folder_of, key_of, segment_of, unique
from .sidecheck import BLOCK
from .sidedata import SideReader, leave
from .signing import Key
from .unpickling import Restore

__all__ = [
    "MADE",
    "check_original",
    "contents_of",
    "is_whole",
    "keep_original",
    "refuse_unsigned",
    "restorer",
]

MADE = "computed by the original Function Fuse"

_SIZE = 20  # bytes of a SHA-1 digest
_SIDE_DATA = "bigdata/"
# The serializer of the original whose place another one has taken.
_DASK = "HDFSerializer"
_NOW = SideData("dask.array", "functionfuse-dask", (), "dask.array.core.Array")


class _Measured(NamedTuple):
    """The digests of a file.

    Attributes:
        size: bytes of the file.
        sound: whether its SHA-1 is right.
        sha1: the SHA-1 of the pickle.
        pickle: the XXH3-128 of the pickle.
        whole: the XXH3-128 of all bytes.
    """

    size: int
    sound: bool
    sha1: str
    pickle: str
    whole: str


def _measured(blocks: Iterable[Buffer]) -> _Measured:
    """Return the digests of a file that is read in blocks; the last bytes are its SHA-1."""
    cryptographic, quick, size, last = sha1(usedforsecurity=False), xxh3_128(), 0, b""
    for block in blocks:
        size += len(block)
        pieces: list[Buffer]
        if len(block) < _SIZE:
            pieces, last = [(last + block)[:-_SIZE]], (last + block)[-_SIZE:]
        else:
            pieces, last = [last, memoryview(block)[:-_SIZE]], bytes(block[-_SIZE:])
        for piece in pieces:
            cryptographic.update(piece)
            quick.update(piece)
    digest = quick.hexdigest()
    quick.update(last)
    sound = size > _SIZE and cryptographic.digest() == last
    return _Measured(size, sound, cryptographic.hexdigest(), digest, quick.hexdigest())


def check_original(workflow: str, task: str, blocks: Iterable[Buffer]) -> TaskInfo:
    """Check the bytes of a result of the original; return what is known of it, as a header.

    Raises DamagedResultError if its SHA-1 is wrong.
    """
    found = _measured(blocks)
    if not found.sound:
        raise DamagedResultError(
            "the blob begins as a result of the original Function Fuse, but its SHA-1 is wrong"
        )
    return TaskInfo(
        workflow,
        task,
        function="",
        created="",
        seconds=None,
        type="",
        digest=found.pickle,
        pickle=(found.size - _SIZE, found.pickle),
        buffers=[],
        side_data=(),
        by_value=False,
        python="",
        packages={},
        host="",
        token=found.sha1,
        fingerprint={"why not": MADE},
        size=found.size,
    )


def is_whole(store: BlobStore, key: str) -> bool:
    """Return whether a blob is a result of the original, with the right SHA-1; reads all of it."""
    try:
        return _measured(store.blocks(key, BLOCK)).sound
    except (ResultNotFoundError, PermissionError):
        return False


def refuse_unsigned(key: Key | None) -> None:
    """Raise UntrustedResultError if a storage has a key: no result of the original is signed."""
    if key is not None:
        raise UntrustedResultError(
            "it is a result of the original Function Fuse, which is not signed, but the storage's"
            " option 'key' demands its signature"
        )


def contents_of(data: Buffer) -> Sequence[memoryview]:
    """Return the pickle of a result of the original."""
    return [memoryview(data)[:-_SIZE]]


def restorer(
    store: BlobStore,
    workflow: str,
    serializers: Mapping[str, Serializer],
    allow: Sequence[str] | None,
) -> Restore:
    """Return the function that reads the objects that serializers of the original have stored.

    A serializer is found by its name, as by the original. The present serializer reads dask arrays.
    """
    where = folder_of(workflow) + _SIDE_DATA
    reader = SideReader(store, where, serializers.values(), [_NOW], allow=allow)

    def restore(name: str, pid: Any) -> Any:
        if name == _DASK and _DASK not in serializers:
            name = _NOW.serializer
        return reader.restore(name, pid)

    return restore


def keep_original(store: BlobStore, workflow: str, task: str) -> None:
    """Copy a result of the original to `.original/`, before another one replaces it.

    A damaged one is copied to where a run keeps damaged results. Two writers at once are safe: a
    copy is checked, and then copied to its place, so no other result gets there.

    Raises OSError: the result must not be replaced then.
    """
    folder, name = folder_of(workflow), segment_of(task)
    copy = f"{folder}{DAMAGED}{name}/{unique()}"  # `gc` removes it if this process is killed
    try:
        store.copy(key_of(workflow, task), copy)
    except ResultNotFoundError:
        return  # removed meanwhile
    if is_original(store.head(copy, FIRST_READ)):
        found = _measured(store.blocks(copy, BLOCK))
        kept = f"{ORIGINAL}{name}" if found.sound else f"{DAMAGED}{name}/{found.whole}"
        store.copy(copy, folder + kept)
    try:
        store.delete([copy])
    except PermissionError as error:
        leave(store, "a copy in '.damaged'", f"task {task!r} of workflow {workflow!r}", error)
