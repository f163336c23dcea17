"""Results as the original Function Fuse writes them, and a graph that uses one."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

from functionfuse import workflow

OLD = {"weights": [1, 2, 3]}


def with_digest(data: bytes) -> bytes:
    return data + hashlib.sha1(data).digest()


def write_old(folder: Path, task: str, value: Any = OLD, protocol: int = 4) -> Path:
    """Write a result of a task of workflow "w"."""
    path = folder / "w" / task
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(with_digest(pickle.dumps(value, protocol)))
    return path


@workflow
def model() -> dict[str, list[int]]:
    raise AssertionError("it is stored")


@workflow
def total(model: dict[str, list[int]], factor: int) -> int:
    return sum(model["weights"]) * factor
