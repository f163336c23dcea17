"""Blocks of dask arrays: compute those of several arrays together, and read them lazily.

`compute` makes one graph in which each block of each array is written to a target, and runs it with
the active scheduler. An array with unknown chunk sizes first goes to a `Spool`: its blocks are
written to temporary files, which makes their shapes known. The spooled array is then computed into
its target.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.base import compute_as_if_collection
from dask.highlevelgraph import HighLevelGraph

from functionfuse.serializers import generate_name

from .elements import Block, bytes_of
from .sources import BlockFiles, remove_all

__all__ = [
    "Spool",
    "Target",
    "compute",
    "fill_of",
    "is_known",
    "lazily",
    "part_in",
    "part_of",
    "parts_of",
    "place_of",
    "regions",
    "sound",
]

Chunks = tuple[tuple[int, ...], ...]


class Target(Protocol):
    """The destination of the blocks of one array. It is sent to the workers, so it pickles."""

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block, given its number in C order and its coordinates; return a record of it."""


def compute(arrays: Sequence[da.Array], targets: Sequence[Target]) -> list[list[Any]]:
    """Compute all arrays in one pass of the active scheduler, and write each block to its target.

    Shared parts of the arrays are computed once. A block is released when its target has written
    it. Returns for each array the records that `write` returned, in C order of the blocks.
    """
    going = _Going()
    written = [
        da.map_blocks(
            _write,
            array,
            target=target,
            going=going,
            counts=array.numblocks,
            name=f"store-{uuid.uuid4().hex}",
            dtype=object,
            meta=np.empty((0,) * array.ndim, dtype=object),
        )
        for array, target in zip(arrays, targets, strict=True)
    ]
    graph = HighLevelGraph.merge(*(array.__dask_graph__() for array in written))
    keys = [array.__dask_keys__() for array in written]
    try:
        found = compute_as_if_collection(da.Array, graph, keys)
    except BaseException:
        going.stop()  # or running blocks would write after the clean-up
        raise
    pairs = zip(found, arrays, strict=True)
    return [list(_flat(nested, array.ndim or 1)) for nested, array in pairs]


def is_known(array: da.Array) -> bool:
    """Return whether the sizes of all chunks are known before they are computed."""
    return not any(size != size for sizes in array.chunks for size in sizes)  # noqa: PLR0124  # NaN


def sound(block: Any, shape: Sequence[int] | None, dtype: np.dtype[Any], masked: bool) -> Block:
    """Return a block as a numpy array, checked against the declarations of its dask array.

    Raises:
        TypeError, ValueError: the block has another type or shape.
    """
    if not isinstance(block, (np.ndarray, np.generic, int, float, complex, bool, str, bytes)):
        raise TypeError(f"a block is a {type(block)} and no numpy array")
    if block is np.ma.masked and masked:  # numpy's masked number, which has no type of its own
        block = np.ma.array(np.zeros((), dtype), mask=True)
    if np.ma.isMaskedArray(block) and not masked:
        if np.ma.getmaskarray(block).any():
            raise TypeError("a block is masked, and the array's meta is not: give it the meta")
        block = block.data
    array = np.ma.asarray(block) if masked else np.asarray(block)
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(f"a block has shape {array.shape}, and the array's chunks say {shape}")
    if array.dtype != dtype:
        if not np.can_cast(array.dtype, dtype, "safe"):
            raise TypeError(
                f"a block has dtype {array.dtype!r}, and the array says {dtype!r}: give dtype= or"
                " meta= where the array is made"
            )
        array = array.astype(dtype)
    return array


