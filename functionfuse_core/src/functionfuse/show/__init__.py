"""Drawings of plain data; nothing of the project is imported here."""
