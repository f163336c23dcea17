"""`RayWorkflow`: runs a graph on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from functionfuse.errors import OptionsError
from functionfuse.graph.nodes import ConstructorCall, MethodCall, Pick, as_node
from functionfuse.graph.query import Query
from functionfuse.run.report import Report
from functionfuse.run.resultstore import MinimalStorage
from functionfuse.run.run import Run
from functionfuse.run.workflow import ComputingWorkflow

from .backend import OnRay
from .connection import here, start, was_started_with
from .store import RayStore
from .tasks import Remote

__all__ = ["RayQuery", "RayWorkflow"]


class RayQuery(Query):
    """The nodes that a pattern matches; settings made here hold in this workflow."""

    workflow: RayWorkflow

    def set_remote_args(self, args: Mapping[str, Any]) -> RayQuery:
        """Submit the nodes to Ray with these options of `ray.remote`, in place of earlier ones.

        For instance `{"num_cpus": 2, "resources": {"disk": 1}, "max_retries": 5, "runtime_env":
        {...}}`. For an object of a decorated class, set the options of actors on the node of its
        constructor: the methods run where the object is. An option comes before the same resource
        of `set_resources`, and isn't checked against the cluster. Returns self.

        Raises:
            OptionsError: Ray refuses the options for one of the nodes; names the node.
        """
        if not isinstance(args, Mapping) or "num_returns" in args:
            raise OptionsError(
                "set_remote_args takes a dictionary of options of ray.remote, and num_returns is"
                f" not among them: {args!r}"
            )
        made: dict[type, Remote] = {}
        for node in self.nodes:
            if isinstance(node, MethodCall):
                continue
            kind = type(node)
            if kind not in made:
                constructs = isinstance(node, ConstructorCall)
                made[kind] = Remote.of(node.name, args, constructs=constructs)
            self.workflow.options[node] = made[kind]
        return self


class RayWorkflow(ComputingWorkflow):
    """Runs a graph on Ray; see `BaseWorkflow` for the nodes and the name.

    Args:
        ray_init_args: arguments for `ray.init`. It is called when the first node must run. They
            don't count if Ray is up when the workflow is made.

    Attributes:
        return_results, max_pending_tasks, keep_going: defaults for `run`.
    """

    return_results = False
    max_pending_tasks = 0
    keep_going = True

    def __init__(
        self, *nodes: object, workflow_name: str, ray_init_args: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._init_args = dict(ray_init_args or {})
        self._was_up = ray.is_initialized()
        self._used: object = None  # where Ray was when a run last used it

    def set_storage(self, storage: MinimalStorage | None) -> None:
        """See `ComputingWorkflow.set_storage`. Ray starts for one of the kind "ray"."""
        super().set_storage(storage)
        if isinstance(getattr(storage, "store", None), RayStore):
            self._start()

    def _start(self) -> None:
        """Start Ray, unless it is up. Raises OptionsError if it came up with other arguments."""
        store = getattr(self.storage, "store", None)
        if isinstance(store, RayStore) and not self._init_args:
            store.start()
        else:
            start(self._init_args)
            self._refuse_another()
        self._used = here()

    def _refuse_another(self) -> None:
        if self._init_args and not self._was_up and not was_started_with(self._init_args):
            raise OptionsError(
                f"workflow {self.workflow_name!r}: Ray was started in this process after the"
                " workflow was made, and not with its 'ray_init_args'. Call ray.init before you"
                " make the workflow, or leave one of the two out"
            )

    def _prepared(self, backend: OnRay, **how: Any) -> Run:
        """Return a run; it doesn't go on from what a cluster that is gone has kept."""
        past = self._past
        kept = past is not None and (past.values or past.objects)
        if kept and not (ray.is_initialized() and self._used == here()):
            self._past = None
        return Run(self, backend, **how)

    def query(self, pattern: str | None = None) -> RayQuery:
        """Return the nodes whose whole name matches, to set options on; see `RayQuery`.

        Raises:
            NoMatchError: no name matches.
        """
        return RayQuery(self, pattern)

    def plan(self) -> Report:
        """Return the action of a run for each node, and the reason. Runs nothing, loads no values.

        Raises the errors that `run` raises before it computes.
        """
        return self._prepared(OnRay()).plan()

    def run(
        self,
        return_results: bool | None = None,
        max_pending_tasks: int | None = None,
        keep_going: bool | None = None,
        *,
        progress: bool | None = None,
    ) -> Any:
        """Update the given nodes and all last nodes, and store their results.

        A node is one task of Ray. A worker computes and saves it, and passes the value to other
        workers. The value comes to this process only if it is returned.

        Args:
            return_results: return the results of the given nodes. The default is False, or the
                option in the config that the workflow was made from.
            max_pending_tasks: the limit of nodes submitted to Ray at once; 0, the default, for
                none. With a limit, results are used and released before more are computed.
            keep_going: if a node fails, compute all nodes that don't follow it, and raise its error
                at the end. A storage that can't be written ends the run in any case. The default is
                True, or the option in the config.
            progress: show what runs; see docs/progress.md. None: on terminals and in notebooks,
                after a second, unless the environment variable FUNCTIONFUSE_PROGRESS says 0 or 1.

        Returns:
            None, unless `return_results`: then the result if the workflow was made from one node,
            otherwise a list in the order of the nodes. An object of a decorated class gives None.

        Raises:
            GraphError: the workflow has no nodes.
            OptionsError: `max_pending_tasks` is negative, or no node of the cluster has the
                resources that a node needs; or FUNCTIONFUSE_PROGRESS is neither 0 nor 1. Nothing
                was run yet.
            DuplicateNameError: two nodes have the same name.
            StoragePathError: results must be stored, and can't be. Nothing was run yet.
            WorkerDiedError: the worker of a node died more often than Ray tries again.
            Exception: the error of the first failing node in the graph, from its function or from
                saving, with a note that names node, function and workflow.
        """
        if return_results is None:
            return_results = self.return_results
        if max_pending_tasks is None:
            max_pending_tasks = self.max_pending_tasks
        if max_pending_tasks < 0:
            raise OptionsError(f"max_pending_tasks is 0 or more, not {max_pending_tasks!r}")
        backend = OnRay(max_pending_tasks, self._start)
        keep_going = self.keep_going if keep_going is None else keep_going
        how = {"returns": return_results, "keep_going": keep_going, "progress": progress}
        results = self._prepared(backend, **how).run()
        if not return_results:
            return None
        return results[0] if len(results) == 1 else results

    def value(self, node: object, *, progress: bool | None = None) -> Any:
        """Update a node and what it needs, nothing else; return its result.

        So the graph can be built further from the result: call functions, and hand their nodes over
        by `add`. All calls of `value` and the `run` after them are one run, with one report: a node
        is computed once in it. Without a storage, all values stay with the workers until that
        `run`.

        Args:
            node: a node, or a pick from one; it belongs to the workflow from now on.
            progress: as in `run`.

        Raises:
            GraphError: `node` is no node.
            Exception: as `run`.
        """
        only = as_node(node), node if isinstance(node, Pick) else None
        backend = OnRay(self.max_pending_tasks, self._start)
        return self._prepared(backend, only=only, progress=progress).run()[0]
