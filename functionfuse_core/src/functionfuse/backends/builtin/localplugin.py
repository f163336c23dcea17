"""Kind "local": `LocalWorkflow` from a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...hookspecs import BackendKind, hookimpl
from .localback import LocalWorkflow

__all__ = ["LocalOptions"]


class LocalOptions(BaseModel):
    """Options of the backend "local"."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    executor: Literal["none", "threads", "processes"] = Field(
        default="none",
        description=(
            "Where nodes are computed: 'none': one after the other, where run is called; 'threads'"
            " or 'processes': independent ones at the same time."
        ),
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="How many threads or processes; by default as many as Python chooses.",
    )


def _build(options: LocalOptions, nodes: Sequence[Any], workflow_name: str) -> LocalWorkflow:
    workflow = LocalWorkflow(*nodes, workflow_name=workflow_name)
    pools: dict[str, Callable[..., Executor]] = {
        "threads": ThreadPoolExecutor,
        "processes": ProcessPoolExecutor,
    }
    if options.executor in pools:
        workflow.make_executor = partial(pools[options.executor], options.workers)
    return workflow


@hookimpl
def functionfuse_backends() -> list[BackendKind]:
    """Bring the kind "local"."""
    return [BackendKind("local", LocalOptions, _build, api_version=1)]
