"""A driver that runs a workflow that doesn't end, for a test to kill it."""

from __future__ import annotations

import sys

import ray_functions as functions

from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow


def graph(notes):
    """Return the last node."""
    return functions.plus(*[functions.rest(notes, number) for number in range(6)])


def main(address: str, folder: str, notes: str) -> None:
    flow = RayWorkflow(
        graph(notes), workflow_name="w", ray_init_args={"address": address, "log_to_driver": False}
    )
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": folder}}))
    flow.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
