"""The layout of a layered drawing: coordinates of boxes and edges.

`layers` gives each box a layer, by its longest path from a box without parents. An edge that
crosses layers gets a lane in each, so that boxes make room for it. `place` then orders boxes and
lanes within their layers, and moves each near its neighbours. Directions are relative to the flow:
"along" it, from layer to layer, and "across" it, within a layer. Time is linear in boxes and edges,
except for sorting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Placement", "layers", "place"]

Point = tuple[float, float]

_BESIDE = 18.0  # between two boxes of one layer
_LANE = 10.0  # room of an edge that passes a layer


@dataclass(frozen=True)
class Placement:
    """A layout, in pixels from the corner where the flow begins.

    Attributes:
        centers: each box's centre, (along, across).
        routes: the points of each edge, (along, across): from the border of its source to the
            border of its target, with two points for each layer that it crosses.
        along, across: the extent of the whole.
    """

    centers: list[Point]
    routes: list[list[Point]]
    along: float
    across: float


def layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return each box's layer: the length of its longest path from a box without parents.

    Boxes with more children than parents are moved on, up to their first child. The source of every
    edge must have a lower number than its target, as in creation order.
    """
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    layer = [0] * count
    for box in range(count):
        layer[box] = 1 + max((layer[parent] for parent in before[box]), default=-1)
    for box in reversed(range(count)):
        if len(after[box]) > len(before[box]):
            layer[box] = min(layer[child] for child in after[box]) - 1
    return layer


def place(
    thickness: Sequence[float],
    breadth: Sequence[float],
    *,
    edges: Sequence[tuple[int, int]],
    layer: Sequence[int],
    gaps: Sequence[float],
    beside: float = _BESIDE,
    lane: float = _LANE,
) -> Placement:
    """Return the layout of boxes and edges, given the sizes of the boxes along and across the flow.

    Args:
        gaps: the room in front of each layer.
        beside: the room between two boxes of one layer.
        lane: the room of an edge that passes a layer, without the room beside it.
    """
    slots = _Slots(breadth, edges, layer, len(gaps), room=(beside, lane))
    across = slots.coordinates()
    depth = [0.0] * len(gaps)
    for box, number in enumerate(layer):
        depth[number] = max(depth[number], thickness[box])
    begins, along = [], 0.0
    for number, gap in enumerate(gaps):
        along += gap if number else 0.0
        begins.append(along)
        along += depth[number]

    centers = [
        (begins[number] + depth[number] / 2, across[box]) for box, number in enumerate(layer)
    ]
    routes = []
    for (source, target), lanes in zip(edges, slots.lanes, strict=True):
        route = [(centers[source][0] + thickness[source] / 2, across[source])]
        for slot in lanes:
            begin = begins[slots.layer[slot]]
            route.append((begin, across[slot]))
            route.append((begin + depth[slots.layer[slot]], across[slot]))
        route.append((centers[target][0] - thickness[target] / 2, across[target]))
        routes.append(route)
    ends = [across[slot] + slots.breadth[slot] / 2 for slot in range(len(across))]
    return Placement(centers, routes, along, max(ends, default=0.0))


class _Slots:
    """The slots of the layers, side by side: boxes, and lanes of edges that cross a layer."""

    def __init__(
        self,
        breadth: Sequence[float],
        edges: Sequence[tuple[int, int]],
        layer: Sequence[int],
        depth: int,
        *,
        room: tuple[float, float],
    ) -> None:
        beside, self._lane = room
        self.breadth = [box + beside for box in breadth]
        self.layer = list(layer)
        self.lanes: list[list[int]] = [[] for _ in edges]
        self.before: list[list[int]] = [[] for _ in breadth]
        self.after: list[list[int]] = [[] for _ in breadth]

        # Lanes for all edges could be quadratic: the shortest get lanes, the others go straight.
        budget = 5_000 + len(breadth) + len(edges)
        spans = [layer[target] - layer[source] - 1 for source, target in edges]
        for edge in sorted(range(len(edges)), key=spans.__getitem__):
            source, target = edges[edge]
            if spans[edge] <= budget:
                budget -= spans[edge]
                for number in range(layer[source] + 1, layer[target]):
                    source = self._add_lane(source, number)
                    self.lanes[edge].append(source)
            self.before[target].append(source)
            self.after[source].append(target)

        self.rows: list[list[int]] = [[] for _ in range(depth)]
        for slot, number in enumerate(self.layer):
            self.rows[number].append(slot)

    def _add_lane(self, source: int, number: int) -> int:
        lane = len(self.layer)
        self.layer.append(number)
        self.breadth.append(self._lane)
        self.before.append([source])
        self.after.append([])
        self.after[source].append(lane)
        return lane

    def coordinates(self) -> list[float]:
        """Return the centre of each slot, across the flow.

        Sweeps over the layers pull every slot to the mean of its neighbours (the barycenter
        heuristic of Sugiyama, Tagawa and Toda, 1981). The first sweeps use the neighbours on one
        side, and reorder the slots. The later ones use all neighbours, and leave the order.
        """
        small = len(self.layer) <= 20_000
        at = [0.0] * len(self.layer)
        for row in self.rows:
            self._settle(row, [0.0] * len(row), at)
        for _ in range(4 if small else 1):
            for rows, near, far in (
                (self.rows, self.before, self.after),
                (self.rows[::-1], self.after, self.before),
            ):
                for row in rows:
                    pulled = {slot: _mean(at, near[slot] or far[slot] or [slot]) for slot in row}
                    row.sort(key=pulled.__getitem__)
                    self._settle(row, [pulled[slot] for slot in row], at)
        for _ in range(6 if small else 2):
            for rows in (self.rows, self.rows[::-1]):
                for row in rows:
                    wanted = [_mean(at, self._neighbours(slot)) for slot in row]
                    self._settle(row, wanted, at)
        low = min((at[slot] - self.breadth[slot] / 2 for slot in range(len(at))), default=0.0)
        return [center - low for center in at]

    def _neighbours(self, slot: int) -> list[int]:
        return self.before[slot] + self.after[slot] or [slot]

    def _settle(self, row: list[int], wanted: list[float], at: list[float]) -> None:
        for slot, center in zip(row, self._spread(row, wanted), strict=True):
            at[slot] = center

    def _spread(self, row: list[int], wanted: list[float]) -> Iterator[float]:
        """Iterate the centres that are nearest to `wanted`, in order and without overlap.

        After the room of the slots is subtracted, this is isotonic regression by least squares:
        pool neighbours that are out of order, and give them their mean.
        """
        rooms: list[float] = []
        pools: list[tuple[float, int]] = []
        room = 0.0
        for number, slot in enumerate(row):
            if number:
                room += (self.breadth[row[number - 1]] + self.breadth[slot]) / 2
            rooms.append(room)
            total, count = wanted[number] - room, 1
            while pools and pools[-1][0] * count > total * pools[-1][1]:
                more, others = pools.pop()
                total, count = total + more, count + others
            pools.append((total, count))
        number = 0
        for total, count in pools:
            for _ in range(count):
                yield rooms[number] + total / count
                number += 1


def _mean(at: list[float], slots: list[int]) -> float:
    return sum([at[slot] for slot in slots]) / len(slots)
