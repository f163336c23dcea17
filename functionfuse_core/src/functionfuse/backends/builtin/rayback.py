"""The documented import path of `RayWorkflow`, which functionfuse-ray brings."""

from __future__ import annotations

from typing import Any

from ...facade import handed_on


def __getattr__(name: str) -> Any:
    return handed_on(name, module=__name__, known="RayWorkflow", package="functionfuse_ray")
