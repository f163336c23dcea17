"""`functionfuse rm`, `prune`, `gc` and `verify` on files."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from command_lines import TIME, Said, Terminal, process  # in `importable`, which is on the path
from kept_values import Kept, KeptSerializer

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.show.texts import size
from functionfuse.storage.filestorage import FileStorage

HOSTILE = "\x1b[31mred\nline \u202etxt \ud800"
SHOWN = r"\x1b[31mred\nline \u202etxt \ud800"
TEMPORARY = f".tmp-{bytes(8).hex()}"  # the beginning of the names that our code makes

Do = Callable[..., Said]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStorage:
    """Three results of workflow "w", one of "other", in the storage of the config here."""
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    config = "kind: file\noptions: {path: results, earlier: {bytes: null, days: null}}\n"
    Path("functionfuse.yaml").write_text(config)
    storage = FileStorage(tmp_path / "results")
    for name in ("fit/a", "fit/b", "load"):
        storage.save("w", name, "x" * 1000)
    storage.save("other", "t", 1)
    return storage


@workflow
def double(number: int) -> int:
    return 2 * number


def sweep(storage: FileStorage, *numbers: int, name: str = "sweep") -> None:
    """Compute the node "double" with these arguments, one run after the other."""
    for number in numbers:
        flow = LocalWorkflow(double(number).set_name("double"), workflow_name=name)
        flow.set_storage(storage)
        flow.run()


def leave(storage: FileStorage, key: str, *, hours: float) -> None:
    """Put a file of this age, as a killed process leaves it."""
    path = Path(storage.path, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1234")
    os.utime(path, (time.time() - 3600 * hours,) * 2)


def kilobytes(storage: FileStorage, *names: str) -> str:
    """The size of results of "w"; headers have the name of the machine."""
    return size(sum(storage.task_info("w", name).size for name in names))


def damage(storage: FileStorage, workflow_name: str, task: str) -> None:
    path = Path(storage.path, workflow_name, task)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


# rm


def test_rm_removes_what_a_glob_matches(storage: FileStorage, do: Do) -> None:
    """The others stay; one line says how much is gone."""
    expected = f"Removed 2 results ({kilobytes(storage, 'fit/a', 'fit/b')}) of workflow 'w'.\n"
    assert Said(0, expected, "") == do("rm", "w", "fit/*", "--yes")
    assert ["load"] == storage.list_tasks("w")


def test_rm_removes_a_workflow(storage: FileStorage, do: Do) -> None:
    """Nothing of it stays, also no records of runs and no earlier results."""
    sweep(storage, 1, 2)
    said = do("rm", "sweep", "--yes")
    pattern = r"Removed 1 result \([\d.]+ kB\) and earlier results \([\d.]+ k?B\) of workflow 'sw.*"
    assert re.fullmatch(pattern, said.out.strip()), said
    assert not Path(storage.path, "sweep").exists()
    assert ["other", "w"] == storage.list_workflows()


def test_rm_tells_the_size_that_it_frees(storage: FileStorage, do: Do) -> None:
    """With side data and earlier results: for a workflow as for all of its tasks."""
    sweep(storage, 1, 2, 3)
    shutil.rmtree(Path(storage.path, "sweep", ".runs"))
    files = [path for path in Path(storage.path, "sweep").rglob("*") if path.is_file()]
    whole = do("rm", "sweep", "--dry-run", "--json").document
    matched = do("rm", "sweep", "*", "--dry-run", "--json").document
    assert whole == matched
    total = sum(path.stat().st_size for path in files)
    assert total == whole["bytes"] + whole["earlier_bytes"]
    assert whole["earlier_bytes"] > 0


def test_rm_tells_the_size_of_the_chosen_tasks(storage: FileStorage, do: Do) -> None:
    """With their side data, and without the earlier results of other tasks."""
    sweep(storage, 1, 2)
    storage.register_persistent_serializers(KeptSerializer)
    storage.save("sweep", "kept", Kept(b"1234"))
    document = do("rm", "sweep", "kept", "--dry-run", "--json").document
    info = storage.task_info("sweep", "kept")
    assert info.side_size == 4
    assert (info.size + 4, 0) == (document["bytes"], document["earlier_bytes"])


def test_rm_dry_run(storage: FileStorage, do: Do) -> None:
    """It lists the names, removes nothing, and doesn't ask."""
    said = do("rm", "w", "fit/*", "--dry-run")
    total = kilobytes(storage, "fit/a", "fit/b")
    expected = f"TASK\nfit/a\nfit/b\nWould remove 2 results ({total}) of workflow 'w'.\n"
    assert Said(0, expected, "") == said
    assert 3 == len(storage.list_tasks("w"))


