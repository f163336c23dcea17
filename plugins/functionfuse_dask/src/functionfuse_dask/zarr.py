"""Dask arrays as zarr groups of format 3: natively in S3, and in plain folders.

A group has an array "data" and, for a masked array, "mask": see `docs/arrays.md`. Each chunk ends
with its CRC32C, which every read checks. Blocks are first rechunked to whole objects of the store
(chunks, or shards of many small chunks), so that no two workers write the same object.
"""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
import zarr
from xxhash import xxh3_128_hexdigest
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath, WrapperStore

from functionfuse.errors import DamagedResultError, OptionsError, ResultNotFoundError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL, generate_name

from .blocks import Chunks, part_of, regions, sound
from .elements import Elements, in_zarr

__all__ = ["ZarrArray", "ZarrGroup", "remove"]

COMPRESSORS = {"blosc": BloscCodec, "gzip": GzipCodec, "zstd": ZstdCodec}

_SMALL = 1 << 20  # bytes of a chunk; many smaller chunks are stored in shards
_MANY = 16
_SHARD = 16 << 20


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
        self.name = f"{generate_name()}.zarr"
        self.dtype, self.chunks = array.dtype, array.chunks
        self.masked = isinstance(array._meta, np.ma.MaskedArray)
        chunk, shard = _shapes(self.chunks, self.dtype.itemsize)
        whole = shard or chunk
        self.array = array if _agree(self.chunks, whole) else array.rechunk(whole)
        self.begins = regions(self.array.chunks)
        self.elements = {"data": in_zarr(self.dtype)}
        if self.masked:
            self.elements["mask"] = Elements(np.dtype(bool), np.dtype(bool))
        self.store = _made(self.name, protocols)
        noting = _Noting(self.store)
        zarr.create_group(noting)
        codecs: list[Any] = [COMPRESSORS[compression]()] if compression else []
        self.metadata: dict[str, Any] = {}
        for name, elements in self.elements.items():
            more = (self.dtype.itemsize,) if elements.spread else ()
            made = zarr.create_array(
                noting,
                name=name,
                shape=(*array.shape, *more),
                chunks=(*chunk, *more),
                shards=(*shard, *more) if shard else None,
                dtype=elements.stored,
                compressors=[*codecs, Crc32cCodec()],
                filters=None,
                attributes=elements.attributes(),
                dimension_names=[
                    *(f"dim_{axis}" for axis in range(array.ndim)),
                    *(["bytes"] if more else []),
                ],
            )
            self.metadata[name] = made.metadata.to_dict()
        self.files = noting.files

    def write(self, block: Any, number: int, coordinates: tuple[int, ...]) -> Any:
        """Write a block; return its objects, with sizes and digests, and its fill value."""
        del number
        region = tuple(
            slice(begins[index], begins[index + 1])
            for begins, index in zip(self.begins, coordinates, strict=True)
        )
        shape = [part.stop - part.start for part in region]
        block = sound(block, shape, self.dtype, self.masked)
        if not block.size:
            return {}, b""
        noting = _Noting(self.store)
        parts, fill = {"data": np.ma.getdata(block)}, b""
        if self.masked:
            parts["mask"] = np.ma.getmaskarray(block)
            fill = np.asarray(np.ma.asarray(block).fill_value, self.dtype).tobytes()
        for name, part in parts.items():
            array = _opened(noting, name, self.metadata[name])
            array[(*region, ...)] = self.elements[name].encode(part)
        return noting.files, fill

    def finish(self, records: list[Any], files: Any) -> dict[str, Any]:
        """Report the digests of all objects, and return the pid."""
        for written, _ in records:
            self.files.update(written)
        files.digested_folder(self.name, self.files)
        return {
            "format": "zarr",
            "version": 1,
            "name": self.name,
            "dtype": np.lib.format.dtype_to_descr(self.dtype),
            "chunks": self.chunks,
            "arrays": self.metadata,
            "fill_value": next((fill for _, fill in records if fill), b""),
        }


