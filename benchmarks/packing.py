"""Packing results that are many small objects: digests and header beside what pickle takes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from functionfuse.errors import ResultNotFoundError
from functionfuse.storage import BlobInfo, BlobStore, Storage
from functionfuse.storage.blobstore import Buffer
from pairs import time_pair
from table import Row, at_most

WORKFLOW = "bench"
ROUNDS = 15


class Nowhere(BlobStore):
    """Takes every blob, and has none."""

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        del key, parts, if_absent, durable

    def get(self, key: str) -> Buffer:
        raise ResultNotFoundError(key)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        del prefix
        return iter(())

    def delete(self, keys: Iterable[str]) -> None:
        del keys


class Point:
    def __init__(self, x: int, y: float) -> None:
        self.x = x
        self.y = y


def measure() -> Iterator[Row]:
    """Save to a store that keeps nothing: what is left is the work of packing."""
    storage = Storage(Nowhere())
    values = {
        "a list of a million ints": list(range(1_000_000)),
        "200,000 dicts": [{"id": i, "name": f"n{i}", "score": i / 7} for i in range(200_000)],
        "200,000 small objects": [Point(i, i / 7) for i in range(200_000)],
    }
    for what, value in values.items():
        pair = time_pair(
            partial(storage.save, WORKFLOW, "objects", value),
            partial(pickle.dumps, value, 5),
            rounds=ROUNDS,
        )
        yield at_most(f"pack {what} / pickle.dumps", 1.15, pair)
