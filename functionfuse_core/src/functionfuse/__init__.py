"""Function Fuse: decorate functions, build a graph by calling them, run it, keep every result."""

from __future__ import annotations

from .workflow import workflow

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from typing import Any

    from .backends.builtin.graphback import GraphWorkflow as GraphWorkflow
    from .backends.builtin.localback import LocalWorkflow as LocalWorkflow
    from .config.factories import storage_factory as storage_factory
    from .config.factories import workflow_factory as workflow_factory
    from .run.calling import NodeFilter as NodeFilter
    from .run.calling import current_node as current_node
    from .serializers.file import File as File
    from .storage.storage import Storage as Storage

    RayWorkflow: Any  # of functionfuse-ray

# Without `RayWorkflow`: `import *` works if functionfuse-ray is not installed.
__all__ = [
    "File",
    "GraphWorkflow",
    "LocalWorkflow",
    "NodeFilter",
    "Storage",
    "current_node",
    "storage_factory",
    "task",
    "workflow",
    "workflow_factory",
]

__version__ = "0.1.0"

task = workflow


def __getattr__(name: str) -> Any:
    from .facade import resolver  # imported on use: it takes longer than the rest

    return resolver(__name__)(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, "RayWorkflow"]
