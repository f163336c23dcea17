"""The results that a listing of a workflow has, by their keys; some keys may be planted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import DamagedResultError, ResultNotFoundError
from .blobstore import BlobInfo, BlobStore
from .catalog import is_earlier, task_of
from .keys import EARLIER, LONGEST, earlier_name, key_of

__all__ = ["Item", "earlier_of", "is_own", "is_segment", "latest_of", "planted"]

_is_plain = re.compile(r"[A-Za-z0-9._\-, =+@()%]+").fullmatch


class Item(NamedTuple):
    """A result in the source, by its entry in the listing; `call` is "" for the latest."""

    key: str
    size: int
    task: str
    call: str = ""


def latest_of(store: BlobStore, workflow: str, blob: BlobInfo) -> Iterator[Item]:
    """Give the result of a listed blob; nothing if it is removed meanwhile.

    A planted key has its own text for a name, so that it hides no other result.
    """
    name = blob.key.rpartition("/")[2]
    with suppress(ValueError):  # no name has this key
        try:
            task = task_of(store, blob.key)
        except ResultNotFoundError:
            return
        if key_of(workflow, task) == blob.key:
            name = task
    yield Item(blob.key, blob.size, name)


def earlier_of(blobs: Iterable[BlobInfo], folder: str, names: Iterable[str]) -> list[Item]:
    """Return the earlier results of tasks, those set aside first at the front: so they stay."""
    tasks = {earlier_name(name, ""): name for name in names}
    found = []
    for blob in sorted(blobs, key=lambda blob: blob.modified):
        digest, hyphen, call = blob.key[len(folder) + len(EARLIER) :].partition("-")
        if is_earlier(blob.key) and digest + hyphen in tasks:
            found.append(Item(blob.key, blob.size, tasks[digest + hyphen], call))
    return found


def is_own(workflow: str, item: Item) -> bool:
    """Return whether a key can be of a result; in some stores, anybody can plant others."""
    name = item.key.rpartition("/")[2]
    if not is_segment(name):
        return False
    # Of a long name, only the header has the whole.
    return bool(item.call) or "%-" in name or key_of(workflow, item.task) == item.key


def is_segment(name: str) -> bool:
    """Return whether a store must take a name as the last segment of a key; see `BlobStore`."""
    return len(name) <= LONGEST and bool(_is_plain(name)) and not name.startswith(".")


def planted(key: str) -> DamagedResultError:
    """Return the error about a key that Function Fuse has not made."""
    return DamagedResultError(f"the key {key!r} is not as specified")
