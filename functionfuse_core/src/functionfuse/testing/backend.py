"""`BackendSuite`: the conformance kit of backends."""

from __future__ import annotations

from .backendgraphs import BackendGraphs
from .backendresults import BackendResults

__all__ = ["BackendSuite"]


class BackendSuite(BackendGraphs, BackendResults):
    """Inherit it, with a fixture `backend` that makes a workflow from nodes and `workflow_name`.

    Usually the fixture is the class of the workflow. The functions of the nodes can't be imported,
    as in a notebook. The backend's processes must see the files of this process.

    Attributes:
        plans: the workflow has `plan` and, after a run, `report`.
        logs_nodes: the workflow has `log_nodes`.
        keeps_values: values go from worker to worker; this process unpickles what it returns only.

    Methods:
        run: runs a workflow and returns its results; by default `workflow.run()`.
    """
