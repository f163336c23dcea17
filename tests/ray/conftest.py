"""Ray is started once, with two CPUs, for all tests here that need it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

IMPORTABLE = str(Path(__file__).parent / "importable")

if IMPORTABLE not in sys.path:
    sys.path.insert(0, IMPORTABLE)

STARTED = {
    "address": "local",  # whatever else runs on the machine
    "num_cpus": 2,
    "include_dashboard": False,
    "object_store_memory": 300 << 20,
    "log_to_driver": False,
    "resources": {"disk": 1},
}


@pytest.fixture(scope="session")
def ray_up() -> Iterator[None]:
    """Have Ray up for the rest of the session."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", IMPORTABLE)  # for the workers
        ray.init(**STARTED)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def folder(ray_up, tmp_path_factory):
    """One folder and one server for all: a server takes a second to start."""
    path = tmp_path_factory.mktemp("kept") / "store"
    yield path
    import ray

    ray.kill(ray.get_actor(f"storage {path}", namespace="functionfuse"))


@pytest.fixture
def emptied(folder):
    """Empty the folder, past the store."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
