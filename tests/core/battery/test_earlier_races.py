"""Runs that go back and forth while other processes prune, collect and remove: values are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

OTHERS = {
    "alone": [],
    "prune": ["prune", "prune"],
    "gc": ["gc"],
    "remove_task": ["remove_task"],
    "remove_workflow": ["remove_workflow"],
    "all": ["prune", "gc", "remove_task", "remove_workflow"],
}


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("others", OTHERS)
def test_runs_beside_others(
    others: str, side: bool, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """Three settings in two processes: each run has its own values, and no error."""
    parts = ["run", "run", *OTHERS[others]]
    job = {
        "do": "earlier_race",
        "root": str(tmp_path / "store"),
        "seed": counts.seed,
        "seconds": 20 if full else 0.5,
        "parts": parts,
        "pause": 0.005,
        "side": side,
    }
    found = workers.one(job, timeout=600)
    for part, count in zip(parts, found["counts"], strict=True):
        counts.add(part, count)
    assert [] == found["wrong"]
    assert [] == found["left"]
