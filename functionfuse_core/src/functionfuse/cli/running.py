"""Commands that run a script, or the nodes that a function builds: run, plan."""

from __future__ import annotations

import builtins
import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import FunctionFuseError
from ..hookspecs import API_VERSION, CliCommand
from .building import built
from .commands import Parser, UsageError, common_options, emit

__all__ = ["COMMANDS"]

POLICIES = "unchanged", "always", "never"
_CHOSEN = "params", "set", "name", "backend", "storage"  # options that a script can't have
_PACKAGE = str(Path(__file__).parents[1])


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a script; or module:function, which takes keyword parameters and returns a node or a"
        " list of nodes (`module` alone: its function `build`)",
    )
    rest = parser.add_argument("rest", metavar="ARG", nargs=REMAINDER)
    rest.help, rest.required = "the arguments of the script", False
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        help="compute in N processes, in runs that are handed no executor",
    )
    parser.add_argument(
        "--reuse",
        choices=POLICIES,
        help="when a stored result is reused, as set_reuse says; single nodes can have their own",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="if a node fails, compute all that don't follow it",
    )
    built = parser.add_argument_group("for module:function")
    built.add_argument("--params", metavar="FILE", help="its parameters, in YAML, TOML or JSON")
    built.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter, also a part of one (`model.depth=3`); VALUE is read as YAML",
    )
    built.add_argument("--name", help="the workflow's name; by default that of the module")
    built.add_argument("--backend", metavar="KIND", help="such as ray, instead of the config's")


def _configure_plan(parser: ArgumentParser) -> None:
    _configure(parser)
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a node is `compute` or `maybe`"
    )
    parser.add_argument(
        "--workflow",
        metavar="NAME",
        help="the workflow of the script to plan, if it has several; those before it are run",
    )


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,4}", text):
        raise ArgumentTypeError(f"it is a number from 1 on, and not {text!r}")
    return int(text)


def _is_script(target: str) -> bool:
    return os.path.isfile(target) or (":" not in target and bool(re.search(r"/|\.py$", target)))


def _complete(arguments: Namespace, configure: Any, command: str) -> None:
    """Parse the options after module:function; refuse those that a script can't have."""
    if not _is_script(arguments.target):
        parser = Parser(prog=f"functionfuse {command}", argument_default=None)
        configure(parser)
        common_options(parser)
        rest, target = arguments.rest, arguments.target
        parsed = parser.parse_args([*rest, target])
        if parsed.target != target or parsed.rest:
            raise UsageError(
                f"{target} takes no argument {parsed.target!r}: a parameter is --set NAME=VALUE."
                f" A script's name has the end .py"
            )
        for name, value in vars(parsed).items():
            if value is not None and value is not False and value != []:
                before = getattr(arguments, name)
                setattr(arguments, name, [*before, *value] if name == "set" else value)
        arguments.rest = []
        return
    own = {word.partition("=")[0] for word in arguments.rest}
    parser = Parser(prog="", add_help=False)
    configure(parser)
    common_options(parser)
    for option in [each for each in parser._option_string_actions if each in own]:
        print(
            f"functionfuse: {option} after {arguments.target} is the script's own; put it before"
            f" {arguments.target} to mean that of `functionfuse {command}`",
            file=sys.stderr,
        )
    for name in _CHOSEN:
        if getattr(arguments, name) not in (None, []):
            about = {"storage": "storage", "backend": "backend", "name": "workflow"}.get(name)
            what = f"makes its own {about}" if about else "takes its own arguments"
            raise UsageError(
                f"--{name} is for module:function; the script {arguments.target!r} {what}"
            )


def _tell(
    arguments: Namespace, plan: Callable[[str, Callable[[], Any]], None] | None = None
) -> None:
    """Let all runs in this process do what the options say; let a script find the config.

    This holds until the process ends: threads and `atexit` functions of a script can run workflows.
    """
    from concurrent.futures import ProcessPoolExecutor

    from ..run.workflow import ComputingWorkflow, Overrides

    # Where there is no terminal, lines tell the progress.
    logging.getLogger("functionfuse.run.progress").setLevel(logging.INFO)
    ComputingWorkflow.overrides = Overrides(
        make_executor=partial(ProcessPoolExecutor, arguments.workers)
        if arguments.workers
        else None,
        reuse=arguments.reuse,
        keep_going=arguments.keep_going,
        plan=plan,
    )
    if arguments.config is not None:
        os.environ["FUNCTIONFUSE_CONFIG"] = os.path.abspath(arguments.config)


def _run(arguments: Namespace) -> int:
    _complete(arguments, _configure, "run")
    if _is_script(arguments.target):
        if arguments.json:
            raise UsageError("--json is for module:function; the output of a script is its own")
        _tell(arguments)
        return _script(arguments)
    _tell(arguments)
    flow, failure = None, None
    try:
        with _printed(arguments):
            flow = built(arguments)
            # The lines of the progress are the output; a value is shown by `functionfuse show`.
            shown = None if os.environ.get("FUNCTIONFUSE_PROGRESS") else True
            flow.overrides = flow.overrides._replace(returns=False, progress=shown)
            flow.run()
    except SystemExit:  # of a node
        if flow is None:
            raise
    except Exception as error:  # noqa: BLE001  # it is the user's
        _show(error, arguments)
        failure = error
    report = None if flow is None else flow.report
    if report is None:  # it failed before the run
        kind = type(failure).__name__
        emit(arguments, {"error": {"type": kind, "message": str(failure)}})
        return 1
    emit(arguments, _document(report) | {"run": report.run})
    return int(any(node.action in ("failed", "not run") for node in report.nodes))


