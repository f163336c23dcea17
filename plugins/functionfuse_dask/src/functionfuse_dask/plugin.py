"""The module of the entry point: the serializer of dask arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functionfuse.hookspecs import SerializerKind, hookimpl

if TYPE_CHECKING:
    from functionfuse.serializers import Serializer

__all__ = ["functionfuse_serializers"]


def _build() -> Serializer:
    from .daskarray import DaskArraySerializer

    return DaskArraySerializer()


@hookimpl
def functionfuse_serializers() -> list[SerializerKind]:
    """Return the serializer of dask arrays."""
    return [SerializerKind("dask.array.core.Array", _build, api_version=1)]
