"""Dask arrays of the original Function Fuse: HDF5 files or, in S3, arrays of one zarr group.

The pickle of a result names an array by a persistent id, `("HDFSerializer", ("0.0.0", name))`. The
files are in the folder `bigdata` of the workflow. They have no digests, so nothing is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from typing import Any

import dask.array as da
import numpy as np

from functionfuse.errors import DamagedResultError, NewerFormatError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.safefiles import SafeFiles

from .blocks import lazily
from .dataset import open_dataset
from .sources import LocalFile, StagedFile, source_of

__all__ = ["original_array", "read_original"]

_DATASET = "dask_arrays"
_COMPRESSORS = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")  # that only unpack bytes


class Hdf5Dataset:
    """The dataset of a file, which is opened for each read."""

    def __init__(self, source: LocalFile | StagedFile) -> None:
        self.source = source
        with open_dataset(source, _DATASET) as dataset:
            self.shape: tuple[int, ...] = dataset.shape
            self.dtype: np.dtype[Any] = dataset.dtype
            self.chunks: tuple[int, ...] = dataset.chunks or dataset.shape
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """Return a part of the array."""
        with open_dataset(self.source, _DATASET) as dataset:
            if (dataset.shape, dataset.dtype) != (self.shape, self.dtype):
                raise DamagedResultError(
                    f"the array in {self.source.name!r} was replaced: read the task again"
                )
            return dataset[index]


def original_array(pid: Any, protocols: dict[str, Any]) -> da.Array:
    """Return the lazy array of a persistent id.

    Raises:
        NewerFormatError: its version is not that of the original.
        FileNotFoundError: its file is missing.
    """
    if len(pid) != 2 or pid[0] != "0.0.0":
        raise NewerFormatError(f"{pid!r} is no dask array of the original Function Fuse")
    name = pid[1]
    if not isinstance(name, str):
        raise DamagedResultError(f"{name!r} names no array of the original Function Fuse")
    if S3_PROTOCOL in protocols:
        store = protocols[S3_PROTOCOL]["zarr_store"](_DATASET)
        return _lazy(_zarr_array(store, name), name)
    return _from_file(protocols[FILE_PROTOCOL], name)


def _from_file(files: Any, name: str) -> da.Array:
    with files.open(name, "rb") as file:  # any name: the protocol leads to no other folder
        size = file.seek(0, os.SEEK_END)
    return _lazy(Hdf5Dataset(source_of(files, name, size)), name)


def _zarr_array(store: Any, name: str) -> Any:
    """Return a zarr array of format 2 whose codecs only unpack bytes.

    Raises:
        FileNotFoundError: there is no array with this name.
        DamagedResultError: its metadata is something else; codecs such as "pickle" run code.
    """
    import zarr
    from zarr.storage import StorePath

    found = store.get_sync(f"{name}/.zarray")
    if found is None:
        raise FileNotFoundError(f"no zarr array {name!r} in {store}")
    try:
        metadata = json.loads(found.to_bytes())
        compressor = metadata["compressor"]
        if (
            metadata["zarr_format"] != 2
            or metadata["filters"]
            or np.dtype(metadata["dtype"]).hasobject
            or (compressor and compressor["id"] not in _COMPRESSORS)
        ):
            raise ValueError(f"its metadata is {str(metadata)[:300]}")
        path = StorePath(store.with_read_only(True), name)
        return zarr.Array(zarr.AsyncArray(metadata, path))
    except Exception as error:  # zarr and numpy raise any error for other texts
        raise DamagedResultError(
            f"the zarr array {name!r} of the original Function Fuse can't be opened: {error}"
        ) from error


def _lazy(stored: Any, name: str) -> da.Array:
    empty = np.empty((0,) * stored.ndim, stored.dtype)
    return lazily(stored, stored.chunks, f"original-{name}", empty)


def read_original(path: str) -> Any:
    """Return a result that the original Function Fuse wrote to a file, with its dask arrays.

    The file is a pickle and its SHA-1 digest. Arrays are HDF5 files in the folder `bigdata` beside
    it, each with a dataset "dask_arrays". A file that a run has moved to the folder `.original`
    has them in the folder above. The pickle can run code: read only files that you trust.

    Raises:
        DamagedResultError: the file was changed, or names another kind of object.
    """
    with open(path, "rb") as file:
        data = file.read()
    if hashlib.sha1(data[:-20], usedforsecurity=False).digest() != data[-20:]:
        raise DamagedResultError(f"{path!r} is not what was written")
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.basename(folder) == ".original":
        folder = os.path.dirname(folder)

    store = FileStore(folder)
    files = SafeFiles(store.protocols("bigdata/")[FILE_PROTOCOL], store, "bigdata/")

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            match pid:
                case ("HDFSerializer", ("0.0.0", str(name))):
                    return _from_file(files, name)
            raise DamagedResultError(f"{path!r} names {pid!r}, which is no dask array")

    return Unpickler(io.BytesIO(data[:-20])).load()
