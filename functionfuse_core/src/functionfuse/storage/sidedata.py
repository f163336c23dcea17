"""Side data: the files that serializers store beside a result.

While a result is pickled, `SideWriter` gives each object of a claimed type to its serializer, which
writes files through `safefiles`. A serializer with `pickle_many` writes all its objects together:
the first pickling only notes them, `write_noted` writes them, and the result is pickled again. The
header lists the files with sizes and digests. `SideReader` lets the serializers read the objects.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    OptionsError,
    PluginError,
    SerializerError,
    SerializerMissingError,
    UnknownKindError,
    UnreadableResultError,
    UntrustedResultError,
)
from ..plugins.entrypoints import SERIALIZERS, entries
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.installed import FILE, serializer_for, serializer_of, type_name
from .allowed import allows
from .blobstore import BlobStore
from .header import IN_PIECES, SideData, is_strong
from .keys import SIDE_DATA
from .safefiles import SafeFiles
from .sidecheck import Blocks, measured

__all__ = [
    "SideReader",
    "SideWriter",
    "is_of_serializer",
    "known_serializer",
    "leave",
    "refuse_self_checked",
    "side_keys",
]

logger = logging.getLogger(__name__)

_RAISED_BY = "raised by"
_CORE = __name__.partition(".")[0]


class SideWriter:
    """Lets serializers write the objects of one result: registered ones first, then plugins."""

    def __init__(
        self,
        store: BlobStore,
        folder: str,
        serializers: Iterable[Serializer],
        *,
        signed: bool = False,
    ) -> None:
        self.store = store
        self.signed = signed
        self.workflow = folder
        self.folder = folder + SIDE_DATA
        self.registered = {serializer.serializer_class: serializer for serializer in serializers}
        self.by_type: dict[type, Serializer | None] = {}
        self.done: dict[int, tuple[str, Any]] = {}
        self.extracted: list[Any] = []  # alive, so that no other object gets an id in `done`
        # By the serializer's name; None: write at once.
        self.noted: dict[str, tuple[Serializer, list[Any]]] | None = {}
        self.files: list[tuple[Serializer, SafeFiles]] = []
        self.taken: set[str] = set()  # the names of all these files
        self.failed: list[Any] = []  # the objects that a serializer couldn't store

    def claims(self, kind: type) -> bool:
        """Return whether a serializer claims a type; see `pickling.dumps`."""
        return self._serializer(kind) is not None

    def extract(self, obj: Any) -> tuple[str, Any]:
        """Write an object of a claimed type once, or note it; see `pickling.dumps`."""
        if id(obj) not in self.done:
            serializer = self._serializer(type(obj))
            assert serializer is not None
            self.extracted.append(obj)
            if self.noted is None or not hasattr(serializer, "pickle_many"):
                self._write(serializer, [obj])
            else:
                if hasattr(serializer, "check"):
                    serializer.check(obj)
                self.noted.setdefault(serializer.name, (serializer, []))[1].append(obj)
                self.done[id(obj)] = serializer.name, None
        return self.done[id(obj)]

    def write_noted(self) -> bool:
        """Write the noted objects; return whether there are any. Then pickle the result again."""
        noted, self.noted = self.noted or {}, None
        for serializer, objs in noted.values():
            self._write(serializer, objs)
        return bool(noted)

    def _serializer(self, kind: type) -> Serializer | None:
        if kind not in self.by_type:
            claims = (self.registered[base] for base in kind.__mro__ if base in self.registered)
            registered = next(claims, None)
            self.by_type[kind] = serializer_of(kind) if registered is None else registered
        return self.by_type[kind]

    def _write(self, serializer: Serializer, objs: list[Any]) -> None:
        offered, self.failed = [], objs
        for _ in objs:
            protocols = self.store.protocols(self.folder)
            kind: type[SafeFiles] = SafeFiles
            if self.signed and not getattr(serializer, "checks_itself", False):
                from .digestedfiles import DigestedFiles  # only with a key

                kind = DigestedFiles
            place = self.store, self.folder
            files = kind(protocols[FILE_PROTOCOL], *place, self.taken, signed=self.signed)
            self.files.append((serializer, files))
            offered.append(files.offer(protocols))
        with _named(serializer):
            if hasattr(serializer, "pickle_many"):
                found = serializer.pickle_many(objs, offered)
            else:
                found = [serializer.pickle(*both) for both in zip(objs, offered, strict=True)]
            for _, files in self.files[-len(objs) :]:
                files.refuse_open()
                files.finish()
            for obj, (_, pid) in zip(objs, found, strict=True):
                self.done[id(obj)] = serializer.name, pid

    def side_data(self) -> list[SideData]:
        """Return the written files for the header; files without a digest are read for it."""
        found, blocks = [], Blocks(self.store)
        for serializer, files in self.files:
            put = getattr(files.files, "digests", {})
            written = []
            for name, known in files.written.items():
                size, digest = known or put.get(name) or (0, "")
                if digest != IN_PIECES and (not digest or is_strong(digest) != self.signed):
                    size, digest = measured(blocks, self.folder + name, strong=self.signed)
                written.append((name, size, digest))
            claimed = type_name(serializer.serializer_class)
            provider = _distribution(serializer)
            found.append(SideData(serializer.name, provider, tuple(written), claimed))
        return found

    def keys(self, *, unchecked: bool = False) -> list[str]:
        """Return the keys of all files that were written.

        Args:
            unchecked: leave out those of serializers with `checks_reads`.
        """
        names = [
            name
            for serializer, files in self.files
            if not (unchecked and getattr(serializer, "checks_reads", False))
            for name in files.made()
        ]
        return side_keys(self.store, self.workflow, names)


class SideReader:
    """Lets serializers read the side data of a result: registered ones first, then plugins.

    Args:
        folder: the key prefix of the files.
        allow: the types, or modules of types, that plugins may restore; None: all. Registered
            serializers are always trusted.
        signed: whether the result is signed: then serializers get checked files only.
        of: the result, for messages of serializers.
    """

    def __init__(
        self,
        store: BlobStore,
        folder: str,
        serializers: Iterable[Serializer],
        side_data: Iterable[SideData],
        *,
        allow: Sequence[str] | None = None,
        signed: bool = False,
        of: str = "the result",
    ) -> None:
        self.by_name = {serializer.name: serializer for serializer in serializers}
        side_data = tuple(side_data)
        self.side_data = {side.serializer: side for side in side_data}
        protocols = store.protocols(folder)
        files = protocols[FILE_PROTOCOL]
        if signed:
            from .checkedfiles import CheckedFiles  # only with a key

            found: SafeFiles = CheckedFiles(files, store, folder, side_data)
        else:
            found = SafeFiles(files, store, folder, listed=side_data)
        found.of = of
        self.protocols = found.offer(protocols)
        self.allow = allow

    def restore(self, name: str, pid: Any) -> Any:
        """Return an object that a serializer has stored; see `unpickling.loads`.

        Raises:
            SerializerMissingError: the serializer is neither registered nor installed.
            PluginError: it is installed, but can't be used.
            UntrustedResultError: it is not registered, and its type is not allowed.
            DamagedResultError: one of its files is missing.
            UnreadableResultError: it raised another error, which is the cause.
        """
        if name not in self.by_name:
            self.by_name[name] = self._installed(name)
        try:
            return self.by_name[name].unpickle(pid, self.protocols)
        except FileNotFoundError as error:
            raise DamagedResultError(
                f"side data of serializer {name!r} is missing: {error}"
            ) from error
        except (FunctionFuseError, MemoryError, OSError):
            raise
        except Exception as error:
            raise UnreadableResultError(
                f"the serializer {name!r} can't read its part: {type(error).__name__}: {error}"
            ) from error

    def _installed(self, name: str) -> Serializer:
        side = self.side_data.get(name, SideData(name, "", ()))
        # A `File` is made of its name only, and core brings it.
        allowed = side.type == FILE or self.allow is None or allows(self.allow, side.type)
        if not allowed:
            raise UntrustedResultError(
                f"a part of it, of type {side.type!r}, is kept by the serializer {name!r}, which"
                " is not registered, and the storage's option 'trust' does not allow the type"
            )
        provider = side.distribution
        install = f" from {provider} (pip install {provider.split()[0]})" if provider else ""
        missing = (
            f"a part of it is kept by the serializer {name!r}{install}; register it with"
            " storage.register_persistent_serializers"
        )
        try:
            serializer = serializer_for(side.type)
        except UnknownKindError:
            raise SerializerMissingError(missing) from None
        if serializer.name != name:
            raise SerializerMissingError(
                f"{missing}. What is installed for {side.type!r} is another one,"
                f" {serializer.name!r} from {_distribution(serializer)}"
            )
        return serializer


def _distribution(serializer: Serializer) -> str:
    """Return the distribution that provides a serializer, as "name version"; "" if unknown."""
    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    if top == _CORE:
        return f"functionfuse-core {sys.modules[top].__version__}"
    for entry in entries(SERIALIZERS):
        if entry.name and entry.value.partition(".")[0] == top:
            return entry.owner
    from importlib import metadata  # on use: it takes longer than listing results

    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""


def is_of_serializer(error: Exception) -> bool:
    """Return whether a serializer raised an error of a save."""
    return any(note.startswith(_RAISED_BY) for note in getattr(error, "__notes__", ()))


@contextmanager
def _named(serializer: Serializer) -> Iterator[None]:
    """Have an error of a serializer name it."""
    told = f"the serializer {serializer.name!r}"
    try:
        yield
    except Exception as error:
        known = MemoryError, OSError, OptionsError, PluginError
        if isinstance(error, known) and not isinstance(error, FileExistsError):
            error.add_note(f"{_RAISED_BY} {told}")
            raise
        raise SerializerError(f"{told} raised {type(error).__name__}: {error}") from error


_denied = set[str]()  # what `leave` has warned of


def leave(store: BlobStore, what: str, of: str, error: Exception) -> None:
    """Warn that leftovers can't be removed; for missing rights, once for a store and kind.

    Args:
        what, of: the kind of leftovers, and the result that left them.
    """
    if isinstance(error, PermissionError):
        if f"{what} in {store!r}" in _denied:
            return
        _denied.add(f"{what} in {store!r}")
    logger.warning("%s is left for gc: %s in %r: %s", what, of, store, error)


def side_keys(store: BlobStore, folder: str, names: Iterable[str]) -> list[str]:
    """Return the keys of side data by its names in the header; lists the files in folders."""
    keys = []
    for name in names:
        key = f"{folder}{SIDE_DATA}{name}"
        if name.endswith("/"):
            keys += [blob.key for blob in store.list(key)]
        keys.append(key)
    return keys


def known_serializer(registered: Mapping[str, Serializer], side: SideData) -> Serializer | None:
    """Return the serializer of side data, if it is registered or installed here."""
    if side.serializer in registered or not side.type:
        return registered.get(side.serializer)
    try:
        return serializer_for(side.type)
    except (PluginError, UnknownKindError):
        return None


def refuse_self_checked(
    side_data: Iterable[SideData], registered: Mapping[str, Serializer]
) -> None:
    """Raise UntrustedResultError if a serializer must write its objects again: see `Serializer`."""
    for side in side_data:
        if getattr(known_serializer(registered, side), "checks_itself", False):
            raise UntrustedResultError(
                f"the serializer {side.serializer!r} must write its part again, so that it can be"
                " signed: call `sign` of the storage that it is in, with this key"
            )
