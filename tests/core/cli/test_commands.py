"""How a command is found, also one of a plugin, and how errors end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import functionfuse
from functionfuse.cli.main import MODULES, run, tree
from functionfuse.storage.filestorage import FileStorage

GROUP = "functionfuse.commands"
PLUGIN = """
    from functionfuse.cli import UsageError, emit, open_storage
    from functionfuse.hookspecs import CliCommand, hookimpl

    def configure(parser):
        parser.add_argument("word", help="a word")

    def command(arguments):
        if arguments.word == "bug":
            return 1 // 0
        if arguments.word == "wrong":
            raise UsageError("not this word")
        if arguments.word == "stop":
            raise KeyboardInterrupt
        names = open_storage(arguments).list_workflows() if arguments.word == "open" else []
        emit(arguments, {"word": arguments.word, "found": names}, f"said {arguments.word} {names}")
        return 0

    @hookimpl
    def functionfuse_cli_commands():
        return [CliCommand("say", "Say a word", configure, command, api_version=1)]
"""

Install = Callable[..., None]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """As `functionfuse` and as a module; also among other options."""
    expected = f"functionfuse {functionfuse.__version__}\n"
    program = os.path.join(os.path.dirname(sys.executable), "functionfuse")
    for command in ([program], [sys.executable, "-m", "functionfuse"]):
        done = subprocess.run(
            [*command, "--version"], check=True, capture_output=True, text=True, cwd="/"
        )
        assert (expected, "") == (done.stdout, done.stderr)
    with pytest.raises(SystemExit) as ended:
        run(["--json", "--version"])
    assert (0, expected) == (ended.value.code, capsys.readouterr().out)


def test_version_imports_no_parser() -> None:
    """Nor anything of ours but the decorator."""
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from functionfuse.__main__ import main\n"
        "main()\n"
        "print(sorted({'argparse', 'logging', 'pluggy', 'typing', 'functionfuse.cli'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "[]" == done.stdout.splitlines()[-1]


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Also without a word; each command has a help of its own."""
    texts = []
    for words in ([], ["-h"], ["--help"]):
        with suppress(SystemExit):
            assert 0 == run(words)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    for name in [name for names in MODULES.values() for name in names]:
        assert f"\n    {name} " in texts[0]
        with pytest.raises(SystemExit) as ended:
            run([name, "--help"])
        assert 0 == ended.value.code
        assert f"usage: functionfuse {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "no command 'lst' (did you mean 'list'?). See functionfuse --help"),
        (["list", "--jsn"], "unrecognized arguments: --jsn. See functionfuse list --help"),
        (["--storage"], "expected one argument"),
        (["list", "--storage", "a", "--config", "b"], "--storage and --config exclude each other"),
        (["list", "--storage", "nowhere"], "there is no folder 'nowhere'"),
        (["list", "--config", "no.yaml"], "the config file 'no.yaml' can't be read: No such file"),
        (["list"], "there is no config: no functionfuse.yaml, functionfuse.yml, "),
        (["list", "\x1b[31m", "x", "y\n"], "unrecognized arguments: y\\n"),
    ],
)
@pytest.mark.parametrize("json_", [False, True])
def test_wrong_use(
    words: list[str],
    message: str,
    json_: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, and status 2; with `--json`, the document is on stdout."""
    monkeypatch.chdir(tmp_path)
    assert 2 == run([*words, "--json"] if json_ and words != ["--storage"] else words)
    out, err = capsys.readouterr()
    assert err.startswith("functionfuse: ")
    assert message in err
    assert 1 == err.count("\n")
    if json_ and words != ["--storage"]:
        about = json.loads(out)["error"]
        assert {"type", "message"} == about.keys()
        assert "\x1b" not in out


def test_a_command_of_a_plugin(
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is imported when it is typed, or for the help; it has the common options."""
    FileStorage(tmp_path / "store").save("w", "t", 1)
    install("their-plugin", "say", "their_say", PLUGIN, group=GROUP)
    store = ["--storage", str(tmp_path / "store")]
    assert 0 == run(["list", *store])
    assert "their_say" not in sys.modules
    capsys.readouterr()
    assert 0 == run(["say", "open", *store])
    assert "said open ['w']\n" == capsys.readouterr().out
    assert 0 == run([*store, "--json", "say", "open"])
    assert '{"word": "open", "found": ["w"]}\n' == capsys.readouterr().out
    run([])
    assert "\n    say " in capsys.readouterr().out
    assert "say" in tree().format_help()
    for word, status, message in [
        ("wrong", 2, "functionfuse: not this word\n"),
        ("stop", 130, ""),
        ("bug", 1, "functionfuse: ZeroDivisionError: integer division or modulo by zero; --"),
    ]:
        assert status == run(["say", word])
        assert capsys.readouterr().err.startswith(message)
    with pytest.raises(ZeroDivisionError):
        run(["say", "bug", "--debug"])


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("api_version=1", "api_version=2", "made for version 2 of the plugin API"),
        ("return [Cli", "return 3  # [Cli", "fails in its hook"),
        ('CliCommand("say"', 'CliCommand("speak"', "kinds ['speak']"),
        ("from functionfuse.cli import", "from nowhere import", "can't be imported"),
    ],
)
def test_a_command_that_can_not_be_used(
    old: str, new: str, match: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plugin is named when the command is typed; the help shows all others, and says so."""
    install("their-plugin", "say", "their_say", PLUGIN.replace(old, new), group=GROUP)
    assert 2 == run(["say", "word"])
    err = capsys.readouterr().err
    assert "command 'say' (module 'their_say' from their-plugin 1.2)" in err
    assert match in err
    assert 0 == run([])
    out, err = capsys.readouterr()
    assert "    list " in out
    assert "functionfuse: warning: a command is left out: the command 'say'" in err


def test_two_plugins_bring_one_command(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is run; a command of our own always wins."""
    for number in (1, 2):
        install(f"plugin-{number}", "say", f"say{number}", PLUGIN, group=GROUP)
        install(f"plugin-{number}", "list", f"list{number}", PLUGIN, group=GROUP)
    assert 2 == run(["say", "word"])
    assert "the command 'say' is brought by module 'say1' from plugin-1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(["list", "--help"])
    assert "List workflows" in capsys.readouterr().out


def test_a_plugin_of_the_old_way(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Its command isn't found; a message names the new way."""
    install("their-plugin", "any", "their_say", PLUGIN, group="functionfuse.hooks")
    assert 2 == run(["say", "word"])
    err = capsys.readouterr().err
    assert "no command 'say'" in err
    assert "in the group 'functionfuse.commands' instead of 'functionfuse.hooks'" in err


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    """As of any program; the status is that of one that the signal has ended."""
    storage = FileStorage(tmp_path)
    for number in range(3000):
        storage.save("w", f"{number} {'long' * 20}", number)
    command = f"{sys.executable} -m functionfuse list w --storage {tmp_path}"
    script = f"{command} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert ["141"] == done.stdout.splitlines()[1:]
    assert "" == done.stderr


@pytest.mark.parametrize(
    ("words", "status"), [("--version", 0), ("list w --storage .", 0), ("list v --storage .", 2)]
)
@pytest.mark.parametrize("ending", [">&-", ">&- 2>&-", "<&-", ">/dev/full", "| true"])
def test_closed_and_full_output(words: str, status: int, ending: str, tmp_path: Path) -> None:
    """There is no traceback; a full disk is told by a sentence and by the status."""
    FileStorage(tmp_path).save("w", "t", 1)
    script = f"{sys.executable} -m functionfuse {words} {ending}; echo ${{PIPESTATUS[0]}} >&9"
    read, write = os.pipe()
    with subprocess.Popen(
        ["bash", "-c", f"exec 9>&{write}; {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        pass_fds=[write],
    ) as process:
        _, err = process.communicate()
    os.close(write)
    with open(read, encoding="utf-8") as file:
        found = int(file.read())
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert found in ({0, 2, 120, 141} if "full" in ending or "true" in ending else {status})
    if ending == ">/dev/full" and words.startswith("list w"):
        assert "the output can't be written" in err or "No space left" in err
        assert found
