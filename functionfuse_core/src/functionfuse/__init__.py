"""Function Fuse: decorate functions, build a graph by calling them, run it, keep every result."""

from __future__ import annotations

from .workflow import workflow

__all__ = ["task", "workflow"]

__version__ = "0.1.0"

task = workflow
