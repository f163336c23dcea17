"""Side data: what serializers keep beside a result, while it is saved and when it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from xxhash import xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    OptionsError,
    ResultNotFoundError,
    SerializerMissingError,
)
from ..serializers import FILE_PROTOCOL, Serializer
from .blobstore import BlobStore
from .header import SideData
from .keys import SIDE_DATA, segment_of

__all__ = ["SafeFiles", "SideReader", "SideWriter", "check_side_data", "checked"]

# Types that pickle writes without asking anybody.
_NATIVE = {bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None)}


class SafeFiles:
    """A file protocol whose file names can be any text, and which remembers what it wrote."""

    def __init__(self, files: Any) -> None:
        self.files = files
        self.written: dict[str, None] = {}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file beside the result, as the builtin `open` does."""
        name = segment_of(filename)
        if mode.strip("bt") != "r":
            self.written[name] = None
        file: IO[Any] = self.files.open(name, mode)
        return file

    def remove(self, filename: str) -> None:
        """Remove a file beside the result."""
        name = segment_of(filename)
        self.files.remove(name)
        self.written.pop(name, None)


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
    """Has serializers write what they claim of one result."""

    def __init__(self, store: BlobStore, folder: str, serializers: Iterable[Serializer]) -> None:
        self.store = store
        self.folder = folder + SIDE_DATA
        self.claims = {serializer.serializer_class: serializer for serializer in serializers}
        self.by_type: dict[type, Serializer | None] = {}
        self.done: dict[int, tuple[str, Any]] = {}
        self.kept: list[Any] = []  # so that no id in `done` is given to another object
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
            protocols = self.store.protocols(self.folder)
            files = SafeFiles(protocols[FILE_PROTOCOL])
            self.files.append((serializer, files))
            self.kept.append(obj)
            _, pid = serializer.pickle(obj, {**protocols, FILE_PROTOCOL: files})
            self.done[id(obj)] = serializer.name, pid
        return self.done[id(obj)]

    def side_data(self) -> list[SideData]:
        """Return what was written, for the header; reads every file once for its digest."""
        found = []
        for serializer, files in self.files:
            entries = []
            for name in files.written:
                data = self.store.get(self.folder + name)
                entries.append((name, len(data), xxh3_128_hexdigest(data)))
            found.append(SideData(serializer.name, _distribution(serializer), tuple(entries)))
        return found

    def keys(self) -> list[str]:
        """Return the keys of all files that were written."""
        return [self.folder + name for _, files in self.files for name in files.written]


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


def check_side_data(store: BlobStore, folder: str, side_data: Iterable[SideData]) -> int:
    """Check the digests of all side data of a result, and return its size in bytes.

    Raises:
        DamagedResultError: a file is missing, or it is not what was written.
    """
    size = 0
    for side in side_data:
        for name, length, digest in side.files:
            where = f"side data {name!r} of serializer {side.serializer!r}"
            try:
                data = store.get(f"{folder}{SIDE_DATA}{name}")
            except ResultNotFoundError:
                raise DamagedResultError(f"{where} is missing") from None
            if len(data) != length or xxh3_128_hexdigest(data) != digest:
                raise DamagedResultError(f"{where} is not what was written")
            size += length
    return size


def _distribution(serializer: Serializer) -> str:
    """Return the distribution that provides a serializer, as "name version", if that is known."""
    from importlib import metadata

    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""
