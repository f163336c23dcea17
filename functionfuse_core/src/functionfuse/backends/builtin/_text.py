"""A picture of a graph in the languages of Graphviz and Mermaid."""

from __future__ import annotations

import json
import re

from ._picture import COLORS, GREY, INK, LINE, STATE, Kind, Picture, shown

__all__ = ["to_dot", "to_mermaid"]


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
        boxes = [place for place, box in enumerate(picture.boxes) if box.kind == kind]
        if not boxes:
            continue
        fill, stroke = COLORS[kind]
        lines.append("  {")
        lines.append(f'    node [{shape} fillcolor="{fill}" color="{stroke}"]')
        for place in boxes:
            box = picture.boxes[place]
            label = "\\n".join(_dot(line) for line in (box.name, box.detail) if line)
            lines.append(f'    n{place} [label="{label}"]')
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
    for place, box in enumerate(picture.boxes):
        label = "<br/>".join(_mermaid(line) for line in (box.name, box.detail) if line)
        begin, end = shapes[box.kind]
        lines.append(f'  n{place}{begin}"{label}"{end}:::{box.kind}')
    for edge in picture.edges:
        arrow = "==>" if edge.state else "-->"
        text = f'|"{_mermaid(edge.text)}"|' if edge.text else ""
        lines.append(f"  n{edge.source} {arrow}{text} n{edge.target}")
    return "\n".join(lines) + "\n"


def _dot(text: str) -> str:
    # Graphviz reads the escapes of C and the entities of HTML in labels.
    return shown(text).translate(_DOT)


_DOT = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;"})

# Mermaid reads Markdown in labels; `#42;` is a character by number. What means nothing within a
# word stays legible.
_SPECIAL = re.compile(
    r"(?<![A-Za-z0-9])[-_.,:]|[-_.,:](?![A-Za-z0-9])|^ | $|  |[!-&(-+/;-@\\^`{-~]"
)


def _mermaid(text: str) -> str:
    return _SPECIAL.sub(
        lambda found: "".join(f"#{ord(char)};" for char in found.group()), shown(text)
    )
