"""Convert workflow and task names to keys of a blob store, and back.

A name of letters, digits and `._-, =+@()` is its own segment. Every other character is
percent-encoded as UTF-8, and so is a leading dot. A segment longer than 200 bytes is cut, and ends
in "%-" and the XXH3-128 digest of the name; the header has the whole name. No two names share a
segment, and no name leads out of its folder: a segment is never "..", "/" or "".
"""

from __future__ import annotations

import itertools
import os
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from xxhash import xxh3_128_hexdigest

from ..names import check_name

__all__ = [
    "DAMAGED",
    "EARLIER",
    "HEADERS",
    "LEASES",
    "LONGEST",
    "MARKER",
    "NEWER",
    "ORIGINAL",
    "OWN",
    "PROBE",
    "RUNS",
    "SIDE_DATA",
    "earlier_key",
    "earlier_name",
    "folder_of",
    "key_of",
    "name_of",
    "segment_of",
    "unique",
]


LONGEST = 200

# Our own folders inside a workflow's folder: no segment of a name begins with a dot.
SIDE_DATA = ".data/"
DAMAGED = ".damaged/"
LEASES = ".lease/"
EARLIER = ".earlier/"
RUNS = ".runs/"
ORIGINAL = ".original/"
HEADERS = ".headers/"  # of stores where a read is a request
OWN = (SIDE_DATA, DAMAGED, LEASES, EARLIER, RUNS, HEADERS)

# An empty blob that says that a folder is a workflow's; see `ours`.
MARKER = ".functionfuse"

# A blob at the top of a store that is in no listing. It is put and read back before a run computes,
# and removed if that is allowed: see `BlobStore.prepare`.
PROBE = ".tmp-probe"

# A blob in a workflow's folder that is no result: see `earlier.refuse_older_gc`. No name has this
# segment, because letters are never percent-encoded.
NEWER = "%6Eeeds a newer functionfuse"

_is_plain = re.compile(r"[A-Za-z0-9_\-, =+@()][A-Za-z0-9._\-, =+@()]*").fullmatch
_special = re.compile(rb"[^A-Za-z0-9._\-, =+@()]|^\.")


def segment_of(name: str) -> str:
    """Return the key segment of a workflow's or task's name."""
    if len(name) <= LONGEST and _is_plain(name):
        return name
    data = name.encode("utf-8", "surrogatepass")
    segment = _special.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii")
    if len(segment) <= LONGEST:
        return segment
    beginning = segment[: LONGEST - 34]
    cut = beginning.rfind("%", len(beginning) - 2)
    return f"{beginning[:cut] if cut >= 0 else beginning}%-{xxh3_128_hexdigest(data)}"


def name_of(segment: str) -> str | None:
    """Return the name of a segment; None if the segment has only the digest of a long name.

    A segment that no name has is that of another program's file, and is returned as it is.
    """
    if "%" not in segment:
        return segment
    if "%-" in segment:
        return None
    try:
        name = unquote_to_bytes(segment).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return segment
    return name if segment_of(name) == segment else segment


@lru_cache(maxsize=256)
def folder_of(workflow_name: str) -> str:
    """Return the key prefix of all blobs of a workflow; it ends in "/".

    Raises:
        InvalidNameError: the name is no string, or empty.
    """
    return segment_of(check_name(workflow_name, "workflow")) + "/"


def key_of(workflow_name: str, task_name: str) -> str:
    """Return the key of a task's result.

    Raises:
        InvalidNameError: one of the names is no string, or empty.
    """
    folder = folder_of(workflow_name)
    if type(task_name) is str and len(task_name) <= LONGEST and _is_plain(task_name):
        return folder + task_name  # quicker
    return folder + segment_of(check_name(task_name, "task"))


def earlier_key(workflow_name: str, task_name: str, call: str) -> str:
    """Return the key of a task's earlier result, by the digest of its call."""
    return f"{folder_of(workflow_name)}{EARLIER}{earlier_name(task_name, call)}"


def earlier_name(task_name: str, call: str) -> str:
    """Return the last segment of an earlier result's key: the digest of the name, and the call."""
    digest = xxh3_128_hexdigest(task_name.encode("utf-8", "surrogatepass"))
    return segment_of(f"{digest}-{call}")  # the call in a planted header can be "/../../t"


_numbers = itertools.count()
_process = ""


def unique() -> str:
    """Return a string of letters, digits and hyphens that no other call in any process returns."""
    return f"{_process or _begin()}-{next(_numbers):x}"


def _begin() -> str:
    global _process  # noqa: PLW0603  # a new one after a fork
    _process = os.urandom(8).hex()
    return _process


def _forget() -> None:
    global _process  # noqa: PLW0603
    _process = ""


if hasattr(os, "register_at_fork"):  # cheaper than a look at the process's number in each call
    os.register_at_fork(after_in_child=_forget)
