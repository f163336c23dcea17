"""The documented import path of the kind "ray", which functionfuse-ray provides."""

from __future__ import annotations

from ..facade import resolver

__getattr__ = resolver(__name__)
