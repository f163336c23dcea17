"""What the tests hand to other processes, which import it by this name from this folder.

`build` makes a random graph, and computes beside it what it must give, by plain calls.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from functionfuse import workflow
from functionfuse.errors import CodeDiffersError
from functionfuse.reuse import workers
from functionfuse.storage.filestorage import FileStorage

_here = threading.local()  # can't be pickled: a worker must import what uses it


def seed_thread(seed):
    """Seed the thread alone: threads share the generator behind `random.random`."""
    threading.current_thread().drawn = Random(seed)


@workflow
def draw(*after):
    """Draw from what `seed_thread` has seeded."""
    return threading.current_thread().drawn.random()


class TwoArgumentsError(Exception):
    """Its `args` are not what `__init__` takes."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class LockedError(Exception):
    """Can't be pickled in any way."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class DisguisedError(Exception):
    """Is pickled as another error."""

    def __reduce__(self):
        return RuntimeError, self.args


class NotingStorage(FileStorage):
    """Appends which process saved what to a file."""

    def __init__(self, path, notes):
        super().__init__(path)
        self.notes = notes

    def save(self, workflow_name, task_name, obj, **details):
        with Path(self.notes).open("a", encoding="utf-8") as notes:
            notes.write(f"{os.getpid()} {task_name}\n")
        return super().save(workflow_name, task_name, obj, **details)


class Traveller:
    """Notes in a file whenever it is pickled."""

    def __init__(self, notes):
        self.notes = notes

    def __reduce__(self):
        with Path(self.notes).open("a", encoding="utf-8") as notes:
            notes.write("pickled\n")
        return Traveller, (self.notes,)


class BreaksWhenLoaded:
    """Pickles, and can't be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


@workflow
def square(x):
    return x * x


def find_first(folder):
    """Have this process find modules in a folder before all others."""
    sys.path.insert(0, folder)


def start_anew(folder, package):
    """Be a new process, as far as a package goes, which is found in a folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    workers._expected.cache_clear()
    workers._first.clear()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()


def compared(folder, pickled):
    """Return what is said of the code that a folder has."""
    start_anew(folder, "worker_zoo")
    try:
        expected, called = pickle.loads(pickled)
        return "".join(look(called if code is None else code) for look, code in expected)
    except CodeDiffersError as error:
        return f"error: {error}"


def prepare():
    _here.prepared = True


@workflow
def prepared(*after):
    return vars(_here).pop("prepared", False)


@workflow
def total(*numbers):
    return sum(numbers)


@workflow
def process(*after):
    return os.getpid()


@workflow
def die(*after):
    os._exit(3)


@workflow
def fail(kind, *args):
    raise kind(*args)


@workflow
def fail_after(before, kind, *args):
    raise kind(*args)


@workflow
def generator():
    return (number for number in range(3))


@workflow
def traveller(notes):
    return Traveller(notes)


@workflow
def stored_bomb():
    return BreaksWhenLoaded()


@workflow
def kind_of(x):
    return type(x).__name__


@workflow
class Tally:
    """Counts, and remembers where."""

    def __init__(self, start=0):
        self.count = start
        self.processes = set()

    def add(self, number):
        self.count += number
        self.processes.add(os.getpid())
        return self.count

    def places(self):
        return self.processes


# Random graphs.


def canonical(value):
    """Return a text that is equal for equal values of equal types, all the way down."""
    kind = type(value).__name__
    if isinstance(value, dict):
        items = [f"{canonical(key)}:{canonical(item)}" for key, item in value.items()]
        return f"{kind}({','.join(items)})"
    if isinstance(value, (set, frozenset)):
        return f"{kind}({','.join(sorted(map(canonical, value)))})"
    if isinstance(value, (list, tuple)):
        return f"{kind}({','.join(map(canonical, value))})"
    return repr(value)


@workflow
def number_of(*args, **kwargs):
    return zlib.crc32(canonical((args, kwargs)).encode()) % 1000


@workflow
def structure_of(x, y=None):
    return {"x": x, "both": [x, (y, 5)], 3: number_of.func(x, y)}


@workflow
class Machine:
    def __init__(self, start=None):
        self.state = number_of.func(start)

    def turn(self, x):
        self.state = number_of.func(self.state, x)
        return self.state

    def show(self):
        return {"state": self.state, "more": [self.state]}


@dataclass
class Handle:
    """Something in a graph, and its value."""

    made: Any
    value: Any


PICKS = [("x",), ("both",), ("both", 0), ("both", 1), ("both", 1, 1), (3,)]


def build(random, count):
    """Return handles of a graph of about `count` nodes."""
    numbers = [Handle(7, 7)]  # hashable
    anything = [Handle([], []), Handle("text", "text")]
    machines = []
    nodes = []

    def argument(depth=0):
        kind = random.randrange(10) if depth < 3 else 0
        if kind < 3:
            return random.choice(numbers)
        if kind < 6:
            return random.choice(anything)
        if kind == 6:
            chosen = random.sample(numbers, min(len(numbers), 2))
            return Handle({h.made for h in chosen}, {h.value for h in chosen})
        if kind == 7:
            key, item = random.choice(numbers), argument(depth + 1)
            return Handle({key.made: item.made, "k": 1}, {key.value: item.value, "k": 1})
        items = [argument(depth + 1) for _ in range(random.randrange(3))]
        shape = list if kind == 8 else tuple
        return Handle(shape(h.made for h in items), shape(h.value for h in items))

    for _ in range(count):
        kind = random.randrange(7)
        first, second = argument(), argument()
        if kind == 0:
            machines.append(Handle(Machine(first.made), Machine.func(first.value)))
            nodes.append(Handle(machines[-1].made, None))
        elif kind in (1, 2) and machines:
            machine = random.choice(machines)
            handle = Handle(machine.made.turn(first.made), machine.value.turn(first.value))
            numbers.append(handle)
            nodes.append(handle)
            if kind == 2:
                shown = Handle(machine.made.show(), machine.value.show())
                nodes.append(shown)
                numbers.append(Handle(shown.made["more"][0], shown.value["more"][0]))
        elif kind in (3, 4):
            made = structure_of(first.made, y=second.made)
            value = structure_of.func(first.value, y=second.value)
            nodes.append(Handle(made, value))
            path = random.choice(PICKS)
            for key in path:
                made, value = made[key], value[key]
            (numbers if path == (3,) else anything).append(Handle(made, value))
        else:
            made = number_of(first.made, second.made, k=first.made)
            numbers.append(Handle(made, number_of.func(first.value, second.value, k=first.value)))
            nodes.append(numbers[-1])
    return [*nodes, *numbers[1:], *anything[2:]]


# Variables that change in workers.

MEMO = {}


@workflow
def remembered(number):
    MEMO[number] = len(MEMO)
    return MEMO[number]


COUNT = 0
LAST = [None]  # an open file from a worker's second call on: it can't be told from another


class Counter:
    """Counts its calls in its class."""

    seen: ClassVar[dict[int, int]] = {}

    def count(self, number):
        self.seen[number] = len(self.seen)
        return number


@workflow
def counted(number):
    global COUNT  # noqa: PLW0603
    COUNT += 1
    return number


@workflow
def opened(number):
    LAST[0] = open(os.devnull, "rb")  # noqa: SIM115
    return number


MadeCounter = workflow(Counter)


def called(number):
    return MadeCounter().count(number)
