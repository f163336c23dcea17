"""`ComputingWorkflow`: the base of backends that compute, with storage, report and listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from os import PathLike
from typing import Any, NamedTuple

from ..errors import GraphError, without_locals
from ..graph.nodes import Node
from ..graph.workflow import BaseWorkflow
from .calling import current_node
from .events import Listener
from .past import Past
from .report import Report
from .resultstore import MinimalStorage

__all__ = ["ComputingWorkflow", "Overrides"]


class Overrides(NamedTuple):
    """What the command line says of every run in this process that isn't inside a node.

    Attributes:
        make_executor: makes the executor for runs that are handed none; None: as the workflow says.
        reuse: a policy for `set_reuse`; None: as the workflow says.
        keep_going: go on after a failure, whatever the workflow says.
        returns: whether `run` returns values; set for a single workflow only.
        progress: whether to show the run; None: as `run` is told.
        plan: called in place of a run, with the workflow's name and a function that makes its plan.
    """

    make_executor: Callable[[], Executor] | None = None
    reuse: str | None = None
    keep_going: bool = False
    returns: bool = True
    progress: bool | None = None
    plan: Callable[[str, Callable[[], Report]], None] | None = None


class ComputingWorkflow(BaseWorkflow):
    """A workflow that stores results in a storage; see `BaseWorkflow` for the arguments.

    Attributes:
        report: the report of the last run; None before the first.
        listeners: functions that are called with each `Event` of a run, in this process.
        options: settings of single nodes for the backend, which gets them with the node's job.
        overrides: of all workflows of this process, or of this one.
    """

    overrides = Overrides()

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self.storage: Any = None
        self.report: Report | None = None
        self.listeners: list[Listener] = []
        self.options: dict[Node, Any] = {}
        self._logged: dict[Node, bool] = {}
        self._past: Past | None = None

    @property
    def told(self) -> Overrides:
        """What holds for a run that begins now."""
        return Overrides() if current_node() else self.overrides

    @without_locals
    def set_storage(self, storage: MinimalStorage | None) -> None:
        """Store every node's result in `storage`, and reuse results from it; None to stop.

        Any object with `new_workflow`, `save`, `read_task` (it raises FileNotFoundError if nothing
        is stored) and `always_read` works in place of a `Storage`.

        Raises:
            GraphError: `storage` lacks one of these, or is a config and no storage.
        """
        if isinstance(storage, (Mapping, str, PathLike)):
            raise GraphError(
                f"a {type(storage).__name__} is no storage; one is made of a config by"
                " storage_factory: set_storage(storage_factory(...))"
            )
        if storage is not None:
            members = ("new_workflow", "save", "read_task", "always_read")
            missing = [member for member in members if not hasattr(storage, member)]
            if missing:
                raise GraphError(f"{storage!r} is no storage: it has no {', '.join(missing)}")
        self.storage = storage

    def log_nodes(self, pattern: str | None) -> None:
        """Run the matching nodes in every run, and never store their results.

        For nodes that are called for their side effects, such as printing. See `query` for
        `pattern`.

        Raises:
            NoMatchError: no name matches.
        """
        self.query(pattern)._set(self._logged, True)
