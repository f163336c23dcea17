"""Dask arrays as zarr groups of format 3: in S3, in plain folders, and in every other storage.

A group has an array "data" and, for a masked array, "mask": see `docs/arrays.md`. Each chunk ends
with its CRC32C, which every read checks. Blocks are first rechunked to whole objects of the store
(chunks, or shards of many small chunks), so that no two workers write the same object. Objects are
also read whole, and split into the chunks of the array.

zarr encodes and decodes in memory. Its stores are not used: a `SideFolder` reads and writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from functionfuse.errors import (
    DamagedResultError,
    OptionsError,
    ResultNotFoundError,
    StoragePathError,
)
from functionfuse.serializers import FILE_PROTOCOL, generate_name

from .blocks import fill_of, lazily, part_in, part_of, parts_of, regions, sound
from .zarrform import MOST_BLOCKS, Form, checked_form, digests_of

__all__ = ["ZarrArray", "ZarrGroup", "remove", "stored_array"]

COMPRESSORS = {"blosc": BloscCodec, "gzip": GzipCodec, "zstd": ZstdCodec}

Written = dict[str, tuple[int, str]]  # by name of an object: its size and digest


class ZarrGroup:
    """The group of one array; a target of `blocks.compute`.

    Attributes:
        array: the array to write, in blocks that are whole objects of the store.
    """

    def __init__(
        self, array: da.Array, protocols: dict[str, Any], compression: str | None = None
    ) -> None:
        if compression and compression not in COMPRESSORS:
            known = ", ".join(COMPRESSORS)
            raise OptionsError(f"zarr has no compression {compression!r} here; known: {known}")
        if math.prod(array.numblocks) > MOST_BLOCKS:
            raise TypeError(f"it has {array.npartitions} chunks, which is too many: rechunk it")
        files = protocols[FILE_PROTOCOL]
        self.name = f"{generate_name()}.zarr"
        self.chunks = array.chunks
        masked = isinstance(array._meta, np.ma.MaskedArray)
        self.form = form = Form(array.dtype, array.chunks, masked, compression)
        self.array = array if _agree(form) else array.rechunk(form.shard or form.chunk)
        self.begins = regions(self.array.chunks)
        self.folder = files.side_folder(self.name, "w")
        self.digest: Callable[[Any], bytes] = files.digest
        made: dict[str, Buffer] = {}
        store = MemoryStore(made)
        zarr.create_group(store)
        codecs: list[Any] = [COMPRESSORS[compression]()] if compression else []
        self.metadata: dict[str, Any] = {}
        for name, elements in form.elements.items():
            more = form.more(name)
            array_made = zarr.create_array(
                store,
                name=name,
                shape=(*array.shape, *more),
                chunks=(*form.chunk, *more),
                shards=(*form.shard, *more) if form.shard else None,
                dtype=elements.stored,
                compressors=[*codecs, Crc32cCodec()],
                filters=None,
                attributes=elements.attributes(),
                dimension_names=[
                    *(f"dim_{axis}" for axis in range(array.ndim)),
                    *(["bytes"] if more else []),
                ],
            )
            self.metadata[name] = array_made.metadata.to_dict()
        self.files = self._put(made)

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block; return its objects, with sizes and digests, and its fill value."""
        del number
        region = tuple(
            slice(begins[index], begins[index + 1])
            for begins, index in zip(self.begins, coordinates, strict=True)
        )
        shape = [part.stop - part.start for part in region]
        block = sound(block, shape, self.form.dtype, self.form.masked)
        made: dict[str, Buffer] = {}
        if block.size:
            parts = parts_of(block, self.form.masked)
            for (name, elements), part in zip(self.form.elements.items(), parts, strict=True):
                array = _opened(made, name, self.metadata[name])
                array[(*region, ...)] = elements.encode(part)
        return self._put(made), fill_of(block, self.form.masked)

    def finish(self, records: list[Any], files: Any) -> dict[str, Any]:
        """Report the digests of all objects, and return the pid.

        Raises StoragePathError if an object is not where the storage looks for it.
        """
        for written, _ in records:
            self.files.update(written)
        there = self.folder.sizes()
        missing = [name for name, (size, _) in self.files.items() if there.get(name) != size]
        if missing:
            raise StoragePathError(
                f"{len(missing)} of the {len(self.files)} objects of a dask array are not in the"
                f" storage, such as {missing[0]!r} in {self.folder!r}: workers have written them"
                " elsewhere. All workers must see the storage's folder under the same path. Use a"
                " file system that they share, or a storage in S3"
            )
        files.digested_folder(self.name, self.files)
        pid = {
            "format": "zarr",
            "version": 1,
            "name": self.name,
            "dtype": np.lib.format.dtype_to_descr(self.form.dtype),
            "chunks": self.chunks,
            "arrays": self.metadata,
            "fill_value": next((fill for _, fill in records if fill), b""),
        }
        if files.signed:
            pid["digests"] = {
                name: b"".join(bytes.fromhex(self.files[key][1]) for key in self.form.keys(name))
                for name in self.form.elements
            }
        return pid

    def _put(self, made: dict[str, Buffer]) -> Written:
        """Write objects; return their sizes and digests."""
        written = {}
        for key, value in made.items():
            data = np.ascontiguousarray(value.as_numpy_array()).view(np.uint8).data
            written[key] = len(data), self.digest(data).hex()
            self.folder.write(key, data)
        return written


