"""`DaskArraySerializer`: write dask arrays of a result to HDF5 or zarr, chunk by chunk."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, Literal

import dask.array as da

from functionfuse.errors import DamagedResultError, NewerFormatError, OptionsError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL

from .blocks import Spool, compute, is_known, lazily
from .elements import refuse
from .hdf5 import Hdf5File
from .stored import Hdf5Array

__all__ = ["DaskArraySerializer"]


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
    checks_itself = True

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
        refuse(obj, hdf5=self.format == "hdf5")

    def pickle(self, obj: da.Array, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Compute and write an array; see `Serializer.pickle`."""
        return self.pickle_many([obj], [protocols])[0]

    def pickle_many(
        self, objs: list[da.Array], protocols: list[dict[str, Any]]
    ) -> list[tuple[str, Any]]:
        """Compute and write arrays together, so that shared parts are computed once."""
        for obj, offered in zip(objs, protocols, strict=True):
            refuse(obj, hdf5=not self._in_zarr(offered))
        pids: list[Any] = [None] * len(objs)
        with ExitStack() as stack:
            waiting = dict(enumerate(objs))
            while waiting:
                arrays, targets = [], []
                for number, array in waiting.items():
                    target = self._target(array, protocols[number])
                    if hasattr(target, "clean"):
                        stack.callback(target.clean)
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
        # Each block is checked when it is read.
        protocols = {**protocols, FILE_PROTOCOL: protocols[FILE_PROTOCOL].unchecked}
        if isinstance(pid, tuple):
            from .original import original_array

            return original_array(pid, protocols)
        if type(pid) is not dict or type(pid.get("version")) is not int:
            raise DamagedResultError(f"{str(pid)[:100]} names no array")
        if pid["version"] > 1:
            raise NewerFormatError(
                "the array was written by a later version: upgrade functionfuse-dask"
            )
        if pid.get("format") != "hdf5":
            from .zarr import stored_array

            return stored_array(pid, protocols)
        stored = Hdf5Array(pid, protocols[FILE_PROTOCOL], check=self.check_digests)
        return lazily(stored, stored.chunks, pid["name"], stored.meta)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove the file or group of `pid`."""
        if pid["format"] == "hdf5":
            protocols[FILE_PROTOCOL].remove(pid["name"])
            protocols[FILE_PROTOCOL].remove(f"{pid['name']}.pieces")
        else:
            from .zarr import remove

            remove(pid["name"], protocols)

    def _in_zarr(self, protocols: dict[str, Any]) -> bool:
        return self.format == "zarr" or (self.format == "auto" and S3_PROTOCOL in protocols)

    def _target(self, array: da.Array, protocols: dict[str, Any]) -> Any:
        if not is_known(array):
            return Spool(array, protocols[FILE_PROTOCOL])
        if self._in_zarr(protocols):
            if find_spec("zarr") is None:
                raise OptionsError("zarr is not installed: pip install functionfuse-dask[zarr]")
            from .zarr import ZarrGroup

            return ZarrGroup(array, protocols, self.compression)
        return Hdf5File(array, protocols[FILE_PROTOCOL], self.compression)
