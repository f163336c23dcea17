"""What is computed again under Ray after an edit: edits of core's table, and of `edits.txt`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

CORE = str(Path(__file__).parents[1] / "core" / "importable")
sys.path.append(CORE)

import edits  # noqa: E402

pytestmark = pytest.mark.usefixtures("ray_up")

OURS = edits.table([Path(__file__).parent / "edits.txt"])
ALL = {edit.what: edit for rows in (edits.table() | OURS).values() for edit in rows}
KINDS = [
    "nothing",
    "a comment in a helper",
    "the body",
    "the body, result equal",
    "a default",
    "a value in the closure",
    "a decorator's inner function",
    "a helper in another module",
    "a module imported inside the function",
    "a constant of a module imported inside the function",
    "a global int",
    "a global list",
    "a list that the function itself appends to",
    "a constant in another module, `settings.X`",
    "the order of a dict",
    "a dict in another order",
    "a class attribute",
    "an object as argument: its class",
    "an enum's member as argument",
    "the class of an object in a result",
    "the version of a package that counts",
    *[edit.what for rows in OURS.values() for edit in rows],
]


def written(folder: Path, number: int, files: dict[str, str]) -> None:
    """Write a project beside others; its modules have names of their own."""
    stems = "|".join(name.removesuffix(".py") for name in files if "/" not in name)
    for name, text in files.items():
        changed = name, text
        if name.endswith(".py"):
            changed = [re.sub(rf"\b({stems})\b", rf"\1_{number}", part) for part in changed]
        path = folder / changed[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed[1])


@pytest.fixture(scope="module")
def found(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What was computed before and after the edits: two drivers, each with workers of its own."""
    root = tmp_path_factory.mktemp("edits")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(Path(__file__).parent / "importable" / "run_edits.py")]
    answers = []
    for seed, when in enumerate(("before", "after"), 1):
        folder = root / when
        for number, kind in enumerate(KINDS):
            written(folder, number, getattr(ALL[kind], when))
        done = subprocess.run(
            [*command, address, str(root / "results")],
            cwd=folder,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
        )
        # Ray can print warnings there, before and after.
        [answer] = [line for line in done.stdout.splitlines() if line.startswith("{")]
        answers.append(json.loads(answer))
    return answers


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_what_an_edit_costs(number: int, found: list[dict[str, Any]]) -> None:
    """The nodes that are computed are those of a run without Ray, and so are the values."""
    edit, name = ALL[KINDS[number]], f"main_{number}"
    first, second = (answers[name] for answers in found)
    assert first["without"] == first["result"]
    assert second["without"] == second["result"]
    assert edit.runs == second["computed"]
    assert set(edit.runs) <= set(first["computed"])
