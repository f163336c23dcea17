"""Initializers and seeds: they prepare the process where a node runs."""

from __future__ import annotations

from ...run.nodeplugins import (
    InitializerPlugin,
    Plugin,
    PluginCollection,
    RandomStatePlugin,
    _seed_random,  # noqa: F401  # pickles and fingerprints name it
)

__all__ = ["InitializerPlugin", "Plugin", "PluginCollection", "RandomStatePlugin"]
