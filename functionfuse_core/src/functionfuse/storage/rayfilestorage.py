"""The documented import path of `FileStorage`, which functionfuse-ray brings."""

from __future__ import annotations

from typing import Any

from ..facade import handed_on


def __getattr__(name: str) -> Any:
    return handed_on(name, module=__name__, known="FileStorage", package="functionfuse_ray")
