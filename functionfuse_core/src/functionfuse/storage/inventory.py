"""`Inventory`: the stored results by name, without their values: list, remove, check, prune."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from time import time
from typing import TYPE_CHECKING, cast

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    ResultNotFoundError,
)
from ..plugins.hooks import event_hooks
from . import earlier
from .blobstore import BlobStore
from .catalog import (
    infos_of_tasks,
    matching,
    own_info,
    tasks,
    workflows,
)
from .earlier import EarlierResults, Info
from .header import TaskInfo
from .keys import EARLIER, LEASES, folder_of, segment_of
from .lease import Lease
from .pruning import Limits, Pruned, limits_of, prune
from .removing import ABANDONED_AFTER, keep_damaged, remove_tasks, remove_workflow
from .signing import Key
from .summary import Summary
from .upkeep import (
    Leftover,
    Named,
    Usage,
    Verified,
    collect,
    contents_html,
    pruned,
    usage,
    verify,
)

if TYPE_CHECKING:
    from .copying import Copied, Target
    from .signanew import Signable, Signed

__all__ = ["Inventory"]

logger = logging.getLogger(__name__)


class Inventory:
    """The part of a `Storage` that reads no values.

    Args:
        store: the blob store that stores the bytes.
        key: checks signatures.
        limits: for the earlier results of a workflow; None keeps none.
    """

    def __init__(self, store: BlobStore, key: Key | None, limits: Limits | None) -> None:
        self.store = store
        self._key = key
        self._limits = limits
        self._marked: set[str] = set()  # folders: see `ours.mark`
        self._room: dict[str, tuple[float, float]] = {}  # by workflow: see `Pruned`

    def _repr_html_(self) -> str:
        return contents_html(repr(self), self.store)

    def task_info(self, workflow_name: str, task_name: str) -> TaskInfo:
        """Return a stored result's header; nothing is unpickled. Raises as `read_task`."""
        try:
            return own_info(self.store, workflow_name, task_name, signed_by=self._key)
        except FunctionFuseError as error:
            explained = self._explained(error, workflow_name, task_name)
            raise explained from explained.__cause__

    def task_infos(
        self, workflow_name: str, task_names: Iterable[str], *, originals: Collection[str] = ()
    ) -> Iterator[Summary | FunctionFuseError | None]:
        """Iterate over the headers of tasks, in order, for a plan; see `BlobStore.heads`.

        An item is None if nothing is stored, and the error if a result is of no use.

        Args:
            originals: names of tasks. If the original Function Fuse wrote their results, these are
                read as a whole and checked; for others, the item is an `OriginalResultError`.
        """
        where = self.store, workflow_name
        return infos_of_tasks(*where, task_names, originals, signed_by=self._key)

    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Return whether a result is stored under these names; its bytes are not checked."""
        [found] = self.task_infos(workflow_name, [task_name])
        return found is not None

    def list_workflows(self) -> list[str]:
        """Return the sorted names of the workflows: those made here, and those with a result.

        A workflow stays until `remove_workflow`. Other folders and files are not shown: see
        docs/reliability.md. Asks once for each workflow; if that is a request, many at once.
        """
        return workflows(self.store)

    def list_tasks(self, workflow_name: str, pattern: str = "*") -> list[str]:
        """Return the sorted names of stored results that match a glob pattern, or are equal to it.

        The list is empty for a workflow without stored results. No file is read, so another
        file in the workflow's folder is in the list, too.
        """
        return matching(tasks(self.store, folder_of(workflow_name)), pattern)

    def earlier(self, workflow_name: str, task_name: str | None = None) -> list[TaskInfo]:
        """Return the headers of a task's earlier results, last computed first; reads no value.

        Without a task, it returns those of all tasks.

        Their calls (code or inputs) differ from that of the latest result. `read_task` reads one
        by the `call` in its header. A run reuses one when it needs its call again.
        """
        return earlier.of_tasks(self.store, workflow_name, task_name, signed_by=self._key)

    def remove_task(
        self, workflow_name: str, task_name: str | None = None, pattern: str | None = None
    ) -> None:
        """Remove the results of a task; or of all tasks whose names match a glob pattern.

        Earlier results are removed, too. Side data is removed after them, without serializers. A
        file that doesn't begin as a result is left, and a warning says how many.

        Raises:
            ResultNotFoundError: no result has that name, or none matches.
            DamagedResultError: no file of these names begins as a result, nor has earlier ones.
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
        tell = partial(self._call_removed_hooks, workflow_name)
        try:
            remove_tasks(self.store, workflow_name, names, tell, signed_by=self._key)
        except ResultNotFoundError:
            raise self._not_found(workflow_name, names[0]) from None

    def remove_workflow(self, workflow_name: str) -> None:
        """Remove all blobs of a workflow: the results first, then the others, the marker last.

        Files in its folder that are not ours are left, and a warning says how many.

        Raises:
            ResultNotFoundError: there is no such workflow; perhaps a folder with other files.
            InvalidNameError: the name is no string, or empty.
        """
        tell = partial(self._call_removed_hooks, workflow_name) if event_hooks() else None
        try:
            remove_workflow(self.store, workflow_name, tell)
        except ResultNotFoundError as error:
            raise ResultNotFoundError(
                f"no workflow {workflow_name!r} is stored in {self!r}{error}"
            ) from None
        self._marked.discard(folder_of(workflow_name))

    def prune(
        self,
        workflow_name: str,
        *,
        days: float | None = None,
        bytes: int | str | None = None,  # noqa: A002  # the name of the option
        keep: int | None = None,
        unused_by: Named | None = None,
        dry_run: bool = False,
    ) -> list[Leftover]:
        """Remove earlier results of a workflow, with their side data, and return them.

        Without arguments, the limits of the option `earlier` are used. Latest results stay, and all
        that are not signed with the key. A run computes a result again if it is gone.

        Args:
            days: remove results that were set aside more than this many days ago.
            bytes: keep at most this size with side data, a number or a text as "10 GiB"; remove
                the results that were set aside first.
            keep: for each task, keep at most this many, the first of `earlier`.
            unused_by: a workflow; remove all results, even the latest, of tasks that are not nodes
                of its graph now, for example after nodes were renamed.
            dry_run: remove nothing, and only return the results.

        Raises:
            ValueError: a limit is no number from 0 on, or `unused_by` has another name.
        """
        limits = limits_of(days, bytes, keep)
        if unused_by is None and limits == Limits():
            limits = self._limits or Limits(size=0)
        where, by = (self.store, workflow_name), self._key
        removed, unused = pruned(*where, limits, unused_by, dry_run=dry_run, signed_by=by)
        if unused:
            with suppress(ResultNotFoundError):  # removed meanwhile
                tell = partial(self._call_removed_hooks, workflow_name)
                remove_tasks(*where, unused, tell, signed_by=by)
        return removed

    def copy(
        self,
        workflow_name: str,
        to: Target,
        pattern: str = "*",
        *,
        earlier: bool = False,
        runs: bool = False,
        dry_run: bool = False,
    ) -> list[Copied]:
        """Copy results of a workflow to another storage, with side data, and return what was done.

        Their bytes are checked, and never unpickled. Headers stay equal, so a run there reuses the
        results. A result that is there already is left, so a copy that was killed can be started
        again. Another result under the name of a copied one is replaced as by `save`, even if it is
        newer: see `earlier`. A damaged or wrongly signed result is not copied: see
        `Copied.problem`. Side data that a result there has is never overwritten. Workflows can go
        on meanwhile, in both storages.

        Args:
            to: the other `Storage`, of any kind. If it has another key, results are signed with it.
            pattern: a glob pattern for names of tasks, as in `list_tasks`.
            earlier: copy earlier results of these tasks, too; the limits of `to` hold.
            runs: copy all run records of the workflow, too.
            dry_run: copy nothing, read headers only, and return what would be done.

        Raises:
            ResultNotFoundError: no result matches.
            ValueError: `to` is this storage.
            OptionsError: `earlier` was given, and `to` keeps no earlier results.
            OSError: a store failed. What was copied stays.
        """
        from .copying import copy  # most processes copy nothing

        own = cast("Signable", self)  # always a `Storage`
        return copy(own, to, workflow_name, pattern, earlier=earlier, runs=runs, dry_run=dry_run)

    def sign(self, workflow_name: str | None = None, *, dry_run: bool = False) -> list[Signed]:
        """Sign results and run records that this key has not signed, and return what was done.

        **Who calls it trusts every byte that is there.** Headers keep their other fields, so runs
        reuse the results. It can be called again after an error. Let no workflow run meanwhile.
        Without a name, it signs all. A dry run reads headers. Raises OptionsError, and as `copy`.
        """
        from .signanew import sign

        own = cast("Signable", self)  # always a `Storage`
        names = self.list_workflows() if workflow_name is None else [workflow_name]
        return [each for name in names for each in sign(own, name, dry_run=dry_run)]

    def verify(self, workflow_name: str | None = None) -> list[Verified]:
        """Check every byte of all results, or of one workflow's, and of their side data.

        Nothing is unpickled, changed or locked; several threads read. Returns one record for each
        result, in the order of the keys; `problem` is "" for a sound result.
        """
        folder = "" if workflow_name is None else folder_of(workflow_name)
        return verify(self.store, folder, self._key)

    def gc(self, older_than: float = ABANDONED_AFTER, *, dry_run: bool = False) -> list[Leftover]:
        """Remove leftovers, and return them.

        Leftovers are temporaries of killed writers, side data that no result refers to, copies of
        damaged results, and leases of runs that died, in workflows only; see `list_workflows`. A
        copy that doesn't begin as a result is left. Safe beside running workflows as long as no
        save takes longer than `older_than`.

        Args:
            older_than: in seconds, on the storage's own clock; younger leftovers stay.
            dry_run: remove nothing, and only return the leftovers.
        """
        return list(collect(self.store, older_than, dry_run=dry_run))

    def du(self, workflow_name: str | None = None) -> list[Usage]:
        """Return the size of each workflow, or of one; lists keys, and reads no value.

        Headers of earlier results are read if the workflow has side data.
        """
        names = self.list_workflows() if workflow_name is None else [workflow_name]
        return [usage(self.store, folder_of(name), name, signed_by=self._key) for name in names]

    def earlier_results(self, workflow_name: str) -> EarlierResults | None:
        """Return the earlier results of a workflow, for a plan; None if none are kept."""
        if not self._limits:
            return None
        return EarlierResults(self.store, workflow_name, signed_by=self._key)

    def _makes_room(self, workflow_name: str, share: float) -> bool:
        """Remove the earlier results that were set aside first; return whether there were any.

        Args:
            share: the part of their bytes that stays.
        """
        try:
            blobs = list(self.store.list(folder_of(workflow_name) + EARLIER))
            limits = Limits(size=int(share * sum(blob.size for blob in blobs)))
            removed = self._pruned(workflow_name, limits).blobs
        except OSError:
            return False  # the save raises its own error
        if removed:
            logger.warning(
                "the disk is full: %d earlier result(s) of workflow %r are removed",
                *(len(removed), workflow_name),
            )
        return bool(removed)

    def _pruned(self, workflow_name: str, limits: Limits) -> Pruned:
        return prune(self.store, workflow_name, limits, dry_run=False, signed_by=self._key)

    def restore(
        self, workflow_name: str, tasks: Mapping[str, tuple[str, Info]]
    ) -> dict[str, Exception]:
        """Make earlier results the latest ones again; return the errors, by task.

        The latest results are set aside. No blob is removed, and each task has a whole result at
        any time.

        Args:
            tasks: for each task the call of the earlier result, and the header of the latest one.
        """
        return earlier.restore(self.store, workflow_name, tasks, signed_by=self._key)

    def remember(self, workflow_name: str, *, set_aside: int = 0) -> None:
        """End a run: let the store keep what makes later plans quicker; see `BlobStore.finish`.

        If results were set aside, the limits of the option `earlier` are enforced. Each process
        lists the earlier results once, and again when its own could exceed a limit.

        Args:
            set_aside: the size of results that were set aside, in bytes.

        Raises:
            OSError: this failed. No latest result is affected.
        """
        self.store.finish(folder_of(workflow_name))
        if set_aside and self._limits:
            room, until = self._room.get(workflow_name, (0.0, 0.0))
            room -= set_aside
            if room < 0 or time() > until:
                done = self._pruned(workflow_name, self._limits)
                room, until = done.room, time() + done.seconds
            self._room[workflow_name] = room, until

    def keep_damaged(self, workflow_name: str, task_name: str) -> bool:
        """Copy a result's bytes to another key, if they are damaged or of a newer format.

        `gc` removes the copy later. The result itself stays until it is replaced or removed, so a
        sound result that another writer has stored meanwhile is safe. Returns whether it was
        copied.
        """
        return keep_damaged(self.store, workflow_name, task_name)

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
        if isinstance(error, (DamagedResultError, NewerFormatError)):
            note += "; run the workflow again, or save another result, to be rid of it"
        error.add_note(note)
        return error

    def _call_removed_hooks(self, workflow_name: str, names: Iterable[str]) -> None:
        hooks = event_hooks()
        if hooks:
            for name in names:
                about = {"workflow": workflow_name, "task": name}
                hooks.call("functionfuse_result_removed", storage=self, **about)

    def _not_found(self, workflow_name: str, task_name: str, call: str = "") -> ResultNotFoundError:
        if call:
            where = self._where(workflow_name, task_name)
            return ResultNotFoundError(f"no result of call {call!r} is stored for {where}")
        return ResultNotFoundError(
            f"no result of task {task_name!r} of workflow {workflow_name!r} is stored in {self!r}"
        )

    def _where(self, workflow_name: str, task_name: str) -> str:
        return f"task {task_name!r} of workflow {workflow_name!r} in {self!r}"
