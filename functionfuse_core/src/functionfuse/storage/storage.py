"""`Storage`: results by workflow and task name, over any `BlobStore`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import EllipsisType
from typing import Any, Protocol

from xxhash import xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    PluginError,
    ResultExistsError,
    ResultNotFoundError,
    StorageError,
    UnknownKindError,
)
from ..plugins.hooks import event_hooks
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.base import checked
from ..serializers.installed import serializer_for
from .blobstore import BlobStore
from .catalog import (
    ABANDONED_AFTER,
    beside,
    everything,
    infos_of_tasks,
    own_info,
    task_of,
    tasks,
    workflows,
)
from .header import SideData, Summary, TaskInfo
from .keys import DAMAGED, LEASES, folder_of, key_of, segment_of
from .lease import Lease
from .resultfile import Origin, check
from .results import Describe, Reader, Saver
from .sidedata import SafeFiles
from .upkeep import Leftover, Usage, Verified, collect, usage, verify

__all__ = ["Storage"]


class Options(Protocol):
    """The options that a storage uses: see `functionfuse.config.options.StorageOptions`."""

    @property
    def durability(self) -> str: ...
    @property
    def trust(self) -> Any: ...
    @property
    def key(self) -> Any: ...


class Storage:
    """Results of workflows. Several threads and processes may use it at once, without locks.

    A result is replaced as a whole: readers see the old one or the new one. A storage can be
    pickled and used in another process; the pickle has the signing key as clear text.

    Args:
        store: the blob store that stores the bytes.
        options: durability, trust and key; by default "auto", "pickle" and none.

    Attributes:
        always_read: whether the nodes after a saved node get the stored result, read back, instead
            of the object that the node returned. A result with a part whose serializer has
            `always_read` is read back in any case.
    """

    def __init__(self, store: BlobStore, options: Options | None = None) -> None:
        self.store = store
        self.always_read = False
        durability, allow, self._key = "auto", None, None
        if options is not None:
            durability = options.durability
            allow = None if options.trust == "pickle" else tuple(options.trust.allow)
            self._key = options.key.get_secret_value().encode() if options.key else None
        self._serializers: dict[str, Serializer] = {}
        self._saver = Saver(store, self._serializers, durability, self._key)
        self._reader = Reader(store, self._serializers, allow, self._key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    @property
    def protocols(self) -> dict[str, Any]:
        """The protocols that the storage offers; serializers get those of the workflow's folder."""
        protocols = self.store.protocols("")
        return {**protocols, FILE_PROTOCOL: SafeFiles(protocols[FILE_PROTOCOL])}

    def register_persistent_serializers(self, *serializers: Serializer) -> None:
        """Register serializers, which then store the values of their types beside the results.

        A serializer replaces an earlier one of the same name or type.

        Raises:
            OptionsError: an argument is no serializer.
        """
        for serializer in checked(serializers):
            self._serializers[serializer.name] = serializer

    def new_workflow(self, workflow_name: str) -> None:
        """Make sure that results of the workflow can be saved; stored results stay.

        Raises:
            InvalidNameError: the name is no string, or empty.
            StoragePathError: the location in the options can't be written.
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
        describe: Describe | None = None,
        durable: bool = False,
        if_absent: bool = False,
        replaces: TaskInfo | Summary | EllipsisType | None = ...,
    ) -> TaskInfo:
        """Store a result, replacing an earlier one atomically, and return its header.

        Side data is written first, under fresh names. Writing the result's own blob commits it.
        Then the side data of the replaced result is removed.

        Args:
            function: module and qualified name of the function that computed it.
            seconds: the run time of the function.
            fingerprint: the record of code and inputs.
            describe: takes the result and its pickle, in the process that saves them, and returns
                `own` and `value` of `TaskInfo`. If it raises, the result is stored, but never
                reused: it has no fingerprint, and a unique `value`.
            durable: when this returns, the result survives a loss of power (unless the option
                `durability` is "rename").
            if_absent: leave an existing result as it is.
            replaces: the header of the replaced result, whose side data is removed then; None if
                there is no such result. By default the header is read.

        Raises:
            UnpicklableResultError: the result can't be pickled. Nothing was stored.
            ResultExistsError: a result exists, and `if_absent` was given.
            OSError: the blob store failed. The earlier result is still there; or the new one, if
                only making it durable failed.
        """
        try:
            kind = type(obj)
            type_name = f"{kind.__module__}.{kind.__qualname__}"
            info = self._saver.save(
                Origin(workflow_name, task_name, function, type_name, seconds, fingerprint),
                obj,
                describe=describe,
                durable=durable,
                if_absent=if_absent,
                replaces=replaces,
            )
        except BaseException as error:
            where = self._where(workflow_name, task_name)
            if if_absent and isinstance(error, FileExistsError):
                raise ResultExistsError(f"{where} is stored already") from None
            error.add_note(f"while saving {where}")
            raise
        hooks = event_hooks()
        if hooks:
            about = {"workflow": workflow_name, "task": task_name, "info": info}
            hooks.call("functionfuse_result_saved", storage=self, **about)
        return info

    def read_task(self, workflow_name: str, task_name: str) -> Any:
        """Return a stored result.

        Raises:
            ResultNotFoundError: none is stored under these names.
            DamagedResultError: the stored bytes are not the bytes that were written.
            UnreadableResultError: a class or module of the result is missing here, or it holds
                code for another Python version.
            UntrustedResultError: it is not signed as the options demand, or names a global that
                they don't allow. Nothing of it was unpickled.
            NewerFormatError: a later version of Function Fuse wrote it.
        """
        return self._read(workflow_name, task_name, "")

    def read_unchanged(self, workflow_name: str, task_name: str, digest: str) -> Any:
        """Return a stored result as `read_task` does, if its value still has this digest.

        So a run that has planned with a header never reads a later result of another run. If a
        subclass overrides `read_task`, that is called instead, without the digest.

        Args:
            digest: see `TaskInfo`; a result with another digest is not found. "" accepts any.
        """
        if getattr(self.read_task, "__func__", None) is not Storage.read_task:
            return self.read_task(workflow_name, task_name)
        return self._read(workflow_name, task_name, digest)

    def _read(self, workflow_name: str, task_name: str, digest: str) -> Any:
        try:
            value = self._reader.read(workflow_name, task_name, digest)
        except ResultNotFoundError:
            if not digest:
                raise self._not_found(workflow_name, task_name) from None
            raise ResultNotFoundError(
                f"the result of {self._where(workflow_name, task_name)} is gone, or another one has"
                " replaced it"
            ) from None
        except FunctionFuseError as error:
            explained = self._explained(error, workflow_name, task_name)
            raise explained from explained.__cause__
        hooks = event_hooks()
        if hooks:
            names = {"workflow": workflow_name, "task": task_name}
            hooks.call("functionfuse_result_read", storage=self, **names)
        return value

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
        digests: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return several stored results by task name, in the order of the names.

        If a read is a request, many run at once. Raises as `read_task`, for one that can't be read.

        Args:
            digests: by task name, as for `read_unchanged`; by default any digest is accepted.
        """
        names, digests = list(dict.fromkeys(task_names)), digests or {}

        def read(name: str) -> Any:
            return self.read_unchanged(workflow_name, name, digests.get(name, ""))

        workers = min(self.store.concurrency, len(names))
        if workers <= 1:
            return {name: read(name) for name in names}
        with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
            return dict(zip(names, pool.map(read, names), strict=True))

    def remember(self, workflow_name: str) -> None:
        """Let the store keep whatever makes later plans quicker; see `BlobStore.finish`.

        Called at the end of a run.
        """
        self.store.finish(folder_of(workflow_name))

    def reads_back(self, info: TaskInfo) -> bool:
        """Return whether the next nodes in a run must get this saved result, read back."""
        if self.always_read or not info.side_data:
            return self.always_read
        serializers = map(self._serializer_of, info.side_data)
        return any(getattr(serializer, "always_read", False) for serializer in serializers)

    def task_info(self, workflow_name: str, task_name: str) -> TaskInfo:
        """Return a stored result's header; nothing is unpickled. Raises as `read_task`."""
        try:
            return own_info(self.store, workflow_name, task_name)
        except FunctionFuseError as error:
            explained = self._explained(error, workflow_name, task_name)
            raise explained from explained.__cause__

    def task_infos(
        self, workflow_name: str, task_names: Iterable[str]
    ) -> Iterator[Summary | FunctionFuseError | None]:
        """Iterate over the headers of tasks, in order, for a plan; see `BlobStore.heads`.

        An item is None if nothing is stored, and the error if a result is of no use.
        """
        return infos_of_tasks(self.store, workflow_name, task_names)

    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Return whether a result is stored under these names; its bytes are not checked."""
        try:
            self.task_info(workflow_name, task_name)
        except ResultNotFoundError:
            return False
        except StorageError:
            raise  # the answer is unknown
        except FunctionFuseError:
            return True  # a damaged result is stored, too
        return True

    def list_workflows(self) -> list[str]:
        """Return the sorted names of the workflows that have results."""
        return workflows(self.store)

    def list_tasks(self, workflow_name: str, pattern: str = "*") -> list[str]:
        """Return the sorted names of stored results that match a glob pattern, or are equal to it.

        The list is empty for a workflow without stored results.
        """
        names = tasks(self.store, folder_of(workflow_name))
        if pattern == "*":
            return names
        matches = re.compile(fnmatch.translate(pattern)).match
        return [name for name in names if matches(name) or name == pattern]

    def remove_task(
        self, workflow_name: str, task_name: str | None = None, pattern: str | None = None
    ) -> None:
        """Remove one result; or, if a glob pattern is given, all results whose names match it.

        Their side data is removed after them, without serializers.

        Raises:
            ResultNotFoundError: no result has that name, or none matches.
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
            names = [task_name]
        keys = [key_of(workflow_name, name) for name in names]
        side_data = []
        for key, info in zip(keys, self.task_infos(workflow_name, names), strict=True):
            if isinstance(info, Summary):
                side_data += beside(self.store, key, info)
            elif info is None and task_name is not None and pattern is None:
                raise self._not_found(workflow_name, task_name)
        self.store.delete(keys)
        self._call_removed_hooks(workflow_name, names)
        self.store.delete(side_data)

    def remove_workflow(self, workflow_name: str) -> None:
        """Remove all blobs of a workflow: the results first, then the others.

        Raises:
            ResultNotFoundError: it has none.
            InvalidNameError: the name is no string, or empty.
        """
        folder = folder_of(workflow_name)
        # Compare names: on a file system that folds case, a read would find another workflow.
        if folder not in self.store.names(""):
            raise ResultNotFoundError(f"no workflow {workflow_name!r} is stored in {self!r}")
        results, others = everything(self.store, folder)
        names = [task_of(self.store, key) for key in results] if event_hooks() else []
        self.store.delete(results)
        self._call_removed_hooks(workflow_name, names)
        self.store.delete([*others, folder])

    def verify(self, workflow_name: str | None = None) -> list[Verified]:
        """Check every byte of all results, or of one workflow's, and of their side data.

        Nothing is unpickled, changed or locked; several threads read. Returns one record for each
        result, in the order of the keys; `problem` is "" for a sound result.
        """
        return verify(self.store, self._folder(workflow_name), self._key)

    def gc(self, older_than: float = ABANDONED_AFTER, *, dry_run: bool = False) -> list[Leftover]:
        """Remove leftovers, and return them.

        Leftovers are temporaries of killed writers, side data that no result refers to, damaged
        results that runs have set aside, and leases of runs that died. Safe beside running
        workflows as long as no save takes longer than `older_than`.

        Args:
            older_than: in seconds, on the storage's own clock; younger leftovers stay.
            dry_run: remove nothing, and only return the leftovers.
        """
        return list(collect(self.store, older_than, dry_run=dry_run))

    def du(self, workflow_name: str | None = None) -> list[Usage]:
        """Return the size of each workflow, or of one; lists keys, and reads no result."""
        names = self.list_workflows() if workflow_name is None else [workflow_name]
        return [usage(self.store, folder_of(name), name) for name in names]

    def set_aside(self, workflow_name: str, task_name: str) -> bool:
        """Copy a result's bytes to another key, if they are damaged or of a newer format.

        `gc` removes the copy later. The result itself stays until it is replaced or removed, so a
        sound result that another writer has stored meanwhile is safe. Returns whether it was
        copied.
        """
        key, folder = key_of(workflow_name, task_name), folder_of(workflow_name)
        try:
            data = self.store.get(key)
            check(data)
        except ResultNotFoundError:
            return False
        except (DamagedResultError, NewerFormatError):
            aside = f"{folder}{DAMAGED}{segment_of(task_name)}/{xxh3_128_hexdigest(data)}"
            self.store.put(aside, [data])
            return True
        return False

    def lease(self, workflow_name: str, task_name: str) -> Lease:
        """Return the lease on computing a task's result: see `Lease`. Nothing is written yet."""
        folder = folder_of(workflow_name)
        return Lease(self.store, f"{folder}{LEASES}{segment_of(task_name)}")

    def _explained(
        self, error: FunctionFuseError, workflow_name: str, task_name: str
    ) -> FunctionFuseError:
        """Return an error that names the task."""
        if isinstance(error, ResultNotFoundError):
            return self._not_found(workflow_name, task_name)
        note = f"while reading {self._where(workflow_name, task_name)}"
        if not isinstance(error, StorageError):
            note += "; remove it, or run the workflow again, to be rid of it"
        error.add_note(note)
        return error

    def _serializer_of(self, side: SideData) -> Serializer | None:
        """Return the serializer of side data, if it is registered or installed here."""
        registered = self._serializers.get(side.serializer)
        if registered is not None or not side.type:
            return registered
        try:
            return serializer_for(side.type)
        except (PluginError, UnknownKindError):
            return None

    def _call_removed_hooks(self, workflow_name: str, names: Iterable[str]) -> None:
        hooks = event_hooks()
        if hooks:
            for name in names:
                about = {"workflow": workflow_name, "task": name}
                hooks.call("functionfuse_result_removed", storage=self, **about)

    def _folder(self, workflow_name: str | None) -> str:
        return "" if workflow_name is None else folder_of(workflow_name)

    def _not_found(self, workflow_name: str, task_name: str) -> ResultNotFoundError:
        return ResultNotFoundError(
            f"no result of task {task_name!r} of workflow {workflow_name!r} is stored in {self!r}"
        )

    def _where(self, workflow_name: str, task_name: str) -> str:
        return f"task {task_name!r} of workflow {workflow_name!r} in {self!r}"
