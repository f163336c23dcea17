"""The decorator `workflow`, and the nodes that decorated functions make."""

from __future__ import annotations

from .graph.decorated import Settings
from .graph.decorator import WorkflowClass, WorkflowFunction, workflow
from .graph.nodes import Node, Pick

__all__ = ["Node", "Pick", "Settings", "WorkflowClass", "WorkflowFunction", "workflow"]
