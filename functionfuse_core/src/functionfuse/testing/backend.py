"""`BackendSuite`: the conformance kit of backends."""

from __future__ import annotations

from .backendgraphs import BackendGraphs
from .backendresults import BackendResults

__all__ = ["BackendSuite"]


class BackendSuite(BackendGraphs, BackendResults):
    """Inherit it, with a fixture `backend`: what makes a workflow, from nodes and `workflow_name`.

    Usually that is the class of the workflow itself. The functions of the nodes are those of a
    notebook: nothing can import them. The processes of the backend must see the files of this one.

    Attributes:
        plans: the workflow has `plan` and, after a run, `report`.
        logs_nodes: the workflow has `log_nodes`.

    Methods:
        run: runs a workflow and returns its results; by default `workflow.run()`.
    """
