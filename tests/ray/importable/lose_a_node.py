"""Lose a node of a cluster of two raylets in the middle of a run, and get another in its place."""

from __future__ import annotations

import sys

import ray
import ray_functions as functions
from ray.cluster_utils import Cluster

from functionfuse.storage import storage_factory
from functionfuse_ray import RayWorkflow

SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20}
COUNT = 1 << 17  # a megabyte: it is in the object store of the node that computed it


def main(folder: str, arrays: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
    other = cluster.add_node(**SMALL, resources={"disk": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        away = {"path": f"{folder}/away", "remoteArgs": {"resources": {"disk": 0.01}}}
        away = storage_factory({"kind": "ray", "options": away})
        away.save("w", "t", "kept")

        storage = storage_factory({"kind": "file", "options": {"path": f"{folder}/store"}})
        made = [functions.array(COUNT, value) for value in range(arrays)]
        node = functions.mean(*[functions.halves(each) for each in made])
        flow = RayWorkflow(node, workflow_name="w")
        flow.set_storage(storage)
        flow.query(None).set_remote_args({"scheduling_strategy": "SPREAD", "max_retries": 10})
        finished = []

        def listen(event):
            if event.kind == "finished":
                finished.append(event.node)
                if len(finished) == arrays * 3 // 4:
                    cluster.remove_node(other, allow_graceful=False)

        flow.listeners.append(listen)
        result = flow.run(return_results=True, max_pending_tasks=arrays + 5)
        sound = [verified.problem for verified in storage.verify()]
        print("result", result, "stored", len(sound), "problems", sorted(set(sound)))
        cluster.add_node(**SMALL, resources={"disk": 1})
        print("away", away.read_task("w", "t"))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
