"""The beginning of a result file: prefix and JSON header, read without the value.

The bytes are specified in `docs/format.md`. `encoded` writes the fields in a fixed order, by which
`summary` finds a few of them quickly. `read_info` parses every header.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from ..errors import DamagedResultError, NewerFormatError, OriginalResultError
from ..show import texts
from .blobstore import Buffer
from .signing import Key

__all__ = [
    "DIGEST_AT",
    "FIRST_READ",
    "HEADER_AT",
    "IN_PIECES",
    "MAGIC",
    "SIGNATURE_AT",
    "START",
    "UNSIGNED",
    "VERSION",
    "SideData",
    "TaskInfo",
    "encoded",
    "header_end",
    "is_original",
    "is_strong",
    "parsed",
    "quoted",
    "read_info",
    "sealed",
    "sections_of",
]

MAGIC = b"\x93FUSE\r\n\x1a"
VERSION = 2  # the highest that is read; only results with SHA-256 digests have it
START = struct.Struct("<8sII")  # magic, version, length of the header
DIGEST_AT = START.size
SIGNATURE_AT = DIGEST_AT + 16
HEADER_AT = SIGNATURE_AT + 32
UNSIGNED = bytes(32)
ALIGNMENT = 64
FIRST_READ = 4096  # bytes that hold the header of nearly every result
IN_PIECES = "pieces"  # instead of a digest: a second file has the digests of the file's pieces

_PROTOCOL = 0x80  # the opcode that a pickle begins with; the number of the protocol follows
_PICKLES = range(2, 6)

_BRIEF = ("type", "size", "time", "computed")  # in a repr
quoted = json.encoder.encode_basestring_ascii
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decoder = json.JSONDecoder()
_is_digest = re.compile("[0-9a-f]{32}").fullmatch
_is_strong = re.compile("[0-9a-f]{64}").fullmatch
_is_of_file = re.compile(f"[0-9a-f]{{32}}|[0-9a-f]{{64}}|{IN_PIECES}").fullmatch
_is_segment = re.compile(r"[A-Za-z0-9_\-, =+@()%][A-Za-z0-9._\-, =+@()%]{0,199}").fullmatch


class SideData(NamedTuple):
    """The files that one serializer stores beside a result.

    Attributes:
        serializer: the serializer's name.
        distribution: the distribution that provides it, as "name version"; "" if unknown.
        files: (name, size in bytes, digest) of each file: XXH3-128, or SHA-256 in format version 2.
            A name that ends in "/" is a folder. With `IN_PIECES` instead of a digest, the digests
            are in `<name>.pieces`.
        type: module and qualified name of the type that the serializer claims, by which plugins
            are found; "" if it wasn't recorded.
    """

    serializer: str
    distribution: str
    files: tuple[tuple[str, int, str], ...]
    type: str = ""


class TaskInfo(NamedTuple):
    """The fields of a result's header.

    Attributes:
        workflow, task: the names it was saved under.
        function: module and qualified name of its function; "" for a result saved by hand.
        created: the time, ISO 8601, UTC, on the writer's clock.
        seconds: the run time of the function; None for a result saved by hand.
        type: module and qualified name of the value's type.
        digest: XXH3-128 of the value's bytes: pickle, buffers and side data.
        pickle: (size in bytes, digest) of the pickle; SHA-256 in format version 2, else XXH3-128.
        buffers: (size in bytes, digest) of each out-of-band buffer.
        side_data: the files of each serializer beside the result.
        by_value: whether code is stored by value, which only the same Python minor version reads.
        python: version of Python that wrote it.
        packages: versions of the modules that the pickle names, by module.
        host: name of the machine that wrote it.
        token: different for every write.
        fingerprint: the backend's record of code and inputs.
        run: the id of the run that computed it; "" for a result saved by hand.
        own: the project's classes and functions that the pickle names, as "module:qualified name".
        value: digest of the value, if `digest` differs between processes, as for sets; else "".
        key: digest of `own` and the fingerprint's "packages"; "" if both are empty.
        size: bytes of the whole blob, without side data.
        signed: whether it has a signature; `read_info` doesn't check the signature.
        read: whether lazy parts of the value were read to store it; only in what `save` returns.
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
    run: str = ""
    own: tuple[str, ...] = ()
    value: str = ""
    key: str = ""
    size: int = 0
    signed: bool = False
    read: bool = False

    @property
    def strong(self) -> bool:
        """Whether all bytes have digests of SHA-256: format version 2."""
        return is_strong(self.pickle[1])

    @property
    def call(self) -> str:
        """The digest of the call that computed it: code and inputs; "" if it isn't known."""
        call = self.fingerprint.get("call")
        return call if isinstance(call, str) else ""

    @property
    def side_size(self) -> int:
        """The size of the side data in bytes."""
        return sum(size for side in self.side_data for _, size, _ in side.files)

    @property
    def parents(self) -> tuple[str, ...]:
        """The names of the results that it was computed from, as far as they were recorded."""
        given = self.fingerprint.get("parents")
        parents = given if isinstance(given, list) else []
        found: dict[str, None] = {}
        for entry in (*parents, self.fingerprint.get("before")):
            match entry:
                case [str(task), *_] if task:
                    found[task] = None
        return tuple(found)

    def __repr__(self) -> str:
        told = (texts.printable(text) for name, text in self._facts() if name in _BRIEF)
        about = ", ".join(filter(None, told))
        return f"<result of task {self.task!r} of workflow {self.workflow!r}: {about}>"

    def __str__(self) -> str:
        return texts.table([(name, text) for name, text in self._facts() if text])

    def _repr_html_(self) -> str:
        from ..show.notebook import block, facts

        return block(
            f"result of task {self.task!r} of workflow {self.workflow!r}", facts(self._facts())
        )

    def _wrote(self) -> str:
        return f"Python {self.python}" if self.python else "the original Function Fuse"

    def _facts(self) -> list[tuple[str, str]]:
        """Return names and texts for people."""
        versions = (f"{name} {version}" for name, version in self.packages.items())
        return [
            ("workflow", self.workflow),
            ("task", self.task),
            ("type", self.type),
            ("size", texts.size(self.size + self.side_size)),
            ("time", texts.duration(self.seconds)),
            ("computed", self.created),
            ("function", self.function),
            ("parents", ", ".join(map(repr, self.parents))),
            ("run", self.run),
            ("call", self.call),
            ("digest", self.digest),
            ("side data", ", ".join(side.serializer for side in self.side_data)),
            ("with", ", ".join((self._wrote(), *versions))),
            ("on", self.host),
        ]


