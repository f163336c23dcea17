"""The encoding of array elements in a file, for types that HDF5 and zarr don't have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MOST_AXES", "Elements", "bytes_of", "in_hdf5", "in_zarr", "refuse"]

Block = np.ndarray[Any, Any]

MOST_AXES = 32  # HDF5's limit

_UNITS = {  # numpy's units, and their names in the CF conventions, which xarray reads
    "D": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}


@dataclass(frozen=True)
class Elements:
    """The encoding of the elements of one type.

    Attributes:
        dtype: of the array.
        stored: of the file. The bytes are the same, except for text, which is stored as UTF-8.
        spread: whether the bytes of an element are stored as numbers along one more axis.
    """

    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    spread: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the elements are text, stored as UTF-8."""
        return self.dtype.kind == "U" and self.stored.kind == "S"

    def encode(self, block: Block) -> Block:
        """Return a block encoded for the file, in C order."""
        block = np.ascontiguousarray(block).reshape(block.shape)  # it turns 0-d into 1-d
        if self.spread:
            return block.reshape(*block.shape, 1).view(self.stored)
        if self.is_text:
            return np.char.encode(block, "utf-8", "surrogatepass").astype(self.stored)
        return block if self.stored == self.dtype else block.view(self.stored)

    def decode(self, stored: Block) -> Block:
        """Return the block of a stored one; a view if possible."""
        if self.spread:
            return np.ascontiguousarray(stored).view(self.dtype)[..., 0]
        if self.is_text:
            return np.char.decode(stored, "utf-8", "surrogatepass").astype(self.dtype)
        return stored.view(self.dtype)  # also for an equal type: zarr's ones look different

    def attributes(self) -> dict[str, Any]:
        """Return attributes that describe the type to readers of the file."""
        found: dict[str, Any] = {
            "functionfuse_dtype": str(np.lib.format.dtype_to_descr(self.dtype))
        }
        unit = re.fullmatch(r"[<>=|][mM]8\[(\w+)\]", self.dtype.str)
        if unit and unit[1] in _UNITS and self.stored.kind == "i":
            since = " since 1970-01-01" if self.dtype.kind == "M" else ""
            found["units"] = _UNITS[unit[1]] + since
            if not since:
                found["dtype"] = f"timedelta64[{unit[1]}]"
        return found


def bytes_of(block: Block) -> memoryview:
    """Return the bytes of a block that is in C order."""
    return block.reshape(-1).view(np.uint8).data if block.nbytes else memoryview(b"")


def refuse(array: Any, *, hdf5: bool) -> None:
    """Raise TypeError if, by its meta, an array has blocks that can't be stored in a file."""
    kind, dtype = type(array._meta), array.dtype
    if kind not in (np.ndarray, np.ma.MaskedArray):
        raise TypeError(
            f"its blocks are {kind.__module__}.{kind.__qualname__}, and only numpy arrays are kept"
            " in files; convert it, for instance with array.map_blocks(numpy.asarray)"
        )
    if dtype.hasobject or dtype.kind == "T":
        raise TypeError(
            f"its elements are of type {dtype!r}, which have no fixed size; convert them, for"
            " instance with array.astype('U20')"
        )
    if not dtype.itemsize:
        raise TypeError(
            f"its elements are of type {dtype!r}, which takes no bytes; convert them, for instance"
            " with array.astype('U1'), or return array.shape"
        )
    if dtype.names and not _is_described(dtype):
        raise TypeError(
            f"its elements are of type {dtype!r}, which no .npy file can describe: its fields"
            " overlap, or are out of order; convert them, for instance with"
            " array.map_blocks(numpy.lib.recfunctions.repack_fields)"
        )
    if hdf5 and array.ndim > MOST_AXES:
        raise TypeError(
            f"it has {array.ndim} axes, and HDF5 has at most {MOST_AXES}; reshape it, for instance"
            " with array.reshape(-1), or use DaskArraySerializer(format='zarr')"
        )
    if kind is np.ma.MaskedArray:
        if dtype.names:
            raise TypeError("it is masked and structured; keep its fields as arrays of their own")
        try:
            np.asarray(array._meta.fill_value, dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"it is masked, and numpy has no fill value for its type {dtype!r}; convert the"
                f" data before it is masked, for instance with data.astype('{dtype.kind}8[s]')"
            ) from error


def _is_described(dtype: np.dtype[Any]) -> bool:
    """Return whether the description of a type in the header of a `.npy` file gives the type."""
    try:
        return np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype)) == dtype
    except ValueError:
        return False


def in_hdf5(dtype: np.dtype[Any]) -> Elements:
    """Return the encoding of a type in HDF5: as the same type if it has one, else opaque bytes."""
    import h5py

    if dtype.kind in "mM":
        return Elements(dtype, np.dtype(f"i{dtype.itemsize}").newbyteorder(dtype.byteorder))
    if dtype.kind == "U" and dtype.itemsize:
        return Elements(dtype, np.dtype(f"S{dtype.itemsize}"))
    try:
        known = h5py.h5t.py_create(dtype, logical=True)
        same = known.dtype == dtype and known.get_size() == dtype.itemsize
    except (TypeError, ValueError):
        same = False
    return Elements(dtype, dtype if same else np.dtype(f"V{dtype.itemsize}"))


def in_zarr(dtype: np.dtype[Any]) -> Elements:
    """Return the encoding of a type in zarr: numbers as they are, others as bytes on a new axis."""
    if dtype.kind in "mM":
        return Elements(dtype, np.dtype(f"i{dtype.itemsize}").newbyteorder(dtype.byteorder))
    if dtype.itemsize <= {"b": 1, "i": 8, "u": 8, "f": 8, "c": 16}.get(dtype.kind, -1):
        return Elements(dtype, dtype)
    return Elements(dtype, np.dtype("u1"), spread=True)
