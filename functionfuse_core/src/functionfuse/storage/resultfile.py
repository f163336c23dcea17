"""One result as bytes: prefix, JSON header, pickle, aligned buffers, each with its digest.

The bytes are specified in `docs/format.md`. What is packed is never joined, and what is read is
never copied; nothing is unpickled before its digest, and its signature if there is a key, is right.
"""

from __future__ import annotations

import functools
import hmac
import json
import platform
import re
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
)
from .blobstore import Buffer
from .pickling import Pickled, loads, packages_of
from .unique import unique

__all__ = [
    "FIRST_READ",
    "SideData",
    "Stored",
    "TaskInfo",
    "check",
    "names_in_header",
    "pack",
    "read_info",
    "read_stored",
    "unpack",
]

MAGIC = b"\x93FUSE\r\n\x1a"
VERSION = 1
_START = struct.Struct("<8sII")  # magic, version, length of the header
_DIGEST_AT = _START.size
_SIGNATURE_AT = _DIGEST_AT + 16
HEADER_AT = _SIGNATURE_AT + 32
ALIGNMENT = 64
FIRST_READ = 4096  # bytes that hold the header of nearly every result

_PYTHON = platform.python_version()
_HOST = platform.node()
_UNSIGNED = bytes(32)
_padding = [bytes(count) for count in range(ALIGNMENT)]
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_quoted = json.encoder.encode_basestring_ascii
_decoder = json.JSONDecoder()
_QUOTED_HOST = _quoted(_HOST)
_JOINED_UP_TO = 64 << 10  # bytes of pickle
_is_segment = re.compile(r"[A-Za-z0-9_\-, =+@()%][A-Za-z0-9._\-, =+@()%]{0,199}").fullmatch


class About(NamedTuple):
    """What a header tells beside what is seen from the bytes; see `TaskInfo`."""

    workflow: str
    task: str
    function: str
    seconds: float | None
    type: str


class SideData(NamedTuple):
    """What one serializer keeps beside a result.

    Attributes:
        serializer: the serializer's name.
        distribution: what provides it, as "name version"; "" where that isn't known.
        files: (name, size in bytes, XXH3-128 digest) of each file that it wrote.
    """

    serializer: str
    distribution: str
    files: tuple[tuple[str, int, str], ...]


class TaskInfo(NamedTuple):
    """What a result's header tells, without the value.

    Attributes:
        workflow, task: the names it was saved under.
        function: module and qualified name of what computed it; "" for a result saved by hand.
        created: when, ISO 8601, UTC, on the writer's clock.
        seconds: how long the function ran; None for a result saved by hand.
        type: module and qualified name of the value's type.
        digest: XXH3-128 of the value's bytes: pickle, buffers and side data.
        pickle: (size in bytes, digest) of the pickle.
        buffers: the same of each out-of-band buffer.
        side_data: what serializers keep beside the result.
        by_value: whether code is stored by value, which only the same Python minor version reads.
        python: version of Python that wrote it.
        packages: module to version, of those that the pickle names.
        host: name of the machine that wrote it.
        token: different for every write.
        fingerprint: what the backend recorded of code and inputs.
        size: bytes of the whole blob, without side data.
        signed: whether it carries a signature; `read_info` has not checked that.
    """

    workflow: str
    task: str
    function: str
    created: str
    seconds: float | None
    type: str
    digest: str
    pickle: tuple[int, str]
    buffers: Sequence[tuple[int, str]]
    side_data: tuple[SideData, ...]
    by_value: bool
    python: str
    packages: Mapping[str, str]
    host: str
    token: str
    fingerprint: Mapping[str, Any]
    size: int
    signed: bool


_HEADER_FIELDS = TaskInfo._fields[:-2]
_HEADER_TYPES: tuple[Any, ...] = (
    *(str, str, str, str, (float, int, type(None)), str, str, tuple, list, tuple),
    *(bool, str, dict, str, str, dict),
)


