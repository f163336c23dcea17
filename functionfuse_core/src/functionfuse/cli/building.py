"""The workflow of the nodes that module:function builds, from the options of run and plan."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import os
import re
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from ..errors import GraphError
from ..names import close_to
from .commands import UsageError, chosen_folder

__all__ = ["built"]


def built(arguments: Namespace) -> Any:
    """Return the workflow of the nodes that module:function builds.

    Raises:
        UsageError: there is no such function, or it can't be called with the parameters.
        GraphError: it returned no nodes.
        OptionsError, UnknownKindError, PluginError: the config or the parameters can't be used.
    """
    from ..config.factories import workflow_factory
    from ..config.form import Config, Section, read
    from ..config.source import Hidden, Source, nearest

    function, label = _function(arguments.target)
    signature = _signature(function, label)
    parameters = {} if arguments.params is None else _from_file(arguments.params)
    for text in arguments.set:
        _put(parameters, text, signature)
    folder = chosen_folder(arguments)
    if folder is not None:
        config = Config(Source({}), Section("file", Hidden({"path": folder})), (), None, None)
    else:
        config = read(nearest() if arguments.config is None else arguments.config)
    if arguments.backend is not None:
        config = config._replace(backend=Section(arguments.backend))
    try:
        signature.bind(**parameters)
    except TypeError as error:
        shown = str(error).replace("got an ", "")
        raise UsageError(f"{label}{signature}: {shown}") from None
    nodes = function(**parameters)
    name = label.partition(":")[0].rpartition(".")[2] if arguments.name is None else arguments.name
    nodes = [*nodes] if isinstance(nodes, (list, tuple)) else [nodes]
    try:
        return workflow_factory(config, *nodes, workflow_name=name)
    except GraphError as error:
        error.add_note(f"{label} must return a node, or a list of nodes")
        raise


def _function(target: str) -> tuple[Any, str]:
    """Return the function that a target names, and its label "module:function"."""
    module, _, name = target.partition(":")
    name = name or "build"
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"a function of a module is written {dotted}:{name}, and not {target}")
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise UsageError(f"{target!r} is neither a script nor module:function")
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    top, *rest = module.split(".")
    if rest and top not in sys.modules:  # an import of it would run a script of this name
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.submodule_search_locations is None:
            raise UsageError(f"there is no module {module!r}: {top!r} is no package")
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


def _signature(function: Any, label: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        raise UsageError(f"{label} is no function: {type(function).__name__}") from None


def _from_file(path: str) -> dict[str, Any]:
    """Return the parameters in a file; the value of a variable is read as YAML, as with `--set`."""
    from ..config.source import Source

    found = _plain(Source(path).data)
    if not isinstance(found, dict):
        raise UsageError(f"{path!r} holds no mapping of parameters")
    return found


def _plain(value: Any) -> Any:
    """Return a value of a config file without the private class for texts with variables."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _parsed(str(value)) if isinstance(value, str) and type(value) is not str else value


def _parsed(text: str) -> Any:
    """Return a text as a YAML scalar, such as a number; other texts stay."""
    from ..config.syntax import SyntaxProblem, parse_yaml

    try:
        found = parse_yaml(text)[0]
    except SyntaxProblem:
        return text
    return text if isinstance(found, (dict, list)) else found


def _put(parameters: dict[str, Any], text: str, signature: inspect.Signature) -> None:
    """Set a parameter, or a part of one, from the text of `--set`.

    A part is set in the value of the parameters file, or in a copy of the default.
    """
    from ..config.syntax import SyntaxProblem, parse_yaml

    path, equals, value = text.partition("=")
    first, *above = path.split(".")
    if not equals or not all([first, *above]):
        raise UsageError(f"--set takes NAME=VALUE, or NAME.PART=VALUE, and not {text!r}")
    try:
        parsed = parse_yaml(value)[0] if value.strip() else value
    except SyntaxProblem as error:
        raise UsageError(f"--set {text}: the value is no YAML: {error.message}") from None
    if above and first not in parameters and first in signature.parameters:
        default = signature.parameters[first].default
        if isinstance(default, Mapping):
            parameters[first] = copy.deepcopy(dict(default))
    *outer, last = path.split(".")
    target: Any = parameters
    for step, name in enumerate(outer):
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {text}: {'.'.join(outer[: step + 1])!r} is no mapping")
    target[last] = parsed
