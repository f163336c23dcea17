"""What a run needs of a storage; and an adapter for objects with the four documented members."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Any, Protocol, runtime_checkable

from ..errors import (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
)
from ..graph.arguments import refuse_nodes
from ..reuse.results import Earlier, Info

__all__ = ["OF_NO_USE", "FourMembers", "HeaderStore", "Lease", "MinimalStorage", "ResultStore"]

# The errors of a stored result that can't be read, so that it is computed again.
OF_NO_USE = (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
    FileNotFoundError,
)


class Lease(Protocol):
    """The right to compute a node; see `functionfuse.storage.lease.Lease`."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...


class MinimalStorage(Protocol):
    """The members that `set_storage` requires; a `Storage` has them.

    `read_task` raises FileNotFoundError if nothing is stored.
    """

    always_read: bool

    def new_workflow(self, workflow_name: str, /) -> object: ...
    def save(self, workflow_name: str, task_name: str, result: Any, /) -> object: ...
    def read_task(self, workflow_name: str, task_name: str, /) -> Any: ...


class ResultStore(Protocol):
    """The members of a `Storage` by which a run stores and reads results; see there."""

    def new_workflow(self, workflow_name: str, /) -> object: ...
    def save(
        self,
        workflow_name: str,
        task_name: str,
        obj: Any,
        /,
        *,
        function: str,
        seconds: float | None,
        fingerprint: Mapping[str, Any] | None,
        describe: Callable[..., Any] | None,
        replaces: EllipsisType | None = ...,
        run: str = "",
    ) -> Any: ...
    def reads_back(self, info: Any, /) -> bool: ...
    def read_unchanged(
        self, workflow_name: str, task_name: str, digest: str, call: str, /
    ) -> Any: ...


@runtime_checkable
class HeaderStore(ResultStore, Protocol):
    """A storage that returns headers without reading values, and so tells a plan what is stored.

    A run asks for all headers at once, before it computes. It reads the values of the results that
    it needs, and of no others.
    """

    def read_tasks(
        self,
        workflow_name: str,
        task_names: Iterable[str],
        /,
        *,
        digests: Mapping[str, tuple[str, str]] | None = None,
    ) -> dict[str, Any]: ...
    def task_infos(
        self, workflow_name: str, task_names: Iterable[str], /, *, originals: Collection[str] = ()
    ) -> Iterator[Info]: ...
    def read_again(self, workflow_name: str, task_name: str, info: Any, /) -> Any: ...
    def keep_damaged(self, workflow_name: str, task_name: str, /) -> bool: ...
    def lease(self, workflow_name: str, task_name: str, /) -> Lease: ...
    def remember(self, workflow_name: str, /, *, set_aside: int) -> None: ...
    def earlier_results(self, workflow_name: str, /) -> Earlier | None: ...
    def restore(
        self, workflow_name: str, tasks: Mapping[str, tuple[str, Any]], /
    ) -> dict[str, Exception]: ...


class FourMembers:
    """A `ResultStore` made of an object with the four documented members; it has no headers.

    A run finds out what is stored by reading it.
    """

    def __init__(self, storage: MinimalStorage) -> None:
        self.storage = storage

    def new_workflow(self, workflow_name: str) -> object:
        """See `Storage.new_workflow`."""
        return self.storage.new_workflow(workflow_name)

    def save(self, workflow_name: str, task_name: str, obj: Any, **about: object) -> bool:
        """Store a result, without the record of where it comes from; return True."""
        del about
        refuse_nodes(obj)  # such a storage may not pickle, so nothing else refuses nodes
        self.storage.save(workflow_name, task_name, obj)
        return True

    def reads_back(self, info: object) -> bool:
        """See `Storage.reads_back`."""
        del info
        return self.storage.always_read

    def read_unchanged(self, workflow_name: str, task_name: str, digest: str, call: str) -> Any:
        """Return the stored result, which has no digest."""
        del digest, call
        return self.storage.read_task(workflow_name, task_name)
