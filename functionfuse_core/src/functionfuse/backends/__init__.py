"""Backends: what runs workflows. `workflow_factory` makes one from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .factory import workflow_factory

__all__ = ["workflow_factory"]


def __getattr__(name: str) -> Any:
    if name == "workflow_factory":  # importing a backend alone needs no config
        from .factory import workflow_factory

        return workflow_factory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
