"""The documented import path of `RayWorkflow`, which is in functionfuse-ray."""

from __future__ import annotations

from ...facade import resolver

__getattr__ = resolver(__name__)
