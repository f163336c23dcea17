"""The backends that core brings, and facades for those that plugins bring."""
