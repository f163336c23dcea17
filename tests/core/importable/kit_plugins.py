"""What the kit is run on beside what core brings: a store in a dict, a serializer of tables."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from functionfuse.errors import ResultNotFoundError
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage.blobstore import BlobInfo, BlobStore, Buffer


class DictStore(BlobStore):
    """Blobs in a dict: the four methods, and no more."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[bytes, float]] = {}

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        blob = b"".join(parts), time.time()
        # Both are one step for all threads.
        if not if_absent:
            self.blobs[key] = blob
        elif self.blobs.setdefault(key, blob) is not blob:
            raise FileExistsError(key)

    def get(self, key: str) -> Buffer:
        try:
            return bytearray(self.blobs[key][0])
        except KeyError:
            raise ResultNotFoundError(f"no blob {key!r}") from None

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for key in sorted(filter(lambda key: key.startswith(prefix), tuple(self.blobs))):
            if blob := self.blobs.get(key):
                yield BlobInfo(key, len(blob[0]), blob[1])

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.blobs.pop(key, None)


class Table:
    """What `Tables` keeps; pickle would not keep `checked`."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self.rows = rows
        self.checked = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        raise TypeError("only a serializer keeps a table")


class Tables:
    """A serializer: a file of JSON beside the result."""

    name = "tables"
    serializer_class = Table

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        name = generate_name()
        with protocols[FILE_PROTOCOL].open(name, "wb") as file:
            file.write(json.dumps({"rows": obj.rows}).encode())
        return self.name, name

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        with protocols[FILE_PROTOCOL].open(pid, "rb") as file:
            return Table(json.loads(file.read())["rows"])

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)
