"""Function Fuse plugin for results in S3, or in servers with the same protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import S3FileStorage

__all__ = ["S3FileStorage"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the storage on first use."""
    if name == "S3FileStorage":
        from .plugin import S3FileStorage

        return S3FileStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
