"""A process that runs one workflow whenever it is told to, for tests with several of them.

It is given the config of a storage, and its `always_read`. Reads lines, each a number that the
workflow depends on, and answers with result and actions.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory


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


def at_once(config, rounds, *, settings=(0, 0), always_read=False):
    """Have some processes run it with one storage: all have the values of a run without one.

    Each round changes what the first node is given, sometimes back to what it was, and removes some
    results; what is stored in the end is whole, and another run of one setting computes nothing.

    Args:
        settings: for each process, what is added to the number that the first node is given.
    """
    command = [sys.executable, __file__, json.dumps([config, always_read])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    storage, chance, actions = storage_factory(config), random.Random(0), []
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in settings]
        for process in processes:
            assert "\n" == process.stdout.readline()
        for number in (chance.randrange(8) for _ in range(rounds)):
            if actions and len(set(settings)) == 1:
                for name in chance.sample(storage.list_tasks("w"), 3):
                    storage.remove_task("w", name)
            for process, setting in zip(processes, settings, strict=True):
                process.stdin.write(f"{number + setting}\n")
                process.stdin.flush()
            for process, setting in zip(processes, settings, strict=True):
                result, done = json.loads(process.stdout.readline())
                assert made(number + setting).run() == result
                actions.append(done)
        for process in processes:
            process.stdin.close()
    assert [] == [found for found in storage.verify() if found.problem]
    assert any(done.get("computed") for done in actions)
    lines = f"{number}\n{number}\n"
    last = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    result, done = json.loads(last.stdout.splitlines()[-1])
    assert made(number).run() == result
    assert "computed" not in done


if __name__ == "__main__":
    config, always_read = json.loads(sys.argv[1])
    storage = storage_factory(config)
    storage.always_read = always_read
    print(flush=True)
    for line in sys.stdin:
        flow = made(int(line))
        flow.set_storage(storage)
        result = flow.run()
        actions = Counter(node.action for node in flow.report.nodes)
        print(json.dumps([result, actions]), flush=True)
