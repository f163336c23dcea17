"""The documented import path of `S3FileStorage`, which functionfuse-s3 brings."""

from __future__ import annotations

from ..facade import resolver

__getattr__ = resolver(__name__)
