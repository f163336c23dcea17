"""Where each key and value of a text stands, whatever its syntax."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["DEEPEST", "Mark", "Marks", "Parsed", "Path", "SyntaxProblem", "add_key", "position"]

Path = tuple[str | int, ...]  # keys and indices that lead to a value
Mark = tuple[int, int]  # line and column, both from 1
Marks = dict[Path, tuple[Mark, Mark]]  # of the key, or of an item itself, and of the value

DEEPEST = 100  # nested containers


class Parsed(NamedTuple):
    """What a text holds, and where each part of it stands."""

    data: Any
    marks: Marks


class SyntaxProblem(Exception):  # noqa: N818  # never leaves `configfile`
    """A text is not of its format. The message quotes nothing but keys."""

    def __init__(self, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


def add_key(marks: Marks, found: dict[str, Any], path: Path, mark: Mark) -> None:
    """Note where a key stands. Raises SyntaxProblem: it was `found` before."""
    key = path[-1]
    if key in found:
        line = marks[path][0][0]
        raise SyntaxProblem(f"the key {key!r} stands here again, after line {line}", mark)
    marks[path] = mark, mark


def position(text: str, place: int) -> Mark:
    """Return line and column of a place in a text."""
    before = text[:place]
    return before.count("\n") + 1, place - before.rfind("\n")
