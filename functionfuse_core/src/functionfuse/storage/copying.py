"""Copy results of a workflow from one storage to another: bytes, which are checked as they pass.

Both storages are listed, and headers of results that are in both are compared: if the header in the
target is the one that a copy would have there, the result is left. Small results without side data
are copied first, many at once if a request is slow. Big ones, and those with side data, follow one
by one, and their files or pieces go at once. Side data is put first, and the result's own blob
commits it, as in a save. A store takes a blob all or nothing, so the check of the last byte comes
in time: if it fails, nothing is stored under the result's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from os.path import realpath
from typing import NamedTuple, Protocol

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    ResultNotFoundError,
    StorageError,
    UntrustedResultError,
)
from .blobstore import BlobInfo, BlobStore, Buffer, Streamed, at_once
from .catalog import belongs, head_of, is_earlier, is_result, matching, may_hold, task_of
from .earlier import is_held, refuse_older_gc
from .filestore import FileStore
from .header import DIGEST_AT, FIRST_READ, HEADER_AT, TaskInfo, sealed
from .keys import EARLIER, RUNS, earlier_name, folder_of
from .resultfile import Passing, trusted
from .results import Saver
from .runrecord import decoded, fields_of, nodes_of
from .runs import prune
from .sidecheck import BLOCK, Blocks, Measured, check_side_data

__all__ = ["Copied", "Target", "copy"]

_IN_MEMORY = 32 << 20  # bytes of files in a folder that are copied at once
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
    _key: bytes | None


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
    folder = folder_of(workflow)
    blobs = list(source.store.list(folder))
    tasks = {task_of(source.store, blob.key): blob for blob in blobs if is_result(blob.key)}
    names = matching(sorted(tasks), pattern)
    records = [blob for blob in blobs if runs and blob.key.startswith(folder + RUNS)]
    if not names and not (records and pattern == "*"):
        raise ResultNotFoundError(
            f"workflow {workflow!r} has no stored task that matches {pattern!r} in {source!r}"
        )
    copier = _Copier(source, to, workflow, dry_run=dry_run)
    if not dry_run:
        to.new_workflow(workflow)
    latest = [_Item(tasks[name].key, tasks[name].size, name) for name in names]
    done = copier.results(latest)
    if earlier:
        done += copier.results(_earlier(blobs, folder, names))
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


class _Item(NamedTuple):
    """A result in the source, by its entry in the listing; `call` is "" for the latest."""

    key: str
    size: int
    task: str
    call: str = ""


def _earlier(blobs: Iterable[BlobInfo], folder: str, names: Iterable[str]) -> list[_Item]:
    """Return the earlier results of tasks, those set aside first at the front: so they stay."""
    tasks = {earlier_name(name, ""): name for name in names}
    found = []
    for blob in sorted(blobs, key=lambda blob: blob.modified):
        digest, hyphen, call = blob.key[len(folder) + len(EARLIER) :].partition("-")
        if is_earlier(blob.key) and digest + hyphen in tasks:
            found.append(_Item(blob.key, blob.size, tasks[digest + hyphen], call))
    return found


class _Carried(Blocks):
    """The blobs of a store, whose blocks are put in another store as they are read."""

    def __init__(self, store: BlobStore, to: BlobStore) -> None:
        super().__init__(store)
        self.keys: list[str] = []
        self._to = to

    def each(
        self, function: Callable[[BlobInfo], Measured], blobs: Sequence[BlobInfo]
    ) -> Iterator[Measured]:
        """Copy many blobs at once, if a request to one of the stores is slow; fewer big ones."""
        count = max(1, _IN_MEMORY // max(1, *(blob.size for blob in blobs)))
        for start in range(0, len(blobs), count):
            some = blobs[start : start + count]
            yield from at_once(_slower(self.store, self._to), function, some)

    def through(self, key: str, size: int, update: Callable[[Buffer], object]) -> None:
        """Copy a blob; see `Blocks.through`."""

        def parts() -> Iterator[Buffer]:
            for block in self.store.blocks(key, BLOCK):
                update(block)
                yield bytes(block)  # the next block may overwrite it, and a store may keep it

        _refuse_outside(key)
        self.keys.append(key)
        self._to.put(key, Streamed(size, parts()))


def _refuse_outside(key: str) -> None:
    """Refuse a key that is no path below a folder: in some stores, anybody can plant one."""
    if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise DamagedResultError(f"the key {key!r} is not as specified")


def _slower(*stores: BlobStore) -> BlobStore:
    return max(stores, key=lambda store: store.concurrency)


class _Copier:
    """Copies the results of one workflow."""

    def __init__(self, source: Source, to: Target, workflow: str, *, dry_run: bool) -> None:
        self._names = f"from {source!r} to {to!r}"
        self._source, self._to = source.store, to.store
        self._slower = _slower(source.store, to.store)
        self._key, self._new_key = source._key, to._key
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
            error.add_note(f"while copying {what} of workflow {self._workflow!r} {self._names}")
            raise

    def results(self, items: Sequence[_Item]) -> list[Copied]:
        """Copy the latest results of tasks, or earlier ones; leave those that are there already."""
        there = self._heads(self._to, items)
        known = items if self._dry_run else [item for item in items if item.key in there]
        heads = self._heads(self._source, known)
        found = {
            item.key: self._planned(item, heads.get(item.key), there.get(item.key))
            for item in known
        }

        def one(item: _Item, *, alone: bool = False) -> Copied | None:
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
        self, store: BlobStore, items: Sequence[_Item]
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
        item: _Item,
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
        self, item: _Item, info: TaskInfo, head: bytes, there: bytes | FunctionFuseError | None
    ) -> bool:
        """Return whether the target has a result already, or another earlier one of its call."""
        if item.call and info.token in self._latest:
            return True
        if not isinstance(there, bytes):
            return False
        if not item.call:
            return self._signed(head) == there
        with suppress(FunctionFuseError):
            self._own(trusted(there, self._new_key), item)
            return True
        return False

    def _copied(self, item: _Item, *, replaces: bool, alone: bool) -> Copied | None:
        """Copy a result; return None for one with side data, unless it is copied alone."""
        for _ in range(_ATTEMPTS):
            info, side_data = None, _Carried(self._source, self._to)
            try:
                blocks = self._source.blocks(item.key, min(BLOCK, max(item.size, HEADER_AT)))
                passing = Passing(blocks, self._key)
                info = self._own(passing.info, item)
                if item.call and info.token in self._latest:
                    return self._report(item, "there already", info)
                if info.side_data and not alone:
                    return None
                self._put(item, passing, side_data, looks=replaces or not self._to.remote)
            except FunctionFuseError as error:
                gone = info is not None and not may_hold(self._source, item.key, info.token)
                if isinstance(error, StorageError) and not gone:
                    raise
                if side_data.keys and info is not None and not is_held(self._to, info):
                    self._to.delete(side_data.keys)
                if gone:
                    continue  # replaced or removed meanwhile
                return self._failed(item, error)
            if not item.call:
                self._latest.add(info.token)
            return self._report(item, "replaced" if replaces else "copied", info)
        return self._failed(item, DamagedResultError("it is replaced again and again"))

    def _put(self, item: _Item, passing: Passing, side_data: _Carried, *, looks: bool) -> None:
        """Put the side data of a result in the target, and then its own blob."""
        info = passing.info
        if info.side_data:
            check_side_data(side_data, self._folder, info.side_data)
            self._to.flush(side_data.keys)
        parts: Iterable[Buffer] = chain([self._signed(passing.head)], map(bytes, passing.rest()))
        whole = [b"".join(parts)] if info.size <= BLOCK else Streamed(info.size, parts)
        if not item.call:
            self._saver.adopt(info, whole, looks=looks)
            return
        if info.side_data:
            refuse_older_gc(self._to, self._folder)
        self._to.put(item.key, whole, durable=self._saver.is_durable(info.seconds))

    def _own(self, info: TaskInfo, item: _Item) -> TaskInfo:
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

    def _failed(self, item: _Item, error: FunctionFuseError) -> Copied:
        if isinstance(error, ResultNotFoundError):
            return self._report(item, "gone")
        return replace(self._report(item, "not copied"), problem=str(error))

    def _report(self, item: _Item, action: str, info: TaskInfo | None = None) -> Copied:
        size = info.size + info.side_size if info else 0
        return Copied(self._workflow, item.task, size, action, call=item.call)

    def records(self, blobs: Sequence[BlobInfo]) -> list[Copied]:
        """Copy run records; then remove the oldest in the target, if they are too many."""
        folder = self._folder + RUNS
        there = frozenset(self._to.names(folder)) if blobs else frozenset[str]()

        def one(blob: BlobInfo) -> Copied:
            run = blob.key.removeprefix(folder)
            report = Copied(self._workflow, "", blob.size, "there already", run=run)
            if run in there:
                return report
            with self.named(f"the record of run {run!r}"):
                try:
                    self._copy_record(blob.key, run)
                except ResultNotFoundError:
                    return replace(report, action="gone", size=0)
                except (DamagedResultError, NewerFormatError, UntrustedResultError) as error:
                    return replace(report, action="not copied", size=0, problem=str(error))
            return replace(report, action="copied")

        done = list(at_once(self._slower, one, blobs))
        if not self._dry_run and any(report.action == "copied" for report in done):
            prune(self._to, self._workflow)
        return done

    def _copy_record(self, key: str, run: str) -> None:
        _refuse_outside(key)
        data = bytes(self._source.get(key))
        head, body = decoded(data, self._key)
        fields_of(head, run, self._workflow)
        nodes_of(body)
        if not self._dry_run:
            self._to.put(key, [self._signed(data)])
