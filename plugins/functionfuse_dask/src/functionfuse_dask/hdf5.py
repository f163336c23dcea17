"""One dask array as one plain HDF5 file, whose chunks are written past HDF5.

HDF5 allocates the space of the data, and doesn't fill it. Workers then write the chunks at the
offsets that HDF5 reports; see `stored.py` for the readers. With compression, or in a storage
without plain files, workers write blocks into files of their own, and `finish` assembles them. The
file has a dataset "data" and, for a masked array, "mask": see `docs/arrays.md`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, Any

import numpy as np

from functionfuse.serializers import generate_name
from functionfuse.storage.blobstore import Buffer

from .blocks import fill_of, parts_of, place_of, sound
from .dataset import Dataset, Filter, chunk_offsets, create, filter_of, hdf5_in, is_grid
from .elements import Elements, bytes_of, in_hdf5
from .sources import BlockFiles, find_room, is_local, open_to_write

__all__ = ["Hdf5File"]

_READ_AT_ONCE = 1 << 20
_LONGEST_ATTRIBUTE = 60_000  # bytes; HDF5's limit is 64 KiB


class Hdf5File:
    """The file of one array; a target of `blocks.compute`."""

    def __init__(self, array: Any, files: Any, compression: str | None) -> None:
        self.name = f"{generate_name()}.h5"
        self.dtype, self.chunks = array.dtype, array.chunks
        self.masked = isinstance(array._meta, np.ma.MaskedArray)
        encodings = {"data": in_hdf5(array.dtype)}
        if self.masked:
            encodings["mask"] = Elements(np.dtype(bool), np.dtype(bool))
        self.filter: Filter | None = None
        if compression and array.ndim and array.size:
            self.filter = filter_of(compression, self.chunks, encodings["data"].stored)
        layout = "filtered" if self.filter else ""
        self.datasets = [
            Dataset(name, each, layout, self.chunks) for name, each in encodings.items()
        ]
        with files.open(self.name, "w+b") as file:
            self.local = is_local(file)
            self.in_place = self.local and not self.filter
            if self.in_place:
                self.datasets = self._allocated(file)
        self.blocks = BlockFiles.beside(files, self.name, self.local)

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block; return its digests, its pieces of the file, its files, its fill value.

        A piece is (offset, size, digest). A block that has several runs in the file has none.
        """
        shape = [sizes[index] for sizes, index in zip(self.chunks, coordinates, strict=True)]
        array = sound(block, shape, self.dtype, self.masked)
        digests, pieces, left = [], [], []
        for dataset, part in zip(self.datasets, parts_of(array, self.masked), strict=True):
            encoded, digest = dataset.elements.encode(part), self.blocks.digest
            if not encoded.size:
                digests.append(digest(b""))
                left.append(b"")
            elif self.in_place:
                with open_to_write(self.blocks.files, self.name) as file:
                    written, runs = dataset.write(file, encoded, number, coordinates)
                digests.append(digest(written))
                if len(runs) == 1:
                    pieces.append((*runs[0], digests[-1].hex()))
            else:
                digests.append(digest(bytes_of(encoded)))
                parts = [bytes_of(encoded)]
                if self.filter:
                    parts = self.filter.packed(encoded, [sizes[0] for sizes in self.chunks])
                left.append(self.blocks.write(f"{dataset.name}-{number}", parts))
        return digests, pieces, left, fill_of(array, self.masked)

    def finish(self, records: list[Any], files: Any) -> dict[str, Any]:
        """Complete the file, store it under its name, and return its pid."""
        if self.local:
            with open_to_write(files, self.name) as file:
                if self.filter:
                    self._assemble(file, records)
                size = file.seek(0, os.SEEK_END)
                known = [piece for _, pieces, _, _ in records for piece in pieces]
                others = _other_pieces(file, size, known, self.blocks.digest)
                files.digested(self.name, [*known, *others])
        else:
            with tempfile.NamedTemporaryFile() as staged, files.open(self.name, "wb") as put:
                self._assemble(staged, records)
                size = staged.seek(0, os.SEEK_END)
                staged.seek(0)
                shutil.copyfileobj(staged, put, _READ_AT_ONCE)
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
                    b"".join([digests[index] for digests, *_ in records]),
                )
                for index, dataset in enumerate(self.datasets)
            ],
            "fill_value": records[0][3] if self.masked and records else b"",
        }

    def clean(self) -> None:
        """Remove the temporary files, also those that workers have left."""
        if not self.in_place:
            numbers = range(math.prod(map(len, self.chunks)))
            names = [dataset.name for dataset in self.datasets]
            self.blocks.remove(f"{name}-{number}" for number in numbers for name in names)

    def _allocated(self, opened: IO[bytes]) -> list[Dataset]:
        """Lay out the file, and return the datasets with their layouts and offsets."""
        import h5py

        found = []
        with hdf5_in(opened, "w") as file:
            for dataset in self.datasets:
                grid = is_grid(dataset)
                made = h5py.Dataset(create(file, dataset, grid))
                self._describe(made, dataset)
                offset: Any = made.id.get_offset() or 0
                if grid:
                    offset = chunk_offsets(made.id, dataset)
                layout = "grid" if grid else "contiguous"
                found.append(replace(dataset, layout=layout, offset=offset))
        if self.local:
            find_room(opened.fileno())
        return found

    def _assemble(self, opened: IO[bytes], records: list[Any]) -> None:
        """Write the file from the files of the blocks; set the digests of those that it pads."""
        left = [left for _, _, left, _ in records]
        if not self.filter:
            self.datasets = self._allocated(opened)
            for index, dataset in enumerate(self.datasets):
                for number, place, data in self._left(index, left):
                    stored = dataset.elements.stored
                    region = dataset.region(place)
                    shape = [part.stop - part.start for part in region]
                    block = np.ndarray(shape, stored, data)
                    written, _ = dataset.write(opened, block, number, place)
                    if len(written) > len(data):
                        records[number][0][index] = self.blocks.digest(written)
            return
        with hdf5_in(opened, "w") as file:
            for index, dataset in enumerate(self.datasets):
                stored, text = dataset.elements.stored, dataset.elements.is_text
                made = self.filter.create(file, dataset.name, stored, self.chunks, text)
                self._describe(made, dataset)
                for _, place, data in self._left(index, left):
                    self.filter.move(data, made, dataset.region(place), stored)

    def _left(
        self, index: int, left: list[list[bytes]]
    ) -> Iterator[tuple[int, tuple[int, ...], bytes]]:
        """Iterate number, coordinates and bytes of the blocks that workers have left."""
        counts = [len(sizes) for sizes in self.chunks]
        for number, digests in enumerate(left):
            if digests[index]:
                name = f"{self.datasets[index].name}-{number}"
                yield number, place_of(number, counts), self.blocks.read(name, digests[index])

    def _describe(self, made: Any, dataset: Dataset) -> None:
        for name, value in dataset.elements.attributes().items():
            made.attrs[name] = value
        text = json.dumps(self.chunks, separators=(",", ":"))
        if len(text) < _LONGEST_ATTRIBUTE:
            made.attrs["functionfuse_chunks"] = text


def _other_pieces(
    file: IO[bytes], size: int, known: list[tuple[int, int, str]], digest: Callable[[Buffer], bytes]
) -> Iterator[tuple[int, int, str]]:
    """Iterate the pieces of a file between the known ones, with their digests."""
    position = 0
    for start, length, _ in [*sorted(known), (size, 0, "")]:
        file.seek(position)
        while position < start:
            data = file.read(min(start - position, _READ_AT_ONCE))
            if not data:
                raise OSError(f"{file.name!r} ends at byte {position}")
            yield position, len(data), digest(data).hex()
            position += len(data)
        position = start + length
