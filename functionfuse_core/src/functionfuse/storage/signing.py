"""Sign bytes with a storage's key, and digest what is signed."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import sha256
from typing import Any

from xxhash import xxh3_128, xxh3_128_hexdigest

from ..serializers.refused import Private
from .blobstore import Buffer, in_threads

__all__ = ["Key", "Pieces", "hasher", "section_hexdigest", "sha256_digest"]

_PIECE = 4 << 20  # bytes: as docs/format.md has it
_MOST_THREADS = 4


class Key(Private):
    """A storage's key, by which it signs: HMAC-SHA256 (RFC 2104).

    The secret is no attribute, and in no representation, so that errors, logs and debuggers don't
    show it. A pickle has it as clear text: worker processes need it.
    """

    __slots__ = ("_secret", "_state")
    _secret: Callable[[], str]

    def __init__(self, secret: str) -> None:
        self._secret = lambda: secret
        # It doesn't keep the secret.
        self._state = hmac.new(secret.encode("utf-8", "surrogatepass"), digestmod="sha256")

    def __reduce__(self) -> tuple[Any, ...]:
        return Key, (self._secret(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.has_signed(other.sign(b""), b"")

    def __hash__(self) -> int:
        return hash(self.sign(b""))

    def __repr__(self) -> str:
        return "<key>"

    def sign(self, *parts: Buffer) -> bytes:
        """Return the signature of parts as one sequence of bytes."""
        state = self._state.copy()
        for part in parts:
            state.update(part)
        return state.digest()

    def has_signed(self, signature: bytes, *parts: Buffer) -> bool:
        """Return whether the whole signature is that of the parts; takes always the same time."""
        return hmac.compare_digest(signature, self.sign(*parts))


def sha256_digest(data: Buffer) -> bytes:
    """Return the SHA-256 of bytes. XXH3 is no substitute: anyone can find other bytes for it."""
    return sha256(data).digest()


def section_hexdigest(*parts: Buffer, strong: bool) -> str:
    """Return the digest of a pickle or buffer: XXH3-128, or that of `Pieces` by several threads.

    Args:
        parts: its bytes, in one or more parts.
    """
    if not strong:
        if len(parts) == 1:
            return xxh3_128_hexdigest(parts[0])
        digest: str = _updated(xxh3_128(), parts).hexdigest()
        return digest
    pieces = list(_cut(parts))
    if len(pieces) <= 1:
        return sha256(b"".join(map(_piece_digest, pieces))).hexdigest()
    try:
        digests = b"".join(in_threads(_threads(), _piece_digest, pieces))
    except RuntimeError:  # no more threads can start, for example when the interpreter ends
        digests = b"".join(map(_piece_digest, pieces))
    return sha256(digests).hexdigest()


def _cut(parts: Iterable[Buffer]) -> Iterator[list[memoryview]]:
    """Cut parts into pieces of 4 MiB; the last one has the rest. None is copied."""
    piece: list[memoryview] = []
    room = _PIECE
    for part in parts:
        view = memoryview(part)
        while view:
            piece.append(view[:room])
            room, view = room - len(piece[-1]), view[room:]
            if not room:
                yield piece
                piece, room = [], _PIECE
    if piece:
        yield piece


def _piece_digest(parts: Iterable[Buffer]) -> bytes:
    digest: bytes = _updated(sha256(), parts).digest()
    return digest


def _updated(digest: Any, parts: Iterable[Buffer]) -> Any:
    for part in parts:
        digest.update(part)
    return digest


class Pieces:
    """The SHA-256 of the SHA-256 digests of pieces of 4 MiB, updated as `hashlib` objects are.

    Pieces are digested in several threads, where all of them are in memory: one thread takes
    longer to digest a big result than to read it.
    """

    def __init__(self) -> None:
        self._all, self._piece, self._room = sha256(), sha256(), _PIECE

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            part, view = view[: self._room], view[self._room :]
            self._piece.update(part)
            self._room -= len(part)
            if not self._room:
                self._all.update(self._piece.digest())
                self._piece, self._room = sha256(), _PIECE

    def hexdigest(self) -> str:
        """Return the digest of all bytes."""
        found = self._all.copy()
        if self._room < _PIECE:
            found.update(self._piece.digest())
        return found.hexdigest()


def hasher(*, strong: bool) -> Any:
    """Return an object with `update` and `hexdigest` for a file: of SHA-256, or of XXH3-128."""
    return sha256() if strong else xxh3_128()


@cache
def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_THREADS, cores or 1)
