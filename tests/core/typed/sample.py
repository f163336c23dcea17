"""Code as users write it, for type checkers.

Checkers must refuse each line that ends in `# refused`, and mypy those in `# refused by mypy`. They
must accept all other lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict, assert_type

from functionfuse import workflow
from functionfuse.workflow import Node, Pick, WorkflowFunction


class Row(TypedDict):
    key: int


class Table:
    """Stands for a type of a library."""


@workflow
def load(path: str, rows: int = 10) -> Table:
    return Table()


@workflow
def mean(table: Table, *, weights: Sequence[Table] = ()) -> float:
    return 0.0


# A call takes the arguments of the function and returns a node.
node = load("x", rows=3)
assert_type(node.set_name("load"), Node)
assert_type(node["key"][0], Pick)
load(3)  # refused
load("x", 3, 4)  # refused
load(path="x", row=3)  # refused
mean(tabel=node)  # refused
mean()  # refused
node.set_name(3)  # refused


# A node, or an item of one, fits a parameter of any type.
@workflow
def every(
    a: str,
    b: bool,
    c: int | None,
    d: list[int],
    e: tuple[int, str],
    f: Literal["x"],
    g: Row,
    h: Callable[[int], str],
    i: Mapping[str, float],
) -> None: ...


item = node["key"]
every(node, node, node, node, node, node, node, node, node)
every(item, item, item, item, item, item, item, item, i={"a": node, "b": 2.0})
mean(load("x"), weights=[load("x"), Table()])
mean(load("x"), weights=[load("x"), 3])  # refused by mypy
nodes = [load("x").set_name(name) for name in "xyz"]
mean(load, weights=nodes)  # refused
mean(node, weights=nodes)


# The decorator with arguments does the same.
@workflow(version="2", ignore=["verbose"])
def score(table: Table, verbose: bool = False) -> float:
    return 0.0


score(node, verbose=True).set_name("score")
score(3)  # refused
workflow(version=2)  # refused


# The constructor of a class is checked. pyright takes its objects for nodes and its methods for
# Any. mypy ignores decorators of classes, but not a call of `workflow`.
@workflow
class Model:
    size = 3

    def __init__(self, depth: int) -> None: ...

    def fit(self, table: Table) -> float:
        return 0.0


Model("3")  # refused
Model(3).fit(node)
mean(node, weights=[load("x"), Model.size])  # refused by mypy
Model(3).set_name("model").fit(node)  # refused by mypy
Model(3).fit(node).set_name("fit")  # refused by mypy

Nodes = workflow(Model)
Nodes("3")  # refused
Nodes(3).set_name("model").fit(node).set_name("fit")


def twice(function: WorkflowFunction[...]) -> list[Node]:
    return [function("x"), function("y")]


twice(load)
twice(3)  # refused
