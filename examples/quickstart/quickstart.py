"""The quick start: build a graph, run it, keep the results in files, read them back.

python3 quickstart.py [folder]
"""

import sys

from functionfuse import LocalWorkflow, storage_factory, workflow


@workflow
def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@workflow
def square(x: int) -> int:
    """Return x squared."""
    return x * x


@workflow
def divide(a: int, b: int) -> float:
    """Return the quotient."""
    return a / b


# Nothing is computed here: each call makes a node.
node1 = add(1, 2).set_name("node1")
node2 = square(node1).set_name("node2")
node3 = divide(node2, b=node1).set_name("node3")

opt = {"kind": "file", "options": {"path": sys.argv[1] if len(sys.argv) > 1 else "storage"}}

the_workflow_name = "operations"
local_workflow = LocalWorkflow(node3, workflow_name=the_workflow_name)
local_workflow.set_storage(storage_factory(opt))
print("Result:", local_workflow.run())

# From here on it could be another script, on another day: the same options open the same results.
storage = storage_factory(opt)
all_tasks = storage.list_tasks(workflow_name=the_workflow_name, pattern="*")
print("All graph node names:", all_tasks)

node2_result = storage.read_task(workflow_name=the_workflow_name, task_name="node2")
print("Result of node2:", node2_result)