# The types of the fields, in the order of writing, which is also the order of `TaskInfo`.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("workflow", "task", "function", "created"), str),
    "seconds": (float, int, type(None)),
    **dict.fromkeys(("type", "digest"), str),
    "pickle": tuple,
    "buffers": list,
    "side_data": tuple,
    "by_value": bool,
    "python": str,
    "packages": dict,
    "host": str,
    "token": str,
    "fingerprint": dict,
    "run": str,
    "own": tuple,
    "value": str,
    "key": str,
}


def encoded(fields: tuple[Any, ...], key: Key | None = None) -> bytes:
    """Return prefix and header; all digests have one length, so its length is known before them.

    The JSON is built by hand, in a third of the time that encoding a dictionary takes.

    Args:
        fields: the fields of `TaskInfo` without the last two.
        key: signs the header.
    """
    workflow, task, function, created, seconds, kind, digest, pickle, buffers = fields[:9]
    side_data, by_value, python, packages, host, token, fingerprint, run = fields[9:17]
    own, value, own_key = fields[17:]
    # `repr` gives JSON for usual numbers; `_encode` refuses infinities and NaN.
    usual = type(seconds) is float and -1e300 < seconds < 1e300
    number = "null" if seconds is None else repr(seconds) if usual else _encode(seconds)
    header = (
        f'{{"workflow":{quoted(workflow)},"task":{quoted(task)},'
        f'"function":{quoted(function)},"created":"{created}",'
        f'"seconds":{number},"type":{quoted(kind)},'
        f'"digest":"{digest}","pickle":[{pickle[0]},"{pickle[1]}"],'
        f'"buffers":{_encode(buffers) if buffers else "[]"},'
        f'"side_data":{_encode(side_data) if side_data else "[]"},'
        f'"by_value":{"true" if by_value else "false"},"python":"{python}",'
        f'"packages":{_encode(packages) if packages else "{}"},'
        f'"host":{quoted(host)},"token":"{token}",'
        f'"fingerprint":{_encode(fingerprint) if fingerprint else "{}"},"run":{quoted(run)},'
        f'"own":{_encode(own) if own else "[]"},"value":"{value}",'
        f'"key":"{own_key}"}}\n'
    ).encode()
    return sealed(START.pack(MAGIC, 2 if is_strong(pickle[1]) else 1, len(header)), header, key)


def sealed(start: bytes, body: bytes, key: Key | None) -> bytes:
    """Return a prefix with digest and signature, and the body that it describes.

    Args:
        start: the bytes of the prefix before the digest.
        body: the header of a result, or the body of a record.
        key: signs it.
    """
    signature = UNSIGNED if key is None else key.sign(start, body)
    return start + xxh3_128_digest(start + signature + body) + signature + body


def read_info(data: Buffer, size: int | None = None) -> TaskInfo | int:
    """Return the fields of a header; or the number of bytes to read, if `data` ends within it.

    Args:
        data: the beginning of a blob, for example its first `FIRST_READ` bytes.
        size: the size of the whole blob, if known.

    Raises:
        DamagedResultError: this is no header, it was changed, or it is not as specified.
        NewerFormatError: a later version of Function Fuse wrote it.
    """
    end = header_end(data)
    return end if end > len(data) else parsed(bytes(data[:end]), size)


