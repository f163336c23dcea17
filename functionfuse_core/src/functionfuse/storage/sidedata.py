"""Side data: what serializers keep beside a result, while it is saved and when it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import (
    DamagedResultError,
    OptionsError,
    SerializerMissingError,
)
from ..serializers import FILE_PROTOCOL, Serializer
from .blobstore import BlobStore
from .header import SideData
from .keys import SIDE_DATA
from .sidefiles import SafeFiles, measured, side_keys

__all__ = ["SideReader", "SideWriter", "checked"]

# Types that pickle writes without asking anybody.
_NATIVE = {bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None)}


def checked(serializers: Iterable[Serializer]) -> list[Serializer]:
    """Return the serializers if each has what the contract asks for.

    Raises:
        OptionsError: one lacks a member, or claims a type that pickle never asks about.
    """
    found = []
    for serializer in serializers:
        members = ("name", "serializer_class", "pickle", "unpickle", "remove")
        missing = [member for member in members if not hasattr(serializer, member)]
        if missing:
            raise OptionsError(f"{serializer!r} is no serializer: it has no {', '.join(missing)}")
        if not isinstance(serializer.serializer_class, type):
            raise OptionsError(
                f"serializer {serializer.name!r} claims {serializer.serializer_class!r},"
                " which is no class"
            )
        if serializer.serializer_class in _NATIVE:
            raise OptionsError(
                f"serializer {serializer.name!r} claims {serializer.serializer_class!r}, which"
                " pickle always writes itself; claim a class of your own"
            )
        found.append(serializer)
    return found


class SideWriter:
    """Has serializers write what they claim of one result.

    What a serializer with `pickle_many` claims is only noted at first. When the result has been
    pickled once, `write_noted` has all of it written together, and the result is pickled again.
    """

    def __init__(self, store: BlobStore, folder: str, serializers: Iterable[Serializer]) -> None:
        self.store = store
        self.workflow = folder
        self.folder = folder + SIDE_DATA
        self.claims = {serializer.serializer_class: serializer for serializer in serializers}
        self.by_type: dict[type, Serializer | None] = {}
        self.done: dict[int, tuple[str, Any]] = {}
        self.kept: list[Any] = []  # so that no id in `done` is given to another object
        self.noted: dict[str, list[Any]] | None = {}  # by serializer's name; None: write at once
        self.files: list[tuple[Serializer, SafeFiles]] = []

    def replace(self, obj: Any) -> tuple[str, Any] | None:
        """Write an object if a serializer claims its type, once; see `pickling.dumps`."""
        kind = type(obj)
        if kind not in self.by_type:
            claims = (self.claims[base] for base in kind.__mro__ if base in self.claims)
            self.by_type[kind] = next(claims, None)
        serializer = self.by_type[kind]
        if serializer is None:
            return None
        if id(obj) not in self.done:
            self.kept.append(obj)
            if self.noted is None or not hasattr(serializer, "pickle_many"):
                self._write(serializer, [obj])
            else:
                if hasattr(serializer, "check"):
                    serializer.check(obj)
                self.noted.setdefault(serializer.name, []).append(obj)
                self.done[id(obj)] = serializer.name, None
        return self.done[id(obj)]

    def write_noted(self) -> bool:
        """Write what was only noted; tell whether there was any: then pickle the result again."""
        noted, self.noted = self.noted or {}, None
        by_name = {serializer.name: serializer for serializer in self.claims.values()}
        for name, objs in noted.items():
            self._write(by_name[name], objs)
        return bool(noted)

    def _write(self, serializer: Serializer, objs: list[Any]) -> None:
        protocols = self.store.protocols(self.folder)
        files = SafeFiles(protocols[FILE_PROTOCOL])
        self.files.append((serializer, files))
        protocols = {**protocols, FILE_PROTOCOL: files}
        if hasattr(serializer, "pickle_many"):
            pids = [pid for _, pid in serializer.pickle_many(objs, protocols)]
        else:
            pids = [serializer.pickle(obj, protocols)[1] for obj in objs]
        for obj, pid in zip(objs, pids, strict=True):
            self.done[id(obj)] = serializer.name, pid

    def side_data(self) -> list[SideData]:
        """Return what was written, for the header; reads what nobody has digested yet."""
        found = []
        for serializer, files in self.files:
            put = getattr(files.files, "digests", {})
            entries = []
            for name, known in files.written.items():
                size, digest = known or put.get(name) or measured(self.store, self.folder + name)
                entries.append((name, size, digest))
            found.append(SideData(serializer.name, _distribution(serializer), tuple(entries)))
        return found

    def keys(self) -> list[str]:
        """Return the keys of all files that were written."""
        names = [name for _, files in self.files for name in files.written]
        return side_keys(self.store, self.workflow, names)


class SideReader:
    """Has serializers read what a result names."""

    def __init__(
        self,
        store: BlobStore,
        folder: str,
        serializers: Iterable[Serializer],
        side_data: Iterable[SideData],
    ) -> None:
        self.protocols = store.protocols(folder + SIDE_DATA)
        self.protocols[FILE_PROTOCOL] = SafeFiles(self.protocols[FILE_PROTOCOL])
        self.by_name = {serializer.name: serializer for serializer in serializers}
        self.providers = {side.serializer: side.distribution for side in side_data}

    def restore(self, name: str, pid: Any) -> Any:
        """Return an object that a serializer keeps; see `pickling.loads`.

        Raises:
            SerializerMissingError: the serializer is not registered with the storage.
            DamagedResultError: one of its files is missing.
        """
        serializer = self.by_name.get(name)
        if serializer is None:
            provider = self.providers.get(name)
            install = f" from {provider} (pip install {provider.split()[0]})" if provider else ""
            raise SerializerMissingError(
                f"a part of it is kept by the serializer {name!r}{install}; register it with"
                " storage.register_persistent_serializers"
            )
        try:
            return serializer.unpickle(pid, self.protocols)
        except FileNotFoundError as error:
            raise DamagedResultError(
                f"side data of serializer {name!r} is missing: {error}"
            ) from error


def _distribution(serializer: Serializer) -> str:
    """Return the distribution that provides a serializer, as "name version", if that is known."""
    from importlib import metadata

    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""
