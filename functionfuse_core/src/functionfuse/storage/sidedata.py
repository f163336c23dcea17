"""Side data: what serializers keep beside a result, while it is saved and when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from ..errors import (
    DamagedResultError,
    SerializerMissingError,
    UnknownKindError,
    UntrustedResultError,
)
from ..plugins.entrypoints import SERIALIZERS, entries
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.installed import serializer_for, serializer_of, type_name
from .blobstore import BlobStore
from .header import SideData
from .keys import SIDE_DATA
from .sidefiles import SafeFiles, measured, side_keys

__all__ = ["SideReader", "SideWriter"]


class SideWriter:
    """Has serializers write what they claim of one result: registered ones, then plugins'.

    What a serializer with `pickle_many` claims is only noted at first. When the result has been
    pickled once, `write_noted` has all of it written together, and the result is pickled again.
    """

    def __init__(self, store: BlobStore, folder: str, serializers: Iterable[Serializer]) -> None:
        self.store = store
        self.workflow = folder
        self.folder = folder + SIDE_DATA
        self.registered = {serializer.serializer_class: serializer for serializer in serializers}
        self.by_type: dict[type, Serializer | None] = {}
        self.done: dict[int, tuple[str, Any]] = {}
        self.kept: list[Any] = []  # so that no id in `done` is given to another object
        # By the serializer's name; None: write at once.
        self.noted: dict[str, tuple[Serializer, list[Any]]] | None = {}
        self.files: list[tuple[Serializer, SafeFiles]] = []

    def claims(self, kind: type) -> bool:
        """Tell whether a serializer claims a type; see `pickling.dumps`."""
        return self._serializer(kind) is not None

    def keep(self, obj: Any) -> tuple[str, Any]:
        """Write an object of a type that a serializer claims, once; see `pickling.dumps`."""
        if id(obj) not in self.done:
            serializer = self._serializer(type(obj))
            assert serializer is not None
            self.kept.append(obj)
            if self.noted is None or not hasattr(serializer, "pickle_many"):
                self._write(serializer, [obj])
            else:
                if hasattr(serializer, "check"):
                    serializer.check(obj)
                self.noted.setdefault(serializer.name, (serializer, []))[1].append(obj)
                self.done[id(obj)] = serializer.name, None
        return self.done[id(obj)]

    def write_noted(self) -> bool:
        """Write what was only noted; tell whether there was any: then pickle the result again."""
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
        offered = []
        for _ in objs:
            protocols = self.store.protocols(self.folder)
            files = SafeFiles(protocols[FILE_PROTOCOL])
            self.files.append((serializer, files))
            offered.append({**protocols, FILE_PROTOCOL: files})
        if hasattr(serializer, "pickle_many"):
            found = serializer.pickle_many(objs, offered)
        else:
            found = [serializer.pickle(*both) for both in zip(objs, offered, strict=True)]
        for obj, (_, pid) in zip(objs, found, strict=True):
            self.done[id(obj)] = serializer.name, pid

    def side_data(self) -> list[SideData]:
        """Return what was written, for the header; reads what nobody has digested yet."""
        found = []
        for serializer, files in self.files:
            put = getattr(files.files, "digests", {})
            written = []
            for name, known in files.written.items():
                size, digest = known or put.get(name) or measured(self.store, self.folder + name)
                written.append((name, size, digest))
            claimed = type_name(serializer.serializer_class)
            provider = _distribution(serializer)
            found.append(SideData(serializer.name, provider, tuple(written), claimed))
        return found

    def keys(self) -> list[str]:
        """Return the keys of all files that were written."""
        names = [name for _, files in self.files for name in files.written]
        return side_keys(self.store, self.workflow, names)


class SideReader:
    """Has serializers read what a result names: registered ones, then those of plugins.

    Args:
        allow: the types, or modules of types, that plugins may restore; None: all. What is
            registered is trusted already.
    """

    def __init__(
        self,
        store: BlobStore,
        folder: str,
        serializers: Iterable[Serializer],
        side_data: Iterable[SideData],
        *,
        allow: Sequence[str] | None = None,
    ) -> None:
        self.protocols = store.protocols(folder + SIDE_DATA)
        self.protocols[FILE_PROTOCOL] = SafeFiles(self.protocols[FILE_PROTOCOL])
        self.by_name = {serializer.name: serializer for serializer in serializers}
        self.side_data = {side.serializer: side for side in side_data}
        self.allow = allow

    def restore(self, name: str, pid: Any) -> Any:
        """Return an object that a serializer keeps; see `pickling.loads`.

        Raises:
            SerializerMissingError: the serializer is neither registered nor installed.
            PluginError: it is installed, and can't be used.
            UntrustedResultError: it is not registered, and its type is not allowed.
            DamagedResultError: one of its files is missing.
        """
        if name not in self.by_name:
            self.by_name[name] = self._installed(name)
        try:
            return self.by_name[name].unpickle(pid, self.protocols)
        except FileNotFoundError as error:
            raise DamagedResultError(
                f"side data of serializer {name!r} is missing: {error}"
            ) from error

    def _installed(self, name: str) -> Serializer:
        side = self.side_data.get(name, SideData(name, "", ()))
        if self.allow is not None and not any(
            f"{side.type}.".startswith(f"{entry}.") for entry in self.allow
        ):
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
    """Return the distribution that provides a serializer, as "name version", if that is known."""
    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    for entry in entries(SERIALIZERS):
        if entry.name and entry.value.partition(".")[0] == top:
            return entry.owner
    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""
