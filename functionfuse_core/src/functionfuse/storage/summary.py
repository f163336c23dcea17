"""The few fields of a header that a plan or a read needs, found by their bytes.

`header.encoded` writes the fields in a fixed order, with `value` and `key` last. So the header's
digest is checked, and then the fields are found without parsing the header. The functions return
None for a header that was written otherwise.
"""

from __future__ import annotations

import re

from xxhash import xxh3_128_digest

from ..errors import DamagedResultError
from .blobstore import Buffer
from .header import (
    DIGEST_AT,
    HEADER_AT,
    MAGIC,
    SIGNATURE_AT,
    START,
    VERSION,
    SideData,
    TaskInfo,
    is_strong,
    quoted,
    read_info,
)
from .signing import Key, section_hexdigest

__all__ = ["Summary", "plain_pickle", "read_stored"]

_VERSIONS = range(1, VERSION + 1)

# The fields are in the order of `encoded`; a string with an escape doesn't match.
_FUNCTION = b'"function":"'
_plain = re.compile(
    _FUNCTION + rb'[^"\\]*","created":"[^"\\]*","seconds":[^",]*,"type":"[^"\\]*",'
    rb'"digest":"([0-9a-f]{32})","pickle":\[(\d{1,18}),"([0-9a-f]{32}|[0-9a-f]{64})"\],'
    rb'"buffers":\[\],"side_data":\[\],"by_value":false,"python":"'
).match

# The first match in a blob is the field: a quotation mark inside a JSON string is escaped. It has a
# group if the list is empty.
_side_data = re.compile(rb',"side_data":\[(\],)?').search

_digest = re.compile(rb'[0-9a-f]{32}"').match
_seconds = re.compile(rb'","seconds":(-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?),"type":"').search

_without_buffers = re.compile(rb'"pickle":\[(\d{1,18}),"[0-9a-f]{32,64}"\],"buffers":\[\],').search

# The last fields have a fixed form. A quotation mark inside a JSON string is escaped, and one brace
# ends the header, so no part of the earlier fields can look like them.
_NOT_DESCRIBED = b',"value":"","key":""}\n'
_DESCRIBED_UP_TO = len(_NOT_DESCRIBED) + 32 + 16
_described = re.compile(rb',"value":"([0-9a-f]{32}|)","key":"([0-9a-f]{16}|)"\}\n\Z').search


class Summary:
    """The few fields of a checked header that a plan needs; the others are parsed on demand.

    Attributes:
        digest: digest of the value's bytes; see `TaskInfo`.
        call: the fingerprint's first field; "" if nothing was recorded.
        value: digest of the value: equal for equal values, in every process.
        key: digest of the names that the value refers to; see `TaskInfo`.
    """

    __slots__ = ("_data", "_info", "call", "digest", "key", "value")

    def __init__(  # noqa: PLR0917  # called for each task, and keywords take longer
        self,
        digest: str,
        call: str,
        value: str,
        key: str,
        data: Buffer = b"",
        info: TaskInfo | None = None,
    ) -> None:
        self.digest = digest
        self.call = call
        self.value = value or digest
        self.key = key
        self._data = data
        self._info = info

    @property
    def side_data(self) -> tuple[SideData, ...]:
        """As in `TaskInfo`."""
        field = None if self._info is not None else _side_data(self._data)
        return () if field and field[1] else self.info.side_data

    @property
    def seconds(self) -> float | None:
        """As in `TaskInfo`."""
        if self._info is not None:
            return self._info.seconds
        found = _seconds(self._data, HEADER_AT)
        seconds = None if found is None else float(found[1])
        return None if seconds is None or not abs(seconds) < 1e18 else seconds

    @property
    def blob_size(self) -> int:
        """Bytes of the blob, without side data; 0 if its header is not as specified."""
        found = None if self._info is not None else _without_buffers(self._data, HEADER_AT)
        if found is not None:
            return len(self._data) + int(found[1])
        try:
            return self.info.size
        except DamagedResultError:
            return 0

    @property
    def size(self) -> int:
        """Bytes of the blob and of the side data."""
        data = bytes(self._data)
        plain = _plain(data, data.find(_FUNCTION, HEADER_AT)) if data else None
        if plain is not None:
            return len(data) + int(plain[2])
        return self.info.size + self.info.side_size

    @property
    def info(self) -> TaskInfo:
        """All fields of the header. Raises DamagedResultError if they are not as specified."""
        if self._info is None:
            info = read_info(self._data)
            assert isinstance(info, TaskInfo)
            self._info = info
        return self._info

    @classmethod
    def of(cls, info: TaskInfo) -> Summary:
        """Return the summary of a header that is parsed already."""
        return cls(info.digest, info.call, info.value, info.key, info=info)


