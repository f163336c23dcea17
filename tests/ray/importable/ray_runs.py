"""What the tests do with workflows on Ray."""

from __future__ import annotations

import time

from functionfuse_ray import RayWorkflow


def kept(storage, *nodes):
    flow = RayWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow


def actions(flow):
    return {record.name: record.action for record in flow.report.nodes}


def eventually(condition):
    """Wait for what comes, and tell whether it did, for minutes: the machine may be busy."""
    for _ in range(1200):
        if condition():
            return True
        time.sleep(0.1)
    return False
