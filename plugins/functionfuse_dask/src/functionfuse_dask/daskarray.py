"""`DaskArraySerializer`: write dask arrays of a result to HDF5 or zarr, chunk by chunk."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from importlib.util import find_spec
from typing import Any, Literal

import dask.array as da

from functionfuse.errors import DamagedResultError, NewerFormatError, OptionsError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL

from .blocks import Spool, compute, is_known, lazily
from .elements import refuse
from .hdf5 import Hdf5Array, Hdf5File
from .sources import Room

__all__ = ["DaskArraySerializer", "read_original"]


class DaskArraySerializer:
    """Stores dask arrays beside a result; they are read as lazy arrays with the same chunks.

    The active dask scheduler computes all arrays of a result together. Each chunk is written by the
    worker that computes it.

    Args:
        format: "hdf5": one file for each array; "zarr": one group, in S3 or in plain files;
            "auto": zarr where the storage is S3, HDF5 elsewhere.
        compression: None, or the name of a filter: for HDF5 "gzip", "lzf" and, with hdf5plugin,
            "bitshuffle", "blosc", "blosc2", "bzip2", "lz4", "zstd"; for zarr "blosc", "gzip",
            "zstd".
        check: whether the digest of a chunk is checked when it is first read. zarr always checks.
    """

    name = "dask.array"
    serializer_class: type = da.Array
    always_read = True

    def __init__(
        self,
        *,
        format: Literal["auto", "hdf5", "zarr"] = "auto",  # noqa: A002
        compression: str | None = None,
        check: bool = True,
    ) -> None:
        if format not in ("auto", "hdf5", "zarr"):
            raise OptionsError(f"format {format!r} is none of 'auto', 'hdf5' and 'zarr'")
        self.format = format
        self.compression = compression
        self.check_digests = check

    def check(self, obj: da.Array) -> None:
        """Raise TypeError for an array that can't be stored in a file."""
        refuse(obj)

    def pickle(self, obj: da.Array, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Compute and write an array; see `Serializer.pickle`."""
        return self.pickle_many([obj], [protocols])[0]

    def pickle_many(
        self, objs: list[da.Array], protocols: list[dict[str, Any]]
    ) -> list[tuple[str, Any]]:
        """Compute and write arrays together, so that shared parts are computed once."""
        for obj in objs:
            refuse(obj)
        pids: list[Any] = [None] * len(objs)
        with Room(protocols[0][FILE_PROTOCOL]) as room:
            waiting = dict(enumerate(objs))
            while waiting:
                arrays, targets = [], []
                for number, array in waiting.items():
                    target = self._target(number, array, protocols[number], room)
                    targets.append(target)
                    arrays.append(getattr(target, "array", array))
                found = compute(arrays, targets)
                again = {}
                for (number, array), target, records in zip(
                    waiting.items(), targets, found, strict=True
                ):
                    if isinstance(target, Spool):
                        again[number] = target.known(array, records)
                    else:
                        pids[number] = target.finish(records, protocols[number][FILE_PROTOCOL])
                waiting = again
        return [(self.name, pid) for pid in pids]

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> da.Array:
        """Return the lazy array. Checks that its file is there, and reads no data."""
        if not isinstance(pid, dict):
            raise DamagedResultError(f"{pid!r} names no array")
        if pid["version"] > 1:
            raise NewerFormatError(
                "the array was written by a later version: upgrade functionfuse-dask"
            )
        stored: Any
        if pid["format"] == "hdf5":
            stored = Hdf5Array(pid, protocols[FILE_PROTOCOL], check=self.check_digests)
        else:
            from .zarr import ZarrArray

            stored = ZarrArray(pid, protocols)
        return lazily(stored, stored.chunks, pid["name"], stored.meta)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove the file or group of `pid`."""
        if pid["format"] == "hdf5":
            protocols[FILE_PROTOCOL].remove(pid["name"])
            protocols[FILE_PROTOCOL].remove(f"{pid['name']}.pieces")
        else:
            from .zarr import remove

            remove(pid["name"], protocols)

    def _target(self, number: int, array: da.Array, protocols: dict[str, Any], room: Room) -> Any:
        if not is_known(array):
            return Spool(room.path, number, array)
        if self.format == "zarr" or (self.format == "auto" and S3_PROTOCOL in protocols):
            if find_spec("zarr") is None:
                raise OptionsError("zarr is not installed: pip install functionfuse-dask[zarr]")
            from .zarr import ZarrGroup

            return ZarrGroup(array, protocols, self.compression)
        return Hdf5File(array, protocols[FILE_PROTOCOL], room, self.compression)


def read_original(path: str) -> Any:
    """Return a result that the original Function Fuse wrote to a file, with its dask arrays.

    The file is a pickle and its SHA-1 digest. Arrays are HDF5 files in the folder `bigdata` beside
    it, each with a dataset "dask_arrays". The pickle can run code: read only files that you trust.

    Raises:
        DamagedResultError: the file was changed, or names another kind of object.
    """
    with open(path, "rb") as file:
        data = file.read()
    if hashlib.sha1(data[:-20], usedforsecurity=False).digest() != data[-20:]:
        raise DamagedResultError(f"{path!r} is not what was written")
    folder = os.path.join(os.path.dirname(os.path.abspath(path)), "bigdata")

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            import h5py

            tag, (version, name) = pid
            if (tag, version) != ("HDFSerializer", "0.0.0"):
                raise DamagedResultError(f"{path!r} names {pid!r}, which is no dask array")
            dataset = h5py.File(os.path.join(folder, name), "r")["dask_arrays"]
            return da.from_array(dataset, chunks=dataset.chunks or dataset.shape)

    return Unpickler(io.BytesIO(data[:-20])).load()
