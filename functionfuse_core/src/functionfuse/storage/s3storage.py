"""The documented import path of `S3FileStorage`, which functionfuse-s3 provides."""

from __future__ import annotations

from ..facade import resolver

__getattr__ = resolver(__name__)
