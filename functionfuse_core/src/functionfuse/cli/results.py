"""Commands that show what is stored: list, show, earlier, lineage, runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from ..errors import FunctionFuseError, ResultNotFoundError
from ..hookspecs import API_VERSION, CliCommand
from ..names import close_to
from ..show.texts import duration, size, table
from .commands import emit, open_storage

__all__ = ["COMMANDS", "known"]


def known(storage: Any, workflow: str, pattern: str = "*") -> list[str]:
    """Return the names of a workflow's results that match a glob pattern.

    Raises:
        ResultNotFoundError: no such workflow is stored, or none of its results matches.
    """
    names: list[str] = storage.list_tasks(workflow, pattern)
    if names:
        return names
    workflows = storage.list_workflows()
    if workflow not in workflows:
        close = close_to(workflow, workflows)
        raise ResultNotFoundError(f"No workflow {workflow!r} in {storage!r}{close}.")
    raise ResultNotFoundError(f"No result of workflow {workflow!r} matches {pattern!r}.")


def _configure_list(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", nargs="?", help="list its results")
    parser.add_argument("pattern", metavar="GLOB", nargs="?", default="*", help="only these tasks")


def _list(arguments: Namespace) -> int:
    storage = open_storage(arguments)
    if arguments.workflow is None:
        return _list_workflows(arguments, storage)
    names = known(storage, arguments.workflow, arguments.pattern)
    tasks, rows = [], [("TASK", "SIZE", "TIME", "COMPUTED", "TYPE")]
    for name, found in zip(names, storage.task_infos(arguments.workflow, names), strict=True):
        if found is None:  # removed meanwhile
            continue
        if isinstance(found, FunctionFuseError):
            tasks.append({"task": name, "problem": str(found)})
            rows.append((name, "", "", "", f"({type(found).__name__})"))
            continue
        info = found.info
        count = info.size + info.side_size
        about = {"seconds": info.seconds, "created": info.created, "type": info.type}
        tasks.append({"task": name, "bytes": count, **about, "digest": info.digest})
        time = (duration(info.seconds), info.created[:19].replace("T", " "))
        rows.append((name, size(count), *time, info.type.rpartition(".")[2]))
    document = {"workflow": arguments.workflow, "tasks": tasks}
    emit(arguments, document, lambda: table(rows, right=(1, 2)))
    return int(any("problem" in task for task in tasks))


def _list_workflows(arguments: Namespace, storage: Any) -> int:
    usages = storage.du()
    workflows = [
        {"workflow": usage.workflow, "results": usage.tasks, "bytes": usage.size}
        | {"earlier_bytes": usage.earlier}
        for usage in usages
    ]
    rows = [("WORKFLOW", "RESULTS", "SIZE", "EARLIER")]
    rows += [(u.workflow, f"{u.tasks:,}", size(u.size), size(u.earlier)) for u in usages]
    text = table(rows, right=(1, 2, 3)) if usages else f"No workflows in {storage!r}."
    emit(arguments, {"workflows": workflows}, text)
    return 0


COMMANDS = [
    CliCommand(
        "list",
        "List workflows, or the results of one",
        _configure_list,
        _list,
        api_version=API_VERSION,
    ),
]
