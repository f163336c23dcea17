"""Function Fuse plugin for dask arrays: HDF5 files and zarr groups, read lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .daskarray import DaskArraySerializer
    from .original import read_original

__all__ = ["DaskArraySerializer", "read_original"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import dask on first use."""
    if name == "DaskArraySerializer":
        from .daskarray import DaskArraySerializer

        return DaskArraySerializer
    if name == "read_original":
        from .original import read_original

        return read_original
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
