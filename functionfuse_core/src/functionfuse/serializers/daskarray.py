"""The documented import path of `DaskArraySerializer`, from functionfuse-dask."""

from __future__ import annotations

from ..facade import resolver

__getattr__ = resolver(__name__)
