"""HDF5's filters, from wherever the blocks are: each is compressed by itself, then moved."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from functionfuse.errors import OptionsError

from .blocks import Chunks
from .elements import Block

__all__ = ["LARGEST_CHUNK", "Filter", "filter_of", "hdf5_type", "is_regular", "padded"]

LARGEST_CHUNK = (4 << 30) - 1  # bytes; HDF5's own limit
BUILT_IN = ("gzip", "lzf")
PLUGINS = {  # lossless ones of hdf5plugin
    "bitshuffle": "Bitshuffle",
    "blosc": "Blosc",
    "blosc2": "Blosc2",
    "bzip2": "BZip2",
    "lz4": "LZ4",
    "zstd": "Zstd",
}

_mask = struct.Struct("<I")


@dataclass(frozen=True)
class Filter:
    """How the chunks of a file are compressed.

    Attributes:
        options: what h5py's `create_dataset` takes.
        direct: whether HDF5's chunks are the blocks, so that each is compressed where it was
            computed; else that is done when the file is put together.
    """

    options: tuple[tuple[str, Any], ...]
    direct: bool

    def write(self, path: str, block: Block, chunk: list[int]) -> None:
        """Keep an encoded block in a file of its own, for `move`."""
        if not self.direct:
            with open(path, "wb") as file:
                file.write(block.reshape(-1).view(np.uint8).data)
            return
        import h5py

        full = padded(block, chunk)
        with h5py.File(path, "w", driver="core", backing_store=False) as memory:
            made = memory.create_dataset("x", data=full, chunks=full.shape, **dict(self.options))
            skipped, data = made.id.read_direct_chunk((0,) * full.ndim)
        with open(path, "wb") as file:
            file.write(_mask.pack(skipped))
            file.write(data)

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

    def move(self, path: str, made: Any, region: tuple[slice, ...], stored: np.dtype[Any]) -> None:
        """Put a kept block where it belongs."""
        with open(path, "rb") as file:
            data = file.read()
        if self.direct:
            (skipped,) = _mask.unpack_from(data)
            start = tuple(part.start for part in region)
            made.id.write_direct_chunk(start, data[_mask.size :], skipped)
        else:
            shape = [part.stop - part.start for part in region]
            made[region] = np.frombuffer(data, stored).reshape(shape)


def filter_of(name: str, chunks: Chunks, stored: np.dtype[Any]) -> Filter:
    """Return the filter of an option's name.

    Raises:
        OptionsError: there is none of that name, or the package that brings it is not installed.
    """
    size = stored.itemsize * math.prod(sizes[0] for sizes in chunks)
    direct = is_regular(chunks) and size <= LARGEST_CHUNK
    if name in BUILT_IN:
        return Filter((("compression", name), ("shuffle", True)), direct)
    if name not in PLUGINS:
        known = ", ".join([*BUILT_IN, *PLUGINS])
        raise OptionsError(f"HDF5 has no compression {name!r} here; known: {known}")
    try:
        import hdf5plugin
    except ImportError as error:
        raise OptionsError(
            f"compression {name!r} needs hdf5plugin: pip install functionfuse-dask[hdf5plugin]"
        ) from error
    return Filter(tuple(dict(getattr(hdf5plugin, PLUGINS[name])()).items()), direct)


def is_regular(chunks: Chunks) -> bool:
    """Tell whether all chunks of an axis are equal, but for a smaller last one; none is empty."""
    return all(
        min(sizes) > 0 and sizes[-1] <= sizes[0] and len(set(sizes[:-1])) <= 1 for sizes in chunks
    )


def padded(block: Block, shape: list[int]) -> Block:
    """Return a block filled up with zeros to the shape of a chunk."""
    if list(block.shape) == list(shape):
        return block
    full = np.zeros(shape, block.dtype)
    full[tuple(slice(0, size) for size in block.shape)] = block
    return full


def hdf5_type(stored: np.dtype[Any], text: bool) -> Any:
    """Return the type for h5py: that of UTF-8 text is not that of bytes."""
    import h5py

    return h5py.string_dtype("utf-8", stored.itemsize) if text else stored
