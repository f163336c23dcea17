"""The commands run and plan: for a script, and for module:function."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from functionfuse.cli.main import run
from functionfuse.storage.filestorage import FileStorage

PIPE = """
    import os
    import sys

    from functionfuse import LocalWorkflow, storage_factory, workflow

    @workflow
    def load(data):
        return [1, 2, 3]

    @workflow
    def fit(rows, rate):
        if rate > 5:
            raise ValueError("rate is big")
        return sum(rows) * rate

    @workflow
    def where(name, after):
        return os.getpid()

    def build(data="data", model=None):
        rows = load(data).set_name("load")
        rates = (model or {"rates": [1, 2]})["rates"]
        return [fit(rows, rate).set_name(f"fit/{rate}") for rate in rates]

    def pids(count=2):
        return [where(name, load(name)) for name in range(count)]

    def broken(data):
        raise LookupError("the build is broken")

    def nothing():
        return 3

    if __name__ == "__main__":
        print("arguments", sys.argv)
        flow = LocalWorkflow(*build(), workflow_name="pipe")
        flow.set_storage(storage_factory())
        print("values", flow.run())
        print("after")
        if "--fail" in sys.argv:
            raise ArithmeticError("after the run")
        if "--exit" in sys.argv:
            sys.exit(7)
"""
CONFIG = """
    storage:
      kind: file
      options: {path: results}
"""
PLAN = """\
load   compute                             nothing stored
fit/1  compute                             nothing stored
fit/2  compute                             nothing stored
workflow 'pipe': 3 compute
"""
REUSED = """\
load   reuse                  # bytes
fit/1  reuse                  # bytes
fit/2  reuse                  # bytes
workflow 'pipe': 3 reuse, # bytes
"""

Say = Callable[..., tuple[int, str, str]]


def status_of(words: Sequence[str]) -> int:
    """Return the exit status of a command line."""
    try:
        return run(words)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def told() -> list[str]:
    """The lines about ended runs, which are on standard error where that is no terminal."""
    return []


@pytest.fixture
def say(
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Say:
    """Return a function that runs a command line in a folder with a pipeline and a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    (tmp_path / "pipe.py").write_text(textwrap.dedent(PIPE))
    (tmp_path / "functionfuse.yaml").write_text(textwrap.dedent(CONFIG))

    def said(*words: str) -> tuple[int, str, str]:
        before = [*sys.path], {**os.environ}
        sys.modules.pop("pipe", None)
        status = status_of(words)
        sys.path[:] = before[0]
        os.environ.clear()
        os.environ.update(before[1])
        sys.modules.pop("pipe", None)
        out, err = capsys.readouterr()
        told.extend(re.findall("functionfuse: ([✓✕] .*) in [0-9.]+ s\n", err))
        err = re.sub("functionfuse: [✓✕] .*\n", "", err)
        return status, re.sub("[0-9,]+ bytes", "# bytes", out), err

    return said


def test_a_script(say: Say, tmp_path: Path) -> None:
    """It runs as with `python`, and all words after it are its own."""
    status, out, err = say("run", "pipe.py", "--of-its-own", "-h")
    assert (0, "") == (status, err)
    assert "arguments ['pipe.py', '--of-its-own', '-h']\nvalues [6, 12]\nafter\n" == out
    assert (0, "arguments ['pipe.py']\nvalues [6, 12]\nafter\n", "") == say("run", "pipe.py")
    status, out, err = say("plan", "pipe.py")
    assert (0, f"arguments ['pipe.py']\n{REUSED}") == (status, out)
    assert "functionfuse: pipe.py is run up to its first run(); value() computes\n" == err


