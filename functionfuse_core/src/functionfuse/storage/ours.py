"""What is ours in a store: only that is shown, and removed.

A folder at the top of a store is a workflow's if it has our marker, or at least one result: an
earlier release wrote no marker. In such a folder, these are ours: the folders of `keys.OWN` with
all that is in them, by their names; and each file that begins as a result, or is so short that it
can be the rest of one. The folder may have other files, and the store other folders. They are left
as they are, and so are results of the original Function Fuse. If a folder without a marker has only
these, or copies of other workflows' results, all of it is left: see `catalog.is_own`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ..errors import ResultNotFoundError
from .blobstore import BlobStore, Buffer, at_once
from .header import MAGIC, is_original
from .keys import MARKER, OWN
from .original import is_whole

__all__ = [
    "SOME",
    "foreign",
    "has_result",
    "is_marked",
    "mark",
    "mark_saved",
    "others_in",
    "warn_of_others",
    "workflows",
]

logger = logging.getLogger(__name__)

SOME = 100  # files of a folder without a marker that are looked at
_PICKLES = 3  # of them that are read


def mark(store: BlobStore, folder: str, known: set[str]) -> None:
    """Put the marker into a workflow's folder, unless it is there, or a file of others.

    Where a look is a request like the put, there is no look.

    Args:
        known: the folders that this process has marked; this one is added.
    """
    if folder not in known:
        if store.remote or _marker(store, folder) is None:
            store.put(folder + MARKER, [b""])
        known.add(folder)


def mark_saved(store: BlobStore, folder: str, known: set[str]) -> None:
    """Put the marker after a save; see `mark`. The result is stored, so no error is raised."""
    try:
        mark(store, folder, known)
    except OSError as error:
        logger.info("the marker of %r can't be put in %r: %r", folder, store, error)


def is_marked(store: BlobStore, folder: str) -> bool:
    """Return whether a folder has our marker."""
    return _marker(store, folder) == b""


def _marker(store: BlobStore, folder: str) -> bytes | None:
    """Return the beginning of the marker; a file of others is not empty. None if there is none."""
    try:
        return bytes(store.head(folder + MARKER, 1))
    except ResultNotFoundError:
        return None


def workflows(store: BlobStore) -> list[str]:
    """Return the sorted folders of the workflows in a store.

    One look for each folder, many at once if a look is a request; more for one without a marker.
    """
    closed: list[str] = []  # folders that can't be entered, or not listed

    def marked(folder: str) -> bool | None:
        try:
            return is_marked(store, folder)
        except PermissionError:
            if store.remote:
                raise
            closed.append(folder)
            return None

    def unmarked(folder: str) -> bool:
        try:
            return has_result(store, folder, list(store.names(folder)))
        except PermissionError:
            if store.remote:
                raise
            closed.append(folder)
            return False

    names = store.names("")
    folders = sorted(name for name in names if name.endswith("/") and not name.startswith("."))
    found = zip(folders, at_once(store, marked, folders), strict=True)
    ours = [folder for folder, answer in found if answer or (answer is False and unmarked(folder))]
    for folder in closed:
        if folder != "lost+found/":  # every disk has one
            logger.warning("the folder %r in %r can't be read: it is left out", folder, store)
    return ours


def has_result(store: BlobStore, folder: str, names: Iterable[str]) -> bool:
    """Return whether a folder is a workflow's, by the names in it: see above.

    Without a marker, some files are looked at, until one is a result. A file that begins as a
    pickle is read, because it can be a result of the original Function Fuse. If a look is a
    request, the name of the marker is enough.
    """
    names = list(names)
    if MARKER in names and (store.remote or is_marked(store, folder)):
        return True
    files = sorted(name for name in names if not name.startswith(".") and not name.endswith("/"))

    def head(name: str) -> bytes:
        try:
            return bytes(store.head(folder + name, len(MAGIC)))
        except (ResultNotFoundError, PermissionError):
            return b""

    pickles = []
    for start in range(0, min(SOME, len(files)), store.concurrency):
        some = files[start : start + store.concurrency]
        for name, begin in zip(some, at_once(store, head, some), strict=True):
            if begin == MAGIC:
                return True
            if is_original(begin):
                pickles.append(name)
    return any(is_whole(store, folder + name) for name in pickles[:_PICKLES])


def foreign(store: BlobStore, keys: Sequence[str], *, empty: bool = True) -> set[str]:
    """Return those keys whose blobs are not ours, by their first bytes, or can't be read.

    Args:
        empty: whether an empty blob, which can be anybody's, is not ours.
    """
    folders: dict[str, list[str]] = {}
    for key in keys:
        folder, slash, name = key.rpartition("/")
        folders.setdefault(folder + slash, []).append(name)
    found = set()
    for folder, names in folders.items():
        for name, head in zip(names, _beginnings(store, folder, names), strict=True):
            begin = None if head is None else bytes(head[: len(MAGIC)])
            if begin is not None and (not MAGIC.startswith(begin) or (empty and not begin)):
                found.add(folder + name)
    return found


def _beginnings(store: BlobStore, folder: str, names: Sequence[str]) -> list[Buffer | None]:
    """Return the first bytes of blobs; None for a missing one, "?" for one that can't be read."""
    try:
        return list(store.heads(folder, names, len(MAGIC)))
    except PermissionError:
        if store.remote:
            raise
    found: list[Buffer | None] = []
    for name in names:
        try:
            found.append(store.head(folder + name, len(MAGIC)))
        except ResultNotFoundError:
            found.append(None)
        except PermissionError:
            found.append(b"?")
    return found


def others_in(store: BlobStore, folder: str, inside: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return what is directly in a workflow's folder: keys of our files, and of what isn't ours.

    Our own folders are in neither; a folder that isn't ours ends in "/".

    Args:
        inside: the names of all that is directly in the folder.
    """
    files, left = [], []
    for name in sorted(inside):
        if not name.startswith(".") and not name.endswith("/"):
            files.append(folder + name)
        elif name not in OWN and name != MARKER:
            left.append(folder + name)
    others = foreign(store, files) if files else set()
    return [key for key in files if key not in others], sorted([*left, *others])


def warn_of_others(store: BlobStore, keys: Sequence[str]) -> None:
    """Log how many files and folders are left because they are not ours."""
    if keys:
        logger.warning(
            "%d file(s) or folder(s) in %r are left, because this Function Fuse has not written"
            " them, or their first bytes are damaged or can't be read: %s. Delete yourself what"
            " you don't need",
            *(len(keys), store, ", ".join(map(repr, keys[:3])) + (", …" if keys[3:] else "")),
        )
