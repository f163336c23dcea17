"""What failures and limits cost: a timeout, a failed node among many, a graph that grows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from pairs import Pair, time_pair
from table import Row, amount, at_most

NODES = 10_000
CALLS = 2_000
PARTS = 300


@workflow
def number(value: int) -> int:
    return value


@workflow
def fail(value: int) -> int:
    raise LookupError(value)


@workflow
def increment(value: int) -> int:
    return value + 1


def measure() -> Iterator[Row]:
    yield timeout()
    yield from one_failed()
    yield from one_resource()
    yield grown()


def timeout() -> Row:
    def run(seconds: float | None) -> None:
        flow = LocalWorkflow(*map(number, range(CALLS)), workflow_name="w")
        flow.query().set_timeout(seconds)
        flow.run()

    pair = _paired(partial(run, 60.0), partial(run, None))
    return amount("a timeout, per call (CPU)", pair.difference / CALLS * 1e6, 9, unit="µs")


def one_failed() -> Iterator[Row]:
    """Yield a run that goes on after a failure, against one in which nothing fails."""

    def run(failing: int, executor: ThreadPoolExecutor | None) -> None:
        nodes = [fail(0) if index < failing else number(index) for index in range(NODES)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        with suppress(LookupError):
            flow.run(executor, keep_going=True)
        assert NODES - failing == len(flow.report.names("computed"))  # type: ignore[union-attr]

    with ThreadPoolExecutor(2) as threads:
        for name, executor in (("in process", None), ("threads", threads)):
            pair = _paired(partial(run, 1, executor), partial(run, 0, executor))
            yield at_most(f"{NODES:,} nodes, one fails / none fails, {name} (CPU)", 1.05, pair)


def one_resource() -> Iterator[Row]:
    """Yield nodes that wait for one resource, against as many that need none."""

    def run(limited: bool, count: int) -> None:
        flow = LocalWorkflow(*map(number, range(count)), workflow_name="w")
        if limited:
            flow.query().set_resources(gpu=1)
        with ThreadPoolExecutor(2) as threads:
            flow.run(threads, resources={"gpu": 1})

    for count in (NODES // 10, NODES):
        pair = _paired(partial(run, True, count), partial(run, False, count))
        yield at_most(f"{count:,} nodes, one at a time by a resource / any (CPU)", 2, pair)


def grown() -> Row:
    def in_parts() -> None:
        flow = LocalWorkflow(workflow_name="w")
        node = increment(0)
        for _ in range(PARTS):
            node = increment(node)
            flow.value(node)
        flow.run()

    def at_once() -> None:
        node = increment(0)
        for _ in range(PARTS):
            node = increment(node)
        LocalWorkflow(node, workflow_name="w").run()

    pair = _paired(in_parts, at_once)
    what = f"a value after each of {PARTS} nodes of a chain, without a storage, per value (CPU)"
    return amount(what, pair.difference / PARTS * 1e3, 2, unit="ms")


def _paired(ours: Callable[[], object], peer: Callable[[], object]) -> Pair:
    return time_pair(ours, peer, rounds=7, prepare=gc.collect, clock=time.process_time)
