"""`functionfuse plugins`, `config`, `doctor` and `completion`."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from command_lines import Said, process  # in `importable`, which is on the path

from functionfuse import __version__, plugins
from functionfuse.cli import doctor, setup
from functionfuse.plugins import entrypoints
from functionfuse.storage import storage_factory

Install = Callable[..., None]

BROKEN = "import nowhere\n"
HOSTILE = "\x1b[31m\u202ered"


Do = Callable[..., Said]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test works."""
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def only_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugins are installed but those of the test."""
    scan = entrypoints._scan

    def ours() -> Any:
        theirs = {"functionfuse-s3", "functionfuse-ray", "functionfuse-dask", "functionfuse-sqlite"}
        found = scan()
        return {group: [e for e in found[group] if e.name not in theirs] for group in found}

    monkeypatch.setattr(entrypoints, "_scan", ours)
    entrypoints.forget()


# plugins


def test_plugins(install: Install, only_core: None, do: Do) -> None:
    """In one table, with the problems that are visible without an import."""
    install("tape-plugin", "tape", "tape_plugin", BROKEN)
    install("reel-plugin", "reel", "reel_plugin", BROKEN)
    Path("site/reel_plugin.py").unlink()
    expected = f"""\
BRINGS   KIND   DISTRIBUTION       VERSION  MODULE             PROBLEM
backend  local  functionfuse-core  {__version__:7}  functionfuse.kinds
storage  file   functionfuse-core  {__version__:7}  functionfuse.kinds
storage  reel   reel-plugin        1.2      reel_plugin         there is no module 'reel_plugin'
storage  tape   tape-plugin        1.2      tape_plugin
""".replace("MODULE  ", "MODULE   ")
    assert Said(0, expected, "") == do("plugins")
    assert "tape_plugin" not in sys.modules


def test_plugins_json(install: Install, only_core: None, do: Do) -> None:
    install("tape-plugin", "tape", "tape_plugin", BROKEN)
    found = {each["kind"]: each for each in do("plugins", "--json").document["plugins"]}
    assert {"local", "file", "tape"} == set(found)
    expected = {"brings": "storage", "kind": "tape", "distribution": "tape-plugin"}
    assert {**expected, "version": "1.2", "module": "tape_plugin", "problem": ""} == found["tape"]


# config


def test_config_init_begins_a_config(here: Path, do: Do) -> None:
    """It is a right one, and the storage that it describes is beside it."""
    text = "Wrote functionfuse.yaml: it stores results in the folder 'results' beside it.\n"
    assert Said(0, text, "") == do("config", "init")
    assert str(here / "results") == storage_factory().path
    expected = f"config   {here}/functionfuse.yaml\nstorage  file\n  path   {here}/results\n"
    assert Said(0, expected, "") == do("config", "check")
    assert ["functionfuse.yaml"] == os.listdir(here)


@pytest.mark.parametrize("name", ["functionfuse.yaml", "functionfuse.toml"])
def test_config_init_replaces_nothing(here: Path, do: Do, name: str) -> None:
    """Of two configs in a folder, none would be found."""
    Path(name).write_text("# mine\n")
    message = f"functionfuse: there is a config in {str(here)!r} already: {name}\n"
    assert Said(2, "", message) == do("config", "init")
    assert [name] == os.listdir(here)
    assert "# mine\n" == Path(name).read_text()


def test_config_init_json(here: Path, do: Do) -> None:
    expected = {"file": str(here / "functionfuse.yaml")}
    assert expected == do("config", "init", "--json").document


def test_all_that_the_first_config_teaches_is_right(
    do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commented option, and all of them together, in the schema and in fact."""
    monkeypatch.setenv("RESULTS_KEY", "a secret")
    commented = re.compile(r"^( *)# (?=[a-z_]+:(?: |$))", re.MULTILINE)
    before, _, after = setup.STARTER.partition("\n# To store results in S3")
    bucket, _, after = after.partition("\n\n")
    text = commented.sub(r"\1", before) + re.sub("^# ", "", after, flags=re.MULTILINE)
    text = text.replace("When a stored", "# When a stored")
    assert 4 == text.count("\n    ")
    assert {"backend:", "reuse: unchanged"} <= set(text.splitlines())
    Path("functionfuse.yaml").write_text(text)
    document = do("config", "check", "--json").document
    assert {"path", "private", "earlier", "key"} == document["storage"]["options"].keys()
    assert {"executor": "threads", "workers": 4} == document["backend"]["options"]
    assert "unchanged" == document["reuse"]
    bucket = "storage:\n" + re.sub("^#", "", bucket.split("\n", 1)[1], flags=re.MULTILINE)
    Path("functionfuse.yaml").write_text(bucket)
    if "functionfuse-s3" in {plugin.distribution for plugin in plugins.list()}:
        found = do("config", "check", "--json").document["storage"]
        assert {"kind": "S3", "options": {"path": "my-bucket/results"}} == found


