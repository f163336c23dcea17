"""One dask array as one plain HDF5 file, whose chunks are written and read past HDF5's lock.

HDF5 allocates the space of the data, and doesn't fill it. Workers then write the chunks at the
offsets that HDF5 reports; readers map the file and read at the same offsets. With compression,
h5py writes and reads: each worker compresses its blocks into small files, and `finish` assembles
them. The file has a dataset "data" and, for a masked array, "mask": see `docs/arrays.md`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from xxhash import xxh3_128, xxh3_128_digest

from functionfuse.errors import DamagedResultError
from functionfuse.serializers import generate_name

from .blocks import Chunks, part_of, place_of, sound
from .dataset import Dataset, Filter, bytes_of, chunk_offsets, create, filter_of, is_grid
from .elements import Block, Elements, in_hdf5
from .sources import Room, find_room, source_of

__all__ = ["Hdf5Array", "Hdf5File"]

_READ_AT_ONCE = 1 << 20
_LONGEST_ATTRIBUTE = 60_000  # bytes; HDF5's limit is 64 KiB


class Hdf5File:
    """The file of one array; a target of `blocks.compute`."""

    def __init__(self, array: Any, files: Any, room: Room, compression: str | None) -> None:
        self.name = f"{generate_name()}.h5"
        with files.open(self.name, "wb") as file:
            path = getattr(file, "name", None)
        self.native = isinstance(path, str)
        self.dtype, self.chunks = array.dtype, array.chunks
        self.masked = isinstance(array._meta, np.ma.MaskedArray)
        encodings = {"data": in_hdf5(array.dtype)}
        if self.masked:
            encodings["mask"] = Elements(np.dtype(bool), np.dtype(bool))
        self.filter: Filter | None = None
        if compression and array.ndim and array.size:
            self.filter = filter_of(compression, self.chunks, encodings["data"].stored)
        base = os.path.join(room.path, self.name) if self.filter or not self.native else ""
        self.path = os.path.abspath(str(path)) if self.native else base
        self.folder = f"{base}.blocks"
        datasets = [Dataset(name, each, "", self.chunks) for name, each in encodings.items()]
        if self.filter:
            os.mkdir(self.folder)
            self.datasets = [replace(dataset, layout="filtered") for dataset in datasets]
        else:
            self.datasets = self._allocated(datasets)

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block; return its digests, its pieces of the file, and its fill value."""
        shape = [sizes[index] for sizes, index in zip(self.chunks, coordinates, strict=True)]
        array = sound(block, shape, self.dtype, self.masked)
        parts, fill = [array], b""
        if self.masked:
            parts = [np.ma.getdata(array), np.ma.getmaskarray(array)]
            fill = np.asarray(np.ma.asarray(array).fill_value, self.dtype).tobytes()
        digests, pieces = [], []
        for dataset, part in zip(self.datasets, parts, strict=True):
            encoded, found = dataset.elements.encode(part), []
            if not encoded.size:
                digest = xxh3_128_digest(b"")
            elif self.filter:
                digest = xxh3_128_digest(bytes_of(encoded))
                path = os.path.join(self.folder, f"{dataset.name}-{number}")
                self.filter.write(path, encoded, [sizes[0] for sizes in self.chunks])
            else:
                digest, found = dataset.write(self.path, encoded, number, coordinates)
            digests.append(digest)
            pieces += found
        return digests, pieces, fill

    def finish(self, records: list[Any], files: Any) -> dict[str, Any]:
        """Complete the file, store it under its name, and return its pid."""
        if self.filter:
            self._assemble(self.filter)
        size = os.stat(self.path).st_size
        if self.native:
            known = [piece for _, pieces, _ in records for piece in pieces]
            files.digested(self.name, [*known, *_other_pieces(self.path, size, known)])
        else:
            with open(self.path, "rb") as staged, files.open(self.name, "wb") as file:
                shutil.copyfileobj(staged, file, _READ_AT_ONCE)
        return {
            "format": "hdf5",
            "version": 1,
            "name": self.name,
            "size": size,
            "dtype": np.lib.format.dtype_to_descr(self.dtype),
            "chunks": self.chunks,
            "datasets": [
                (
                    dataset.name,
                    (dataset.elements.stored.str, dataset.layout, dataset.offset),
                    b"".join([digests[index] for digests, _, _ in records]),
                )
                for index, dataset in enumerate(self.datasets)
            ],
            "fill_value": records[0][2] if self.masked and records else b"",
        }

    def _allocated(self, datasets: list[Dataset]) -> list[Dataset]:
        """Make the file, and return the datasets with their layouts and offsets."""
        import h5py

        found = []
        with h5py.File(self.path, "w") as file:
            for dataset in datasets:
                grid = is_grid(dataset)
                made = h5py.Dataset(create(file, dataset, grid))
                self._describe(made, dataset)
                offset: Any = made.id.get_offset() or 0
                if grid:
                    offset = chunk_offsets(made.id, dataset)
                layout = "grid" if grid else "contiguous"
                found.append(replace(dataset, layout=layout, offset=offset))
        find_room(self.path)
        return found

    def _assemble(self, filtered: Filter) -> None:
        """Write the file from the filtered blocks."""
        import h5py

        counts = [len(sizes) for sizes in self.chunks]
        with h5py.File(self.path, "w") as file:
            for dataset in self.datasets:
                stored, text = dataset.elements.stored, dataset.elements.is_text
                made = filtered.create(file, dataset.name, stored, self.chunks, text)
                self._describe(made, dataset)
                for number in range(math.prod(counts)):
                    region = dataset.region(place_of(number, counts))
                    path = os.path.join(self.folder, f"{dataset.name}-{number}")
                    if all(part.start < part.stop for part in region):
                        filtered.move(path, made, region, stored)
                        os.unlink(path)

    def _describe(self, made: Any, dataset: Dataset) -> None:
        for name, value in dataset.elements.attributes().items():
            made.attrs[name] = value
        text = json.dumps(self.chunks, separators=(",", ":"))
        if len(text) < _LONGEST_ATTRIBUTE:
            made.attrs["functionfuse_chunks"] = text


