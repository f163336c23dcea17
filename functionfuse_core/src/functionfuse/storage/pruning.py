"""Prune earlier results: remove the oldest, so that the limits of a storage hold.

What isn't signed with the key of the storage stays: its header proves nothing, and it can be
genuine, if the key is a wrong one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from math import inf
from typing import NamedTuple

from .blobstore import BlobInfo, BlobStore
from .catalog import headers_of, infos_of_tasks, tasks, unsigned_among
from .earlier import remove
from .header import TaskInfo
from .keys import EARLIER, SIDE_DATA, earlier_key, earlier_name, folder_of
from .signing import Key
from .summary import Summary

__all__ = ["Limits", "Pruned", "limits_of", "prune"]

logger = logging.getLogger(__name__)

DAY = 86400.0  # seconds
_LEFT = (
    "%d earlier result(s) of workflow %r in %r are left, because they are not signed with the"
    " storage's key. `storage.sign` signs them; a storage without the option 'key' removes them by"
    " `prune`"
)


class Limits(NamedTuple):
    """Limits for the earlier results that a workflow keeps; None for no limit.

    Attributes:
        days: a result stays for this time after it was set aside.
        size: bytes of all of them, with side data. Those set aside first are removed first.
        keep: number of results of each task, without a copy of the latest. Those computed first
            are removed first.
    """

    days: float | None = None
    size: int | None = None
    keep: int | None = None


def limits_of(days: float | None, size: int | str | None, keep: int | None) -> Limits:
    """Return the limits that `Storage.prune` is given; raise ValueError for what is no limit."""
    size = _size_of(size) if isinstance(size, str) else size
    for name, limit in (("days", days), ("bytes", size), ("keep", keep)):
        whole = limit is None or isinstance(limit, int if name != "days" else (int, float))
        if not whole or isinstance(limit, bool) or not (limit is None or limit >= 0):
            raise ValueError(f"prune: {name} is a number from 0 on, or None, not {limit!r}")
    return Limits(days=days, size=size, keep=keep)


def _size_of(text: str) -> int:
    """Return the bytes of a size as the option `earlier` takes it."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ValueError(f"prune: bytes is a size as '10 GiB', not {text!r}") from None


class Pruned(NamedTuple):
    """The results that `prune` has removed, and when to call it again.

    Attributes:
        blobs: the removed results, and their sizes with side data.
        room: bytes that may be added before the limit of the size is reached.
        seconds: the time until the oldest result that is left is too old.
    """

    blobs: list[tuple[BlobInfo, int]]
    room: float = inf
    seconds: float = inf


def prune(
    store: BlobStore,
    workflow: str,
    limits: Limits,
    *,
    names: Collection[str] | None = None,
    dry_run: bool,
    signed_by: Key | None,
) -> Pruned:
    """Remove earlier results of a workflow: list all, and remove the oldest.

    Those that aren't signed with the key stay, and a warning says how many: they can be those of
    another key.

    Args:
        names: of tasks; all earlier results of other tasks are removed, too.
        dry_run: remove nothing.
    """
    folder = folder_of(workflow)
    blobs = sorted(store.list(folder + EARLIER), key=lambda blob: blob.modified, reverse=True)
    used = None if names is None else {earlier_name(name, "") for name in names}

    def is_used(key: str) -> bool:
        task = key[len(folder) + len(EARLIER) :].partition("-")[0] + "-"
        return used is None or task in used

    before = -inf if limits.days is None or not blobs else store.now() - limits.days * DAY
    most = inf if limits.size is None else limits.size
    newest: set[str] | None = None
    headers: Mapping[str, TaskInfo] = {}
    left: set[str] = set()

    def chosen() -> tuple[list[tuple[BlobInfo, int]], int, float]:
        """Return what is removed, with sizes; the bytes of what stays; the time of its oldest."""
        found, total, kept, oldest = [], 0, 0, inf
        for blob in blobs:
            if blob.key in left:
                continue
            header = headers.get(blob.key)
            size = blob.size + (header.side_size if header else 0)
            wanted = is_used(blob.key) and (newest is None or blob.key in newest)
            if wanted and blob.modified >= before and size <= most:
                total += size
                if total <= most:
                    kept, oldest = total, blob.modified
                    continue
            found.append((blob, size))
        return found, kept, oldest

    # Headers are read only for sizes of side data, for the times of computing, and for signatures:
    # if there is a key, and anything would be removed.
    side_data = blobs and next(iter(store.names(folder + SIDE_DATA)), None) is not None
    if side_data or limits.keep is not None or (signed_by is not None and chosen()[0]):
        keys = [blob.key for blob in blobs]
        headers = headers_of(store, keys, signed_by=signed_by)
        others = [key for key in keys if key not in headers and is_used(key)]
        left = unsigned_among(store, others, signed_by)
        if limits.keep is not None:
            newest = _newest(store, workflow, headers, limits.keep, signed_by)
    if left:
        logger.warning(_LEFT, len(left), workflow, store)
    found, kept, oldest = chosen()
    if not dry_run:
        remove(store, folder, [blob.key for blob, _ in found], headers, signed_by=signed_by)
    return Pruned(found, most - kept, oldest - before)


def _newest(
    store: BlobStore,
    workflow: str,
    headers: Mapping[str, TaskInfo],
    keep: int,
    signed_by: Key | None,
) -> set[str]:
    """Return the keys of the results of each task that were computed last.

    Copies of the latest results are among them, and don't count, unless none is kept.
    """
    names = tasks(store, folder_of(workflow))
    infos = infos_of_tasks(store, workflow, names, signed_by=signed_by)
    found = {
        earlier_key(workflow, name, info.call)
        for name, info in zip(names, infos, strict=True)
        if keep and isinstance(info, Summary) and info.call
    }
    counts = Counter[str]()
    for key in sorted(headers, key=lambda key: headers[key].created, reverse=True):
        if key not in found and counts[headers[key].task] < keep:
            counts[headers[key].task] += 1
            found.add(key)
    return found
