"""The commands run and plan, for a script that runs on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from functionfuse.cli.main import run

SCRIPT = """
from functionfuse import RayWorkflow, storage_factory, workflow

@workflow
def double(number):
    return 2 * number

flow = RayWorkflow(double(4).set_name("eight"), workflow_name="on ray")
flow.set_storage(storage_factory())
print(flow.run(return_results=True))
"""


@pytest.mark.usefixtures("ray_up", "after_commands")
def test_a_script_on_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is planned and run as any other; the number of processes isn't the command's to choose."""
    script, config = tmp_path / "script.py", tmp_path / "functionfuse.json"
    script.write_text(SCRIPT)
    config.write_text('{"kind": "file", "options": {"path": "store"}}')
    options = ["--config", str(config)]
    assert 1 == run(["plan", "--check", *options, str(script)])
    assert 0 == run(["run", *options, str(script)])
    assert 0 == run(["plan", "--check", *options, str(script)])
    out = capsys.readouterr().out
    assert "\n8\n" in out
    assert 2 == run(["run", "--workers", "2", *options, str(script)])
    assert "RayWorkflow decides itself where nodes run" in capsys.readouterr().err
