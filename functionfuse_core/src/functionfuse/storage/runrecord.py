"""The record of one run as bytes: prefix, digest, signature, and two JSON objects.

The bytes are specified in `docs/format.md`. The prefix is that of a result file, with another
magic. The first object tells about the run, the second one about its nodes, in columns: many runs
are read for the first alone.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from ..errors import DamagedResultError, NewerFormatError, UntrustedResultError
from .blobstore import Buffer
from .header import DIGEST_AT, HEADER_AT, SIGNATURE_AT, START, sealed
from .signing import Key

__all__ = ["SHORT", "RecordedNode", "actions_of", "decoded", "encoded", "fields_of", "nodes_of"]

MAGIC = b"\x93FRUN\r\n\x1a"
VERSION = 1
_COMPRESSED_FROM = 4096  # bytes; below, compressing takes longer than it saves
SHORT = 100_000  # bytes, packed: some thousand nodes, which are parsed in milliseconds
_LARGEST = 1 << 30  # bytes, unpacked; a million nodes have less
_LARGEST_HEAD = 1 << 20  # bytes of the first object
_MUCH = 1e18  # seconds or bytes; no run has so many
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decoder = json.JSONDecoder()
_ACTIONS = '"action":['
_ZLIB = b"x"  # the first byte of a compressed body; JSON begins with "{"


class RecordedNode(NamedTuple):
    """What a run did with one node.

    Attributes:
        name: the node's name.
        action: "computed", "reused", "not needed", "failed" or "not run"; see `NodeRecord`.
        reason: why, as text.
        seconds: how long its function ran in this run; 0 if it didn't.
        begun: when the function began, in seconds since 1970, on the worker's clock; 0 if it
            didn't, or the backend doesn't tell.
        worker: the process, and the thread, in which it ran; "" if that is unknown.
        bytes: size of the stored result; 0 if nothing is stored.
        call: the digest of its call: code and inputs; "" if it is unknown.
        digest: the digest of its stored result; "" if nothing is stored.
        value: a digest that is equal for equal values in every process; "" if it is unknown.
        attempts: how often the function was called.
        parents: names of the nodes whose results it takes, or whose object it changes.
        arguments: by name of the parameter; those in `ignore` are left out. A number, bool, None or
            text of up to 200 characters is itself. The result of a node is `{"node": name}`, and an
            item of it has its keys as text in "item". Others have the name of their type in "type",
            and in "digest" hexadecimal digits, "" if they have none. Numbers and texts of other
            types, such as those of numpy, have "value" instead; infinity and NaN have "float".
        function: module and qualified name of the function.
        code: the digest of the code; "" if it is unknown.
        plugins: type and digest of each node plugin that results depend on.
    """

    name: str
    action: str
    reason: str = ""
    seconds: float = 0.0
    begun: float = 0.0
    worker: str = ""
    bytes: int = 0
    call: str = ""
    digest: str = ""
    value: str = ""
    attempts: int = 0
    parents: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = {}  # never changed
    function: str = ""
    code: str = ""
    plugins: tuple[tuple[str, str], ...] = ()


def encoded(head: Mapping[str, Any], nodes: Mapping[str, Sequence[Any]], key: Key | None) -> bytes:
    """Return the bytes of a record.

    Args:
        head: the fields about the run.
        nodes: columns: for each field of `RecordedNode` the values of all nodes. Missing fields
            have their defaults.
        key: signs the record.
    """
    body = f"{_encode(head)}\n{_encode(nodes)}\n".encode("ascii")
    if len(body) >= _COMPRESSED_FROM:
        body = zlib.compress(body, 1)
    return sealed(START.pack(MAGIC, VERSION, len(body)), body, key)


def decoded(data: Buffer, key: Key | None) -> tuple[dict[str, Any], bytes]:
    """Return the fields about the run, and the body, for `nodes_of`.

    Only the beginning of the body is unpacked here.

    Raises:
        DamagedResultError: this is no record, it was changed, or it is not as specified.
        NewerFormatError: a later version of Function Fuse wrote it.
        UntrustedResultError: it isn't signed with the key.
    """
    data = bytes(data)
    start, body = data[:DIGEST_AT], data[HEADER_AT:]
    try:
        magic, version, length = START.unpack(start)
    except struct.error:
        magic, version, length = b"", 0, 0
    if magic != MAGIC:
        raise DamagedResultError("it is no record of a run")
    if version > VERSION:
        raise NewerFormatError(f"it has format version {version}: upgrade functionfuse-core")
    digest, signature = data[DIGEST_AT:SIGNATURE_AT], data[SIGNATURE_AT:HEADER_AT]
    if len(body) != length or xxh3_128_digest(start + signature + body) != digest:
        raise DamagedResultError("the record is not what was written")
    if key is not None and not key.has_signed(signature, start, body):
        raise UntrustedResultError("it is not signed with the storage's key")
    try:
        first, end, _ = _unpacked(body, _LARGEST_HEAD).partition(b"\n")
        head = json.loads(first)
        if not (end and isinstance(head, dict)):
            raise TypeError("the first line is no object")
    except (RecursionError, TypeError, ValueError, zlib.error) as error:
        raise DamagedResultError(f"the record is not as specified: {error}") from error
    return head, body


_TEXTS = ("id", "workflow", "started", "user", "host", "python", "commit", "backend")
_ERROR = ("type", "text", "node")


def fields_of(head: Mapping[str, Any], run: str, workflow: str) -> dict[str, Any]:
    """Return the known fields of a head; raise DamagedResultError if they are not as specified."""
    texts = {field: head.get(field) for field in _TEXTS}
    seconds: Any = head.get("seconds")
    error: Any = head.get("error", "")
    told: dict[str, Any] = error if isinstance(error, dict) else {}
    error = {field: told.get(field) for field in _ERROR} if told else error
    every = [*texts.values(), *(error.values() if told else ())]
    usual = type(seconds) in (int, float) and abs(seconds) < _MUCH  # nor NaN
    if not (usual and (told or error is None) and all(isinstance(text, str) for text in every)):
        raise DamagedResultError("a field about the run is missing, or has another type")
    if (texts["id"], texts["workflow"]) != (run, workflow):
        other = f"run {texts['id']!r} of workflow {texts['workflow']!r}"
        raise DamagedResultError(f"it is the record of {other}")
    return {**texts, "seconds": seconds, "error": error}


def _unpacked(body: bytes, largest: int) -> bytes:
    """Return the beginning of a body, of at most so many bytes. Raises zlib.error."""
    return zlib.decompressobj().decompress(body, largest) if body[:1] == _ZLIB else body


def nodes_of(body: bytes) -> list[RecordedNode]:
    """Return the nodes of a record, in the order of the run, parents first.

    NaN, infinity, and numbers that no run can have are 0.

    Args:
        body: as from `decoded`.

    Raises:
        DamagedResultError: it is not as specified.
    """
    try:
        columns = json.loads(_unpacked(body, _LARGEST).partition(b"\n")[2])
        names = columns["name"]
        given = {
            field: columns.get(field, [RecordedNode._field_defaults.get(field)] * len(names))
            for field in RecordedNode._fields
        }
        for field, column in given.items():
            _check(field, column)
        for field in _COUNTED:
            given[field] = [number if abs(number) < _MUCH else 0 for number in given[field]]
        # A `value` of "" stands for the same as `digest`; JSON has lists for tuples.
        both = zip(given["value"], given["digest"], strict=True)
        given["value"] = [value or digest for value, digest in both]
        given["parents"] = list(map(tuple, given["parents"]))
        given["plugins"] = [tuple(map(tuple, plugins)) for plugins in given["plugins"]]
        return list(map(RecordedNode._make, zip(*given.values(), strict=True)))
    except _NOT_AS_SPECIFIED as error:
        raise DamagedResultError(f"the nodes are not as specified: {error}") from error


def actions_of(body: bytes) -> Counter[str]:
    """Return the number of nodes by action.

    The other columns of a long record are not parsed, so faults in them are not noticed.

    Raises:
        DamagedResultError: the nodes are not as specified.
    """
    if len(body) <= SHORT:
        return Counter(node.action for node in nodes_of(body))
    try:
        columns = _unpacked(body, _LARGEST).partition(b"\n")[2].decode("ascii")
        # A quotation mark inside a JSON string is escaped, and no argument is a list.
        found, _ = _decoder.raw_decode(columns, columns.index(_ACTIONS) + len(_ACTIONS) - 1)
        _check("action", found)
        return Counter(found)
    except _NOT_AS_SPECIFIED as error:
        raise DamagedResultError(f"the nodes are not as specified: {error}") from error


_NOT_AS_SPECIFIED = (
    *(AttributeError, LookupError, RecursionError, TypeError, ValueError),
    zlib.error,
)
_COUNTED = "seconds", "begun", "bytes", "attempts"
_NUMBERS: set[type] = {int, float}
_TYPES: dict[str, set[type]] = {
    **dict.fromkeys(_COUNTED, _NUMBERS),
    "parents": {list, tuple},
    "plugins": {list, tuple},
    "arguments": {dict},
}


def _check(field: str, column: Sequence[Any]) -> None:
    """Raise TypeError or ValueError if a field of a node has another type; others are texts."""
    types = set(map(type, column))
    texts: set[Any] = set()
    if field == "parents":
        texts = {name for parents in column for name in parents}
    elif field == "plugins":
        texts = {text for plugins in column for kind, digest in plugins for text in (kind, digest)}
    elif field == "arguments":
        given = (value for arguments in column for value in arguments.values())
        described = [value for value in given if isinstance(value, dict)]
        texts = {value["float"] for value in described if "float" in value}
        for text in texts:
            float(text)
    if not types <= _TYPES.get(field, {str}) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a field {field!r} has another type")
