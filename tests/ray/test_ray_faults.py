"""Faults of a cluster, in processes and clusters of their own; and its size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import ray_functions as functions
import run_slowly

from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
IMPORTABLE = Path(__file__).parent / "importable"


@pytest.mark.usefixtures("ray_up")
def test_a_driver_that_is_killed(tmp_path) -> None:
    """What its workers had stored is whole, and the next run goes on from there."""
    notes = tmp_path / "notes"
    notes.mkdir()
    config = {"kind": "file", "options": {"path": str(tmp_path / "store")}}
    storage = storage_factory(config)
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, IMPORTABLE / "run_slowly.py", address, str(tmp_path / "store"), notes],
        stderr=subprocess.DEVNULL,
    )
    try:
        while len(storage.list_tasks("w")) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    flow = RayWorkflow(run_slowly.graph(str(notes)), workflow_name="w")
    flow.set_storage(storage)
    functions.remember(notes, "go")
    assert 15 == flow.run(return_results=True)
    actions = [record.action for record in flow.report.nodes]
    assert 2 <= actions.count("reused") < 6
    assert {""} == {verified.problem for verified in storage.verify()}


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
