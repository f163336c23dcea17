"""Reads a storage of the kind ray in a process, or a thread of it, that starts Ray for it."""

import sys
import threading
import time

import ray

from functionfuse.storage import storage_factory

folder, where = sys.argv[1:]
args = {"address": "local", "num_cpus": 1, "include_dashboard": False, "log_to_driver": False}
storage = storage_factory({"kind": "ray", "options": {"path": folder, "rayInitArgs": args}})


def save() -> None:
    storage.save("w", "t", 1)


if where == "thread":
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
else:
    save()
time.sleep(3)  # Ray ends what a thread has started soon after the thread
print(storage.read_task("w", "t"), len(ray.nodes()))
