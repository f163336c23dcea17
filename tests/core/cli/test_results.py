"""The commands that show what is stored, on files: texts, documents, errors in a sentence."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rain_store
from kept_values import Kept, KeptSerializer
from rain_store import CALLS, DOCUMENTS, RUNS, TEXTS, masked

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.header import TaskInfo, encoded

Typed = Callable[..., tuple[int, str, str]]

# ESC, newline, right-to-left override, a wide character, half of a character, a quotation mark.
HOSTILE = "\x1b[31m\n\u202e漢\ud800'\""
HOSTILE_SHOWN = r"\x1b[31m\n\u202e漢\ud800'" + '"'


def refused(typed: Typed, *words: str, status: int = 2) -> str:
    """Return the sentence on stderr; with `--json`, the same is on stdout in a document."""
    found, out, err = typed(*words)
    assert (status, "") == (found, out)
    assert err.startswith("functionfuse: ")
    assert 1 == err.count("\n")
    assert "\x1b" not in err
    found, out, err_ = typed(*words, "--json")
    assert (status, err) == (found, err_)
    about = json.loads(out)["error"]
    assert {"type", "message"} == about.keys()
    assert 1 == out.count("\n")
    return err.removeprefix("functionfuse: ").removesuffix("\n")


@pytest.mark.parametrize("command", TEXTS)
def test_text(command: str, rain: FileStorage, typed: Typed) -> None:
    """Exactly this, whether a folder or a config is named, or the config is found."""
    expected = (0, TEXTS[command], "")
    for where in ((), ("--storage", "results"), ("--config", "functionfuse.json")):
        status, out, err = typed(*shlex.split(command), *where)
        assert expected == (status, masked(out), err)


@pytest.mark.parametrize("command", DOCUMENTS)
def test_json(command: str, rain: FileStorage, typed: Typed) -> None:
    """One document in one line."""
    status, out, err = typed("--json", *shlex.split(command))
    assert (0, "") == (status, err)
    assert 1 == out.count("\n")
    assert DOCUMENTS[command] == json.loads(masked(out))


@pytest.mark.parametrize("command", [*TEXTS][::3])
def test_in_a_process(command: str, rain: FileStorage) -> None:
    """The program prints the same, in UTF-8."""
    words = [sys.executable, "-m", "functionfuse", *shlex.split(command)]
    done = subprocess.run(
        words, check=True, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert (TEXTS[command], b"") == (masked(done.stdout.decode()), done.stderr)


def test_results_of_runs(typed: Typed, tmp_path: Path) -> None:
    """All commands read what real runs have left, also one that failed."""

    @workflow
    def load(days: int) -> list[int]:
        return [3, 4][:days]

    @workflow
    def mean(rain: list[int]) -> float:
        return sum(rain) / len(rain)

    for days in (2, 1, 0):
        nodes = mean(load(days).set_name("load")).set_name("mean")
        flow = LocalWorkflow(nodes, workflow_name="rain")
        flow.set_storage(FileStorage(tmp_path / "r"))
        if days:
            flow.run()
        else:
            with pytest.raises(ZeroDivisionError):
                flow.run()
    storage = ["--storage", "r"]
    assert 0 == typed("show", "rain", "mean", *storage)[0]
    _, out, _ = typed("runs", "rain", *storage, "--json")
    assert [
        ({"computed": 2}, None),
        ({"computed": 2}, None),
        ({"computed": 1, "failed": 1}, "mean"),
    ] == [(run["actions"], (run["error"] or {}).get("node")) for run in json.loads(out)["runs"]]
    _, out, _ = typed("runs", "rain", "--compare", "-3", "-2", *storage)
    assert "load  argument  days  2         →  1\n" in out
    _, out, _ = typed("earlier", "rain", "mean", *storage, "--json")
    (call,) = [each["call"] for each in json.loads(out)["earlier"]]
    _, out, _ = typed("show", "rain", "mean", "--call", call[:6], "--value", *storage)
    assert "PARENT  CALL      DIGEST\nload    " in out
    assert out.endswith("\nVALUE\n3.5\n")
    _, out, _ = typed("lineage", "rain", "mean", "--call", call, *storage)
    assert ["mean", "└─"] == [line.split()[0] for line in out.splitlines()]


NO_TASK = "No result of task 'lod' in workflow 'rain' (did you mean 'load'?)."
NO_WORKFLOW = "No workflow 'rian' in the folder '{}' (did you mean 'rain'?)."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("list rian", NO_WORKFLOW),
        ("list x*", "No workflow in the folder '{}' matches 'x*'."),
        ("list x* y", "No workflow 'x*' in the folder '{}'."),
        ("list rain x*", "No result of workflow 'rain' matches 'x*'."),
        ("list rain lod", NO_TASK),
        ("show rian load", NO_WORKFLOW),
        ("show rain lod", NO_TASK),
        ("show rain lod --call f", NO_TASK),
        ("show rain load --call f", "Task 'load' has no call that begins with 'f'."),
        ("show rain smooth --call 6", None),
        ("show rain", "the following arguments are required: TASK. See functionfuse show --help"),
        ("earlier rian", NO_WORKFLOW),
        ("earlier rain lod", NO_TASK),
        ("lineage rain lod", NO_TASK),
        ("lineage rain load --call 7", "Task 'load' has no call that begins with '7'."),
        ("runs rian", NO_WORKFLOW),
        ("runs rian --run -1", NO_WORKFLOW),
        ("runs rain --run 2027", "Workflow 'rain' has no run id that begins with '2027'."),
        ("runs rain --run -3", "Workflow 'rain' has 2 recorded runs only."),
        ("runs rain --run -0", "Workflow 'rain' has no run id that begins with '-0'."),
        ("runs rain --compare -1 2026", None),
        ("runs rain --last 0", "argument --last: '0' is no number from 1 on. See"),
        ("runs rain --last 1 --run 2", "argument --run: not allowed with argument --last. See"),
    ],
)
def test_unknown_names(words: str, message: str | None, rain: FileStorage, typed: Typed) -> None:
    """The sentence says what there is no such thing of, and what is meant."""
    if message is None:
        owner, noun, keys = "Workflow 'rain'", "run id", ", ".join(RUNS)
        if "--call" in words:
            owner, noun, keys = "Task 'smooth'", "call", f"{CALLS['old']}, {CALLS['new']}"
        prefix = words.rpartition(" ")[2]
        message = f"{owner} has 2 {noun}s that begin with {prefix!r}: {keys}. Give more characters"
    if message.endswith(" See"):
        message += f" functionfuse {words.split(maxsplit=1)[0]} --help"
    assert message.format(rain.path) == refused(typed, *words.split())


def test_an_empty_storage(typed: Typed, tmp_path: Path) -> None:
    """A newcomer reads where results come from."""
    (tmp_path / "empty").mkdir()
    text = (
        f"There are no results in the folder '{tmp_path}/empty'. A workflow stores its results"
        " after `set_storage`. Another storage is opened by --storage FOLDER or --config FILE."
    )
    where = ["--storage", "empty"]
    assert (0, f"{text}\n", "") == typed("list", *where)
    assert (0, '{"workflows": []}\n', "") == typed("list", "--json", *where)
    for words in ("list w", "show w t", "earlier w", "lineage w t", "runs w", "runs w --run -1"):
        assert text == refused(typed, *words.split(), *where)


def test_hostile_names(typed: Typed, rain: FileStorage, tmp_path: Path) -> None:
    """Control characters are escaped, each name stays in its line, and JSON has the name itself."""
    about: dict[str, Any] = {"function": HOSTILE, "run": HOSTILE}
    about["fingerprint"] = {"why not": HOSTILE, "arguments": {HOSTILE: [HOSTILE, "a" * 16]}}
    rain.save(HOSTILE, HOSTILE, HOSTILE, **about)
    rain.save(HOSTILE, "child", 1, fingerprint={"call": "c", "parents": [[HOSTILE, "d", "e", "f"]]})
    for command in ("list", "list NAME", "show NAME NAME --value", "show NAME child",
                    "lineage NAME child", "lineage NAME NAME", "earlier NAME NAME"):  # fmt: skip
        words = [HOSTILE if word == "NAME" else word for word in command.split()]
        status, out, err = typed(*words)
        assert (0, "") == (status, err)
        assert HOSTILE_SHOWN in out.replace("\\'", "'")
        assert [] == [char for char in out if char != "\n" and not char.isprintable()]
        assert "漢" in out
        status, out, err = typed(*words, "--json")
        assert (0, "") == (status, err)
        assert out.isascii()
        assert out[:-1].isprintable()
        assert (HOSTILE in json.loads(out).values()) == (command != "list")
    _, out, _ = typed("list", HOSTILE)
    _, second, third = out.splitlines()
    assert second.index(" B ") + 1 == third.index(" B ")  # 漢 takes two columns
    message = refused(typed, "show", HOSTILE, HOSTILE[1:])
    assert message.startswith("No result of task '[31m\\n\\u202e漢\\ud800\\'\"' in workflow ")


def damage(rain: FileStorage, key: str, at: int) -> None:
    """Change one byte of a file."""
    path = Path(rain.path, *key.split("/"))
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damaged_headers(rain: FileStorage, typed: Typed) -> None:
    """The list tells the others, too; the status is 1, and an earlier result can be shown."""
    damage(rain, "rain/smooth", 100)
    status, out, err = typed("list", "rain")
    damaged = "smooth                                            (DamagedResultError)"
    assert (1, damaged, "") == (status, out.splitlines()[-1], err)
    status, out, _ = typed("list", "rain", "--json")
    assert 1 == status
    problem = {"task": "smooth", "problem": "the header is not what was written"}
    assert problem == json.loads(out)["tasks"][-1]
    for words in ("show rain smooth", "show rain smooth --value", "lineage rain smooth"):
        message = refused(typed, *words.split(), status=1)
        where = f"task 'smooth' of workflow 'rain' in FileStorage(FileStore('{rain.path}'))"
        expected = f"the header is not what was written; while reading {where}; run the workflow"
        assert message.startswith(expected)
    command = "show rain smooth --call 6f"
    assert TEXTS[command] == masked(typed(*command.split())[1])
    status, out, _ = typed("lineage", "rain", "score/error")
    assert 0 == status
    assert "├─ smooth    (not stored: the header is not what was written)\n" in out


def test_a_damaged_value(rain: FileStorage, typed: Typed) -> None:
    """The header can be shown, and the value can't."""
    damage(rain, "rain/smooth", -1)
    assert 0 == typed("show", "rain", "smooth")[0]
    message = refused(typed, "show", "rain", "smooth", "--value", status=1)
    assert message.startswith("the pickle (bytes 943 to 967) is not what was written; while")


