"""Storages: results of workflows. `storage_factory` makes one from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..config.factories import storage_factory as storage_factory
    from .blobstore import BlobInfo as BlobInfo
    from .blobstore import BlobStore as BlobStore
    from .storage import Storage as Storage

__all__ = ["BlobInfo", "BlobStore", "Storage", "storage_factory"]

__getattr__ = resolver(__name__)
