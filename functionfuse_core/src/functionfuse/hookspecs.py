"""What plugins implement: the hook specs, and the records that the hooks return."""

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
        kind: what users write as "kind"; the name of the entry point, to the letter.
        options: the pydantic model (`extra="forbid"`) that checks what users write as "options".
        build: makes the storage from a checked model. The SDK that it needs is imported here.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    kind: str
    options: type[BaseModel]
    build: Callable[[Any], Any]
    _: KW_ONLY
    api_version: int


@dataclass(frozen=True)
class SerializerKind:
    """A serializer that storages find by themselves when they meet a value of its type.

    Attributes:
        kind: module and qualified name of the type, such as "dask.array.core.Array"; the name of
            the entry point, to the letter.
        build: makes the `Serializer`. What it needs is imported here.
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
        kind: what users write as "kind"; the name of the entry point, to the letter.
        options: the pydantic model (`extra="forbid"`) that checks what users write as "options".
        build: makes the workflow from a checked model, the nodes and the workflow's name; it is
            handed its storage afterwards. The SDK that it needs is imported here.
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
        name: what users type after `functionfuse`.
        help: one line on what it does.
        configure: adds its arguments to a parser.
        run: does it, given the parsed arguments; returns the exit status.
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
    """Return the kinds of storage that this module brings.

    The module is named by an entry point of the group `functionfuse.storages`, whose name is the
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
    """Return the serializer that this module brings.

    The module is named by an entry point of the group `functionfuse.serializers`, whose name is
    the module and the qualified name of the type::

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
    """Return the kinds of backend that this module brings.

    The module is named by an entry point of the group `functionfuse.backends`, whose name is the
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


# The hooks below are of modules that entry points of the group `functionfuse.hooks` name; the names
# of these entry points are free. Their implementations are called in the process in which the event
# happens, one after the other, and take the arguments that they need, by name. What one raises is
# logged with the plugin's name, and the run goes on. What a hook itself reads, saves or removes
# calls no hooks.


@hookspec
def functionfuse_node_started(workflow: str, node: str, reason: str) -> None:
    """Be told that a node begins to be computed.

    `reason` says why, as in a plan. Called in the process of the workflow::

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
    """Be told that a node is not computed, because its stored result stands.

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
    """Be told that a node was computed, and, if there is a storage, that its result is stored.

    `seconds` is how long its function ran. Called in the process of the workflow::

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
    """Be told that computing a node, or storing its result, raised; `error` is what.

    It is raised to the caller of the run whatever this does. Called in the process of the
    workflow::

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
    """Be told that a result is stored, by a `Storage`; `info` is its header, a `TaskInfo`.

    Called where the result was computed, which may be a worker::

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
    """Be told that a stored result was read from a `Storage`, by a run or by `read_task`.

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
    """Be told that a result was removed from a `Storage`: by name, pattern or with its workflow.

    A result that another one replaces is not removed, but saved. Called in the process that removed
    it::

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
    """Return commands for the command line.

    The module is imported whenever the command line starts, so what it needs is imported when a
    command runs::

        # pyproject.toml
        [project.entry-points."functionfuse.hooks"]
        publish = "my_package.publish"

        # my_package/publish.py
        from functionfuse.hookspecs import CliCommand, hookimpl

        def configure(parser):
            parser.add_argument("workflow")

        def run(arguments):
            from .site import publish

            publish(arguments.workflow)
            return 0

        @hookimpl
        def functionfuse_cli_commands():
            return [CliCommand("publish", "Publish results", configure, run, api_version=1)]
    """
    return ()
