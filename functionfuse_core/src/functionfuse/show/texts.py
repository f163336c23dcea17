"""Texts for terminals: tables, sizes, durations, and names without control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["duration", "printable", "size", "span", "table", "width"]


def printable(text: str) -> str:
    """Return `text`, with the escapes of Python's `repr` for characters that have no glyph.

    The result is valid in one line, in XML and in UTF-8.
    """
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else ascii(char)[1:-1] for char in text])


def width(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows of texts as lines with aligned columns, two spaces between them.

    Args:
        right: numbers of the columns that are aligned at their right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for number, cell in enumerate(row):
            blanks = " " * (widths[number] - width(cell))
            padded.append(blanks + cell if number in right else cell + blanks)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """Return seconds as "139 ms", "3.2 s" or "1,205 s"; "" if they are unknown."""
    if seconds is None or not 0 <= seconds < 1e12:  # a header can have any number
        return ""
    if seconds >= 1:
        return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


def span(seconds: float, digits: int = 1) -> str:
    """Return a time that goes on as "0.9 s" or "2 min 5 s": unlike `duration`, in one unit."""
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int) -> str:
    """Return bytes as "312 B", "1.1 kB" or "2.7 MB": decimal units, as disks have."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while value >= 999.5 and unit != "PB":
        value, unit = value / 1000, next(units)
    return f"{value:.1f} {unit}" if unit != "B" and value < 99.95 else f"{value:.0f} {unit}"
