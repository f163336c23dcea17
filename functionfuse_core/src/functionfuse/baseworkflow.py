"""`BaseWorkflow`, by the path that scripts for the original use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facade import resolver

if TYPE_CHECKING:
    from .graph.workflow import BaseWorkflow

__all__ = ["BaseWorkflow"]

__getattr__ = resolver(__name__)
