"""The drawings of a page: a box for each node or group, and no two on one place."""

from __future__ import annotations

import itertools

import pytest

from functionfuse.show.views import views

Graph = tuple[list[str], list[str], list[list[int]]]


def studies(count: int) -> Graph:
    """Return a graph of `count` data sets with load, fit and score each, and one summary."""
    names, functions, parents = [], [], []
    for n in range(count):
        first = len(names)
        names += [f"set {n}/load", f"set {n}/fit", f"set {n}/score"]
        functions += ["m.load", "m.fit", "m.score"]
        parents += [[], [first], [first, first + 1]]
    scores = [n for n, name in enumerate(names) if name.endswith("score")]
    return [*names, "summary"], [*functions, "m.summarise"], [*parents, scores]


def test_a_small_graph_has_a_box_for_each_node() -> None:
    """The other drawings have a box for each function, and for each part of the names."""
    found = views(*studies(3))
    assert ["node", "function", "part of the name", "beginning of the name"] == list(found)
    assert 10 == len(found["node"]["xy"])
    assert ["load", "fit", "score", "summarise"] == found["function"]["names"]
    assert [[0, 3, 6], [1, 4, 7], [2, 5, 8], [9]] == found["function"]["members"]
    assert [(0, 1, 3), (0, 2, 3), (1, 2, 3), (2, 3, 3)] == found["function"]["edges"]


@pytest.mark.parametrize(("count", "first"), [(99, "node"), (100, "function")])
def test_more_than_300_nodes_are_grouped(count: int, first: str) -> None:
    """298 nodes have boxes of their own; 301 have none."""
    assert first == next(iter(views(*studies(count))))


def test_a_graph_without_groups_is_drawn_in_steps() -> None:
    """As where each node has a function and a name of its own; long chains share boxes."""
    names = [f"n{n}" for n in range(1000)]
    found = views(names, names, [[n - 1] if n else [] for n in range(1000)])
    assert ["step"] == list(found)
    assert ("steps 1 to 4", [0, 1, 2, 3]) == (
        found["step"]["names"][0],
        found["step"]["members"][0],
    )
    wide = views(names, names, [[] if n < 500 else [n - 500] for n in range(1000)])
    assert ["step 1", "step 2"] == wide["step"]["names"]


def test_a_tangle_of_groups_is_not_drawn() -> None:
    """Nobody can follow thousands of edges; its functions are drawn."""
    names = [f"{n % 60}/{n}" for n in range(3600)]
    parents = [[n - 1 - 7 * (n // 60)] if n > 500 else [] for n in range(3600)]
    found = views(names, ["load" if n < 500 else "fit" for n in range(3600)], parents)
    assert ["function"] == list(found)


def test_groups_in_a_circle() -> None:
    """An edge against the order is drawn, with its ends as they are."""
    found = views(["a1", "b1", "a2"], ["a", "b", "a"], [[], [0], [1]])["function"]
    assert [(0, 1, 1), (1, 0, 1)] == found["edges"]
    assert found["routes"][0] == found["routes"][1]


@pytest.mark.parametrize("title", ["node", "function", "part of the name"])
def test_boxes_lie_apart_and_edges_go_from_box_to_box(title: str) -> None:
    """In each drawing, and within its size."""
    drawing = views(*studies(4))[title]
    (wide, high), (all_wide, all_high) = drawing["box"], drawing["size"]
    for (x, y), (a, b) in itertools.combinations(drawing["xy"], 2):
        assert abs(x - a) >= wide or abs(y - b) >= high
    for x, y in drawing["xy"]:
        assert wide / 2 - 1 <= x <= all_wide - wide / 2 + 1
        assert high / 2 - 1 <= y <= all_high - high / 2 + 1
    for (source, target, _), route in zip(drawing["edges"], drawing["routes"], strict=True):
        begin, end = drawing["xy"][source], drawing["xy"][target]
        assert abs(route[0] - begin[0] - wide / 2) <= 1 >= abs(route[1] - begin[1])
        assert abs(route[-2] - end[0] + wide / 2) <= 1 >= abs(route[-1] - end[1])


def test_nothing_to_draw() -> None:
    """A run without nodes has no drawing."""
    assert {} == views([], [], [])
