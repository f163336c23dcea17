"""What the tests hand to Ray's workers, which import it by this name from this folder."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import ray
from ray_runs import eventually

from functionfuse import File, NodeFilter, current_node, workflow


def remember(folder, what):
    """Note something, from whichever process."""
    Path(folder, f"{what}-{os.urandom(8).hex()}").touch()


def noted(folder):
    """Return what was noted, sorted."""
    return sorted(path.name.rpartition("-")[0] for path in Path(folder).iterdir())


class Freight:
    """An array that notes which process unpickles it."""

    def __init__(self, folder, array):
        self.folder, self.array = folder, array

    def __reduce__(self):
        return _arrived, (self.folder, self.array)


def _arrived(folder, array):
    remember(folder, os.getpid())
    return Freight(folder, array)


@workflow
def load_freight(folder, count):
    return Freight(folder, np.arange(count, dtype=float))


@workflow
def pass_on(freight):
    return freight


@workflow
def weigh(freight):
    return float(freight.array.sum())


@workflow
def upper_file(file, folder):
    """Write a file, and return it at some depth."""
    path = Path(folder) / f"{file.name}.upper"
    path.write_text(Path(file).read_text().upper())
    return [File(path)]


@workflow
def index_file(files):
    """Write beside a stored file, as programs do."""
    Path(f"{files[0]}.index").write_text(files[0].name)
    return f"{Path(files[0]).read_text()} {Path(f'{files[0]}.index').read_text()}"


@workflow
def edit_file(files, path):
    """Write to a file in an argument."""
    del files
    Path(path).write_text("longer than before")


class KillsOnce:
    """Kills the process that pickles it, the first time in each of some folders."""

    def __init__(self, folder, times):
        self.folder, self.times = folder, times

    def __reduce__(self):
        if len(noted(self.folder)) < self.times:
            remember(self.folder, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return str, ("alive",)


@workflow
def kills_while_saved(folder, times):
    return KillsOnce(folder, times)


def _write_and_die(file, parts):
    os.write(file, memoryview(parts[0])[:10])
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
def killed_while_written(notes, count):
    if not noted(notes):
        remember(notes, "begun")
        os.writev = _write_and_die
    return np.ones(count)


@workflow
def number(value, *after):
    return value


@workflow
def plus(*values):
    return sum(values)


@workflow
def fail(text, *after):
    raise LookupError(text)


@workflow
def dies_then_fails(folder):
    if not noted(folder):
        remember(folder, "died")
        os._exit(1)
    raise LookupError("it is gone")


@workflow
def exists(file):
    """Wait until a file is there."""
    while not Path(file).exists():
        time.sleep(0.02)


@workflow
def note(folder, what, *after, seconds=0):
    remember(folder, what)
    time.sleep(seconds)
    return what


@workflow
def flaky(folder, kind):
    remember(folder, "tried")
    if len(noted(folder)) < 3:
        raise kind("not yet")
    return len(noted(folder))


@workflow
def changes(folder, name, fails, items, *lists):
    """Change the arguments, and fail some times."""
    remember(folder, name)
    for each in (items, *lists):
        each.append(name)
    if noted(folder).count(name) <= fails:
        raise OSError(f"{name} is not yet there")
    return [*items, *(item for each in lists for item in each)]


@workflow
def slow(folder, times):
    """Be slow some times; `except Exception` doesn't end what is too slow."""
    remember(folder, "called")
    while noted(folder).count("called") <= times:
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001  # it is not to be caught by this
            remember(folder, "swallowed")
    return noted(folder)


