"""Read configs, check options, and describe both as JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from .form import Config as Config
    from .form import read as read
    from .jsonschema import schema as schema
    from .options import check_options as check_options
    from .source import nearest as nearest

__all__ = ["Config", "check_options", "nearest", "read", "schema"]

__getattr__ = resolver(__name__)
