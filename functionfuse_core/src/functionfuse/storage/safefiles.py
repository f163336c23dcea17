"""The file protocol for serializers: any names of files and folders, none of another result."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any
from weakref import WeakSet

from xxhash import xxh3_128_digest

from ..errors import DamagedResultError, OptionsError
from ..serializers import FILE_PROTOCOL
from .blobstore import BlobStore, Buffer, has_uuid, name_is_taken
from .disk import protect
from .header import IN_PIECES, SideData, is_strong
from .keys import LONGEST, segment_of
from .sidecheck import BLOCK, PIECES, Measured, of_folder
from .signing import hasher, sha256_digest

__all__ = ["SafeFiles", "SideFolder"]


class SafeFiles:
    """A file protocol that accepts any string as a file name, and records the written files.

    Args:
        files: the file protocol of the store.
        store, prefix: the store, and the beginning of the keys of all files.
        taken: the names of all files of the same save. In a save, a name that another object or
            another result has is refused with FileExistsError.
        signed: whether the results of the storage are signed with a key.
        listed: the side data in the header of a result that is read.

    Attributes:
        digest: returns the digest of bytes, for `digested` and `digested_folder`: 16 bytes of
            XXH3-128, or 32 of SHA-256 if results are signed. It pickles.
        written: size and digest by name, or None if they are not measured yet. The name of a
            folder ends in "/".
        of: the result that is read, for messages.
    """

    def __init__(
        self,
        files: Any,
        store: BlobStore,
        prefix: str,
        taken: set[str] | None = None,
        *,
        signed: bool = False,
        listed: Iterable[SideData] = (),
    ) -> None:
        self.files = files
        self.signed = signed
        self.digest: Callable[[Buffer], bytes] = sha256_digest if signed else xxh3_128_digest
        self.written: dict[str, tuple[int, str] | None] = {}
        self.of = "the result"
        self._taken = taken
        self._store = store
        self._prefix = prefix
        self._opened: WeakSet[IO[Any]] = WeakSet()  # to be written
        self._listed = {name: side for side in listed for name, *_ in side.files}
        if hasattr(files, "digests"):
            files.digest = self.digest

    def __getstate__(self) -> dict[str, Any]:
        gone = "_opened", "_listed"
        return {name: each for name, each in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_listed": {}, **state}, _opened=WeakSet())

    def offer(self, protocols: Mapping[str, Any]) -> dict[str, Any]:
        """Return a store's protocols with these files in place of the store's own.

        A protocol with a method `use_files` opens files, too: from now on it does so through these.
        """
        for protocol in protocols.values():
            if hasattr(protocol, "use_files"):
                protocol.use_files(self)
        return {**protocols, FILE_PROTOCOL: self}

    @property
    def unchecked(self) -> SafeFiles:
        """The same files for a serializer that checks by itself all bytes that it reads.

        The files of a signed result are checked when they are opened; see `CheckedFiles`. These
        are not: whoever can write to the store can change them at any time.
        """
        return self

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a file beside the result, as the builtin `open` does.

        If the file is a plain local one, the opened file's `name` is its path.
        """
        return self._open(segment_of(filename), mode)

    def _open(self, name: str, mode: str) -> IO[Any]:
        writes = mode.strip("bt") != "r"
        if writes and self._taken is not None and not self._is_own(name):
            self._refuse(name, name in self._taken - self.written.keys())
            if "r" in mode:
                raise ValueError(f"{name!r} is not written yet: it can't be opened with {mode!r}")
            mode = mode.replace("w", "x").replace("a", "x")
        try:
            file: IO[Any] = self.files.open(name, mode)
        except FileExistsError:
            self._refuse(name, taken=True)
            raise
        if writes:
            self._note(name)
            self._opened.add(file)
        return file

    def keep(self, filename: str, blocks: Iterable[Buffer]) -> None:
        """Write a file in blocks, digested on the way. A plain local one gets read-only."""
        digest, size, plain = hasher(strong=self.signed), 0, hasattr(self.files, "folder")
        try:
            with self.open(filename, "wb") as file:
                for block in blocks:
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                if plain:
                    protect(file.fileno(), 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and not plain:
                error.add_note(f"it is copied to {tempfile.gettempdir()!r} first: see TMPDIR")
            raise
        self.written[segment_of(filename)] = size, digest.hexdigest()

    def listed(self, filename: str) -> Measured:
        """Return the size and digest of a file as the header lists them, or as they were written.

        Raises DamagedResultError if the header doesn't list it.
        """
        name = segment_of(filename)
        side = self._listed.get(name)
        files = {file: (size, digest) for file, size, digest in side.files} if side else {}
        found = files.get(name) or self.written.get(name)
        if not found:
            raise DamagedResultError(f"the header doesn't list the file {name!r}")
        return found

    def plain(self, filename: str) -> str:
        """Return the path of a plain local file; "" for others, and if results are signed."""
        if self.signed or not hasattr(self.files, "folder"):
            return ""
        path: str = self.files.folder(segment_of(filename))
        return path

    def find(self, filename: str) -> None:
        """Read the beginning of a file. Raises ResultNotFoundError if it is missing."""
        self._store.head(self._prefix + segment_of(filename), 1)

    def checked(self, filename: str, size: int, digest: str) -> Iterator[Buffer]:
        """Iterate over a file in blocks, which may share a buffer; compare it at the end.

        Args:
            size, digest: as `listed` returns them.

        Raises ResultNotFoundError if it is missing, and DamagedResultError if it differs.
        """
        name, total = segment_of(filename), 0
        found = hasher(strong=self.signed or is_strong(digest))  # it may be of a signed storage
        for block in self._store.blocks(self._prefix + name, BLOCK):
            found.update(block)
            total += len(block)
            yield block
        if (total, found.hexdigest()) != (size, digest):
            raise DamagedResultError(f"the file {name!r} is not what was written")

    @property
    def remote(self) -> bool:
        """Whether each read is a request over a network."""
        return self._store.remote

    def refuse_open(self) -> None:
        """Raise ValueError if a file is still open: some of its bytes may not be written."""
        for file in self._opened:
            if not file.closed:
                raise ValueError("a file that it wrote is not closed")

    def finish(self) -> None:
        """End the writing of an object, after its serializer has returned."""

    def remove(self, filename: str) -> None:
        """Remove a file beside the result, or the record of a folder that is removed already.

        While a result is saved, nothing happens to what another object or result has written.
        """
        name = segment_of(filename)
        if self._taken is not None and not (self._is_own(name) or self._is_own(f"{name}/")):
            return
        self.files.remove(name)
        self.written.pop(name, None)
        self.written.pop(f"{name}/", None)
        if self._taken is not None:
            self._taken -= {name, f"{name}/"}

    def folder(self, filename: str, mode: str = "r") -> str:
        """Return the path of a folder beside the result; "w" makes it.

        A path is for libraries that need one: others who may write to the storage can swap a part
        of it for a symbolic link, which the library follows. `side_folder` follows none.

        Raises:
            OptionsError: this storage does not store side data in plain local files.
        """
        name = segment_of(filename)
        if not hasattr(self.files, "folder"):
            raise OptionsError(
                f"{self._store!r} can't keep a folder beside a result: it has no plain local files;"
                " use `side_folder`"
            )
        if mode == "w":
            there = f"{name}/" not in self.written and os.path.lexists(self.files.folder(name))
            self._refuse(name, there)
            self._note(f"{name}/")
        path: str = self.files.folder(name, mode)
        return path

    def side_folder(self, filename: str, mode: str = "r") -> SideFolder:
        """Return a folder beside the result, for files of any number; "w" claims it: see `claim`.

        Every storage can keep it, with local files or without.
        """
        if mode == "w":
            self.claim(filename)
        return SideFolder(self._store, f"{self._prefix}{segment_of(filename)}/")

    def claim(self, filename: str) -> None:
        """Record a folder beside the result, before it is written by other means.

        So it is removed if the save fails, and with the result.
        """
        name = f"{segment_of(filename)}/"
        if name not in self.written and self._taken is not None:
            self._refuse(name, name in self._taken or self._is_there(name))
        self._note(name)

    def _is_there(self, folder: str) -> bool:
        """Return whether another result has files in a folder; none has if its name has a UUID."""
        return not has_uuid(folder) and any(self._store.list(self._prefix + folder))

    def made(self) -> list[str]:
        """Return the names of the files and folders that were made here."""
        return [name for name in self.written if self._is_own(name)]

    def _is_own(self, name: str) -> bool:
        """Return whether a file or folder is one that was made here."""
        return name in self.written and name not in getattr(self.files, "others", ())

    def _own(self, name: str) -> str:
        if not self._is_own(name):
            raise ValueError(f"{name!r} can't have digests: it is not written here")
        return name

    def _note(self, name: str) -> None:
        self.written[name] = None
        if self._taken is not None:
            self._taken.add(name)

    def _refuse(self, name: str, taken: bool) -> None:
        if taken and self._taken is not None:
            raise name_is_taken(name)

    def digested(self, filename: str, pieces: Iterable[tuple[int, int, str]]) -> None:
        """Record the digests of a file that `open` has made, so that it isn't read for them.

        Args:
            pieces: (first byte, size, digest) of each; together they are the whole file. The
                digests are those of `digest`, in hexadecimal; others are ignored.

        Raises:
            ValueError: the pieces have a gap or an overlap, or it was not written here.
            FileExistsError: the name of the file for the digests, with ".pieces", is taken.
        """
        name, size, lines, known = self._own(segment_of(filename)), 0, [], True
        for start, length, digest in sorted(pieces):
            if start != size:
                raise ValueError(f"no piece of {filename!r} begins at byte {size}")
            if not length:
                continue
            size += length
            known = known and is_strong(digest) == self.signed
            lines.append(f"{start} {length} {digest}\n")
        beside = name + PIECES
        if known and len(beside) <= LONGEST:
            with self._open(beside, "xb") as file:
                file.write("".join(lines).encode())
            self.written[name] = size, IN_PIECES

    def digested_folder(self, filename: str, files: Mapping[str, tuple[int, str]]) -> None:
        """Record the sizes and digests of all files in a folder, by their names in it.

        Digests that are not of `digest` are ignored. Raises ValueError for a folder that was not
        made here.
        """
        name = self._own(f"{segment_of(filename)}/")
        if all(is_strong(digest) == self.signed for _, digest in files.values()):
            self.written[name] = of_folder(files, strong=self.signed)


class SideFolder:
    """A folder of files beside a result, in any storage. It pickles, for workers.

    A file's name is its path in the folder, with "/". It leads to no other place: not by its text,
    and not by a symbolic link, even if others swap a folder for one at any moment.
    """

    def __init__(self, store: BlobStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"SideFolder({self._store!r}, {self._prefix!r})"

    def write(self, name: str, data: Buffer) -> None:
        """Write a file, all or nothing; one with this name is replaced."""
        self._store.put(self._key(name), (data,))

    def read(self, name: str) -> Buffer:
        """Return the bytes of a file; raise FileNotFoundError if there is no regular file."""
        return self._store.get(self._key(name))

    def has(self, name: str) -> bool:
        """Return whether there is a file; its beginning is read."""
        try:
            self._store.head(self._key(name), 1)
        except FileNotFoundError:
            return False
        return True

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of all files, by name; the folder is listed once."""
        return {blob.key[len(self._prefix) :]: blob.size for blob in self._store.list(self._prefix)}

    def clear(self) -> None:
        """Remove all files; a missing folder is no error."""
        self._store.delete([*(self._prefix + name for name in self.sizes()), self._prefix])

    def _key(self, name: str) -> str:
        return self._prefix + "/".join(map(segment_of, name.split("/")))
