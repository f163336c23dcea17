"""Backends, which run workflows. `workflow_factory` makes one from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..config.factories import workflow_factory as workflow_factory

__all__ = ["workflow_factory"]

__getattr__ = resolver(__name__)
