"""Maintain a store: check results, remove leftovers, measure sizes.

Nothing here unpickles, locks, or blocks running workflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from sys import intern
from time import monotonic
from typing import Protocol

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    OriginalResultError,
    ResultNotFoundError,
    StorageError,
)
from ..show import texts
from ..show.notebook import ROWS, block, more, plain, table
from . import earlier, ours
from .blobstore import BlobInfo, BlobStore, in_threads
from .catalog import (
    belongs,
    each_header,
    headers_of,
    info_of,
    is_earlier,
    is_own,
    is_result,
    may_hold,
    segments,
    task_of,
    workflows,
)
from .header import FIRST_READ, TaskInfo
from .keys import DAMAGED, EARLIER, LEASES, SIDE_DATA, folder_of, key_of, name_of
from .original import MADE, check_original, refuse_unsigned
from .passing import check_blocks
from .pruning import Limits, prune
from .sidecheck import BLOCK, Blocks, check_side_data
from .signing import Key

__all__ = [
    "Leftover",
    "Named",
    "Usage",
    "Verified",
    "collect",
    "contents_html",
    "pruned",
    "usage",
    "verify",
]

_PATIENCE = 0.5  # seconds


class Named(Protocol):
    """A workflow: its name, and the names of its nodes."""

    @property
    def workflow_name(self) -> str: ...
    def graph_traversal(self) -> Iterator[tuple[str, object]]: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """The report of `verify` on one stored result.

    Attributes:
        workflow, task: its names; if they are unknown because it is damaged, those of its key.
        size: bytes, with side data; 0 if unknown.
        problem: the problem, as text; "" if it is sound.
        call: the digest of its call, for an earlier result; "" for the latest of its task.
        note: that the original Function Fuse computed it; else "".
    """

    workflow: str
    task: str
    size: int
    problem: str
    call: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A blob that `gc` or `prune` removed, or would remove.

    Attributes:
        key: its key.
        kind: from `gc` "temporary" (of a killed writer), "side data" (that no result refers to),
            "damaged" (found by a run) or "lease" (of a run that died); from `prune` "earlier" (a
            result of another call than the latest) or "unused" (a result of a task that the
            workflow no longer has).
        size: in bytes; of an earlier result with its side data.
        modified: the time when it was written, in seconds since the epoch; of an earlier result the
            time when it was set aside.
        task, call: from `prune` those of the result, as in its header; "" if they are unknown.
    """

    key: str
    kind: str
    size: int
    modified: float
    task: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The size of a workflow in a store.

    Attributes:
        workflow: its name.
        tasks: the number of its stored results.
        size: bytes of all its blobs, including side data and leftovers, but without earlier
            results.
        earlier: bytes of its earlier results, with side data that only these refer to. Where files
            can be linked, one that was restored is on the disk only once.
    """

    workflow: str
    tasks: int
    size: int
    earlier: int = 0


def verify(store: BlobStore, folder: str, key: Key | None) -> list[Verified]:
    """Check all digests of all results under a folder and of their side data, in threads.

    Args:
        folder: of a workflow; "" for those of all workflows.
    """
    folders = [folder] if folder else ours.workflows(store)
    blobs = (blob for each in folders for blob in store.list(each))
    keys = [blob.key for blob in blobs if is_result(blob.key) or is_earlier(blob.key)]
    found = in_threads(4, lambda name: _verified(store, name, key), keys)
    return [record for record in found if record is not None]


def _verified(store: BlobStore, name: str, key: Key | None) -> Verified | None:
    folder, _, segment = name.partition("/")
    aside, call = is_earlier(name), ""
    if aside:
        call = name.rpartition("-")[2]
    workflow, task, size = name_of(folder) or folder, name_of(segment) or segment, 0
    try:
        info = _checked(store, name, key)
        if not belongs(info, name):
            if aside:
                return None  # two writers at once have exchanged them, and no run uses it
            raise DamagedResultError(
                f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
            )
        # Interned, because many records share the workflow's name.
        workflow, task, size = intern(info.workflow), info.task, info.size
        try:
            size += check_side_data(Blocks(store), f"{folder}/", info.side_data)
        except DamagedResultError:
            if info_of(store, name, signed_by=key).token != info.token:
                return _verified(store, name, key)  # replaced meanwhile, and its side data removed
            raise
    except ResultNotFoundError:
        return None  # removed after it was listed
    except (FunctionFuseError, OSError) as error:
        if isinstance(error, OriginalResultError) and not aside:
            return _original(store, name, Verified(workflow, task, 0, "", note=MADE), key)
        return Verified(workflow, task, size, str(error), call)
    return Verified(workflow, task, size, "", call)


def _original(store: BlobStore, name: str, found: Verified, key: Key | None) -> Verified | None:
    """Return the report on a result of the original Function Fuse; None if it is gone."""
    try:
        info = check_original(found.workflow, found.task, store.blocks(name, BLOCK))
        refuse_unsigned(key)
    except ResultNotFoundError:
        return None
    except (FunctionFuseError, OSError) as error:
        return replace(found, problem=str(error))
    return replace(found, size=info.size)


def _checked(store: BlobStore, name: str, key: Key | None) -> TaskInfo:
    try:
        return check_blocks(store.blocks(name, BLOCK), key)
    except StorageError:  # once more: it may have been replaced during the read
        return check_blocks(store.blocks(name, BLOCK), key)


def collect(store: BlobStore, older_than: float, *, dry_run: bool) -> Iterator[Leftover]:
    """Remove leftovers that are older than `older_than` seconds, and iterate over them."""
    for blob in store.sweep(older_than, dry_run=dry_run):
        yield Leftover(blob.key, "temporary", blob.size, blob.modified)
    before = store.now() - older_than
    others: list[str] = []
    for name in ours.workflows(store):
        # Side data is listed before the headers are read, so that no newer commit is missed.
        side_data = [blob for blob in store.list(name + SIDE_DATA) if blob.modified < before]
        try:
            unused = _unused(store, name, side_data) if side_data else []
        except PermissionError:  # the side data of a result that can't be read is unknown
            if store.remote:
                raise
            unused = []
        if unused:  # what a copy of a result has put there again meanwhile is young
            young = {blob.key for blob in store.list(name + SIDE_DATA) if blob.modified >= before}
            unused = [blob for blob in unused if blob.key not in young]
        aside = [blob for blob in store.list(name + DAMAGED) if blob.modified < before]
        leases = [blob for blob in store.list(name + LEASES) if blob.modified < before]
        found = unused or aside or leases
        if found and not is_own(store, name, list(store.names(name))):
            continue
        left = ours.foreign(store, [blob.key for blob in aside])
        aside = [blob for blob in aside if blob.key not in left]
        others += sorted(left)
        if not dry_run:
            store.delete([blob.key for blob in unused + aside + leases])
        for kind, blobs in (("side data", unused), ("damaged", aside), ("lease", leases)):
            for blob in blobs:
                yield Leftover(blob.key, kind, blob.size, blob.modified)
    ours.warn_of_others(store, others)


def _unused(store: BlobStore, folder: str, side_data: list[BlobInfo]) -> list[BlobInfo]:
    start = len(folder) + len(SIDE_DATA)
    unused = {_first(blob.key, start) for blob in side_data}
    # Earlier results are read before and after the latest ones: a run may set one aside, or restore
    # one, and another process may prune that.
    for where in (folder + EARLIER, folder, folder + EARLIER):
        names = list(segments(store, where))
        for name, data in zip(names, store.heads(where, names, FIRST_READ), strict=True):
            try:
                # Signed or not: a header can keep side data here, and never remove any.
                key = where + name
                info = None if data is None else info_of(store, key, data, signed_by=None)
            except (ResultNotFoundError, OriginalResultError):
                info = None  # removed meanwhile, or its side data is elsewhere
            except (DamagedResultError, NewerFormatError):
                return []  # the side data of a damaged result is unknown, so none is removed
            if info is not None:
                unused.difference_update(_files(folder, info))
    for blob in store.list(folder + DAMAGED):  # a copy of a result of another key, until it goes
        with suppress(FunctionFuseError):
            unused.difference_update(_files(folder, info_of(store, blob.key, signed_by=None)))
    return [blob for blob in side_data if _first(blob.key, start) in unused]


def _files(folder: str, info: TaskInfo) -> list[str]:
    return [f"{folder}{SIDE_DATA}{file}" for side in info.side_data for file, *_ in side.files]


def _first(key: str, start: int) -> str:
    """Return a key up to the end of its first segment after `start`, with the "/" of a folder."""
    return key[: key.find("/", start) + 1] or key


def pruned(
    store: BlobStore,
    workflow_name: str,
    limits: Limits,
    unused_by: Named | None,
    *,
    dry_run: bool,
    signed_by: Key | None,
) -> tuple[list[Leftover], list[str]]:
    """Remove earlier results; return them, and the tasks that are left to remove.

    See `Storage.prune`; the returned results have those of these tasks, too.
    """
    names: set[str] | None = None
    unused: list[BlobInfo] = []
    folder = folder_of(workflow_name)
    if unused_by is not None:
        if unused_by.workflow_name != workflow_name:
            other = unused_by.workflow_name
            raise ValueError(f"unused_by is the workflow {other!r}, and not {workflow_name!r}")
        names = {name for name, _ in unused_by.graph_traversal()}
        used = {key_of(workflow_name, name) for name in names}
        blobs = (blob for blob in store.list(folder) if is_result(blob.key))
        unused = [blob for blob in blobs if blob.key not in used]
        others = ours.foreign(store, [blob.key for blob in unused])
        unused = [blob for blob in unused if blob.key not in others]
    found = prune(
        store, workflow_name, limits, names=names, dry_run=True, signed_by=signed_by
    ).blobs
    keys = [blob.key for blob, _ in found]
    headers = headers_of(store, [*keys, *(blob.key for blob in unused)], signed_by=signed_by)
    removed = []
    for blob, size in [*found, *((blob, blob.size) for blob in unused)]:
        header, kind = headers.get(blob.key), "unused" if is_result(blob.key) else "earlier"
        known = (header.task, header.call) if header else ("", "")
        removed.append(Leftover(blob.key, kind, size, blob.modified, *known))
    if dry_run:
        return removed, []
    earlier.remove(store, folder, keys, headers, signed_by=signed_by)
    return removed, [task_of(store, blob.key) for blob in unused]


def contents_html(title: str, store: BlobStore) -> str:
    """Return the workflows in a store as HTML for a notebook.

    No result is read, and nothing is asked of a store whose answers are requests. Bytes are counted
    for half a second; after that, workflows have only the number of their results.
    """
    if store.remote:
        return block(title, plain("du() returns its workflows and their sizes, by requests"))
    try:
        names = workflows(store)
    except (FunctionFuseError, OSError) as error:
        return block(title, plain(str(error)))
    until = monotonic() + _PATIENCE
    rows = [(name, *_counted(store, name, until)) for name in names[:ROWS]]
    body = table(("workflow", "results", "size"), rows, right=(1, 2)) if rows else ""
    count = f"{len(names):,} workflow{'' if len(names) == 1 else 's'}"
    return block(f"{title}: {count}", body, more(len(names) - ROWS, "workflow"))


def _counted(store: BlobStore, workflow: str, until: float) -> tuple[str, str]:
    """Return number and size of a workflow's results as texts."""
    folder = folder_of(workflow)
    try:
        tasks = total = 0
        for blob in store.list(folder):
            tasks += is_result(blob.key)
            total += blob.size
            if monotonic() > until:
                return f"{sum(1 for _ in segments(store, folder)):,}", "…"
        return f"{tasks:,}", texts.size(total)
    except (FunctionFuseError, OSError) as error:
        return type(error).__name__, ""


def usage(store: BlobStore, folder: str, workflow_name: str, *, signed_by: Key | None) -> Usage:
    """Return the size of a workflow."""
    tasks = size = aside = 0
    keys = []
    some = False
    for blob in store.list(folder):
        tasks += is_result(blob.key)
        size += blob.size
        some = some or blob.key.startswith(folder + SIDE_DATA)
        if is_earlier(blob.key):
            keys.append(blob.key)
            aside += blob.size
    if some:
        for _, info in each_header(store, keys, signed_by=signed_by):
            latest = key_of(workflow_name, info.task)
            if info.side_data and not may_hold(store, latest, info.token, signed_by=signed_by):
                aside += info.side_size
    return Usage(workflow_name, tasks, size - aside, aside)