class Hdf5Array:
    """A stored array that reads one block at a time by slices, for `dask.array.from_array`."""

    def __init__(self, pid: dict[str, Any], files: Any, *, check: bool) -> None:
        self.source = source_of(files, pid["name"], pid["size"])
        self.name: str = pid["name"]
        self.dtype = np.lib.format.descr_to_dtype(pid["dtype"])
        self.chunks: Chunks = pid["chunks"]
        self.shape = tuple(sum(sizes) for sizes in self.chunks)
        self.ndim = len(self.shape)
        self.fill_value = pid["fill_value"]
        self.datasets = []
        for name, (stored, layout, offset), digests in pid["datasets"]:
            coded = Elements(self.dtype if name == "data" else np.dtype(bool), np.dtype(stored))
            if stored.startswith("|V"):
                coded = in_hdf5(self.dtype)
            self.datasets.append((Dataset(name, coded, layout, self.chunks, offset), digests))
        self.unchecked = set(range(math.prod(map(len, self.chunks)))) if check else set()

    def __dask_tokenize__(self) -> Any:
        return self.name

    @property
    def meta(self) -> Any:
        """An empty array of the type of the blocks."""
        empty = np.empty((0,) * self.ndim, self.dtype)
        return self._masked(empty, empty.view()) if len(self.datasets) > 1 else empty

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        """Return a part of one block; dask never reads from several."""
        coordinates, inner = part_of(index, self.datasets[0][0].ends, self.name)
        return self.block(coordinates)[inner]

    def block(self, coordinates: tuple[int, ...]) -> Any:
        """Return a block; its digest is checked when it is first read.

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
                expected = digests[16 * number : 16 * number + 16]
                if xxh3_128_digest(bytes_of(data)) != expected:
                    raise DamagedResultError(
                        f"block {coordinates} of dataset {dataset.name!r} in {self.name!r} is not"
                        " what was written: remove the result, or compute it again"
                    )
            parts.append(dataset.elements.decode(stored))
        self.unchecked.discard(number)
        return parts[0] if len(parts) == 1 else self._masked(*parts)

    def _masked(self, data: Block, mask: Block) -> Any:
        fill = np.frombuffer(self.fill_value, self.dtype)[0] if self.fill_value else None
        return np.ma.array(data, mask=mask.astype(bool), fill_value=fill)


def _other_pieces(
    path: str, size: int, known: list[tuple[int, int, str]]
) -> Iterator[tuple[int, int, str]]:
    """Iterate the pieces of a file between the known ones, with their digests."""
    position = 0
    with open(path, "rb", buffering=0) as file:
        for start, length, _ in [*sorted(known), (size, 0, "")]:
            if start > position:
                digest, rest = xxh3_128(), start - position
                file.seek(position)
                while rest:
                    data = file.read(min(rest, _READ_AT_ONCE))
                    if not data:
                        raise OSError(f"{path!r} ends at byte {start - rest}")
                    digest.update(data)
                    rest -= len(data)
                yield position, start - position, digest.hexdigest()
            position = start + length
