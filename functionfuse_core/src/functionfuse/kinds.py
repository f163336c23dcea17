"""Core's own kinds for configs: the storage "file" and the backend "local"."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .config.options import StorageOptions, check_options
from .errors import without_locals
from .hookspecs import BackendKind, StorageKind, hookimpl
from .storage.filestore import FileStore
from .storage.storage import Storage

__all__ = ["FileOptions", "FileStorage", "LocalOptions"]


class FileOptions(StorageOptions):
    """Options of the kind "file"."""

    path: Path = Field(description="The folder that holds the results; made when it is not there.")
    private: bool = Field(
        default=False,
        description="Only the user may read: files 0600, folders 0700. Else the umask decides.",
    )


class FileStorage(Storage):
    """Results in files below `path`. `storage_factory` makes one from a config.

    Args:
        path: the folder; created with the first workflow or result. Or all options, checked.
        options: the other options of the kind, see `FileOptions`.
    """

    @without_locals
    def __init__(self, path: str | os.PathLike[str] | FileOptions, **options: Any) -> None:
        checked = path
        if not isinstance(checked, FileOptions):
            checked = check_options(FileOptions, kind="file", options={"path": path, **options})
        self.path = os.path.abspath(os.path.expanduser(checked.path))
        # With a key, nobody may change the bytes between the check of the signature and their use.
        maps = checked.key is None
        super().__init__(FileStore(self.path, private=checked.private, maps=maps), checked)


class LocalOptions(BaseModel):
    """Options of the backend "local"."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    executor: Literal["none", "threads", "processes"] = Field(
        default="none",
        description=(
            "Where nodes are computed: 'none': one after the other, where run is called; 'threads'"
            " or 'processes': independent ones at the same time."
        ),
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="How many threads or processes; by default as many as Python chooses.",
    )
    keep_going: bool = Field(
        default=False,
        description="If a node fails, compute all nodes that don't follow it, if run isn't told.",
    )
    resources: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None,
        description=(
            "How much there is of each resource that nodes need, such as {'gpu': 1}, if run isn't"
            " told; by default any amount."
        ),
    )


def _build_local(options: LocalOptions, nodes: Sequence[Any], workflow_name: str) -> Any:
    from concurrent.futures import ProcessPoolExecutor  # loads multiprocessing

    from .backends.builtin.localback import LocalWorkflow

    workflow = LocalWorkflow(*nodes, workflow_name=workflow_name)
    pools: dict[str, Callable[..., Executor]] = {
        "threads": ThreadPoolExecutor,
        "processes": ProcessPoolExecutor,
    }
    if options.executor in pools:
        workflow.make_executor = partial(pools[options.executor], options.workers)
    workflow.keep_going, workflow.resources = options.keep_going, options.resources
    return workflow


@hookimpl
def functionfuse_storages() -> list[StorageKind]:
    """Return the kind "file"."""
    return [StorageKind("file", FileOptions, FileStorage, api_version=1)]


@hookimpl
def functionfuse_backends() -> list[BackendKind]:
    """Return the kind "local"."""
    return [BackendKind("local", LocalOptions, _build_local, api_version=1)]