def test_damaged_records(rain: FileStorage, typed: Typed) -> None:
    """One that can't be read is left out with a warning; damaged nodes are bad news."""
    damage(rain, f"rain/.runs/{RUNS[0]}", -1)
    status, out, err = typed("runs", "rain")
    assert (0, [RUNS[1]]) == (status, [line.split()[0] for line in out.splitlines()[1:]])
    assert err.startswith(f"functionfuse: warning: the record of run '{RUNS[0]}' of workflow")
    head = rain_store.head(1, 1.0, None)
    rain.record_run("rain", head, {"name": ["t"], "action": [3]})
    status, out, _ = typed("runs", "rain")
    assert (1, "(DamagedResultError)") == (status, out.splitlines()[1].split()[-1])
    status, out, _ = typed("runs", "rain", "--json")
    (about,) = json.loads(out)["runs"]
    assert (1, {}) == (status, about["actions"])
    assert about["problem"].startswith(f"run '{RUNS[1]}' of workflow 'rain': ")
    for words in (["--run", "-1"], ["--compare", "-1", "-1"]):
        status, _, err = typed("runs", "rain", *words)
        assert 1 == status
        assert f"functionfuse: run '{RUNS[1]}' of workflow 'rain': " in err


def test_a_header_that_is_only_half_right(rain: FileStorage, typed: Typed) -> None:
    """The part of it that a plan needs is in order; the list tells what isn't."""
    fields = [*rain.task_info("rain", "load")[:20]]
    fields[TaskInfo._fields.index("packages")] = [1]
    pickled = bytes(rain.store.get("rain/load"))[-fields[7][0] :]
    rain.store.put("rain/load", [encoded(tuple(fields)), pickled])
    status, out, _ = typed("list", "rain", "--json")
    problem = "the header is not as specified: the type of packages"
    assert (1, problem) == (status, json.loads(out)["tasks"][0]["problem"])


