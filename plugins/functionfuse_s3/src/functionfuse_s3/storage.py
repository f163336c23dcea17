"""`S3FileStorage`: results in S3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functionfuse.storage import Storage

from .options import checked
from .store import S3Store

__all__ = ["S3FileStorage"]


class S3FileStorage(Storage):
    """Results in a bucket of S3, or of a server that speaks its protocol.

    Making one sends nothing. It pickles by its options, secrets included.

    Args:
        path: bucket and prefix, such as "bucket/prefix" or "s3://bucket/prefix".
        s3fs: options in the spelling of the package s3fs.
        options: the other options of the kind, see `functionfuse_s3.options.S3Options`.

    Raises:
        OptionsError: an option is unknown or wrong.
    """

    def __init__(self, path: str, s3fs: Mapping[str, Any] | None = None, **options: Any) -> None:
        found = checked({"path": path, "s3fs": s3fs, **options})
        super().__init__(S3Store(found), found)