def pack(
    pickled: Pickled,
    about: About,
    fingerprint: Mapping[str, Any],
    side_data: Sequence[SideData] = (),
    key: bytes | None = None,
) -> tuple[list[Buffer], TaskInfo]:
    """Return a result's bytes as parts to be written in order, and what its header tells.

    The value's buffers are among the parts themselves: they must not change until written.

    Args:
        fingerprint: what the backend records of code and inputs.
        key: signs the header, and with its digests all bytes (HMAC-SHA256, RFC 2104).
    """
    data, views, by_value = pickled
    own = xxh3_128_hexdigest(data)
    buffers = [(len(view), xxh3_128_hexdigest(view)) for view in views]
    digest = _combined(own, buffers, side_data) if buffers or side_data else own
    created, packages, token = _now(), packages_of(data), unique()
    workflow, task, function, seconds, kind = about
    # Put together by hand: this takes a third of the time of encoding a dictionary.
    header = (
        f'{{"workflow":{_quoted(workflow)},"task":{_quoted(task)},"function":{_quoted(function)},'
        f'"created":"{created}","seconds":{_encode(seconds)},"type":{_quoted(kind)},'
        f'"digest":"{digest}","pickle":[{len(data)},"{own}"],'
        f'"buffers":{_encode(buffers) if buffers else "[]"},'
        f'"side_data":{_encode(side_data) if side_data else "[]"},'
        f'"by_value":{"true" if by_value else "false"},"python":"{_PYTHON}",'
        f'"packages":{_encode(packages) if packages else "{}"},"host":{_QUOTED_HOST},'
        f'"token":"{token}","fingerprint":{_encode(fingerprint) if fingerprint else "{}"}}}\n'
    ).encode()
    start = _START.pack(MAGIC, VERSION, len(header))
    signature = _UNSIGNED if key is None else _sign(key, start, header)
    prefix = start + xxh3_128_digest(start + signature + header) + signature
    size = HEADER_AT + len(header) + len(data)
    parts: list[Buffer] = [prefix + header, data]
    if len(data) <= _JOINED_UP_TO:
        parts = [prefix + header + data]  # one small copy is quicker than one more part
    for view in views:
        if gap := -size % ALIGNMENT:
            parts.append(_padding[gap])
        parts.append(view)
        size += gap + len(view)
    info = TaskInfo(
        workflow,
        task,
        function,
        created,
        seconds,
        kind,
        digest,
        (len(data), own),
        buffers,
        tuple(side_data),
        by_value,
        _PYTHON,
        packages,
        _HOST,
        token,
        fingerprint,
        size,
        key is not None,
    )
    return parts, info


def read_info(data: Buffer, size: int | None = None) -> TaskInfo | int:
    """Return what a header tells; or, if `data` ends before the header does, the bytes it needs.

    Args:
        data: the beginning of a blob, `FIRST_READ` bytes of it for instance.
        size: of the whole blob, where it is known.

    Raises:
        DamagedResultError: this is no header, it was changed, or it is not as specified.
        NewerFormatError: it was written by a later version of Function Fuse.
    """
    end = _header_end(data)
    return end if end > len(data) else _parsed(bytes(data[:end]), size)


def _parsed(head: bytes, size: int | None) -> TaskInfo:
    """Return what a whole prefix and header tell."""
    signature = head[_SIGNATURE_AT:HEADER_AT]
    if xxh3_128_digest(head[:_DIGEST_AT] + head[_SIGNATURE_AT:]) != head[_DIGEST_AT:_SIGNATURE_AT]:
        raise DamagedResultError("the header is not what was written")
    try:
        header, _ = _decoder.raw_decode(str(head[HEADER_AT:], "utf-8"))
        header["pickle"] = tuple(header["pickle"])
        header["buffers"] = [(length, digest) for length, digest in header["buffers"]]
        header["side_data"] = tuple(map(_side_data, header["side_data"]))
        if size is None:
            size = _sections(header["pickle"], header["buffers"], len(head))[-1][2]
        return _info(header, size, signature != _UNSIGNED)
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise DamagedResultError(f"the header is not as specified: {error}") from error


