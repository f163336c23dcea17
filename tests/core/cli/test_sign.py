"""`functionfuse sign` on files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_lines import Said  # in `importable`, which is on the path

from functionfuse.storage.filestorage import FileStorage

Do = Callable[..., Said]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two unsigned results of workflow "w", one of "other"; the config here has a key."""
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("functionfuse.yaml").write_text("kind: file\noptions: {path: results, key: secret}\n")
    storage = FileStorage(tmp_path / "results")
    for workflow, task in (("w", "a"), ("w", "b"), ("other", "t")):
        storage.save(workflow, task, 1)
    return tmp_path / "results"


def test_sign(path: Path, do: Do) -> None:
    """It counts for each workflow, in a dry run, too; then `verify` finds nothing."""
    first = do("sign", "--dry-run")
    head = "WORKFLOW  SIGNED  SIGNED ALREADY  NOT SIGNED  GONE\n"
    rows = (
        "other          1               0           0     0\n"
        "w              2               0           0     0\n"
    )
    assert Said(0, f"{head}{rows}\nNothing is signed yet.\n", "") == first
    assert 1 == do("verify").status
    assert Said(0, head + rows, "") == do("sign")
    assert 0 == do("verify").status
    document = do("sign", "w", "--json").document
    assert ["signed already"] * 2 == [each["action"] for each in document["results"]]
    assert ("w", False) == (document["workflow"], document["dry_run"])
    assert 1 == FileStorage(path, key="secret").read_task("w", "a")


def test_sign_what_is_damaged(path: Path, do: Do) -> None:
    """The result and the problem are named; the exit status is 1, and the others are signed."""
    data = (path / "w" / "a").read_bytes()
    (path / "w" / "a").write_bytes(data[:-1] + b"x")
    said = do("sign", "w")
    assert 1 == said.status
    assert "w              1               0           1     0\n\n" in said.out
    assert "w         a           the pickle (bytes " in said.out
    assert 1 == FileStorage(path, key="secret").read_task("w", "b")


def test_sign_nothing(path: Path, do: Do, tmp_path: Path) -> None:
    """An unknown workflow has a suggestion; without a key there is the cure."""
    said = do("sign", "othr")
    assert (2, True) == (said.status, "did you mean 'other'" in said.err), said
    said = do("sign", "--storage", str(path))
    assert (2, True) == (said.status, "give it the option 'key'" in said.err), said
    (tmp_path / "empty").mkdir()
    assert Said(0, "There are no results to sign.\n", "") == do(
        "sign", "--storage", str(tmp_path / "empty")
    )
