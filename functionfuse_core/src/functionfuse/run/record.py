"""The record of a run for its storage: who ran it, when and where, and each node with its inputs.

A record has no results, and no arguments in `ignore`.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..reuse.plan import Decisions
from ..reuse.results import NO_USE
from .contract import Backend
from .crossing import here
from .events import RunEvents
from .ignored import Ignored
from .inputs import recorded
from .job import text_of
from .past import Past
from .report import FAILED, REUSED

__all__ = ["about", "columns_of", "error_of", "told"]

# The fields of a node that an earlier run has done. An error has ended that run, but the graph was
# made bit by bit, so what was done counts.
_BEFORE = {
    "action": REUSED,
    "reason": "computed before an error ended the run",
    **dict.fromkeys(("seconds", "begun"), 0.0),
    "worker": "",
    "attempts": 0,
}

_LONGEST = 2000  # characters of an error

# By name of a field of `functionfuse.storage.runrecord.RecordedNode`: the values of all nodes.
Columns = dict[str, Sequence[Any]]


def about(
    run: str, events: RunEvents, backend: Backend, failure: dict[str, str] | None
) -> dict[str, object]:
    """Return the fields about a run with this id.

    Args:
        failure: as from `error_of`.
    """
    date, _, time = run.partition("-")[0].partition("T")
    started = f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}"
    return {
        "id": run,
        "workflow": events.workflow_name,
        "started": started,
        "seconds": events.lasted(),
        **_process(),
        "backend": getattr(backend, "name", type(backend).__name__),
        "error": failure,
    }


def error_of(error: BaseException, events: RunEvents) -> dict[str, str]:
    """Return the fields of the error that ended a run: its type, its text, and its node or ""."""
    kind = type(error).__name__
    text, name = text_of(error).removeprefix(kind).removeprefix(": ")[:_LONGEST], ""
    for index, failed in events.errors.items():
        if failed is error:
            name = events.names[index]
            if Ignored(events.graph).may_be_in(index):
                text = ""
    return {"type": kind, "text": text, "node": name}


def columns_of(
    events: RunEvents, decisions: Decisions, stored: bytearray, past: Past, *, grows: bool
) -> Columns:
    """Return the fields of all nodes of a run that is over, or a part of it, parents first.

    Fields that are empty for all nodes are left out.

    Args:
        stored: for each node, whether the storage holds its present result.
        grows: whether the run goes on with a larger graph.
    """
    columns = _columns(events, decisions, stored)
    if grows or past.rows or events.done:
        columns = _with_past(columns, events, past)
    return {name: column for name, column in columns.items() if any(column) or name == "name"}


def _with_past(columns: Columns, events: RunEvents, past: Past) -> Columns:
    """Return the fields also of nodes that earlier parts of the run have done, and note all."""
    nodes, rows = events.graph.nodes, list(zip(*columns.values(), strict=True))
    left = [past.rows[node] for node in events.left() if node in past.rows]
    for index in events.done:
        row = past.rows.get(nodes[index])
        rows[index] = row or tuple(
            {**dict(zip(columns, rows[index], strict=True)), **_BEFORE}.values()
        )
    for index, _ in events.done_now():
        past.rows[nodes[index]] = rows[index]
    return dict(zip(columns, zip(*left, *rows, strict=True), strict=True))


def _columns(events: RunEvents, decisions: Decisions, stored: bytearray) -> Columns:
    graph, identities, names = events.graph, decisions.identities, events.graph.names
    nodes, every = graph.nodes, range(len(names))
    ended = zip(*events.ended(), strict=True)
    _, actions, reasons, seconds, sizes, attempts, _, begun, workers = ended
    # Only these reasons have texts of errors.
    quoting = [n for n in every if n in events.failed or reasons[n].startswith(NO_USE)]
    ignored = Ignored(graph)
    told_of = {n: told(reasons[n], hidden=ignored.may_be_in(n)) for n in quoting}
    # A call that fails when it is replayed has an older result, which is not that of this run.
    has = [stored[index] and actions[index] != FAILED for index in every]
    headers = [decisions.stored[index] if has[index] else None for index in every]
    made = [call.hex() if call else "" for call in decisions.calls]
    driver = here()
    named = {parents: [names[parent] for parent in parents] for parents in set(graph.parents)}
    plugins: list[Any] = [()] * len(nodes)
    if identities.has_plugins:
        plugins = list(map(identities.plugins, nodes))
    functions, codes, arguments = recorded(identities, graph, ignored)
    return {
        "name": names,
        "action": actions,
        "reason": [told_of.get(index, reasons[index]) for index in every] if told_of else reasons,
        "seconds": seconds,
        "begun": begun,
        "worker": [worker or (begun[n] and driver) or "" for n, worker in enumerate(workers)],
        # A call that was replayed, or not needed, has a stored result, too.
        "bytes": [size or (events.stored_size(n) if has[n] else 0) for n, size in enumerate(sizes)],
        "call": [getattr(h, "call", call) for h, call in zip(headers, made, strict=True)],
        "digest": [getattr(header, "digest", "") for header in headers],
        "value": list(map(_value, headers, decisions.digests, actions)),
        "attempts": attempts,
        "parents": [named[parents] for parents in graph.parents],
        "arguments": arguments,
        "function": functions,
        "code": codes,
        "plugins": plugins,
    }


def told(reason: str, *, hidden: bool) -> str:
    """Return a reason with the text of an error, or without it."""
    return reason.partition(":")[0] if hidden else reason[:_LONGEST]


def _value(header: Any, known: bytes | None, action: str) -> str:
    """Return the digest of a value; "" if it is that of the stored result, or is unknown."""
    if header is not None:
        return "" if header.value == header.digest else str(header.value)
    return known.hex() if known and action != FAILED else ""


@cache
def _process() -> dict[str, str]:
    return {
        "user": _user(),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # it has no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _commit() -> str:
    """Return the commit of the script's folder, or else of the current one, read from `.git`."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    with suppress(OSError, ValueError):  # it is no more than a hint
        for start in (*([Path(file).resolve().parent] if file else ()), Path.cwd()):
            for folder in (start, *start.parents):
                if (folder / ".git").exists():
                    return _head_of(folder / ".git")
    return ""


def _head_of(git: Path) -> str:
    """Return the commit that is checked out; see gitrepository-layout(5)."""
    if git.is_file():  # a worktree, or a submodule
        git = git.parent / git.read_text("utf-8").partition("gitdir: ")[2].strip()
    head = (git / "HEAD").read_text("utf-8").strip()
    name = head.removeprefix("ref: ")
    if name != head:
        common = git
        with suppress(FileNotFoundError):
            common = git / (git / "commondir").read_text("utf-8").strip()
        try:
            head = (common / name).read_text("utf-8").strip()
        except FileNotFoundError:
            lines = (common / "packed-refs").read_text("utf-8").splitlines()
            head = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    return head if re.fullmatch("[0-9a-f]{40,64}", head) else ""
