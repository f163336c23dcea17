"""The kind "S3": its entry point, and its storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functionfuse.errors import without_locals
from functionfuse.hookspecs import StorageKind, hookimpl
from functionfuse.storage import Storage

from .options import S3Options, checked

__all__ = ["S3FileStorage", "functionfuse_storages"]


class S3FileStorage(Storage):
    """Results in a bucket of S3, or of a server with the same protocol.

    Making a storage sends nothing. It pickles by its options, secrets included.

    Args:
        path: bucket and prefix, such as "bucket/prefix" or "s3://bucket/prefix". Or all options.
        s3fs: options by the names of the package s3fs.
        options: the other options of the kind, see `functionfuse_s3.options.S3Options`.

    Raises:
        OptionsError: an option is unknown or wrong.
    """

    @without_locals
    def __init__(
        self, path: str | S3Options, s3fs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        from .store import S3Store  # imports boto3

        given = path if isinstance(path, S3Options) else {"path": path, "s3fs": s3fs, **options}
        found = checked(given)
        super().__init__(S3Store(found), found)


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Return the kind "S3"."""
    return [StorageKind("S3", S3Options, S3FileStorage, api_version=1)]
