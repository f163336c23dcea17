"""The drawings of a graph for the report page: a box for each node, or for a group of nodes.

Groups can depend on each other in circles. Their boxes have the order of their first nodes, and an
edge against this order is laid out backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layout import layers, place

__all__ = ["views"]

_MOST = 300  # boxes of one drawing
_GAP = 50.0  # between layers
_LETTER = 6.6  # width of a letter, about


def views(
    names: Sequence[str], functions: Sequence[str], parents: Sequence[Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Return the drawings by the name of their boxes: all that have at most 300 boxes, best first.

    A drawing has "box", the size of a box; "xy", the centres; "edges", as source, target and number
    of connections; "routes", the points of each edge in one list; "size"; and for groups "names"
    and "members", the numbers of their nodes.

    Args:
        parents: the numbers of each node's parents.
    """
    count = len(names)
    if not count:
        return {}
    found: dict[str, dict[str, Any]] = {}
    if count <= _MOST:
        found["node"] = _nodes(names, parents)
    short = [name.rpartition(".")[2] for name in functions]
    plain = len(set(short)) == len(set(functions))
    groups: list[tuple[str, Sequence[str]]] = [
        ("function", short if plain else functions),
        ("part of the name", [name.rpartition("/")[0] or name for name in names]),
        ("beginning of the name", [name.partition("/")[0] for name in names]),
    ]
    for title, keys in groups:
        # A drawing of as many boxes as nodes, or of one box, tells nothing.
        if 1 < len(set(keys)) <= min(_MOST, count - 1):
            found[title] = _groups(keys, parents)
    if not found:
        found["step"] = _groups(_steps(count, parents), parents)
    return found


def _nodes(names: Sequence[str], parents: Sequence[Sequence[int]]) -> dict[str, Any]:
    count = len(names)
    pairs = {(parent, n): 1 for n in range(count) for parent in parents[n] if parent != n}
    return _drawn(pairs, [len(name) + 11 for name in names], 24.0)


def _groups(keys: Sequence[str], parents: Sequence[Sequence[int]]) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    group = [numbers.setdefault(key, len(numbers)) for key in keys]
    members: list[list[int]] = [[] for _ in numbers]
    pairs: dict[tuple[int, int], int] = {}
    for node, number in enumerate(group):
        members[number].append(node)
        for parent in parents[node]:
            pair = group[parent], number
            if pair[0] != number:
                pairs[pair] = pairs.get(pair, 0) + 1
    drawn = _drawn(pairs, [len(key) + 10 for key in numbers], 42.0)
    return {**drawn, "names": list(numbers), "members": members}


def _steps(count: int, parents: Sequence[Sequence[int]]) -> list[str]:
    """Return for each node the number of its layer, or of some layers if there are many."""
    edges = [(parent, n) for n in range(count) for parent in parents[n] if parent < n]
    layer = layers(count, edges)
    share = 1 + max(layer) // _MOST
    if share == 1:
        return [f"step {number + 1}" for number in layer]
    first = [number - number % share + 1 for number in layer]
    return [f"steps {number} to {number + share - 1}" for number in first]


def _drawn(
    pairs: dict[tuple[int, int], int], letters: Sequence[int], high: float
) -> dict[str, Any]:
    """Return a drawing of boxes of one size, for the longest of their texts, up to a limit."""
    count, wide = len(letters), min(250.0, max(130.0, _LETTER * max(letters)))
    forward = list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))
    layer = layers(count, forward)
    gaps = [0.0, *[_GAP] * max(layer, default=0)]
    sizes = [wide] * count, [high] * count
    placed = place(*sizes, edges=forward, layer=layer, gaps=gaps, beside=8.0, lane=2.0)
    routes = dict(zip(forward, placed.routes, strict=True))
    edges, lines = [], []
    for (source, target), number in pairs.items():
        route = routes[min(source, target), max(source, target)]
        edges.append((source, target, number))
        lines.append([round(part) for point in route for part in point])
    return {
        "box": [round(wide), high],
        "size": [round(placed.along), round(placed.across)],
        "xy": [[round(x), round(y)] for x, y in placed.centers],
        "edges": edges,
        "routes": lines,
    }
