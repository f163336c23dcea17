"""The installed plugins: their distributions, and any problems that prevent their use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from .entrypoints import Plugin as Plugin
    from .entrypoints import installed as list  # noqa: A004  # it is `plugins.list()`

__all__ = ["Plugin", "list"]

__getattr__ = resolver(__name__)
