"""Remove results and workflows: all that is ours, and nothing else; see `ours`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from xxhash import xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    NewerFormatError,
    OriginalResultError,
    ResultNotFoundError,
)
from . import earlier
from .blobstore import BlobStore
from .catalog import (
    headers_of,
    infos_of_tasks,
    is_earlier,
    is_own,
    is_result,
    side_data_in,
    side_data_of,
    task_of,
)
from .header import is_original
from .keys import DAMAGED, MARKER, OWN, SIDE_DATA, folder_of, key_of, segment_of
from .original import check_original
from .ours import SOME, foreign, has_result, is_marked, others_in, warn_of_others
from .resultfile import check
from .signing import Key

__all__ = ["ABANDONED_AFTER", "keep_damaged", "remove_tasks", "remove_workflow"]

ABANDONED_AFTER = 86400.0  # seconds; older unfinished data belongs to no running save

_NOTHING = (
    ": the folder {!r} is left, because it has no marker, and no result among its first "
    f"{SOME} files"
)
Tell = Callable[[Iterable[str]], None]


def remove_tasks(
    store: BlobStore, workflow: str, names: Sequence[str], tell: Tell, *, signed_by: Key | None
) -> None:
    """Remove all results of tasks; leave blobs that are no results, and log how many.

    Args:
        tell: is told the names of the removed ones, before their side data is removed.

    Raises:
        ResultNotFoundError: nothing is stored for a single task.
        DamagedResultError, OriginalResultError: nothing that is stored for them is ours.
    """
    folder, latest = folder_of(workflow), {key_of(workflow, name): name for name in names}
    keys = [*latest, *earlier.keys_of(store, workflow, names)]
    headers = headers_of(store, keys, signed_by=signed_by)
    if len(keys) == 1 and not headers:  # a damaged result can be removed, too
        [found] = infos_of_tasks(store, workflow, names, signed_by=signed_by)
        if found is None:
            raise ResultNotFoundError(keys[0])
    damaged = [key for key in latest if key not in headers]
    left = foreign(store, damaged, empty=len(names) > 1)  # one that is named is meant
    if damaged and not headers and not has_result(store, folder, store.names(folder)):
        left.update(damaged)
    if len(left) == len(keys):
        [found, *_] = infos_of_tasks(store, workflow, names, signed_by=signed_by)
        told = f"{damaged[0]!r} in {store!r} is left, because it"
        cure = "If you don't need it, delete it yourself"
        if isinstance(found, OriginalResultError):
            raise OriginalResultError(f"{told} is of the original Function Fuse. {cure}")
        raise DamagedResultError(
            f"{told} is not a result of Function Fuse, or its first bytes are damaged. {cure}"
        )
    removed = [name for key, name in latest.items() if key not in left]
    keys = [key for key in keys if key not in left]
    between = partial(tell, removed)
    earlier.remove(store, folder, keys, headers, between=between, signed_by=signed_by)
    warn_of_others(store, sorted(left))


def remove_workflow(store: BlobStore, workflow: str, tell: Tell | None) -> None:
    """Remove all that is ours in a workflow's folder; log how much is left.

    The marker is removed last: until then, `gc` finds what is left after a kill.

    Args:
        tell: is told the names of the tasks, after their results are removed.

    Raises:
        ResultNotFoundError: there is no such workflow; the message says what there is instead.
    """
    folder = folder_of(workflow)
    # Compare names: on a file system that folds case, a read would find another workflow.
    if folder not in store.names(""):
        raise ResultNotFoundError("")
    inside = list(store.names(folder))
    if not is_own(store, folder, inside):
        if not has_result(store, folder, inside):
            raise ResultNotFoundError(_NOTHING.format(folder))
        warn_of_others(store, sorted(folder + name for name in inside))
        return
    results, others, left = _everything(store, folder, inside)
    names = [task_of(store, key) for key in filter(is_result, results)] if tell else []
    store.delete(results)
    if tell:
        tell(names)
    # What a run has stored or set aside meanwhile keeps its side data.
    has_side_data = any(key.startswith(folder + SIDE_DATA) for key in others)
    kept = set(side_data_in(store, folder, set(left))) if has_side_data else ()
    store.delete([key for key in others if key not in kept])
    store.delete([folder + MARKER, folder] if is_marked(store, folder) else [folder])
    warn_of_others(store, left)


def _everything(
    store: BlobStore, folder: str, inside: Iterable[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the keys of a workflow's results, earlier ones too, of its other blobs, and of others.

    Side data that no result refers to is left out while it may belong to a running save. The third
    are files and folders that are not ours; see `ours`.
    """
    files, left = others_in(store, folder, inside)
    results = [key for key in files if is_result(key)]
    other = [key for key in files if not is_result(key)]
    own, side_data = tuple(folder + name for name in OWN), []
    for blob in store.list(folder + "."):
        if is_earlier(blob.key):
            results.append(blob.key)
        elif blob.key.startswith(folder + SIDE_DATA):
            side_data.append(blob)
        elif blob.key.startswith(own):
            other.append(blob.key)
    # A copy of damaged bytes can be that of somebody's file, which a run has replaced.
    aside = foreign(store, [key for key in other if key.startswith(folder + DAMAGED)])
    other = [key for key in other if key not in aside]
    left += sorted(aside)
    if not side_data:
        return results, other, left
    before = store.now() - ABANDONED_AFTER
    used = dict.fromkeys(side_data_of(store, folder, results))
    abandoned = [blob.key for blob in side_data if blob.modified < before]
    return results, [*used, *abandoned, *other], left


def keep_damaged(store: BlobStore, workflow: str, task: str) -> bool:
    """Copy a blob in the place of a result, if it is damaged or not ours; see `Inventory`."""
    key, folder = key_of(workflow, task), folder_of(workflow)
    try:
        data = store.get(key)
        if is_original(data):
            check_original(workflow, task, [data])
        else:
            check(data)
    except ResultNotFoundError:
        return False
    except (DamagedResultError, NewerFormatError):
        store.put(f"{folder}{DAMAGED}{segment_of(task)}/{xxh3_128_hexdigest(data)}", [data])
        return True
    return False
