"""The command `sign`: sign what a store has already with its key."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter

from ..hookspecs import API_VERSION, CliCommand
from ..show.texts import table
from .commands import emit, open_storage
from .results import known

__all__ = ["COMMANDS"]


def _configure_sign(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", nargs="?", help="by default, all of them")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="sign nothing, and count what headers say",
    )
    parser.epilog = (
        "For a store that got a key later, or another key, or whose results are of an older"
        " release. Whoever runs it trusts every byte that is there: digests are checked, but"
        " whoever could write to the store could also write digests. Results keep their digests"
        " and times, and runs reuse them. Let no workflow run meanwhile. If it is stopped, run it"
        " again. The exit status is 1 if a result can't be signed."
    )


def _sign(arguments: Namespace) -> int:
    storage, workflow = open_storage(arguments), arguments.workflow
    if workflow is not None and workflow not in storage.list_workflows():
        known(storage, workflow)  # raises an error with a suggestion
    done = storage.sign(workflow, dry_run=arguments.dry_run)
    counts = Counter((each.workflow, each.action) for each in done)
    actions = ("signed", "signed already", "not signed", "gone")
    names = list(dict.fromkeys(each.workflow for each in done))
    rows = [("WORKFLOW", *(action.upper() for action in actions))]
    rows += [(name, *(f"{counts[name, action]:,}" for action in actions)) for name in names]
    parts = [table(rows, right=(1, 2, 3, 4))] if done else ["There are no results to sign."]
    bad = [each for each in done if each.problem]
    if bad:
        problems = [("WORKFLOW", "TASK", "CALL", "PROBLEM")]
        problems += [
            (each.workflow, each.task or f"run {each.run}", each.call[:8], each.problem)
            for each in bad
        ]
        parts.append(table(problems))
    if arguments.dry_run and done:
        parts.append("Nothing is signed yet.")
    signed = [
        {"workflow": each.workflow, "task": each.task, "call": each.call, "run": each.run}
        | {"bytes": each.size, "action": each.action, "problem": each.problem}
        for each in done
    ]
    document = {"workflow": workflow, "dry_run": arguments.dry_run, "results": signed}
    emit(arguments, document, "\n\n".join(parts))
    return int(bool(bad))


COMMANDS = [
    CliCommand(
        "sign",
        "Sign the results that are there with the storage's key",
        _configure_sign,
        _sign,
        api_version=API_VERSION,
    )
]
