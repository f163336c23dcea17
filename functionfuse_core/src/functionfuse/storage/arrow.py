"""Write Arrow data as a stream of Arrow's IPC format, in pieces, and read it.

Small pieces are joined, and a buffer is a piece of its own, which is the value's own memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pickle import PickleBuffer
from typing import Any

from ..errors import DamagedResultError, UnreadableResultError

__all__ = ["Pieces", "is_extended", "is_new", "library", "read", "written"]

Pieces = Sequence[Any]  # bytes-like

_OLDEST_PYARROW = 17
_EXTENSION = b"ARROW:extension:name"  # is in a schema with a type of an extension


def library(name: str) -> Any:
    """Import a library; raise UnreadableResultError if it isn't there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UnreadableResultError(
            f"it holds values of {name}, which can't be imported here: {error}. pip install {name}"
        ) from error


class Sink:
    """A file for Arrow that keeps what is written, in pieces."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.small: list[bytes] = []

    def write(self, data: Any) -> int:
        if isinstance(data, bytes):
            self.small.append(data)
        else:
            self.end_small()
            self.pieces.append(PickleBuffer(data))
        return len(data)

    def end_small(self) -> None:
        if self.small:
            self.pieces.append(b"".join(self.small))
            self.small = []

    def flush(self) -> None:
        """Do nothing; Arrow calls it."""


class Source:
    """A file for Arrow of pieces; what is in one piece is read without a copy."""

    closed = False

    def __init__(self, pieces: Pieces) -> None:
        self.views = [memoryview(piece).cast("B") for piece in reversed(pieces)]

    def read(self, size: int) -> memoryview:
        parts = []
        while size and self.views:
            view = self.views.pop()
            if len(view) > size:
                self.views.append(view[size:])
            parts.append(view[:size])
            size -= len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def written(pyarrow: Any, schema: Any, batches: Iterable[Any]) -> tuple[Any, ...]:
    """Return the pieces of a stream."""
    sink = Sink()
    ipc = import_module("pyarrow.ipc")
    options = ipc.IpcWriteOptions(allow_64bit=True)
    with ipc.new_stream(pyarrow.PythonFile(sink, "w"), schema, options=options) as stream:
        for batch in batches:
            if batch.num_rows:  # Arrow writes all offsets of texts of which none is shown
                stream.write_batch(batch)
    sink.end_small()
    return tuple(sink.pieces)


def _imported() -> Any:
    pyarrow = library("pyarrow")
    if not is_new(pyarrow):
        raise UnreadableResultError(
            f"it holds data of Arrow, and pyarrow {pyarrow.__version__} is too old to read it:"
            f' pip install --upgrade "pyarrow>={_OLDEST_PYARROW}"'
        )
    return pyarrow


def is_new(pyarrow: Any) -> bool:
    """Return whether pyarrow is new enough; a version without a number counts as new."""
    major = re.search(r"\d+", pyarrow.__version__)
    return major is None or int(major[0]) >= _OLDEST_PYARROW


def is_extended(schema: Any) -> bool:
    """Return whether a schema has a type of an extension, at any depth."""
    return _EXTENSION in memoryview(schema.serialize()).tobytes()


def read(pieces: Pieces, *, checked: bool) -> tuple[Any, list[Any]]:
    """Return the schema and the batches of a stream.

    Args:
        checked: whether the pieces are copied, and validated in full.
    """
    pyarrow = _imported()
    ipc = import_module("pyarrow.ipc")
    if not checked:
        stream = ipc.open_stream(pyarrow.PythonFile(Source(pieces), "r"))
        return stream.schema, list(stream)
    data = pyarrow.py_buffer(b"".join(pieces))
    try:
        if _EXTENSION in memoryview(ipc.read_message(data).metadata).tobytes():
            raise DamagedResultError("its Arrow data have a type of an extension")
        stream = ipc.open_stream(data)
        batches = list(stream)
        for batch in batches:
            batch.validate(full=True)
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        raise DamagedResultError(f"its Arrow data are not what was written: {error}") from error
    return stream.schema, batches
