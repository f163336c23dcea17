"""The report of a run, by the path that stored results may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facade import resolver

if TYPE_CHECKING:
    from .run.report import NodeRecord, Report

__all__ = ["NodeRecord", "Report"]

__getattr__ = resolver(__name__)
