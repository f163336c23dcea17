"""The documented import path of `DaskArraySerializer`, which functionfuse-dask brings."""

from __future__ import annotations

from ..facade import resolver

__getattr__ = resolver(__name__)
