"""Side data: the files that serializers store beside a result.

While a result is pickled, `SideWriter` gives each object of a claimed type to its serializer, which
writes files through `SafeFiles`. A serializer with `pickle_many` writes all its objects together:
the first pickling only notes them, `write_noted` writes them, and the result is pickled again. The
header lists the files with sizes and digests. `SideReader` lets the serializers read the objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from ..errors import (
    DamagedResultError,
    OptionsError,
    SerializerMissingError,
    UnknownKindError,
    UntrustedResultError,
)
from ..plugins.entrypoints import SERIALIZERS, entries
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.installed import serializer_for, serializer_of, type_name
from .blobstore import BlobStore
from .header import IN_PIECES, SideData
from .keys import LONGEST, SIDE_DATA, segment_of
from .sidecheck import PIECES, Blocks, measured, of_folder

__all__ = ["SafeFiles", "SideReader", "SideWriter", "side_keys"]


class SideWriter:
    """Lets serializers write the objects of one result: registered ones first, then plugins."""

    def __init__(self, store: BlobStore, folder: str, serializers: Iterable[Serializer]) -> None:
        self.store = store
        self.workflow = folder
        self.folder = folder + SIDE_DATA
        self.registered = {serializer.serializer_class: serializer for serializer in serializers}
        self.by_type: dict[type, Serializer | None] = {}
        self.done: dict[int, tuple[str, Any]] = {}
        self.extracted: list[Any] = []  # alive, so that no other object gets an id in `done`
        # By the serializer's name; None: write at once.
        self.noted: dict[str, tuple[Serializer, list[Any]]] | None = {}
        self.files: list[tuple[Serializer, SafeFiles]] = []

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
        """Return the written files for the header; files without a digest are read for it."""
        found, blocks = [], Blocks(self.store)
        for serializer, files in self.files:
            put = getattr(files.files, "digests", {})
            written = []
            for name, known in files.written.items():
                size, digest = known or put.get(name) or measured(blocks, self.folder + name)
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
    """Lets serializers read the side data of a result: registered ones first, then plugins.

    Args:
        allow: the types, or modules of types, that plugins may restore; None: all. Registered
            serializers are always trusted.
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
        """Return an object that a serializer has stored; see `pickling.loads`.

        Raises:
            SerializerMissingError: the serializer is neither registered nor installed.
            PluginError: it is installed, but can't be used.
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
    """Return the distribution that provides a serializer, as "name version"; "" if unknown."""
    kind = serializer if isinstance(serializer, type) else type(serializer)
    top = kind.__module__.partition(".")[0]
    for entry in entries(SERIALIZERS):
        if entry.name and entry.value.partition(".")[0] == top:
            return entry.owner
    from importlib import metadata  # on use: it takes longer than listing results

    try:
        return f"{top.replace('_', '-')} {metadata.version(top)}"
    except metadata.PackageNotFoundError:
        return ""


class SafeFiles:
    """A file protocol that accepts any string as a file name, and records the written files.

    Attributes:
        written: size and digest by name, or None if they are not measured yet. The name of a
            folder ends in "/".
    """

    def __init__(self, files: Any) -> None:
        self.files = files
        self.written: dict[str, tuple[int, str] | None] = {}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file beside the result, as the builtin `open` does.

        If the file is a plain local one, the opened file's `name` is its path.
        """
        name = segment_of(filename)
        if mode.strip("bt") != "r":
            self.written[name] = None
        file: IO[Any] = self.files.open(name, mode)
        return file

    def remove(self, filename: str) -> None:
        """Remove a file beside the result, or the record of a folder that is removed already."""
        name = segment_of(filename)
        self.files.remove(name)
        self.written.pop(name, None)
        self.written.pop(f"{name}/", None)

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder beside the result; "w" makes it.

        Raises:
            OptionsError: this storage does not store side data in plain local files.
        """
        name = segment_of(filename)
        if not hasattr(self.files, "folder"):
            raise OptionsError(
                f"{self.files!r} can't keep a folder beside a result: it has no plain local files"
            )
        if mode == "w":
            self.written[f"{name}/"] = None
        path: str = self.files.folder(name, mode)
        return path

    def claim(self, filename: str) -> None:
        """Record a folder beside the result, before it is written by other means.

        So it is removed if the save fails, and with the result.
        """
        self.written[f"{segment_of(filename)}/"] = None

    def digested(self, filename: str, pieces: Iterable[tuple[int, int, str]]) -> None:
        """Record the digests of a file that `open` has made, so that it isn't read for them.

        Args:
            pieces: (first byte, size, XXH3-128 digest) of each; together they are the whole file.

        Raises:
            ValueError: the pieces have a gap or an overlap.
        """
        name, size, lines = segment_of(filename), 0, []
        for start, length, digest in sorted(pieces):
            if start != size:
                raise ValueError(f"no piece of {filename!r} begins at byte {size}")
            if not length:
                continue
            size += length
            lines.append(f"{start} {length} {digest}\n")
        beside = name + PIECES
        if len(beside) <= LONGEST:
            self.written[beside] = None
            with self.files.open(beside, "wb") as file:
                file.write("".join(lines).encode())
            self.written[name] = size, IN_PIECES

    def digested_folder(self, filename: str, files: Mapping[str, tuple[int, str]]) -> None:
        """Record the sizes and digests of all files in a folder, by their names in it."""
        self.written[f"{segment_of(filename)}/"] = of_folder(files)


def side_keys(store: BlobStore, folder: str, names: Iterable[str]) -> list[str]:
    """Return the keys of side data by its names in the header; lists the files in folders."""
    keys = []
    for name in names:
        key = f"{folder}{SIDE_DATA}{name}"
        if name.endswith("/"):
            keys += [blob.key for blob in store.list(key)]
        keys.append(key)
    return keys
