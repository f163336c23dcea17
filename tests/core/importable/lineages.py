"""Results with records of their parents, from runs or planted, for the tests of lineages."""

from __future__ import annotations

import hashlib
from typing import Any

from remote_store import RemoteStore
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.lineage import Lineage, LineageNode


class CountingStore(MemoryStore):
    """A store in memory that notes of which blobs the beginnings were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def head(self, key: str, size: int) -> Buffer:
        self.read.append(key)
        return super().head(key, size)


class Timeless(RemoteStore):
    """A store over a network on which no result becomes too old."""

    def now(self) -> float:
        return 0.0


def run(storage: Storage, *nodes: Any) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    flow.run()
    return flow


def names(lineage: Lineage) -> list[str]:
    return [node.task for node in lineage]


def node_of(lineage: Lineage, task: str) -> LineageNode:
    [found] = [node for node in lineage if node.task == task]
    return found


def plant(storage: Storage, task: str, *parents: Any, call: Any = "", **more: Any) -> None:
    """Save a result with a record of its parents, as a call of its own."""
    call = call or hashlib.md5(task.encode("utf-8", "surrogatepass")).hexdigest()
    storage.save("w", task, 1, fingerprint={"call": call, "parents": list(parents), **more})


def parent(task: str, call: str = "") -> list[str]:
    """Return the record of a planted result, whose call is known by its name."""
    return [task, "", call or hashlib.md5(task.encode("utf-8", "surrogatepass")).hexdigest(), ""]


@workflow
def add(first: Any, second: Any = 0, extra: Any = 0) -> str:
    """Return a short value that is another one for all other arguments."""
    return hashlib.md5(repr((first, second, extra)).encode()).hexdigest()


def stored_in(lineage: Lineage) -> list[tuple[str, bool]]:
    return [(node.task, node.stored) for node in lineage]
