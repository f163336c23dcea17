"""Drawings of plain data; nothing else of the project is imported here."""
