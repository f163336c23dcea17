"""One result as bytes: prefix, JSON header, pickle, aligned buffers, each with its digest.

The bytes are specified in `docs/format.md`. Everything here works on buffers: what is packed is
never joined, what is read is never copied, and nothing is unpickled before its digest is checked.
"""

from __future__ import annotations

import json
import pickle
import platform
import secrets
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cloudpickle
from xxhash import xxh3_128, xxh3_128_hexdigest

from ..errors import DamagedResultError, NewerFormatError, UnpicklableResultError
from .blobstore import Buffer

__all__ = ["FIRST_READ", "TaskInfo", "pack", "read_info", "unpack"]

MAGIC = b"\x93FUSE\r\n\x1a"
VERSION = 1
_PREFIX = struct.Struct("<8sII")
_HEADER_AT = _PREFIX.size + 16
ALIGNMENT = 64
FIRST_READ = 4096  # bytes that hold the header of nearly every result
_OUT_OF_BAND_FROM = 1024  # smaller buffers stay inside the pickle

_PYTHON = platform.python_version()
_HOST = platform.node()
_padding = [bytes(count) for count in range(ALIGNMENT)]


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a result's header tells, without the value.

    Attributes:
        workflow, task: the names it was saved under.
        function: module and qualified name of what computed it; "" for a result saved by hand.
        created: when, ISO 8601, UTC, on the writer's clock.
        seconds: how long the function ran; None for a result saved by hand.
        type: module and qualified name of the value's type.
        digest: XXH3-128 over the digests of pickle and buffers: equal for equal bytes of the value.
        size: bytes of the whole blob.
        by_value: whether code is stored by value, which only the same Python minor version reads.
        python: version of Python that wrote it.
        packages: module to version, of those that the pickle names.
        host: name of the machine that wrote it.
        token: different for every write.
        fingerprint: what the backend recorded of code and inputs.
    """

    workflow: str
    task: str
    function: str
    created: str
    seconds: float | None
    type: str
    digest: str
    size: int
    by_value: bool
    python: str
    packages: Mapping[str, str]
    host: str
    token: str
    fingerprint: Mapping[str, Any]


def pack(
    value: Any,
    workflow: str,
    task: str,
    *,
    function: str = "",
    seconds: float | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> tuple[list[Buffer], TaskInfo]:
    """Return a result's bytes as parts to be written in order, and what its header tells.

    The value's buffers are among the parts themselves: they must not change until written.

    Raises:
        UnpicklableResultError: neither pickle nor cloudpickle can pickle the value.
    """
    pickled, views, by_value = _pickle(value)
    buffers = [(len(view), xxh3_128_hexdigest(view)) for view in views]
    digest_of_pickle = xxh3_128_hexdigest(pickled)
    kind = type(value)
    header = {
        "workflow": workflow,
        "task": task,
        "function": function,
        "created": datetime.now(UTC).isoformat(),
        "seconds": seconds,
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "digest": _combined(digest_of_pickle, [digest for _, digest in buffers]),
        "pickle": (len(pickled), digest_of_pickle),
        "buffers": buffers,
        "by_value": by_value,
        "python": _PYTHON,
        "packages": _packages(pickled),
        "host": _HOST,
        "token": secrets.token_hex(8),
        "fingerprint": fingerprint or {},
    }
    encoded = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    prefix = _PREFIX.pack(MAGIC, VERSION, len(encoded))
    digest = xxh3_128(prefix)
    digest.update(encoded)
    parts: list[Buffer] = [b"".join((prefix, digest.digest(), encoded, pickled))]
    if len(pickled) > ALIGNMENT * 1024:
        parts = [b"".join((prefix, digest.digest(), encoded)), pickled]
    size = _HEADER_AT + len(encoded) + len(pickled)
    for view in views:
        gap = -size % ALIGNMENT
        if gap:
            parts.append(_padding[gap])
        parts.append(view)
        size += gap + len(view)
    return parts, _info(header, size)


def read_info(data: Buffer, size: int | None = None) -> TaskInfo | int:
    """Return what a header tells; or, if `data` ends before the header does, the bytes it needs.

    Args:
        data: the beginning of a blob.
        size: of the whole blob, where it is known.

    Raises:
        DamagedResultError: this is no header, or it was changed.
        NewerFormatError: it was written by a later version of Function Fuse.
    """
    header = _header(data)
    if isinstance(header, int):
        return header
    return _info(header, _layout(header, _header_end(data))[1] if size is None else size)


def unpack(data: Buffer, workflow: str, task: str) -> tuple[Any, TaskInfo]:
    """Return the value of a result, and what its header tells.

    Every digest is checked first. Arrays are views of `data`, and as writable as it is.

    Raises:
        DamagedResultError: the bytes were changed or cut, or belong to another task.
        NewerFormatError: they were written by a later version of Function Fuse.
        ImportError, AttributeError, …: what unpickling raises, with a note on what was written.
    """
    header = _header(data)
    if isinstance(header, int):
        raise DamagedResultError(f"the blob is cut within its header, at byte {len(data)}")
    if header["workflow"] != workflow or header["task"] != task:
        raise DamagedResultError(
            f"the blob is the result of task {header['task']!r} of workflow"
            f" {header['workflow']!r}, and stands in the place of another"
        )
    sections, size = _layout(header, _header_end(data))
    if size != len(data):
        raise DamagedResultError(f"the blob has {len(data)} bytes and not {size}")
    view, position = memoryview(data), _header_end(data)
    contents = []
    for name, start, end, digest in sections:
        content, gap = view[start:end], view[position:start]
        if xxh3_128_hexdigest(content) != digest or any(gap):
            raise DamagedResultError(f"{name} (bytes {start} to {end}) is not what was written")
        position = end
        contents.append(content)
    info = _info(header, size)
    return _unpickle(contents, info), info


def _pickle(value: Any) -> tuple[bytes, list[memoryview], bool]:
    views: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _OUT_OF_BAND_FROM:
            return True
        views.append(view)
        return False

    try:
        pickled = pickle.dumps(value, 5, buffer_callback=keep)
        # pickle names what is in a script's or a notebook's __main__; no other process finds it.
        if b"__main__" not in pickled:
            return pickled, views, False
    except Exception:  # noqa: BLE001, S110  # anything; cloudpickle's error, if any, tells more
        pass
    views.clear()
    try:
        pickled = cloudpickle.dumps(value, 5, buffer_callback=keep)
    except Exception as error:
        kind = type(value)
        raise UnpicklableResultError(
            f"a value of type {kind.__module__}.{kind.__qualname__} can't be pickled:"
            f" {type(error).__name__}: {error}"
        ) from error
    return pickled, views, True


def _unpickle(contents: Sequence[memoryview], info: TaskInfo) -> Any:
    if info.by_value and _minor(info.python) != _minor(_PYTHON):
        raise DamagedResultError(
            f"task {info.task!r} of workflow {info.workflow!r} holds code by value, written by"
            f" Python {info.python}; Python {_PYTHON} can't load that. Read it with"
            f" Python {_minor(info.python)}, or move its classes and functions into a module"
        )
    try:
        return pickle.loads(contents[0], buffers=contents[1:])
    except Exception as error:
        written = ", ".join(f"{name} {version}" for name, version in info.packages.items())
        error.add_note(
            f"while reading task {info.task!r} of workflow {info.workflow!r}, whose bytes are"
            f" sound; it was written by Python {info.python}{' with ' if written else ''}{written}"
        )
        raise


def _header(data: Buffer) -> dict[str, Any] | int:
    if len(data) < _HEADER_AT:
        if MAGIC.startswith(bytes(data[: len(MAGIC)])):
            return _HEADER_AT
        raise DamagedResultError("the blob is not a result of Function Fuse")
    magic, version, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise DamagedResultError("the blob is not a result of Function Fuse")
    if version > VERSION:
        raise NewerFormatError(
            f"the result has format version {version}, and this version of Function Fuse reads"
            f" versions up to {VERSION}: upgrade functionfuse-core"
        )
    end = _HEADER_AT + length
    if len(data) < end:
        return int(end)
    view = memoryview(data)
    digest = xxh3_128(view[: _PREFIX.size])
    digest.update(view[_HEADER_AT:end])
    if digest.digest() != view[_PREFIX.size : _HEADER_AT]:
        raise DamagedResultError("the header is not what was written")
    header: dict[str, Any] = json.loads(bytes(view[_HEADER_AT:end]))
    return header


def _header_end(data: Buffer) -> int:
    return _HEADER_AT + int(_PREFIX.unpack_from(data)[2])


def _layout(
    header: Mapping[str, Any], position: int
) -> tuple[list[tuple[str, int, int, str]], int]:
    """Return (what, first byte, end, digest) of pickle and buffers, and the size of the blob."""
    length, digest = header["pickle"]
    sections = [("the pickle", position, position + length, digest)]
    position += length
    for number, (length, digest) in enumerate(header["buffers"]):
        position += -position % ALIGNMENT
        sections.append((f"buffer {number}", position, position + length, digest))
        position += length
    return sections, position


def _info(header: Mapping[str, Any], size: int) -> TaskInfo:
    return TaskInfo(
        header["workflow"],
        header["task"],
        header["function"],
        header["created"],
        header["seconds"],
        header["type"],
        header["digest"],
        size,
        header["by_value"],
        header["python"],
        header["packages"],
        header["host"],
        header["token"],
        header["fingerprint"],
    )


def _combined(digest_of_pickle: str, digests_of_buffers: Sequence[str]) -> str:
    if not digests_of_buffers:
        return digest_of_pickle
    return xxh3_128_hexdigest("".join([digest_of_pickle, *digests_of_buffers]).encode())


def _packages(pickled: bytes) -> dict[str, str]:
    """Return the versions of the top-level modules that the pickle names.

    Protocol 4 and later write a global as two strings and STACK_GLOBAL; each string is a length
    byte, the text and MEMOIZE. A string met before is fetched from the memo instead, so the first
    global of each module is found by its text.
    """
    versions = {}
    place = pickled.find(b"\x94\x93")
    while place >= 0:
        end = pickled.rfind(b"\x94\x8c", 0, place)
        start = pickled.rfind(b"\x8c", 0, end) if end > 0 else -1
        if start >= 0 and pickled[start + 1] == end - start - 2:
            name = pickled[start + 2 : end].decode("utf-8", "replace").partition(".")[0]
            version = getattr(sys.modules.get(name), "__version__", None)
            if isinstance(version, str):
                versions[name] = version
        place = pickled.find(b"\x94\x93", place + 2)
    return versions


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
