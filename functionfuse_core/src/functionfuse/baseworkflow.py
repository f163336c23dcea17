"""`BaseWorkflow`, by the path that scripts for earlier releases use."""

from __future__ import annotations

from .graph.workflow import BaseWorkflow

__all__ = ["BaseWorkflow"]
