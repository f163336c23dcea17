"""Side data: what serializers keep beside a result, while it is saved and when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import IO, Any

from xxhash import xxh3_128_hexdigest

from ..entrypoints import SERIALIZERS, entries
from ..errors import (
    DamagedResultError,
    ResultNotFoundError,
    SerializerMissingError,
    UnknownKindError,
    UntrustedResultError,
)
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.installed import serializer_for, serializer_of, type_name
from .blobstore import BlobStore
from .header import SideData
from .keys import SIDE_DATA, segment_of

__all__ = ["SafeFiles", "SideReader", "SideWriter", "check_side_data"]


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


class SideWriter:
    """Has serializers write what they claim of one result: registered ones, then plugins'."""

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
            serializer = next(claims, None)
            self.by_type[kind] = serializer_of(kind) if serializer is None else serializer
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
            written = []
            for name in files.written:
                data = self.store.get(self.folder + name)
                written.append((name, len(data), xxh3_128_hexdigest(data)))
            claimed = type_name(serializer.serializer_class)
            provider = _distribution(serializer)
            found.append(SideData(serializer.name, provider, tuple(written), claimed))
        return found

    def keys(self) -> list[str]:
        """Return the keys of all files that were written."""
        return [self.folder + name for _, files in self.files for name in files.written]


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
    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    for entry in entries(SERIALIZERS):
        if entry.name and entry.value.partition(".")[0] == top:
            return entry.owner
    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""
