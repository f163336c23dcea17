"""What a run asks of its storage: what there is, to load it, and to keep what was computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
)
from ..reuse.plan import changed_during_run
from ..reuse.results import Info
from .job import Flight, refuse_nodes

__all__ = ["OF_NO_USE", "StoredResults"]

logger = logging.getLogger(__name__)

# What reading raises when a stored result can't be had, so that it is computed again.
OF_NO_USE = (
    DamagedResultError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
    FileNotFoundError,
)


class StoredResults:
    """The stored results of one workflow's nodes, by place.

    Attributes:
        tells: whether the storage tells what it has without reading it, as a `Storage` does. Others
            have `new_workflow`, `save`, `read_task` and `always_read`, and no more.
    """

    def __init__(self, storage: Any, workflow_name: str, names: Sequence[str]) -> None:
        self.storage = storage
        self.workflow_name = workflow_name
        self.names = names
        self.tells = hasattr(storage, "task_infos")

    @property
    def read_back(self) -> bool:
        """Whether what follows a saved node is given what is read back."""
        return bool(self.storage.always_read)

    def prepare(self) -> None:
        """Raise now if nothing could be saved."""
        self.storage.new_workflow(self.workflow_name)

    def infos(self) -> list[Info]:
        """Return for each node what the storage tells; see `Decisions`."""
        return list(self.storage.task_infos(self.workflow_name, self.names))

    def load(self, index: int, digest: str = "") -> Any:
        """Return a stored value. Raises one of OF_NO_USE if there is none to be had.

        Args:
            digest: of the value that the plan saw: what others have put in its place is of no use.
        """
        if digest and hasattr(self.storage, "read_unchanged"):
            names = self.workflow_name, self.names[index]
            return self.storage.read_unchanged(*names, digest)
        return self.storage.read_task(self.workflow_name, self.names[index])

    def again(self, index: int, stored: object) -> tuple[Any, ...]:
        """Return another copy of a stored value, which this run has had already; () if it costs.

        Args:
            stored: what the storage told of it.
        """
        if not hasattr(self.storage, "read_again"):
            return ()
        names = self.workflow_name, self.names[index]
        try:
            return (self.storage.read_again(*names, getattr(stored, "info", stored)),)
        except OF_NO_USE:
            return ()

    def load_many(self, digests: Mapping[int, str]) -> dict[int, Any]:
        """Return stored values, read at once where that is quicker; none if one can't be had.

        Args:
            digests: for each place, as `load` takes it.
        """
        if not hasattr(self.storage, "read_unchanged"):
            return {}
        names = {self.names[index]: digest for index, digest in digests.items()}
        try:
            values = self.storage.read_tasks(self.workflow_name, names, digests=names)
        except OF_NO_USE:
            return {}  # `load` tells which
        return {index: values[self.names[index]] for index in digests}

    def saver(
        self, index: int, about: dict[str, object]
    ) -> Callable[[object, float, str], tuple[Any, bool]]:
        """Return what stores a value wherever it was computed; see `Job.save`."""
        names = self.storage, self.workflow_name, self.names[index]
        return partial(_save, names, about if self.tells else None)

    def remember(self) -> None:
        """Have later plans know what this run has saved, where the storage can."""
        if hasattr(self.storage, "remember"):
            self.storage.remember(self.workflow_name)

    def flight(self, index: int, call: bytes | None) -> Flight | None:
        """Return what makes one of several runs compute a node, where the storage can."""
        if call is None or not hasattr(self.storage, "lease"):
            return None
        names = self.workflow_name, self.names[index]
        return Flight(partial(_look, self.storage, names), call.hex(), self.storage.lease(*names))

    def give_up(self, index: int, error: Exception) -> None:
        """Say that a stored result is of no use, and keep what is damaged for a look at it."""
        if not self.tells:
            return  # reading was how to find out that there is nothing
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
    """Store a result; return what the storage tells, or True, and whether it is to be read back.

    Args:
        names: the storage, and the names of workflow and task.
    """
    storage, *task = names
    if about is None:
        refuse_nodes(value)  # it need not be pickled
        storage.save(*task, value)
        return True, bool(storage.always_read)
    if changed:
        about = {**about, "fingerprint": {"why not": changed_during_run(changed)}}
    info = storage.save(*task, value, seconds=seconds, **about)
    reads_back = getattr(storage, "reads_back", None)
    return info, bool(storage.always_read if reads_back is None else reads_back(info))


def _look(storage: Any, names: tuple[str, str]) -> Any:
    """Return the header of what is stored under a task's names now."""
    return next(iter(storage.task_infos(names[0], [names[1]])))