class ZarrArray:
    """A stored array that reads one block at a time by slices, for `dask.array.from_array`."""

    def __init__(self, pid: dict[str, Any], protocols: dict[str, Any]) -> None:
        self.name: str = pid["name"]
        self.store = _there(self.name, protocols)
        if not sync(self.store.exists("zarr.json")):
            raise ResultNotFoundError(f"no zarr group {self.name!r} in {self.store}")
        self.dtype = np.lib.format.descr_to_dtype(pid["dtype"])
        self.chunks: Chunks = pid["chunks"]
        self.ends = regions(self.chunks)
        self.shape = tuple(ends[-1] for ends in self.ends)
        self.ndim = len(self.shape)
        self.metadata = pid["arrays"]
        self.fill_value = pid["fill_value"]

    def __dask_tokenize__(self) -> Any:
        return self.name

    @property
    def meta(self) -> Any:
        """An empty array of the type of the blocks."""
        empty = np.empty((0,) * self.ndim, self.dtype)
        return np.ma.array(empty) if "mask" in self.metadata else empty

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        """Return a part of one block; dask never reads from several."""
        coordinates, inner = part_of(index, self.ends, self.name)
        return self.block(coordinates)[inner]

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
        if not math.prod(shape):
            return np.empty(shape, self.dtype)
        data = in_zarr(self.dtype).decode(self._read("data", region)).reshape(shape)
        if "mask" not in self.metadata:
            return data
        fill = np.frombuffer(self.fill_value, self.dtype)[0] if self.fill_value else None
        return np.ma.array(data, mask=self._read("mask", region), fill_value=fill)

    def _read(self, name: str, region: tuple[slice, ...]) -> Any:
        array = _opened(_Whole(self.store), name, self.metadata[name])
        try:
            found = np.asarray(array[(*region, ...)])
        except FileNotFoundError as error:
            raise ResultNotFoundError(
                f"{self.name!r} is gone: the result was removed or replaced since this array was"
                f" read from the storage. Read the task again ({error})"
            ) from error
        except ValueError as error:
            raise DamagedResultError(
                f"{region} of array {name!r} in {self.name!r} is not what was written ({error}):"
                " remove the result, or compute it again"
            ) from error
        stored = in_zarr(self.dtype).stored if name == "data" else np.dtype(bool)
        return found.astype(stored, copy=False)  # zarr returns this machine's byte order


def remove(name: str, protocols: dict[str, Any]) -> None:
    """Remove a group; a missing one is no error."""
    sync(_there(name, protocols, read_only=False).clear())


class _Noting(WrapperStore[Any]):
    """A store that notes sizes and digests of the objects put into it."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.files: dict[str, tuple[int, str]] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        data = np.ascontiguousarray(value.as_numpy_array()).view(np.uint8).data
        self.files[key] = len(data), xxh3_128_hexdigest(data)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self.set(key, value)


class _Whole(WrapperStore[Any]):
    """A store that raises on a missing chunk: we write all chunks; zarr would read it as zeros."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found: Buffer | None = await self._store.get(key, prototype, byte_range)
        if found is None:
            raise FileNotFoundError(key)
        return found


def _made(name: str, protocols: dict[str, Any]) -> Store:
    """Return the store for a new group."""
    files = protocols[FILE_PROTOCOL]
    if S3_PROTOCOL in protocols:
        files.claim(name)
        made: Store = protocols[S3_PROTOCOL]["zarr_store"](name)
        return made
    return LocalStore(files.folder(name, "w"))


def _there(name: str, protocols: dict[str, Any], *, read_only: bool = True) -> Store:
    """Return the store of an existing group."""
    if S3_PROTOCOL in protocols:
        found: Store = protocols[S3_PROTOCOL]["zarr_store"](name)
        return found
    return LocalStore(protocols[FILE_PROTOCOL].folder(name), read_only=read_only)


def _opened(store: Store, name: str, metadata: Any) -> Any:
    """Return an array without reading its metadata; it also writes chunks of zeros."""
    path = StorePath(store, name)
    inner = zarr.AsyncArray(metadata, path, config={"write_empty_chunks": True})
    return zarr.Array(inner)


def _shapes(chunks: Chunks, item: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the shape of zarr's chunks, and that of shards, or None if there are no shards.

    Shards are used for many small chunks.
    """
    chunk = tuple(max(1, *sizes) for sizes in chunks)
    count = math.prod(map(len, chunks))
    if item * math.prod(chunk) >= _SMALL or count <= _MANY:
        return chunk, None
    shard = list(chunk)
    for axis in reversed(range(len(chunk))):
        room = _SHARD // max(1, item * math.prod(shard))
        needed = math.ceil(sum(chunks[axis]) / chunk[axis])
        shard[axis] *= max(1, min(room, needed))
    return chunk, tuple(shard)


def _agree(chunks: Chunks, whole: tuple[int, ...]) -> bool:
    """Return whether each block is a whole object of the store."""
    return all(
        set(sizes[:-1]) <= {size} and sizes[-1] <= size
        for sizes, size in zip(chunks, whole, strict=True)
    )
