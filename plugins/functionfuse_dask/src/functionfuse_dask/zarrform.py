"""The form of a zarr group: the shapes, codecs and objects of its arrays, and the check of a pid.

All of it follows from the type, the chunks and the compression of the dask array. A pid that says
anything else is refused. zarr is handed what is built here, and nothing that a pid says: its
formats can name codecs that run code.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from functionfuse.errors import DamagedResultError, UntrustedResultError

from .blocks import Chunks
from .elements import Elements, in_zarr

__all__ = ["COMPRESSIONS", "Form", "checked_form", "digests_of"]

# The configurations are only used to write, and a reader needs none of them.
COMPRESSIONS: Mapping[str, Mapping[str, Any]] = {
    "blosc": {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0},
    "gzip": {"level": 5},
    "zstd": {"level": 0, "checksum": False},
}
MOST_BLOCKS = 1 << 22  # the graph of such an array takes some gigabytes

_SMALL = 1 << 20  # bytes of a chunk; many smaller chunks are stored in shards
_MANY = 16
_SHARD = 16 << 20
_DIGEST = 32  # bytes
_CHECKSUM: dict[str, Any] = {"name": "crc32c"}
_INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}, _CHECKSUM]


@dataclass(frozen=True)
class Form:
    """The form of the group of one array. Shapes are in elements of the dask array.

    Attributes:
        endian: of each zarr array that is read: the byte order of its numbers, or None.
    """

    dtype: np.dtype[Any]
    chunks: Chunks
    masked: bool
    compression: str | None = None
    endian: tuple[tuple[str, str | None], ...] = ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(map(sum, self.chunks))

    @cached_property
    def elements(self) -> dict[str, Elements]:
        """The encoding of the elements, by the name of the zarr array."""
        found = {"data": in_zarr(self.dtype)}
        return found | {"mask": in_zarr(np.dtype(bool))} if self.masked else found

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """The shape of zarr's chunks."""
        return tuple(max(1, *sizes) for sizes in self.chunks)

    @cached_property
    def shard(self) -> tuple[int, ...] | None:
        """The shape of shards, which many small chunks share; None if there are no shards.

        Stored arrays are checked by this rule: another one needs another version of the pid.
        """
        item, chunk = self.dtype.itemsize, self.chunk
        count = math.prod(map(len, self.chunks))
        if item * math.prod(chunk) >= _SMALL or count <= _MANY:
            return None
        shard = list(chunk)
        for axis in reversed(range(len(chunk))):
            room = _SHARD // max(1, item * math.prod(shard))
            needed = math.ceil(self.shape[axis] / chunk[axis])
            shard[axis] *= max(1, min(room, needed))
        return tuple(shard)

    @property
    def objects(self) -> Chunks:
        """The chunks of the array that are whole objects of the store: zarr's chunks or shards."""
        sizes = zip(self.shape, self.shard or self.chunk, strict=True)
        return tuple(
            (*(size,) * (total // size), *((total % size,) if total % size else ())) or (0,)
            for total, size in sizes
        )

    def more(self, name: str) -> tuple[int, ...]:
        """Return the shape of an element in a zarr array: () if it is one number there."""
        return (self.dtype.itemsize,) if self.elements[name].spread else ()

    def key(self, name: str, coordinates: tuple[int, ...]) -> str:
        """Return the name of an object of a zarr array, by the coordinates of its block."""
        return "/".join([name, "c", *map(str, coordinates), *("0" for _ in self.more(name))])

    def keys(self, name: str) -> Iterator[str]:
        """Iterate over the names of all objects of a zarr array, in C order."""
        if math.prod(self.shape):
            for coordinates in itertools.product(*(range(len(each)) for each in self.objects)):
                yield self.key(name, coordinates)

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata by which zarr reads an array."""
        stored, more = self.elements[name].stored, self.more(name)
        endian = dict(self.endian)[name]
        codecs: list[Any] = [
            {"name": "bytes", "configuration": {"endian": endian}} if endian else {"name": "bytes"}
        ]
        if self.compression:
            configuration = dict(COMPRESSIONS[self.compression])
            codecs.append({"name": self.compression, "configuration": configuration})
        codecs.append(_CHECKSUM)
        if self.shard:
            inner = {
                "chunk_shape": (*self.chunk, *more),
                "codecs": codecs,
                "index_codecs": _INDEX,
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        zero: Any = {"b": False, "c": (0.0, 0.0)}.get(stored.kind, 0)
        return _outer(self, name) | {"codecs": codecs, "fill_value": zero, "attributes": {}}


def checked_form(pid: dict[str, Any]) -> Form:
    """Return the form of a stored group.

    Raises DamagedResultError if the pid is not as `ZarrGroup` writes it.
    """
    try:
        return _form_of(pid)
    except Exception as error:  # whatever the numbers and texts in it are
        raise DamagedResultError(
            f"the zarr group {str(pid.get('name'))[:60]!r} has not the form in which arrays are"
            f" stored ({type(error).__name__}: {error}): remove the result, or compute it again"
        ) from error


def digests_of(pid: dict[str, Any], form: Form) -> dict[str, bytes]:
    """Return the digests of all objects of each array, in C order, joined.

    Raises UntrustedResultError if a digest is missing: the signature doesn't cover all objects.
    """
    found = pid.get("digests")
    expected = {name: math.prod(map(len, form.objects)) * _DIGEST for name in form.elements}
    if not math.prod(form.shape):
        expected = dict.fromkeys(expected, 0)
    if (
        type(found) is not dict
        or {type(each) for each in found.values()} - {bytes}
        or {name: len(each) for name, each in found.items()} != expected
    ):
        raise UntrustedResultError(
            f"the chunks of array {pid['name']!r} are not signed: it was stored without a key, or"
            " by an older release. If you trust every byte in the storage, `storage.sign()` or"
            " `functionfuse sign` signs what is there"
        )
    return found


def _form_of(pid: dict[str, Any]) -> Form:
    _expect("format", pid["format"], "zarr")
    _expect("name", type(pid["name"]), str)
    dtype = np.lib.format.descr_to_dtype(pid["dtype"])
    if dtype.hasobject or dtype.shape or dtype.kind == "T":
        raise TypeError(f"elements of type {dtype!r}")
    chunks = tuple(tuple(map(_size, _tuple(sizes))) for sizes in _tuple(pid["chunks"]))
    np.empty((0,) * (len(chunks) + 1))  # raises an error for too many axes
    if not all(chunks):
        raise ValueError("an axis without chunks")
    if math.prod(map(len, chunks)) > MOST_BLOCKS:
        raise ValueError(f"more than {MOST_BLOCKS} chunks")
    if math.prod(max(1, sum(sizes)) for sizes in chunks) * max(1, dtype.itemsize) >= 1 << 63:
        raise ValueError("more bytes than a machine can address")
    arrays, fill = pid["arrays"], pid["fill_value"]
    form = Form(dtype, chunks, masked=len(arrays) == 2)
    _expect("arrays", set(arrays), set(form.elements))
    _expect("fill_value", (type(fill), len(fill) in (0, dtype.itemsize)), (bytes, True))
    codecs = {name: _codecs_of(form, name, each) for name, each in arrays.items()}
    (compression,) = {compression for _, compression in codecs.values()}
    endian = tuple((name, order) for name, (order, _) in codecs.items())
    return Form(dtype, chunks, form.masked, compression, endian)


def _codecs_of(form: Form, name: str, metadata: Any) -> tuple[str | None, str | None]:
    """Return the byte order and the compression that the metadata of a zarr array tells."""
    for field, expected in _outer(form, name).items():
        found = metadata[field]
        if isinstance(found, Enum):  # of zarr 3.0
            found = found.value
        _expect(f"{field} of {name}", found, expected)
    codecs = list(metadata["codecs"])
    if form.shard:
        (shard,) = codecs
        _expect("codec", shard["name"], "sharding_indexed")
        inner = dict(shard["configuration"])
        codecs, index = list(inner.pop("codecs")), list(inner.pop("index_codecs"))
        _expect("index of shards", index, _INDEX)
        expected = {"chunk_shape": (*form.chunk, *form.more(name)), "index_location": "end"}
        _expect("shards", inner, expected)
    first, *between, last = codecs
    endian = first["configuration"]["endian"] if "configuration" in first else None
    plain = {"name": "bytes"} | ({"configuration": {"endian": endian}} if endian else {})
    _expect("first codec", first, plain)
    _expect("byte order", endian in (None, "little", "big"), expected=True)
    _expect("last codec", last, _CHECKSUM)
    if not between:
        return endian, None
    (compressor,) = between
    compression = compressor["name"]
    _expect("compression", compression in tuple(COMPRESSIONS), expected=True)
    return endian, str(compression)


def _outer(form: Form, name: str) -> dict[str, Any]:
    """Return the fields of metadata that are the same for every array of a form."""
    more, whole = form.more(name), form.shard or form.chunk
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": (*form.shape, *more),
        "data_type": form.elements[name].stored.newbyteorder("=").name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": (*whole, *more)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "storage_transformers": (),
    }


def _expect(field: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{field} is {str(found)[:100]}, expected {str(expected)[:100]}")


def _tuple(found: Any) -> tuple[Any, ...]:
    _expect("type", type(found), tuple)
    return tuple(found)


def _size(found: Any) -> int:
    size = -1 if isinstance(found, (bool, np.bool_)) else operator.index(found)
    if size < 0:
        raise ValueError(f"{found!r} is no size of a chunk")
    return size
