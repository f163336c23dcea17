"""The record of a run for its storage: who ran it, when and where, and each node with its inputs.

A record has no results. It has no arguments in `ignore` either: they can be secrets, and their
texts are removed from the texts of errors.
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

from ..reuse.plan import NO_USE, Decisions
from .contract import Backend
from .crossing import here
from .events import RunEvents
from .ignored import Ignored
from .inputs import recorded
from .job import text_of
from .past import Past
from .report import FAILED, REUSED

__all__ = ["about", "columns_of", "error_of"]

# The fields of a node that an earlier run has done. An error has ended that run, but the graph was
# made bit by bit, so what was done counts.
_BEFORE = {
    "action": REUSED,
    "reason": "computed before an error ended the run",
    **dict.fromkeys(("seconds", "begun"), 0.0),
    "worker": "",
    "attempts": 0,
}

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
    found = [index for index, failed in events.errors.items() if failed is error]
    index = found[0] if found else None
    name = "" if index is None else events.names[index]
    kind = type(error).__name__
    text = text_of(error).removeprefix(kind).removeprefix(": ")
    return {"type": kind, "text": Ignored(events.graph).out_of(text, index), "node": name}


def columns_of(
    events: RunEvents, decisions: Decisions, stored: bytearray, past: Past, *, grows: bool
) -> Columns:
    """Return the fields of all nodes of a run that is over, or a part of it, parents first.

    Args:
        stored: for each node, whether the storage holds its present result.
        grows: whether the run goes on with a larger graph.
    """
    columns = _columns(events, decisions, stored)
    if not (grows or past.rows or events.done):
        return columns
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
    ignored = Ignored(graph) if quoting else None
    hidden = {n: ignored.out_of(reasons[n], n) for n in quoting} if ignored else {}
    # A call that fails when it is replayed has an older result, which is not that of this run.
    has = [stored[index] and actions[index] != FAILED for index in every]
    headers = [decisions.stored(index) if has[index] else None for index in every]
    digests = [getattr(header, "digest", "") for header in headers]
    made = [call.hex() if (call := decisions.call(index)) else "" for index in every]
    driver, functions = here(), list(map(identities.function, nodes))
    return {
        "name": names,
        "action": actions,
        "reason": [hidden.get(index, reasons[index]) for index in every] if hidden else reasons,
        "seconds": seconds,
        "begun": begun,
        "worker": [worker or (begun[n] and driver) or "" for n, worker in enumerate(workers)],
        # A call that was replayed, or not needed, has a stored result, too.
        "bytes": [size or (events.stored_size(n) if has[n] else 0) for n, size in enumerate(sizes)],
        "call": [getattr(h, "call", call) for h, call in zip(headers, made, strict=True)],
        "digest": digests,
        "value": [
            "" if action == FAILED else _value(header, known)
            for action, header, known in zip(actions, headers, decisions.digests, strict=True)
        ],
        "attempts": attempts,
        "parents": [[names[parent] for parent in parents] for parents in graph.parents],
        "arguments": recorded(identities, graph),
        "function": [name for name, _ in functions],
        "code": [code for _, code in functions],
        "plugins": list(map(identities.plugins, nodes)),
    }


def _value(header: Any, known: bytes | None) -> str:
    """Return the digest of a value, "" if it is that of the stored result, or is unknown."""
    if header is None:
        return known.hex() if known else ""
    return "" if header.value == header.digest else str(header.value)


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