class ZarrArray:
    """A stored array that reads one object of the store at a time, for `dask.array.from_array`.

    Attributes:
        chunks: those of the objects; those of the stored array if it is empty.
        digests: of the objects, by name of the zarr array; none if results are not signed.
    """

    def __init__(self, pid: dict[str, Any], protocols: dict[str, Any]) -> None:
        files = protocols[FILE_PROTOCOL]
        self.form = form = checked_form(pid)
        self.name: str = pid["name"]
        self.fill_value: bytes = pid["fill_value"]
        self.digests = digests_of(pid, form) if files.signed else {}
        self.digest: Callable[[Any], bytes] = files.digest
        self.folder = files.side_folder(self.name)
        if not self.folder.has("zarr.json"):
            raise ResultNotFoundError(f"no zarr group {self.name!r} in {self.folder!r}")
        self.shape, self.dtype, self.ndim = form.shape, form.dtype, len(form.shape)
        self.chunks = form.objects if math.prod(self.shape) else form.chunks
        self.ends = regions(self.chunks)

    def __dask_tokenize__(self) -> Any:
        return self.name

    @property
    def meta(self) -> Any:
        """An empty array of the type of the blocks."""
        empty = np.empty((0,) * self.ndim, self.dtype)
        # dask takes an array of no axes for masked if its value is.
        return np.ma.array(empty, mask=True) if self.form.masked else empty

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        """Return a part of one block; dask never reads from several."""
        coordinates, inner = part_of(index, self.ends, self.name)
        return part_in(self.block(coordinates), inner)

    def block(self, coordinates: tuple[int, ...]) -> Any:
        """Return a block.

        Raises:
            ResultNotFoundError: an object of the store is gone.
            DamagedResultError: an object was changed.
        """
        region = tuple(
            slice(ends[index], ends[index + 1])
            for ends, index in zip(self.ends, coordinates, strict=True)
        )
        shape = tuple(part.stop - part.start for part in region)
        parts = [
            self._read(name, coordinates, region).reshape(shape) for name in self.form.elements
        ]
        if not self.form.masked:
            return parts[0]
        fill = np.frombuffer(self.fill_value, self.dtype)[0] if self.fill_value else None
        return np.ma.array(parts[0], mask=parts[1], fill_value=fill)

    def _read(self, name: str, coordinates: tuple[int, ...], region: tuple[slice, ...]) -> Any:
        if not math.prod(self.shape):
            return np.empty(0, self.form.elements[name].dtype)
        key, elements = self.form.key(name, coordinates), self.form.elements[name]
        try:
            data = self.folder.read(key)
        except FileNotFoundError as error:
            raise ResultNotFoundError(
                f"{self.name!r} is gone: the result was removed or replaced since this array was"
                f" read from the storage. Read the task again ({error})"
            ) from error
        try:
            self._check(name, coordinates, region, data)
            loaded = {key: default_buffer_prototype().buffer.from_bytes(data)}
            found = np.asarray(_opened(loaded, name, self.form.metadata(name))[(*region, ...)])
            # zarr returns this machine's byte order
            return elements.decode(found.astype(elements.stored, copy=False))
        except MemoryError:
            raise
        except Exception as error:  # zarr and its codecs raise any error for other bytes
            raise DamagedResultError(
                f"block {coordinates} of array {name!r} in {self.name!r} is not what was written"
                f" ({error}): remove the result, or compute it again"
            ) from error

    def _check(
        self, name: str, coordinates: tuple[int, ...], region: tuple[slice, ...], data: Any
    ) -> None:
        """Raise ValueError for bytes that no codec should see."""
        if self.digests:
            counts = tuple(map(len, self.chunks))
            number = int(np.ravel_multi_index(coordinates, counts)) if counts else 0
            expected = self.digests[name][32 * number : 32 * (number + 1)]
            if self.digest(data) != expected:
                raise ValueError("its digest differs from the signed one")
        if not self.form.compression:
            item = self.form.elements[name].stored.itemsize * math.prod(self.form.more(name))
            least = item * math.prod(part.stop - part.start for part in region)
            if len(data) < least:  # before the memory for it is asked for
                raise ValueError(f"it has {len(data)} bytes, and at least {least} are needed")


def stored_array(pid: dict[str, Any], protocols: dict[str, Any]) -> da.Array:
    """Return the lazy array of a pid, with the chunks that were stored; reads no data."""
    stored = ZarrArray(pid, protocols)
    array = lazily(stored, stored.chunks, stored.name, stored.meta)
    # Not by the workers' disks: whoever computes it may have no cluster.
    rechunked: da.Array = array.rechunk(stored.form.chunks, method="tasks")
    return rechunked


def remove(name: str, protocols: dict[str, Any]) -> None:
    """Remove a group; a missing one is no error."""
    protocols[FILE_PROTOCOL].side_folder(name).clear()


def _opened(objects: dict[str, Buffer], name: str, metadata: Any) -> Any:
    """Return an array over objects in memory; it also writes chunks of zeros."""
    path = StorePath(MemoryStore(objects), name)
    inner = zarr.AsyncArray(metadata, path, config={"write_empty_chunks": True})
    return zarr.Array(inner)


def _agree(form: Form) -> bool:
    """Return whether each block is a whole object of the store."""
    return all(
        set(sizes[:-1]) <= {size} and sizes[-1] <= size
        for sizes, size in zip(form.chunks, form.shard or form.chunk, strict=True)
    )
