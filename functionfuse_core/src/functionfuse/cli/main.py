"""Find the command that was typed, run it, and turn errors into sentences and an exit status.

Only the module of this command is imported; for `--help`, all are.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress

from .. import __version__
from ..errors import (
    CodeDiffersError,
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    NoConfigError,
    NodeTimeoutError,
    PluginError,
    UnpicklableResultError,
    UnreadableResultError,
    UntrustedResultError,
    WorkerDiedError,
)
from ..hookspecs import CliCommand
from ..names import close_to
from ..plugins.entrypoints import COMMANDS, entries, visible
from ..show.texts import printable
from .commands import Parser, UsageError, common_options, emit

__all__ = ["command", "commands", "run", "tree"]

# The modules of this package, with their commands in the order of the help.
MODULES = {
    "running": ("run", "plan"),
    "results": ("list", "show", "earlier", "lineage"),
    "runs": ("runs",),
    "pictures": ("report", "graph"),
    "upkeep": ("copy", "rm", "prune", "gc", "verify"),
    "sign": ("sign",),
    "setup": ("plugins", "config", "completion"),
    "doctor": ("doctor",),
}
DONE, BAD_NEWS, WRONG_USE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

# Results that can't be read, and nodes that failed.
_BAD_NEWS = (
    CodeDiffersError,
    DamagedResultError,
    NewerFormatError,
    NodeTimeoutError,
    UnpicklableResultError,
    UnreadableResultError,
    UntrustedResultError,
    WorkerDiedError,
)
_VALUED = "--storage", "--config"  # common options that take a value


def run(words: Sequence[str]) -> int:
    """Run a command line; return the exit status, after the error is printed."""
    arguments = Namespace(json="--json" in words, debug="--debug" in words)  # until it is parsed
    logger, handler = logging.getLogger("functionfuse"), logging.StreamHandler()
    handler.setFormatter(_Sentences())
    logger.addHandler(handler)
    try:
        try:
            return _run(words, arguments)
        except BrokenPipeError:
            raise
        except (FunctionFuseError, OSError) as error:
            if arguments.debug:
                traceback.print_exc()
            if isinstance(error, NoConfigError):
                error.add_note("`functionfuse config init` makes one; --storage FOLDER needs none")
            _tell(arguments, error)
            return BAD_NEWS if isinstance(error, _BAD_NEWS) else WRONG_USE
        except Exception as error:  # a fault of ours, or of a plugin's command
            if arguments.debug:
                raise
            error.add_note("--debug shows where this comes from")
            _tell(arguments, error)
            return BAD_NEWS
        finally:
            with suppress(AttributeError, ValueError):  # a script can close or replace it
                sys.stdout.flush()
    except OSError as error:
        # Nobody reads the rest, or the disk is full. Without this, Python prints an error when it
        # ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return CLOSED_PIPE
        print(f"functionfuse: the output can't be written: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        logger.removeHandler(handler)


def command(name: str) -> CliCommand:
    """Return a command by its name; import nothing but its module.

    Raises:
        UsageError: there is no such command.
        PluginError: the plugin that brings it can't be used.
    """
    for module, names in MODULES.items():
        if name in names:
            return _of_module(module)[name]
    others = sorted({entry.kind for entry in visible(entries(COMMANDS))})
    if name not in others:
        from ..plugins.hooks import event_hooks

        event_hooks()  # logs a plugin that brings its commands in the way of earlier releases
        known = [*(name for names in MODULES.values() for name in names), *others]
        raise UsageError(f"no command {name!r}{close_to(name, known)}. See functionfuse --help")
    from ..plugins.registry import find

    found = find(COMMANDS, name)
    assert isinstance(found, CliCommand)
    return found


def commands() -> Iterator[CliCommand]:
    """Iterate over all commands, those of plugins last; the log names those that can't be used."""
    for module in MODULES:
        yield from _of_module(module).values()
    own = {name for names in MODULES.values() for name in names}
    for name in sorted({entry.kind for entry in visible(entries(COMMANDS))} - own):
        try:
            yield command(name)
        except PluginError as error:
            logging.getLogger(__name__).warning("a command is left out: %s", error)


def tree() -> ArgumentParser:
    """Return a parser of all commands, for the help, the completion and the documentation."""
    parser = Parser(
        prog="functionfuse",
        description="See what is stored, what would run, and what runs.",
        epilog="Exit status: 0 done; 1 bad news (a node failed, a result is damaged, a check found"
        " something); 2 wrong use, config, name or storage; 130 after Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"functionfuse {__version__}")
    common_options(parser)
    parsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    for each in commands():
        _configure(parsers.add_parser(each.name, help=each.help, description=each.help), each)
    return parser


def _of_module(module: str) -> dict[str, CliCommand]:
    found = importlib.import_module(f"{__package__}.{module}").COMMANDS
    return {command.name: command for command in found}


def _configure(parser: ArgumentParser, found: CliCommand) -> None:
    found.configure(parser)
    common_options(parser)


def _run(words: Sequence[str], arguments: Namespace) -> int:
    before, rest = 0, [*words]
    while rest[before : before + 1] and rest[before].startswith("-"):
        before += 2 if rest[before] in _VALUED else 1
    options, rest = rest[:before], rest[before:]
    if {"--help", "-h", "--version"} & {*options} or not rest:
        parser = tree()
        parser.parse_args(options)
        parser.print_help()
        return DONE
    found = command(rest[0])
    parser = Parser(prog=f"functionfuse {found.name}", description=found.help)
    _configure(parser, found)
    parsed = parser.parse_args([*options, *rest[1:]])
    vars(arguments).update(vars(parsed))
    return found.run(arguments)


def _tell(arguments: Namespace, error: Exception) -> None:
    """Print an error as a sentence, or as JSON."""
    kind = type(error).__name__
    ours = isinstance(error, (FunctionFuseError, OSError))
    said = str(error) if ours else f"{kind}: {error}"
    notes = getattr(error, "__notes__", ())
    text = "; ".join([said or kind, *(note for note in notes if "\n" not in note)])
    for line in text.split("\n"):
        print(f"functionfuse: {printable(line)}", file=sys.stderr)
    if arguments.json:
        emit(arguments, {"error": {"type": kind, "message": text}})


class _Sentences(logging.Formatter):
    """Shows a log record as one line, without the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"functionfuse: {level}{printable(record.getMessage())}"
