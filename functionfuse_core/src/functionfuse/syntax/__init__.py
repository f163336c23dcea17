"""Texts of three syntaxes as data, each with the positions of what is in it."""

from __future__ import annotations

from .jsontext import parse_json
from .marks import Mark, Marks, Parsed, Path, SyntaxProblem
from .tomltext import parse_toml
from .yamltext import parse_yaml

__all__ = [
    "Mark",
    "Marks",
    "Parsed",
    "Path",
    "SyntaxProblem",
    "parse_json",
    "parse_toml",
    "parse_yaml",
]
