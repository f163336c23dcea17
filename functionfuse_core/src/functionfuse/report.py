"""The report and the events of a run, by the paths that stored results may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facade import resolver

if TYPE_CHECKING:
    from .run.events import Event
    from .run.report import NodeRecord, Report

__all__ = ["Event", "NodeRecord", "Report"]

__getattr__ = resolver(__name__)
