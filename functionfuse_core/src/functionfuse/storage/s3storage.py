"""The documented import path of `S3FileStorage`, which functionfuse-s3 brings."""

from __future__ import annotations

from typing import Any

from ..facade import handed_on


def __getattr__(name: str) -> Any:
    return handed_on(name, module=__name__, known="S3FileStorage", package="functionfuse_s3")
