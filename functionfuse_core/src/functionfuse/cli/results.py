"""Commands that show what is stored: list, show, earlier, lineage. Times are UTC."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import (
    FunctionFuseError,
    NoMatchError,
    OriginalResultError,
    ResultNotFoundError,
    UnreadableResultError,
)
from ..hookspecs import API_VERSION, CliCommand
from ..names import close_to
from ..show.texts import duration, size, table
from .commands import UsageError, emit, open_storage

if TYPE_CHECKING:
    from ..storage.header import TaskInfo
    from ..storage.lineage import LineageNode

__all__ = ["COMMANDS", "absent", "add_workflow", "by_prefix", "fields", "known", "place", "utc"]

Item = TypeVar("Item")

_LONGEST = 2000  # characters of a value's repr
_is_glob = re.compile(r"[*?\[]").search


def place(storage: Any) -> str:
    """Return where a storage has its results, as a part of a sentence."""
    folder = getattr(getattr(storage, "store", None), "root", "")
    return f"the folder {folder!r}" if folder else repr(storage)


def known(storage: Any, workflow: str, pattern: str = "*") -> list[str]:
    """Return the names of a workflow's results that match a glob pattern, or are equal to it.

    Raises:
        ResultNotFoundError: no such workflow is stored, or none of its results matches.
    """
    names: list[str] = storage.list_tasks(workflow, pattern)
    if names:
        return names
    workflows = storage.list_workflows()
    if not workflows:
        raise ResultNotFoundError(_nothing(storage))
    if workflow not in workflows:
        close = close_to(workflow, workflows)
        raise ResultNotFoundError(f"No workflow {workflow!r} in {place(storage)}{close}.")
    if not _is_glob(pattern):
        raise absent(storage, workflow, pattern)
    raise ResultNotFoundError(f"No result of workflow {workflow!r} matches {pattern!r}.")


def absent(storage: Any, workflow: str, task: str) -> ResultNotFoundError:
    """Return the error for a task without a stored result.

    Raises:
        ResultNotFoundError: no such workflow is stored.
    """
    close = close_to(task, known(storage, workflow))
    return ResultNotFoundError(f"No result of task {task!r} in workflow {workflow!r}{close}.")


def _nothing(storage: Any) -> str:
    """Return what helps somebody who looks into an empty storage."""
    return (
        f"There are no results in {place(storage)}. A workflow stores its results after"
        " `set_storage`. Another storage is opened by --storage FOLDER or --config FILE."
    )


def utc(iso: str) -> str:
    """Return a recorded time, which is UTC, to the second."""
    return iso[:19].replace("T", " ")


def fields(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values as lines, without those that have no value."""
    return table([row for row in rows if row[1]])


def by_prefix(found: Mapping[str, Item], prefix: str, noun: str, owner: str) -> Item:
    """Return the only item whose key begins with a prefix.

    Raises:
        NoMatchError: no key begins with it.
        UsageError: several do.
    """
    matching = [key for key in found if key.startswith(prefix)]
    if not matching:
        close = close_to(prefix, found)
        raise NoMatchError(f"{owner} has no {noun} that begins with {prefix!r}{close}.")
    if len(matching) > 1:
        some = ", ".join(matching[:3]) + (", …" if matching[3:] else "")
        raise UsageError(
            f"{owner} has {len(matching)} {noun}s that begin with {prefix!r}: {some}. Give more"
            " characters"
        )
    return found[matching[0]]


def add_workflow(parser: ArgumentParser) -> None:
    """Add the name of a workflow to the arguments of a command."""
    parser.add_argument("workflow", metavar="WORKFLOW", help="the name of a workflow")


def _add_task(parser: ArgumentParser) -> None:
    add_workflow(parser)
    parser.add_argument("task", metavar="TASK", help="the name of one of its nodes")
    parser.add_argument(
        "--call",
        metavar="DIGEST",
        help="the result of this call, which `earlier` lists; its first digits are enough",
    )


def _configure_list(parser: ArgumentParser) -> None:
    parser.add_argument(
        "workflow", metavar="WORKFLOW", nargs="?", help="list its results; a glob lists workflows"
    )
    parser.add_argument("pattern", metavar="GLOB", nargs="?", help="only the tasks that match")


