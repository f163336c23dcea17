"""The backends of core, and facades for those of plugins."""
