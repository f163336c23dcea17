"""`functionfuse rm`, `gc`, `verify` and `doctor` on a bucket, each in a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_lines import Said, process  # in core's `importable`, which is on the path
from s3_servers import BUCKET, SECRET_KEY, Server

from functionfuse.cli import main
from functionfuse.show.texts import size
from functionfuse_s3 import S3FileStorage

Do = Callable[..., Said]


@pytest.fixture
def stored(
    moto_server: Server, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> S3FileStorage:
    """Two results in the storage of the config here, which is a bucket of moto."""
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    options = moto_server.options(f"{BUCKET}/{below}")
    Path("functionfuse.json").write_text(json.dumps({"kind": "S3", "options": options}))
    storage = S3FileStorage(**options)
    for name in ("fit", "load"):
        storage.save("w", name, "x" * 1000)
    return storage


@pytest.fixture
def do(capsys: pytest.CaptureFixture[str]) -> Do:
    """Run a command in this process."""

    def run(*words: str) -> Said:
        status = main.run(words)
        return Said(status, *capsys.readouterr())

    return run


def test_rm(stored: S3FileStorage, do: Do) -> None:
    """A dry run removes nothing; then the result is gone, and the other one stays."""
    about = f"1 result ({size(stored.task_info('w', 'fit').size)}) of workflow 'w'."
    assert Said(0, f"TASK\nfit\nWould remove {about}\n", "") == do("rm", "w", "f*", "--dry-run")
    assert ["fit", "load"] == stored.list_tasks("w")
    assert Said(0, f"Removed {about}\n", "") == process("rm", "w", "f*", "--yes")
    assert ["load"] == stored.list_tasks("w")
    assert 0 == do("rm", "w", "--yes", "--json").status
    assert [] == [*stored.store.list("")]


def test_verify(stored: S3FileStorage, do: Do) -> None:
    """Damage is found, and the exit status is 1."""
    total = size(sum(record.size for record in stored.verify()))
    assert Said(0, f"2 results ({total}): no problem found.\n", "") == process("verify")
    stored.store.put("w/fit", [bytes(stored.store.get("w/fit"))[:-1], b"?"])
    said = do("verify", "w")
    assert (1, "") == (said.status, said.err)
    shown = r"WORKFLOW  TASK  CALL  PROBLEM\nw         fit         the .*\n2 results: 1 with .*\n"
    assert re.fullmatch(shown, said.out), said.out
    [problem] = do("verify", "--json").document["problems"]
    assert ("w", "fit", "") == (problem["workflow"], problem["task"], problem["call"])


def test_gc(stored: S3FileStorage, do: Do) -> None:
    """The upload that a killed process has begun is a leftover; for moto, every upload is old."""
    stored.store.bucket.call("create_multipart_upload", "w/killed")
    said = do("gc", "--dry-run").masked
    table = "KIND       SIZE  WRITTEN              KEY\ntemporary   0 B  TIME  w/killed\n"
    assert Said(0, f"{table}Would remove 1 leftover (0 B).\n", "") == said
    assert Said(0, "Removed 1 leftover (0 B).\n", "") == process("gc")
    assert Said(0, "There is nothing to remove.\n", "") == do("gc")
    assert {""} == {record.problem for record in stored.verify("w")}


def test_doctor(stored: S3FileStorage, do: Do) -> None:
    """It lists, and writes nothing; `config check` shows no secret."""
    before = [*stored.store.list("")]
    said = do("doctor")
    assert (0, "") == (said.status, said.err)
    assert re.search(
        r"ok +storage +.*: 1 workflow; whether you can write is not tried \(--write", said.out
    )
    assert re.search("ok +disk +not on this machine\n", said.out)
    assert before == [*stored.store.list("")]
    shown = do("config", "check").out
    assert "  secret_access_key  **********\n" in shown
    assert SECRET_KEY not in shown + said.out


def test_doctor_tries_to_write(stored: S3FileStorage, do: Do) -> None:
    """As a run does, with the same error; and it leaves nothing."""
    before = [*stored.store.list("")]
    said = do("doctor", "--write")
    assert 0 == said.status
    assert "; it passes the check that a run makes before it computes\n" in said.out
    assert before == [*stored.store.list("")]
    config = json.loads(Path("functionfuse.json").read_text())
    config["options"]["storage_class"] = "no-such-class"
    Path("functionfuse.json").write_text(json.dumps(config))
    assert 0 == do("doctor").status
    failed = do("doctor", "--write")
    assert 1 == failed.status
    assert re.search("FAILED +storage +.*'storage_class'", failed.out)


def test_a_bucket_that_is_not_there(stored: S3FileStorage, do: Do) -> None:
    """One sentence, and exit status 2; the doctor says the same, and exits with 1."""
    config = json.loads(Path("functionfuse.json").read_text())
    config["options"]["path"] = "no-such-bucket/results"
    Path("functionfuse.json").write_text(json.dumps(config))
    said = do("rm", "w", "--yes")
    assert (2, "", 1) == (said.status, said.out, said.err.count("\n"))
    assert "no-such-bucket" in said.err
    found = do("doctor")
    assert 1 == found.status
    assert re.search("FAILED +storage +.*no-such-bucket", found.out)
