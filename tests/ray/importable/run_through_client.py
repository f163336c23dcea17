"""A driver that reaches its cluster through Ray's client."""

from __future__ import annotations

import sys

import ray_functions as functions

from functionfuse.errors import OptionsError
from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow


def main(address: str, folder: str) -> None:
    halves = functions.halves(functions.array(1 << 17, 4.0))
    nodes = [functions.mean(halves), functions.Counter(1).add(2), functions.number(5)]
    flow = RayWorkflow(*nodes, workflow_name="w", ray_init_args={"address": address})
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": folder}}))
    print(flow.run(return_results=True))
    try:
        RayWorkflow(functions.fail("it is gone"), workflow_name="v").run()
    except LookupError as error:
        print(error)
    try:
        storage_factory({"kind": "ray", "options": {"path": folder}}).list_tasks("w")
    except OptionsError as error:
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
