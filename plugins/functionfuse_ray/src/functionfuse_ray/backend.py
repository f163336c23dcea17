"""The backend kind "ray": its options, and what makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from functionfuse.hookspecs import BackendKind, hookimpl

if TYPE_CHECKING:
    from .workflow import RayWorkflow

__all__ = ["RayBackendOptions"]


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


def _build(options: RayBackendOptions, nodes: Sequence[Any], workflow_name: str) -> RayWorkflow:
    from .workflow import RayWorkflow

    workflow = RayWorkflow(*nodes, workflow_name=workflow_name, ray_init_args=options.ray_init_args)
    workflow.return_results = options.return_results
    workflow.max_pending_tasks = options.max_pending_tasks
    return workflow


@hookimpl
def functionfuse_backends() -> list[BackendKind]:
    """Bring the kind "ray"."""
    return [BackendKind("ray", RayBackendOptions, _build, api_version=1)]
