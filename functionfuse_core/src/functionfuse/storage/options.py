"""The documented import path of the options that every kind of storage has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..config.options import Allow, Secret, StorageOptions, check_options

__all__ = ["Allow", "Secret", "StorageOptions", "check_options"]

__getattr__ = resolver(__name__)