def test_rm_json(storage: FileStorage, do: Do) -> None:
    document = {"workflow": "w", "dry_run": False, "tasks": ["fit/a", "fit/b"]}
    size = sum(storage.task_info("w", name).size for name in ("fit/a", "fit/b"))
    expected = {**document, "bytes": size, "earlier_bytes": 0}
    assert expected == do("rm", "w", "fit/*", "--yes", "--json").document


def test_rm_of_a_damaged_result(storage: FileStorage, do: Do) -> None:
    """It can be removed; its size is not known from a header that is damaged."""
    path = Path(storage.path, "w", "load")
    path.write_bytes(path.read_bytes()[:40])
    assert (
        "Removed 1 result (at least 0 B) of workflow 'w'.\n" == do("rm", "w", "load", "--yes").out
    )
    assert ["fit/a", "fit/b"] == storage.list_tasks("w")


@pytest.mark.parametrize("pattern", [[], ["*"]])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("w/notes.txt", ["w"]),
        ("w/sub/b.csv", ["w"]),
        ("data/a.csv", ["data"]),
        ("data/sub/b.csv", ["data"]),
    ],
)
def test_rm_leaves_what_is_no_result(
    key: str,
    words: list[str],
    pattern: list[str],
    storage: FileStorage,
    do: Do,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other files are left, and counted; a folder that has only others is no workflow."""
    path = Path(storage.path, key)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("of somebody else")
    said = do("rm", *words, *pattern, "--yes")
    assert path.read_text() == "of somebody else"
    if words == ["w"]:
        assert 0 == said.status
        assert "Removed 3 results" in said.out
        assert [] == [name for name in storage.list_tasks("w") if name != "notes.txt"]
        # A folder is not in the way of removing tasks, but of removing the workflow.
        is_counted = not (pattern and "/sub/" in key)
        assert is_counted == ("1 file(s) or folder(s) in" in caplog.text)
    else:
        assert (2, "") == (said.status, said.out)
        assert "No workflow 'data'" in said.err
        assert 3 == len(storage.list_tasks("w"))


def test_rm_in_the_folder_above(storage: FileStorage, do: Do) -> None:
    """A whole storage is no workflow."""
    above = str(Path(storage.path).parent)
    said = do("rm", "results", "--yes", "--storage", above)
    assert 2 == said.status
    assert 3 == len(storage.list_tasks("w"))


def test_rm_of_results_that_come_meanwhile(
    storage: FileStorage, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was about others: nothing is removed."""

    def answer() -> str:
        storage.save("w", "fit/c", 1)
        return "y\n"

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "readline", answer)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert "stored or removed meanwhile: nothing is removed" in do("rm", "w", "fit/*").err
    assert 4 == len(storage.list_tasks("w"))