def place_of(number: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Return the coordinates of a block, given its number in C order."""
    return tuple(int(index) for index in np.unravel_index(number, tuple(counts))) if counts else ()


def regions(chunks: Chunks) -> list[list[int]]:
    """Return for each axis the offsets at which chunks begin, and the end of the last."""
    return [[0, *itertools.accumulate(sizes)] for sizes in chunks]


def part_of(
    index: Sequence[Any], ends: Sequence[Sequence[int]], name: str
) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Return the coordinates of the block that an index is in, and the index within that block.

    Args:
        index: a slice or an integer for each axis, and None for new axes.
        ends: from `regions`.

    Raises:
        IndexError: the index spans several blocks; dask never does that.
    """
    coordinates: list[int] = []
    inner: list[Any] = []
    for part in index:
        if part is None:
            inner.append(None)
            continue
        begins = ends[len(coordinates)]
        wanted = range(begins[-1])[part]
        if isinstance(wanted, int):
            first = last = wanted
        else:
            first, last = (wanted[0], wanted[-1]) if wanted else (0, 0)
        # Of several chunks that begin at the same offset, all but the last are empty.
        at = bisect.bisect_right(begins, min(first, last), hi=len(begins) - 1) - 1
        if first != last and max(first, last) >= begins[at + 1]:
            raise IndexError(f"{part} of {name!r} is in more than one chunk")
        coordinates.append(at)
        inner.append(_moved(wanted, begins[at]))
    return tuple(coordinates), tuple(inner)


def _moved(wanted: range | int, start: int) -> slice | int:
    """Return an index relative to a block that begins at `start`."""
    if isinstance(wanted, int):
        return wanted - start
    if not wanted:
        return slice(0, 0)
    stop = wanted[-1] + (1 if wanted.step > 0 else -1) - start
    return slice(wanted[0] - start, stop if stop >= 0 else None, wanted.step)


def part_in(block: Block, inner: tuple[Any, ...]) -> Any:
    """Return a part of a block; a masked block of no axes stays an array, with its type."""
    return block[inner if inner or not np.ma.isMaskedArray(block) else ...]


def lazily(stored: Any, chunks: Chunks, name: str, meta: Any) -> da.Array:
    """Return a lazy array over an object whose blocks are read by slices."""
    array: da.Array = da.from_array(
        stored, chunks, name=f"functionfuse-{name}", asarray=False, fancy=False, meta=meta
    )
    return array


class Spool:
    """Temporary files for the blocks of an array whose sizes are unknown until they are computed.

    A file has the bytes of a block and, for a masked array, those of its mask. The client knows
    their type, and the worker's record has their shape and digest: so nothing is unpickled.
    """

    def __init__(self, array: da.Array, files: Any) -> None:
        self.blocks = BlockFiles.beside(files, f"{generate_name()}.blocks")
        self.count = math.prod(array.numblocks)
        self.dtype = array.dtype
        self.masked = isinstance(array._meta, np.ma.MaskedArray)

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block; return its shape, the digest of its file, and its fill value."""
        del coordinates
        array = sound(block, None, self.dtype, self.masked)
        parts = [bytes_of(np.ascontiguousarray(part)) for part in parts_of(array, self.masked)]
        return array.shape, self.blocks.write(number, parts), fill_of(array, self.masked)

    def known(self, array: da.Array, records: list[Any]) -> da.Array:
        """Return the array of the spooled blocks, whose sizes are all known.

        Raises:
            ValueError: the shape of a block doesn't fit its neighbours.
        """
        by_coordinates = np.empty(array.numblocks, dtype=object)
        for number, (shape, *_) in enumerate(records):
            by_coordinates[place_of(number, array.numblocks)] = shape
        chunks = tuple(
            tuple(
                by_coordinates[(0,) * axis + (index,) + (0,) * (array.ndim - axis - 1)][axis]
                for index in range(count)
            )
            for axis, count in enumerate(array.numblocks)
        )
        for coordinates in np.ndindex(*array.numblocks):
            expected = tuple(sizes[index] for sizes, index in zip(chunks, coordinates, strict=True))
            if by_coordinates[coordinates] != expected:
                found = by_coordinates[coordinates]
                raise ValueError(f"block {coordinates} has shape {found} and not {expected}")
        name = f"spooled-{uuid.uuid4().hex}"
        graph = {
            (name, *place_of(number, array.numblocks)): (partial(self._load, number, *record),)
            for number, record in enumerate(records)
        }
        return da.Array(graph, name, chunks, dtype=array.dtype, meta=array._meta)

    def clean(self) -> None:
        """Remove the files, also those that workers have left."""
        self.blocks.remove(range(self.count))
        remove_all(self.blocks.files, [self.blocks.name])

    def _load(self, number: int, shape: tuple[int, ...], digest: bytes, fill: bytes) -> Block:
        data = self.blocks.read(number, digest)
        array: Block = np.ndarray(shape, self.dtype, data)
        if self.masked:
            array = np.ma.array(array, mask=np.ndarray(shape, bool, data, array.nbytes))
            array.fill_value = np.frombuffer(fill, self.dtype)[0]
        return array


def parts_of(block: Block, masked: bool) -> list[Block]:
    """Return the data of a block and, of a masked one, its mask."""
    return [np.ma.getdata(block), np.ma.getmaskarray(block)] if masked else [block]


def fill_of(block: Any, masked: bool) -> bytes:
    """Return the bytes of the fill value of a masked block."""
    return np.asarray(block.fill_value, block.dtype).tobytes() if masked else b""


class _Going:
    """Stops writing after a failure, because dask lets running blocks finish in their threads.

    It works in one process only. Files that another process writes too late are left for `gc`.
    """

    def __init__(self) -> None:
        self.writing = 0
        self.stopped = False
        self.changed = threading.Condition()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Going, ()

    def __enter__(self) -> None:
        with self.changed:
            if self.stopped:
                raise RuntimeError("another block could not be written")
            self.writing += 1

    def __exit__(self, *error: object) -> None:
        with self.changed:
            self.writing -= 1
            self.changed.notify_all()

    def stop(self) -> None:
        """Refuse new writes, and wait for running ones."""
        with self.changed:
            self.stopped = True
            self.changed.wait_for(lambda: not self.writing)


def _write(
    block: Any, target: Target, going: _Going, counts: tuple[int, ...], block_id: tuple[int, ...]
) -> Any:
    with going:
        return target.write(block, _number(block_id, counts), tuple(block_id))


def _number(coordinates: Sequence[int], counts: Sequence[int]) -> int:
    return int(np.ravel_multi_index(tuple(coordinates), tuple(counts))) if counts else 0


def _flat(nested: Any, depth: int) -> Iterator[Any]:
    if depth == 1:
        yield from nested
    else:
        for part in nested:
            yield from _flat(part, depth - 1)