@contextmanager
def _printed(arguments: Namespace) -> Iterator[None]:
    """Keep what a user's code prints, and programs that it starts, out of a JSON document."""
    if not arguments.json:
        with redirect_stdout(sys.stdout):  # it may be replaced
            yield
        return
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def _plan(arguments: Namespace) -> int:
    _complete(arguments, _configure_plan, "plan")
    if not _is_script(arguments.target) and arguments.workflow:
        raise UsageError("--workflow is for a script; --name gives the name")
    make = _plan_of_script if _is_script(arguments.target) else _plan_of_function
    with _printed(arguments):
        report = make(arguments)
    emit(arguments, _document(report), lambda: str(report))
    work = any(node.action in ("compute", "maybe") for node in report.nodes)
    return int(work and arguments.check)


def _plan_of_function(arguments: Namespace) -> Any:
    target = arguments.target

    def refuse(name: str, _: object) -> None:
        raise UsageError(
            f"{target} calls run() of workflow {name!r} while it builds, so it can't be planned"
            " without computing; it may call value()"
        )

    _tell(arguments, refuse)
    try:
        return built(arguments).plan()
    except Exception as error:  # noqa: BLE001  # it is the user's
        _show(error, arguments)
    raise UsageError(f"{target} can't be planned")


def _plan_of_script(arguments: Namespace) -> Any:
    """Return the plan of the first run of a script, or of that of a named workflow."""
    target, here = arguments.target, os.getpid()
    found: list[Any] = []
    others: list[str] = []
    runs = True

    def plan(name: str, make: Any) -> None:
        if os.getpid() != here:
            raise UsageError(f"{target} calls run() in another process, which can't be planned")
        if arguments.workflow not in (None, name):
            others.append(name)
            return
        if not found:
            found.append(make())
        if runs and threading.current_thread() is not threading.main_thread():
            # It may wait for this thread, whose pool may pass over the exception.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        raise SystemExit  # which `except Exception` passes on, and which ends a thread silently

    print(f"functionfuse: {target} is run up to its first run(); value() computes", file=sys.stderr)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell's script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _tell(arguments, plan)
    status = 0
    try:
        status = _script(arguments, found)
    except (KeyboardInterrupt, SystemExit) as error:
        if not found and isinstance(error, KeyboardInterrupt):
            raise
    runs = False
    if found:
        return found[0]
    if status:
        raise UsageError(f"{target} failed before its first run()")
    if arguments.workflow is None:
        raise UsageError(f"{target} ends without a run() of a workflow")
    names = ", ".join(map(repr, dict.fromkeys(others))) or "no workflow"
    raise UsageError(f"{target} runs {names}, and no workflow {arguments.workflow!r}")


def _script(arguments: Namespace, ended: Sequence[object] = ()) -> int:
    """Run a script as `python SCRIPT ARG…` does; return 1 after an error, which is printed.

    Args:
        ended: what is no longer empty when the script is ended on purpose: errors are no news then.
    """
    script = arguments.target
    try:
        with open(script, "rb") as file:
            source = file.read()
    except FileNotFoundError:
        raise UsageError(f"there is no script {script!r}") from None
    sys.argv = [script, *arguments.rest]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    hook = sys.excepthook
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = os.path.abspath(script)  # `runpy` would keep a relative path
    module.__dict__["__builtins__"] = builtins
    try:
        exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # noqa: BLE001  # it is the script's
        if ended:
            return 0
        if sys.excepthook is hook or isinstance(error, FunctionFuseError):
            _show(error, arguments)
        else:  # that of the script; the first line is ours
            trace = error.__traceback__
            sys.excepthook(type(error), error, trace and trace.tb_next)
        return 1
    return 0


def _show(error: Exception, arguments: Namespace) -> None:
    """Print a user's error as Python does, without the lines of Function Fuse.

    An error of Function Fuse is raised again, with a note of the user's line, for one sentence.
    """
    found = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = found
    while each is not None and not arguments.debug:
        hidden = f"{_PACKAGE}{os.sep}", "<frozen ", importlib.__file__
        each.stack[:] = [frame for frame in each.stack if not frame.filename.startswith(hidden)]
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    if isinstance(error, FunctionFuseError):
        if found.stack:
            error.add_note(f"at {found.stack[-1].filename}:{found.stack[-1].lineno}")
        raise error
    sys.stdout.flush()
    sys.stderr.write("".join(found.format()))


def _document(report: Any) -> dict[str, Any]:
    nodes = [
        {"node": node.name, "action": node.action, "reason": node.why, "seconds": node.seconds}
        | {"bytes": node.bytes}
        for node in report.nodes
    ]
    return {"workflow": report.workflow_name, "nodes": nodes, "notes": report.notes}


COMMANDS = [
    CliCommand(
        "run",
        "Run a script, or the nodes that a function builds",
        _configure,
        _run,
        api_version=API_VERSION,
    ),
    CliCommand(
        "plan",
        "Show what a run would compute, and why; a script is run up to its first run()",
        _configure_plan,
        _plan,
        api_version=API_VERSION,
    ),
]
