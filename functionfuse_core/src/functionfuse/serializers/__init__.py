"""Serializers store values of particular types beside a result, through protocols."""

from __future__ import annotations

from .base import Serializer, generate_name

__all__ = ["FILE_PROTOCOL", "S3_PROTOCOL", "Serializer", "generate_name"]

FILE_PROTOCOL = "file_protocol"
S3_PROTOCOL = "s3 protocol"
