"""Node plugins: what prepares the place where a node runs."""

from __future__ import annotations

from .nodeplugins import InitializerPlugin, Plugin, PluginCollection, RandomStatePlugin

__all__ = ["InitializerPlugin", "Plugin", "PluginCollection", "RandomStatePlugin"]
