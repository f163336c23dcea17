"""What plugins implement: the hook specs, and the records that the hooks return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["StorageKind", "functionfuse_storages", "hookimpl"]

hookspec = HookspecMarker("functionfuse")
hookimpl = HookimplMarker("functionfuse")


@dataclass(frozen=True)
class StorageKind:
    """A kind of storage.

    Attributes:
        kind: what users write as "kind"; the name of the entry point, to the letter.
        options: the pydantic model (`extra="forbid"`) that checks what users write as "options".
        build: makes the storage from a checked model. The SDK that it needs is imported here.
    """

    kind: str
    options: type[BaseModel]
    build: Callable[[Any], Any]


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
            return [StorageKind("memory", MemoryOptions, build)]
    """
    return ()