AGE = "argument --older-than: '9' is no age such as 90s, 12h or 2d. See functionfuse gc --help"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["rm", "w"],
            "rm asks first, and there is no terminal to ask at: add --yes, or --dry-run",
        ),
        (["rm"], "the following arguments are required: WORKFLOW. See functionfuse rm --help"),
        (["gc", "--older-than", "9"], AGE),
        (["prune", "w", "--keep", "-1"], "--keep is a number from 0 on, not -1"),
        (["prune", "w", "--days", "nan"], "--days is a number from 0 on, not nan"),
        (["prune", "w", "--bytes", "much"], "--bytes is a size as '10 GiB', not 'much'"),
        (["verify", "w", "x"], "unrecognized arguments: x. See functionfuse verify --help"),
    ],
)
def test_wrong_use(storage: FileStorage, do: Do, words: Sequence[str], message: str) -> None:
    """One sentence, exit status 2, and nothing is removed."""
    assert Said(2, "", f"functionfuse: {message}\n") == do(*words)
    assert [3, 1] == [len(storage.list_tasks(name)) for name in ("w", "other")]


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["rm", "zzz", "--yes"], "No workflow 'zzz' in "),
        (["rm", "zzz", "*", "--yes"], "No workflow 'zzz' in "),
        (["rm", "w", "zzz", "--yes"], "No result of task 'zzz' in workflow 'w'"),
        (["rm", "w", "", "--yes"], "No result of task '' in workflow 'w'"),  # not the workflow
        (["prune", "zzz"], "No workflow 'zzz' in "),
        (["verify", "zzz"], "No workflow 'zzz' in "),
    ],
)
def test_unknown_names(storage: FileStorage, do: Do, words: Sequence[str], begins: str) -> None:
    """As in `functionfuse list`, which suggests a name."""
    said = do(*words)
    assert (2, "") == (said.status, said.out)
    assert said.err.startswith(f"functionfuse: {begins}")
    assert 3 == len(storage.list_tasks("w"))


def test_json_can_t_ask(storage: FileStorage, do: Do) -> None:
    """The error is a document, too."""
    said = do("rm", "w", "--json")
    message = "--json can't ask before it removes: add --yes, or --dry-run"
    assert {"error": {"type": "UsageError", "message": message}} == said.document
    assert (2, f"functionfuse: {message}\n") == (said.status, said.err)
    assert 3 == len(storage.list_tasks("w"))


ALL = "fit/a", "fit/b", "load"


@pytest.mark.parametrize("answer", ["y\n", "\x04"], ids=["y", "ctrl-d"])
def test_rm_asks_on_a_terminal(storage: FileStorage, answer: str) -> None:
    """The question is no part of the output."""
    about = f"3 results ({kilobytes(storage, *ALL)}) of workflow 'w'"
    found = Terminal("rm", "w").ends(
        f"Remove {about}? [y/N] ", lambda terminal: terminal.type(answer)
    )
    if answer == "y\n":
        assert (0, f"Removed {about}.\n") == found[:2]
        assert [] == storage.list_tasks("w")
    else:
        assert (1, "", f"Remove {about}? [y/N] \r\nNothing is removed.\r\n") == found
        assert 3 == len(storage.list_tasks("w"))


