"""The hook specs that plugins implement, and the records that the hooks return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pydantic import BaseModel

__all__ = [
    "API_VERSION",
    "BackendKind",
    "CliCommand",
    "SerializerKind",
    "StorageKind",
    "functionfuse_backends",
    "functionfuse_cli_commands",
    "functionfuse_event",
    "functionfuse_node_failed",
    "functionfuse_node_finished",
    "functionfuse_node_reused",
    "functionfuse_node_started",
    "functionfuse_result_read",
    "functionfuse_result_removed",
    "functionfuse_result_saved",
    "functionfuse_serializers",
    "functionfuse_storages",
    "hookimpl",
]

API_VERSION = 1

hookspec = HookspecMarker("functionfuse")
hookimpl = HookimplMarker("functionfuse")


@dataclass(frozen=True)
class StorageKind:
    """A kind of storage.

    Attributes:
        kind: the "kind" in a config; exactly the name of the entry point.
        options: the pydantic model (`extra="forbid"`) that checks the "options" in a config.
        build: makes the storage from a checked model. Import the SDK here.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    kind: str
    options: type[BaseModel]
    build: Callable[[Any], Any]
    _: KW_ONLY
    api_version: int


@dataclass(frozen=True)
class SerializerKind:
    """A serializer that storages find by the type of a value, without registration.

    Attributes:
        kind: module and qualified name of the type, such as "dask.array.core.Array"; exactly the
            name of the entry point.
        build: makes the `Serializer`. Import its dependencies here.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    kind: str
    build: Callable[[], Any]
    _: KW_ONLY
    api_version: int


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend.

    Attributes:
        kind: the "kind" in a config; exactly the name of the entry point.
        options: the pydantic model (`extra="forbid"`) that checks the "options" in a config.
        build: makes the workflow from a checked model, the nodes and the workflow's name. Its
            storage is set afterwards. Import the SDK here.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    kind: str
    options: type[BaseModel]
    build: Callable[[Any, Sequence[Any], str], Any]
    _: KW_ONLY
    api_version: int


@dataclass(frozen=True)
class CliCommand:
    """A command of the command line.

    Attributes:
        name: the word that users type after `functionfuse`; exactly the name of the entry point.
        help: a one-line description.
        configure: adds its arguments to a parser, which has those that all commands have.
        run: runs the command with the parsed arguments; returns 0 if it is done, 1 for bad news.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    name: str
    help: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    _: KW_ONLY
    api_version: int


@hookspec
def functionfuse_storages() -> Sequence[StorageKind]:
    """Return the kinds of storage that this module provides.

    An entry point of the group `functionfuse.storages` refers to the module. Its name is the
    kind::

        # pyproject.toml
        [project.entry-points."functionfuse.storages"]
        memory = "my_package.plugin"

        # my_package/plugin.py
        from pydantic import BaseModel, ConfigDict
        from functionfuse.hookspecs import StorageKind, hookimpl

        class MemoryOptions(BaseModel):
            model_config = ConfigDict(extra="forbid", frozen=True)
            name: str

        def build(options):
            from .store import MemoryStore
            from functionfuse.storage import Storage

            return Storage(MemoryStore(options.name))

        @hookimpl
        def functionfuse_storages():
            return [StorageKind("memory", MemoryOptions, build, api_version=1)]
    """
    return ()


@hookspec
def functionfuse_serializers() -> Sequence[SerializerKind]:
    """Return the serializer that this module provides.

    An entry point of the group `functionfuse.serializers` refers to the module. Its name is the
    module and the qualified name of the type::

        # pyproject.toml
        [project.entry-points."functionfuse.serializers"]
        "polars.dataframe.frame.DataFrame" = "my_package.plugin"

        # my_package/plugin.py
        from functionfuse.hookspecs import SerializerKind, hookimpl

        def build():
            from .parquet import ParquetSerializer

            return ParquetSerializer()

        @hookimpl
        def functionfuse_serializers():
            return [SerializerKind("polars.dataframe.frame.DataFrame", build, api_version=1)]
    """
    return ()


@hookspec
def functionfuse_backends() -> Sequence[BackendKind]:
    """Return the kinds of backend that this module provides.

    An entry point of the group `functionfuse.backends` refers to the module. Its name is the
    kind::

        # pyproject.toml
        [project.entry-points."functionfuse.backends"]
        threads = "my_package.plugin"

        # my_package/plugin.py
        from pydantic import BaseModel, ConfigDict
        from functionfuse.hookspecs import BackendKind, hookimpl

        class ThreadsOptions(BaseModel):
            model_config = ConfigDict(extra="forbid", frozen=True)
            workers: int = 2

        def build(options, nodes, workflow_name):
            from .threads import ThreadsWorkflow

            return ThreadsWorkflow(*nodes, workflow_name=workflow_name, workers=options.workers)

        @hookimpl
        def functionfuse_backends():
            return [BackendKind("threads", ThreadsOptions, build, api_version=1)]
    """
    return ()


