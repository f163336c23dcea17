"""A picture of a graph: what stands in it, and the words and colors of all its forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ._layout import layers

__all__ = [
    "COLORS",
    "GREY",
    "INK",
    "LINE",
    "STATE",
    "Box",
    "Edge",
    "Kind",
    "Picture",
    "printable",
    "shown",
]

Kind = Literal["function", "constructor", "method"]

# Of boxes: fill and border. Of text, secondary text, arrows, arrows between calls on one object.
COLORS: dict[Kind, tuple[str, str]] = {
    "function": ("#eaf2fd", "#5a8fd6"),
    "constructor": ("#ffe3b8", "#d98a1f"),
    "method": ("#fff4e0", "#d98a1f"),
}
INK, GREY, LINE, STATE = "#1f2933", "#5d6875", "#8795a6", "#d98a1f"


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its name, a second line or nothing, and what is called."""

    name: str
    detail: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Edge:
    """From the box at place `source` to the later one at `target`.

    Attributes:
        text: what is picked from the source's result; empty when all of it is used.
        state: the two are calls on one object, in this order.
    """

    source: int
    target: int
    text: str
    state: bool


@dataclass(frozen=True)
class Picture:
    """What is drawn. Boxes are in topological order."""

    title: str
    boxes: list[Box]
    edges: list[Edge]

    @cached_property
    def layer(self) -> list[int]:
        """Each box's layer."""
        return layers(len(self.boxes), [(edge.source, edge.target) for edge in self.edges])

    @cached_property
    def rightward(self) -> bool:
        """Whether the flow goes to the right: where that fits a page, or is less wide than down."""
        counts = [0] * (1 + max(self.layer, default=0))
        for layer in self.layer:
            counts[layer] += 1
        return len(counts) <= max(6, *counts)


def printable(text: str) -> str:
    """Return `text` with the escapes of Python's `repr` for whatever has no glyph.

    That leaves nothing in it that could not stand in a line, in XML, or in UTF-8.
    """
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else ascii(char)[1:-1] for char in text])


def shown(text: str, *, limit: int = 48) -> str:
    """Return `text` as labels show it: printable, and with the middle left out of a long one."""
    text = printable(text)
    # Names differ at their ends.
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"
