"""What counts of code and values: the rows of `rules/*.txt`, each looked at before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import edits
import pytest
import rules

ALL = [(section, edit) for section, rows in edits.table(rules.PATHS).items() for edit in rows]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """What each row counts as, in processes of two hash seeds."""
    seen = {}
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp(f"rules{seed}")
        done = subprocess.run(
            [sys.executable, rules.__file__, str(folder)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        seen[seed] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize(
    "number", range(len(ALL)), ids=[f"{section}: {edit.what}" for section, edit in ALL]
)
def test_what_counts(number: int, found: dict[str, list[list[str]]]) -> None:
    """An edit is seen where it can change the result, alike with every hash seed.

    Where something can't be followed, the reason says so.
    """
    _, edit = ALL[number]
    before, after = found["1"][number]
    assert [before, after] == found["2"][number]
    if edit.again:
        assert after.startswith(edit.why), after
        assert edit.why
    else:
        assert not {" "} & {*before, *after}, after
        assert (before != after) == bool(edit.runs)


def test_every_row_is_another() -> None:
    names = [(section, edit.what) for section, edit in ALL]
    assert len(set(names)) == len(names) > 150
