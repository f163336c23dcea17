"""`functionfuse copy` on files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_lines import process  # in `importable`, which is on the path

from functionfuse.cli.main import run
from functionfuse.storage.filestorage import FileStorage

DRY = """\
TASK   CALL    SIZE  ACTION         PROBLEM
fit/a        1.5 kB  copied
fit/b        1.5 kB  there already
load         1.5 kB  copied
Would be: 2 copied, 1 there already (3.0 kB).
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStorage:
    """Three results of workflow "w" in the storage of the config here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    Path("functionfuse.json").write_text('{"kind": "file", "options": {"path": "results"}}')
    storage = FileStorage(tmp_path / "results")
    for name in ("fit/a", "fit/b", "load"):
        storage.save("w", name, "x" * 1020)
    return storage


def test_to_a_folder(
    source: FileStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is made; a second copy finds all there; a dry run writes nothing."""
    assert 0 == run(["copy", "w", "fit/b", "--to", "backup"])
    assert "1 copied (1.5 kB).\n" == capsys.readouterr().out
    assert 0 == run(["copy", "w", "--to", "backup", "--dry-run"])
    assert DRY == capsys.readouterr().out
    target = FileStorage(tmp_path / "backup")
    assert ["fit/b"] == target.list_tasks("w")
    assert 0 == run(["copy", "w", "--to", "backup"])
    assert "2 copied, 1 there already (3.0 kB).\n" == capsys.readouterr().out
    assert 0 == run(["copy", "w", "--to", "backup", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ("w", "backup", False, 0) == tuple(
        found[key] for key in ("workflow", "to", "dry_run", "bytes")
    )
    assert {"there already"} == {each["action"] for each in found["copied"]}
    for name in ("fit/a", "fit/b", "load"):
        assert source.task_info("w", name) == target.task_info("w", name)


def test_to_a_config(source: FileStorage, tmp_path: Path) -> None:
    """In a process of its own; with another key, the copy is signed anew."""
    (tmp_path / "other.yaml").write_text("kind: file\noptions: {path: other, key: secret}\n")
    said = process("copy", "w", "load", "--to", "other.yaml")
    assert (0, "1 copied (1.5 kB).\n", "") == (said.status, said.out, said.err)
    other = FileStorage(tmp_path / "other", key="secret")
    assert "x" * 1020 == other.read_task("w", "load")
    signed, plain = other.task_info("w", "load"), source.task_info("w", "load")
    assert (True, True) == (signed.signed, signed.strong)
    others = {"signed": False, "pickle": plain.pickle, "size": plain.size}
    assert plain == signed._replace(**others)


def test_earlier_results_and_runs(
    source: FileStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only on request."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom functionfuse import LocalWorkflow, storage_factory, workflow\n"
        "@workflow\ndef same(value):\n    return value\n"
        "flow = LocalWorkflow(same(sys.argv[1]).set_name('same'), workflow_name='runs')\n"
        "flow.set_storage(storage_factory())\nflow.run()\n"
    )
    for value in "12":
        assert 0 == run(["run", str(script), value])
    capsys.readouterr()
    assert 0 == run(["copy", "runs", "--to", "plain"])
    assert capsys.readouterr().out.startswith("1 copied (")
    assert 0 == run(["copy", "runs", "--to", "whole", "--earlier", "--runs"])
    assert capsys.readouterr().out.startswith("4 copied (")
    assert [] == FileStorage(tmp_path / "plain").earlier("runs", "same")
    whole = FileStorage(tmp_path / "whole")
    assert 1 == len(whole.earlier("runs", "same"))
    assert [run.id for run in source.runs("runs")] == [run.id for run in whole.runs("runs")]
    assert 0 == run(["copy", "runs", "--to", "whole", "--runs", "--dry-run"])
    out = capsys.readouterr().out
    assert "run 20" in out
    assert "3 there already (0 B)" in out


def test_a_damaged_result(source: FileStorage, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are copied; it is told, and the status is 1."""
    path = Path(source.path, "w", "load")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert 1 == run(["copy", "w", "--to", "backup"])
    out = capsys.readouterr().out
    assert "\nload" in out
    assert "not copied" in out
    assert out.endswith("2 copied, 1 not copied (3.0 kB).\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w"], "the following arguments are required: --to"),
        (["v", "--to", "backup"], "No workflow 'v' in the folder"),
        (["w", "x*", "--to", "backup"], "No result of workflow 'w' matches 'x*'"),
        (["w", "x*", "--to", "backup", "--runs"], "no stored task that matches 'x*'"),
        (["w", "--to", "results"], "--to names the storage that the results are in: 'results'"),
        (["w", "--to", "nowhere.yaml"], "the config file 'nowhere.yaml' can't be read"),
        (["w", "--to", "functionfuse.json/x"], "functionfuse.json"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, source: FileStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """By one sentence, before anything is written."""
    assert 2 == run(["copy", *words])
    out, err = capsys.readouterr()
    assert "" == out
    assert message in err
    assert 1 == err.count("\n")
    assert not Path("backup").exists()
