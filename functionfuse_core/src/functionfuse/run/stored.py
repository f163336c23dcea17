"""The stored results of a run's nodes: find them, load them, save new ones."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from ..errors import (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
)
from ..reuse.difference import changed_during_run
from ..reuse.results import Info
from .job import Flight, refuse_nodes

__all__ = ["OF_NO_USE", "StoredResults"]

logger = logging.getLogger(__name__)

# The errors of a stored result that can't be read, so that it is computed again.
OF_NO_USE = (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
    FileNotFoundError,
)


class StoredResults:
    """The stored results of one workflow's nodes, by index of the node.

    Attributes:
        tells: whether the storage returns headers without reading values, as a `Storage` does.
            Others have `new_workflow`, `save`, `read_task` and `always_read`, and no more.
    """

    def __init__(self, storage: Any, workflow_name: str, names: Sequence[str]) -> None:
        self.storage = storage
        self.workflow_name = workflow_name
        self.names = names
        self.tells = hasattr(storage, "task_infos")
        self._takes_header = self.tells and _takes_header(
            getattr(storage.save, "__func__", storage.save)
        )

    @property
    def read_back(self) -> bool:
        """Whether the nodes after a saved node get its result as it is read back."""
        return bool(self.storage.always_read)

    def prepare(self) -> None:
        """Raise now if saving can't work."""
        self.storage.new_workflow(self.workflow_name)

    def infos(self) -> list[Info]:
        """Return the header of each node's stored result, None or an error; see `Decisions`."""
        return list(self.storage.task_infos(self.workflow_name, self.names))

    def load(self, index: int, digest: str = "") -> Any:
        """Return a stored value. Raises one of OF_NO_USE if it can't be read.

        Args:
            digest: of the value that the plan saw; a value with another digest can't be used.
        """
        if digest and hasattr(self.storage, "read_unchanged"):
            names = self.workflow_name, self.names[index]
            return self.storage.read_unchanged(*names, digest)
        return self.storage.read_task(self.workflow_name, self.names[index])

    def again(self, index: int, stored: object) -> tuple[Any, ...]:
        """Return another copy of a stored value that this run had already; () if that is slow.

        Args:
            stored: the header of the stored value.
        """
        if not hasattr(self.storage, "read_again"):
            return ()
        names = self.workflow_name, self.names[index]
        try:
            return (self.storage.read_again(*names, getattr(stored, "info", stored)),)
        except OF_NO_USE:
            return ()

    def load_many(self, digests: Mapping[int, str]) -> dict[int, Any]:
        """Return stored values, read together where that is quicker; none if one can't be read.

        Args:
            digests: for each node, as for `load`.
        """
        if not hasattr(self.storage, "read_unchanged"):
            return {}
        names = {self.names[index]: digest for index, digest in digests.items()}
        try:
            values = self.storage.read_tasks(self.workflow_name, names, digests=names)
        except OF_NO_USE:
            return {}  # `load` finds out which one
        return {index: values[self.names[index]] for index in digests}

    def saver(
        self, index: int, about: dict[str, object]
    ) -> Callable[[object, float, str], tuple[Any, bool]]:
        """Return a callable that stores a value where it is computed; see `Job.save`."""
        names = self.storage, self.workflow_name, self.names[index]
        if not self._takes_header:
            about.pop("replaces", None)
        return partial(_save, names, about if self.tells else None)

    def remember(self) -> None:
        """Let later plans know what this run saved, if the storage can."""
        if hasattr(self.storage, "remember"):
            self.storage.remember(self.workflow_name)

    def flight(self, index: int, call: bytes | None) -> Flight | None:
        """Return the flight that lets one of several runs compute a node; None if unsupported."""
        if call is None or not hasattr(self.storage, "lease"):
            return None
        names = self.workflow_name, self.names[index]
        return Flight(partial(_look, self.storage, names), call.hex(), self.storage.lease(*names))

    def give_up(self, index: int, error: Exception) -> None:
        """Warn that a stored result can't be used; set a damaged one aside until the next gc."""
        if not self.tells:
            return  # reading is the only way to find out that nothing is stored: no warning
        names = self.workflow_name, self.names[index]
        broken = isinstance(error, (DamagedResultError, NewerFormatError))
        aside = broken and self.storage.set_aside(*names)
        logger.warning(
            "the stored result of task %r of workflow %r can't be used, and is computed when it is"
            " needed: %s%s",
            names[1],
            names[0],
            error,
            "; its bytes are kept until the next gc" if aside else "",
        )


def _save(
    names: tuple[Any, str, str],
    about: dict[str, object] | None,
    value: object,
    seconds: float,
    changed: str,
) -> tuple[Any, bool]:
    """Store a result; return its header, or True, and whether the result must be read back.

    Args:
        names: the storage, and the names of workflow and task.
    """
    storage, *task = names
    if about is None:
        refuse_nodes(value)  # such a storage may not pickle, so nothing else refuses nodes
        storage.save(*task, value)
        return True, bool(storage.always_read)
    if changed:
        about = {**about, "fingerprint": {"why not": changed_during_run(changed)}}
    info = storage.save(*task, value, seconds=seconds, **about)
    reads_back = getattr(storage, "reads_back", None)
    return info, bool(storage.always_read if reads_back is None else reads_back(info))


def _look(storage: Any, names: tuple[str, str]) -> Any:
    """Return the header that is stored under these names now."""
    return next(iter(storage.task_infos(names[0], [names[1]])))


@lru_cache(100)
def _takes_header(save: Callable[..., object]) -> bool:
    """Return whether a `save` takes `replaces`; that of a subclass may not."""
    parameters = inspect.signature(save).parameters.values()
    return any(known.name == "replaces" or known.kind is known.VAR_KEYWORD for known in parameters)
