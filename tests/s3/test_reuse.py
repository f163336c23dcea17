"""The table of edits on S3: what must be computed again after an edit, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from s3_servers import BUCKET, Server

from functionfuse_s3 import S3FileStorage

sys.path.append(str(Path(__file__).parents[1] / "core" / "importable"))

import edits  # found by the line above

pytestmark = [
    pytest.mark.battery,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks"),
]

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
ALL = [(section, edit) for section, rows in edits.table().items() for edit in rows]
SOME = ALL if FULL else [*[found for found in ALL if found[0] == "stored"][::4], *ALL[::25]]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Any]:
    """A process that runs projects, each in a fork of its own."""
    command = [
        sys.executable,
        str(Path(edits.__file__).with_name("zygote.py")),
        "functionfuse_s3.storage",
    ]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize(
    "edit", [edit for _, edit in SOME], ids=[f"{section}: {edit.what}" for section, edit in SOME]
)
def test_what_an_edit_costs(
    edit: edits.Edit, zygote: Any, one_server: Server, tmp_path: Path
) -> None:
    """Exactly these nodes are computed, and the values are right, as with files."""
    options = one_server.options(f"{BUCKET}/{uuid4()}")

    def run(files: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        answer = tmp_path / "answer.json"
        config = {"kind": "S3", "options": options}
        request = {"folder": str(tmp_path), "answer": str(answer), "storage": config}
        zygote.stdin.write(json.dumps(request) + "\n")
        zygote.stdin.flush()
        assert "\n" == zygote.stdout.readline()
        found = json.loads(answer.read_text())
        assert "error" not in found, found["error"]
        report = found["report"]
        return [name for name, (action, _) in report.items() if action == "computed"], found

    computed, found = run(edit.before)
    assert list(found["report"]) == computed
    assert found["without"] == found["result"]
    edit.change_stored(S3FileStorage(**options))
    computed, found = run(edit.after)
    assert edit.runs == computed
    assert edit.stale or found["without"] == found["result"]
    computed, _ = run({})
    assert edit.again == computed