def test_the_end_of_each_run_is_told(
    say: Say, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a script and of module:function; not of a plan, and not if progress is switched off."""
    say("plan", "pipe.py")
    say("run", "pipe.py")
    say("run", "pipe", "--set", "model.rates=[1, 9]")
    assert [
        "✓ pipe: 3 computed",
        "✕ pipe: 1 failed, 2 reused (saved 0.0 s)",
    ] == [re.sub(r"saved [0-9.]+ s", "saved 0.0 s", line) for line in told]
    monkeypatch.setenv("FUNCTIONFUSE_PROGRESS", "0")
    say("run", "pipe")
    assert 2 == len(told)


def test_python_and_the_command_reuse_each_others_results(say: Say, tmp_path: Path) -> None:
    """A script, the same script as `run` runs it, and module:function."""
    subprocess.run([sys.executable, "pipe.py"], check=True, cwd=tmp_path)
    assert say("plan", "pipe.py")[1].endswith(REUSED)
    assert (0, REUSED, "") == say("plan", "pipe")
    assert (0, REUSED, "") == say("plan", "pipe:build", "--set", "data=data")
    status, out, _ = say("run", "pipe")
    assert (0, "") == (status, out)


def test_a_plan(say: Say, tmp_path: Path) -> None:
    """Nothing is computed or stored; `--check` tells by the status whether there is work."""
    for target in ("pipe.py", "pipe"):
        assert PLAN == say("plan", target)[1].removeprefix("arguments ['pipe.py']\n")
        assert 1 == say("plan", "--check", target)[0]
    assert not (tmp_path / "results").exists()
    say("run", "pipe")
    for target in ("pipe.py", "pipe"):
        assert 0 == say("plan", "--check", target)[0]
    status, out, _ = say("plan", "pipe", "--check", "--json", "--set", "model={rates: [1, 3]}")
    found = json.loads(out)
    assert (1, "pipe", []) == (status, found["workflow"], found["notes"])
    about = {"reason": "", "seconds": 0.0}
    first, second, third = found["nodes"]
    assert ("load", "reuse") == (first["node"], first["action"])
    assert {"node": "fit/1", "action": "reuse", **about, "bytes": second["bytes"]} == second
    about = {"reason": "nothing stored", "seconds": 0.0}
    assert {"node": "fit/3", "action": "compute", **about, "bytes": 0} == third


def test_maybe_is_work(say: Say) -> None:
    """Nodes whose inputs are computed first count for `--check`, too."""
    say("run", "pipe")
    status, out, _ = say("plan", "pipe", "--check", "--json", "--set", "data=other")
    actions = {node["node"]: node["action"] for node in json.loads(out)["nodes"]}
    assert {"load": "compute", "fit/1": "maybe", "fit/2": "maybe"} == actions
    assert 1 == status


SEVERAL = """
    from functionfuse import LocalWorkflow, storage_factory, workflow

    @workflow
    def same(value):
        print("computes", value)
        return value

    for name in ("one", "two", "three"):
        node = same(name)
        flow = LocalWorkflow(node, workflow_name=name)
        flow.set_storage(storage_factory())
        if name == "three":
            print("value", flow.value(same("early")))
        try:
            flow.run()
        except Exception:
            print("caught")
"""


def test_a_script_with_several_workflows(say: Say, tmp_path: Path) -> None:
    """The plan is that of the first, or of a named one: those before it are run."""
    (tmp_path / "several.py").write_text(textwrap.dedent(SEVERAL))
    status, out, _ = say("plan", "several.py")
    assert (0, "same_0000  compute") == (status, out[:18])
    status, out, _ = say("plan", "--workflow", "three", "several.py")
    assert 0 == status
    assert [
        "computes one",
        "computes two",
        "computes early",
        "value early",
    ] == out.splitlines()[:4]
    assert "workflow 'three': 1 compute" in out
    assert "computes three" not in out
    status, out, err = say("plan", "--workflow", "four", "several.py")
    message = "several.py runs 'one', 'two', 'three', and no workflow 'four'"
    assert 2 == status
    assert message in err


def test_parameters(say: Say, tmp_path: Path) -> None:
    """A file, then single values, also parts; a wrong name is told before anything is built."""
    (tmp_path / "params.yml").write_text("data: other\nmodel:\n  rates: [4]\n  depth: 1\n")
    say("run", "pipe", "--params", "params.yml", "--set", "model.depth=2", "--name", "w")
    assert ["fit/4", "load"] == FileStorage(tmp_path / "results").list_tasks("w")
    set_ = "--set", "model.rates=[1, 2.5]", "--set", "model.note=yes it is"
    status, out, _ = say("plan", "--params", "params.yml", *set_[:2], "pipe", *set_[2:], "--json")
    assert ["load", "fit/1", "fit/2.5"] == [node["node"] for node in json.loads(out)["nodes"]]
    for words, message in [
        (["--set", "modl=3"], "pipe:build(data='data', model=None): unexpected keyword argument"),
        (["--set", "model"], "--set takes NAME=VALUE, or NAME.PART=VALUE, and not 'model'"),
        (["--set", "model.=3"], "--set takes NAME=VALUE"),
        (["--set", "data=[1"], "--set data=[1: the value is no YAML: "),
        (["--set", "data=1", "--set", "data.x=1"], "--set data.x=1: 'data' is no mapping"),
        (["--params", "no.yml"], "the config file 'no.yml' can't be read"),
        (["--params", "functionfuse.yaml"], "unexpected keyword argument 'storage'"),
        (["more"], "pipe takes no argument 'more': a parameter is --set NAME=VALUE"),
        (["--workers", "0"], "argument --workers: it is a number from 1 on"),
        (["--reuse", "perhaps"], "argument --reuse: invalid choice: 'perhaps'"),
    ]:
        status, out, err = say("plan", "pipe", *words)
        assert (2, "") == (status, out)
        assert message in err
        assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["run", "nowhere.py"], 2, "there is no script 'nowhere.py'"),
        (["run", "nowhere"], 2, "there is neither a script nor a module 'nowhere'"),
        (["run", "no way"], 2, "'no way' is neither a script nor module:function"),
        (["run", "pipe:buld"], 2, "has no function 'buld' (did you mean 'build'?)"),
        (["run", "--storage", "s", "pipe.py"], 2, "--storage is for module:function; the script"),
        (["run", "--backend", "ray", "pipe.py"], 2, "makes its own backend"),
        (["plan", "--set", "a=1", "pipe.py"], 2, "--set is for module:function"),
        (["run", "--json", "pipe.py"], 2, "--json is for module:function"),
        (["plan", "--workflow", "w", "pipe"], 2, "--workflow is for a script"),
        (["run", "pipe", "--backend", "rya"], 2, "no backend of kind 'rya' is installed"),
        (["run", "pipe:nothing"], 2, "a workflow is made from nodes, not from 3"),
        (["run", "pipe:broken", "--set", "data=1"], 1, "LookupError: the build is broken"),
        (["run", "pipe:broken"], 2, "pipe:broken(data): missing a required argument: 'data'"),
        (["plan", "pipe:broken", "--set", "data=1"], 2, "LookupError: the build is broken"),
        (["plan", "broken.py"], 2, "broken.py failed before its first run()"),
        (["plan", "quiet.py"], 2, "quiet.py ends without a run() of a workflow"),
        (["run", "missing"], 1, "ModuleNotFoundError: No module named 'does_not_exist'"),
    ],
)
def test_what_is_refused(
    words: list[str], status: int, message: str, say: Say, tmp_path: Path
) -> None:
    """By a sentence; the error of a user's code is shown with its lines, and none of ours."""
    (tmp_path / "broken.py").write_text("import json\njson.loads('{')\n")
    (tmp_path / "quiet.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "missing.py").write_text("import does_not_exist\n")
    found, _, err = say(*words)
    assert status == found
    assert message in err
    package = f"{os.sep}functionfuse{os.sep}"
    assert package not in err
    assert "runpy" not in err


def test_a_failing_node(say: Say) -> None:
    """The user's lines and the node are shown; the status is 1, also with `--keep-going`."""
    rates = "--set", "model.rates=[1, 9, 3]"
    status, out, err = say("run", "pipe", *rates)
    assert (1, "") == (status, out)
    assert 'pipe.py", line 14, in fit\n    raise ValueError("rate is big")' in err
    assert "ValueError: rate is big\nin node 'fit/9' of workflow 'pipe': pipe.fit, called in" in err
    assert "scheduler.py" not in err
    assert "scheduler.py" in say("run", "pipe", *rates, "--debug")[2]
    status, out, err = say("run", "pipe", *rates, "--keep-going", "--json")
    assert {"load": "reused", "fit/1": "reused", "fit/9": "failed", "fit/3": "computed"} == {
        node["node"]: node["action"] for node in json.loads(out)["nodes"]
    }


def test_an_error_of_a_script(say: Say) -> None:
    """Its lines are shown; its exit status is that of the script."""
    status, out, err = say("run", "pipe.py", "--fail")
    assert 1 == status
    assert out.endswith("after\n")
    lines = err.splitlines()
    assert "Traceback (most recent call last):" == lines[0]
    assert "ArithmeticError: after the run" == lines[-1]
    assert 1 == err.count("  File ")
    assert 7 == say("run", "pipe.py", "--exit")[0]


def test_an_error_of_ours_in_a_script(say: Say, tmp_path: Path) -> None:
    """It is one sentence, with the line of the script."""
    (tmp_path / "wrong.py").write_text(
        "from functionfuse import storage_factory\n\nstorage_factory({'kind': 'fle'})\n"
    )
    status, _, err = say("run", "wrong.py")
    assert 2 == status
    assert err.startswith("functionfuse: no storage of kind 'fle' is installed")
    assert err.endswith("wrong.py:3\n")


def test_where_the_config_comes_from(say: Say, tmp_path: Path) -> None:
    """`--config` holds for `storage_factory()` in a script, too."""
    (tmp_path / "other.json").write_text('{"kind": "file", "options": {"path": "elsewhere"}}')
    say("run", "--config", "other.json", "pipe.py")
    assert (tmp_path / "elsewhere" / "pipe").is_dir()
    assert not (tmp_path / "results").exists()
    assert (0, REUSED, "") == say("plan", "pipe", "--config", "other.json")
    assert (0, REUSED, "") == say("plan", "--storage", "elsewhere", "pipe")
    (tmp_path / "functionfuse.yaml").unlink()
    status, _, err = say("run", "pipe")
    assert 2 == status
    assert "there is no config: " in err
    assert "--storage FOLDER" in err


@pytest.mark.parametrize("target", ["pipe:pids", "pids.py"])
def test_workers(target: str, say: Say, tmp_path: Path) -> None:
    """Nodes are computed in other processes; without the option, in this one."""
    (tmp_path / "pids.py").write_text(
        "from functionfuse import LocalWorkflow, storage_factory\nfrom pipe import pids\n"
        "flow = LocalWorkflow(*pids(), workflow_name='pipe')\n"
        "flow.set_storage(storage_factory())\nflow.run()\n"
    )
    storage = FileStorage(tmp_path / "results")
    for options, here in [([], True), (["--workers", "2", "--reuse", "never"], False)]:
        assert 0 == say("run", *options, target)[0]
        found = storage.read_tasks("pipe", ["where_0000", "where_0001"]).values()
        assert here == (os.getpid() in found)


def test_reuse(say: Say, told: list[str]) -> None:
    """As if the workflow's own `set_reuse` had said it."""
    say("run", "pipe")
    say("run", "pipe", "--reuse", "never")
    say("run", "pipe", "--reuse", "always", "--set", "data=other")
    assert "✓ pipe: 3 computed" == told[-2]
    assert told[-1].startswith("✓ pipe: 3 reused (")


def test_keep_going_in_a_script(say: Say, tmp_path: Path) -> None:
    """It is switched on for every run."""
    (tmp_path / "fails.py").write_text(
        "from functionfuse import LocalWorkflow\nfrom pipe import build\n"
        "flow = LocalWorkflow(*build(model={'rates': [9, 1]}), workflow_name='pipe')\n"
        "try:\n    flow.run()\nfinally:\n    print(flow.report['fit/1'].action)\n"
    )
    assert (1, "not run\n") == say("run", "fails.py")[:2]
    assert (1, "computed\n") == say("run", "--keep-going", "fails.py")[:2]


def test_options_after_a_script(say: Say) -> None:
    """They are the script's; a line says so, as a check in a script of a CI would pass for ever."""
    status, _, err = say("plan", "pipe.py", "--check", "--other", "--set=1")
    assert 0 == status
    assert "functionfuse: --check after pipe.py is the script's own; put it before pipe.py" in err
    assert "--set after pipe.py" in err
    assert "--other" not in err
    assert 1 == say("plan", "--check", "pipe.py")[0]


NESTED = """
    from functionfuse import LocalWorkflow, storage_factory, workflow

    @workflow
    def inner(x):
        if x < 0:
            raise ValueError("below 0")
        return 2 * x

    @workflow
    def outer(x):
        flow = LocalWorkflow(inner(x), inner(-1), workflow_name="in")
        try:
            flow.run()
        except ValueError:
            again = LocalWorkflow(inner(x), workflow_name="in").run()
            return flow.report["inner_0001"].action, again

    def build(x=3):
        return outer(x).set_name("outer")

    def early():
        keys = LocalWorkflow(inner(1), workflow_name="keys").run()
        return [inner(key).set_name(str(key)) for key in range(keys)]

    def value():
        flow = LocalWorkflow(workflow_name="keys")
        return [inner(key).set_name(str(key)) for key in range(flow.value(inner(1)))]
"""


@pytest.mark.parametrize("options", [[], ["--workers", "2", "--keep-going"]])
def test_a_run_inside_a_node(options: list[str], say: Say, tmp_path: Path) -> None:
    """It does what it does without the command: it returns its value, and stops at a failure."""
    (tmp_path / "nested.py").write_text(textwrap.dedent(NESTED))
    assert 0 == say("run", *options, "nested")[0]
    assert ("failed", 6) == FileStorage(tmp_path / "results").read_task("nested", "outer")


def test_a_run_while_nodes_are_built(say: Say, tmp_path: Path) -> None:
    """It returns its value; a plan refuses it, and allows `value`."""
    (tmp_path / "nested.py").write_text(textwrap.dedent(NESTED))
    assert 0 == say("run", "nested:early")[0]
    assert ["0", "1"] == FileStorage(tmp_path / "results").list_tasks("nested")
    status, _, err = say("plan", "nested:early")
    assert 2 == status
    assert "nested:early calls run() of workflow 'keys' while it builds" in err
    assert 0 == say("plan", "nested:value")[0]


def test_a_default_is_changed_in_part(say: Say, tmp_path: Path) -> None:
    """`--set a.b=3` leaves the rest of a default, and the default itself, as they are."""
    (tmp_path / "parts.py").write_text(
        "from functionfuse import workflow\n"
        "@workflow\ndef same(value):\n    return value\n"
        "MODEL = {'depth': 1, 'more': {'width': 2, 'on': True}}\n"
        "def build(model=MODEL):\n    assert MODEL['depth'] == 1\n"
        "    return same(model).set_name('model')\n"
    )
    storage = FileStorage(tmp_path / "results")
    say("run", "parts", "--set", "model.depth=5", "--set", "model.more.on=")
    assert {"depth": 5, "more": {"width": 2, "on": ""}} == storage.read_task("parts", "model")


def test_variables_in_parameters(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their values are plain texts and numbers, as those of `--set`."""
    monkeypatch.setenv("RATE", "2")
    monkeypatch.setenv("DATA", "[text: x")
    (tmp_path / "params.yml").write_text("model:\n  rates: ['${RATE}']\ndata: ${DATA}\n")
    say("run", "pipe", "--params", "params.yml")
    storage = FileStorage(tmp_path / "results")
    assert ["fit/2", "load"] == storage.list_tasks("pipe")
    _, out, _ = say("plan", "pipe", "--set", "model.rates=[2]", "--set", "data='[text: x'")
    assert out.endswith("\nworkflow 'pipe': 2 reuse, # bytes\n")


POOL = """
    import multiprocessing
    from functionfuse import LocalWorkflow, workflow

    @workflow
    def same(value):
        return value

    def run(value):
        return LocalWorkflow(same(value), workflow_name=f"w{value}").run()

    if __name__ == "__main__":
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map(run, [1, 2]))
"""
THREADS = """
    import threading
    from functionfuse import LocalWorkflow, storage_factory, workflow

    @workflow
    def same(value):
        return value

    def run(value):
        flow = LocalWorkflow(same(value), workflow_name=f"w{value}")
        flow.set_storage(storage_factory())
        flow.run()

    first = threading.Thread(target=run, args=(1,))
    first.start()
    first.join()
    late = threading.Timer(0.3, run, (2,))
    late.start()
"""


def test_a_plan_of_runs_in_other_processes(say: Say, tmp_path: Path) -> None:
    """It is refused, and nothing hangs."""
    (tmp_path / "pool.py").write_text(textwrap.dedent(POOL))
    status, _, err = say("plan", "pool.py")
    assert 2 == status
    assert "pool.py calls run() in another process, which can't be planned" in err
    assert "[1, 2]\n" == say("run", "pool.py")[1]


def test_a_plan_of_runs_in_threads(say: Say, tmp_path: Path) -> None:
    """The first is planned; a thread that goes on computes nothing."""
    (tmp_path / "threads.py").write_text(textwrap.dedent(THREADS))
    command = [sys.executable, "-m", "functionfuse", "plan", "threads.py"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "workflow 'w1': 1 compute\n" == done.stdout[-25:]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_as_python_runs_it(say: Say, tmp_path: Path) -> None:
    """The script has the absolute path, the folder of the file behind a link, and its hook."""
    (tmp_path / "src").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "src" / "beside.py").write_text("HERE = 1\n")
    (tmp_path / "src" / "tool.py").write_text(
        "import os, sys\nfrom pathlib import Path\nfrom beside import HERE\n"
        "print(__name__, __spec__ if '__spec__' in globals() else None, sys.argv, __file__)\n"
        "assert sys.modules['__main__'].__dict__ is globals()\n"
        "sys.excepthook = lambda kind, error, _: print('hook', kind.__name__)\n"
        "raise KeyError\n"
    )
    (tmp_path / "bin" / "tool.py").symlink_to(tmp_path / "src" / "tool.py")
    expected = f"__main__ None ['bin/tool.py', 'x'] {tmp_path}/bin/tool.py\nhook KeyError\n"
    assert (1, expected) == say("run", "bin/tool.py", "x")[:2]
    done = subprocess.run(
        [sys.executable, "bin/tool.py", "x"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (1, expected) == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("marked.py:build", "a function of a module is written marked:build, and not marked.py:b"),
        ("dir/marked:f", "written dir.marked:f"),
        ("marked.p", "there is no module 'marked.p': 'marked' is no package"),
        ("pipe:PI", "pipe:PI is no function: int"),
    ],
)
def test_a_mistyped_target_runs_nothing(
    target: str, message: str, say: Say, tmp_path: Path
) -> None:
    """The message says how it is written."""
    (tmp_path / "marked.py").write_text("open('marker', 'w').close()\n")
    with (tmp_path / "pipe.py").open("a") as file:
        file.write("\nPI = 3\n")
    status, _, err = say("run", target)
    assert 2 == status
    assert message in err
    assert not (tmp_path / "marker").exists()


def test_a_node_that_exits(say: Say, tmp_path: Path) -> None:
    """The node failed, so the status is 1; the document is there."""
    (tmp_path / "quits.py").write_text(
        "import sys\nfrom functionfuse import workflow\n"
        "@workflow\ndef quits():\n    sys.exit()\n"
        "def build():\n    return quits().set_name('quits')\n"
    )
    status, out, _ = say("run", "quits", "--json")
    assert (1, "failed") == (status, json.loads(out)["nodes"][0]["action"])


LOUD = """
    import io, os, sys
    from functionfuse import workflow

    @workflow
    def loud(x):
        os.system("echo from a program")
        print("from a function")
        return x

    def build(kind="good"):
        os.system("echo while it builds")
        if kind == "bad":
            raise LookupError("bad")
        if kind == "taken":
            sys.stdout = io.StringIO()
        return loud(kind).set_name("loud")
"""


@pytest.mark.parametrize(("kind", "status"), [("good", 0), ("bad", 1), ("taken", 0)])
def test_json_is_one_document(kind: str, status: int, say: Say, tmp_path: Path) -> None:
    """Whatever functions and programs print, or do to the stream; also after an error."""
    (tmp_path / "loud.py").write_text(textwrap.dedent(LOUD))
    command = [sys.executable, "-m", "functionfuse", "run", "loud", "--json", "--set"]
    done = subprocess.run(
        [*command, f"kind={kind}"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert status == done.returncode
    assert {"error"} == json.loads(done.stdout).keys() or "nodes" in json.loads(done.stdout)
    assert "while it builds" in done.stderr


POOLS = """
    from multiprocessing.pool import ThreadPool
    from functionfuse import LocalWorkflow, storage_factory, workflow

    @workflow
    def same(value):
        return value

    def run(value):
        flow = LocalWorkflow(same(value), workflow_name=f"w{value}")
        flow.set_storage(storage_factory())
        return flow.run()

    with ThreadPool(1) as pool:
        print(pool.map(run, [1, 2]))
"""
CAUGHT = """
    from functionfuse import LocalWorkflow, workflow

    @workflow
    def same(value):
        return value

    for number in range(3):
        flow = LocalWorkflow(same(number), workflow_name=f"w{number}")
        try:
            flow.run()
        except BaseException:
            pass
        finally:
            print(flow.report.summary())
"""


@pytest.mark.parametrize(("script", "first"), [(POOLS, "w1"), (CAUGHT, "w0")])
def test_a_plan_is_of_the_first_run(script: str, first: str, say: Say, tmp_path: Path) -> None:
    """Nothing hangs, nothing is stored, and errors after it are no news.

    Ctrl-C is ignored, as by commands that a shell's script runs in the background.
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "functionfuse", "plan", "script.py"]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert f"workflow '{first}': 1 compute\n" == done.stdout[-25:]
    assert "Traceback" not in done.stderr
    assert 0 == done.returncode
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option", ["--storage", "--params", "--name", "--backend"])
def test_an_empty_option(option: str, say: Say, tmp_path: Path) -> None:
    """As of a variable of a shell that isn't set: it is refused."""
    before = sorted(tmp_path.iterdir())
    assert 2 == say("run", "pipe", option, "")[0]
    assert before == [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"]


@pytest.mark.parametrize("option", ["--storage", "--to"])
def test_an_address_is_no_folder(option: str, say: Say, tmp_path: Path) -> None:
    """A folder "s3:" would be made."""
    words = ["run", "pipe"] if option == "--storage" else ["copy", "pipe"]
    status, _, err = say(*words, option, "s3://bucket/results")
    assert 2 == status
    assert f"{option} takes a folder, and not the address 's3://bucket/results'" in err
    assert not (tmp_path / "s3:").exists()
