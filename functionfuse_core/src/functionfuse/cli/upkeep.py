"""Commands that maintain a storage: copy, rm, prune, gc, verify."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import FunctionFuseError
from ..hookspecs import API_VERSION, CliCommand
from ..show.texts import size, table
from .commands import UsageError, check_folder, emit, open_storage
from .results import known

if TYPE_CHECKING:
    from ..storage.upkeep import Leftover

__all__ = ["COMMANDS"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DRY_RUN = "remove nothing, and list what would be removed"


_CONFIGS = ".yaml", ".yml", ".toml", ".json"


class _Going(NamedTuple):
    """What `rm` would remove; `complete` is False if the size of a damaged result is unknown."""

    names: list[str]
    size: int
    earlier: int
    complete: bool = True

    def __str__(self) -> str:
        least = "" if self.complete else "at least "
        earlier = f" and earlier results ({size(self.earlier)})" if self.earlier else ""
        return f"{_counted(len(self.names), 'result')} ({least}{size(self.size)}){earlier}"


def _configure_copy(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="of the results")
    parser.add_argument(
        "pattern", metavar="GLOB", nargs="?", default="*", help="only tasks that match"
    )
    parser.add_argument(
        "--to",
        metavar="CONFIG",
        required=True,
        help="the config file of the other storage, or a folder, which is made if it is not there",
    )
    parser.add_argument("--earlier", action="store_true", help="copy earlier results, too")
    parser.add_argument("--runs", action="store_true", help="copy the records of all runs, too")
    parser.add_argument(
        "--dry-run", action="store_true", help="copy nothing, and list what would be copied"
    )
    parser.epilog = (
        "Bytes are copied and checked, and nothing is unpickled. An equal result that is there"
        " already stays, so a copy that was stopped can be started again. Another result of the"
        " same name is replaced, and kept as an earlier result. If the storages have different"
        " keys, results are checked with one and signed with the other. The exit status is 1 if a"
        " result can't be copied because it is damaged, or its signature is wrong; the others are"
        " copied."
    )


def _copy(arguments: Namespace) -> int:
    from ..config.factories import storage_factory  # takes longer than the rest of a command

    storage, to = open_storage(arguments), arguments.to
    is_config = to.lower().endswith(_CONFIGS)
    if not is_config:
        check_folder(to, "--to")
    other = storage_factory(to if is_config else {"kind": "file", "options": {"path": to}})
    workflow, pattern, dry_run = arguments.workflow, arguments.pattern, arguments.dry_run
    if not arguments.runs:
        known(storage, workflow, pattern)  # raises an error with a suggestion
    try:
        chosen = {"earlier": arguments.earlier, "runs": arguments.runs, "dry_run": dry_run}
        done = storage.copy(workflow, other, pattern, **chosen)
    except FunctionFuseError:
        raise  # most are a ValueError, too
    except ValueError:
        raise UsageError(f"--to names the storage that the results are in: {to!r}") from None
    copied = [
        {"task": each.task, "call": each.call, "run": each.run, "bytes": each.size}
        | {"action": each.action, "problem": each.problem}
        for each in done
    ]
    shown = [each for each in done if each.problem or dry_run]
    rows = [("TASK", "CALL", "SIZE", "ACTION", "PROBLEM")]
    rows += [
        (each.task or f"run {each.run}", each.call[:8], size(each.size), each.action, each.problem)
        for each in shown
    ]
    actions = Counter(each.action for each in done)
    moved = sum(each.size for each in done if each.action in ("copied", "replaced"))
    counts = ", ".join(f"{count:,} {action}" for action, count in actions.items())
    text = f"{'Would be: ' if dry_run else ''}{counts or 'nothing'} ({size(moved)})."
    if shown:
        text = f"{table(rows, right=(2,))}\n{text}"
    document = {"workflow": workflow, "to": to, "dry_run": dry_run, "bytes": moved}
    emit(arguments, document | {"copied": copied}, text)
    return int(any(each.problem for each in done))


def _configure_rm(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="of the results")
    parser.add_argument(
        "pattern", metavar="GLOB", nargs="?", help="only tasks that match; by default all"
    )
    parser.add_argument("--dry-run", action="store_true", help=_DRY_RUN)
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.epilog = (
        "Earlier results of the tasks are removed, too; without GLOB, also the records of runs. It"
        " asks before it removes anything. With --json, or without a terminal to ask at, it needs"
        " --yes. The exit status is 1 if the answer is no."
    )


def _rm(arguments: Namespace) -> int:
    workflow, pattern = arguments.workflow, arguments.pattern
    asks = not (arguments.yes or arguments.dry_run)
    if asks and arguments.json:
        raise UsageError("--json can't ask before it removes: add --yes, or --dry-run")
    if asks and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "rm asks first, and there is no terminal to ask at: add --yes, or --dry-run"
        )
    storage = open_storage(arguments)
    found = _some(storage, workflow, pattern) if pattern is not None else _whole(storage, workflow)
    found = found._replace(names=_own(storage, workflow, found.names))
    about = f"{found} of workflow {workflow!r}"
    if asks:
        if not _agreed(f"Remove {about}? [y/N] "):
            print("Nothing is removed.", file=sys.stderr)
            return 1
        if _own(storage, workflow, storage.list_tasks(workflow, pattern or "*")) != found.names:
            raise UsageError("other results were stored or removed meanwhile: nothing is removed")
    if arguments.dry_run:
        text = table([("TASK",), *((name,) for name in found.names)]) + f"\nWould remove {about}."
    else:
        text = f"Removed {about}."
        if pattern is None:
            storage.remove_workflow(workflow)
        else:
            storage.remove_task(workflow, pattern=pattern)
    document = {"workflow": workflow, "dry_run": arguments.dry_run, "tasks": found.names}
    emit(arguments, document | {"bytes": found.size, "earlier_bytes": found.earlier}, text)
    return 0


def _own(storage: Any, workflow: str, names: list[str]) -> list[str]:
    """Return the names without those of files that are no results, and will be left."""
    from ..storage.keys import key_of
    from ..storage.ours import foreign

    keys = [key_of(workflow, name) for name in names]
    others = foreign(storage.store, keys)
    return [name for name, key in zip(names, keys, strict=True) if key not in others]


def _whole(storage: Any, workflow: str) -> _Going:
    if workflow not in storage.list_workflows():
        known(storage, workflow)  # raises an error with a suggestion
    [usage] = storage.du(workflow)
    return _Going(storage.list_tasks(workflow), usage.size, usage.earlier)


def _some(storage: Any, workflow: str, pattern: str) -> _Going:
    names = known(storage, workflow, pattern)
    infos = [info for info in storage.task_infos(workflow, names) if info is not None]
    sound = [found.info for found in infos if not isinstance(found, FunctionFuseError)]
    count = sum(info.size + info.side_size for info in sound)
    chosen = set(names)
    everything = storage.prune(workflow, keep=0, dry_run=True)
    earlier = sum(each.size for each in everything if each.task in chosen)
    return _Going(names, count, earlier, complete=len(sound) == len(infos))


def _agreed(question: str) -> bool:
    """Ask on the terminal; the output is left to the outcome."""
    try:
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise
    if not answer.endswith("\n"):  # Ctrl-D
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def _configure_prune(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="of the earlier results")
    parser.add_argument(
        "--days", metavar="N", type=float, help="remove those set aside more than N days ago"
    )
    parser.add_argument(
        "--bytes",
        metavar="SIZE",
        help="keep at most this size, such as '10 GiB'; those set aside first are removed",
    )
    parser.add_argument(
        "--keep", metavar="N", type=int, help="for each task, keep the N that were computed last"
    )
    parser.add_argument("--dry-run", action="store_true", help=_DRY_RUN)
    parser.epilog = (
        "An earlier result is one that another call of the same task has replaced. The latest"
        " results stay. Without a limit, those of the storage's option `earlier` hold. To remove"
        " the results of nodes that a workflow no longer has, use"
        " `storage.prune(unused_by=workflow)` in Python: it needs the graph."
    )


def _prune(arguments: Namespace) -> int:
    storage, workflow = open_storage(arguments), arguments.workflow
    limits = {"days": arguments.days, "bytes": arguments.bytes, "keep": arguments.keep}
    try:
        found = storage.prune(workflow, **limits, dry_run=arguments.dry_run)
    except FunctionFuseError:
        raise  # most are a ValueError, too
    except ValueError as error:
        message = str(error).replace("prune: ", "--", 1).replace(" on, or None", " on")
        raise UsageError(message) from None
    if not found:
        known(storage, workflow)  # raises an error if the workflow is unknown
    removed = [
        {"task": each.task, "call": each.call, "bytes": each.size, "set_aside": _time(each)}
        for each in found
    ]
    rows = [("TASK", "CALL", "SIZE", "SET ASIDE")]
    rows += [(each.task, each.call[:8], size(each.size), _short(each)) for each in found]
    about = f"{_sum(found, 'earlier result')} of workflow {workflow!r}"
    _report(arguments, {"workflow": workflow}, removed, rows, about)
    return 0


def _configure_gc(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=_seconds,
        default="1d",
        help="younger leftovers stay: 90s, 30m, 12h, 2d or 1w; %(default)s by default. No running"
        " save may be older",
    )
    parser.add_argument("--dry-run", action="store_true", help=_DRY_RUN)
    parser.epilog = (
        "Leftovers are temporary files of killed writers, side data that no result refers to,"
        " copies of damaged results, and leases of runs that died. Results stay. Workflows can run"
        " meanwhile."
    )


def _gc(arguments: Namespace) -> int:
    storage = open_storage(arguments)
    found = storage.gc(arguments.older_than, dry_run=arguments.dry_run)
    removed = [
        {"key": each.key, "kind": each.kind, "bytes": each.size, "written": _time(each)}
        for each in found
    ]
    rows = [("KIND", "SIZE", "WRITTEN", "KEY")]
    rows += [(each.kind, size(each.size), _short(each), each.key) for each in found]
    about = {"older_than": arguments.older_than}
    _report(arguments, about, removed, rows, _sum(found, "leftover"))
    return 0


def _configure_verify(parser: ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", nargs="?", help="by default, all of them")
    parser.epilog = (
        "Every byte is read and compared with its digest, and a signature with the storage's key."
        " Nothing is unpickled or changed. The exit status is 1 if a result has a problem."
    )


def _verify(arguments: Namespace) -> int:
    storage, workflow = open_storage(arguments), arguments.workflow
    found = storage.verify(workflow)
    if not found and workflow is not None:
        known(storage, workflow)
    bad = [each for each in found if each.problem]
    problems = [
        {"workflow": each.workflow, "task": each.task, "call": each.call, "problem": each.problem}
        for each in bad
    ]
    total = sum(each.size for each in found)
    text = f"{_counted(len(found), 'result')} ({size(total)}): no problem found."
    noted = Counter(each.note for each in found if each.note)
    notes = "".join(f" {count:,} of them {note}." for note, count in noted.items())
    if bad:
        rows = [("WORKFLOW", "TASK", "CALL", "PROBLEM")]
        rows += [(each.workflow, each.task, each.call[:8], each.problem) for each in bad]
        text = f"{table(rows)}\n{_counted(len(found), 'result')}: {len(bad)} with a problem."
    text += notes
    document = {"workflow": workflow, "results": len(found), "bytes": total, "problems": problems}
    emit(arguments, document, text)
    return int(bool(bad))


def _seconds(text: str) -> float:
    """Return the seconds of an age such as "12h"."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhdw])", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no age such as 90s, 12h or 2d")
    return float(found[1]) * _SECONDS[found[2]]


