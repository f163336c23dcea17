"""Executors for the tests: one of each kind."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from loky import get_reusable_executor


class Toy(Executor):
    """Runs what it is given at once, and counts it."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future


def processes(workers: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@contextmanager
def executors_by_kind() -> Iterator[Callable[[str], Executor]]:
    """Give a function that returns one of each kind, by name, made when it is asked for."""
    made: dict[str, Executor] = {}
    makers: dict[str, Callable[[], Executor]] = {
        "toy": Toy,
        "threads": lambda: ThreadPoolExecutor(3),
        "processes": processes,
    }

    def get(kind: str) -> Executor:
        if kind == "loky":
            return get_reusable_executor(2)
        if kind not in made:
            made[kind] = makers[kind]()
        return made[kind]

    yield get
    for executor in made.values():
        executor.shutdown()
    get_reusable_executor(2).shutdown()
