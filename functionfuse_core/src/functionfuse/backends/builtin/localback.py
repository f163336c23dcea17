"""`LocalWorkflow`: runs a graph in this process, on an executor, or on another backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any

from ...errors import GraphError
from ...graph.nodes import Pick, as_node
from ...run.contract import Backend
from ...run.report import Report
from ...run.run import Run
from ...run.workflow import ComputingWorkflow
from .inplace import InProcess, OnExecutor

__all__ = ["LocalWorkflow"]


class LocalWorkflow(ComputingWorkflow):
    """Runs a graph in process, on an executor, or on another backend.

    See `BaseWorkflow` for the arguments.

    Attributes:
        make_executor: makes an executor for a run that gets none; the run shuts it down at its
            end. None: nodes are computed in this process, one after the other.
        keep_going, resources: defaults for `run`.
    """

    keep_going = False
    resources: Mapping[str, float] | None = None

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self.make_executor: Callable[[], Executor] | None = None

    def plan(self) -> Report:
        """Return the action of a run for each node, and the reason. Runs nothing, loads no values.

        Raises the errors that `run` raises before it computes.
        """
        return Run(self, InProcess()).plan()

    def run(
        self,
        executor: Executor | Backend | None = None,
        *,
        single_flight: bool = False,
        keep_going: bool | None = None,
        resources: Mapping[str, float] | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Update the given nodes and all last nodes; return the results of the given nodes.

        Stored results are reused by the policy (see `set_reuse`). They are loaded only if they are
        returned, or if a computed node needs them. A result is stored as soon as it is computed,
        and released as soon as no other node needs it. If a node fails, the results computed before
        stay stored.

        Ctrl-C, an executor that breaks, and a storage that can't be written end the run: what waits
        does not begin, what runs is waited for.

        Args:
            executor: computes the nodes, independent ones at the same time. None: compute in this
                process, one after the other (or on an executor from `make_executor`). It isn't shut
                down. In processes, a result is saved by the process that computed it; functions and
                results cross by cloudpickle. A `Backend` can be given, too, made for this run.
            single_flight: if another run is computing the same result for the same storage, wait
                for that result instead of computing it too. If the other run dies, take over.
            keep_going: if a node fails, compute all nodes that don't follow it, and raise its error
                at the end. The default is False, or the option in the config that the workflow was
                made from.
            resources: how much there is of each resource that nodes need (`Query.set_resources`),
                such as `{"gpu": 1, "api": 4}`. A node starts when all that it needs is free; the
                first in the graph goes first. None: as in the config, or any amount.
            progress: show what runs; see docs/progress.md. None: on terminals and in notebooks,
                after a second, unless the environment variable FUNCTIONFUSE_PROGRESS says 0 or 1.

        Returns:
            The result if the workflow was made from one node, otherwise a list in the order of the
            nodes. An object of a decorated class gives None.

        Raises:
            GraphError: the workflow has no nodes, or `executor` is no executor.
            OptionsError: a node needs more of a resource than there is, or has a timeout and would
                run in a thread; or FUNCTIONFUSE_PROGRESS is neither 0 nor 1. Nothing was run yet.
            DuplicateNameError: two nodes have the same name.
            StoragePathError: results must be stored, and can't be. Nothing was run yet.
            WorkerDiedError: a worker of the executor died; names the nodes it may have run.
            Exception: the error of a node's function, with a note that names node, function and
                workflow. With `keep_going`, that of the first in the graph, with notes that count
                the others and name ten.
        """
        options = {
            "single_flight": single_flight,
            "keep_going": self.keep_going if keep_going is None else keep_going,
            "resources": self.resources if resources is None else resources,
            "progress": progress,
        }
        results = self._run(executor, options)
        return results[0] if len(results) == 1 else results

    def value(
        self,
        node: object,
        executor: Executor | Backend | None = None,
        *,
        single_flight: bool = False,
        resources: Mapping[str, float] | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Update a node and what it needs, nothing else; return its result.

        So the graph can be built further from the result: call functions, and hand their nodes over
        by `add`. All calls of `value` and the `run` after them are one run, with one report: a node
        is computed once in it. Without a storage, all values stay in memory until that `run`.

        Args:
            node: a node, or a pick from one; it belongs to the workflow from now on. `run` doesn't
                return its result.
            executor, single_flight, resources, progress: as in `run`.

        Raises:
            GraphError: `node` is no node.
            Exception: as `run`.
        """
        options = {
            "only": (as_node(node), node if isinstance(node, Pick) else None),
            "single_flight": single_flight,
            "resources": self.resources if resources is None else resources,
            "progress": progress,
        }
        return self._run(executor, options)[0]

    def _run(self, executor: Executor | Backend | None, options: dict[str, Any]) -> list[Any]:
        make_executor = self.told.make_executor or self.make_executor
        if executor is None and make_executor is not None:
            with make_executor() as made:
                return self._run(made, options)
        backend = InProcess() if executor is None else _backend(executor, self.workflow_name)
        with backend.interruptible() if isinstance(backend, OnExecutor) else nullcontext():
            return Run(self, backend, **options).run()


def _backend(given: Any, workflow_name: str) -> Backend:
    """Return a backend, or one for an executor; raise GraphError for anything else."""
    if isinstance(given, Backend) and not isinstance(given, type):
        if type(given.limit) is not int or given.limit < 0:
            raise GraphError(f"the limit of {given!r} is 0 or more, not {given.limit!r}")
        return given
    if not hasattr(given, "submit") or isinstance(given, type):
        raise GraphError(
            "run takes a concurrent.futures.Executor or a functionfuse.backends.Backend,"
            f" not {given!r}"
        )
    if hasattr(given, "wait") and not isinstance(given, Executor):
        members = "remote", "keeps", "limit", "cancel", "fetch"
        lacks = ", ".join(name for name in members if not hasattr(given, name))
        raise GraphError(f"{given!r} is no backend: it has no {lacks}")
    return OnExecutor(given, workflow_name)
