"""Carry side data from one store to another, in blocks that are checked as they pass.

Names of side data are unique. So a file that is in the target under a name is from an earlier copy
of the same result, or the header in the source is hostile, and lists a file of another result. If
the same result is in the target, its files stay, and are checked where they are. A file that no
result refers to is a leftover, and is put again: then it is young, and no `gc` removes it. A file
of another result stays, and the copy is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from ..errors import (
    DamagedResultError,
    ResultNotFoundError,
    StorageError,
    StoragePathError,
    UntrustedResultError,
)
from .blobstore import BlobInfo, BlobStore, Buffer, Streamed, at_once
from .catalog import side_data_in
from .earlier import is_held
from .header import TaskInfo
from .listed import planted
from .sidecheck import BLOCK, Blocks, Check, Measured, measured
from .sidedata import leave
from .signing import Key, hasher

__all__ = ["Carried", "slower"]

_IN_MEMORY = 32 << 20  # bytes of files in a folder that are copied at once
_LONGEST_NAME = 255  # bytes of a file's name, in most file systems
_LONGEST_KEY = 1024  # bytes, in S3
# A lone surrogate can't be encoded.
_is_text = re.compile(r"[^\0\ud800-\udfff]+").fullmatch


class Carried(Blocks):
    """The side data of one result in a store, whose blocks are put in another as they are read.

    Args:
        store, to: where it is, and where it is put.
        folder: the key prefix of the workflow.
        info: the fields of the result's header.
        signed_by: the key of the storage where it is put; see `catalog`.

    Attributes:
        made: keys of the files that were put.
        kept: keys of the files that were there already, and stay.
    """

    def __init__(
        self,
        store: BlobStore,
        to: BlobStore,
        folder: str,
        info: TaskInfo,
        *,
        signed_by: Key | None,
    ) -> None:
        super().__init__(store, signs=signed_by is not None and not info.strong)
        self.made: list[str] = []
        self.kept: list[str] = []
        self._to = to
        self._folder = folder
        self._info = info
        self._signed_by = signed_by
        self._listed: dict[str, bool] = {}  # for files in folders: whether they are in the target
        self._left_over: list[str] = []
        self._was_held = False  # while the folder of a file that was put was listed

    @cached_property
    def _is_held(self) -> bool:
        return is_held(self._to, self._info, signed_by=self._signed_by)

    @cached_property
    def _used(self) -> frozenset[str]:
        return frozenset(side_data_in(self._to, self._folder))

    def inside(self, folder: str) -> list[BlobInfo]:
        """List a folder, also in the target, where it must not have other files."""
        blobs = super().inside(folder)
        keys = {blob.key for blob in blobs}
        above = {key[:at] for key in keys for at, char in enumerate(key) if char == "/"}
        if not keys.isdisjoint(above):
            raise planted(folder)  # with a folder and a file of one name, as no file system has
        there = {blob.key for blob in self._to.list(folder)}
        if not there <= keys:
            raise UntrustedResultError(f"{self._to!r} has other files in the folder {folder!r}")
        if not (there or self._to.remote) and self._has(folder[:-1]):
            raise UntrustedResultError(f"{self._to!r} has a file in the place of {folder!r}")
        self._was_held = self._is_held
        if there:
            self._stays(min(there))  # asks once what is used, before many threads would
        self._listed |= {key: key in there for key in keys}
        return blobs

    def each(
        self, function: Callable[[BlobInfo], Measured], blobs: Sequence[BlobInfo]
    ) -> Iterator[Measured]:
        """Copy many blobs at once, if a request to one of the stores is slow; fewer big ones."""
        count = max(1, _IN_MEMORY // max(1, *(blob.size for blob in blobs)))
        for start in range(0, len(blobs), count):
            some = blobs[start : start + count]
            yield from at_once(slower(self.store, self._to), function, some)

    def through(self, key: str, size: int, check: Check) -> None:
        """Copy a blob, or read that of the target; see `Blocks.through`.

        If the check raises an error, nothing is put.
        """
        _refuse_outside(key)
        if self._is_there(key):
            if self._stays(key):
                self.kept.append(key)
                if self.strong is None:
                    Blocks(self._to).through(key, size, check)
                else:
                    self._compare(key, size, check)
                return
            self._left_over.append(key)
        of_source: list[Exception] = []

        def parts() -> Iterator[Buffer]:
            try:
                for block in self.store.blocks(key, BLOCK):
                    check.update(block)
                    yield bytes(block)  # the next block may overwrite it, and a store may keep it
                check.ended()
            except Exception as error:
                of_source.append(error)
                raise

        self.made.append(key)
        try:
            self._to.put(key, Streamed(size, parts()))
        except ResultNotFoundError as error:
            if error in of_source:
                raise
            raise StorageError(f"{key!r} can't be put in {self._to!r}: {error}") from error
        except StoragePathError as error:
            if not isinstance(error.__cause__, IsADirectoryError):
                raise
            where = f"{self._to!r} has a folder in the place of {key!r}"
            raise UntrustedResultError(where) from error

    def _compare(self, key: str, size: int, check: Check) -> None:
        """Check a file of the source, which is signed; then compare that of the target with it."""
        ours = hasher(strong=True)

        def both(block: Buffer) -> None:
            ours.update(block)
            check.update(block)

        super().through(key, size, check._replace(update=both))
        if measured(Blocks(self._to), key, strong=True)[1] != ours.hexdigest():
            raise DamagedResultError(f"{key!r} in {self._to!r} is not what was written")

    def is_whole(self) -> bool:
        """Return whether the files that were in the target before the copy are still there.

        Others may have removed them until the copy was committed: a `gc` that took them for
        leftovers, or a `prune` of the result that they belonged to.
        """
        return all(at_once(self._to, self._has, [*self.kept, *self._left_over]))

    def undo(self) -> None:
        """Remove the files that were put, unless another copy has committed them meanwhile.

        Single files are sound. But those of a folder are not, and if the result was in the target
        before, without them, it must not get them.
        """
        if not self.made:
            return
        if self._was_held or not is_held(self._to, self._info, signed_by=self._signed_by):
            try:
                self._to.delete(self.made)
            except PermissionError as error:
                of = f"task {self._info.task!r} of workflow {self._info.workflow!r}"
                leave(self._to, "side data of a copy that failed", of, error)

    def _is_there(self, key: str) -> bool:
        listed = self._listed.get(key)
        return self._has(key) if listed is None else listed

    def _has(self, key: str) -> bool:
        try:
            self._to.head(key, 1)
        except ResultNotFoundError:
            return False
        return True

    def _stays(self, key: str) -> bool:
        """Return whether a file in the target is of this result; refuse that of another one."""
        if self._is_held:
            return True
        if key in self._used:
            raise UntrustedResultError(f"its file {key!r} is of another result in {self._to!r}")
        return False


def _refuse_outside(key: str) -> None:
    """Refuse a key that is no path below a folder: in some stores, anybody can plant one."""
    segments = key.encode("utf-8", "replace").split(b"/")
    bad = not {b"", b".", b".."}.isdisjoint(segments) or not _is_text(key)
    if bad or max(map(len, segments)) > _LONGEST_NAME or len(key) > _LONGEST_KEY:
        raise planted(key)


def slower(*stores: BlobStore) -> BlobStore:
    """Return the store of which more requests are useful at once."""
    return max(stores, key=lambda store: store.concurrency)
