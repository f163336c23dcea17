"""Copy results of a workflow from one storage to another: bytes, which are checked as they pass.

Both storages are listed, and headers of results that are in both are compared: if the header in the
target is the one that a copy would have there, the result is left. Small results without side data
are copied first, many at once if a request is slow. Big ones, and those with side data, follow one
by one, and their files or pieces go at once. Side data is put first, and the result's own blob
commits it, as in a save. A store takes a blob all or nothing, so the check of the last byte comes
in time: if it fails, nothing is stored under the result's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from os.path import realpath
from typing import Protocol

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    OptionsError,
    ResultNotFoundError,
    StorageError,
    UntrustedResultError,
)
from ..serializers import Serializer
from .blobstore import BlobInfo, BlobStore, Buffer, Streamed, at_once
from .carrying import Carried, slower
from .catalog import belongs, head_of, is_result, matching, may_hold
from .earlier import refuse_older_gc
from .filestore import FileStore
from .header import DIGEST_AT, FIRST_READ, HEADER_AT, TaskInfo, sealed
from .keys import RUNS, folder_of
from .listed import Item, earlier_of, is_own, is_segment, latest_of, planted
from .ours import has_result
from .passing import Passing, strengthened
from .resultfile import trusted
from .results import Saver
from .runrecord import decoded, fields_of, nodes_of
from .runs import prune
from .sidecheck import BLOCK, Blocks, check_side_data, strengthened_files
from .sidedata import refuse_self_checked
from .signing import Key

__all__ = ["Copied", "Copier", "Target", "copy"]

_ATTEMPTS = 10  # to read a result that is replaced again and again


@dataclass(frozen=True, slots=True)
class Copied:
    """The report of `Storage.copy` on one result, or on one run record.

    Attributes:
        workflow: its name.
        task: name of the task; "" for a run record.
        size: bytes, with side data; 0 if unknown.
        action: "copied", "replaced" (another result in the target), "there already", "gone"
            (removed from the source meanwhile) or "not copied"; of a dry run what would be done.
        problem: why it was not copied; else "".
        call: the digest of its call, for an earlier result; else "".
        run: the id of a run record; else "".
    """

    workflow: str
    task: str
    size: int
    action: str
    problem: str = ""
    call: str = ""
    run: str = ""


class Source(Protocol):
    """The part of a `Storage` that results are copied from."""

    store: BlobStore
    _key: Key | None
    _serializers: dict[str, Serializer]


class Target(Source, Protocol):
    """A `Storage`, as far as results are copied to it."""

    _saver: Saver

    def new_workflow(self, workflow_name: str) -> None: ...
    def remember(self, workflow_name: str, *, set_aside: int = 0) -> None: ...


def copy(
    source: Source,
    to: Target,
    workflow: str,
    pattern: str,
    *,
    earlier: bool,
    runs: bool,
    dry_run: bool,
) -> list[Copied]:
    """Copy results; see `Storage.copy`."""
    if _place(source.store) == _place(to.store):
        raise ValueError(f"copy: {to!r} is the storage that the results are in")
    if earlier and not to._saver.earlier:
        raise OptionsError(
            f"{to!r} keeps no earlier results, because its option 'earlier' is False: copy without"
            " earlier=True, or change the option"
        )
    folder = folder_of(workflow)
    blobs = list(source.store.list(folder))
    inside = (blob.key.removeprefix(folder) for blob in blobs)
    is_ours = has_result(source.store, folder, (name for name in inside if "/" not in name))
    results = [blob for blob in blobs if is_ours and is_result(blob.key)]
    items = [item for blob in results for item in latest_of(source.store, workflow, blob)]
    names = matching(sorted({item.task for item in items}), pattern)
    records = [blob for blob in blobs if runs and blob.key.startswith(folder + RUNS)]
    if not names and not (records and pattern == "*"):
        raise ResultNotFoundError(
            f"workflow {workflow!r} has no stored task that matches {pattern!r} in {source!r}"
        )
    copier = Copier(source, to, workflow, dry_run=dry_run)
    if not dry_run:
        to.new_workflow(workflow)
    wanted = frozenset(names)
    latest = [item for item in items if item.task in wanted]
    done = copier.results(sorted(latest, key=lambda item: item.task))
    if earlier:
        done += copier.results(earlier_of(blobs, folder, names))
    done += copier.records(records)
    if not dry_run:
        with copier.named("the results"):
            to.remember(workflow, set_aside=sum(report.size for report in done if _fills(report)))
    return done


def _place(store: BlobStore) -> tuple[type, str]:
    return type(store), realpath(store.root) if isinstance(store, FileStore) else repr(store)


def _fills(report: Copied) -> bool:
    """Return whether a copy may add to the earlier results of the target."""
    return report.action == "replaced" or bool(report.call and report.action == "copied")


class Copier:
    """Copies the results of one workflow."""

    doing = "copying"

    def __init__(self, source: Source, to: Target, workflow: str, *, dry_run: bool) -> None:
        self._names = f"from {source!r} to {to!r}"
        self._source, self._to = source.store, to.store
        self._slower = slower(source.store, to.store)
        self._key, self._new_key = source._key, to._key
        self._serializers = {**source._serializers, **to._serializers}
        self._saver = to._saver
        self._workflow = workflow
        self._folder = folder_of(workflow)
        self._dry_run = dry_run
        self._latest: set[str] = set()  # tokens of the results that are the latest in the target

    @contextmanager
    def named(self, what: str) -> Iterator[None]:
        """Name what is copied in an error."""
        try:
            yield
        except Exception as error:
            names = f"{what} of workflow {self._workflow!r} {self._names}"
            error.add_note(f"while {self.doing} {names}")
            raise

    def results(self, items: Sequence[Item]) -> list[Copied]:
        """Copy the latest results of tasks, or earlier ones; leave those that are there already."""
        good = [item for item in items if is_own(self._workflow, item)]
        there = self._heads(self._to, good)
        known = good if self._dry_run else [item for item in good if item.key in there]
        heads = self._heads(self._source, known)
        found: dict[str, Copied | None] = {
            item.key: self._planned(item, heads.get(item.key), there.get(item.key))
            for item in known
        }
        for item in items:
            if not is_own(self._workflow, item):
                found[item.key] = self._failed(item, planted(item.key))

        def one(item: Item, *, alone: bool = False) -> Copied | None:
            with self.named(f"task {item.task!r}"):
                return self._copied(item, replaces=item.key in there, alone=alone)

        new = [item for item in items if found.get(item.key) is None]
        small = [item for item in new if item.size <= BLOCK]
        for item, report in zip(small, at_once(self._slower, one, small), strict=True):
            found[item.key] = report
        for item in new:
            if found.get(item.key) is None:
                found[item.key] = one(item, alone=True)
        return [report for item in items if (report := found[item.key]) is not None]

    def _heads(
        self, store: BlobStore, items: Sequence[Item]
    ) -> dict[str, bytes | FunctionFuseError]:
        """Return the headers of the results that a store has, or the errors in them, by key."""
        if not items:
            return {}  # some stores would list for none
        names = [item.key.rpartition("/")[2] for item in items]
        folder = items[0].key.removesuffix(names[0])
        found: dict[str, bytes | FunctionFuseError] = {}
        for item, data in zip(items, store.heads(folder, names, FIRST_READ), strict=True):
            if data is not None:
                try:
                    found[item.key] = bytes(head_of(store, item.key, data))
                except ResultNotFoundError:
                    continue  # removed meanwhile
                except FunctionFuseError as error:
                    found[item.key] = error
        return found

    def _planned(
        self,
        item: Item,
        head: bytes | FunctionFuseError | None,
        there: bytes | FunctionFuseError | None,
    ) -> Copied | None:
        """Return the report on a result by its headers; None if it must be copied."""
        try:
            if not isinstance(head, bytes):
                raise head or ResultNotFoundError(item.key)
            info = self._own(trusted(head, self._key), item)
        except FunctionFuseError as error:
            return self._failed(item, error)
        if self._is_there(item, info, head, there):
            self._latest.add(info.token)
            return self._report(item, "there already", info)
        action = "copied" if there is None else "replaced"
        return self._report(item, action, info) if self._dry_run else None

    def _is_there(
        self, item: Item, info: TaskInfo, head: bytes, there: bytes | FunctionFuseError | None
    ) -> bool:
        """Return whether the target has a result already, or another earlier one of its call."""
        if self._is_second(item, info):
            return True
        if not isinstance(there, bytes):
            return False
        if not (item.call or self._is_weak(info)):
            return self._signed(head) == there
        with suppress(FunctionFuseError):
            found = self._own(trusted(there, self._new_key), item)
            return bool(item.call) or (found.strong and found.token == info.token)
        return False

    def _is_second(self, item: Item, info: TaskInfo) -> bool:
        """Return whether an earlier result is a copy of the latest, which the target has."""
        return bool(item.call) and info.token in self._latest

    def _is_weak(self, info: TaskInfo) -> bool:
        """Return whether a result must get other digests, because the target signs it."""
        return self._new_key is not None and not info.strong

    def _copied(self, item: Item, *, replaces: bool, alone: bool) -> Copied | None:
        """Copy a result; return None for one with side data, unless it is copied alone."""
        for _ in range(_ATTEMPTS):
            info = side_data = None
            try:
                blocks = self._source.blocks(item.key, min(BLOCK, max(item.size, HEADER_AT)))
                passing = Passing(blocks, self._key)
                info = self._own(passing.info, item)
                if self._is_second(item, info):
                    return self._report(item, "there already", info)
                if info.side_data and not alone:
                    return None
                side_data = Carried(
                    self._source, self._to, self._folder, info, signed_by=self._new_key
                )
                self._put(item, passing, side_data, looks=replaces or not self._to.remote)
            except FunctionFuseError as error:
                gone = info is not None and not self._may_be_there(item, info)
                lacks = isinstance(error, ResultNotFoundError) and info is not None  # the target
                if (isinstance(error, StorageError) or lacks) and not gone:
                    raise
                if side_data:
                    side_data.undo()
                if gone:
                    continue  # replaced or removed meanwhile
                return self._failed(item, error, there=bool(side_data and side_data.kept))
            if not side_data.is_whole():
                continue
            if not item.call:
                self._latest.add(info.token)
            return self._report(item, "replaced" if replaces else "copied", info)
        return self._failed(item, DamagedResultError("it is replaced again and again"))

    def _put(self, item: Item, passing: Passing, side_data: Carried, *, looks: bool) -> None:
        """Put the side data of a result in the target, and then its own blob."""
        info = passing.info
        if self._is_weak(info):
            refuse_self_checked(info.side_data, self._serializers)
        if info.side_data:
            check_side_data(side_data, self._folder, info.side_data)
            self._to.flush([*side_data.made, *side_data.kept])
        whole = self._parts(item, passing, side_data)
        if not item.call:
            self._saver.adopt(info, whole, looks=looks)
            return
        if info.side_data:
            refuse_older_gc(self._to, self._folder)
        self._to.put(item.key, whole, durable=self._saver.is_durable(info.seconds))

    def _may_be_there(self, item: Item, info: TaskInfo) -> bool:
        """Return whether the source may still have a result."""
        return may_hold(self._source, item.key, info.token, signed_by=self._key)

    def _parts(self, item: Item, passing: Passing, checked: Blocks) -> Sequence[Buffer]:
        """Return the bytes of a result, whose side data is in the target already.

        Args:
            checked: has let the side data pass.
        """
        info = passing.info
        size: int = info.size
        parts: Iterable[Buffer] = chain([self._signed(passing.head)], passing.rest())
        if self._is_weak(info):
            side_data = strengthened_files(checked, self._folder, info.side_data)
            blocks = partial(self._source.blocks, item.key, BLOCK)
            size, parts = strengthened(passing, blocks, side_data, self._new_key)
        whole = map(bytes, parts)  # the next block may overwrite it
        return [b"".join(whole)] if size <= BLOCK else Streamed(size, whole)

    def _own(self, info: TaskInfo, item: Item) -> TaskInfo:
        """Return the fields of a header; raise an error if it belongs to another key."""
        if belongs(info, item.key):
            return info
        if item.call:
            raise ResultNotFoundError(item.key)  # two writers at once have exchanged them
        raise DamagedResultError(
            f"the blob is the result of task {info.task!r} of workflow {info.workflow!r}"
        )

    def _signed(self, data: bytes) -> bytes:
        """Return prefix and header, or a run record, as the target has it."""
        if self._key == self._new_key:
            return data
        return sealed(data[:DIGEST_AT], data[HEADER_AT:], self._new_key)

    def _failed(self, item: Item, error: FunctionFuseError, *, there: bool = False) -> Copied:
        if isinstance(error, ResultNotFoundError):
            return self._report(item, "gone")
        where = "; files of it that the target has already stay as they are" if there else ""
        return replace(self._report(item, "not copied"), problem=f"{error}{where}")

    def _report(self, item: Item, action: str, info: TaskInfo | None = None) -> Copied:
        size = info.size + info.side_size if info else 0
        return Copied(self._workflow, item.task, size, action, call=item.call)

    def records(self, blobs: Sequence[BlobInfo]) -> list[Copied]:
        """Copy run records; then remove the oldest in the target, if they are too many."""
        folder = self._folder + RUNS
        there = frozenset(self._to.names(folder)) if blobs else frozenset[str]()

        def one(blob: BlobInfo) -> Copied:
            run = blob.key.removeprefix(folder)
            report = Copied(self._workflow, "", blob.size, "", run=run)
            with self.named(f"the record of run {run!r}"):
                try:
                    action = self._copy_record(blob.key, run, there=run in there)
                except (DamagedResultError, NewerFormatError, UntrustedResultError) as error:
                    return replace(report, action="not copied", size=0, problem=str(error))
            return replace(report, action=action, size=0 if action == "gone" else blob.size)

        done = list(at_once(self._slower, one, blobs))
        if not self._dry_run and any(report.action == "copied" for report in done):
            prune(self._to, self._workflow)
        return done

    def _copy_record(self, key: str, run: str, *, there: bool) -> str:
        """Copy a record, unless the target has the same; return the action."""
        if not is_segment(run):
            raise planted(key)
        try:
            data = bytes(self._source.get(key))
        except ResultNotFoundError:
            return "gone"
        head, body = decoded(data, self._key)
        fields_of(head, run, self._workflow)
        nodes_of(body)
        data = self._signed(data)
        if there:
            with suppress(ResultNotFoundError):  # removed meanwhile
                # The digest of all is among these bytes.
                if bytes(self._to.head(key, HEADER_AT)) == data[:HEADER_AT]:
                    return "there already"
        if not self._dry_run:
            self._to.put(key, [data])
        return "replaced" if there else "copied"
