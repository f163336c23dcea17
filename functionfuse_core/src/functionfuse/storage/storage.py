"""`Storage`: results by workflow and task name, over any `BlobStore`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import (
    FunctionFuseError,
    ResultExistsError,
    ResultNotFoundError,
)
from ..plugins.hooks import event_hooks
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.base import checked
from ..serializers.refused import Private
from .blobstore import BlobStore, at_once
from .header import TaskInfo
from .inventory import Inventory
from .keys import folder_of
from .ours import mark, mark_saved
from .pruning import Limits
from .resultfile import Origin
from .results import Describe, Reader, Saver
from .safefiles import SafeFiles
from .sidedata import is_of_serializer, known_serializer
from .signing import Key

if TYPE_CHECKING:
    import pandas as pd

    from .lineage import Lineage
    from .pages import StoredReport
    from .runs import Runs

__all__ = ["Storage"]

_PRUNED_EVERY = 50
_FULL = errno.ENOSPC, errno.EDQUOT


class Options(Protocol):
    """The options that a storage uses: see `functionfuse.config.options.StorageOptions`."""

    @property
    def durability(self) -> str: ...
    @property
    def trust(self) -> Any: ...
    @property
    def key(self) -> Any: ...
    @property
    def earlier(self) -> Any: ...
    @property
    def run_records(self) -> bool: ...


class Storage(Private, Inventory):
    """Results of workflows. Several threads and processes may use it at once, without locks.

    A result is replaced as a whole: readers see the old one or the new one. A storage can be
    pickled and used in another process; the pickle has the signing key as clear text.

    Args:
        store: the blob store that stores the bytes.
        options: durability, trust, key, earlier and run_records; by default "auto", "pickle",
            none, 10 GiB and 30 days, and True.

    Attributes:
        always_read: whether the nodes after a saved node get the stored result, read back, instead
            of the object that the node returned. A result with a part whose serializer has
            `always_read`, or with lazy parts that were read to store it, is read back in any case.
        run_records: whether each run leaves a record; see `runs`.
    """

    def __init__(self, store: BlobStore, options: Options | None = None) -> None:
        durability, allow, key = "auto", None, None
        limits: Limits | None = Limits(days=30, size=10 << 30)
        if options is not None:
            durability, earlier = options.durability, options.earlier
            allow = None if options.trust == "pickle" else tuple(options.trust.allow)
            key = Key(options.key.get_secret_value()) if options.key else None
            limits = Limits(days=earlier.days, size=earlier.bytes) if earlier else None
        super().__init__(store, key, limits)
        self.always_read, self.run_records = False, options is None or options.run_records
        self._records: dict[str, int] = {}  # by workflow: a count, see `record_run`
        self._serializers: dict[str, Serializer] = {}
        self._saver = Saver(store, self._serializers, durability, key, earlier=limits is not None)
        self._reader = Reader(store, self._serializers, allow, key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    @property
    def protocols(self) -> dict[str, Any]:
        """The protocols that the storage offers; serializers get those of the workflow's folder."""
        found, signed = self.store.protocols(""), self._key is not None
        files = SafeFiles(found[FILE_PROTOCOL], self.store, "", signed=signed)
        return files.offer(found)

    def register_persistent_serializers(self, *serializers: Serializer) -> None:
        """Register serializers, which then store the values of their types beside the results.

        A serializer replaces a registered one of the same name or type. Raises OptionsError if an
        argument is no serializer.
        """
        for serializer in checked(serializers):
            self._serializers[serializer.name] = serializer

    def new_workflow(self, workflow_name: str) -> None:
        """Make sure that results of the workflow can be saved; stored results stay.

        The workflow gets a marker, so it is listed from now on.

        Raises:
            InvalidNameError: the name is no string, or empty.
            StorageError: nothing can be stored at the location in the options; it says why.
        """
        self.store.prepare(folder_of(workflow_name))
        if not self.store.remote:  # a look is cheap, and another process may have removed it
            self._marked.discard(folder_of(workflow_name))
        mark(self.store, folder_of(workflow_name), self._marked)

    def save(
        self,
        workflow_name: str,
        task_name: str,
        obj: Any,
        *,
        function: str = "",
        seconds: float | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        run: str = "",
        describe: Describe | None = None,
        durable: bool = False,
        if_absent: bool = False,
        replaces: EllipsisType | None = ...,
    ) -> TaskInfo:
        """Store a result, replacing the task's latest one atomically, and return its header.

        Side data is written first, under fresh names. If the latest result is of another call, it
        is set aside: see `earlier`. Writing the result's own blob commits it. Then the side data of
        a replaced result is removed, unless that was set aside.

        Args:
            function: module and qualified name of the function that computed it.
            seconds: the run time of the function.
            fingerprint: the record of code and inputs.
            run: the id of the run that computed it.
            describe: takes the result and its pickle, in the process that saves them, and returns
                `own` and `value` of `TaskInfo`. If it raises, the result is stored, but never
                reused: it has no fingerprint, and a unique `value`.
            durable: when this returns, the result survives a loss of power (unless the option
                `durability` is "rename").
            if_absent: leave an existing result as it is.
            replaces: pass None if no result is stored under these names. Then no header is read.

        Raises:
            UnpicklableResultError: the result can't be pickled. Nothing was stored.
            ResultExistsError: a result exists, and `if_absent` was given.
            OSError: the blob store failed. The previous result is still there. If only the flush
                failed, the new one is there. If the disk is full, earlier results of the workflow
                are removed first, and the save is tried again, unless a serializer raised it.
        """
        try:
            kind = type(obj)
            type_name = f"{kind.__module__}.{kind.__qualname__}"
            save = partial(
                self._saver.save,
                Origin(workflow_name, task_name, function, type_name, seconds, fingerprint, run),
                obj,
                describe=describe,
                durable=durable,
                if_absent=if_absent,
                replaces=replaces,
            )
            try:
                info = save()
            except OSError as error:
                info = self._saved_after(error, workflow_name, save)
        except BaseException as error:
            where = self._where(workflow_name, task_name)
            if if_absent and isinstance(error, FileExistsError):
                raise ResultExistsError(f"{where} is stored already") from None
            note = f"while saving {where}"
            if isinstance(error, OSError) and error.errno in _FULL:
                prune = f"storage.prune({workflow_name!r}, bytes=0)"
                note += f"; {prune} removes the earlier results of the workflow"
            error.add_note(note)
            raise
        if not run:  # a run has called `new_workflow`
            mark_saved(self.store, folder_of(workflow_name), self._marked)
        hooks = event_hooks()
        if hooks:
            about = {"workflow": workflow_name, "task": task_name, "info": info}
            hooks.call("functionfuse_result_saved", storage=self, **about)
        return info

    def _saved_after(
        self, error: OSError, workflow_name: str, save: Callable[[], TaskInfo]
    ) -> TaskInfo:
        """Save again, with fewer and fewer earlier results, if the disk was full."""
        for share in (0.5, 0.25, 0.0):
            # A serializer is called once, and it may be another disk that is full.
            if error.errno not in _FULL or is_of_serializer(error):
                break
            if not self._makes_room(workflow_name, share):
                break
            try:
                return save()
            except OSError as another:
                error = another
        raise error

    def read_task(self, workflow_name: str, task_name: str, *, call: str = "") -> Any:
        """Return a stored result.

        Args:
            call: the digest of a call, as in `TaskInfo`: return the latest or earlier result of
                that call. By default, return the latest result.

        Raises:
            ResultNotFoundError: none is stored under these names.
            DamagedResultError: the stored bytes are not the bytes that were written.
            UnreadableResultError: a class or module of the result is missing here, or it holds
                code for another Python version.
            UntrustedResultError: it is not signed as the options demand, or names a global that
                they don't allow. Nothing of it was unpickled.
            NewerFormatError: a later version of Function Fuse wrote it.
        """
        return self._read(workflow_name, task_name, "", call)

    def read_unchanged(
        self, workflow_name: str, task_name: str, digest: str, call: str = ""
    ) -> Any:
        """Return a stored result as `read_task` does, if its value still has this digest.

        So a run never reads another run's result instead of the one in its plan. If a subclass
        overrides `read_task`, its method is called instead. It reads only the latest result.

        Args:
            digest: see `TaskInfo`; a result with another digest is not found. "" accepts any.
            call: if the latest result has another digest, the earlier one of this call is read.
        """
        if getattr(self.read_task, "__func__", None) is Storage.read_task:
            return self._read(workflow_name, task_name, digest, call)
        if digest and digest != self.task_info(workflow_name, task_name).digest:
            raise self._replaced(workflow_name, task_name)
        value = self.read_task(workflow_name, task_name)
        if digest and digest != self.task_info(workflow_name, task_name).digest:
            raise self._replaced(workflow_name, task_name)  # perhaps before it was read
        return value

    def _read(self, workflow_name: str, task_name: str, digest: str, call: str) -> Any:
        try:
            value = self._reader.read(workflow_name, task_name, digest, call)
        except ResultNotFoundError:
            if digest:
                raise self._replaced(workflow_name, task_name) from None
            raise self._not_found(workflow_name, task_name, call) from None
        except FunctionFuseError as error:
            explained = self._explained(error, workflow_name, task_name)
            raise explained from explained.__cause__
        hooks = event_hooks()
        if hooks:
            names = {"workflow": workflow_name, "task": task_name}
            hooks.call("functionfuse_result_read", storage=self, **names)
        return value

    def _replaced(self, workflow_name: str, task_name: str) -> ResultNotFoundError:
        where = self._where(workflow_name, task_name)
        return ResultNotFoundError(f"the result of {where} is gone, or another one has replaced it")

    def read_again(self, workflow_name: str, task_name: str, info: TaskInfo) -> Any:
        """Return another copy of a big result that this process has saved or read a moment ago.

        Its file is mapped once more, so the copies share memory until one is changed. Its digests
        are not checked again.

        Raises:
            ResultNotFoundError: another result is stored now, or a copy would cost more: it is
                small or has side data, a read is a request, or the storage has a key.
        """
        return self._reader.again(workflow_name, task_name, info)

    def read_tasks(
        self,
        workflow_name: str,
        task_names: Iterable[str],
        *,
        digests: Mapping[str, tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Return several stored results by task name, in the order of the names.

        If a read is a request, many run at once. Raises as `read_task`, for one that can't be read.

        Args:
            digests: by task name, digest and call for `read_unchanged`; by default any result is
                accepted.
        """
        names, digests = list(dict.fromkeys(task_names)), digests or {}

        def read(name: str) -> Any:
            return self.read_unchanged(workflow_name, name, *digests.get(name, ("", "")))

        return dict(zip(names, at_once(self.store, read, names), strict=True))

    def runs(self, workflow_name: str, last: int | None = 50) -> Runs:
        """Return the records of a workflow's newest runs, newest last; reads no value.

        They tell who ran it, when, on which arguments, and what each node did. A run that was
        killed leaves none. The newest 1,000 of a workflow are kept, up to 64 MiB. A record that is
        damaged, of a later version of Function Fuse, or not signed with the storage's key is
        skipped, and logged as a warning. If a read is a request, many run at once.

        Args:
            last: how many records are read, at most; None for all.

        Raises ValueError for another `last`, and OSError if the blob store failed.
        """
        from .runs import read

        return read(self, workflow_name, last, key=self._key)

    def report(
        self, workflow_name: str, run: str | None = None, compare: str | None = None
    ) -> StoredReport:
        """Return the report of a run; its `save` writes a page. Reads no value.

        Args:
            run: its id; None for the newest run. If no run has a record, the headers are read.
            compare: the id of another run; None for the one before.

        Raises NoMatchError for an unknown id, ResultNotFoundError for an unknown workflow.
        """
        from .pages import report

        return report(self, workflow_name, run, compare, key=self._key)

    def record_run(
        self, workflow_name: str, head: Mapping[str, Any], nodes: Mapping[str, Sequence[Any]]
    ) -> None:
        """Store the record of a run; every fiftieth time, remove those that are too many.

        The fields are those of `functionfuse.storage.runrecord.encoded`. Raises OSError.
        """
        from .runs import prune, put

        size = put(self.store, workflow_name, head, nodes, self._key)
        # A process that makes one run only must not begin with 1: no process would remove any.
        begins = int(str(head["id"])[-6:], 16)
        count = self._records[workflow_name] = self._records.get(workflow_name, begins) + 1
        if count % _PRUNED_EVERY == 0:
            prune(self.store, workflow_name, size)

    def lineage(
        self, workflow_name: str, task_name: str, call: str = "", *, down: bool = False
    ) -> Lineage:
        """Return a stored result and those that it was computed from; headers only, no value.

        A result that was removed or replaced meanwhile is there, but not `stored`: another result
        under its name is not taken for it.

        Args:
            call: start from the latest or earlier result of this call; by default from the latest.
            down: return the results that were computed from it instead. All headers of the
                workflow are read.

        Raises as `read_task` if the header of the result itself can't be read.
        """
        from .ancestry import ancestors, descendants

        if not isinstance(call, str):
            raise TypeError(f"call is a text, as in `TaskInfo.call`, and not {call!r}")
        start = self.store, workflow_name, task_name, call
        try:
            return (descendants if down else ancestors)(*start, signed_by=self._key)
        except ResultNotFoundError:
            raise self._not_found(workflow_name, task_name, call) from None
        except FunctionFuseError as error:
            raise self._explained(error, workflow_name, task_name) from error.__cause__

    def to_frame(self, workflow_name: str) -> pd.DataFrame:
        """Return the headers of a workflow's latest results as a table, a row for each task.

        Columns: function, created, seconds, bytes (with side data), type, digest, call, run.
        Damaged results are left out, and logged. Raises PluginError without pandas.
        """
        from .lineage import frame

        return frame(self.store, workflow_name, signed_by=self._key)

    def reads_back(self, info: TaskInfo) -> bool:
        """Return whether the next nodes in a run must get this saved result, read back."""
        if self.always_read or info.read or not info.side_data:
            return self.always_read or info.read
        serializers = (known_serializer(self._serializers, side) for side in info.side_data)
        return any(getattr(serializer, "always_read", False) for serializer in serializers)
