"""Results as bytes, written from `docs/format.md`, without the code under test; and a store."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from functionfuse.errors import ResultNotFoundError
from functionfuse.storage import BlobStore
from functionfuse.storage.blobstore import BlobInfo, Buffer

MAGIC = b"\x93FUSE\r\n\x1a"
FORMAT = Path(__file__).parents[3] / "docs" / "format.md"


def header_of(data: bytes) -> dict[str, Any]:
    """Return the header of a result."""
    header: dict[str, Any] = json.loads(data[64 : 64 + _length(data)])
    return header


def rest_of(data: bytes) -> bytes:
    """Return what follows the header of a result."""
    return data[64 + _length(data) :]


def sealed(header: Any, rest: bytes = b"", *, key: bytes | None = None, version: int = 1) -> bytes:
    """Return a result with this header (anything for JSON, or bytes), its digest and signature."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode() + b"\n"
    start = struct.pack("<8sII", MAGIC, version, len(encoded))
    signature = bytes(32) if key is None else hmac.digest(key, start + encoded, "sha256")
    return start + xxh3_128_digest(start + signature + encoded) + signature + encoded + rest


def of_pickle(pickled: bytes, *, key: bytes | None = None, **fields: Any) -> bytes:
    """Return a sound result of a pickle, as task "t" of workflow "w"."""
    digest = xxh3_128_hexdigest(pickled)
    header = {
        "workflow": "w",
        "task": "t",
        "function": "",
        "seconds": None,
        "type": "builtins.object",
        "fingerprint": {},
        "created": "2026-01-31T12:00:00.000000Z",
        "digest": digest,
        "pickle": [len(pickled), digest],
        "buffers": [],
        "side_data": [],
        "by_value": False,
        "python": "3.11.0",
        "packages": {},
        "host": "h",
        "token": "0" * 16,
        **fields,
    }
    return sealed(header, pickled, key=key)


def documented_reader() -> Callable[[Path], tuple[dict[str, Any], Any]]:
    """Return `read`, the reader that `docs/format.md` shows."""
    found = re.search(r"```python\n(.*?)\n\n\nstorage = ", FORMAT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1].replace("from functionfuse.storage import storage_factory\n", ""), names)
    reader: Callable[[Path], tuple[dict[str, Any], Any]] = names["read"]
    return reader


def section_digest(data: bytes) -> str:
    """Return the digest of a pickle or buffer in a file of version 2."""
    pieces = range(0, len(data), 4 << 20)
    digests = [hashlib.sha256(data[start : start + (4 << 20)]).digest() for start in pieces]
    return hashlib.sha256(b"".join(digests)).hexdigest()


class MemoryStore(BlobStore):
    """Blobs in a dictionary: the four methods that a store must have, and no more."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.lock = threading.Lock()

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        data = b"".join(parts)
        with self.lock:
            if if_absent and key in self.blobs:
                raise FileExistsError(key)
            self.blobs[key] = data, self.now()

    def get(self, key: str) -> Buffer:
        try:
            return bytearray(self.blobs[key][0])
        except KeyError:
            raise ResultNotFoundError(f"no blob {key!r}") from None

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for key, (data, modified) in sorted(self.blobs.copy().items()):
            if key.startswith(prefix):
                yield BlobInfo(key, len(data), modified)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.blobs.pop(key, None)


def _length(data: bytes) -> int:
    (length,) = struct.unpack_from("<I", data, 12)
    return int(length)
