"""A run in one process, a change, and the next run in another one, by one config file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse.storage import storage_factory

FILES = {
    "functionfuse.yaml": "storage: {kind: file, options: {path: results}}\n",
    "site-packages/a_library.py": "__version__ = '1.0'\ndef g(): return 1\n",
    "models.py": "class Model:\n    def get(self): return 1\n",
    "main.py": """
import json, sys
sys.path.append("site-packages")
import a_library
from functionfuse import workflow
from functionfuse.backends import workflow_factory
from models import Model

@workflow(version="1")
def make():
    return [Model(), {"a", "b", "c", "d"}]

@workflow
def use(made):
    return made[0].get(), sorted(made[1])

@workflow
def measure(count):
    return a_library.g() * count

nodes = [use(make().set_name("made")).set_name("used")]
nodes += [measure(count).set_name(f"measured {count}") for count in (1, 2, 3)]
flow = workflow_factory("functionfuse.yaml", *nodes, workflow_name="w")
for name in sys.argv[1:]:
    flow.query(name).set_reuse("never")
plan = flow.plan()
print(json.dumps({
    "plan": {"notes": plan.notes, "text": str(plan)},
    "result": flow.run(),
    "report": {"notes": flow.report.notes, "text": str(flow.report)},
    "computed": {name: flow.report[name].reason for name in flow.report.names("computed")},
}))
""",
}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return what runs the project in a process of its own, with another hash seed each time."""
    seeds = iter(range(1, 100))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def once(*never: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-B", "main.py", *never],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": str(next(seeds))},
            check=True,
            stdout=subprocess.PIPE,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return once


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_plan_and_report_tell_which_version_results_were_made_with(run: Run, tmp_path: Path):
    """Until the results are computed again, or the version is the earlier one again."""
    assert [] == run()["report"]["notes"]
    library = tmp_path / "site-packages" / "a_library.py"
    edit(library, "'1.0'", "'1.1'")
    note = "made with a_library 1.0, now 1.1: {} stored result(s); packages=['a_library'] counts it"
    second = run()
    assert {} == second["computed"]
    for told in (second["plan"], second["report"]):
        assert [note.format(3)] == told["notes"]
        assert told["text"].endswith(f"\nnote: {note.format(3)}")
    third = run("measured 1")  # computed with the new version
    assert ["measured 1"] == list(third["computed"])
    assert [note.format(2)] == third["plan"]["notes"] == run()["plan"]["notes"]
    edit(library, "'1.1'", "'1.0'")
    assert ["1.1, now 1.0" in note for note in run()["plan"]["notes"]] == [True]


def test_a_class_of_a_module_counts_for_those_that_take_its_objects(run: Run, tmp_path: Path):
    """By the header's `own`. An equal set counts by `value`, in whatever order it is stored."""
    storage = storage_factory(tmp_path / "functionfuse.yaml")
    first = run()
    assert ["made", "used", "measured 1", "measured 2", "measured 3"] == list(first["computed"])
    info = storage.task_info("w", "made")
    assert ("models:Model",) == info.own
    assert info.key
    assert 32 == len(info.value) == len(info.digest)
    while storage.task_info("w", "made").digest == info.digest:
        assert ["made"] == list(run("made")["computed"])
    again = storage.task_info("w", "made")
    assert (info.own, info.key, info.value) == (again.own, again.key, again.value)
    edit(tmp_path / "models.py", "return 1", "return 2")
    edited = run()
    assert {"used": "code of 'Model' changed, which is in the result of 'made'"} == edited[
        "computed"
    ]
    assert [2, ["a", "b", "c", "d"]] == edited["result"][0]
    assert again == storage.task_info("w", "made")
    assert {} == run()["computed"]
    edit(tmp_path / "models.py", "return 2", "return 3")
    assert ["made", "used"] == list(run("made")["computed"])