class Stored:
    """A checked header of which a plan needs little; the rest is parsed when it is asked for.

    Attributes:
        digest: of the value; see `TaskInfo`.
        call: the fingerprint's first field; "" where nothing was recorded.
    """

    __slots__ = ("_data", "_info", "call", "digest")

    def __init__(self, digest: str, call: str, data: Buffer, info: TaskInfo | None = None) -> None:
        self.digest = digest
        self.call = call
        self._data = data
        self._info = info

    @property
    def info(self) -> TaskInfo:
        """All that the header tells."""
        if self._info is None:
            info = read_info(self._data)
            assert isinstance(info, TaskInfo)
            self._info = info
        return self._info

    @classmethod
    def of(cls, info: TaskInfo) -> Stored:
        """Return the same of a header that is parsed already."""
        return cls(info.digest, info.fingerprint.get("call", ""), b"", info)


def read_stored(data: Buffer, names: bytes) -> Stored | None:
    """Return a header that is sound and as `pack` writes it; None for any other: see `read_info`.

    Args:
        names: what the header begins with, from `names_in_header`.
    """
    end = HEADER_AT
    if len(data) >= end and data[:8] == MAGIC:
        _, version, length = _START.unpack_from(data)
        end += length
    if not HEADER_AT < end <= len(data) or version != VERSION:
        return None
    head = bytes(data[:end])
    if xxh3_128_digest(head[:_DIGEST_AT] + head[_SIGNATURE_AT:]) != head[
        _DIGEST_AT:_SIGNATURE_AT
    ] or not head.startswith(names, HEADER_AT):
        return None
    # A quotation mark inside a JSON string is escaped, so these can't be found in one.
    digest = head.find(b',"digest":"', HEADER_AT) + 11
    call = head.find(b',"fingerprint":{"call":"', HEADER_AT) + 24
    if digest < HEADER_AT or head[digest + 32 : digest + 33] != b'"':
        return None
    found = head[call : call + 32].decode("latin-1") if call > HEADER_AT else ""
    return Stored(head[digest : digest + 32].decode("latin-1"), found, head)


def names_in_header(workflow: str, task: str) -> bytes:
    """Return what the header of a task's result begins with, as `pack` writes it."""
    return b'{"workflow":%s,"task":%s,' % (_encode(workflow).encode(), _encode(task).encode())


def check(data: Buffer, key: bytes | None = None) -> tuple[TaskInfo, list[memoryview]]:
    """Check all digests of a result; return what its header tells, and pickle and buffers.

    Raises:
        DamagedResultError: the bytes were changed or cut.
        UntrustedResultError: there is a key, and the result is not signed with it.
        NewerFormatError: the result was written by a later version of Function Fuse.
    """
    position = _header_end(data)
    if position > len(data):
        raise DamagedResultError(f"the blob is cut within its header, at byte {len(data)}")
    view = memoryview(data)
    info = _parsed(bytes(view[:position]), None)
    if key is not None:
        signature = _sign(key, view[:_DIGEST_AT], view[HEADER_AT:position])
        if not hmac.compare_digest(signature, view[_SIGNATURE_AT:HEADER_AT]):
            state = "signed with another key, or changed" if info.signed else "not signed"
            raise UntrustedResultError(
                f"the result is {state}, and the storage's options demand it"
            )
    if info.size != len(data):
        raise DamagedResultError(f"the blob has {len(data)} bytes and not {info.size}")
    contents = []
    for name, start, end, digest in _sections(info.pickle, info.buffers, position):
        content, gap = view[start:end], view[position:start]
        if xxh3_128_hexdigest(content) != digest or (gap and any(gap)):
            raise DamagedResultError(f"{name} (bytes {start} to {end}) is not what was written")
        contents.append(content)
        position = end
    return info, contents


