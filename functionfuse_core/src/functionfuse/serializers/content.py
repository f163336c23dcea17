"""The content of a regular file: its digest, which is remembered, and the state that it is of."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

from xxhash import xxh3_128

from ..errors import FileError

__all__ = [
    "Source",
    "State",
    "are_same",
    "blocks_of",
    "content_of",
    "is_same",
    "opened",
    "readable",
    "refuse_changed",
    "refuse_other",
    "source_of",
    "state_of",
    "status_of",
]

State = tuple[int, ...]  # size, times of change of content and status, inode, device
Source = tuple[str, State, str]  # a file that must not change meanwhile: see `source_of`

_BLOCK = 1 << 20  # bytes
_RECENT = 2_000_000_000  # nanoseconds: a change so soon after another may leave the times
_MOST = 100_000  # digests that are remembered
_HINTS = {
    "/~/": ": ~ is not expanded, so give Path(...).expanduser()",
    ":/": ": a File is a path on this machine, so download what has a URL",
}

files_exist = False  # whether this process has made a `File`: until then, no save looks for any

_digests: dict[State, str] = {}


def content_of(path: str, *, strong: bool = False) -> tuple[os.stat_result, str]:
    """Return the status of a regular file, and the digest of its content in hexadecimal.

    The digest is XXH3-128, or SHA-256 if it has to be `strong`.

    The digest is remembered by device, inode, size and times, so a second look costs a stat. That
    of a file that changed in the last two seconds is not: the next change may leave its times.

    Raises FileError if there is no such file, or it changes meanwhile.
    """
    began = time.time_ns()
    status = status_of(path)
    state = *state_of(status), strong
    known = _digests.get(state)
    if known is not None:
        return status, known
    digest: Any = sha256() if strong else xxh3_128()
    file = opened(path)
    try:
        for block in readable(path, blocks_of(file, status.st_size)):
            digest.update(block)
        refuse_other(path, status)
    finally:
        os.close(file)
    # Any time of the content can be set, also one in the future; only the system sets the other.
    if began - status.st_ctime_ns > _RECENT and abs(began - status.st_mtime_ns) > _RECENT:
        if len(_digests) >= _MOST:
            with suppress(RuntimeError):  # another thread added one meanwhile
                _digests.pop(next(iter(_digests)), None)  # the oldest
        _digests[state] = digest.hexdigest()
    return status, digest.hexdigest()


def source_of(path: str, *, by_stat: bool = False) -> Source:
    """Return the path of a file, its state, and the digest of its content; "" with `by_stat`.

    The state has only size and time of change, if the next change may leave all times. Raises
    FileError as `content_of`.
    """
    if by_stat:
        return path, state_of(status_of(path)), ""
    status, digest = content_of(path)
    state = state_of(status)
    return path, state if (*state, False) in _digests else state[:2], digest


def is_same(source: Source) -> bool:
    """Return whether a file still has the same content; without a digest, the same size and time.

    A file is only read if its state differs. Device numbers may differ on another machine. Raises
    FileError if there is no such file.
    """
    path, state, digest = source
    now = state_of(status_of(path))
    if not digest:
        return now[:2] == state[:2]
    return now[:4] == state[:4] or content_of(path)[1] == digest


def are_same(sources: Iterable[Source]) -> bool:
    """Return whether all files are there and have the same content; see `is_same`."""
    try:
        return all(map(is_same, sources))
    except FileError:
        return False


def refuse_changed(files: Iterable[tuple[str, Source]]) -> None:
    """Raise FileError if a file that a node takes has another content than before.

    Args:
        files: for each, where the node has it from, as text, and the file.
    """
    for origin, source in files:
        try:
            same = is_same(source)
        except FileError as error:
            raise FileError(
                f"{origin}: {error}. It was there when the run began: a node has removed it, or"
                " this worker doesn't see it"
            ) from None
        if not same:
            raise FileError(
                f"{origin}: {source[0]!r} changed during the run, so the result could be of"
                " either content, and is not stored"
            )


def state_of(status: os.stat_result) -> State:
    """Return what differs after a change; see `State`."""
    inode = status.st_ino, status.st_dev
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, *inode)


def status_of(path: str) -> os.stat_result:
    """Return the status of a regular file; follow links.

    Raises FileError if there is none. Its `errno` tells what the system said, if it said anything.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # or it has a zero byte
        hint = next((hint for part, hint in _HINTS.items() if part in path), "")
        raise _file_error(f"there is no file {path!r}{hint}", errno.ENOENT) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise FileError(f"{path!r} is {kind}, and no file")
    return status


def opened(path: str) -> int:
    """Open a regular file to read it, and return its descriptor. Raises FileError."""
    status_of(path)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from None


def readable(path: str, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
    """Iterate over the blocks of a file. Raises FileError if it can't be read."""
    try:
        yield from blocks
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> FileError:
    return _file_error(f"the file {path!r} can't be read: {error.strerror}", error.errno)


def _file_error(text: str, number: int | None) -> FileError:
    error = FileError(text)
    error.errno = number
    return error


def refuse_other(path: str, before: os.stat_result) -> None:
    """Raise FileError if a file is not as before."""
    if state_of(status_of(path)) != state_of(before):
        raise FileError(f"the file {path!r} changed while it was read")


def blocks_of(file: int, size: int) -> Iterator[memoryview]:
    """Iterate over a file in blocks, which share one buffer."""
    view = memoryview(bytearray(min(_BLOCK, size + 1)))
    while count := os.readv(file, [view]):
        yield view[:count]
