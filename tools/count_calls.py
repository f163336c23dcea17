"""Count the Python calls of core: for each node of a run, for a run as a whole, for one result.

    .venv/bin/python tools/count_calls.py

A chain of 100 nodes and one of 200 are run, so the difference is what 100 nodes take, and the rest
is the fixed part of a run. Calls of the functions of nodes themselves are not counted.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import functionfuse
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage, storage_factory

CORE = str(Path(functionfuse.__file__).parent)


@workflow
def increment(value: int) -> int:
    """Add one."""
    return value + 1


def calls_of(action: Callable[[], object], below: str = CORE) -> Counter[str]:
    """Return how often each function in a folder is called while an action goes on."""
    found: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(below):
            found[f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"] += 1

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found


def chain(length: int, storage: Storage | None) -> LocalWorkflow:
    """Return a workflow of a chain of nodes."""
    node: Any = increment(0)
    for _ in range(length - 1):
        node = increment(node)
    flow = LocalWorkflow(node, workflow_name=f"chain of {length}")
    flow.set_storage(storage)
    return flow


def report(name: str, counted: Callable[[int], Counter[str]]) -> None:
    """Print calls for each node and for a run, and the functions that most of them are of."""
    one, two = counted(100), counted(200)
    slope = two - one
    fixed = 2 * one.total() - two.total()
    most = ", ".join(f"{name} {count / 100:g}" for name, count in slope.most_common(6))
    print(f"{name}: {slope.total() / 100:.1f} calls a node, {fixed} a run; most: {most}")


def main() -> None:
    """Count, and print."""
    with TemporaryDirectory() as folder:
        storage = storage_factory({"kind": "file", "options": {"path": folder}})
        chain(1, storage).run()  # what is looked up once a process
        for storage_or_none, times in (
            (None, ("without storage",)),
            (storage, ("first", "second")),
        ):
            for name in times:
                report(name, lambda length: calls_of(chain(length, storage_or_none).run))  # noqa: B023
        storage.save("w", "t", 1)
        inside = f"{CORE}/storage"
        for name, action in (
            ("save", lambda: storage.save("w", "t", 1)),
            ("read", lambda: storage.read_task("w", "t")),
        ):
            print(f"{name} of a small result: {calls_of(action, inside).total()} calls in storage")


if __name__ == "__main__":
    main()
