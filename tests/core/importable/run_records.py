"""Records of runs of workflow "w": of real ones, and made without a run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage
from functionfuse.storage.runrecord import RecordedNode
from functionfuse.storage.runs import RunRecord, put


def made(storage: Any, *nodes: Any, name: str = "w") -> LocalWorkflow:
    """Return a workflow with a storage."""
    flow = LocalWorkflow(*nodes, workflow_name=name)
    flow.set_storage(storage)
    return flow


def last(storage: Storage, workflow_name: str = "w") -> RunRecord:
    """Return the record of the newest run."""
    return storage.runs(workflow_name)[-1]


def raw(storage: Storage) -> bytes:
    """Return the bytes of all records, unpacked."""
    found = []
    for blob in storage.store.list("w/.runs/"):
        body = bytes(storage.store.get(blob.key))[64:]
        found.append(zlib.decompress(body) if body[:1] == b"x" else body)
    return b"".join(found)


def id_of(number: int) -> str:
    """Return the id of a run; a larger number started later."""
    return f"20260102T030405.{number:06d}Z-{number:06x}"


def head(number: int, **fields: Any) -> dict[str, Any]:
    """Return the fields about a run."""
    return {
        "id": id_of(number),
        "workflow": "w",
        "started": f"2026-01-02T03:04:05.{number:06d}Z",
        "seconds": 1.5,
        "user": "ada",
        "host": "engine",
        "python": "3.11.0",
        "commit": "0" * 40,
        "backend": "in process",
        "error": None,
        **fields,
    }


def columns(nodes: Sequence[RecordedNode]) -> dict[str, list[Any]]:
    """Return nodes as `put` takes them."""
    return {field: [getattr(node, field) for node in nodes] for field in RecordedNode._fields}


def record(storage: Storage, number: int, *nodes: RecordedNode, **fields: Any) -> str:
    """Store a record, and return its key."""
    about = head(number, **fields)
    put(storage.store, about["workflow"], about, columns(nodes), storage._key)
    return f"{about['workflow']}/.runs/{about['id']}"


def ran(
    storage: Storage,
    number: int,
    values: Mapping[str, object],
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    call: int | None = None,
) -> None:
    """Store results of a run, and its record; each node is the parent of the next.

    Args:
        values: by task; an exception was raised.
        arguments: by task.
        call: the number of the call; by default that of the run.
    """
    nodes: list[RecordedNode] = []
    digits = f"{number if call is None else call:032x}"
    for name, value in values.items():
        given = (arguments or {}).get(name, {})
        node = RecordedNode(name, "failed", parents=[n.name for n in nodes[-1:]], arguments=given)
        if not isinstance(value, Exception):
            info = storage.save("w", name, value, fingerprint={"call": digits})
            found = {"call": info.call, "digest": info.digest, "value": info.value or info.digest}
            node = node._replace(action="computed", **found)
        nodes.append(node)
    failed = [(n, v) for n, v in values.items() if isinstance(v, Exception)]
    errors = [{"type": type(v).__name__, "text": str(v), "node": n} for n, v in failed]
    record(storage, number, *nodes, error=errors[0] if errors else None)
