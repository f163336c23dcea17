"""Backends: what runs a graph, or draws it."""
