"""The reference in `docs/cli.md`: made from the parsers of the commands, and compared with them.

To write it anew: `FUNCTIONFUSE_WRITE_CLI=1 python -m pytest tests/core/cli/test_cli_page.py`.
"""

from __future__ import annotations

import os
from argparse import REMAINDER, Action, ArgumentParser
from pathlib import Path

import pytest

from functionfuse.cli import main
from functionfuse.plugins import entrypoints

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
WRITE = "FUNCTIONFUSE_WRITE_CLI"
MARK = "<!-- commands: `tests/core/cli/test_cli_page.py` writes the rest of this page -->\n"
COMMON = "common options"


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> ArgumentParser:
    """The parser of core's own commands: those of plugins are in the documents of the plugins."""
    monkeypatch.setattr(entrypoints, "_scan", lambda: {group: [] for group in entrypoints.NOUNS})
    monkeypatch.setattr(entrypoints, "_found", None)
    return main.tree()


def commands(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The parsers of commands, by name."""
    [found] = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return found


def page(parser: ArgumentParser) -> str:
    """The reference: what all commands have first, then each command."""
    text = "\n## Options of all commands\n\nThey can also stand before the command.\n"
    text += arguments(parser, common=True) + "\n## Commands\n"
    for name, each in commands(parser).items():
        text += f"\n### `{name}`\n\n{sentence(each.description)}\n"
        text += f"\n```text\n{usage(each)}\n```\n{arguments(each)}"
        if each.epilog:
            text += f"\n{sentence(each.epilog)}\n"
    return text


def arguments(parser: ArgumentParser, *, common: bool = False) -> str:
    """The arguments of a parser as a table; "" if it has none of its own."""
    formatter = parser._get_formatter()
    rows = ""
    for group in parser._action_groups:
        for action in group._group_actions:
            if (group.title == COMMON) is common and "--help" not in action.option_strings:
                about = formatter._expand_help(action)
                rows += f"| {shown(action)} | {about} |\n"
    return f"\n| argument | meaning |\n|---|---|\n{rows}" if rows else ""


def shown(action: Action) -> str:
    """An argument as it is typed."""
    count = action.nargs if isinstance(action.nargs, int) else 1
    value = f" {named(action)}" * count
    return ", ".join(f"`{option}{value}`" for option in action.option_strings) or (
        f"`{named(action)}`"
    )


def named(action: Action) -> str:
    choices = ",".join(action.choices or ())
    return action.metavar or (f"{{{choices}}}" if choices else action.dest.upper())


def usage(parser: ArgumentParser) -> str:
    """The usage in one line, without the common options: Pythons break lines differently."""
    words = [parser.prog]
    places = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if group.title == COMMON or "--help" in action.option_strings:
                continue
            if action.option_strings:
                word = shown(action).strip("`")
                words.append(word if action.required else f"[{word}]")
            else:
                optional = {"?": "[{}]", REMAINDER: "[{} …]"}.get(str(action.nargs), "{}")
                places.append(optional.format(named(action)))
    return " ".join([*words, *places])


def sentence(text: str | None) -> str:
    assert text
    return f"{text.rstrip('.')}."


def test_the_reference_is_that_of_the_parsers(parser: ArgumentParser) -> None:
    """To the letter; see above for how to write it anew."""
    written, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert MARK == mark
    if os.environ.get(WRITE):
        PAGE.write_text(written + mark + page(parser), encoding="utf-8")
    assert page(parser) == PAGE.read_text(encoding="utf-8").partition(MARK)[2]


def test_every_command_has_a_section(parser: ArgumentParser) -> None:
    """In the order of the help."""
    expected = [f"### `{name}`" for names in main.MODULES.values() for name in names]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert expected == [line for line in lines if line.startswith("###")]


def test_every_argument_is_described(parser: ArgumentParser) -> None:
    """In the help and in the reference; none has the sign that ends a cell of a table."""
    for name, each in commands(parser).items():
        for action in each._actions:
            assert action.help, (name, action)
            assert "|" not in action.help
