"""`File`: a file whose content is the value, as an argument and as a result of a node.

1. A source is a path of the user. Its content is digested for a plan, and the digest is remembered
   by the file's stat: see `content`.
2. A save copies a source into the storage, and digests it, in one pass: see `FileSerializer`.
3. A stored file is checked when it is read. At its first use it gets a path, in a private folder:
   a link to it, or a checked copy if the storage has no plain local files, or a key.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, final

from ..errors import DamagedResultError, FileError, NewerFormatError, OptionsError
from . import FILE_PROTOCOL, content, generate_name
from .content import (
    Source,
    State,
    blocks_of,
    content_of,
    opened,
    readable,
    refuse_other,
    source_of,
    state_of,
    status_of,
)
from .ownfolder import own_folder

__all__ = ["File", "FileSerializer"]

_VERSION = 1  # of the pid
_LONGEST = 255  # bytes of a file's name


@final
class File(os.PathLike[str]):
    """A file whose content is the value: as an argument and as a result, at any depth.

    Name and content count for reuse; folder, times and rights don't. A result's file is copied
    into the storage. A node gets the stored file under its own name, in a folder of its own, so a
    program may write beside it. These folders are removed when the process ends. Nobody may write
    to the file itself. Without a storage, the file stays where it is.

    Two are equal if they have the same path, or are the same stored file.

    Args:
        path: made absolute at once, in the current folder; the file may be written later.
        by: "content"; or "stat" to count size and time of change instead, in an argument only.

    Raises:
        OptionsError: `by` is another text, or `path` is empty.
        TypeError: a class inherits this one.
    """

    __module__ = "functionfuse"  # stored headers name this path

    def __init__(
        self, path: str | os.PathLike[str], *, by: Literal["content", "stat"] = "content"
    ) -> None:
        if by not in ("content", "stat"):
            raise OptionsError(f"File(by={by!r}): it is 'content' or 'stat'")
        if not os.fspath(path):
            raise OptionsError("File(''): the path is empty")
        content.files_exist = True
        self._path = str(Path(path).absolute())
        self._by = by
        self._stored: _Stored | None = None

    def __init_subclass__(cls) -> None:
        raise TypeError(
            f"{cls.__name__} can't inherit File, because its other attributes would not count:"
            " give your class an attribute that is a File"
        )

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        return os.path.basename(self._path)

    def __fspath__(self) -> str:
        """Return the path of the file.

        Raises, for a stored file: FileError if its result was replaced or removed meanwhile, and
        DamagedResultError if its bytes are not what was written.
        """
        return self._path if self._stored is None else self._stored.path()

    __str__ = __fspath__

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """Open the file to read it, as the builtin `open` does. Raises ValueError to write."""
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"a File is only read, not opened with {mode!r}: write a new file")
        return open(self, mode, **options)

    def __repr__(self) -> str:
        if self._stored is not None:
            return f"<stored File {self.name!r}>"
        by = "" if self._by == "content" else ", by='stat'"
        return f"File({self._path!r}{by})"

    def _key(self) -> tuple[str, str]:
        return ("", self._stored.filename) if self._stored else (self._path, self._by)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, File) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __copy__(self) -> File:
        return self  # nothing of it can be changed

    def __deepcopy__(self, _: object) -> File:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._path, self._by, self._stored)

    def _counted(self) -> tuple[tuple[object, ...], Source | None]:
        """Return what counts for reuse; and the source, if the file is not a stored one."""
        source = source_of(os.fspath(self), by_stat=self._by == "stat")
        _, state, digest = source
        found = (self.name, digest) if digest else (self.name, *state[:2])
        return found, None if self._stored else source


def _made(path: str, by: Any, stored: _Stored | None) -> File:
    file = File(path, by=by)
    file._stored = stored
    return file


class FileSerializer:
    """Stores the file of each `File` beside the result; see `Serializer`."""

    name = "functionfuse.File"
    serializer_class: type = File
    always_read = True
    checks_reads = True

    def pickle(self, obj: File, protocols: dict[str, Any]) -> tuple[str, dict[str, object]]:
        """Copy a file into the storage, in blocks.

        Raises ValueError if it can't be read: that is no fault of the storage, so no OSError.
        """
        suffix = os.path.splitext(obj.name)[1]
        filename = generate_name() + (suffix if suffix.isascii() and len(suffix) < 20 else "")
        try:
            path = os.fspath(obj)
            file = opened(path)
            try:
                before = os.fstat(file)
                blocks = readable(path, blocks_of(file, before.st_size))
                protocols[FILE_PROTOCOL].keep(filename, blocks)
                refuse_other(path, before)
            finally:
                os.close(file)
        except FileError as error:
            cure = _KEEP if error.errno == errno.ENOENT else ""
            raise ValueError(f"{error}{cure}") from None
        return self.name, {"version": _VERSION, "file": filename, "name": obj.name}

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> File:
        """Return a `File` of a stored file, which is checked now if it is on this machine."""
        if pid["version"] > _VERSION:
            raise NewerFormatError(f"the File has version {pid['version']} of its form")
        name, filename = pid["name"], pid["file"]
        if not (_is_name(name) and type(filename) is str):
            raise DamagedResultError(f"{name!r:.300} is no name of a file")
        files = protocols[FILE_PROTOCOL]
        stored = _Stored(files.unchecked, filename, name, files.listed(filename), files.of)
        stored.check()
        return _made(f"/{name}", "content", stored)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove a stored file."""
        protocols[FILE_PROTOCOL].remove(pid["file"])