# Entry points of the group `functionfuse.hooks` refer to the modules that implement these hooks.
# Such entry points may have any name. Implementations are called in the process of the event, one
# after the other. Each takes the arguments that it needs, by name. If one raises, the error is
# logged with the plugin's name, and the run goes on. Reads, saves and removals by a hook call no
# hooks.


@hookspec
def functionfuse_event(event: object) -> None:
    """Handle an event of a run, or of a node in it; `event` is a `functionfuse.report.Event`.

    All events come in order, "run finished" also after an error. Called in the process of the
    workflow::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        progress = "my_package.progress"

        # my_package/progress.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_event(event):
            print(event.time, event.workflow, event.kind, event.node)
    """


@hookspec
def functionfuse_node_started(workflow: str, node: str, reason: str) -> None:
    """Handle the start of a node's computation.

    `reason` is the reason in the plan. Called in the process of the workflow::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        progress = "my_package.progress"

        # my_package/progress.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_node_started(workflow, node, reason):
            print(f"{workflow}: {node} because {reason}")
    """


@hookspec
def functionfuse_node_reused(workflow: str, node: str) -> None:
    """Handle the reuse of a node's stored result: the node is not computed.

    Called in the process of the workflow::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        progress = "my_package.progress"

        # my_package/progress.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_node_reused(node):
            print(f"{node}: reused")
    """


@hookspec
def functionfuse_node_finished(workflow: str, node: str, seconds: float) -> None:
    """Handle the end of a node's computation; if there is a storage, the result is stored.

    `seconds` is the run time of its function. Called in the process of the workflow::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        timing = "my_package.timing"

        # my_package/timing.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_node_finished(workflow, node, seconds):
            with open("timing.csv", "a") as file:
                print(workflow, node, seconds, sep=",", file=file)
    """


@hookspec
def functionfuse_node_failed(workflow: str, node: str, error: BaseException) -> None:
    """Handle an exception from computing a node or storing its result.

    The run raises `error` to its caller in any case; with `keep_going`, it raises the error of the
    first node in the graph, at its end. Called in the process of the workflow::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        alarm = "my_package.alarm"

        # my_package/alarm.py
        import logging

        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_node_failed(workflow, node, error):
            logging.getLogger(__name__).critical("%s of %s failed: %r", node, workflow, error)
    """


@hookspec
def functionfuse_result_saved(storage: object, workflow: str, task: str, info: object) -> None:
    """Handle a result that a `Storage` has stored; `info` is its header, a `TaskInfo`.

    Called in the process that computed the result, which may be a worker::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        tracker = "my_package.tracker"

        # my_package/tracker.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_result_saved(workflow, task, info):
            print(f"{workflow}/{task}: {info.type}, {info.size} bytes, {info.digest}")
    """


@hookspec
def functionfuse_result_read(storage: object, workflow: str, task: str) -> None:
    """Handle a stored result that a run or `read_task` has read from a `Storage`.

    Called in the process that read it::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        audit = "my_package.audit"

        # my_package/audit.py
        import getpass

        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_result_read(storage, workflow, task):
            print(f"{getpass.getuser()} read {workflow}/{task} from {storage!r}")
    """


@hookspec
def functionfuse_result_removed(storage: object, workflow: str, task: str) -> None:
    """Handle the removal of a result from a `Storage`, by name, pattern or with its workflow.

    Replacing a result is a save, not a removal. Called in the process that removed it::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        audit = "my_package.audit"

        # my_package/audit.py
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_result_removed(workflow, task):
            print(f"removed {workflow}/{task}")
    """


@hookspec
def functionfuse_cli_commands() -> Sequence[CliCommand]:
    """Return the command for the command line that this module provides.

    The module is imported when the command is typed, or for `functionfuse --help`. So import the
    command's dependencies when it runs::

        # pyproject.toml
        [project.entry-points."functionfuse.commands"]
        publish = "my_package.publish"

        # my_package/publish.py
        from functionfuse.cli import emit, open_storage
        from functionfuse.hookspecs import CliCommand, hookimpl

        def configure(parser):
            parser.add_argument("workflow", help="its results are published")

        def run(arguments):
            from .site import publish
            count = publish(open_storage(arguments), arguments.workflow)
            emit(arguments, {"published": count}, f"{count} results are published")
            return 0

        @hookimpl
        def functionfuse_cli_commands():
            return [CliCommand("publish", "Publish results", configure, run, api_version=1)]
    """
    return ()
