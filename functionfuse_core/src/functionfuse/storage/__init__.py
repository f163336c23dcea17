"""Storages: where results are kept. `storage_factory` makes one from a config."""

from __future__ import annotations

from .blobstore import BlobInfo, BlobStore
from .factory import storage_factory
from .storage import Storage

__all__ = ["BlobInfo", "BlobStore", "Storage", "storage_factory"]
