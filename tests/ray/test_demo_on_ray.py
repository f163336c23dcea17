"""The demo with `--backend ray`, in a process and with a Ray of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "classifier_comparison" / "demo.py"


def test_the_demo_runs_on_ray(tmp_path, ray_folder) -> None:
    """It computes, reuses and recomputes the same nodes as in process, and is quiet about it.

    A Ray that ran here before doesn't disturb it.
    """
    for number in range(5):
        finished = subprocess.run(
            [sys.executable, DEMO, "--backend", "ray", "--path", tmp_path / f"demo {number}"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"RAY_TMPDIR": ray_folder},
            timeout=600,
        )
        if "timed out during startup" not in finished.stderr:  # after 30 seconds, by Ray itself
            break
    assert ("", 0) == (finished.stderr, finished.returncode)
    counts = re.findall(r"(\d+) computed, (\d+) taken from storage, (\d+) not", finished.stdout)
    assert [("70", "0", "0"), ("0", "70", "0")] == counts[:2]
    assert "digits/Gaussian process/fit: compute: argument 'rows' changed" in finished.stdout
