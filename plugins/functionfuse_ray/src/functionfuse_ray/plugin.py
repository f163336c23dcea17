"""The storage kind "ray": its options, and what makes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from functionfuse.hookspecs import StorageKind, hookimpl
from functionfuse.storage.options import StorageOptions

if TYPE_CHECKING:
    from .filestorage import FileStorage

__all__ = ["RayOptions"]


class RayOptions(StorageOptions):
    """Options of the storage kind "ray"."""

    path: Path = Field(
        description=(
            "The folder that holds the results, on the node that keeps them; '~' is the home there."
        )
    )
    remote_args: dict[str, Any] = Field(
        default_factory=dict,
        alias="remoteArgs",
        description=(
            "Options of ray.remote that pick the node whose disk keeps the results, such as"
            " {'resources': {'disk': 0.001}}; by default the head node of the cluster."
        ),
    )
    ray_init_args: dict[str, Any] = Field(
        default_factory=dict,
        alias="rayInitArgs",
        repr=False,
        description="What ray.init is called with where Ray is not up when the storage is used.",
    )


def _build(options: RayOptions) -> FileStorage:
    from .filestorage import FileStorage

    return FileStorage(options.model_dump(by_alias=True) | {"key": options.key})


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Bring the kind "ray"."""
    return [StorageKind("ray", RayOptions, _build, api_version=1)]
