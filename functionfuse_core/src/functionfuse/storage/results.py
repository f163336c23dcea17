"""Save one result in a store, and read one.

To save: serializers write side data under fresh names while the value is pickled. A result of
another call is set aside (see `earlier`). Then one `put` of the result's own blob commits it. The
side data of the replaced result is removed last, unless it was set aside. If the save fails before
the commit, the new side data is removed. To read: the digests are checked, and the signature if
there is a key, before anything is unpickled.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    OriginalResultError,
    ResultNotFoundError,
    UnreadableResultError,
    UntrustedResultError,
)
from ..serializers import Serializer
from ..serializers.installed import awake
from ..serializers.script import may_name_script, module_name
from .blobstore import BlobStore, Buffer
from .catalog import beside, headers_of, infos_of_tasks, may_hold, refuse_other
from .disk import BIG, owned
from .earlier import is_held, keep_unsigned, remove, set_aside
from .header import FIRST_READ, SideData, TaskInfo
from .keys import SIDE_DATA, earlier_key, folder_of, key_of
from .original import check_original, contents_of, keep_original, refuse_unsigned, restorer
from .passing import Passing
from .pickling import Pickled, dumps
from .removing import keep_damaged
from .resultfile import PYTHON, Origin, check, packed, unchecked
from .sidecheck import BLOCK
from .sidedata import SideReader, SideWriter, leave
from .signing import Key
from .summary import Summary, plain_pickle
from .unpickling import Restore, loads

__all__ = ["Describe", "Reader", "Saver"]

logger = logging.getLogger(__name__)

# Given a value and its pickle, returns `own` and `value` of `TaskInfo`.
Describe = Callable[[Any, Pickled], tuple[Sequence[str], str]]
_Replaced = Summary | PermissionError | None  # see `Saver._make_room`

_is_digest = re.compile("[0-9a-f]{32}").fullmatch
_OF_NO_USE = ResultNotFoundError, DamagedResultError, UntrustedResultError
_DURABLE_FROM = 0.05  # seconds; a quicker result is cheaper to compute again than to flush
_NOT_DESCRIBED = (
    "what the result of task %r of workflow %r in %r refers to can't be told, so it is stored"
    " without a fingerprint, and will be computed again: %r"
)


class Saver:
    """Saves the results of one storage.

    Args:
        store: the blob store.
        serializers: the registered serializers, by name; more may be registered later.
        durability, key: as in `StorageOptions`.
        earlier: whether results are set aside.
    """

    def __init__(
        self,
        store: BlobStore,
        serializers: Mapping[str, Serializer],
        durability: str,
        key: Key | None,
        *,
        earlier: bool,
    ) -> None:
        self._store = store
        self._serializers = serializers
        self._durability = durability
        self._key = key
        self.earlier = earlier
        self._warned = False

    def save(
        self,
        origin: Origin,
        obj: Any,
        *,
        describe: Describe | None,
        durable: bool,
        if_absent: bool,
        replaces: EllipsisType | None,
    ) -> TaskInfo:
        """Save a result; see `Storage.save`.

        Raises:
            FileExistsError: a result exists, and `if_absent` was given.
        """
        store, key = self._store, key_of(origin.workflow, origin.task)
        writer, token = None, ""
        if self._serializers or awake():
            serializers, signed = self._serializers.values(), self._key is not None
            writer = SideWriter(store, folder_of(origin.workflow), serializers, signed=signed)
        try:
            pickled = dumps(obj, writer)
            if writer and writer.write_noted():
                pickled = dumps(obj, writer)
            side_data = writer.side_data() if writer else ()
            described: tuple[Sequence[str], str] = (), ""
            if describe is not None:
                try:
                    described = _described(describe, obj, pickled, side_data)
                except Exception as error:  # noqa: BLE001  # the result is more important
                    logger.warning(_NOT_DESCRIBED, origin.task, origin.workflow, store, error)
                    described = (), os.urandom(16).hex()
                    origin = origin._replace(fingerprint=None)
            parts, info = packed(
                pickled, origin, side_data=side_data, described=described, key=self._key
            )
            durable = self.is_durable(origin.seconds, asked=durable)
            # Whatever the durability: most reads don't check side data, so it must be whole.
            if side_data and writer and (keys := writer.keys(unchecked=not durable)):
                store.flush(keys)
            looks = not (replaces is None or if_absent)
            replaced = self._make_room(info) if looks else None
            token = info.token  # from here on, an error may come after the commit
            store.put(key, parts, if_absent=if_absent, durable=durable)
        except BaseException as error:
            if (
                writer
                and writer.files
                and not (token and may_hold(store, key, token, signed_by=self._key))
            ):
                try:
                    store.delete(writer.keys())
                except OSError as second:
                    error.add_note(f"its side data is left for gc: {second}")
            raise
        if looks:
            self._remove_side_data(info, replaced)
        return info if isinstance(parts, list) else parts.info()

    def adopt(self, info: TaskInfo, parts: Sequence[Buffer], *, looks: bool) -> None:
        """Store a result of another storage, whose side data is here already.

        Another result under its name is set aside, or replaced with its side data, as by `save`.

        Args:
            info, parts: the fields of its header, and its bytes.
            looks: whether another result can be there; without, no header is read.
        """
        replaced = self._make_room(info) if looks else None
        durable = self.is_durable(info.seconds)
        self._store.put(key_of(info.workflow, info.task), parts, durable=durable)
        if looks:
            self._remove_side_data(info, replaced)

    def is_durable(self, seconds: float | None, *, asked: bool = False) -> bool:
        """Return whether a result that was computed in so many seconds is flushed."""
        if self._durability != "auto":
            return self._durability == "fsync"
        return asked or (seconds is not None and seconds >= _DURABLE_FROM)

    def _make_room(self, info: TaskInfo) -> _Replaced:
        """Set the result aside that will be replaced, if it is of another call.

        Returns the header of a result that is not set aside; None if there is none that is of use;
        or the error, if nobody may look: who may only write can save.
        """
        workflow, task = info.workflow, info.task
        try:
            [found] = infos_of_tasks(self._store, workflow, [task], signed_by=self._key)
        except PermissionError as error:
            return error
        if isinstance(found, OriginalResultError):
            keep_original(self._store, workflow, task)
        elif isinstance(found, (DamagedResultError, NewerFormatError)):
            keep_damaged(self._store, workflow, task)  # it can be a file of somebody else
        elif isinstance(found, UntrustedResultError):
            keep_unsigned(self._store, workflow, task)
        if not isinstance(found, Summary):
            return None
        if not self.earlier or found.call in ("", info.call):
            return found
        try:
            set_aside(self._store, workflow, task, found)
        except Exception as error:  # noqa: BLE001  # the new result is more important
            if not self._warned:
                self._warned = True
                logger.warning(
                    "results that are replaced are not set aside in %r, so going back computes"
                    " them again: task %r of workflow %r: %r",
                    *(self._store, task, workflow, error),
                )
        return None

    def _remove_side_data(self, info: TaskInfo, replaced: _Replaced) -> None:
        """Remove side data of a replaced result, and an earlier result of the same call with its.

        Otherwise nothing would refer to that side data when this result is set aside.
        """
        if isinstance(replaced, PermissionError):
            self._warn_of_leftovers(info, replaced, ", if there is any,")
            return
        store, folder = self._store, folder_of(info.workflow)
        try:
            had = replaced is not None and bool(replaced.side_data)
            if self.earlier and info.call and (had or info.side_data):
                copy = earlier_key(info.workflow, info.task, info.call)
                headers = headers_of(store, [copy], signed_by=self._key)
                remove(store, folder, list(headers), headers, signed_by=self._key)
            old = replaced if had else None
            if old is not None and not is_held(store, old.info, signed_by=self._key):
                store.delete(beside(store, folder, old))
        except (OSError, DamagedResultError) as error:
            self._warn_of_leftovers(info, error)

    def _warn_of_leftovers(self, info: TaskInfo, error: Exception, whether: str = "") -> None:
        of = f"task {info.task!r} of workflow {info.workflow!r}"
        leave(self._store, f"side data that is replaced{whether}", of, error)


def _described(
    describe: Describe, obj: Any, pickled: Pickled, side_data: Sequence[SideData]
) -> tuple[Sequence[str], str]:
    """Call `describe`, and check its answer; raise ValueError if `value` is no digest."""
    own, value = describe(obj, pickled)
    if value and not _is_digest(value):
        raise ValueError(f"{value!r} is no digest")
    if side_data or pickled.read:
        value = ""  # `digest` includes side data and what was read; the object may only name them
    return sorted(set(own)) if own else own, value


class Reader:
    """Reads the results of one storage.

    Args:
        store: the blob store.
        serializers: the registered serializers, by name; more may be registered later.
        allow, key: as `trust` and `key` in `StorageOptions`.
    """

    def __init__(
        self,
        store: BlobStore,
        serializers: Mapping[str, Serializer],
        allow: Sequence[str] | None,
        key: Key | None,
    ) -> None:
        self._store = store
        self._serializers = serializers
        self._allow = allow
        self._key = key

    def without_key(self) -> Reader:
        """Return a reader that trusts every byte in the store."""
        return Reader(self._store, self._serializers, self._allow, None)

    def read(self, workflow: str, task: str, digest: str, call: str) -> Any:
        """Return a stored result; see `Storage.read_unchanged`.

        Raises:
            FunctionFuseError: see `Storage.read_task`; the message doesn't name the task.
        """
        key, names = key_of(workflow, task), (workflow, task)
        try:
            return self.read_at(key, *names, digest, call)
        except _OF_NO_USE as error:
            if not call:
                raise
            problem = error
        for other in (earlier_key(workflow, task, call), key):  # it may be restored meanwhile
            try:
                return self.read_at(other, *names, digest, call)
            except _OF_NO_USE as error:
                if not isinstance(error, ResultNotFoundError):
                    problem = error  # one that is there tells more than one that is missing
        raise problem

    def read_at(self, key: str, workflow: str, task: str, digest: str, call: str) -> Any:
        """Return the result under a key. Raises as `read`."""
        info = None
        try:
            data = self._own_copy(key) if self._key is not None else self._store.get(key)
            if self._key is None and (digest or not call):
                pickled = plain_pickle(data, workflow, task, digest)
                if pickled is not None and not may_name_script(bytes(data[: -len(pickled)])):
                    try:
                        return loads(pickled, (), allow=self._allow)
                    except Exception as error:  # noqa: BLE001  # explained below
                        logger.debug("%r can't be unpickled: %r", task, error)
            try:
                info, contents = check(data, self._key)
            except OriginalResultError:
                return self._read_original(data, workflow, task, digest, call)
            refuse_other(info, workflow, task)
            if digest not in ("", info.digest) or not (digest or call in ("", info.call)):
                raise ResultNotFoundError(f"{task!r} is another value")
            restore = self._restore(workflow, info) if info.side_data else None
            planned = bool(digest)
            return _unpack(info, contents, allow=self._allow, restore=restore, planned=planned)
        except FunctionFuseError:
            if not (info and info.side_data):
                raise
            if not may_hold(self._store, key, info.token, signed_by=self._key):
                return self.read_at(key, workflow, task, digest, call)  # it was replaced meanwhile
            raise

    def _own_copy(self, key: str) -> Buffer:
        """Return a result that nobody can change from its check to its use; see `get_at_most`."""
        if self._store.remote:
            return owned(self._store.get(key))
        head = self._store.head(key, FIRST_READ)
        if len(head) < FIRST_READ:  # it is the whole blob
            return bytearray(head)
        try:
            return Passing(self._store.blocks(key, BLOCK), self._key).whole()
        except OriginalResultError:
            refuse_unsigned(self._key)
            raise

    def _read_original(self, data: Buffer, workflow: str, task: str, digest: str, call: str) -> Any:
        """Return a result of the original Function Fuse, which has neither call nor signature."""
        info = check_original(workflow, task, [data])
        refuse_unsigned(self._key)
        if digest not in ("", info.digest) or (call and not digest):
            raise ResultNotFoundError(f"{task!r} is another value")
        restore = restorer(self._store, workflow, self._serializers, self._allow)
        return _unpack(info, contents_of(data), allow=self._allow, restore=restore)

    def again(self, workflow: str, task: str, info: TaskInfo) -> Any:
        """Return another copy of a result; see `Storage.read_again`."""
        cheap = info.size >= BIG and not self._store.remote and not info.side_data
        if cheap and self._key is None:
            data = self._store.get(key_of(workflow, task))
            found, contents = unchecked(data)
            if found.token == info.token:
                return _unpack(found, contents, allow=self._allow, planned=True)
        raise ResultNotFoundError(f"{task!r} can't be read again without cost")

    def _restore(self, workflow: str, info: TaskInfo) -> Restore:
        """Return the function that reads the objects that serializers have stored."""
        where, serializers = folder_of(workflow) + SIDE_DATA, self._serializers.values()
        options: dict[str, Any] = {"allow": self._allow, "signed": self._key is not None}
        options["of"] = f"task {info.task!r} of workflow {info.workflow!r}"
        return SideReader(self._store, where, serializers, info.side_data, **options).restore


def _unpack(
    info: TaskInfo,
    contents: Sequence[memoryview],
    *,
    allow: Sequence[str] | None = None,
    restore: Callable[[str, Any], Any] | None = None,
    planned: bool = False,
) -> Any:
    """Return the value of a result that `check` has found sound; see `unpickling.loads`.

    Arrays in it are views of `contents`, and as writable as those.

    Raises:
        UnreadableResultError: a class or module that it names is missing or refuses the pickled
            state, or it holds code by value of another Python minor version.
        UntrustedResultError: it names a global that `allow` doesn't allow.
        OSError: a serializer could not read.
    """
    if info.by_value and _minor(info.python) != _minor(PYTHON):
        raise UnreadableResultError(
            f"it holds code by value, written by Python {info.python}, which Python {PYTHON} can't"
            f" load. Read it with Python {_minor(info.python)}, or move its classes and functions"
            " from the script into a module, and compute it again"
        )
    try:
        script = f"{module_name('__main__')}:"
        scripts = info.by_value or any(name.startswith(script) for name in info.own)
        options: dict[str, Any] = {"restore": restore, "scripts": scripts, "planned": planned}
        return loads(contents[0], contents[1:], allow=allow, **options)
    except (FunctionFuseError, MemoryError, OSError):
        raise
    except Exception as error:
        written = [f"{name} {version}" for name, version in info.packages.items()]
        python = f"Python {info.python}" if info.python else "the original Function Fuse"
        raise UnreadableResultError(
            "its bytes are sound, but no value can be made of them here:"
            f" {type(error).__name__}: {error}. It was written by"
            f" {', '.join([python, *written])}; install that, or put the class or"
            " module back as it was"
        ) from error


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
