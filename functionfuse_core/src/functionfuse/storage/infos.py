"""What stored headers tell of tasks, each checked to be the task's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    ResultNotFoundError,
    UntrustedResultError,
)
from .blobstore import BlobStore
from .header import FIRST_READ, Stored, TaskInfo, names_in_header, read_info, read_stored
from .headers import Head, info_of, remembered_heads
from .keys import folder_of, key_of, segment_of

__all__ = ["infos_of_tasks", "own_info", "refuse_other"]


def own_info(store: BlobStore, workflow: str, task: str) -> TaskInfo:
    """Return the header of a task's result; see `info_of`."""
    info = info_of(store, key_of(workflow, task))
    refuse_other(info, workflow, task)
    return info


def infos_of_tasks(
    store: BlobStore, workflow: str, tasks: Iterable[str]
) -> Iterator[Stored | FunctionFuseError | None]:
    """Iterate the headers of tasks; see `Storage.task_infos`."""
    folder = folder_of(workflow)
    if store.concurrency > 1:
        tasks = list(tasks)
        heads = remembered_heads(store, folder, [segment_of(task) for task in tasks])
        for task, head in zip(tasks, heads, strict=True):
            yield _stored(head, workflow, task)
        return
    for task in tasks:
        try:
            data = store.head(folder + segment_of(task), FIRST_READ)
            stored = read_stored(data, names_in_header(workflow, task))
            yield stored or Stored.of(own_info(store, workflow, task))
        except ResultNotFoundError:
            yield None
        except (DamagedResultError, NewerFormatError, UntrustedResultError) as error:
            yield error


def refuse_other(info: TaskInfo, workflow: str, task: str) -> None:
    """Raise if a header is another task's.

    Raises:
        ResultNotFoundError: the names differ by upper and lower case: the file system doesn't tell
            these apart.
        DamagedResultError: they differ otherwise.
    """
    if info.task == task and info.workflow == workflow:
        return
    if f"{info.workflow}/{info.task}".casefold() == f"{workflow}/{task}".casefold():
        raise ResultNotFoundError(f"{workflow}/{task}")
    raise DamagedResultError(
        f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
    )


def _stored(head: Head, workflow: str, task: str) -> Stored | FunctionFuseError | None:
    """Return what a header's bytes tell."""
    if not isinstance(head, bytes):
        return head
    stored = read_stored(head, names_in_header(workflow, task))
    if stored is not None:
        return stored
    try:
        info = read_info(head)
        assert isinstance(info, TaskInfo)
        refuse_other(info, workflow, task)
    except ResultNotFoundError:
        return None
    except (DamagedResultError, NewerFormatError) as error:
        return error
    return Stored.of(info)
