"""What a node costs without a storage: building, walking and running graphs of tiny functions."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from pairs import time_pair
from table import Row, amount, at_most

ROUNDS = 5
SMALL, LARGE = 10_000, 100_000
CALLS = 20_000
MILLION = 1_000_000


@workflow
def one() -> int:
    return 1


@workflow
def increment(value: int) -> int:
    return value + 1


@workflow
def add(left: int, right: int) -> int:
    return left ^ right


@workflow
def total(*values: int) -> int:
    return sum(values)


@workflow
def numbers() -> list[int]:
    return [number * 2 for number in range(MILLION)]


def measure() -> Iterator[Row]:
    yield from calls()
    yield from shapes()
    pair = time_pair(big_result, numbers.func, rounds=ROUNDS, prepare=gc.collect)
    yield at_most(f"a run that gives {MILLION:,} numbers / its function", 1.75, pair)


def calls() -> Iterator[Row]:
    """Yield what it takes to make a node, with the check of the arguments."""
    node = one()
    cases: list[tuple[str, Callable[[int], object], Callable[[int], object]]] = [
        ("two plain arguments", lambda number: add(number, 1), lambda number: add.func(number, 1)),
        ("one node", lambda _: increment(node), increment.func),
    ]
    for name, make, call in cases:
        pair = time_pair(
            partial(repeat, make), partial(repeat, call), rounds=ROUNDS, prepare=gc.collect
        )
        yield amount(f"a call with {name}", pair.difference / CALLS * 1e6, 3, unit="µs")


def repeat(call: Callable[[int], object]) -> None:
    for number in range(CALLS):
        call(number)


def big_result() -> None:
    assert len(LocalWorkflow(numbers(), workflow_name="bench").run()) == MILLION


def shapes() -> Iterator[Row]:
    cases: list[tuple[str, Callable[[int], object], int, int]] = [
        ("chain", chain, SMALL, LARGE),
        ("fan-out", fan_out, SMALL, LARGE),
        ("fan-in", fan_in, SMALL, LARGE),
        ("grid", grid, 95 * 95, 300 * 300),
    ]
    for name, run, small, large in cases:
        pair = time_pair(
            partial(run, large), partial(run, small), rounds=ROUNDS, prepare=gc.collect
        )
        yield amount(f"{name}, {small:,} nodes, per node", pair.peer / small * 1e6, 20, unit="µs")
        yield amount(f"{name}, {large:,} nodes, per node", pair.ours / large * 1e6, 20, unit="µs")
        yield at_most(f"{name}, {large:,} nodes / {small:,}", 12, pair)


def chain(count: int) -> None:
    node = one()
    for _ in range(count - 1):
        node = increment(node)
    assert LocalWorkflow(node, workflow_name="bench").run() == count


def fan_out(count: int) -> None:
    root = one()
    for _ in range(count - 1):
        last = increment(root)
    assert LocalWorkflow(last, workflow_name="bench").run() == 2


def fan_in(count: int) -> None:
    nodes = [one() for _ in range(count - 1)]
    assert LocalWorkflow(total(*nodes), workflow_name="bench").run() == count - 1


def grid(count: int) -> None:
    side = round(count**0.5)
    row = [one() for _ in range(side)]
    for _ in range(side - 1):
        above, row = row, [one()]
        for node in above[1:]:
            row.append(add(row[-1], node))
    assert LocalWorkflow(row[-1], workflow_name="bench").run() in {0, 1}