def test_order_of_earlier_results(rain: FileStorage, typed: Typed) -> None:
    """Tasks are sorted, the newest result of each comes first, and the latest isn't there."""
    for digit in "123":
        for task in ("a", "b"):
            rain.save("w", task, digit, fingerprint={"call": digit * 32})
    _, out, _ = typed("earlier", "w", "--json")
    found = [(each["task"], each["call"][:1]) for each in json.loads(out)["earlier"]]
    assert [("a", "2"), ("a", "1"), ("b", "2"), ("b", "1")] == found
    rain.restore("w", {"a": ("1" * 32, next(rain.task_infos("w", ["a"])))})
    _, out, _ = typed("earlier", "w", "a", "--json")  # a copy of the latest is none
    assert ["3", "2"] == [each["call"][:1] for each in json.loads(out)["earlier"]]


def test_changes_of_values_that_json_lacks(rain: FileStorage, typed: Typed) -> None:
    """They differ from the same texts as arguments."""
    for number, (rate, rows) in enumerate(
        [(0.5, "missing"), ({"type": "float", "float": "inf"}, None)]
    ):
        arguments = [{"rate": rate, "rows": rows} if rows else {"rate": rate}]
        nodes = {"name": ["t"], "action": ["computed"], "arguments": arguments}
        rain.record_run("rain", rain_store.head(number, 1.0, None), nodes)
    changes = json.loads(typed("runs", "rain", "--compare", "-2", "-1", "--json")[1])["changes"]
    assert [
        ("rate", 0.5, {"described": "inf"}),
        ("rows", "missing", {"described": "missing"}),
    ] == [(change["name"], change["before"], change["after"]) for change in changes]


