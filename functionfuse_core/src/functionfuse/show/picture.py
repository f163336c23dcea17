"""Pictures of graphs: boxes and arrows, and their texts for Graphviz and Mermaid."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .layout import layers
from .texts import printable

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
    "shown",
    "to_dot",
    "to_mermaid",
]


Kind = Literal["function", "constructor", "method"]

# Colours of boxes: fill and border. Then of text, of secondary text, of arrows, and of arrows
# between calls on one object.
COLORS: dict[Kind, tuple[str, str]] = {
    "function": ("#eaf2fd", "#5a8fd6"),
    "constructor": ("#ffe3b8", "#d98a1f"),
    "method": ("#fff4e0", "#d98a1f"),
}
INK, GREY, LINE, STATE = "#1f2933", "#5d6875", "#8795a6", "#d98a1f"


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its name, a second line or "", and the kind of call."""

    name: str
    detail: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow from the box of index `source` to the later one of index `target`.

    Attributes:
        text: the items used of the source's result; empty if all of it is used.
        state: whether the two are calls on one object, in this order.
    """

    source: int
    target: int
    text: str
    state: bool


@dataclass(frozen=True)
class Picture:
    """A graph to draw. Boxes are in topological order."""

    title: str
    boxes: list[Box]
    edges: list[Edge]

    @cached_property
    def layer(self) -> list[int]:
        """Each box's layer."""
        return layers(len(self.boxes), [(edge.source, edge.target) for edge in self.edges])

    @cached_property
    def rightward(self) -> bool:
        """Whether the flow goes right, not down: if that fits a page, or is narrower than down."""
        counts = [0] * (1 + max(self.layer, default=0))
        for layer in self.layer:
            counts[layer] += 1
        return len(counts) <= max(6, *counts)


def shown(text: str, *, limit: int = 48) -> str:
    """Return `text` for a label: printable, without the middle if it is long."""
    text = printable(text)
    # Leave out the middle, because names differ at their ends.
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"


def to_dot(picture: Picture) -> str:
    """Return the DOT text. Boxes are `n0`, `n1`, and so on; names are labels."""
    flow = "LR" if picture.rightward else "TB"
    font = 'fontname="Helvetica"'
    lines = [
        "digraph {",
        f'  graph [rankdir={flow} label="{_dot(picture.title)}" labelloc=t {font} bgcolor=white]',
        f'  node [{font} fontsize=11 fontcolor="{INK}" height=0.4 margin="0.15,0.06"]',
        f'  edge [{font} fontsize=10 fontcolor="{GREY}" color="{LINE}" arrowsize=0.7]',
    ]
    shapes: dict[Kind, str] = {
        "function": 'shape=box style="rounded,filled"',
        "constructor": 'shape=hexagon style="filled"',
        "method": 'shape=ellipse style="filled"',
    }
    for kind, shape in shapes.items():
        boxes = [index for index, box in enumerate(picture.boxes) if box.kind == kind]
        if not boxes:
            continue
        fill, stroke = COLORS[kind]
        lines.append("  {")
        lines.append(f'    node [{shape} fillcolor="{fill}" color="{stroke}"]')
        for index in boxes:
            box = picture.boxes[index]
            label = "\\n".join(_dot(line) for line in (box.name, box.detail) if line)
            lines.append(f'    n{index} [label="{label}"]')
        lines.append("  }")
    for edge in picture.edges:
        settings = [f'label="{_dot(edge.text)}"'] if edge.text else []
        if edge.state:
            settings.append(f'color="{STATE}" penwidth=2')
        lines.append(
            f"  n{edge.source} -> n{edge.target}" + (f" [{' '.join(settings)}]" if settings else "")
        )
    lines.append("}")
    return "\n".join(lines) + "\n"


def to_mermaid(picture: Picture) -> str:
    """Return the Mermaid text. Boxes are `n0`, `n1`, and so on; names are labels."""
    title = json.dumps(shown(picture.title), ensure_ascii=False)
    lines = ["---", f"title: {title}", "---"]
    lines.append(f"flowchart {'LR' if picture.rightward else 'TB'}")
    for kind, (fill, stroke) in COLORS.items():
        lines.append(f"  classDef {kind} fill:{fill},stroke:{stroke},color:{INK}")
    shapes: dict[Kind, tuple[str, str]] = {
        "function": ("[", "]"),
        "constructor": ("{{", "}}"),
        "method": ("([", "])"),
    }
    for index, box in enumerate(picture.boxes):
        label = "<br/>".join(_mermaid(line) for line in (box.name, box.detail) if line)
        begin, end = shapes[box.kind]
        lines.append(f'  n{index}{begin}"{label}"{end}:::{box.kind}')
    for edge in picture.edges:
        arrow = "==>" if edge.state else "-->"
        text = f'|"{_mermaid(edge.text)}"|' if edge.text else ""
        lines.append(f"  n{edge.source} {arrow}{text} n{edge.target}")
    return "\n".join(lines) + "\n"


def _dot(text: str) -> str:
    # Graphviz reads the escapes of C and the entities of HTML in labels.
    return shown(text).translate(_DOT)


_DOT = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;"})

# Mermaid reads Markdown in labels; `#42;` is a character by number. Characters that have no
# meaning within a word are not escaped there, so that the text stays legible.
_SPECIAL = re.compile(
    r"(?<![A-Za-z0-9])[-_.,:]|[-_.,:](?![A-Za-z0-9])|^ | $|  |[!-&(-+/;-@\\^`{-~]"
)


def _mermaid(text: str) -> str:
    return _SPECIAL.sub(
        lambda found: "".join(f"#{ord(char)};" for char in found.group()), shown(text)
    )
