"""The documents: their Python blocks run, and print what the documents say.

A Python block may be followed by a block in the language `output`: what it prints, to the letter,
with `...` for what differs from run to run. The blocks of one document share their names and a
working directory that is empty at first, as the lines of one script do. The files of a document
(see `tools/type_document.py`) are typed into that directory; what is in `src` can be imported.

In a block in the language `console`, a line `$ functionfuse …` runs in its turn, and prints the
lines up to the next `$`. Other commands there, and those with a pipe, are not run. So a command has
to run a script that is a file of the document, outside `src`: its block is not run.
"""

from __future__ import annotations

import doctest
import logging
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from functionfuse.cli import main

if TYPE_CHECKING:
    from sybil import Example

ROOT = Path(__file__).parents[2]
PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "*/README.md", "plugins/*/README.md")
PATTERNS += ("examples/*/README.md",)
DOCUMENTS = sorted(
    {
        path
        for pattern in PATTERNS
        for path in ROOT.glob(pattern)
        if not path.relative_to(ROOT).parts[0].startswith(".")
    }
)

# A command, and what it prints.
COMMAND = re.compile(r"^\$ functionfuse ([^|>\n]*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PYTHON_FENCE = re.compile(
    r"^[ >]*(?:```+|~~~+)\s*\{?(?:py|python|python3|pycon)\b", re.IGNORECASE | re.MULTILINE
)
TYPE_DOCUMENT = runpy.run_path(str(ROOT / "tools" / "type_document.py"))["type_document"]

each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def test_the_readme_is_among_the_documents() -> None:
    """The patterns find something: otherwise the tests below would pass by testing nothing."""
    assert ROOT / "README.md" in DOCUMENTS


def differs(expected: str, printed: str) -> str | None:
    """Return the difference to what a document says; None if there is none."""
    if doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
        return None
    return f"the document says:\n{expected}\nit printed:\n{printed}"


@each_document
@pytest.mark.usefixtures("after_commands")
def test_blocks_run(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every block of a document runs, in order, and prints what the document says."""
    printed = ""
    run = PythonEvaluator()

    def run_python(example: Example) -> None:
        nonlocal printed
        if example.parsed in scripts:
            return
        run(example)
        printed = capsys.readouterr().out

    def run_commands(example: Example) -> str | None:
        for words, expected in COMMAND.findall(example.parsed):
            main.run(shlex.split(words, comments=True))
            if problem := differs(expected, "".join(capsys.readouterr())):
                return f"{words}: {problem}"
        return None

    def compare(example: Example) -> str | None:
        return differs(example.parsed, printed)

    parsers = [CodeBlockParser("python", run_python), CodeBlockParser("output", compare)]
    parsers.append(CodeBlockParser("console", run_commands))
    document = Sybil(parsers).parse(path)
    document.namespace["__name__"] = "__main__"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    files = TYPE_DOCUMENT(path, tmp_path)
    scripts = [Path(name).read_text() for name in files if re.fullmatch(r"\w+\.py", name)]
    if files:
        monkeypatch.syspath_prepend(tmp_path / "src")
    loggers = [logging.getLogger(name) for name in ("", "functionfuse.run.progress")]
    before = [([*logger.handlers], logger.level) for logger in loggers]
    try:
        for example in document.examples():
            example.evaluate()
    finally:
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]


@each_document
def test_every_python_block_is_found(path: Path) -> None:
    """A block under another spelling of "python" would be shown as Python and never run."""
    text = path.read_text(encoding="utf-8")
    blocks = list(Sybil([CodeBlockParser("python", lambda _: None)]).parse(path).examples())
    assert len(PYTHON_FENCE.findall(text)) == len(blocks)
