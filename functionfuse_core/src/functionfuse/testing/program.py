"""A user's program for the backends under test; its functions record their calls."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..backends.plugins import Plugin
from ..graph.decorator import workflow
from ..storage.blobstore import BlobInfo, BlobStore, Buffer

__all__ = ["FullStore", "Program", "Shelf", "Variable"]

SOURCE = '''
import contextlib
import os
import random
import time
import uuid

import functionfuse


def note(name):
    """Note a call, for whichever process asks; return how many are noted."""
    with open(os.path.join(CALLS, f"{name} {uuid.uuid4()}"), "x"):
        pass
    return sum(noted.startswith(f"{name} ") for noted in os.listdir(CALLS))


@workflow
def number(value=7):
    note("number")
    return value


@workflow
def add(*values, **more):
    note("add")
    return sum(values) + sum(more.values())


@workflow
def half(value):
    note("half")
    return value // 2


@workflow
def same(value):
    note("same")
    return value


@workflow
def parts(value):
    note("parts")
    return {"list": [value, value + 1], "deep": ({"tuple": value + 2},)}


@workflow
def total(values):
    note("total")
    return sum(values.values() if isinstance(values, dict) else values)


@workflow
def fail(value):
    note("fail")
    raise LookupError(f"no {value} here")


@workflow
def slow(value):
    note("slow")
    time.sleep(0.2)
    return value


@workflow
def flaky(values, more, times):
    """Change the arguments, and fail some times."""
    for changed in (values, more):
        changed.append(0)
    if note("flaky") <= times:

        class Strange(LookupError):
            pass

        raise Strange("not yet")
    return values + more


@workflow
def nap(seconds):
    note("nap")
    with contextlib.suppress(Exception):
        time.sleep(seconds)
    note("overslept")
    return seconds


@workflow
def alone(value):
    """Fail if another call runs meanwhile; fail the first time."""
    os.mkdir(CALLS + ".alone")
    time.sleep(0.05)
    os.rmdir(CALLS + ".alone")
    if note("alone") == 1:
        raise LookupError("not yet")
    return value


@workflow
def who():
    return functionfuse.current_node()


@workflow
def interrupt():
    note("interrupt")
    raise KeyboardInterrupt


@workflow
def strange():
    class Strange(ValueError):
        pass

    raise Strange("a class that nobody can import")


@workflow
def generator():
    note("generator")
    return (number for number in range(3))


@workflow
def unrun(value):
    note("unrun")
    return {"deep": [(number(value),)]}


@workflow
def big(size):
    note("big")
    return bytes(range(256)) * (size // 256)


class Freight:
    """Notes the process that unpickles it."""

    def __init__(self, weight):
        self.weight = weight

    def __reduce__(self):
        return arrived, (self.weight,)


def arrived(weight):
    note(f"arrived-{os.getpid()}")
    return Freight(weight)


@workflow
def freight(weight):
    return Freight(weight)


@workflow
def weigh(freight):
    return freight.weight


@workflow
def variable(name):
    return os.environ.get(name, "")


@workflow
def throw():
    return random.random()


@workflow
def kind(value):
    return type(value).__name__


@workflow
class Account:
    def __init__(self, start=0):
        note("Account")
        self.total = start

    def pay(self, amount):
        note("pay")
        self.total += amount
        return self.total

    def fail(self):
        raise LookupError("no account")

    def who(self):
        return functionfuse.current_node()
'''


class Program:
    """Decorated functions that can't be imported, like those of a notebook.

    Args:
        folder: the folder that records calls; the processes of the backend must see it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.source = SOURCE
        self.names: dict[str, Any] = {}
        self.restart()

    def __getattr__(self, name: str) -> Any:
        try:
            return self.names[name]
        except KeyError:
            raise AttributeError(name) from None

    def restart(self) -> None:
        """Define all functions again, like a new session."""
        self.names = {"__name__": "notebook", "workflow": workflow, "CALLS": str(self.folder)}
        exec(compile(self.source, "<notebook>", "exec"), self.names)

    def edit(self, old: str, new: str) -> None:
        """Change the source of the program, and start a new session."""
        if old not in self.source:
            raise AssertionError(f"the program has no {old!r}")
        self.source = self.source.replace(old, new)
        self.restart()

    def calls(self) -> list[str]:
        """Return the sorted names of the functions called since the last call of this method."""
        noted = sorted(os.listdir(self.folder))
        for name in noted:
            (self.folder / name).unlink()
        return [name.partition(" ")[0] for name in noted]


class Variable(Plugin):
    """An initializer that sets an environment variable in the process where the node runs."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self.handed_over = 0

    def local_initialize(self) -> None:
        """Count the submitted nodes."""
        self.handed_over += 1

    def remote_initialize(self) -> partial[None]:
        """Return a call that sets the variable."""
        return partial(_set, self.name, self.value)


def _set(name: str, value: str) -> None:
    os.environ[name] = value


class FullStore(BlobStore):
    """A store that has no room for blobs above a size in bytes."""

    def __init__(self, store: BlobStore, room: int) -> None:
        self.store, self.room = store, room

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        """Store a small blob; raise OSError for a big one."""
        if sum(map(len, parts)) > self.room:
            raise OSError(28, "no room is left in the store of the conformance kit")
        self.store.put(key, parts, if_absent=if_absent, durable=durable)

    def get(self, key: str) -> Buffer:
        """Return a blob."""
        return self.store.get(key)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Iterate blobs."""
        return self.store.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove blobs."""
        self.store.delete(keys)


class Shelf:
    """A minimal storage: pickles in a folder, for all processes that see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.always_read = False

    def new_workflow(self, workflow_name: str) -> None:
        """Make the folder."""
        (self.folder / quote(workflow_name, "")).mkdir(parents=True, exist_ok=True)

    def save(self, workflow_name: str, task_name: str, obj: Any) -> None:
        """Write a pickle."""
        self._path(workflow_name, task_name).write_bytes(pickle.dumps(obj))

    def read_task(self, workflow_name: str, task_name: str) -> Any:
        """Read a pickle. Raises FileNotFoundError if it is missing."""
        return pickle.loads(self._path(workflow_name, task_name).read_bytes())

    def _path(self, workflow_name: str, task_name: str) -> Path:
        return self.folder / quote(workflow_name, "") / re.sub(r"\W", "_", task_name)
