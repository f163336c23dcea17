"""Function Fuse on Ray: the backend `RayWorkflow`, and the storage kind "ray"."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import FileStorage
    from .workflow import RayWorkflow

__all__ = ["FileStorage", "RayWorkflow"]
__version__ = "0.1.0"

_MODULES = {"FileStorage": ".plugin", "RayWorkflow": ".workflow"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # late, because importing Ray takes more than a second
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
