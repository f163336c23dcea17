"""The drawings of a graph for the report page: a box for each node, or for a group of nodes.

Groups can depend on each other in circles. Their boxes have the order of their first nodes, and an
edge against this order is laid out backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layout import layers, place

__all__ = ["views"]

_MOST, _MOST_EDGES = 300, 1_000  # of one drawing
_GAP = 50.0  # between layers
_LETTER = 6.6  # width of a letter, about


def views(
    names: Sequence[str], functions: Sequence[str], parents: Sequence[Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Return the drawings by the name of their boxes, best first: all that can be looked at.

    They have at most 300 boxes, and those of groups at most 1,000 edges.

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
            members, pairs = _groups(keys, parents)
            if len(pairs) <= _MOST_EDGES:
                found[title] = _grouped(members, pairs)
    if not found:
        found["step"] = _grouped(*_groups(_steps(count, parents), parents))
    return found


def _nodes(names: Sequence[str], parents: Sequence[Sequence[int]]) -> dict[str, Any]:
    count = len(names)
    pairs = {(parent, n): 1 for n in range(count) for parent in parents[n] if parent != n}
    return _drawn(pairs, [len(name) + 11 for name in names], 24.0)


def _groups(
    keys: Sequence[str], parents: Sequence[Sequence[int]]
) -> tuple[dict[str, list[int]], dict[tuple[int, int], int]]:
    """Return the nodes of each group, and the number of connections between two groups."""
    members: dict[str, list[int]] = {}
    for node, key in enumerate(keys):
        members.setdefault(key, []).append(node)
    numbers = {key: number for number, key in enumerate(members)}
    pairs: dict[tuple[int, int], int] = {}
    for node, key in enumerate(keys):
        for parent in parents[node]:
            pair = numbers[keys[parent]], numbers[key]
            if pair[0] != pair[1]:
                pairs[pair] = pairs.get(pair, 0) + 1
    return members, pairs


def _grouped(members: dict[str, list[int]], pairs: dict[tuple[int, int], int]) -> dict[str, Any]:
    drawn = _drawn(pairs, [len(key) + 10 for key in members], 42.0)
    return {**drawn, "names": list(members), "members": list(members.values())}


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
