"""Maintain a store: check results, remove leftovers, measure sizes.

Nothing here unpickles, locks, or blocks running workflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    ResultNotFoundError,
    StorageError,
)
from .blobstore import BlobInfo, BlobStore
from .catalog import info_of, segments
from .header import FIRST_READ, TaskInfo
from .keys import DAMAGED, LEASES, SIDE_DATA, key_of, name_of
from .resultfile import check_blocks
from .sidedata import BLOCK, check_side_data

__all__ = ["Leftover", "Usage", "Verified", "collect", "usage", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """The report of `verify` on one stored result.

    Attributes:
        workflow, task: its names; if they are unknown because it is damaged, those of its key.
        size: bytes, with side data; 0 if unknown.
        problem: the problem, as text; "" if it is sound.
    """

    workflow: str
    task: str
    size: int
    problem: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """A blob that `gc` removed, or would remove.

    Attributes:
        key: its key.
        kind: "temporary" (of a killed writer), "side data" (that no result refers to), "damaged"
            (set aside by a run) or "lease" (of a run that died).
        size: in bytes.
        modified: the time when it was written, in seconds since the epoch.
    """

    key: str
    kind: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The size of a workflow in a store.

    Attributes:
        workflow: its name.
        tasks: the number of its stored results.
        size: bytes of all its blobs, including side data and leftovers.
    """

    workflow: str
    tasks: int
    size: int


def verify(store: BlobStore, folder: str, key: bytes | None) -> list[Verified]:
    """Check all digests of all results under a folder and of their side data, in threads."""
    keys = [blob.key for blob in store.list(folder) if _is_result(blob.key)]
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="verify") as pool:
        found = pool.map(lambda name: _verified(store, name, key), keys)
        return [record for record in found if record is not None]


def _verified(store: BlobStore, name: str, key: bytes | None) -> Verified | None:
    folder, _, segment = name.rpartition("/")
    workflow, task, size = name_of(folder) or folder, name_of(segment) or segment, 0
    try:
        info = _checked(store, name, key)
        if key_of(info.workflow, info.task) != name:
            raise DamagedResultError(
                f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
            )
        workflow, task, size = info.workflow, info.task, info.size
        try:
            size += check_side_data(store, f"{folder}/", info.side_data)
        except DamagedResultError:
            if info_of(store, name).token != info.token:
                return _verified(store, name, key)  # replaced meanwhile, and its side data removed
            raise
    except ResultNotFoundError:
        return None  # removed after it was listed
    except (FunctionFuseError, OSError) as error:
        return Verified(workflow, task, size, str(error))
    return Verified(workflow, task, size, "")


def _checked(store: BlobStore, name: str, key: bytes | None) -> TaskInfo:
    try:
        return check_blocks(store.blocks(name, BLOCK), key)
    except StorageError:  # once more: it may have been replaced during the read
        return check_blocks(store.blocks(name, BLOCK), key)


def collect(store: BlobStore, older_than: float, *, dry_run: bool) -> Iterator[Leftover]:
    """Remove leftovers that are older than `older_than` seconds, and iterate over them."""
    for blob in store.sweep(older_than, dry_run=dry_run):
        yield Leftover(blob.key, "temporary", blob.size, blob.modified)
    before = store.now() - older_than
    for name in sorted(store.names("")):
        if name.startswith(".") or not name.endswith("/"):
            continue
        # Side data is listed before the headers are read, so that no newer commit is missed.
        side_data = [blob for blob in store.list(name + SIDE_DATA) if blob.modified < before]
        unused = _unused(store, name, side_data) if side_data else []
        aside = [blob for blob in store.list(name + DAMAGED) if blob.modified < before]
        leases = [blob for blob in store.list(name + LEASES) if blob.modified < before]
        if not dry_run:
            store.delete([blob.key for blob in unused + aside + leases])
        for kind, blobs in (("side data", unused), ("damaged", aside), ("lease", leases)):
            for blob in blobs:
                yield Leftover(blob.key, kind, blob.size, blob.modified)


def _unused(store: BlobStore, folder: str, side_data: list[BlobInfo]) -> list[BlobInfo]:
    used: set[str] = set()
    names = list(segments(store, folder))
    for name, data in zip(names, store.heads(folder, names, FIRST_READ), strict=True):
        try:
            info = None if data is None else info_of(store, folder + name, data)
        except ResultNotFoundError:
            info = None  # removed meanwhile
        except (DamagedResultError, NewerFormatError):
            return []  # the side data of a damaged result is unknown, so none is removed
        if info is None:
            continue
        used.update(
            f"{folder}{SIDE_DATA}{file}" for side in info.side_data for file, *_ in side.files
        )
    start = len(folder) + len(SIDE_DATA)
    return [blob for blob in side_data if _first(blob.key, start) not in used]


def _first(key: str, start: int) -> str:
    """Return a key up to the end of its first segment after `start`, with the "/" of a folder."""
    return key[: key.find("/", start) + 1] or key


def usage(store: BlobStore, folder: str, workflow_name: str) -> Usage:
    """Return the size of a workflow."""
    tasks = size = 0
    for blob in store.list(folder):
        tasks += _is_result(blob.key)
        size += blob.size
    return Usage(workflow_name, tasks, size)


def _is_result(key: str) -> bool:
    return key.count("/") == 1 and "/." not in f"/{key}"
