"""What a store holds, by workflow and task: keys are listed, and nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import DamagedResultError, NewerFormatError, ResultNotFoundError
from .blobstore import BlobStore
from .headers import info_of
from .keys import SIDE_DATA, name_of
from .sidefiles import side_keys

__all__ = ["beside", "everything", "segments", "task_of", "tasks", "workflows"]

ABANDONED_AFTER = 86400.0  # seconds; what is older and unfinished, nobody is at work on


def workflows(store: BlobStore) -> list[str]:
    """Return the sorted names of the workflows that have results."""
    names = []
    for name in store.names(""):
        if name.startswith(".") or not name.endswith("/"):
            continue
        first = next(segments(store, name), None)
        if first is not None:
            names.append(name_of(name[:-1]) or _long_names(store, name + first)[0])
    return sorted(names)


def tasks(store: BlobStore, folder: str) -> list[str]:
    """Return the sorted names of the tasks in a workflow's folder."""
    return sorted(
        name_of(segment) or task_of(store, folder + segment) for segment in segments(store, folder)
    )


def segments(store: BlobStore, folder: str) -> Iterator[str]:
    """Iterate the last segments of the results' keys in a workflow's folder."""
    return (name for name in store.names(folder) if name[0] != "." and name[-1] != "/")


def task_of(store: BlobStore, key: str) -> str:
    """Return the task of a result's key; reads its header where the name is a long one."""
    return name_of(key.rpartition("/")[2]) or _long_names(store, key)[1]


def beside(store: BlobStore, key: str, folder: str) -> list[str]:
    """Return the keys of a stored result's side data."""
    try:
        side_data = info_of(store, key).side_data
    except (ResultNotFoundError, DamagedResultError, NewerFormatError):
        return []  # what it refers to can't be told; `gc` will find it
    names = [name for side in side_data for name, *_ in side.files]
    return side_keys(store, folder, names)


def everything(store: BlobStore, folder: str) -> tuple[list[str], list[str]]:
    """Return the keys of a workflow's results, and of what lies beside them.

    Side data that no result refers to is left out while it may belong to a save that is under way.
    """
    blobs = list(store.list(folder))
    results = [blob.key for blob in blobs if not blob.key.startswith(f"{folder}.")]
    side_data = [blob for blob in blobs if blob.key.startswith(folder + SIDE_DATA)]
    other = {blob.key for blob in blobs}.difference(results, [blob.key for blob in side_data])
    if not side_data:
        return results, sorted(other)
    before = store.now() - ABANDONED_AFTER
    used = [key for result in results for key in beside(store, result, folder)]
    abandoned = [blob.key for blob in side_data if blob.modified < before]
    return results, [*used, *abandoned, *sorted(other)]


def _long_names(store: BlobStore, key: str) -> tuple[str, str]:
    """Return the names in a result's header; its key's segments where that is damaged."""
    try:
        info = info_of(store, key)
    except (DamagedResultError, NewerFormatError):
        workflow, _, task = key.rpartition("/")
        return workflow, task
    return info.workflow, info.task
