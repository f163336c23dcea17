"""Faults of a cluster, in processes and clusters of their own; and its size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray_functions as functions

from functionfuse_ray import RayWorkflow

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
IMPORTABLE = Path(__file__).parent / "importable"


@pytest.mark.battery
@pytest.mark.skipif(not FULL, reason="half a minute: run.py battery has it")
def test_a_node_that_is_lost(tmp_path) -> None:
    """The run ends right without it; a storage on its disk is back when it is."""
    arrays = 40
    environment = os.environ | {"PYTHONPATH": str(IMPORTABLE)}
    finished = subprocess.run(
        [sys.executable, IMPORTABLE / "lose_a_node.py", tmp_path, str(arrays)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment,
    )
    told = [line for line in finished.stdout.splitlines() if line.startswith(("result", "away"))]
    result = f"result {(arrays - 1) / 4} stored {2 * arrays + 1} problems ['']"
    assert ([result, "away kept"], 0) == (told, finished.returncode), finished.stderr


@pytest.mark.battery
@pytest.mark.usefixtures("ray_up")
def test_a_graph_of_many_nodes() -> None:
    """Chains that meet in one node; no more values are held than are in use."""
    chains = 12_500 if FULL else 250
    lasts = []
    for value in range(chains):
        node = functions.number(value)
        for _ in range(3):
            node = functions.plus(node, 1)
        lasts.append(node)
    groups = [functions.plus(*lasts[start : start + 100]) for start in range(0, chains, 100)]
    flow = RayWorkflow(functions.plus(*groups), workflow_name="w")
    expected = sum(range(chains)) + 3 * chains
    assert expected == flow.run(return_results=True, max_pending_tasks=1000)