def _list(arguments: Namespace) -> int:
    storage = open_storage(arguments)
    workflow, pattern = arguments.workflow, arguments.pattern
    if workflow is None:
        return _list_workflows(arguments, storage, "*")
    if pattern is None and _is_glob(workflow) and workflow not in storage.list_workflows():
        return _list_workflows(arguments, storage, workflow)
    names = known(storage, workflow, "*" if pattern is None else pattern)
    tasks: list[dict[str, Any]] = []
    rows = [("TASK", "SIZE", "TIME", "COMPUTED (UTC)", "TYPE")]
    for name, info in _headers(storage, workflow, names):
        if isinstance(info, OriginalResultError):
            tasks.append({"task": name, "original": True})
            rows.append((name, "", "", "", "(of the original Function Fuse)"))
            continue
        if isinstance(info, FunctionFuseError):
            tasks.append({"task": name, "problem": str(info)})
            rows.append((name, "", "", "", f"({type(info).__name__})"))
            continue
        tasks.append({"task": name, **_about(info)})
        rows.append((name, *_cells(info), info.type.rpartition(".")[2]))
    emit(arguments, {"workflow": workflow, "tasks": tasks}, lambda: table(rows, right=(1, 2)))
    return int(any("problem" in task for task in tasks))


def _headers(
    storage: Any, workflow: str, names: Sequence[str]
) -> Iterator[tuple[str, TaskInfo | FunctionFuseError]]:
    """Iterate over the headers of tasks, or their errors, without those removed meanwhile."""
    for name, found in zip(names, storage.task_infos(workflow, names), strict=True):
        try:
            if found is not None:
                yield name, found if isinstance(found, FunctionFuseError) else found.info
        except FunctionFuseError as error:  # a summary parses the rest of a header on demand
            yield name, error


def _about(info: TaskInfo) -> dict[str, Any]:
    return {
        "bytes": info.size + info.side_size,
        "seconds": info.seconds,
        "created": info.created,
        "type": info.type,
        "digest": info.digest,
    }


def _cells(info: TaskInfo) -> tuple[str, str, str]:
    return size(info.size + info.side_size), duration(info.seconds), utc(info.created)


def _list_workflows(arguments: Namespace, storage: Any, pattern: str) -> int:
    names = storage.list_workflows()
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if names and not matching:
        raise ResultNotFoundError(f"No workflow in {place(storage)} matches {pattern!r}.")
    usages = [usage for name in matching for usage in storage.du(name)]
    workflows = [
        {"workflow": usage.workflow, "results": usage.tasks, "bytes": usage.size}
        | {"earlier_bytes": usage.earlier}
        for usage in usages
    ]
    rows = [("WORKFLOW", "RESULTS", "SIZE", "EARLIER")]
    rows += [(u.workflow, f"{u.tasks:,}", size(u.size), size(u.earlier)) for u in usages]
    text = table(rows, right=(1, 2, 3)) if usages else _nothing(storage)
    emit(arguments, {"workflows": workflows}, text)
    return 0


def _configure_show(parser: ArgumentParser) -> None:
    _add_task(parser)
    parser.add_argument(
        "--value",
        action="store_true",
        help=f"unpickle the result, and print up to {_LONGEST:,} characters of its repr",
    )


def _show(arguments: Namespace) -> int:
    from ..storage.ancestry import node_of  # comes with the storage

    storage, workflow, task = open_storage(arguments), arguments.workflow, arguments.task
    info, earlier = _chosen(storage, workflow, task, arguments.call)
    node = node_of(info)
    files = ("name", "bytes", "digest")
    document = {
        "workflow": workflow,
        "task": task,
        "earlier": earlier,
        **_about(info),
        "side_bytes": info.side_size,
        "function": info.function,
        "call": node.call,
        "run": info.run,
        "python": info.python,
        "host": info.host,
        "packages": info.packages,
        "by_value": info.by_value,
        "signed": info.signed,
        "not_reusable": node.note,
        "side_data": [
            side._asdict() | {"files": [_named(files, each) for each in side.files]}
            for side in info.side_data
        ],
        "arguments": node.arguments,
        "parents": _parents(node),
        "fingerprint": info.fingerprint,
    }
    shown = _header_text(info, node, earlier=earlier)
    if arguments.value:
        document["value"] = text = _value(storage, info, node.call if earlier else "")
        shown += f"\n\nVALUE\n{text}"
    emit(arguments, document, shown)
    return 0