def read_stored(data: Buffer, workflow: str, task: str, signed_by: Key | None) -> Summary | None:
    """Return the summary of a task's sound header as `encoded` writes it; None for others.

    `resultfile.trusted` parses those, and tells if one is not signed with the key.
    """
    head = _sound(data, workflow, task)
    if signed_by is not None and head:
        signature, signed = head[SIGNATURE_AT:HEADER_AT], (head[:DIGEST_AT], head[HEADER_AT:])
        field = _side_data(head)
        weak = START.unpack_from(head)[1] < VERSION and not (field and field[1])
        if weak or not signed_by.has_signed(signature, *signed):
            return None
    # A quotation mark inside a JSON string is escaped, so no string can contain these.
    digest = head.find(b',"digest":"', HEADER_AT) + 11
    call = head.find(b',"fingerprint":{"call":"', HEADER_AT) + 24
    if digest < HEADER_AT or not _digest(head, digest):
        return None
    found = ""
    if call > HEADER_AT + 24:
        if not _digest(head, call):
            return None  # no run wrote it
        found = head[call : call + 32].decode("ascii")
    value, key = "", ""
    if not head.endswith(_NOT_DESCRIBED):
        described = _described(head, max(HEADER_AT, len(head) - _DESCRIBED_UP_TO))
        if described is not None:
            value, key = described[1].decode("ascii"), described[2].decode("ascii")
        elif b'"value":' in head or b'"key":' in head:
            return None  # they may be elsewhere in the header
    own = head[digest : digest + 32].decode("ascii")
    return Summary(own, found, value, key, head)


def plain_pickle(data: Buffer, workflow: str, task: str, wanted: str = "") -> memoryview | None:
    """Return the pickle of a sound result that has neither buffers nor side data nor code.

    Returns None for others, for a result that isn't sound or belongs to another task, and if
    `encoded` didn't write its header.

    Args:
        data: the whole blob.
        wanted: the value's digest; "" for any.
    """
    head = _sound(data, workflow, task)
    found = _plain(head, head.find(_FUNCTION, HEADER_AT)) if head else None
    if found is None:
        return None
    value, size, digest = (each.decode("ascii") for each in found.groups())
    view = memoryview(data)[len(head) :]
    if wanted not in ("", value) or len(view) != int(size):
        return None
    if section_hexdigest(view, strong=is_strong(digest)) != digest:
        return None
    return view


def _sound(data: Buffer, workflow: str, task: str) -> bytes:
    """Return a task's sound prefix and header; b"" for any other."""
    if len(data) < HEADER_AT:
        return b""
    magic, version, length = START.unpack_from(data)
    end = HEADER_AT + length
    if magic != MAGIC or version not in _VERSIONS or end > len(data):
        return b""
    head = bytes(memoryview(data)[:end])
    if xxh3_128_digest(head[:DIGEST_AT] + head[SIGNATURE_AT:]) != head[DIGEST_AT:SIGNATURE_AT]:
        return b""
    names = f'{{"workflow":{quoted(workflow)},"task":{quoted(task)},'.encode()
    return head if head.startswith(names, HEADER_AT) else b""
