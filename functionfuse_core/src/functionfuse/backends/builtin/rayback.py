"""The documented import path of `RayWorkflow`, which functionfuse-ray brings."""

from __future__ import annotations

from ...facade import resolver

__getattr__ = resolver(__name__)
