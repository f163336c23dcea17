"""The kinds "ray" of storage and backend: options and build functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from functionfuse.errors import OptionsError, without_locals
from functionfuse.hookspecs import BackendKind, StorageKind, hookimpl
from functionfuse.storage import Storage
from functionfuse.storage.options import StorageOptions, check_options

__all__ = ["FileStorage", "RayBackendOptions", "RayOptions"]

_OURS = ("name", "namespace", "get_if_exists", "lifetime")


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


class FileStorage(Storage):
    """Results in files below `path` on one node, for every process that reaches the cluster.

    Args:
        opt: the options of the kind, see `RayOptions`. A relative `path` is relative to the current
            folder, or to the folder of the config file; "~" is the home on the node.
    """

    @without_locals
    def __init__(self, opt: Mapping[str, Any]) -> None:
        checked = check_options(RayOptions, kind="ray", options=opt)
        ours = [name for name in _OURS if name in checked.remote_args]
        if ours:
            raise OptionsError(
                f"storage 'ray': option 'remoteArgs': {', '.join(ours)} can't be chosen: all that"
                " use one path share one server"
            )
        path = str(checked.path)
        if not path.startswith("~"):
            path = os.path.abspath(path)
        from .store import RayStore  # imports Ray

        super().__init__(RayStore(path, checked.remote_args, checked.ray_init_args), checked)


class RayBackendOptions(BaseModel):
    """Options of the backend kind "ray"."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    ray_init_args: dict[str, Any] = Field(
        default_factory=dict,
        alias="rayInitArgs",
        repr=False,
        description="What ray.init is called with, unless Ray is up already.",
    )
    return_results: bool = Field(
        default=True,
        alias="returnResults",
        description="Whether run() returns results, as the other backends do, if it isn't told.",
    )
    max_pending_tasks: int = Field(
        default=0,
        ge=0,
        alias="maxPendingTasks",
        description="How many nodes are at Ray's at once, if run() isn't told; 0: any number.",
    )
    keep_going: bool = Field(
        default=True,
        description="If a node fails, compute all nodes that don't follow it, if run() isn't told.",
    )


def _build_storage(options: RayOptions) -> FileStorage:
    return FileStorage(options.model_dump(by_alias=True) | {"key": options.key})


def _build_workflow(options: RayBackendOptions, nodes: Sequence[Any], workflow_name: str) -> Any:
    from .workflow import RayWorkflow

    workflow = RayWorkflow(*nodes, workflow_name=workflow_name, ray_init_args=options.ray_init_args)
    workflow.return_results = options.return_results
    workflow.max_pending_tasks = options.max_pending_tasks
    workflow.keep_going = options.keep_going
    return workflow


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Return the storage kind "ray"."""
    return [StorageKind("ray", RayOptions, _build_storage, api_version=1)]


@hookimpl
def functionfuse_backends() -> list[BackendKind]:
    """Return the backend kind "ray"."""
    return [BackendKind("ray", RayBackendOptions, _build_workflow, api_version=1)]
