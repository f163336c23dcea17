"""`Storage`: results by workflow and task name, over any `BlobStore`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import DamagedResultError, ResultNotFoundError
from .blobstore import BlobStore
from .keys import folder_of, key_of, name_of
from .resultfile import FIRST_READ, TaskInfo, pack, read_info, unpack

__all__ = ["Storage"]


class Storage:
    """Results of workflows. Used by several threads and processes at once, without locks.

    A result is replaced as a whole: readers see the old one or the new one. A storage can be
    pickled and used in another process.

    Attributes:
        store: the blob store that keeps the bytes.
        always_read: whether what follows a saved node in a run is given the stored result, read
            back, instead of the object that the node returned.
    """

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.always_read = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    def new_workflow(self, workflow_name: str) -> None:
        """Make sure that results of the workflow can be saved; what is stored stays.

        Raises:
            InvalidNameError: the name is no string, or empty.
            StoragePathError: the place that the options name can't be written.
        """
        self.store.prepare(folder_of(workflow_name))

    def save(
        self,
        workflow_name: str,
        task_name: str,
        obj: Any,
        *,
        function: str = "",
        seconds: float | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> TaskInfo:
        """Store a result, replacing an earlier one atomically, and return its header.

        Args:
            function: module and qualified name of what computed it.
            seconds: how long that took.
            fingerprint: what to record of code and inputs.
            durable: when this returns, the result survives a loss of power.

        Raises:
            UnpicklableResultError: the result can't be pickled. Nothing was written.
            OSError: the blob store failed; an earlier result is still there.
        """
        key = key_of(workflow_name, task_name)
        try:
            parts, info = pack(
                obj,
                workflow_name,
                task_name,
                function=function,
                seconds=seconds,
                fingerprint=fingerprint,
            )
            self.store.put(key, parts, durable=durable)
        except Exception as error:
            error.add_note(
                f"while saving task {task_name!r} of workflow {workflow_name!r} in {self!r}"
            )
            raise
        return info

    def read_task(self, workflow_name: str, task_name: str) -> Any:
        """Return a stored result.

        Raises:
            ResultNotFoundError: none is stored under these names.
            DamagedResultError: the stored bytes are not what was written.
        """
        data = self._get(self.store.get, workflow_name, task_name)
        try:
            return unpack(data, workflow_name, task_name)[0]
        except DamagedResultError as error:
            error.add_note(self._damaged(workflow_name, task_name))
            raise

    def task_info(self, workflow_name: str, task_name: str) -> TaskInfo:
        """Return a stored result's header; nothing is unpickled. Raises as `read_task`."""
        try:
            info: TaskInfo = self._get(self._info, workflow_name, task_name)
            if (info.workflow, info.task) != (workflow_name, task_name):
                raise DamagedResultError(
                    f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
                )
        except DamagedResultError as error:
            error.add_note(self._damaged(workflow_name, task_name))
            raise
        return info

    def task_infos(
        self, workflow_name: str, task_names: Iterable[str]
    ) -> Iterator[TaskInfo | DamagedResultError | None]:
        """Iterate the headers of tasks, in order.

        Where nothing is stored there is None, and where a header is damaged, the error.
        """
        for name in task_names:
            try:
                yield self.task_info(workflow_name, name)
            except ResultNotFoundError:
                yield None
            except DamagedResultError as error:
                yield error

    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Tell whether a result is stored under these names; its bytes are not checked."""
        try:
            self.store.head(key_of(workflow_name, task_name), 1)
        except ResultNotFoundError:
            return False
        return True

    def list_tasks(self, workflow_name: str, pattern: str = "*") -> list[str]:
        """Return the sorted names of stored results that match a glob pattern, or are equal to it.

        A workflow of which nothing is stored has no tasks: the list is empty.
        """
        folder = folder_of(workflow_name)
        segments = (name for name in self.store.names(folder) if name[0] != "." and name[-1] != "/")
        names = (name_of(s) or self._info(folder + s).task for s in segments)
        if pattern == "*":
            return sorted(names)
        matches = re.compile(fnmatch.translate(pattern)).match
        return sorted(name for name in names if matches(name) or name == pattern)

    def remove_task(
        self, workflow_name: str, task_name: str | None = None, pattern: str | None = None
    ) -> None:
        """Remove one result, or all whose names match a glob pattern (which goes first if given).

        Raises:
            ResultNotFoundError: there is none of that name, or none that matches.
            ValueError: neither a name nor a pattern is given.
        """
        if pattern is not None:
            names = self.list_tasks(workflow_name, pattern)
            if not names:
                raise ResultNotFoundError(
                    f"workflow {workflow_name!r} has no stored task that matches {pattern!r}"
                    f" in {self!r}"
                )
        elif task_name is None:
            raise ValueError("remove_task takes a task_name or a pattern")
        else:
            if not self.file_exists(workflow_name, task_name):
                raise self._not_found(workflow_name, task_name)
            names = [task_name]
        self.store.delete([key_of(workflow_name, name) for name in names])

    def remove_workflow(self, workflow_name: str) -> None:
        """Remove all that is stored for a workflow.

        Raises:
            ResultNotFoundError: nothing is.
            InvalidNameError: the name is no string, or empty.
        """
        folder = folder_of(workflow_name)
        keys = [info.key for info in self.store.list(folder)]
        if not keys and folder not in self.store.names(""):
            raise ResultNotFoundError(f"no workflow {workflow_name!r} is stored in {self!r}")
        self.store.delete([*keys, folder])

    def _get(self, read: Callable[[str], Any], workflow_name: str, task_name: str) -> Any:
        try:
            return read(key_of(workflow_name, task_name))
        except ResultNotFoundError:
            raise self._not_found(workflow_name, task_name) from None

    def _info(self, key: str) -> TaskInfo:
        data = self.store.head(key, FIRST_READ)
        info = read_info(data)
        while isinstance(info, int):
            asked, data = len(data), self.store.head(key, info)
            if len(data) <= asked:
                raise DamagedResultError(f"the blob is cut within its header, at byte {asked}")
            info = read_info(data)
        return info

    def _not_found(self, workflow_name: str, task_name: str) -> ResultNotFoundError:
        return ResultNotFoundError(
            f"no result of task {task_name!r} of workflow {workflow_name!r} is stored in {self!r}"
        )

    def _damaged(self, workflow_name: str, task_name: str) -> str:
        return (
            f"the stored result of task {task_name!r} of workflow {workflow_name!r} in {self!r} is"
            " damaged; remove it, or run the workflow again to replace it"
        )