def parsed(head: bytes, size: int | None) -> TaskInfo:
    """Return the fields of a whole prefix and header."""
    signature = head[SIGNATURE_AT:HEADER_AT]
    if xxh3_128_digest(head[:DIGEST_AT] + head[SIGNATURE_AT:]) != head[DIGEST_AT:SIGNATURE_AT]:
        raise DamagedResultError("the header is not what was written")
    try:
        header, _ = _decoder.raw_decode(str(head[HEADER_AT:], "utf-8"))
        header["pickle"] = tuple(header["pickle"])
        header["buffers"] = [(length, digest) for length, digest in header["buffers"]]
        header["side_data"] = tuple(map(_side_data, header["side_data"]))
        header["own"] = tuple(map(_text, header.get("own", ())))
        if START.unpack_from(head)[1] > 1:
            _refuse_weak(header)
        if size is None:
            size = sections_of(header["pickle"], header["buffers"], len(head))[-1][2]
        return _info(header, size, signature != UNSIGNED)
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise DamagedResultError(f"the header is not as specified: {error}") from error


def header_end(data: Buffer) -> int:
    """Return the end of the header; or `HEADER_AT`, if `data` is too short to have its length."""
    if not MAGIC.startswith(bytes(data[: len(MAGIC)])):
        if is_original(data):
            raise OriginalResultError(
                "it is a result of the original Function Fuse; set_reuse('always') reuses it"
            )
        raise DamagedResultError("the blob is not a result of Function Fuse")
    if len(data) < HEADER_AT:
        return HEADER_AT
    _, version, length = START.unpack_from(data)
    if version > VERSION:
        raise NewerFormatError(
            f"the result has format version {version}, and this version of Function Fuse reads"
            f" versions up to {VERSION}: upgrade functionfuse-core"
        )
    return HEADER_AT + int(length)


def is_original(data: Buffer) -> bool:
    """Return whether a blob begins as a result of the original Function Fuse does: a pickle."""
    return len(data) > 1 and data[0] == _PROTOCOL and data[1] in _PICKLES


def sections_of(
    pickled: tuple[int, str], buffers: Sequence[tuple[int, str]], position: int
) -> list[tuple[str, int, int, str]]:
    """Return (name, first byte, end, digest) of the pickle and of each buffer."""
    sections = []
    name = "the pickle"
    for number, (length, digest) in enumerate((pickled, *buffers)):
        if number:
            name = f"buffer {number - 1}"
            position += -position % ALIGNMENT
        if not _is_size(length) or type(digest) is not str:
            raise TypeError(f"size or digest of {name}")
        sections.append((name, position, position + length, digest))
        position += length
    return sections


def _side_data(entry: Sequence[Any]) -> SideData:
    """Return a header's entry; refuse names that lead elsewhere, and what is no digest."""
    name, distribution, entries, *rest = entry
    kind = rest[0] if rest else ""
    files = tuple((file, size, digest) for file, size, digest in entries)
    for file, size, digest in files:
        segment = file.removesuffix("/") if type(file) is str else file
        if not (_is_segment(segment) and _is_size(size) and _is_of_file(digest)):
            raise TypeError(f"side data {file!r}")
    if not (type(name) is str and type(distribution) is str and type(kind) is str):
        raise TypeError(f"side data of serializer {name!r}")
    return SideData(name, distribution, files, kind)


def is_strong(digest: str) -> bool:
    """Return whether a digest is of SHA-256, by its length; others are of XXH3-128."""
    return len(digest) == 64


def _refuse_weak(header: Mapping[str, Any]) -> None:
    """Raise ValueError if a header of format version 2 has another digest than of SHA-256."""
    sections = [header["pickle"], *header["buffers"]]
    files = [entry for side in header["side_data"] for entry in side.files]
    digests = [section[1] for section in sections]
    digests += [digest for *_, digest in files if digest != IN_PIECES]
    if not all(map(_is_strong, digests)):
        raise ValueError("a digest is not of SHA-256")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # as file systems count bytes


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"the name {value!r}")
    return value


def _info(header: Mapping[str, Any], size: int, signed: bool) -> TaskInfo:
    header = {**TaskInfo._field_defaults, **header}
    fields = {name: header[name] for name in _TYPES}
    wrong = [name for name, kind in _TYPES.items() if not isinstance(fields[name], kind)]
    if wrong:
        raise TypeError(f"the type of {', '.join(wrong)}")
    if not (_is_digest(fields["digest"]) and _is_digest(fields["value"] or fields["digest"])):
        raise ValueError("digest or value is no digest")
    seconds = fields["seconds"]
    if seconds is not None and not abs(seconds) < 1e18:
        fields["seconds"] = None  # no function ran so long; JSON also has infinity and NaN
    return TaskInfo(**fields, size=size, signed=signed)
