"""A run on Ray that computes nothing needs no right to write."""

from __future__ import annotations

import os
import subprocess

import pytest
import ray_functions as functions
from ray_runs import actions, kept

from functionfuse.errors import StoragePathError
from functionfuse.storage import storage_factory

pytestmark = pytest.mark.usefixtures("ray_up")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("kind", ["file", "ray"])
def test_a_read_only_mount(kind, tmp_path, caplog) -> None:
    """What is stored is given, with one line of the log; else no worker calls a function."""
    mounted = ["mount", "-t", "tmpfs", "none", str(tmp_path)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        storage = storage_factory({"kind": kind, "options": {"path": str(tmp_path / "store")}})

        def flow(number):
            return kept(storage, functions.number(number).set_name("n"))

        assert 1 == flow(1).run(return_results=True)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        caplog.clear()
        assert 1 == flow(1).run(return_results=True)
        [line] = caplog.messages
        assert "the record of run" in line
        refused = flow(2)
        with pytest.raises(StoragePathError) as caught:
            refused.run()
        assert "up to 1 node(s) of workflow 'w' must be computed" in caught.value.__notes__
        assert {"n": "not run"} == actions(refused)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
