"""A program that is submitted to a cluster as a job."""

from __future__ import annotations

import sys

import ray_functions as functions

from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow


def main(folder: str) -> None:
    array = functions.array(1 << 17, 4.0).set_name("array")
    node = functions.mean(functions.halves(array).set_name("halves")).set_name("mean")
    flow = RayWorkflow(node, workflow_name="w", ray_init_args={"address": "auto"})
    flow.set_storage(storage_factory({"kind": "ray", "options": {"path": folder}}))
    result = flow.run(return_results=True)
    print("result", result, "computed", *sorted(flow.report.names("computed")))


if __name__ == "__main__":
    main(*sys.argv[1:])
