"""The records of runs: put one, and remove those that are too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .blobstore import BlobStore
from .keys import RUNS, folder_of
from .runrecord import encoded

__all__ = ["prune", "put"]


def put(
    store: BlobStore,
    workflow: str,
    head: Mapping[str, Any],
    nodes: Mapping[str, Sequence[Any]],
    key: bytes | None,
) -> None:
    """Store a record. Raises OSError."""
    store.put(f"{folder_of(workflow)}{RUNS}{head['id']}", [encoded(head, nodes, key)])


def prune(store: BlobStore, workflow: str) -> None:
    """Do nothing yet."""
    del store, workflow
