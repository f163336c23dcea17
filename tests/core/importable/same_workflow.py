"""A process that runs one workflow whenever it is told to, for tests with several of them.

Reads lines, each a number that the workflow depends on, and answers with result and actions.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage


@workflow
def spread(number):
    return {"rows": list(range(number % 5)), "rest": [number] * 1000}


@workflow
def total(rows, more):
    return sum(rows) + more


@workflow
class Machine:
    def __init__(self, start):
        self.state = start

    def turn(self, x):
        self.state = self.state * 3 + x
        return self.state


def made(number):
    parts = spread(number)
    machine = Machine(number % 3)
    values = [parts["rest"][0]]
    for _ in range(12):
        values.append(total(parts["rows"], values[-1]))
        values.append(machine.turn(values[-1]))
    return LocalWorkflow(values[-1], values[-2], workflow_name="w")


if __name__ == "__main__":
    storage = FileStorage(sys.argv[1])
    print(flush=True)
    for line in sys.stdin:
        flow = made(int(line))
        flow.set_storage(storage)
        result = flow.run()
        actions = Counter(node.action for node in flow.report.nodes)
        print(json.dumps([result, actions]), flush=True)
