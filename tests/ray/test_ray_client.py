"""Ray's client: a driver outside of the cluster."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from functionfuse.storage import storage_factory

PROGRAM = Path(__file__).parent / "importable" / "run_through_client.py"


@pytest.fixture
def address(ray_up):
    """Have a server of Ray's client up; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = ray.get_runtime_context().gcs_address
    options = [f"--address={cluster}", "--host=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "ray.util.client.server", *options, "--mode=specific-server"],
        stderr=subprocess.DEVNULL,
    )
    yield f"ray://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.mark.skipif(
    importlib.util.find_spec("grpc") is None, reason="it needs grpcio: pip install 'ray[client]'"
)
def test_a_workflow_runs_through_it(address, tmp_path) -> None:
    """With results, objects and errors; the storage kind ray is refused."""
    finished = subprocess.run(
        [sys.executable, PROGRAM, address, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert 0 == finished.returncode, finished.stderr
    results, error, refused = finished.stdout.splitlines()
    assert ("[2.0, 3, 5]", "it is gone") == (results, error)
    assert "can't be used through Ray's client" in refused
    storage = storage_factory({"kind": "file", "options": {"path": str(tmp_path)}})
    assert 5 == len(storage.list_tasks("w"))
