"""`BackendSuite`: the conformance kit of backends."""

from __future__ import annotations

from .backendgraphs import BackendGraphs
from .backendresults import BackendResults
from .backendruns import BackendRuns

__all__ = ["BackendSuite"]


class BackendSuite(BackendGraphs, BackendResults, BackendRuns):
    """Inherit it, with a fixture `backend` that makes a workflow from nodes and `workflow_name`.

    Usually the fixture is the class of the workflow. The functions of the nodes can't be imported,
    as in a notebook. The backend's processes must see the files of this process.

    Attributes:
        plans: the workflow has `plan` and, after a run, `report`.
        logs_nodes: the workflow has `log_nodes`.
        keeps_values: values go from worker to worker; this process unpickles what it returns only.
        interrupts: functions can be interrupted, so that nodes can have timeouts.
        resources: how much there is of a resource, such as {"gpu": 1}, if the backend places nodes
            by their resources itself; None: the scheduler does.

    Methods:
        run: runs a workflow and returns its results; by default `workflow.run()`.
        value: returns the result of a node; by default `workflow.value(node)`.
    """