@workflow
def span(seconds, *after):
    """Return when the call began, and when it ended."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


@workflow
def named(*after):
    """Return the name of the node, as it is told and as it is logged."""
    logged = []

    class Handler(logging.Handler):
        def emit(self, record):
            logged.append(record.node)

    handler = Handler()
    handler.addFilter(NodeFilter())
    logger = logging.getLogger("named")
    logger.addHandler(handler)
    logger.warning("now")
    logger.removeHandler(handler)
    return current_node(), logged


def _act(folder, name, kind):
    remember(folder, name)
    if "healed" in noted(folder):
        return
    if kind == "slow":
        time.sleep(60)
    if kind == "fails" or (type(kind) is int and noted(folder).count(name) <= kind):
        raise LookupError(name)


@workflow
def act(folder, name, kind, *numbers):
    """Return a sum. `kind` says what happens before: it fails, some times, or is slow."""
    _act(folder, name, kind)
    return 1 + sum(numbers)


@workflow
class Tally:
    """Adds up; see `act`."""

    def __init__(self, start):
        self.total = start

    def add(self, folder, name, kind, number):
        _act(folder, name, kind)
        self.total += number
        return self.total


@workflow(version="1")
def draw(folder, name, *values):
    """Return what no second call returns, with what the call was given."""
    remember(folder, name)
    return [random.random(), *values]


@workflow(version="1")
class Walk:
    def __init__(self, folder, name):
        remember(folder, name)
        self.steps = [random.random()]

    def step(self, folder, name, *values):
        remember(folder, name)
        self.steps.append(random.random())
        return [*self.steps, *values]

    def wait_once(self, folder):
        """Run for minutes, the first time."""
        remember(folder, "waits")
        if noted(folder).count("waits") == 1:
            for _ in range(TICKS):
                remember(folder, "tick")
                time.sleep(0.05)
        return len(self.steps)


@workflow
def is_noted(folder, what):
    """Wait until something is noted."""
    while what not in noted(folder):
        time.sleep(0.02)


def _node():
    return ray.get_runtime_context().get_node_id()


@workflow
def meet(folder, value):
    """Note the node of the cluster, and wait for another one; return a megabyte."""
    remember(folder, _node())
    assert eventually(lambda: len({*noted(folder)}) > 1)
    return np.full(1 << 17, value, dtype=float)


@workflow
def hold(held, notes, value):
    """Note the node of the cluster; return the value when "go" is noted."""
    remember(held, _node())
    assert eventually(lambda: "go" in noted(notes))
    return value


@workflow
def outlive(folder, value):
    """Note the process; return the value when another one is noted."""
    remember(folder, os.getpid())
    assert eventually(lambda: len({*noted(folder)}) > 1)
    return value


@workflow
def resources(*after):
    return ray.get_runtime_context().get_assigned_resources()


@workflow
def rest(folder, number):
    """Return the number: a small one at once, another when "go" is noted."""
    while number > 2 and "go" not in noted(folder):
        time.sleep(0.05)
    return number


@workflow
def seen(first, nested, second):
    """Return what a function gets in place of a reference, and what is behind those inside."""
    inside = [type(each) is ray.ObjectRef for each in nested["refs"]]
    return first, second, inside, ray.get(nested["refs"]), ray.get(nested["held"].reference)


class Holder:
    """An object of no type that Ray knows."""

    def __init__(self, reference):
        self.reference = reference


@workflow
class Sees:
    def __init__(self, *given):
        self.given = seen.func(*given)

    def again(self, *given):
        return self.given, seen.func(*given)


@workflow
def put(number):
    """Return references, at every depth, and the handle of an actor."""
    reference = ray.put(np.full(100_000, number))
    return reference, {"held": Holder([ray.put(number)]), "actor": Adds.remote(number)}


@workflow
def got(value):
    reference, inside = value
    [small] = ray.get(inside["held"].reference)
    return int(ray.get(reference).sum()), small, ray.get(inside["actor"].add.remote(1))


@ray.remote(num_cpus=0)
class Adds:
    """An actor of Ray."""

    def __init__(self, number=0):
        self.number = number

    def add(self, number):
        self.number += number
        return self.number


TICKS = 12_000  # of 50 ms: longer than any test waits


def _tick(file, ticks=TICKS):
    for _ in range(ticks):
        with open(file, "ab") as opened:
            opened.write(b".")
        time.sleep(0.05)


@workflow
def tick(file, value, ticks=TICKS):
    _tick(file, ticks)


@workflow
def array(count, value):
    return np.full(count, value, dtype=float)


@workflow
def lazy(count):
    import dask.array

    return dask.array.arange(count, chunks=count // 4 or 1)


@workflow
def parts_and_sum(lazy_array):
    return lazy_array.numblocks, int(lazy_array.sum().compute(scheduler="synchronous"))


@workflow
def halves(numbers):
    return numbers / 2


@workflow
def mean(*arrays):
    return float(np.mean([each.mean() for each in arrays]))


@workflow
def length(big, *after):
    return len(big)


@workflow
def setting(name):
    return os.environ.get(name)


@workflow
def freights(folder, count):
    return {"freight": [Freight(folder, np.arange(count, dtype=float))]}


@workflow
def weigh_all(named):
    return float(sum(freight.array.sum() for freight in named["all"]))


@workflow
def die(*after):
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, amount):
        self.count += amount
        return self.count

    def fail(self):
        raise LookupError("the counter is broken")

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def tick(self, file):
        _tick(file)

    def slow(self):
        time.sleep(60)

    def span(self, seconds):
        began = time.time()
        time.sleep(seconds)
        return began, time.time()

    def resources(self):
        return ray.get_runtime_context().get_assigned_resources()


MEMO: dict[int, int] = {}


@workflow
def remembered(number):
    MEMO[number] = len(MEMO)
    return MEMO[number]


@workflow
class FileReader:
    """Keeps a file, and reads it later."""

    def __init__(self, file):
        self.file = file

    def read(self, after):
        return Path(self.file).read_text()


@workflow
def write_file(path, text, *after):
    """Write a file, and return it."""
    Path(path).write_text(text)
    return File(path)


@workflow
def read_after(file, after):
    """Return the content of a file, after another node."""
    return Path(file).read_text()


@workflow
def replace_file(file, text):
    """Put another file in the place of a file, with the same time of change."""
    before, new = os.stat(file), Path(f"{file}.new")
    new.write_text(text)
    os.utime(new, ns=(0, before.st_mtime_ns))
    new.replace(file)
    return Path(file).read_text()
