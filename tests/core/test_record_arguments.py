"""The arguments of nodes in the record of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.storage.filestorage import FileStorage
from run_records import last, made


@workflow
def load(count: int, name: str = "x") -> list[int]:
    return list(range(count))


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@workflow
def given(*values: Any, **named: Any) -> int:
    return len(values) + len(named)


PLAIN = [1, -(10**100), 1.5, True, None, "text", "", "a" * 200, "\ud800 \u20ac \U0001f600"]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_a_plain_argument(storage: FileStorage, value: Any) -> None:
    """It is recorded as it is."""
    made(storage, given(a=value).set_name("g")).run()
    found = last(storage)["g"].arguments["a"]
    assert value == found
    assert type(value) is type(found)


DIGEST = {"digest": "0123456789abcdef"}
OTHERS = [
    (10**1000, {"type": "int", **DIGEST}),
    ("a" * 201, {"type": "str", **DIGEST}),
    (b"bytes", {"type": "bytes", **DIGEST}),
    ([1, 2], {"type": "list", **DIGEST}),
    (np.arange(3), {"type": "numpy.ndarray", **DIGEST}),
    (Fraction(1, 3), {"type": "fractions.Fraction", **DIGEST}),
    (Fraction(1, 2), {"type": "fractions.Fraction", "value": 0.5}),
    (1j, {"type": "complex", **DIGEST}),
    (np.float64(0.5), {"type": "numpy.float64", "value": 0.5}),
    (np.int32(7), {"type": "numpy.int32", "value": 7}),
    (np.str_("text"), {"type": "numpy.str_", "value": "text"}),
    (float("inf"), {"type": "float", "float": "inf"}),
    (float("nan"), {"type": "float", "float": "nan"}),
    (np.float32("-inf"), {"type": "numpy.float32", "float": "-inf"}),
]


@pytest.mark.parametrize(("value", "expected"), OTHERS, ids=lambda value: repr(value)[:30])
def test_another_argument(storage: FileStorage, value: Any, expected: dict[str, Any]) -> None:
    """It is recorded by its type, and by its digest unless it is a number or a text."""
    made(storage, given(a=value).set_name("g")).run()
    found = last(storage)["g"].arguments["a"]
    if "digest" in found:
        assert re.fullmatch("[0-9a-f]{16}", found["digest"])
        [_, digest] = storage.task_info("w", "g").fingerprint["arguments"]["a"]
        assert digest == found["digest"]
        found["digest"] = expected.get("digest")
    assert expected == found


def test_defaults(storage: FileStorage) -> None:
    """An argument that is left out is recorded with its default, and named if that changes."""

    @workflow
    def scaled(
        x: int, factor: float = 2.0, sizes: tuple[int, ...] = (1, 2), *, bias: int = 0
    ) -> float:
        return x * factor + bias

    @workflow
    def scaled_later(
        x: int, factor: float = 3.0, sizes: tuple[int, ...] = (1, 2), *, bias: int = 0
    ) -> float:
        return x * factor + bias

    made(storage, scaled(1, bias=5).set_name("s")).run()
    made(storage, scaled_later(1, bias=5).set_name("s")).run()
    first, second = storage.runs("w")
    sizes = {"type": "tuple", "digest": ""}
    assert {"x": 1, "factor": 2.0, "sizes": sizes, "bias": 5} == first["s"].arguments
    changed = {(change.what, change.name) for change in first.compare(second)}
    assert {("argument", "factor"), ("code", ""), ("result", "")} == changed


def test_arguments_with_nodes(storage: FileStorage) -> None:
    """A node is recorded by its name, an item with its keys, and a container by its digest."""
    data = load(3).set_name("load")
    made(storage, given(data, data[0], [data], k=data).set_name("g")).run()
    arguments = last(storage)["g"].arguments
    assert {"node": "load"} == arguments["*0"] == arguments["k"]
    assert {"node": "load", "item": "[0]"} == arguments["*1"]
    assert "list" == arguments["*2"]["type"]
    assert ["load"] == list(last(storage)["g"].parents)


def test_a_keyword_with_the_name_of_a_position(storage: FileStorage) -> None:
    """Both are recorded."""
    made(storage, given(1, **{"*0": 2, "**0": 3}).set_name("g")).run()
    assert [1, 2, 3] == list(last(storage)["g"].arguments.values())


def test_other_nodes_in_a_container(storage: FileStorage) -> None:
    """They are another argument: in another order, another node of an equal value, another item."""
    containers: list[Callable[[Any, Any, Any], object]] = [
        lambda one, two, _: [one, two],
        lambda one, two, _: [two, one],
        lambda _, two, same: [same, two],
        lambda one, two, _: [one, two[0]],
        lambda one, two, _: [one, two[1]],
        lambda one, two, _: {one[0], two[1]},
        lambda one, two, _: {two[1], one[0]},
    ]
    for container in containers:
        nodes = [load(count).set_name(f"n{n}") for n, count in enumerate((3, 4, 3))]
        made(storage, given(container(*nodes)).set_name("g"), *nodes).run()
    runs = storage.runs("w")
    digests = [run["g"].arguments["*0"]["digest"] for run in runs]
    assert digests[-1] == digests.pop()
    assert 6 == len(set(digests))
    assert "*0" in {change.name for change in runs[0].compare(runs[2])}


def test_code_without_a_digest(storage: FileStorage) -> None:
    """The arguments are recorded all the same."""
    stream = (number for number in range(9))

    @workflow
    def next_of(number: int, other: Any) -> int:
        return number + next(stream) * 0

    for _ in range(2):
        made(storage, next_of(3, other=stream).set_name("g")).run()
    node = last(storage)["g"]
    assert ("computed", "", "") == (node.action, node.call, node.code)
    assert {"number": 3, "other": {"type": "generator", "digest": ""}} == node.arguments
    assert 3 == last(storage).read("g")
