"""Names of the protocols that storages offer to serializers."""

from __future__ import annotations

__all__ = ["FILE_PROTOCOL", "S3_PROTOCOL"]

FILE_PROTOCOL = "file_protocol"
S3_PROTOCOL = "s3 protocol"
