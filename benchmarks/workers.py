"""What it costs that workers compare their code with the driver's: 50 functions, a process each."""

from __future__ import annotations

import importlib
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from functionfuse.reuse.identity import Identities
from functionfuse.serializers.portable import dumps
from table import Row, amount

FUNCTIONS, PER_MODULE, PROCESSES = 50, 10, 15

HEAD = """
from dataclasses import dataclass
from functionfuse import workflow

LIMIT_{module} = 10
SETTINGS_{module} = {{"factor": 3}}
{imports}

@dataclass
class Model_{module}:
    rate: float = 0.5
    def predict(self, rows):
        return [self.rate * row for row in rows if row < LIMIT_{module}]

def scaled_{module}(rows, factor=2):
    total = 0
    for row in rows:
        if row > factor:
            total += row * factor
        elif row:
            total -= LIMIT_{module}
    return [total, *rows]
"""
FUNCTION = """
@workflow
def step_{number}(rows, depth=3):
    model = Model_{module}()
    found = scaled_{module}(rows)
    try:
        found = model.predict(found)
    except ValueError as error:
        raise RuntimeError(f"of {{len(rows)}}") from error
    return [scaled_{reached}(found)[:depth], {{"n": len(found), "limit": {setting}}}]
"""
WORKER = """
import importlib, json, pickle, sys, time
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
import functionfuse.backends.builtin.localback
jobs = pickle.load(sys.stdin.buffer)
times = []
for _ in range(2):
    started = time.process_time()
    for job in jobs:
        (expected, _), function = pickle.loads(job)
        expected(function)
    times.append(time.process_time() - started)
print(json.dumps(times))
"""


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            yield from rows(Path(folder))
        finally:
            sys.path.remove(folder)


def rows(folder: Path) -> Iterator[Row]:
    """Measure in CPU seconds: with constants only, and with variables that can change."""
    for kind in ("constants", "variables"):
        names = write(folder, kind)
        modules = [importlib.import_module(name) for name in names]
        nodes = [
            getattr(modules[number // PER_MODULE], f"step_{number}")([1])
            for number in range(FUNCTIONS)
        ]
        identities = Identities({})
        for node in nodes:
            identities.own(node)
        started = time.process_time()
        expected = [identities.expected(node, [])[0] for node in nodes]
        jobs = [dumps((each, node.function)) for each, node in zip(expected, nodes, strict=True)]
        driver = time.process_time() - started
        found = [worker(folder, names, jobs) for _ in range(PROCESSES)]
        first, later = map(min, zip(*found, strict=True))  # others use the machine, too
        what = f"{FUNCTIONS} functions with {kind}: "
        yield amount(f"{what}in the driver, once a run", driver * 1e3, 50, unit="ms")
        yield amount(f"{what}first calls in a process", first * 1e3, 50, unit="ms")
        yield amount(f"{what}a later call", later / FUNCTIONS * 1e6, 1000, unit="µs")
        size = statistics.mean(map(len, jobs))
        yield amount(f"{what}sent with a node", size, 4096, unit="bytes")


def write(folder: Path, kind: str) -> list[str]:
    """Write modules in which each function reaches two modules; return their names."""
    names = [f"{kind}_{module}" for module in range(FUNCTIONS // PER_MODULE)]
    for module, name in enumerate(names):
        reached = (module + 1) % len(names)
        imports = "" if reached == 0 else f"from {names[reached]} import scaled_{reached}"
        text = HEAD.format(module=module, imports=imports)
        reached = reached or module
        setting = f"LIMIT_{module}" if kind == "constants" else f"SETTINGS_{module}"
        for number in range(module * PER_MODULE, (module + 1) * PER_MODULE):
            text += FUNCTION.format(number=number, module=module, reached=reached, setting=setting)
        (folder / f"{name}.py").write_text(text)
    return names


def worker(folder: Path, names: list[str], jobs: list[bytes]) -> list[float]:
    """Return the seconds of the first and of later calls in a new process."""
    command = [sys.executable, "-c", WORKER, str(folder), *names]
    finished = subprocess.run(command, input=pickle.dumps(jobs), capture_output=True, check=True)
    times: Any = json.loads(finished.stdout)
    return list(times)