def _report(
    arguments: Namespace,
    about: dict[str, Any],
    removed: Sequence[dict[str, Any]],
    rows: Sequence[Sequence[str]],
    summary: str,
) -> None:
    """Print the blobs that were removed: each one if nothing was removed yet, else their sum."""
    text = f"Removed {summary}." if removed else "There is nothing to remove."
    if removed and arguments.dry_run:
        text = f"{table(rows, right=[rows[0].index('SIZE')])}\nWould remove {summary}."
    total = sum(each["bytes"] for each in removed)
    document = {**about, "dry_run": arguments.dry_run, "bytes": total, "removed": removed}
    emit(arguments, document, text)


def _sum(found: Iterable[Leftover], noun: str) -> str:
    sizes = [each.size for each in found]
    return f"{_counted(len(sizes), noun)} ({size(sum(sizes))})"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _time(leftover: Leftover) -> str:
    return f"{datetime.fromtimestamp(leftover.modified, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _short(leftover: Leftover) -> str:
    return _time(leftover)[:19].replace("T", " ")


COMMANDS = [
    CliCommand(
        "copy",
        "Copy results to another storage, and check them",
        _configure_copy,
        _copy,
        api_version=API_VERSION,
    ),
    CliCommand("rm", "Remove results", _configure_rm, _rm, api_version=API_VERSION),
    CliCommand(
        "prune",
        "Remove earlier results of a workflow",
        _configure_prune,
        _prune,
        api_version=API_VERSION,
    ),
    CliCommand(
        "gc",
        "Remove leftovers of killed processes",
        _configure_gc,
        _gc,
        api_version=API_VERSION,
    ),
    CliCommand(
        "verify",
        "Check every byte of the results",
        _configure_verify,
        _verify,
        api_version=API_VERSION,
    ),
]