_KEEP = ". A File is copied after the function has returned: keep its folder until then"


def _is_name(name: Any) -> bool:
    """Return whether a name is one of a file, and leads nowhere else."""
    if type(name) is not str or name in ("", ".", "..") or "/" in name or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _leads(link: str, target: str) -> bool:
    """Return whether a path is a link to another one."""
    return os.path.islink(link) and os.readlink(link) == target


class _Stored:
    """A file beside a result. A pickle of it finds the file again, in any process that can.

    Args:
        files: the file protocol that it was read by, without checks.
        filename: its name there.
        name: its name as a `File`.
        expected: size in bytes and digest, as the header lists them.
        of: the result that it belongs to, for messages.

    Attributes:
        seen: the state in which the file was checked.
    """

    def __init__(
        self, files: Any, filename: str, name: str, expected: tuple[int, str], of: str
    ) -> None:
        self.files = files
        self.filename = filename
        self.name = name
        self.expected = expected
        self.of = of
        self.seen: State | None = None
        self._link = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_link": ""}

    def check(self) -> None:
        """Check the file, or only whether it is there if it must be downloaded for that.

        Raises DamagedResultError if it is missing, or not what was written.
        """
        try:
            if self.files.remote:
                self.files.find(self.filename)
            else:
                self._checked()
        except FileNotFoundError:
            raise self._damaged("is missing") from None

    def path(self) -> str:
        """Return the path of the checked file under its own name. Raises as `File.__fspath__`."""
        try:
            target = self._checked()
        except FileNotFoundError:
            raise FileError(
                f"the result with the file {self.name!r} was replaced or removed after it was read:"
                f" read {self.of} again"
            ) from None
        except DamagedResultError as error:
            cure = f"remove {self.of} (`remove_task`), and run again"
            raise DamagedResultError(f"{error}: {cure}") from None
        own = own_folder()
        with own.lock(self.filename):
            link = self._link
            # A forked process needs its own: the other process removes that.
            ours = link.startswith(f"{own.folder}/")
            if not ours or (os.path.lexists(link) and not _leads(link, target)):
                link = f"{tempfile.mkdtemp(prefix='', dir=own.folder)}/{self.name}"
            if not os.path.lexists(link):  # some programs remove what they have read
                os.makedirs(os.path.dirname(link), mode=0o700, exist_ok=True)
                os.symlink(target, link)
            self._link = link
            return link

    def _checked(self) -> str:
        """Return the path of the checked file, or of a copy. Raises FileNotFoundError."""
        path: str = self.files.plain(self.filename)
        if not path:
            return self._copied()
        self._check_plain(path)
        return path

    def _check_plain(self, path: str) -> None:
        try:
            state = state_of(status_of(path))
            if state == self.seen:
                return
            status, digest = content_of(path, strong=len(self.expected[1]) == 64)
        except FileError as error:  # whoever reads a plain value gets an OSError, too
            number = error.errno or errno.ENOENT
            raise OSError(number, os.strerror(number), path) from None
        if (status.st_size, digest) != self.expected:
            raise self._damaged("is not what was written")
        self.seen = state_of(status)

    def _copied(self) -> str:
        blocks = partial(self.files.checked, self.filename, *self.expected)
        try:
            return own_folder().copied((self.filename, *self.expected), self.name, blocks)
        except DamagedResultError:
            raise self._damaged("is not what was written") from None

    def _damaged(self, problem: str) -> DamagedResultError:
        return DamagedResultError(f"the file {self.name!r} {problem}")
