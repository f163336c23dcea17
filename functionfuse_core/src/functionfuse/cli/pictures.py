"""Commands that show a workflow as a picture: report, graph."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import StoragePathError
from ..hookspecs import API_VERSION, CliCommand
from ..show.files import replaced
from ..show.texts import size
from .commands import UsageError, emit, open_storage
from .results import add_workflow
from .runs import IDS, chosen_run

__all__ = ["COMMANDS"]


def _configure_report(parser: ArgumentParser) -> None:
    add_workflow(parser)
    parser.add_argument(
        "-o", dest="output", metavar="FILE", required=True, help="write this HTML file"
    )
    parser.add_argument("--run", metavar="ID", help=f"the run, by default the newest; {IDS}")
    parser.add_argument(
        "--compare", metavar="ID", help="compare with this run; by default with the one before"
    )
    parser.add_argument(
        "--values", action="store_true", help="read the results, and show small previews of them"
    )


def _refuse_dash(output: str) -> None:
    if output == "-":
        raise UsageError("-o takes a file, and '-' would be a file of this name")


def _report(arguments: Namespace) -> int:
    _refuse_dash(arguments.output)
    storage = open_storage(arguments)
    given = [
        name and chosen_run(storage, arguments.workflow, name).id
        for name in (arguments.run, arguments.compare)
    ]
    found = storage.report(arguments.workflow, *given)
    path = found.save(arguments.output, values=arguments.values)
    run, before = (each and each.id for each in (found.run, found.before))
    count = path.stat().st_size
    document = {"workflow": arguments.workflow, "run": run, "compared": before}
    emit(arguments, {**document, "file": str(path), "bytes": count}, f"{path}  {size(count)}")
    return 0


def _configure_graph(parser: ArgumentParser) -> None:
    add_workflow(parser)
    parser.add_argument(
        "--format", choices=("mermaid", "dot", "svg"), default="mermaid", help="default: mermaid"
    )
    parser.add_argument("-o", dest="output", metavar="FILE", help="write this file; default: print")


def _graph(arguments: Namespace) -> int:
    from ..show.picture import to_dot, to_mermaid
    from ..show.svg import to_svg

    storage = open_storage(arguments)
    picture = storage.report(arguments.workflow).picture()
    text = {"mermaid": to_mermaid, "dot": to_dot, "svg": to_svg}[arguments.format](picture)
    document = {"workflow": arguments.workflow, "format": arguments.format}
    if arguments.output is None:
        emit(arguments, {**document, "text": text}, text.rstrip("\n"))
        return 0
    _refuse_dash(arguments.output)
    try:
        path = replaced(Path(arguments.output), text.encode())
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        why = getattr(error, "strerror", None) or error
        raise StoragePathError(f"{arguments.output!r} can't be written: {why}") from error
    count = path.stat().st_size
    emit(arguments, {**document, "file": str(path), "bytes": count}, f"{path}  {size(count)}")
    return 0


COMMANDS = [
    CliCommand(
        "report",
        "Write the page about a run",
        _configure_report,
        _report,
        api_version=API_VERSION,
    ),
    CliCommand(
        "graph",
        "Draw the graph of a stored workflow",
        _configure_graph,
        _graph,
        api_version=API_VERSION,
    ),
]
