"""Commands that run a script, or the nodes that a function builds: run, plan."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import re
import runpy
import sys
import traceback
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FunctionFuseError
from ..hookspecs import API_VERSION, CliCommand
from ..names import close_to
from .commands import Parser, UsageError, common_options, emit

__all__ = ["COMMANDS"]

POLICIES = "unchanged", "always", "never"
_CHOSEN = "params", "set", "name", "backend", "storage"  # options that a script can't have
_PACKAGE = str(Path(__file__).parents[1])


class _Planned(BaseException):  # no Exception: a script must not catch it as one
    """Ends a script when the plan is known."""


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a script; or module:function, which takes keyword parameters and returns a node or a"
        " list of nodes (`module` alone: its function `build`)",
    )
    parser.add_argument("rest", metavar="ARG", nargs=REMAINDER, help="the arguments of the script")
    parser.add_argument("--workers", metavar="N", type=_count, help="compute in N processes")
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
        "--workflow", metavar="NAME", help="the workflow of the script to plan, if it has several"
    )


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,4}", text):
        raise ArgumentTypeError(f"it is a number from 1 on, and not {text!r}")
    return int(text)


def _is_script(target: str) -> bool:
    return target.endswith(".py") or os.sep in target or os.path.isfile(target)


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
            if value not in (None, False, []):
                before = getattr(arguments, name)
                setattr(arguments, name, [*before, *value] if name == "set" else value)
        arguments.rest = []
        return
    for name in _CHOSEN:
        if getattr(arguments, name):
            about = {"storage": "storage", "backend": "backend", "name": "workflow"}.get(name)
            what = f"makes its own {about}" if about else "takes its own arguments"
            raise UsageError(
                f"--{name} is for module:function; the script {arguments.target!r} {what}"
            )


@contextmanager
def _as_told(arguments: Namespace, **more: Any) -> Iterator[None]:
    """Let all runs in this process do what the options say; let a script find the config."""
    from concurrent.futures import ProcessPoolExecutor

    from ..run.workflow import ComputingWorkflow, Overrides

    workers = arguments.workers
    make = partial(ProcessPoolExecutor, workers) if workers else None
    shown = logging.getLogger("functionfuse.run.progress")
    level = shown.level
    shown.setLevel(logging.INFO)  # where there is no terminal, lines tell the progress
    ComputingWorkflow.overrides = Overrides(
        make_executor=make, reuse=arguments.reuse, keep_going=arguments.keep_going, **more
    )
    before = os.environ.get("FUNCTIONFUSE_CONFIG")
    if arguments.config is not None:
        os.environ["FUNCTIONFUSE_CONFIG"] = os.path.abspath(arguments.config)
    try:
        yield
    finally:
        ComputingWorkflow.overrides = Overrides()
        shown.setLevel(level)
        if before is not None:
            os.environ["FUNCTIONFUSE_CONFIG"] = before
        elif arguments.config is not None:
            del os.environ["FUNCTIONFUSE_CONFIG"]


def _run(arguments: Namespace) -> int:
    _complete(arguments, _configure, "run")
    if _is_script(arguments.target):
        if arguments.json:
            raise UsageError("--json is for module:function; the output of a script is its own")
        with _as_told(arguments):
            return _script(arguments)
    printed = redirect_stdout(sys.stderr) if arguments.json else nullcontext()
    flow = None
    try:
        with _as_told(arguments, returns=False), printed:
            flow = _built(arguments)
            flow.run()
    except Exception as error:  # noqa: BLE001  # it is the user's
        _show(error, arguments)
    report = None if flow is None else flow.report
    if report is None:  # it failed before the run
        return 1
    emit(arguments, _document(report) | {"run": report.run}, report.summary())
    return int(any(node.action in ("failed", "not run") for node in report.nodes))


def _plan(arguments: Namespace) -> int:
    _complete(arguments, _configure_plan, "plan")
    printed = redirect_stdout(sys.stderr) if arguments.json else nullcontext()
    if _is_script(arguments.target):
        found: list[Any] = []
        others: list[str] = []

        def plan(name: str, make: Any) -> None:
            if arguments.workflow not in (None, name):
                others.append(name)
                return
            found[:] = [make()]
            raise _Planned

        print(
            f"functionfuse: {arguments.target} is run up to its first run(); value() computes",
            file=sys.stderr,
        )
        with _as_told(arguments, plan=plan), printed:
            try:
                status = _script(arguments)
            except (_Planned, SystemExit):
                status = 0
        if not found:
            _refuse(arguments, others, status)
        report = found[0]
    else:
        if arguments.workflow:
            raise UsageError("--workflow is for a script; --name gives the name")
        report = None
        try:
            with _as_told(arguments), printed:
                report = _built(arguments).plan()
        except Exception as error:  # noqa: BLE001  # it is the user's
            _show(error, arguments)
        if report is None:
            raise UsageError(f"{arguments.target} can't be planned")
    emit(arguments, _document(report), lambda: str(report))
    work = any(node.action in ("compute", "maybe") for node in report.nodes)
    return int(work and arguments.check)


def _refuse(arguments: Namespace, others: list[str], status: int) -> None:
    target = arguments.target
    if status:
        raise UsageError(f"{target} failed before its first run()")
    if arguments.workflow is None:
        raise UsageError(f"{target} ends without a run() of a workflow")
    names = ", ".join(map(repr, dict.fromkeys(others))) or "no workflow"
    raise UsageError(f"{target} runs {names}, and no workflow {arguments.workflow!r}")


def _script(arguments: Namespace) -> int:
    """Run a script as `python SCRIPT ARG…` does; return 1 after an error, which is printed."""
    script = arguments.target
    if not os.path.isfile(script):
        raise UsageError(f"there is no script {script!r}")
    argv, path = sys.argv, [*sys.path]
    sys.argv = [script, *arguments.rest]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:  # noqa: BLE001  # it is the script's
        _show(error, arguments)
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def _show(error: Exception, arguments: Namespace) -> None:
    """Print a user's error as Python does, without the lines of Function Fuse.

    An error of Function Fuse is raised again, with a note of the user's line, for one sentence.
    """
    found = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = found
    while each is not None and not arguments.debug:
        hidden = f"{_PACKAGE}{os.sep}", "<frozen ", runpy.__file__, importlib.__file__
        each.stack[:] = [frame for frame in each.stack if not frame.filename.startswith(hidden)]
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    if isinstance(error, FunctionFuseError):
        if found.stack:
            error.add_note(f"at {found.stack[-1].filename}:{found.stack[-1].lineno}")
        raise error
    sys.stdout.flush()
    sys.stderr.write("".join(found.format()))


def _built(arguments: Namespace) -> Any:
    """Return the workflow of the nodes that module:function builds."""
    from ..config.factories import workflow_factory
    from ..config.form import Config, Section, read
    from ..config.source import Source, nearest

    function, label = _function(arguments)
    parameters: dict[str, Any] = {}
    if arguments.params:
        parameters = Source(arguments.params).data
        if not isinstance(parameters, dict):
            raise UsageError(f"{arguments.params!r} holds no mapping of parameters")
    for text in arguments.set:
        _put(parameters, text)
    if arguments.storage is not None and arguments.config is not None:
        raise UsageError("--storage and --config exclude each other")
    if arguments.storage is not None:
        storage = Section("file", {"path": arguments.storage}, ())
        config = Config(Source({}), storage, (), None, None)
    else:
        config = read(arguments.config or nearest())
    if arguments.backend:
        config = config._replace(backend=Section(arguments.backend, {}, ()))
    nodes = _called(function, label, parameters)
    name = arguments.name or label.partition(":")[0].rpartition(".")[2]
    return workflow_factory(config, *nodes, workflow_name=name)


def _function(arguments: Namespace) -> tuple[Any, str]:
    module, _, name = arguments.target.partition(":")
    name = name or "build"
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise UsageError(f"{arguments.target!r} is neither a script nor module:function")
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the module
        raise UsageError(
            f"there is neither a script nor a module {module!r}; modules are looked for in this"
            " folder, and where Python finds them"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(
                f"module {module!r} has no function {name!r}{close_to(name, vars(found))}"
            )
        found = getattr(found, part)
    return found, f"{module}:{name}"


def _put(parameters: dict[str, Any], text: str) -> None:
    """Set a parameter, or a part of one, from the text of `--set`."""
    from ..config.syntax import SyntaxProblem, parse_yaml

    path, equals, value = text.partition("=")
    *above, last = path.split(".")
    if not equals or not all([*above, last]):
        raise UsageError(f"--set takes NAME=VALUE, or NAME.PART=VALUE, and not {text!r}")
    try:
        parsed = parse_yaml(value)[0]
    except SyntaxProblem as error:
        raise UsageError(f"--set {text}: the value is no YAML: {error.message}") from None
    target: Any = parameters
    for step, name in enumerate(above):
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {text}: {'.'.join(above[: step + 1])!r} is no mapping")
    target[last] = parsed


def _called(function: Any, label: str, parameters: Mapping[str, Any]) -> list[Any]:
    """Call a function with checked parameters; return its nodes."""
    signature = inspect.signature(function)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        shown = str(error).replace("got an ", "")
        raise UsageError(f"{label}{signature}: {shown}") from None
    nodes = function(**parameters)
    return [*nodes] if isinstance(nodes, (list, tuple)) else [nodes]


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