@pytest.mark.parametrize(("answer", "left"), [("Yes\n", 0), ("\n", 3), ("no\n", 3), ("yess\n", 3)])
def test_answers(
    storage: FileStorage, do: Do, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    """Only "y" and "yes" remove; after another answer, `rm` says so, and exits with 1."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    said = do("rm", "w")
    assert int(left > 0) == said.status
    assert left == len(storage.list_tasks("w"))
    assert ("Nothing is removed." in said.err) == bool(left)


def test_ctrl_c_at_the_question(storage: FileStorage) -> None:
    """Nothing is removed, no traceback is shown, and the exit status is 130."""
    question = f"Remove 3 results ({kilobytes(storage, *ALL)}) of workflow 'w'? [y/N] "
    status, out, shown = Terminal("rm", "w").ends(
        question, lambda terminal: terminal.process.send_signal(signal.SIGINT)
    )
    assert (130, "", f"{question}\r\n") == (status, out, shown)
    assert 3 == len(storage.list_tasks("w"))


def test_a_question_that_nobody_would_see(
    storage: FileStorage, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard error is a file."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert 2 == do("rm", "w").status
    assert 3 == len(storage.list_tasks("w"))


def test_hostile_names(storage: FileStorage, do: Do) -> None:
    """No name moves the cursor, ends a line, or turns the text around."""
    storage.save(HOSTILE, HOSTILE, 1)
    said = do("rm", HOSTILE, "--dry-run")
    size = storage.task_info(HOSTILE, HOSTILE).size
    expected = f"TASK\n{SHOWN}\nWould remove 1 result ({size} B) of workflow '{SHOWN}'.\n"
    assert Said(0, expected, "") == said
    assert [HOSTILE] == do("rm", HOSTILE, "--yes", "--json").document["tasks"]
    assert Said(
        2, "", f"functionfuse: No workflow '{SHOWN}' in the folder {storage.path!r}.\n"
    ) == do(*("rm", HOSTILE, "--yes"))


# prune


def test_prune(storage: FileStorage, do: Do) -> None:
    """A dry run lists the earlier results; without it, they are gone, and the latest stays."""
    sweep(storage, 1, 2, 3)
    sizes = [each.size for each in storage.prune("sweep", keep=0, dry_run=True)]
    table = "TASK    CALL       SIZE  SET ASIDE\n"
    table += "".join(f"double  CALL  {each} B  TIME\n" for each in sizes)
    said = do("prune", "sweep", "--keep", "0", "--dry-run")
    sums = f"2 earlier results ({size(sum(sizes))}) of workflow 'sweep'."
    assert Said(0, f"{table}Would remove {sums}\n", "") == said.masked
    assert Said(0, f"Removed {sums}\n", "") == do("prune", "sweep", "--keep", "0")
    assert [] == storage.earlier("sweep", "double")
    assert 6 == storage.read_task("sweep", "double")
    assert Said(0, "There is nothing to remove.\n", "") == do("prune", "sweep", "--keep", "0")


def test_prune_json(storage: FileStorage, do: Do) -> None:
    """The calls are whole, so `read_task` takes them; times are ISO 8601 in UTC."""
    sweep(storage, 1, 2)
    [earlier] = storage.earlier("sweep", "double")
    document = do("prune", "sweep", "--bytes", "0", "--dry-run", "--json").document
    [removed] = document.pop("removed")
    assert {"workflow": "sweep", "dry_run": True, "bytes": earlier.size} == document
    assert TIME.fullmatch(removed.pop("set_aside"))
    assert {"task": "double", "call": earlier.call, "bytes": earlier.size} == removed


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (["--keep", "1"], [2]),
        (["--days", "0"], []),
        (["--days", "1"], [2, 1]),
        (["--bytes", "1 GiB"], [2, 1]),
        (["--bytes", "0"], []),
        ([], [2, 1]),  # the config has no limits
    ],
)
def test_limits(storage: FileStorage, do: Do, limits: Sequence[str], left: list[int]) -> None:
    """As those of `storage.prune`."""
    sweep(storage, 1, 2, 3)
    time.sleep(0.01)  # so that all are older than 0 days
    if not limits:
        Path("functionfuse.yaml").write_text("{kind: file, options: {path: results}}\n")
    assert 0 == do("prune", "sweep", *limits).status
    calls = [info.call for info in storage.earlier("sweep", "double")]
    assert [2 * number for number in left] == [
        storage.read_task("sweep", "double", call=call) for call in calls
    ]


# gc


def test_gc(storage: FileStorage, do: Do) -> None:
    """Old leftovers go; results and younger leftovers stay."""
    leave(storage, f"w/{TEMPORARY}-1", hours=25)
    leave(storage, f"w/{TEMPORARY}-2", hours=23)
    said = do("gc", "--dry-run")
    expected = (
        "KIND       SIZE  WRITTEN              KEY\n"
        "temporary   4 B  TIME  w/.tmp-CALL-1\n"
        "Would remove 1 leftover (4 B).\n"
    )
    assert Said(0, expected, "") == said.masked
    assert Said(0, "Removed 1 leftover (4 B).\n", "") == do("gc")
    assert Said(0, "There is nothing to remove.\n", "") == do("gc")
    assert [f"{TEMPORARY}-2"] == [path.name for path in Path(storage.path, "w").glob(".tmp*")]
    assert {""} == {record.problem for record in storage.verify()}


@pytest.mark.parametrize(
    ("age", "gone"), [("2h", 1), ("0.5h", 2), ("90m", 1), ("600s", 2), ("1w", 0), ("0s", 2)]
)
def test_ages(storage: FileStorage, do: Do, age: str, gone: int) -> None:
    leave(storage, f"w/{TEMPORARY}-1", hours=1)
    leave(storage, f"w/{TEMPORARY}-2", hours=30)
    document = do("gc", "--older-than", age, "--json").document
    assert (gone, 4 * gone) == (len(document["removed"]), document["bytes"])


def test_gc_json(storage: FileStorage, do: Do) -> None:
    leave(storage, f"w/{TEMPORARY}-1", hours=25)
    document = do("gc", "--json").document
    assert TIME.fullmatch(document["removed"][0].pop("written"))
    removed = [{"key": f"w/{TEMPORARY}-1", "kind": "temporary", "bytes": 4}]
    expected = {"older_than": 86400.0, "dry_run": False, "bytes": 4, "removed": removed}
    assert expected == document


# verify


def test_verify(storage: FileStorage, do: Do) -> None:
    """Sound results in one line."""
    total = sum(record.size for record in storage.verify())
    expected = f"4 results ({total / 1000:.1f} kB): no problem found.\n"
    assert Said(0, expected, "") == do("verify")
    assert do("verify", "other").out.startswith("1 result (")


def test_verify_finds_damage(storage: FileStorage, do: Do) -> None:
    """The result and the problem are named; the exit status is 1."""
    damage(storage, "w", "load")
    said = do("verify")
    [problem] = [record.problem for record in storage.verify() if record.problem]
    expected = (
        f"WORKFLOW  TASK  CALL  PROBLEM\nw         load        {problem}\n"
        "4 results: 1 with a problem.\n"
    )
    assert Said(1, expected, "") == said
    assert 0 == do("verify", "other").status
    document = do("verify", "w", "--json").document
    found = {"workflow": "w", "task": "load", "call": "", "problem": problem}
    assert [found] == document["problems"]
    assert ("w", 3) == (document["workflow"], document["results"])


def test_verify_an_empty_storage(do: Do, tmp_path: Path) -> None:
    """There is nothing wrong with it."""
    said = do("verify", "--storage", str(tmp_path))
    assert Said(0, "0 results (0 B): no problem found.\n", "") == said


# processes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prune", "w"], "There is nothing to remove.\n"),
        (["gc"], "There is nothing to remove.\n"),
        (["verify", "w"], "3 results ({size}): no problem found.\n"),
    ],
    ids=["prune", "gc", "verify"],
)
def test_as_a_process(storage: FileStorage, words: Sequence[str], expected: str) -> None:
    """As it is typed; for `rm`, see above."""
    expected = expected.format(size=kilobytes(storage, *ALL))
    assert Said(0, expected, "") == process(*words)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_folder_without_rights() -> None:
    """Another user is told, in one sentence, and no result is lost."""
    code = (
        "import os, sys; from functionfuse.cli import main, upkeep; import functionfuse.kinds\n"
        "import functionfuse.config.factories\n"
        "main.run(['rm', 'w', '--dry-run', '--storage', sys.argv[1]])  # imports everything\n"
        "os.setuid(65534)\n"
        "sys.exit(main.run(['rm', 'w', '--yes', '--storage', sys.argv[1]]))"
    )
    with TemporaryDirectory() as folder:  # those of pytest are closed to other users
        storage = FileStorage(folder)
        storage.save("w", "t", 1)
        os.chmod(folder, 0o755)
        command = [sys.executable, "-c", code, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert 2 == done.returncode, done
        assert re.fullmatch(r"functionfuse: .*Permission denied.*\n", done.stderr), done.stderr
        assert ["t"] == storage.list_tasks("w")
