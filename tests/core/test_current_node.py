"""`current_node` and `NodeFilter`: which node's function runs here."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import pytest
from any_order import AnyOrder

from functionfuse import NodeFilter, current_node, workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.storage.filestorage import FileStorage


@pytest.fixture(scope="module")
def backends(executors: Callable[[str], Executor]) -> Callable[[str], Any]:
    """Make a backend or an executor of a kind."""
    others = {"in process": lambda: None, "any order": lambda: AnyOrder(Random(1))}
    return lambda kind: others[kind]() if kind in others else executors(kind)


each_kind = pytest.mark.parametrize(
    "kind", ["in process", "threads", "processes", "loky", "any order"]
)


def run(*nodes: Any, backend: Any = None, **options: Any) -> Any:
    return LocalWorkflow(*nodes, workflow_name="w").run(backend, **options)


@workflow
def named(*after: Any) -> str:
    return current_node()


@workflow
class Object:
    """Notes what made it."""

    def __init__(self) -> None:
        self.made_by = current_node()

    def names(self) -> tuple[str, str]:
        return self.made_by, current_node()


@each_kind
def test_a_function_knows_its_node(kind: str, backends: Any) -> None:
    """Also constructors and methods, by the names of the workflow."""
    made = Object().set_name("made")
    first = named().set_name("first")
    nodes = first, named(first), made.names().set_name("asked")
    assert ["first", "named_0000", ("made", "asked")] == run(*nodes, backend=backends(kind))
    assert "" == current_node()


@each_kind
def test_runs_inside_a_node(kind: str, backends: Any) -> None:
    """The inner node's name, and then the outer one's again."""

    @workflow
    def outer() -> tuple[str, str, str]:
        inner = LocalWorkflow(named().set_name("inner"), workflow_name="inside")
        return current_node(), inner.run(), current_node()

    assert ("outer", "inner", "outer") == run(outer().set_name("outer"), backend=backends(kind))


@pytest.mark.parametrize("timeout", [None, 60])
def test_after_a_failure_there_is_no_node(timeout: float | None) -> None:
    """Nor after Ctrl-C, an attempt that is tried again, or a timeout."""
    seen = []

    def stop(error: BaseException) -> None:
        raise error

    for error in (LookupError("no"), KeyboardInterrupt(), SystemExit()):
        flow = LocalWorkflow(workflow(stop)(error), workflow_name="w")
        flow.query().set_retries(1, delay=0.001).set_timeout(timeout)
        flow.listeners.append(lambda event: seen.append(current_node()))
        with pytest.raises(type(error)):
            flow.run()
        assert "" == current_node()
    flow = LocalWorkflow(workflow(lambda: sleep(60))(), workflow_name="w")
    flow.query().set_timeout(0.01)
    with pytest.raises(TimeoutError):
        flow.run()
    assert ("", {""}) == (current_node(), set(seen))


@each_kind
def test_an_initializer_runs_before_its_node(kind: str, backends: Any) -> None:
    """There is no node yet."""

    def note() -> None:
        threading.current_thread().before = current_node()  # type: ignore[attr-defined]

    @workflow
    def ask() -> tuple[str, str]:
        return threading.current_thread().before, current_node()  # type: ignore[attr-defined]

    flow = LocalWorkflow(ask().set_name("asked"), workflow_name="w")
    flow.set_plugin("asked", InitializerPlugin(note))
    assert ("", "asked") == flow.run(backends(kind))


def test_coroutines_and_threads_of_a_function() -> None:
    """Tasks have the node, because the function runs them. Threads do not."""

    async def ask() -> str:
        await asyncio.sleep(0)
        return current_node()

    async def gather() -> list[str]:
        return [*await asyncio.gather(ask(), ask()), await asyncio.to_thread(current_node)]

    @workflow
    def start() -> list[str]:
        found = asyncio.run(gather())
        copied = contextvars.copy_context()
        for target in (current_node, lambda: copied.run(current_node)):
            thread = threading.Thread(target=lambda target=target: found.append(target()))
            thread.start()
            thread.join()
        return found

    assert ["n", "n", "", "", ""] == run(start().set_name("n"))


def test_a_save_has_no_node(tmp_path: Path) -> None:
    """The function has returned."""

    class Asks:
        def __reduce__(self) -> Any:
            return str, (current_node(),)

    @workflow(version="1")
    def asks() -> Any:
        return [current_node(), Asks()]

    flow = LocalWorkflow(asks().set_name("n"), workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.run()
    assert ["n", ""] == flow.storage.read_task("w", "n")


@workflow
def log(text: str) -> None:
    logging.getLogger("their.module").warning(text)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a handler with the filter writes, from the loggers of the whole process."""

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    found: list[str] = []
    handler = Keeps()
    handler.addFilter(NodeFilter())
    handler.setFormatter(logging.Formatter("[%(node)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)


def test_log_lines_have_the_node(lines: list[str]) -> None:
    """Of any logger; a line from outside has the empty name."""
    logging.getLogger("their.module").warning("before")
    with ThreadPoolExecutor(2) as threads:
        run(log("hello").set_name("one"), log("you").set_name("two"), backend=threads)
    logging.getLogger().warning("after")
    assert ["[] before", "[one] hello", "[two] you", "[] after"] == sorted(
        lines, key=lambda line: ("before", "hello", "you", "after").index(line.split()[-1])
    )


def test_a_record_that_comes_by_a_queue_keeps_its_node(lines: list[str]) -> None:
    """It is handled in a thread that has no node."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    logger = logging.getLogger("queued")
    sender = QueueHandler(records)
    sender.addFilter(NodeFilter())
    logger.addHandler(sender)
    logger.propagate = False

    @workflow
    def send() -> None:
        logging.getLogger("queued").warning("hello")

    listener = QueueListener(records, *logging.getLogger().handlers)
    listener.start()
    try:
        run(send().set_name("one"))
    finally:
        listener.stop()
        logger.removeHandler(sender)
        logger.propagate = True
    assert ["[one] hello"] == lines