def _value(storage: Any, info: TaskInfo, call: str) -> str:
    """Unpickle a result; return its repr, which is cut."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # as `python -m functionfuse` has it: for modules of yours
    with redirect_stdout(sys.stderr):  # a module can print when it is imported
        value = storage.read_task(info.workflow, info.task, call=call)
        try:
            text = repr(value)
        except Exception as error:  # it is code of the user
            raise UnreadableResultError(
                f"The value of task {info.task!r} has no repr: {type(error).__name__}: {error}"
            ) from error
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _chosen(storage: Any, workflow: str, task: str, prefix: str | None) -> tuple[TaskInfo, bool]:
    """Return a header, that of the latest result or of a call; and whether it is an earlier one.

    Raises:
        ResultNotFoundError, NoMatchError: there is none; the message has a suggestion.
        UsageError: several calls begin with the prefix.
        FunctionFuseError: the latest result is wanted, and can't be used.
    """
    if prefix is None:
        try:
            return storage.task_info(workflow, task), False
        except ResultNotFoundError:
            raise absent(storage, workflow, task) from None
    infos = [(info, True) for info in storage.earlier(workflow, task)]
    latest = [(info, False) for _, info in _headers(storage, workflow, [task])]
    if not infos and not latest:
        raise absent(storage, workflow, task)
    every = [*infos, *latest]  # the latest of a call counts
    calls = {pair[0].call: pair for pair in every if hasattr(pair[0], "call")}
    return by_prefix(calls, prefix, "call", f"Task {task!r}")


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _parents(node: LineageNode) -> list[dict[str, str]]:
    return [_named(("task", "call", "digest"), key) for key in node.parents]


def _header_text(info: TaskInfo, node: LineageNode, *, earlier: bool) -> str:
    count, took, created = _cells(info)
    beside = f", {size(info.side_size)} of them side data" if info.side_size else ""
    rows = [
        ("task", info.task),
        ("workflow", info.workflow),
        ("result", "earlier" if earlier else "latest"),
        ("function", info.function),
        ("computed", created and f"{created} UTC"),
        ("time", took),
        ("size", count + beside),
        ("type", info.type),
        ("digest", info.digest),
        ("call", node.call),
        ("run", info.run),
        ("python", info.python and f"{info.python} on {info.host}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in info.packages.items())),
        ("code", "stored by value" if info.by_value else ""),
        ("signed", "yes" if info.signed else ""),
        ("not reusable", node.note),
    ]
    for side in info.side_data:
        written = f"{side.serializer} ({side.distribution or 'unknown distribution'})"
        count = size(sum(length for _, length, _ in side.files))
        files = "file" if len(side.files) == 1 else "files"
        rows.append(("side data", f"{written}: {len(side.files):,} {files}, {count}"))
    parts = [fields(rows)]
    if node.arguments:
        parts.append(table([("ARGUMENT", "TEXT OR DIGEST"), *node.arguments.items()]))
    if node.parents:
        parents = [(name, call[:8], digest[:8]) for name, call, digest in node.parents]
        parts.append(table([("PARENT", "CALL", "DIGEST"), *parents]))
    return "\n\n".join(parts)


def _configure_earlier(parser: ArgumentParser) -> None:
    add_workflow(parser)
    parser.add_argument("task", metavar="TASK", nargs="?", help="only those of this task")


def _earlier(arguments: Namespace) -> int:
    storage, workflow, task = open_storage(arguments), arguments.workflow, arguments.task
    found: list[TaskInfo] = storage.earlier(workflow, task)
    if not found and task is None:
        known(storage, workflow)
    if not found and task is not None and not storage.file_exists(workflow, task):
        raise absent(storage, workflow, task)
    found.sort(key=lambda info: info.task)  # the newest of each stays first
    results = [{"task": info.task, "call": info.call, **_about(info)} for info in found]
    rows = [("TASK", "SIZE", "TIME", "COMPUTED (UTC)", "CALL")]
    rows += [(info.task, *_cells(info), info.call) for info in found]
    whose = f"workflow {workflow!r}" if task is None else f"task {task!r}"
    text = table(rows, right=(1, 2)) if found else f"No earlier results of {whose}."
    emit(arguments, {"workflow": workflow, "earlier": results}, text)
    return 0


def _configure_lineage(parser: ArgumentParser) -> None:
    _add_task(parser)
    parser.add_argument(
        "--down", action="store_true", help="the results that were computed from it instead"
    )


def _lineage(arguments: Namespace) -> int:
    storage, workflow, task = open_storage(arguments), arguments.workflow, arguments.task
    info, _ = _chosen(storage, workflow, task, arguments.call)
    call = "" if arguments.call is None else info.call
    found = storage.lineage(workflow, task, call, down=arguments.down)
    nodes = [node._asdict() | {"parents": _parents(node)} for node in found]
    document = {"workflow": workflow, "task": task, "down": arguments.down, "nodes": nodes}
    emit(arguments, document, lambda: str(found))
    return 0


COMMANDS = [
    CliCommand(
        "list",
        "List workflows, or the results of one",
        _configure_list,
        _list,
        api_version=API_VERSION,
    ),
    CliCommand(
        "show",
        "Show a result: its header, its call, and with --value its value",
        _configure_show,
        _show,
        api_version=API_VERSION,
    ),
    CliCommand(
        "earlier",
        "List earlier results, which later ones have replaced",
        _configure_earlier,
        _earlier,
        api_version=API_VERSION,
    ),
    CliCommand(
        "lineage",
        "Show the results that a result was computed from, as a tree",
        _configure_lineage,
        _lineage,
        api_version=API_VERSION,
    ),
]
