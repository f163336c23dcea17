"""Types for users: a decorated function keeps its parameters, and a node fits any of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from functionfuse.workflow import WorkflowFunction

SAMPLE = Path(__file__).parent / "typed" / "sample.py"


def mypy(folder: Path) -> set[int]:
    """Return the lines of the sample that mypy refuses."""
    options = ["--strict", "--config-file=", f"--cache-dir={folder}", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, str(SAMPLE)]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert 1 == done.returncode, done.stdout + done.stderr
    return {int(line) for line in re.findall(r"sample.py:(\d+): error: ", done.stdout)}


def pyright(folder: Path) -> set[int]:
    """Return the lines of the sample that pyright refuses."""
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({"typeCheckingMode": "strict", "include": [str(SAMPLE)]}))
    options = ["--pythonpath", sys.executable, "--outputjson", "--project", str(config)]
    command = [sys.executable, "-m", "basedpyright", *options]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert 1 == done.returncode, done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


@pytest.mark.parametrize(("checker", "module"), [(mypy, "mypy"), (pyright, "basedpyright")])
def test_the_sample_is_refused_where_it_says_so(
    checker: Callable[[Path], set[int]], module: str, tmp_path: Path
) -> None:
    """Wrong arguments are refused, and nodes as arguments are not, by mypy and by pyright."""
    pytest.importorskip(module)
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    mark = re.compile(rf"  # refused( by {checker.__name__})?$")
    marked = {number for number, line in enumerate(lines, 1) if mark.search(line)}
    assert marked == checker(tmp_path)


def test_the_type_of_a_decorated_function_can_be_written() -> None:
    """Also where Python evaluates the annotation."""
    assert WorkflowFunction is WorkflowFunction[[str, int]]
