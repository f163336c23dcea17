"""Reuse on S3: the table of edits, and several runs at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from s3_servers import BUCKET, Server

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import lease
from functionfuse_s3 import S3FileStorage

sys.path.append(str(Path(__file__).parents[1] / "core" / "importable"))

import edits  # found by the line above
import same_workflow

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
        "functionfuse_s3.store",
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


def test_two_processes_at_once_both_end_right(one_server: Server, path: str) -> None:
    """Whoever computes and whoever reuses, both have the values of a run without a storage."""
    same_workflow.at_once({"kind": "S3", "options": one_server.options(path)}, 40 if FULL else 5)


def test_of_several_runs_at_once_one_computes(
    one_server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With single flight: the lease is an object that one of them makes."""
    monkeypatch.setattr(lease, "LOST_AFTER", 3600)  # however slow the machine is
    computed: list[int] = []

    @workflow(version="1")  # it notes its calls
    def slow(number: int) -> int:
        computed.append(number)
        time.sleep(0.3)
        return number + 1

    def run() -> Any:
        flow = LocalWorkflow(slow(1).set_name("a"), slow(2).set_name("b"), workflow_name="w")
        flow.set_storage(S3FileStorage(**one_server.options(path)))
        return flow.run(single_flight=True)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run) for _ in range(3)]
    assert [(2, 3)] * 3 == [tuple(each.result()) for each in runs]
    assert [1, 2] == sorted(computed)
    storage = S3FileStorage(**one_server.options(path))
    assert ["w/a", "w/b"] == [blob.key for blob in storage.store.list("") if "/." not in blob.key]


def test_the_lease_of_a_dead_owner_is_taken_over(
    one_server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease without a sign of life goes to the next who asks, soon."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    monkeypatch.setattr(lease, "LOST_AFTER", 1)
    storage = S3FileStorage(**one_server.options(path))
    storage.store.put("w/.lease/node", [b"of a killed process"])

    @workflow
    def double(number: int) -> int:
        return 2 * number

    flow = LocalWorkflow(double(21).set_name("node"), workflow_name="w")
    flow.set_storage(storage)
    assert 42 == flow.run(single_flight=True)
    assert ["w/node"] == [blob.key for blob in storage.store.list("") if "/." not in blob.key]
