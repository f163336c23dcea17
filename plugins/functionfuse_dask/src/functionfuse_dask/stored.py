"""A stored HDF5 array that reads one block at a time, past HDF5 if it is not compressed.

What says how it is stored, its pid, is in the pickle of the result, and can have been written by
anybody. So all of it is checked before anything is allocated or opened by it.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

import numpy as np
from xxhash import xxh3_128_digest

from functionfuse.errors import DamagedResultError, UntrustedResultError
from functionfuse.storage.disk import BIG

from .blocks import Chunks, part_in, part_of
from .dataset import Dataset, is_regular
from .elements import MOST_AXES, Block, Elements, bytes_of, in_hdf5
from .sources import source_of

__all__ = ["Hdf5Array"]

_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.h5")
_MOST_BYTES = 1 << 62
_DIGESTS = {16: xxh3_128_digest, 32: lambda data: hashlib.sha256(data).digest()}  # by their size


class Hdf5Array:
    """A stored array that reads one block at a time by slices, for `dask.array.from_array`."""

    def __init__(self, pid: dict[str, Any], files: Any, *, check: bool) -> None:
        """Check the pid, and that the file is there.

        Raises:
            DamagedResultError: the pid is none that is ever written.
            UntrustedResultError: results are signed, but this one has no cryptographic digests.
        """
        try:
            self._describe(pid)
        except Exception as error:  # whatever the values of a pid of others can lead to
            raise DamagedResultError(
                f"the description of a stored array is none that is ever written: {error!r}."
                " Remove the result, or compute it again"
            ) from error
        signed = files.signed
        if signed and self.width != 32:
            raise UntrustedResultError(
                f"array {self.name!r} was stored by an older release, or without a key: its blocks"
                " have no cryptographic digests. If you trust every byte in the storage,"
                " `storage.sign()` or `functionfuse sign` signs what is there"
            )
        self.source = source_of(files, self.name, pid["size"])
        self.once = not signed and pid["size"] >= BIG
        count = math.prod(map(len, self.chunks))
        self.unchecked = set(range(count)) if check or signed else set()

    def _describe(self, pid: dict[str, Any]) -> None:
        """Take over a pid; raise any error for one that is never written."""
        self.name: str = pid["name"]
        size, self.chunks = pid["size"], _chunks(pid["chunks"])
        _demand(type(self.name) is str and _NAME.fullmatch(self.name), "its name")
        _demand(type(size) is int and 0 <= size <= _MOST_BYTES, "the size of its file")
        self.dtype = np.lib.format.descr_to_dtype(pid["dtype"])
        _demand(not self.dtype.hasobject and self.dtype.subdtype is None, "its type")
        self.shape = tuple(map(sum, self.chunks))
        self.ndim = len(self.shape)
        self.fill_value = pid["fill_value"]
        _demand(type(self.fill_value) is bytes, "its fill value")
        _demand(len(self.fill_value) in (0, self.dtype.itemsize), "its fill value")
        _demand([name for name, *_ in pid["datasets"]] in (["data"], ["data", "mask"]), "its parts")
        self.datasets = []
        for name, (stored, layout, offset), digests in pid["datasets"]:
            dtype = self.dtype if name == "data" else np.dtype(bool)
            dataset = Dataset(name, _elements(dtype, stored), layout, self.chunks, offset)
            _check_layout(dataset, size)
            self.datasets.append((dataset, digests))
        count = math.prod(map(len, self.chunks))
        self.width = len(self.datasets[0][1]) // count
        for _, digests in self.datasets:
            _demand(type(digests) is bytes and self.width in _DIGESTS, "its digests")
            _demand(len(digests) == self.width * count, "the number of its digests")

    def __dask_tokenize__(self) -> Any:
        return self.name

    @property
    def meta(self) -> Any:
        """An empty array of the type of the blocks."""
        empty = np.empty((0,) * self.ndim, self.dtype)
        # dask takes an array of no axes for masked if its value is.
        return self._masked(empty, np.ones(empty.shape)) if len(self.datasets) > 1 else empty

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        """Return a part of one block; dask never reads from several."""
        coordinates, inner = part_of(index, self.datasets[0][0].ends, self.name)
        return part_in(self.block(coordinates), inner)

    def block(self, coordinates: tuple[int, ...]) -> Any:
        """Return a block; its digest is checked when it is first read.

        In a file of less than 16 MiB, which can be written in place, it is checked in every read.
        So it is if results are signed: the bytes that are checked are then this process's own.

        Raises:
            ResultNotFoundError: the file is gone.
            DamagedResultError: the bytes were changed.
        """
        counts = [len(sizes) for sizes in self.chunks]
        number = int(np.ravel_multi_index(coordinates, counts)) if coordinates else 0
        parts = []
        for dataset, digests in self.datasets:
            stored, data = dataset.read(self.source, number, coordinates)
            if number in self.unchecked:
                expected = digests[self.width * number : self.width * (number + 1)]
                if _DIGESTS[self.width](bytes_of(data)) != expected:
                    raise self._changed(dataset, coordinates)
            try:
                parts.append(dataset.elements.decode(stored))
            except UnicodeDecodeError as error:
                raise self._changed(dataset, coordinates) from error
        if self.once:
            self.unchecked.discard(number)
        return parts[0] if len(parts) == 1 else self._masked(*parts)

    def _changed(self, dataset: Dataset, coordinates: tuple[int, ...]) -> DamagedResultError:
        return DamagedResultError(
            f"block {coordinates} of dataset {dataset.name!r} in {self.name!r} is not what was"
            " written: remove the result, or compute it again"
        )

    def _masked(self, data: Block, mask: Block) -> Any:
        fill = np.frombuffer(self.fill_value, self.dtype)[0] if self.fill_value else None
        return np.ma.array(data, mask=mask.astype(bool), fill_value=fill)


def _demand(right: object, what: str) -> None:
    if not right:
        raise ValueError(what)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _MOST_BYTES


def _chunks(chunks: Any) -> Chunks:
    """Return the sizes of chunks, if an array can have them."""
    _demand(type(chunks) is tuple and len(chunks) <= MOST_AXES, "its chunks")
    for sizes in chunks:
        _demand(type(sizes) is tuple and sizes and all(map(_is_size, sizes)), "its chunks")
    found: Chunks = chunks
    return found


def _elements(dtype: np.dtype[Any], stored: Any) -> Elements:
    """Return the encoding of a type in a file, if it is one of those that `in_hdf5` makes."""
    _demand(type(stored) is str, "the type in its file")
    found = Elements(dtype, np.dtype(stored))
    if stored.startswith("|V"):
        found = in_hdf5(dtype)
    elif found.stored != dtype:
        kinds = {"m": "i", "M": "i", "U": "S"}
        _demand(found.stored.kind == kinds.get(dtype.kind), "the type in its file")
    _demand(found.stored.itemsize == dtype.itemsize, "the type in its file")
    return found


def _check_layout(dataset: Dataset, size: int) -> None:
    """Raise ValueError if a dataset doesn't fit into a file of this size."""
    item, offset = dataset.elements.stored.itemsize, dataset.offset
    total = item * math.prod(dataset.shape)
    axes = math.prod(max(size, 1) for size in dataset.shape)  # numpy's limit ignores empty axes
    _demand(max(item, 1) * axes <= _MOST_BYTES, "its shape")
    if dataset.layout == "grid":
        _demand(type(offset) is list and all(map(_is_size, offset)), "its offsets")
        _demand(dataset.ends and is_regular(dataset.chunks), "its chunks")
        _demand(len(offset) == math.prod(map(len, dataset.chunks)), "its offsets")
        chunk = item * math.prod(sizes[0] for sizes in dataset.chunks)
        _demand(chunk + max(offset) <= size, "its offsets")
    elif dataset.layout == "contiguous":
        _demand(_is_size(offset) and (not total or offset + total <= size), "its offset")
    else:
        _demand(dataset.layout == "filtered", "its layout")
