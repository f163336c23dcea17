"""Function Fuse: decorate functions, build a graph by calling them, run it, keep every result."""

from __future__ import annotations

from .workflow import workflow

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from typing import Any

    from .run.calling import NodeFilter as NodeFilter
    from .run.calling import current_node as current_node

__all__ = ["NodeFilter", "current_node", "task", "workflow"]

__version__ = "0.1.0"

task = workflow


def __getattr__(name: str) -> Any:
    from .facade import resolver  # imported on use: it takes longer than the rest

    return resolver(__name__)(name)