FULL = """\
storage:
  kind: FILE
  options:
    path: ${FOLDER}/stored
    key: ${SECRET}
    trust: {allow: [numpy, collections.OrderedDict]}
    earlier: {days: 3}
backend: {kind: local, options: {workers: 3}}
serializers: ['kept_values:KeptSerializer']
reuse: always
"""


def test_config_check_shows_a_config(here: Path, do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is in the file; without secrets, and without the values of variables."""
    monkeypatch.setenv("FOLDER", str(here / "somewhere"))
    monkeypatch.setenv("SECRET", "s3cret")
    Path("full.yaml").write_text(FULL)
    expected = f"""\
config      {here}/full.yaml
storage     file
  earlier   {{"days": 3.0}}
  key       **********
  path      ${{FOLDER}}/stored
  trust     {{"allow": ["numpy", "collections.OrderedDict"]}}
backend     local
  workers   3
serializer  kept_values:KeptSerializer
reuse       always
"""
    said = do("config", "check", "full.yaml")
    assert Said(0, expected, "") == said
    assert said == do("config", "check", "--config", "full.yaml")
    document = do("config", "check", "full.yaml", "--json").document
    options = {"earlier": {"days": 3.0}, "key": "**********", "path": "${FOLDER}/stored"}
    options["trust"] = {"allow": ["numpy", "collections.OrderedDict"]}
    assert {
        "file": str(here / "full.yaml"),
        "storage": {"kind": "file", "options": options},
        "backend": {"kind": "local", "options": {"workers": 3}},
        "serializers": ["kept_values:KeptSerializer"],
        "reuse": "always",
    } == document
    assert ["full.yaml"] == os.listdir(here)  # the storage is not made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage:\n  kind: fil\n", ":2:9: no storage of kind 'fil' is installed (did you mean"),
        ("kind: file\noptions: {pth: x}\n", ":2:1: storage 'file': option 'path' is missing"),
        ("backend: {kind: local, options: {workers: 0}}\n", ":1:43: backend 'local': option"),
        ("kind: file\noptions: {path: x, key: ''}\n", ":2:25: storage 'file': option 'key'"),
        ("a: [\n", ":2:1: no YAML: "),
        ("reuse: never\nserializers: ['nowhere:S']\n", ":2:15: serializer 'nowhere:S' can't be"),
    ],
)
def test_config_check_finds_errors(do: Do, text: str, message: str) -> None:
    """In the sections that a run would use, with file, line and column."""
    Path("functionfuse.yaml").write_text(text)
    said = do("config", "check", "functionfuse.yaml")
    assert (2, "") == (said.status, said.out)
    assert said.err.startswith(f"functionfuse: functionfuse.yaml{message}"), said.err
    error = do("config", "check", "functionfuse.yaml", "--json").document["error"]
    assert error["message"].startswith(f"functionfuse.yaml{message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config"], "the following arguments are required: ACTION, FILE"),
        (["config", "chek"], "argument ACTION: invalid choice: 'chek'"),
        (["config", "init", "x.yaml"], "`config init` and FILE exclude each other"),
        (["config", "check", "a.yaml", "--config", "b.yaml"], "--config and FILE exclude each"),
        (["config", "check", "--storage", "."], "--storage names no config: use --config FILE"),
        (["config", "check", "no.yaml"], "the config file 'no.yaml' can't be read: No such file"),
        (["config", "check"], "there is no config: no functionfuse.yaml, "),
        (["config", "check", f"{HOSTILE}.yaml"], r"the config file '\x1b[31m\u202ered.yaml' can't"),
        (["completion"], "the following arguments are required: SHELL"),
        (["completion", "ksh"], "argument SHELL: invalid choice: 'ksh'"),
        (["plugins", "file"], "unrecognized arguments: file. See functionfuse plugins --help"),
    ],
)
def test_wrong_use(do: Do, words: Sequence[str], message: str) -> None:
    """One sentence on standard error, and exit status 2."""
    said = do(*words)
    assert (2, "") == (said.status, said.out)
    message = message.removesuffix(", FILE")  # later Pythons leave out an optional one
    assert said.err.startswith(f"functionfuse: {message}"), said.err
    assert 1 == said.err.count("\n")


def test_two_configs(here: Path, do: Do) -> None:
    for suffix in ("yaml", "toml"):
        Path(f"functionfuse.{suffix}").touch()
    found = "functionfuse.yaml, functionfuse.toml"
    message = f"functionfuse: the folder {str(here)!r} has several configs: {found}\n"
    assert Said(2, "", message) == do("config", "check")


def test_no_config_says_how_to_make_one(do: Do) -> None:
    """Both where it is checked, and by the doctor."""
    cure = "`functionfuse config init` makes one"
    assert cure in do("config", "check").err
    assert do("doctor").out.endswith(f"{cure}\n")


def test_config_schema(do: Do) -> None:
    """It accepts the first config, and refuses others; it is the same with --json."""
    said = do("config", "schema")
    assert said.document == do("config", "schema", "--json").document
    right = {"storage": {"kind": "file", "options": {"path": "results"}}}
    jsonschema.validate(right, said.document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"storage": {"kind": "file"}}, said.document)
    assert "\n  " in said.out  # people read it


def test_a_command_leaves_no_log_handler(do: Do) -> None:
    """Else each command in a process would repeat the lines of the log."""
    before = [*logging.getLogger("functionfuse").handlers]
    do("plugins")
    assert before == logging.getLogger("functionfuse").handlers


# doctor


def checks(said: Said) -> dict[str, str]:
    """The lines of the doctor by check; those of failed checks begin with FAILED."""
    found = [line.split(maxsplit=2) for line in said.out.splitlines()]
    return {name: detail if word == "ok" else f"{word} {detail}" for word, name, detail in found}


NAMES = ["python", "versions", "extras", "plugins", "config", "storage", "disk"]


def test_doctor(here: Path, only_core: None, do: Do) -> None:
    """A line for each check; nothing that lasts is written."""
    do("config", "init")
    said = do("doctor")
    assert (0, "") == (said.status, said.err)
    found = checks(said)
    assert NAMES == list(found)
    assert f"functionfuse-core {__version__}" == found["versions"]
    assert "2 can be used" == found["plugins"]
    assert f"{here}/functionfuse.yaml" == found["config"]
    store = f"FileStorage(FileStore('{here}/results'))"
    assert f"{store}: 0 workflows; the folder is not there yet" == found["storage"]
    assert re.fullmatch(rf"[\d.]+ .?B free at '{re.escape(str(here))}'", found["disk"])
    assert ["functionfuse.yaml"] == os.listdir(here)
    storage_factory().save("w", "t", 1)
    before = sorted(here.rglob("*"))
    assert f"{store}: 1 workflow; you can write" == checks(do("doctor"))["storage"]
    assert before == sorted(here.rglob("*"))


def test_doctor_json(do: Do) -> None:
    do("config", "init")
    document = do("doctor", "--json").document
    assert document["ok"] is True
    assert NAMES == [each["check"] for each in document["checks"]]
    assert {True} == {each["ok"] for each in document["checks"]}


def test_doctor_of_a_folder(here: Path, do: Do) -> None:
    """No config is needed then."""
    found = checks(do("doctor", "--storage", str(here)))
    assert "not needed: --storage names a folder" == found["config"]
    assert found["storage"].endswith("0 workflows; you can write")


def test_doctor_names_the_variable(here: Path, do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    do("config", "init")
    os.rename("functionfuse.yaml", "other.yaml")
    monkeypatch.setenv("FUNCTIONFUSE_CONFIG", "other.yaml")
    assert f"{here}/other.yaml, named by $FUNCTIONFUSE_CONFIG" == checks(do("doctor"))["config"]


def test_doctor_imports_plugins(
    install: Install, only_core: None, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names each that can't be imported or found, and goes on; blocked ones are left out."""
    do("config", "init")
    install("tape-plugin", "tape", "tape_plugin", BROKEN)
    install("bar-plugin", "bar", "bar_plugin", BROKEN, group="functionfuse.hooks")
    said = do("doctor")
    found = checks(said)
    assert (1, NAMES) == (said.status, list(found))
    assert found["plugins"].startswith("FAILED the storage 'tape' (module 'tape_plugin' from")
    assert "can't be imported: ModuleNotFoundError: No module named 'nowhere'" in found["plugins"]
    assert "; the event hook 'bar' (module 'bar_plugin' from bar-plugin 1.2)" in found["plugins"]
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "tape-plugin,bar")
    install("good-plugin", "good", "good_plugin", "", group="functionfuse.hooks")
    said = do("doctor")
    assert (0, "3 can be used, 2 blocked") == (said.status, checks(said)["plugins"])


