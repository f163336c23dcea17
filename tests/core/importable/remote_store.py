"""A store in memory that counts requests, and the tokens of the results in it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5

from functionfuse.errors import ResultNotFoundError, StorageAccessError
from functionfuse.storage import BlobInfo, BlobStore, Storage
from functionfuse.storage.blobstore import Buffer

AT_ONCE = 4
LATE = 300  # seconds; what takes longer hangs
MANY = 50
NAMES = [f"t{number}" for number in range(MANY)]


class RemoteStore(BlobStore):
    """Blobs in memory that counts what it is asked, as a store over a network would be.

    Attributes:
        asked: how often it was asked for what.
        read: the keys whose heads were read, in order.
        most: how many heads were read at once, at most.
    """

    remote = True
    concurrency = AT_ONCE

    def __init__(self) -> None:
        self.blobs_held: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.read: list[str] = []
        self.lock = threading.Lock()
        self.most = self.now_reading = 0
        self.met = threading.Event()  # set when as many as can be are reading at once
        self.readable_only = False
        self.waits = False  # whether a header is read only when others are, too

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        self.asked["put"] += 1
        if self.readable_only:
            raise StorageAccessError("no writing here")
        if if_absent and key in self.blobs_held:
            raise FileExistsError(key)
        self.blobs_held[key] = b"".join(parts)

    def get(self, key: str) -> Buffer:
        self.asked["get"] += 1
        return self._blob(key)

    def head(self, key: str, size: int) -> Buffer:
        with self.lock:
            self.asked["head"] += 1
            self.read.append(key)
            self.now_reading += 1
            self.most = max(self.most, self.now_reading)
            if self.now_reading == AT_ONCE:
                self.met.set()
        if self.waits:
            self.met.wait(LATE)
        with self.lock:
            self.now_reading -= 1
        return self._blob(key)[:size]

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        self.asked["list"] += 1
        for key, data in sorted(self.blobs_held.items()):
            if key.startswith(prefix):
                yield BlobInfo(key, len(data), 0.0, md5(data).hexdigest())

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self.asked["delete"] += bool(keys)
        for key in keys:
            self.blobs_held.pop(key, None)

    def _blob(self, key: str) -> bytes:
        try:
            return self.blobs_held[key]
        except KeyError:
            raise ResultNotFoundError(f"no blob {key!r}") from None


def tokens(store: RemoteStore, names: Sequence[str] = NAMES) -> list[str | None]:
    """Return the tokens that a plan is told, by a storage that knows nothing yet."""
    infos = Storage(store).task_infos("w", names)
    return [None if info is None else info.info.token for info in infos]  # type: ignore[union-attr]


def true_tokens(store: RemoteStore, names: Sequence[str] = NAMES) -> list[str | None]:
    """Return the tokens that are stored, one after the other."""
    found: list[str | None] = []
    for name in names:
        try:
            found.append(Storage(store).task_info("w", name).token)
        except ResultNotFoundError:
            found.append(None)
    store.asked.clear()
    store.read.clear()
    return found


def fill(store: RemoteStore) -> None:
    """Store MANY results, and set the counters to zero."""
    storage = Storage(store)
    for number, name in enumerate(NAMES):
        storage.save("w", name, number, replaces=None)
    store.asked.clear()
