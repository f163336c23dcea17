"""`LocalWorkflow`: runs a graph in this process, or on any `concurrent.futures.Executor`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from ...errors import GraphError
from ...run.report import Report
from ...run.workflow import ComputingWorkflow
from .localrun import LocalRun

__all__ = ["LocalWorkflow"]


class LocalWorkflow(ComputingWorkflow):
    """Runs a graph in process, or on an executor; see `BaseWorkflow` for the arguments.

    Attributes:
        make_executor: makes the executor of a run that is given none, and that is shut down after
            it; None: nodes are computed in this process, one after the other.
    """

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self.make_executor: Callable[[], Executor] | None = None

    def plan(self) -> Report:
        """Return what a run would do with each node, and why. Runs nothing, and loads no values.

        Raises what `run` raises before it computes anything.
        """
        return LocalRun(self, None).plan()

    def run(self, executor: Executor | None = None, *, single_flight: bool = False) -> Any:
        """Bring the handed nodes and all last nodes up to date; return the handed nodes' results.

        Stored results are reused by the policy (see `set_reuse`), and only loaded if they are
        returned or a computed node needs them. A result is stored as soon as it is computed, and
        released as soon as no other node
        needs it. When a node fails, all results computed before stay stored.

        Args:
            executor: where to compute; independent nodes run at the same time. None: here, one
                after the other (or as `make_executor` says). It isn't shut down. With processes,
                a result is saved in the process that computed it; functions and results cross by
                cloudpickle.
            single_flight: where another run is computing the same result for the same storage just
                now, wait for it instead of computing it too. If it dies, this one takes over.

        Returns:
            The result of the node if one was handed over, otherwise a list, in their order. An
            object of a decorated class gives None.

        Raises:
            GraphError: the workflow has no nodes, or `executor` is no executor.
            DuplicateNameError: two nodes have one name.
            StoragePathError: the storage can't be written. Nothing was run yet.
            WorkerDiedError: a worker of the executor died; names the nodes it may have run.
            Exception: what a node's function raised, with a note that names node, function and
                workflow.
        """
        if executor is not None and not hasattr(executor, "submit"):
            raise GraphError(f"run takes a concurrent.futures.Executor, not {executor!r}")
        if executor is None and self.make_executor is not None:
            with self.make_executor() as made:
                return self.run(made, single_flight=single_flight)
        run = LocalRun(self, executor, single_flight=single_flight)
        try:
            results = run.execute()
        finally:
            self.report = run.report()
        return results[0] if len(results) == 1 else results
