"""The progress of a run on Ray, which doesn't tell what runs."""

from __future__ import annotations

import re

import pytest
import ray_functions as functions

from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")


def test_nodes_are_submitted(capfd: pytest.CaptureFixture[str]) -> None:
    """The first ones are named; a failure has the line in the function, which ran in a worker."""
    naps = [functions.span(1.0, n).set_name(f"nap {n}") for n in range(6)]
    fails = functions.fail("no", naps[0]).set_name("fails")
    flow = RayWorkflow(*naps, fails, workflow_name="w")
    with pytest.raises(LookupError):
        flow.run(progress=True)
    # Ray itself may write something, too.
    told = [line for line in capfd.readouterr().err.splitlines() if re.match("w  |✕ |✓ ", line)]
    first, *_, failed, last = told
    assert re.match(r"w  0/7  0 reused  0 failed  nap 0 submitted \d\.\d s", first)
    assert "running" not in first
    assert re.fullmatch(r"✕ fails  LookupError: no  .*ray_functions\.py:\d+", failed)
    assert re.fullmatch(r"✕ w: 1 failed, 6 computed in \d+\.\d s", last)
    flow.value(functions.number(3), progress=True)
    assert re.search(r"^✓ w: 1 computed in \d+\.\d s$", capfd.readouterr().err, re.MULTILINE)
