"""A picture of a graph as SVG."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from html import escape

from .layout import place
from .picture import COLORS, GREY, INK, LINE, STATE, Box, Picture, shown
from .texts import printable

__all__ = ["to_svg"]

_SIZE, _SMALL = 13, 11
_MARGIN, _HEADING, _GAP, _TIP = 16.0, 40.0, 36.0, 7.0
_NARROW = frozenset("iljtfrI.,:;'|!()[] ")
_BROAD = frozenset("ABCDEFGHKMNOPQRUVWXYmw%@&<>+=~")


def to_svg(picture: Picture, *, ink: str = INK, paper: str = "#ffffff") -> str:
    """Return an SVG document that can be pasted into HTML. Tooltips show whole names.

    Args:
        ink, paper: colours of the title and of the background: "currentColor" and "none" for those
            of the page.
    """
    return "\n".join(_svg(picture, ink, paper)) + "\n"


def _svg(picture: Picture, ink: str, paper: str) -> Iterator[str]:
    sizes = [_box_size(box) for box in picture.boxes]
    gaps = [0.0 if layer == 0 else _GAP for layer in range(1 + max(picture.layer, default=0))]
    if picture.rightward:
        for edge in picture.edges:
            if edge.text:
                room = 1.7 * _width(shown(edge.text, limit=32), _SMALL) + _GAP
                gaps[picture.layer[edge.target]] = max(gaps[picture.layer[edge.target]], room)
    turn = 1 if picture.rightward else -1
    placement = place(
        [size[::turn][0] for size in sizes],
        [size[::turn][1] for size in sizes],
        edges=[(edge.source, edge.target) for edge in picture.edges],
        layer=picture.layer,
        gaps=gaps,
    )
    title = shown(picture.title)
    wide, high = (placement.along, placement.across)[::turn]
    wide = max(wide, _width(title, _SIZE + 2)) + 2 * _MARGIN
    top = _HEADING if title else _MARGIN
    high += top + _MARGIN

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point[::turn]
        return x + _MARGIN, y + top

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{wide:.0f}"'
        f' height="{high:.0f}" viewBox="0 0 {wide:.0f} {high:.0f}"'
        f' font-family="Helvetica, Arial, sans-serif" font-size="{_SIZE}" text-anchor="middle">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="100%" height="100%" fill="{paper}"/>'
    yield (
        f'<text x="{_MARGIN:g}" y="24" text-anchor="start" font-size="{_SIZE + 2}"'
        f' font-weight="bold" fill="{ink}">{escape(title)}</text>'
    )
    labels = []
    parents = Counter(edge.target for edge in picture.edges)
    for state, color, width in ((False, LINE, 1.2), (True, STATE, 2)):
        yield f'<g fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round">'
        for edge, route in zip(picture.edges, placement.routes, strict=True):
            if edge.state == state:
                points = [at(point) for point in route]
                yield f'<path d="{_curve(points, turn)}"/>'
                if edge.text:
                    alone = parents[edge.target] == 1
                    x, y = _label_at(points[-2:], turn, alone=alone, lane=len(points) > 2)
                    text = shown(edge.text, limit=32)
                    room = _width(text, _SMALL)
                    labels.append(
                        f'<rect x="{x - room / 2:.1f}" y="{y - 7:.1f}" width="{room:.1f}"'
                        f' height="14" fill="#ffffff" fill-opacity="0.85"/>'
                        f'<text x="{x:.1f}" y="{y + 4:.1f}">{escape(text)}</text>'
                    )
        yield "</g>"
    for kind, (fill, stroke) in COLORS.items():
        yield f'<g class="{kind}" fill="{fill}" stroke="{stroke}" stroke-width="1.3">'
        for box, size, center in zip(picture.boxes, sizes, placement.centers, strict=True):
            if box.kind == kind:
                yield _svg_box(box, size, at(center))
        yield "</g>"
    yield f'<g font-size="{_SMALL}" fill="{GREY}">'
    yield from labels
    yield "</g>"
    yield "</svg>"


def _svg_box(box: Box, size: tuple[float, float], center: tuple[float, float]) -> str:
    (wide, high), (x, y) = size, center
    left, right, top, bottom = x - wide / 2, x + wide / 2, y - high / 2, y + high / 2
    if box.kind == "constructor":
        slant = 9
        shape = (
            f'<polygon points="{left:.1f},{y:.1f} {left + slant:.1f},{top:.1f}'
            f" {right - slant:.1f},{top:.1f} {right:.1f},{y:.1f}"
            f' {right - slant:.1f},{bottom:.1f} {left + slant:.1f},{bottom:.1f}"/>'
        )
    else:
        radius = 6 if box.kind == "function" else high / 2
        shape = (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}"'
            f' rx="{radius:g}"/>'
        )
    lines = [f'<text x="{x:.1f}" y="{y + 4.5 - (7 if box.detail else 0):.1f}" fill="{INK}"']
    lines.append(f' stroke="none">{_xml(box.name)}</text>')
    if box.detail:
        lines.append(f'<text x="{x:.1f}" y="{y + 12:.1f}" fill="{GREY}" stroke="none"')
        lines.append(f' font-size="{_SMALL}">{_xml(box.detail)}</text>')
    tooltip = escape(printable(box.name))
    return f"<g><title>{tooltip}</title>{shape}{''.join(lines)}</g>"


def _curve(points: list[tuple[float, float]], turn: int) -> str:
    """Return a path with an arrowhead through `points`, parallel to the flow in each of them."""
    x, y = points[0]
    parts = [f"M{x:.1f} {y:.1f}"]
    for number, (to_x, to_y) in enumerate(points[1:]):
        if number % 2:  # along a lane
            parts.append(f"L{to_x:.1f} {to_y:.1f}")
        elif turn == 1:
            middle = (x + to_x) / 2
            parts.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        else:
            middle = (y + to_y) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    # The arrowhead: from the tip back to one barb, over the tip to the other.
    back, side = _TIP, _TIP / 2
    if turn == 1:
        parts.append(f"m{-back:g} {-side:g}l{back:g} {side:g}l{-back:g} {side:g}")
    else:
        parts.append(f"m{-side:g} {-back:g}l{side:g} {back:g}l{side:g} {-back:g}")
    return "".join(parts)


def _label_at(
    points: list[tuple[float, float]], turn: int, *, alone: bool, lane: bool
) -> tuple[float, float]:
    """Return the least crowded point of the last curve: away from where other curves meet it."""
    x, y = points[0]
    to_x, to_y = points[1]
    along, across = (0.7, 0.84) if alone else (0.3, 0.16) if lane else (0.5, 0.5)
    if turn == -1:
        along, across = across, along
    return x + along * (to_x - x), y + across * (to_y - y)


def _box_size(box: Box) -> tuple[float, float]:
    wide = max(_width(shown(box.name), _SIZE), _width(shown(box.detail), _SMALL))
    return wide + (24 if box.kind == "function" else 36), 44 if box.detail else 32


def _width(text: str, size: float) -> float:
    """Return the approximate width of `text`, since no font is loaded to measure it."""
    ems = 0.0
    for char in text:
        if char in _NARROW:
            ems += 0.32
        elif char.isascii():
            ems += 0.74 if char in _BROAD else 0.57
        elif unicodedata.east_asian_width(char) in "WF":
            ems += 1.05
        elif not unicodedata.combining(char):
            ems += 0.7
    return ems * size


def _xml(text: str) -> str:
    return escape(shown(text))
