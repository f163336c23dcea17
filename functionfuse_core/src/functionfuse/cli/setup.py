"""Commands about the installation and the config: plugins, config, completion."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import PluginError
from ..hookspecs import API_VERSION, CliCommand
from ..show.texts import table
from .commands import UsageError, emit

__all__ = ["COMMANDS"]

STARTER = """\
# A config of Function Fuse: where results are stored, and how nodes are computed.
# Check it after each change: functionfuse config check

storage:
  kind: file
  options:
    path: results  # a folder; a relative path starts at the folder of this file
    # private: true  # only you can read the results
    # earlier: {bytes: 10 GiB, days: 30}  # how many replaced results stay; false for none
    # key: ${RESULTS_KEY}  # signs results with a secret from the environment, and refuses others

# To store results in S3, install functionfuse-s3, and replace the storage above by this one:
#   kind: S3
#   options:
#     path: my-bucket/results

# backend:
#   kind: local
#   options: {executor: threads, workers: 4}  # or processes; none computes one node at a time

# When a stored result is used: unchanged (if code and inputs are the same), always, or never.
# reuse: unchanged
"""


def _plugins(arguments: Namespace) -> int:
    rows = [("BRINGS", "KIND", "DISTRIBUTION", "VERSION", "MODULE", "PROBLEM")]
    found = []
    for each in plugins.list():
        row = (each.brings, each.kind, each.distribution, each.version, each.module, each.problem)
        rows.append(row)
        found.append({name.lower(): cell for name, cell in zip(rows[0], row, strict=True)})
    emit(arguments, {"plugins": found}, lambda: table(rows))
    return 0


def _configure_plugins(parser: ArgumentParser) -> None:
    parser.epilog = (
        "No plugin is imported, so a problem is known only if it is visible without that:"
        " `functionfuse doctor` imports them."
    )


def _configure_config(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("check", "schema", "init"),
        help="check: find errors in a config, and show it without secrets; schema: print the JSON"
        " schema of configs with the installed kinds, for editors; init: write functionfuse.yaml"
        " here, to begin with",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="for check; by default, it is found as a storage is"
    )
    parser.epilog = "The storage is neither read nor written. `init` never replaces a file."


def _config(arguments: Namespace) -> int:
    action, file = arguments.action, arguments.file
    if arguments.storage is not None:
        raise UsageError("--storage names no config: use --config FILE")
    if file is not None and (action != "check" or arguments.config is not None):
        other = "--config" if action == "check" else f"`config {action}`"
        raise UsageError(f"{other} and FILE exclude each other")
    if action == "schema":
        from ..config import schema

        document = schema()
        emit(arguments, document, lambda: json.dumps(document, indent=2))
    elif action == "init":
        _init(arguments)
    else:
        _check(arguments, arguments.config if file is None else file)
    return 0


def _init(arguments: Namespace) -> None:
    from ..config.source import configs_in

    here = Path.cwd()
    if found := configs_in(here):
        raise UsageError(f"there is a config in {str(here)!r} already: {found[0]}")
    name = "functionfuse.yaml"
    with open(name, "x", encoding="utf-8") as file:
        file.write(STARTER)
    text = f"Wrote {name}: it stores results in the folder 'results' beside it."
    emit(arguments, {"file": str(here / name)}, text)


def _check(arguments: Namespace, file: str | None) -> None:
    from ..config import nearest, read
    from ..config.factories import check

    config = read(nearest() if file is None else file)
    sections: dict[str, Any] = dict.fromkeys(("storage", "backend"))
    for noun, (kind, options) in check(config).items():
        given = {name: getattr(options, name) for name in sorted(options.model_fields_set)}
        hidden = config.source.hidden
        sections[noun] = {"kind": kind, "options": _shown(given, hidden)}
    path = os.path.abspath(config.source.name)
    document = {"file": path, **sections}
    document |= {"serializers": [*config.serializers], "reuse": config.reuse}
    rows: list[tuple[str, str]] = [("config", path)]
    for noun, section in sections.items():
        if section is not None:
            rows.append((noun, section["kind"]))
            rows += [(f"  {name}", _text(value)) for name, value in section["options"].items()]
    rows += [("serializer", name) for name in config.serializers]
    if config.reuse is not None:
        rows.append(("reuse", config.reuse))
    emit(arguments, document, lambda: table(rows))


def _shown(value: Any, hidden: Callable[[str], str]) -> Any:
    """Return a checked option for output: without secrets and values of environment variables."""
    if hasattr(value, "model_fields_set"):
        value = {name: getattr(value, name) for name in sorted(value.model_fields_set)}
    if isinstance(value, Mapping):
        return {str(name): _shown(each, hidden) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(each, hidden) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return hidden(str(value))  # that of a SecretStr is stars


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _configure_completion(parser: ArgumentParser) -> None:
    shells = ("bash", "zsh", "tcsh")
    parser.add_argument("shell", metavar="SHELL", choices=shells, help="bash, zsh or tcsh")
    parser.epilog = (
        "It prints a script. For bash, put it into"
        " ~/.local/share/bash-completion/completions/functionfuse; for zsh, into the file"
        " _functionfuse in a folder of $fpath; for tcsh, into ~/.tcshrc. It needs the extra"
        " functionfuse-core[completion]."
    )


def _completion(arguments: Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise PluginError(
            "completion needs the package shtab: pip install 'functionfuse-core[completion]'"
        ) from error
    from .main import tree

    paths = dict.fromkeys(("FILE", "CONFIG", "TARGET"), shtab.FILE) | {"FOLDER": shtab.DIRECTORY}
    parser = tree()
    for each in (parser, *_parsers_of_commands(parser)):
        for action in each._actions:
            if action.metavar in paths:
                vars(action)["complete"] = paths[action.metavar]
    script = shtab.complete(parser, shell=arguments.shell)
    emit(arguments, {"shell": arguments.shell, "script": script}, script)
    return 0


def _parsers_of_commands(parser: ArgumentParser) -> list[ArgumentParser]:
    [found] = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return [*found.values()]


COMMANDS = [
    CliCommand(
        "plugins",
        "List the installed plugins",
        _configure_plugins,
        _plugins,
        api_version=API_VERSION,
    ),
    CliCommand(
        "config",
        "Check or begin a config, or print the schema",
        _configure_config,
        _config,
        api_version=API_VERSION,
    ),
    CliCommand(
        "completion",
        "Print the completion of commands for a shell",
        _configure_completion,
        _completion,
        api_version=API_VERSION,
    ),
]
