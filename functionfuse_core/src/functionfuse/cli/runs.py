"""The command that shows recorded runs: one, its nodes, or the changes between two."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from ..errors import DamagedResultError, NoMatchError
from ..hookspecs import API_VERSION, CliCommand
from ..show.texts import duration, size, table
from .commands import emit, open_storage
from .results import add_workflow, by_prefix, fields, known, utc

if TYPE_CHECKING:
    from ..storage.runs import RunRecord, Runs

__all__ = ["COMMANDS", "IDS", "chosen_run"]

IDS = "the first characters of an id are enough, and -1 is the newest run"


def _configure_runs(parser: ArgumentParser) -> None:
    add_workflow(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--last", metavar="N", type=_count, default=20, help="the newest N runs (default: 20)"
    )
    group.add_argument("--run", metavar="ID", help=f"the nodes of one run; {IDS}")
    group.add_argument(
        "--compare", metavar="ID", nargs=2, help="the changes from one run to another"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _runs(arguments: Namespace) -> int:
    storage, workflow = open_storage(arguments), arguments.workflow
    if arguments.compare:
        return _compare(arguments, storage)
    if arguments.run is not None:
        return _run(arguments, chosen_run(storage, workflow, arguments.run))
    found = storage.runs(workflow, arguments.last)
    if not found:
        known(storage, workflow)
    runs, rows = [], [("RUN", "TIME", "NODES", "ERROR")]
    for record in found:
        runs.append(about := _about_run(record))
        counts = ", ".join(f"{count} {action}" for action, count in about["actions"].items())
        counts = "(DamagedResultError)" if "problem" in about else counts
        rows.append((record.id, duration(record.seconds), counts, _error(record, text=False)))
    text = table(rows, right=(1,)) if found else f"No runs of workflow {workflow!r}."
    emit(arguments, {"workflow": workflow, "runs": runs}, text)
    return int(any("problem" in run for run in runs))


def chosen_run(storage: Any, workflow: str, name: str) -> RunRecord:
    """Return a run by the beginning of its id, or by its number from the end.

    Raises as `by_prefix`, and ResultNotFoundError if the workflow is unknown.
    """
    number = int(name[1:]) if re.fullmatch("-0*[1-9][0-9]{0,8}", name) else None
    found: Runs = storage.runs(workflow, last=number)
    if not found:
        known(storage, workflow)
    if number is None:
        ids = {record.id: record for record in found}
        return by_prefix(ids, name, "run id", f"Workflow {workflow!r}")
    if len(found) < number:
        raise NoMatchError(f"Workflow {workflow!r} has {len(found)} recorded runs only.")
    return found[0]


def _about_run(record: RunRecord) -> dict[str, Any]:
    about: dict[str, Any] = {"run": record.id, "started": record.started, "seconds": record.seconds}
    about |= {"user": record.user, "host": record.host, "python": record.python}
    about |= {"commit": record.commit, "backend": record.backend, "error": record.error}
    try:
        return about | {"actions": record.counts}
    except DamagedResultError as error:
        return about | {"actions": {}, "problem": str(error)}


def _error(record: RunRecord, *, text: bool) -> str:
    if not record.error:
        return ""
    node = record.error["node"]
    where = record.error["type"] + (f" in {node!r}" if node else "")
    return f"{where}: {record.error['text']}" if text else where


def _run(arguments: Namespace, record: RunRecord) -> int:
    nodes = record.nodes
    document = {"workflow": record.workflow, **_about_run(record)}
    document["nodes"] = [
        {"node": node.name, **dict(zip(node._fields[1:], node[1:], strict=True))} for node in nodes
    ]
    about = [
        ("run", record.id),
        ("workflow", record.workflow),
        ("started", f"{utc(record.started)} UTC"),
        ("time", duration(record.seconds)),
        ("by", " on ".join(filter(None, (record.user, record.host)))),
        ("python", record.python),
        ("backend", record.backend),
        ("commit", record.commit),
        ("error", _error(record, text=True)),
    ]
    rows = [("NODE", "ACTION", "TIME", "SIZE", "REASON")]
    for node in nodes:
        count = size(node.bytes) if node.bytes else ""
        rows.append((node.name, node.action, duration(node.seconds or None), count, node.reason))
    emit(arguments, document, lambda: f"{fields(about)}\n\n{table(rows, right=(2, 3))}")
    return 0


def _compare(arguments: Namespace, storage: Any) -> int:
    before, after = (chosen_run(storage, arguments.workflow, name) for name in arguments.compare)
    changes = before.compare(after)
    document = {"workflow": arguments.workflow, "before": before.id, "after": after.id}
    document["changes"] = [
        change._asdict() | {"before": _plain(change.before), "after": _plain(change.after)}
        for change in changes
    ]
    rows = [("before", before.id), ("after", after.id)]
    emit(arguments, document, lambda: f"{fields(rows)}\n\n{changes}")
    return 0


def _plain(value: Any) -> Any:
    """Return a side of a change for JSON: {"described": text} for what is no plain value there."""
    from ..storage.runchanges import Described  # comes with the storage

    if isinstance(value, float) and not math.isfinite(value):
        return {"described": repr(value)}
    return {"described": str(value)} if isinstance(value, Described) else value


COMMANDS = [
    CliCommand(
        "runs",
        "List the recorded runs of a workflow, show one, or compare two",
        _configure_runs,
        _runs,
        api_version=API_VERSION,
    ),
]
