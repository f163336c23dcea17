"""The entry point of the kind "S3"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functionfuse.hookspecs import StorageKind, hookimpl

from .options import S3Options

if TYPE_CHECKING:
    from .storage import S3FileStorage

__all__ = ["functionfuse_storages"]


def _build(options: S3Options) -> S3FileStorage:
    from .storage import S3FileStorage

    return S3FileStorage(**dict(options))


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Bring the kind "S3"."""
    return [StorageKind("S3", S3Options, _build, api_version=1)]
