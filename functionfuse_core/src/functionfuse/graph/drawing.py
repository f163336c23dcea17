"""A graph for people: the picture of its nodes, and a summary for notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..show.notebook import ROWS, block, listed, more, table
from ..show.picture import Box, Edge, Kind, Picture
from ..show.svg import to_svg
from .arguments import Nested
from .nodes import ConstructorCall, MethodCall, Node, Pick
from .texts import key_text

__all__ = ["html_of", "picture_of"]


def html_of(
    title: str, nodes: Sequence[Node], names: Sequence[str], *, notes: Sequence[str], drawn: int
) -> str:
    """Return a graph as HTML for a notebook: a picture, or a table if it has more nodes than that.

    Args:
        nodes, names, notes: as in `Graph`.
        drawn: so many nodes are drawn.
    """
    if len(nodes) <= drawn:
        svg = to_svg(picture_of("", nodes, names), ink="currentColor", paper="none")
        body = f'<div style="overflow:auto;max-height:80vh">{svg}</div>' if nodes else ""
        return block(title, body, listed(notes))
    labels = Counter(node.label for node in nodes).most_common()
    rows = [(label, f"{count:,}") for label, count in labels[:ROWS]]
    body = table(("function", "nodes"), rows, right=(1,)) + more(len(labels) - ROWS, "function")
    return block(title, body, listed(notes))


def picture_of(title: str, nodes: Sequence[Node], names: Sequence[str]) -> Picture:
    """Return a picture of the nodes of a graph."""
    positions = {node: index for index, node in enumerate(nodes)}
    boxes, edges = [], []
    for target, (node, name) in enumerate(zip(nodes, names, strict=True)):
        label = node.label
        boxes.append(Box(name, "" if name.startswith(label) else label, _kind(node)))
        uses = _uses(node)
        before = node.before if isinstance(node, MethodCall) else None
        for parent in node.parents:
            state = parent is before
            text = _used(uses.get(parent, []), state)
            edges.append(Edge(positions[parent], target, text, state))
    return Picture(title, boxes, edges)


def _kind(node: Node) -> Kind:
    if isinstance(node, ConstructorCall):
        return "constructor"
    return "method" if isinstance(node, MethodCall) else "function"


def _uses(node: Node) -> dict[Node, list[str]]:
    """Return the items of each parent's result that `node` uses; "" for the whole result."""
    uses: dict[Node, dict[str, None]] = {}
    seen: set[int] = set()  # walk a container once, even if it occurs several times
    todo = [*reversed(node.kwargs.values()), *reversed(node.args)]
    while todo:
        value = todo.pop()
        if isinstance(value, Node):
            uses.setdefault(value, {})[""] = None
        elif isinstance(value, Pick):
            text = "".join(f"[{key_text(key)}]" for key in value.path)
            uses.setdefault(value.node, {})[text] = None
        elif isinstance(value, Nested) and id(value) not in seen:
            seen.add(id(value))
            todo.extend(reversed(value.items))
    return {parent: list(texts) for parent, texts in uses.items()}


def _used(texts: list[str], state: bool) -> str:
    if texts == [""] and not state:
        return ""
    return ", ".join(text or "result" for text in texts)