def test_doctor_compares_versions(install: Install, only_core: None, do: Do) -> None:
    """A plugin that needs a later core is named, with the cure."""
    needs = "Name: tape-plugin\nVersion: 9.1\nRequires-Dist: functionfuse-core>=99.1,<100\n"
    install("tape-plugin", "tape", "tape_plugin", "", version="9.1", metadata=needs)
    found = checks(do("doctor"))
    assert found["versions"] == (
        f"FAILED tape-plugin 9.1 needs functionfuse-core 99.1, and this is {__version__}:"
        " pip install --upgrade functionfuse-core"
    )
    needs = f"Name: tape-plugin\nVersion: 9.1\nRequires-Dist: functionfuse-core>={__version__}\n"
    install("tape-plugin", "tape", "tape_plugin", "", version="9.1", metadata=needs)
    expected = f"functionfuse-core {__version__}, tape-plugin 9.1"
    assert expected == checks(do("doctor"))["versions"]


def test_doctor_lists_extras(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["shtab>=1; extra == 'completion'", "pytest>=9; extra == 'testing'", "pluggy>=1"]
    requires += ["no-such; extra == 'none'", "no-such; extra == 'all'"]
    monkeypatch.setattr(metadata, "requires", lambda _: requires)
    version = metadata.version

    def of(name: str) -> str:
        if name == "shtab":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", of)
    expected = "installed: testing; not installed: completion, none"
    expected += " (pip install 'functionfuse-core[completion]')"
    assert expected == checks(do("doctor"))["extras"]


def test_doctor_of_a_broken_config(do: Do) -> None:
    """All problems in one line; the storage is not tried."""
    text = "kind: file\noptions: {pth: x, private: perhaps}\n"
    Path("functionfuse.yaml").write_text(text)
    said = do("doctor", "--config", "functionfuse.yaml")
    found = checks(said)
    assert (1, "config") == (said.status, list(found)[-1])
    assert found["config"].startswith("FAILED functionfuse.yaml:")
    assert 3 == found["config"].count("storage 'file': ")


def test_doctor_of_a_path_that_is_no_folder(here: Path, do: Do) -> None:
    Path("functionfuse.yaml").write_text("kind: file\noptions: {path: notes/results}\n")
    Path("notes").touch()
    said = do("doctor")
    assert 1 == said.status
    cure = "Change the option 'path' of the storage"
    assert f"FAILED {str(here / 'notes')!r} is no folder. {cure}" == checks(said)["storage"]
    assert "disk" not in checks(said)


def test_doctor_of_a_folder_without_rights(
    here: Path, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the answer of the system is made up."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = do("doctor", "--storage", str(here))
    expected = f"FAILED you have no permission to write in {str(here)!r}. Change it, or the option"
    assert (1, True) == (said.status, checks(said)["storage"].startswith(expected))


def test_doctor_of_a_full_disk(here: Path, do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    said = do("doctor", "--storage", str(here))
    expected = f"FAILED only 2.0 MB free at {str(here)!r}: `functionfuse gc` and `functionfuse"
    assert (1, True) == (said.status, checks(said)["disk"].startswith(expected))


def test_doctor_of_another_kind(here: Path, install: Install, only_core: None, do: Do) -> None:
    """Whether it can be written is not tried: that would leave something there."""
    install("tape-plugin", "tape", "tape_plugin", TAPE)
    Path("functionfuse.yaml").write_text("kind: tape\n")
    found = checks(do("doctor"))
    assert (
        "Storage(Tape): 0 workflows; whether you can write is not tried (--write tries it)"
        == found["storage"]
    )
    assert "not on this machine" == found["disk"]


TAPE = """
    import sys
    from pydantic import BaseModel
    from functionfuse.hookspecs import StorageKind, hookimpl
    from functionfuse.storage import Storage
    from result_bytes import MemoryStore

    class Options(BaseModel):
        pass

    class Tape(MemoryStore):
        def __repr__(self):
            return "Tape"

    def build(options):
        return Storage(Tape())

    @hookimpl
    def functionfuse_storages():
        return [StorageKind("tape", Options, build, api_version=1)]
"""


def test_doctor_of_an_unknown_system(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "platform", "win32")
    monkeypatch.setattr(doctor, "POSIX", False)
    found = checks(do("doctor"))
    assert "FAILED win32 is not supported. On Windows, use WSL" == found["python"]


# completion


def test_completion_for_bash(here: Path) -> None:
    """Bash itself completes commands, options and the names of files with it."""
    said = process("completion", "bash")
    assert (0, "") == (said.status, said.err)
    Path("notes.yaml").touch()
    words = (("ver",), ("prune", "--ke"), ("config", "sch"), ("config", "--config", "not"))
    script = said.out + "\nshopt -s progcomp; set +u\n"
    for number, each in enumerate(words):
        typed = " ".join(["functionfuse", *each])
        script += f"COMP_WORDS=({typed}); COMP_CWORD={len(each)}; COMP_LINE={typed!r}\n"
        script += f"COMPREPLY=(); _shtab_functionfuse; echo {number} ${{COMPREPLY[@]}}\n"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "0 verify\n1 --keep\n2 schema\n3 notes.yaml\n" == done.stdout, done.stderr


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef functionfuse"), ("tcsh", "#")])
def test_completion_for_other_shells(do: Do, shell: str, begins: str) -> None:
    said = do("completion", shell)
    assert (0, "") == (said.status, said.err)
    assert said.out.startswith(begins)
    assert "verify" in said.out
    assert {"shell": shell, "script": said.out[:-1]} == do("completion", shell, "--json").document


def test_completion_without_shtab(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence says what to install."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    cure = "completion needs the package shtab: pip install 'functionfuse-core[completion]'"
    assert Said(2, "", f"functionfuse: {cure}\n") == do("completion", "bash")


# processes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plugins"], r"BRINGS +KIND +DISTRIBUTION .*\nstorage +file +functionfuse-core .*"),
        (["config", "init"], "Wrote functionfuse.yaml: it stores results in the folder .*"),
        (["doctor", "--storage", "."], r"ok +python +3.* 0 workflows; you can write\nok +disk .*"),
    ],
)
def test_as_a_process(words: Sequence[str], expected: str) -> None:
    """As it is typed."""
    said = process(*words)
    assert (0, "") == (said.status, said.err)
    assert re.fullmatch(expected, said.out, re.DOTALL), said.out
