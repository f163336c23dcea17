"""What plugins implement: the hook specs, and the records that the hooks return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .serializers import Serializer

__all__ = [
    "API_VERSION",
    "BackendKind",
    "SerializerKind",
    "StorageKind",
    "functionfuse_backends",
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
        build: makes the serializer. What it needs is imported here.
        api_version: the `API_VERSION` that the plugin was written for, as a number.
    """

    kind: str
    build: Callable[[], Serializer]
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
