"""The probe of a place: an object is put as results are, read back, compared and removed.

It finds what would otherwise be found after the first function has run: rights that are missing,
options that the server refuses, and servers that acknowledge an upload and store other bytes.

All processes use the same key, so that those who may not remove it leave one object. Therefore a
process can read what another one has put meanwhile, or an old object that no upload replaces. Then
it puts once more: if it reads its own bytes now, or those of a third process, objects are stored
here. Otherwise, and if another process has removed the object, it tries a key of its own.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256

from functionfuse.errors import ResultNotFoundError, StorageError
from functionfuse.storage.keys import PROBE, unique

from .bucket import Bucket
from .errors import CHECKSUMS
from .options import S3Options
from .reading import read
from .writing import remove_probe, write

__all__ = ["probe"]

_TEXT = b"Function Fuse tries here whether results can be stored: "
_TOKEN = 16  # bytes

# One request over https sends a body in frames, each with its size in hexadecimal digits before it.
_is_frame = re.compile(rb"\s*[0-9a-fA-F]+(;[^\r\n]*)?\r\n").fullmatch

_done: list[tuple[int, S3Options]] = []  # by process id: forked ones have other connections


def probe(bucket: Bucket) -> None:
    """Try once for each process and options whether blobs can be put here, and read back.

    Three requests. If other processes try it at the same time, up to five more. A place counts as
    tried after all of them.

    Raises:
        StorageError: the server refuses one of them, or what is read is not what was put. The
            message names the option or the right that helps.
    """
    place = os.getpid(), bucket.options
    if place not in _done:
        others: list[bytes] = []
        kept = _is_kept(bucket, PROBE, others)
        if others:
            kept = _is_kept(bucket, PROBE, others) or others[0] != others[-1]
        own = f"{PROBE}-{unique()}"
        if not kept and not _is_kept(bucket, own, []):
            raise _refused(bucket, "acknowledges an upload, and then there is no such object")
        _done.append(place)


def _is_kept(bucket: Bucket, key: str, others: list[bytes]) -> bool:
    """Put, read and remove an object; return False if others have removed or replaced it.

    Args:
        others: gets what another process has put, if that is read.
    """
    token = os.urandom(_TOKEN).hex().encode()
    text = _with(token)
    write(bucket, key, [text])
    try:
        found = bytes(read(bucket, key))
    except ResultNotFoundError:
        return False
    if key == PROBE and found != text and _is_of_others(found):
        others.append(found)  # it removes its object itself
        return False
    remove_probe(bucket, key)
    if found == text:
        return True
    before, own, _ = found.partition(text)
    if own and _is_frame(before):
        raise _refused(bucket, "stores the frames of a body as a part of it")
    if key == PROBE and token not in found:
        return False
    raise _refused(
        bucket,
        f"stores other bytes than it is sent ({len(found)} instead of {len(text)}), or a proxy on"
        " the way changes them",
    )


def _with(token: bytes) -> bytes:
    return _TEXT + token + sha256(token).hexdigest().encode()


def _is_of_others(found: bytes) -> bool:
    """Return whether these bytes are what another process puts."""
    return found == _with(found[len(_TEXT) :][: 2 * _TOKEN])


def _refused(bucket: Bucket, why: str) -> StorageError:
    cure = "" if bucket.checksums == "when_required" else f"; {CHECKSUMS}"
    return StorageError(
        f"S3: nothing can be stored in bucket {bucket.name!r}: the server at {bucket.endpoint}"
        f" {why}{cure}"
    )