def test_side_data(rain: FileStorage, typed: Typed) -> None:
    """Its size counts, and its files are in the document."""
    rain.register_persistent_serializers(KeptSerializer)
    rain.save("w", "t", Kept(b"kept" * 100))
    _, out, _ = typed("show", "w", "t")
    assert "side data     kept (unknown distribution): 1 file, 400 B\n" in out
    assert " 400 B of them side data\n" in out
    about = json.loads(typed("show", "w", "t", "--json")[1])
    assert 400 == about["side_bytes"]
    (side,) = about["side_data"]
    assert ("kept", "kept_values.Kept") == (side["serializer"], side["type"])
    assert [400] == [file["bytes"] for file in side["files"]]
    message = refused(typed, "show", "w", "t", "--value", status=1)
    assert "'kept'" in message


def test_values(
    rain: FileStorage, typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The repr keeps its lines, and is cut; modules are found in the folder, and may print."""
    code = """if True:
        print("imported")
        class Lines:
            def __repr__(self): return "two\\nlines\\x1b"
        class Wrong:
            def __repr__(self): raise LookupError("no")
        class Gone: pass
    """
    (tmp_path / "their_values.py").write_text(code)
    sys.path.append(str(tmp_path))
    their_values = importlib.import_module("their_values")
    for name in ("Lines", "Wrong", "Gone"):
        rain.save("w", name, getattr(their_values, name)())
    rain.save("w", "long", "x" * 3000)
    sys.path.pop()
    del sys.modules["their_values"]
    (tmp_path / "their_values.py").write_text(code.replace("Gone", "Other"))
    importlib.invalidate_caches()
    capsys.readouterr()
    status, out, err = typed("show", "w", "Lines", "--value", "--json")
    assert (0, "imported\n", "two\nlines\x1b") == (status, err, json.loads(out)["value"])
    assert typed("show", "w", "Lines", "--value")[1].endswith("\n\nVALUE\ntwo\nlines\\x1b\n")
    assert typed("show", "w", "long", "--value")[1].endswith(f"\nVALUE\n'{'x' * 1999}…\n")
    message = refused(typed, "show", "w", "Wrong", "--value", status=1)
    assert "The value of task 'Wrong' has no repr: LookupError: no" == message
    message = refused(typed, "show", "w", "Gone", "--value", status=1)
    assert "ImportError: 'Gone' of module 'their_values': Can't get attribute 'Gone'" in message
    del sys.modules["their_values"]


def refusing(*arguments: Any, **options: Any) -> Iterator[str]:
    """Stand in for a folder that this user may not read; root may read any."""
    raise PermissionError(errno.EACCES, "Permission denied", "results")


@pytest.mark.parametrize(
    "words",
    ["list", "list rain", "show rain load", "show rain load --call 6", "earlier rain",
     "lineage rain load", "runs rain", "runs rain --run -1"],
)  # fmt: skip
def test_no_permission(
    words: str, rain: FileStorage, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's sentence, and status 2."""
    for name in ("names", "list", "heads", "head"):
        monkeypatch.setattr(FileStore, name, refusing)
    message = refused(typed, *words.split())
    assert message.startswith("[Errno 13] Permission denied: 'results'")


CONFIGS = [
    ("{", "functionfuse.json:1:2: no JSON: "),
    ('{"kind": "fil", "options": {}}', "functionfuse.json:1:10: no storage of kind 'fil' is inst"),
    ('{"kind": "file"}', "storage 'file': option 'path' is missing"),
    ('{"kind": "file", "options": {"path": "r", "pth": 1}}', "unknown option 'pth'"),
    ('{"kind": "file", "options": {"path": "${NOWHERE}"}}', "variable 'NOWHERE' is not set"),
    ('{"backend": {"kind": "local"}}', "the config has no storage"),
]


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_a_wrong_config(config: str, message: str, typed: Typed, tmp_path: Path) -> None:
    """The place in it is named; it doesn't matter to who names a folder."""
    (tmp_path / "functionfuse.json").write_text(config)
    assert message in refused(typed, "show", "w", "t")
    (tmp_path / "r").mkdir()
    assert 0 == typed("list", "--storage", "r")[0]


def test_which_config(typed: Typed, rain: FileStorage, tmp_path: Path) -> None:
    """One in a folder above is found; two in one folder are refused, and two options, too."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    os.chdir(tmp_path / "a" / "b")
    expected = TEXTS["list rain"]
    assert expected == masked(typed("list", "rain")[1])
    (tmp_path / "a" / "functionfuse.json").write_text("{}")
    (tmp_path / "a" / "functionfuse.toml").write_text("")
    several = f"the folder '{tmp_path}/a' has several configs: functionfuse.json, functionfuse.toml"
    assert several == refused(typed, "runs", "rain")
    config = ("--config", str(tmp_path / "functionfuse.json"))
    assert expected == masked(typed("list", "rain", *config)[1])
    message = refused(typed, "earlier", "rain", *config, "--storage", str(tmp_path / "results"))
    assert "--storage and --config exclude each other" == message


def test_no_config(typed: Typed) -> None:
    """It says how to come by one."""
    message = refused(typed, "lineage", "w", "t")
    assert message.startswith("there is no config: ")
    assert message.endswith("`functionfuse config init` makes one; --storage FOLDER needs none")


NO_CONFIG = {"pydantic", "yaml", "importlib.metadata", "email", "functionfuse.config"}
# By how the storage is named: what must not be imported, and what is.
IMPORTS = [
    (["--storage", "results"], NO_CONFIG, {"functionfuse.cli.results"}),
    (["--config", "functionfuse.json"], {"yaml"}, {"pydantic"}),
    (["--config", "functionfuse.yaml"], set(), {"pydantic", "yaml"}),
]
HEAVY = {"boto3", "botocore", "ray", "dask", "distributed", "numpy", "pandas", "rich", "h5py"}
HEAVY |= {"concurrent.futures.process", "multiprocessing", "functionfuse.run"}
HEAVY |= {"functionfuse.reuse", "functionfuse.cli.running", "functionfuse.cli.runs", "asyncio"}


@pytest.mark.parametrize(("where", "without", "with_"), IMPORTS)
def test_what_list_imports(
    where: list[str], without: set[str], with_: set[str], rain: FileStorage, tmp_path: Path
) -> None:
    """No SDK, nothing that computes, and pydantic and yaml for a config only."""
    (tmp_path / "functionfuse.yaml").write_text("{kind: file, options: {path: results}}")
    code = (
        "import sys; sys.argv[1:] = ['list', 'rain', *sys.argv[1:]]\n"
        "from functionfuse.__main__ import main\n"
        "status = main()\n"
        "print(status, *sys.modules, sep='\\n')"
    )
    words = [sys.executable, "-c", code, *where]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    text, _, rest = done.stdout.partition("\n0\n")
    assert TEXTS["list rain"] == masked(f"{text}\n")
    modules = set(rest.split("\n"))
    assert set() == (HEAVY | without) & modules
    assert with_ <= modules
    if "pydantic" in without:
        bare = [sys.executable, "-c", "import sys; print(*sys.modules, sep='\\n')"]
        done = subprocess.run(bare, check=True, capture_output=True, text=True)
        assert len(modules.difference(done.stdout.splitlines())) < 190
