"""The layout of an HDF5 dataset: the offsets of its blocks, and how they are written and read.

Without compression, HDF5 only allocates the space; blocks are written and read at their offsets,
past HDF5. In the layout "contiguous", a block is one or more runs of the array in C order. In the
layout "grid", HDF5's chunks are the blocks, padded to the size of the first. In the layout
"filtered", HDF5 compresses the chunks, and h5py reads them.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np

from functionfuse.errors import (
    DamagedResultError,
    FunctionFuseError,
    OptionsError,
    UnreadableResultError,
)
from functionfuse.serializers import generate_name

from .blocks import Chunks, regions
from .elements import Block, Elements, bytes_of
from .sources import LocalFile, StagedFile, write_at

__all__ = [
    "LARGEST_CHUNK",
    "Dataset",
    "Filter",
    "chunk_offsets",
    "create",
    "filter_of",
    "hdf5_in",
    "hdf5_type",
    "is_grid",
    "is_regular",
    "open_dataset",
    "padded",
]


_PADDED_UP_TO = 1.25  # times the data; an array whose grid is bigger is stored contiguously


@dataclass(frozen=True)
class Dataset:
    """The location of a dataset's blocks in the file.

    Attributes:
        layout: "contiguous"; "grid": HDF5's chunks are the blocks; "filtered": only HDF5 knows the
            offsets.
        offset: of the data, or, in a grid, of each chunk in C order.
    """

    name: str
    elements: Elements
    layout: str
    chunks: Chunks
    offset: Any = 0

    @cached_property
    def ends(self) -> list[list[int]]:
        """For each axis, the offsets at which chunks begin, and the end of the last."""
        return regions(self.chunks)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(ends[-1] for ends in self.ends)

    def region(self, coordinates: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the slices of a block in the array."""
        both = zip(self.ends, coordinates, strict=True)
        return tuple(slice(ends[index], ends[index + 1]) for ends, index in both)

    def runs(self, number: int, coordinates: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Iterate offset and size of the runs of bytes that form a block, in order."""
        item = self.elements.stored.itemsize
        if self.layout == "grid":
            yield self.offset[number], item * math.prod(sizes[0] for sizes in self.chunks)
            return
        region, shape = self.region(coordinates), self.shape
        sizes = [part.stop - part.start for part in region]
        strides = [item * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        start = self.offset + sum(map(lambda part, stride: part.start * stride, region, strides))
        axis = max(len(shape) - 1, 0)  # the first axis within one run
        while axis and sizes[axis] == shape[axis]:
            axis -= 1
        size = item * math.prod(sizes[axis:])
        for index in np.ndindex(*sizes[:axis]):
            yield start + sum(map(int.__mul__, index, strides)), size

    def write(
        self, file: IO[bytes], block: Block, number: int, coordinates: tuple[int, ...]
    ) -> tuple[memoryview, list[tuple[int, int]]]:
        """Write an encoded block into the file; return the bytes for its digest, and its runs."""
        if self.layout == "grid":
            block = padded(block, [sizes[0] for sizes in self.chunks])
        data, runs, position = bytes_of(block), list(self.runs(number, coordinates)), 0
        parts = []
        for offset, size in runs:
            parts.append((offset, data[position : position + size]))
            position += size
        write_at(file, parts)
        return data, runs

    def read(
        self, source: LocalFile | StagedFile, number: int, coordinates: tuple[int, ...]
    ) -> tuple[Block, Block]:
        """Return an encoded block, and the bytes that its digest was made from."""
        stored = self.elements.stored
        shape = tuple(part.stop - part.start for part in self.region(coordinates))
        if not math.prod(shape):
            return np.empty(shape, stored), np.empty(0, np.uint8)
        if self.layout == "filtered":
            block = self._through_h5py(source, self.region(coordinates))
            return block, block
        runs = list(self.runs(number, coordinates))
        data = source.bytes_at(*runs[0]) if len(runs) == 1 else source.gathered(runs)
        block = data.view(stored)
        if self.layout != "grid":
            return block.reshape(shape), data
        full = block.reshape([sizes[0] for sizes in self.chunks])
        return full[tuple(slice(0, size) for size in shape)], data

    def _through_h5py(self, source: LocalFile | StagedFile, region: tuple[slice, ...]) -> Block:
        stored = self.elements.stored
        largest = max(stored.itemsize * math.prod(map(max, self.chunks)), _SMALL_CHUNK)
        with open_dataset(source, self.name) as found:
            if found.shape != self.shape or found.dtype != stored:
                raise DamagedResultError(
                    f"dataset {self.name!r} in {source.name!r} has another shape or type than"
                    " was written: remove the result, or compute it again"
                )
            if not found.chunks or stored.itemsize * math.prod(found.chunks) > largest:
                raise DamagedResultError(
                    f"dataset {self.name!r} in {source.name!r} has chunks of another size than"
                    " was written: remove the result, or compute it again"
                )
            block: Block = found[region]
        return np.ascontiguousarray(block.astype(stored, copy=False))


def hdf5_in(opened: IO[bytes], mode: str) -> Any:
    """Let HDF5 open a file that is open already: one with a name, or one in memory to be read.

    No name of the file is used, so no planted link is followed. Nothing is locked: nobody else
    knows a file that is written, and none that can be read is ever changed. (h5py can also call the
    file's methods. But if one of them fails when HDF5 closes the file, the process crashes.)
    """
    import h5py

    if isinstance(opened, io.BytesIO):
        return h5py.File(opened, mode)
    return h5py.File(f"/dev/fd/{opened.fileno()}", mode, locking=False)


@contextmanager
def open_dataset(source: LocalFile | StagedFile, name: str) -> Iterator[Any]:
    """Open a dataset of an HDF5 file, if it is of a kind that we write.

    It is in the file itself, and not behind a link, in other files, or a view of other datasets. Of
    the filters, only those run that `Filter` knows.

    Raises:
        DamagedResultError: it is of another kind.
        UnreadableResultError: HDF5 can't read it.
    """
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401  # registers its filters with HDF5
    with source.opened() as opened:
        try:
            with hdf5_in(opened, "r") as file:
                yield _plain_dataset(file, name, source.name)
        except (FunctionFuseError, MemoryError):
            raise
        except OSError as error:
            raise UnreadableResultError(
                f"HDF5 can't read it: {error}. If its filter is missing here: pip install"
                " functionfuse-dask[hdf5plugin]"
            ) from error
        except Exception as error:  # whatever a file of others can lead to
            raise DamagedResultError(
                f"HDF5 can't read dataset {name!r} in {source.name!r}: {error}. Remove the result,"
                " or compute it again"
            ) from error


def _plain_dataset(file: Any, name: str, where: str) -> Any:
    """Return a dataset. All is looked at before HDF5 could open anything else for it."""
    import h5py
    from h5py import h5d, h5l, h5o

    def refused(problem: str) -> DamagedResultError:
        return DamagedResultError(
            f"dataset {name!r} in {where!r} {problem}, which is never written: remove the result,"
            " or compute it again"
        )

    if file.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise refused("is a link")
    found = h5o.open(file.id, name.encode())
    if not isinstance(found, h5d.DatasetID):
        raise refused("is no dataset")
    made = found.get_create_plist()
    if made.get_layout() not in (h5d.CHUNKED, h5d.CONTIGUOUS) or made.get_external_count():
        raise refused("is kept elsewhere")
    filters = {made.get_filter(index)[0] for index in range(made.get_nfilters())}
    if not filters <= _FILTERS:
        raise refused(f"has the filters {sorted(filters)}")
    dataset = h5py.Dataset(found)
    if dataset.dtype.hasobject:
        raise refused("has Python objects")
    return dataset


def is_grid(dataset: Dataset) -> bool:
    """Return whether HDF5's chunks should be the blocks: if the blocks aren't contiguous anyway."""
    chunks, item = dataset.chunks, dataset.elements.stored.itemsize
    if all(len(sizes) == 1 for sizes in chunks[1:]) or not is_regular(chunks):
        return False
    chunk = math.prod(sizes[0] for sizes in chunks)
    taken = chunk * math.prod(map(len, chunks))
    return chunk * item <= LARGEST_CHUNK and taken <= _PADDED_UP_TO * math.prod(dataset.shape)


def create(file: Any, dataset: Dataset, grid: bool) -> Any:
    """Make a dataset with all its space allocated, and not filled."""
    from h5py import h5d, h5p, h5s, h5t

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)  # equal arrays make equal files
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    if grid:
        creation.set_chunk(tuple(sizes[0] for sizes in dataset.chunks))
    kind = hdf5_type(dataset.elements.stored, dataset.elements.is_text)
    space = h5s.create_simple(dataset.shape) if dataset.shape else h5s.create(h5s.SCALAR)
    return h5d.create(
        file.id, dataset.name.encode(), h5t.py_create(kind, logical=True), space, creation
    )


def chunk_offsets(made: Any, dataset: Dataset) -> list[int]:
    """Return the offsets of the chunks in the file, in C order."""
    counts = [len(sizes) for sizes in dataset.chunks]
    first = [sizes[0] for sizes in dataset.chunks]
    offsets = [0] * math.prod(counts)

    def note(chunk: Any) -> None:
        coordinates = [start // size for start, size in zip(chunk.chunk_offset, first, strict=True)]
        offsets[int(np.ravel_multi_index(coordinates, counts))] = chunk.byte_offset

    made.chunk_iter(note)
    return offsets


LARGEST_CHUNK = (4 << 30) - 1  # bytes; HDF5's own limit
BUILT_IN = ("gzip", "lzf")
PLUGINS = {  # the lossless filters of hdf5plugin
    "bitshuffle": "Bitshuffle",
    "blosc": "Blosc",
    "blosc2": "Blosc2",
    "bzip2": "BZip2",
    "lz4": "LZ4",
    "zstd": "Zstd",
}

# The numbers of gzip, shuffle, and lzf; and of the plugins, in their order.
_FILTERS = {1, 2, 32000} | {32008, 32001, 32026, 307, 32004, 32015}
_SMALL_CHUNK = 1 << 20  # bytes; if h5py chooses the chunks, they are not bigger

_mask = struct.Struct("<I")


@dataclass(frozen=True)
class Filter:
    """The compression of a file's chunks.

    Attributes:
        options: for h5py's `create_dataset`.
        direct: whether HDF5's chunks are the blocks, so that the worker that computes a block
            compresses it. If not, blocks are compressed when the file is assembled.
    """

    options: tuple[tuple[str, Any], ...]
    direct: bool

    def packed(self, block: Block, chunk: list[int]) -> list[Any]:
        """Return the parts of the file of an encoded block, for `move`.

        Raises:
            OptionsError: the package with the filter is not installed here.
        """
        if not self.direct:
            return [bytes_of(block)]
        import h5py

        name = dict(self.options)["compression"]
        if name not in BUILT_IN:
            _plugin(f"filter {name} of HDF5")
        full = padded(block, chunk)
        name = generate_name()  # HDF5 looks for such a file
        with h5py.File(name, "w", driver="core", backing_store=False) as memory:
            made = memory.create_dataset("x", data=full, chunks=full.shape, **dict(self.options))
            skipped, data = made.id.read_direct_chunk((0,) * full.ndim)
        return [_mask.pack(skipped), data]

    def create(
        self, file: Any, name: str, stored: np.dtype[Any], chunks: Chunks, text: bool
    ) -> Any:
        """Make the dataset."""
        shape = tuple(sum(sizes) for sizes in chunks)
        chunk: Any = tuple(max(sizes) for sizes in chunks)
        if not self.direct and stored.itemsize * math.prod(chunk) > LARGEST_CHUNK:
            chunk = True  # h5py chooses
        kind = hdf5_type(stored, text)
        return file.create_dataset(name, shape, kind, chunks=chunk, **dict(self.options))

    def move(
        self, data: bytes, made: Any, region: tuple[slice, ...], stored: np.dtype[Any]
    ) -> None:
        """Move a block from the bytes of its own file into the dataset."""
        if self.direct:
            (skipped,) = _mask.unpack_from(data)
            start = tuple(part.start for part in region)
            made.id.write_direct_chunk(start, data[_mask.size :], skipped)
        else:
            from h5py import h5s

            start = tuple(part.start for part in region)
            shape = tuple(part.stop - part.start for part in region)
            space, block = made.id.get_space(), np.frombuffer(data, stored).reshape(shape)
            space.select_hyperslab(start, shape)
            # In the file's own type: HDF5 converts no ASCII to UTF-8, and copies no padding.
            made.id.write(h5s.create_simple(shape), space, block, made.id.get_type())


def filter_of(name: str, chunks: Chunks, stored: np.dtype[Any]) -> Filter:
    """Return the filter with this name.

    Raises:
        OptionsError: the name is unknown, or the package with the filter is not installed.
    """
    size = stored.itemsize * math.prod(sizes[0] for sizes in chunks)
    direct = is_regular(chunks) and size <= LARGEST_CHUNK
    if name in BUILT_IN:
        return Filter((("compression", name), ("shuffle", True)), direct)
    if name not in PLUGINS:
        known = ", ".join([*BUILT_IN, *PLUGINS])
        raise OptionsError(f"HDF5 has no compression {name!r} here; known: {known}")
    hdf5plugin = _plugin(f"compression {name!r}")
    return Filter(tuple(dict(getattr(hdf5plugin, PLUGINS[name])()).items()), direct)


def _plugin(needed: str) -> Any:
    """Import the package that registers more filters with HDF5."""
    try:
        import hdf5plugin
    except ImportError as error:
        raise OptionsError(
            f"{needed} needs hdf5plugin, also on each worker of dask:"
            " pip install functionfuse-dask[hdf5plugin]"
        ) from error
    return hdf5plugin


def is_regular(chunks: Chunks) -> bool:
    """Return whether all chunks of an axis are equal, except a smaller last one; none is empty."""
    return all(
        min(sizes) > 0 and sizes[-1] <= sizes[0] and len(set(sizes[:-1])) <= 1 for sizes in chunks
    )


def padded(block: Block, shape: list[int]) -> Block:
    """Return the bytes of a block's elements, padded with zero elements to the shape of a chunk.

    They are opaque: numpy copies structures field by field, and not the bytes between the fields.
    """
    block = block.view(f"V{block.dtype.itemsize}")
    if list(block.shape) == list(shape):
        return block
    full = np.zeros(shape, block.dtype)
    full[tuple(slice(0, size) for size in block.shape)] = block
    return full


def hdf5_type(stored: np.dtype[Any], text: bool) -> Any:
    """Return the type for h5py, which has different types for UTF-8 text and bytes."""
    import h5py

    return h5py.string_dtype("utf-8", stored.itemsize) if text else stored
