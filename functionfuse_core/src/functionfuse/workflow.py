"""The decorator `workflow`, and the nodes that decorated functions make."""

from __future__ import annotations

from .graph.decorator import WorkflowClass, WorkflowFunction, workflow
from .graph.nodes import Node, Pick
from .graph.settings import Retries, Settings

__all__ = ["Node", "Pick", "Retries", "Settings", "WorkflowClass", "WorkflowFunction", "workflow"]
