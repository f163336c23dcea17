"""What must be computed again after an edit, and nothing else: the table of `importable/edits.py`.

Each project is run, edited and run again in fresh processes, of different hash seeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import edits
import pytest

from functionfuse.storage.filestorage import FileStorage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks")

ALL = [(section, edit) for section, rows in edits.table().items() for edit in rows]
SEEDS = ("1", "2")
AGREES = {
    "compute": {"computed"},
    "reuse": {"reused", "computed"},  # computed when it turns out to be damaged
    "maybe": {"computed", "reused", "not needed"},
    "not needed": {"not needed"},
}


class Zygote:
    """Runs projects, each in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, folder: Path) -> dict[str, Any]:
        answer = folder / "answer.json"
        request = {"folder": str(folder), "answer": str(answer)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"
        found = json.loads(answer.read_text())
        assert "error" not in found, found["error"]
        return found


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    """One for each hash seed."""
    command = [sys.executable, str(Path(edits.__file__).with_name("zygote.py"))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        found = []
        for seed in SEEDS:
            variables = os.environ | {"PYTHONHASHSEED": seed}
            process = subprocess.Popen(command, **pipes, env=variables)
            found.append(Zygote(stack.enter_context(process)))
        yield found
        for zygote in found:
            zygote.process.stdin.close()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def computed(run: dict[str, Any]) -> list[str]:
    return [name for name, (action, _) in run["report"].items() if action == "computed"]


@pytest.mark.parametrize(
    "edit", [edit for _, edit in ALL], ids=[f"{section}: {edit.what}" for section, edit in ALL]
)
def test_what_an_edit_costs(edit: edits.Edit, zygotes: list[Zygote], tmp_path: Path) -> None:
    """Exactly these nodes are computed, the plan said so, and the values are right."""
    write(tmp_path, edit.before)
    first = zygotes[0].run(tmp_path)
    assert list(first["report"]) == computed(first)
    assert first["without"] == first["result"]
    edit.change_stored(FileStorage(str(tmp_path / "results")))
    write(tmp_path, edit.after)
    second = zygotes[1].run(tmp_path)
    if not edit.stale:
        assert second["without"] == second["result"]
    assert edit.runs == computed(second)
    for name, (action, _) in second["plan"].items():
        assert second["report"][name][0] in AGREES[action], name
    if edit.why:
        _, reason = second["report"][edit.runs[0]]
        assert reason.startswith(edit.why), reason
    third = zygotes[0].run(tmp_path)
    assert edit.again == computed(third)


def test_every_edit_is_another() -> None:
    """Two rows of one section with the same words would be one row too many."""
    names = [(section, edit.what) for section, edit in ALL]
    assert len(set(names)) == len(names) >= 40


def test_the_document_shows_this_table() -> None:
    """docs/reuse.md has the table that is tested; `python edits.py` writes it there."""
    text = edits.DOCUMENT.read_text(encoding="utf-8")
    assert edits.as_markdown() == text.partition(edits.BEGIN)[2].partition(edits.END)[0]