def unpack(
    info: TaskInfo,
    contents: Sequence[memoryview],
    *,
    allow: Sequence[str] | None = None,
    restore: Callable[[str, Any], Any] | None = None,
) -> Any:
    """Return the value of a result that `check` has found sound; see `pickling.loads`.

    Arrays in it are views of `contents`, and as writable as they are.

    Raises:
        UnreadableResultError: a class or module that it names is not there or does not take what
            was pickled, or it holds code by value of another Python minor version.
        UntrustedResultError: it names what `allow` doesn't allow.
        OSError: a serializer could not read.
    """
    if info.by_value and _minor(info.python) != _minor(_PYTHON):
        raise UnreadableResultError(
            f"it holds code by value, written by Python {info.python}, which Python {_PYTHON} can't"
            f" load. Read it with Python {_minor(info.python)}, or move its classes and functions"
            " from the script into a module, and compute it again"
        )
    try:
        return loads(contents[0], contents[1:], allow=allow, restore=restore)
    except (FunctionFuseError, MemoryError, OSError):
        raise
    except Exception as error:
        written = [f"{name} {version}" for name, version in info.packages.items()]
        raise UnreadableResultError(
            "its bytes are sound, but no value can be made of them here:"
            f" {type(error).__name__}: {error}. It was written by"
            f" {', '.join([f'Python {info.python}', *written])}; install that, or put the class or"
            " module back as it was"
        ) from error


def _header_end(data: Buffer) -> int:
    """Return where the header ends; or how much must be read to tell."""
    if not MAGIC.startswith(bytes(data[: len(MAGIC)])):
        raise DamagedResultError("the blob is not a result of Function Fuse")
    if len(data) < HEADER_AT:
        return HEADER_AT
    _, version, length = _START.unpack_from(data)
    if version > VERSION:
        raise NewerFormatError(
            f"the result has format version {version}, and this version of Function Fuse reads"
            f" versions up to {VERSION}: upgrade functionfuse-core"
        )
    return HEADER_AT + int(length)


def _sections(
    pickled: tuple[int, str], buffers: Sequence[tuple[int, str]], position: int
) -> list[tuple[str, int, int, str]]:
    """Return (what, first byte, end, digest) of pickle and buffers."""
    sections = []
    name = "the pickle"
    for number, (length, digest) in enumerate((pickled, *buffers)):
        if number:
            name = f"buffer {number - 1}"
            position += -position % ALIGNMENT
        if type(length) is not int or length < 0 or type(digest) is not str:
            raise TypeError(f"size or digest of {name}")
        sections.append((name, position, position + length, digest))
        position += length
    return sections


def _side_data(entry: tuple[Any, Any, Any]) -> SideData:
    """Return a header's entry; no file name in it leads out of the side data's folder."""
    name, distribution, entries = entry
    files = tuple((file, size, digest) for file, size, digest in entries)
    for file, size, digest in files:
        if not (_is_segment(file) and type(size) is int and size >= 0 and type(digest) is str):
            raise TypeError(f"side data {file!r}")
    if not (type(name) is str and type(distribution) is str):
        raise TypeError(f"side data of serializer {name!r}")
    return SideData(name, distribution, files)


def _info(header: Mapping[str, Any], size: int, signed: bool) -> TaskInfo:
    values = [header[name] for name in _HEADER_FIELDS]
    if not all(map(isinstance, values, _HEADER_TYPES)):
        found = zip(_HEADER_FIELDS, values, _HEADER_TYPES, strict=True)
        wrong = [name for name, value, kind in found if not isinstance(value, kind)]
        raise TypeError(f"the type of {', '.join(wrong)}")
    return TaskInfo._make([*values, size, signed])


def _combined(
    digest: str, buffers: Sequence[tuple[int, str]], side_data: Sequence[SideData]
) -> str:
    digests = [digest, *(digest for _, digest in buffers)]
    digests += [digest for side in side_data for _, _, digest in side.files]
    return xxh3_128_hexdigest("".join(digests).encode())


def _sign(key: bytes, start: Buffer, encoded: Buffer) -> bytes:
    return hmac.digest(key, b"".join((start, encoded)), "sha256")


def _now() -> str:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
