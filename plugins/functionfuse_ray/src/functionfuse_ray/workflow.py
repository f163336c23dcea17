"""`RayWorkflow`: runs a graph on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from functionfuse.errors import OptionsError
from functionfuse.graph.nodes import MethodCall, Node
from functionfuse.graph.workflow import Query
from functionfuse.run.report import Report
from functionfuse.run.workflow import ComputingWorkflow

from .rayrun import RayRun
from .tasks import RetriedNodeError, remotes_of

__all__ = ["RayQuery", "RayWorkflow"]


class RayQuery(Query):
    """The nodes that a pattern picked; settings made here hold in this workflow."""

    workflow: RayWorkflow

    def set_remote_args(self, args: Mapping[str, Any]) -> RayQuery:
        """Hand the nodes to Ray with these options of `ray.remote`, not with earlier ones.

        For instance `{"num_cpus": 2, "resources": {"disk": 1}, "max_retries": 5, "runtime_env":
        {...}}`. For an object of a decorated class, the node of its constructor counts: its methods
        run where the object is, and options are of actors. Returns self.

        Raises:
            OptionsError: Ray refuses the options for one of the nodes; says which.
        """
        if not isinstance(args, Mapping) or "num_returns" in args:
            raise OptionsError(
                "set_remote_args takes a dictionary of options of ray.remote, and num_returns is"
                f" not among them: {args!r}"
            )
        options = dict(args)
        retried: Sequence[type[BaseException]] = ()
        if isinstance(options.get("retry_exceptions"), (list, tuple)):
            retried = tuple(options["retry_exceptions"])
            options["retry_exceptions"] = [RetriedNodeError]
        made: dict[type, Any] = {}
        for node in self.nodes:
            if isinstance(node, MethodCall):
                continue
            kind = type(node)
            if kind not in made:
                made[kind] = remotes_of(node, options)
            self.workflow._remotes[node] = made[kind]
            self.workflow._retried[node] = retried
        return self


class RayWorkflow(ComputingWorkflow):
    """Runs a graph on Ray; see `BaseWorkflow` for the nodes and the name.

    Args:
        ray_init_args: what `ray.init` is called with, unless Ray is up already.

    Attributes:
        return_results, max_pending_tasks: of `run`, where it isn't told.
    """

    return_results = False
    max_pending_tasks = 0

    def __init__(
        self, *nodes: object, workflow_name: str, ray_init_args: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._remotes: dict[Node, Any] = {}
        self._retried: dict[Node, Sequence[type[BaseException]]] = {}
        if not ray.is_initialized():
            ray.init(**(ray_init_args or {}))

    def query(self, pattern: str | None = None) -> RayQuery:
        """Return the nodes whose whole name matches, to make settings; see `RayQuery`.

        Raises:
            NoMatchError: no name matches.
        """
        return RayQuery(self, self._matched(pattern))

    def plan(self) -> Report:
        """Return what a run would do with each node, and why. Runs nothing, and loads no values.

        Raises what `run` raises before it computes anything.
        """
        return RayRun(self, self._remotes, self._retried).plan()

    def run(self, return_results: bool | None = None, max_pending_tasks: int | None = None) -> Any:
        """Bring the handed nodes and all last nodes up to date; everything is stored then.

        A node is one task of Ray. It is computed and saved by the worker, and its value goes from
        worker to worker: it comes to this process only if it is returned.

        Args:
            return_results: return the results of the handed nodes; by default False, or what the
                config says that the workflow was made from.
            max_pending_tasks: how many nodes may be at Ray's at once; 0, the default, for any
                number. A limit has results used, and released, before more of them are made.

        Returns:
            None; or the result of the node if one was handed over, otherwise a list, in their
            order. An object of a decorated class gives None.

        Raises:
            GraphError: the workflow has no nodes.
            OptionsError: `max_pending_tasks` is negative.
            DuplicateNameError: two nodes have one name.
            StoragePathError: the storage can't be written. Nothing was run yet.
            WorkerDiedError: the worker of a node died, more often than Ray tries again.
            Exception: what the function of the first failing node raised, or the storage when the
                result was saved, with a note that names node, function and workflow. All nodes
                that don't follow a failing one were computed and stored.
        """
        if return_results is None:
            return_results = self.return_results
        if max_pending_tasks is None:
            max_pending_tasks = self.max_pending_tasks
        if max_pending_tasks < 0:
            raise OptionsError(f"max_pending_tasks is 0 or more, not {max_pending_tasks!r}")
        run = RayRun(
            self,
            self._remotes,
            self._retried,
            return_results=return_results,
            max_pending_tasks=max_pending_tasks,
        )
        try:
            results = run.execute()
        finally:
            self.report = run.report()
        if not return_results:
            return None
        return results[0] if len(results) == 1 else results
