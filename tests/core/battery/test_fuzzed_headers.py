"""Headers and records of runs that no run wrote: with valid frame, digest and signature.

Anybody who may write to a store can put them there. A plan, a run and each list take them for
what they are, or raise an error of ours, and every value is right.
"""

from __future__ import annotations

import copy
import json
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore, header_of, rest_of, sealed

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.config.options import StorageOptions
from functionfuse.errors import FunctionFuseError
from functionfuse.storage import Storage
from functionfuse.storage.header import START
from functionfuse.storage.header import sealed as sealed_record
from functionfuse.storage.keys import MARKER
from functionfuse.storage.runrecord import MAGIC as RECORD
from functionfuse.storage.signing import Key

KEY = "signs all"
HEX = "0123456789abcdef"
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    10**30,
    10**400,
    -(10**400),
    0.5,
    -0.0,
    1e308,
    1e-320,
]
ODD += [
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    " ",
    "\n",
    "\0",
    "\ud800",
    "\udfff",
    "é",
]
ODD += [
    "0" * 32,
    "g" * 32,
    "a" * 31,
    "A" * 32,
    "/../../t",
    "run of Monday",
    "x" * 5000,
    "%",
    "0" * 64,
    "f" * 64,
]
ODD += ["1999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
ODD += [[], {}, [[]], [None], [1, 2], {"": None}, {"call": "c"}, ["t", "", "", ""], ["", "0" * 32]]
ODD += [["total", "0" * 32, "", "", "0" * 32, ["os:path"], False], [["rows", "a", "b", "c"]]]
ODD += [{"digest": ""}, {"node": "rows"}, {"float": "nan"}, {"type": "list", "digest": "0" * 16}]


DEEP = "a deep list"  # in its place in the JSON


def encoded(rng: random.Random, *values: Any) -> bytes:
    """Return values as lines of JSON, with deep lists in it; with blanks, or as we write it."""
    dumps = json.JSONEncoder(separators=rng.choice([(",", ":"), (", ", ": ")])).encode
    text = "".join(f"{dumps(value)}\n" for value in values).encode()
    depth = rng.choice([100, 900, 5000, 100_000])
    return text.replace(f'"{DEEP}"'.encode(), b"[" * depth + b"]" * depth)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over (container, key) of all parts of a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))


def change(value: Any, rng: random.Random) -> None:
    """Change one part of a JSON object, at any depth."""
    inner, key = rng.choice(list(places(value)))
    match rng.randrange(8):
        case 0 if isinstance(inner, dict):
            del inner[key]
        case 1 if isinstance(inner, list):
            inner.append(odd(rng))
        case 2 if isinstance(inner, dict):
            inner[rng.choice(["call", "recipe", "", "x", "\ud800"])] = odd(rng)
        case 3:
            inner[key] = DEEP
        case 4:
            other, where = rng.choice(list(places(value)))
            inner[key] = copy.deepcopy(other[where])
        case 5 if isinstance(inner[key], str):
            inner[key] = "".join(rng.choices(HEX, k=rng.choice([0, 16, 31, 32, 33, 63, 64])))
        case _:
            inner[key] = odd(rng)


class Model:
    """The code of a class is in a result."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows


@workflow
def rows(count: int) -> list[int]:
    return list(range(count))


@workflow
def model(given: list[int]) -> Model:
    return Model(given)


@workflow
def total(given: Model, more: list[int]) -> int:
    return sum(given.rows) + sum(more)


@workflow
class Counter:
    """Its object is changed by calls."""

    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, more: int) -> int:
        self.value += more
        return self.value


def flow_on(storage: Storage, count: int = 4) -> LocalWorkflow:
    """Return a workflow of every shape: code in a result, two parents, calls on an object."""
    numbers = rows(count).set_name("rows")
    sum_ = total(model(numbers).set_name("model"), numbers).set_name("total")
    counter = Counter(10).set_name("counter")
    once = counter.add(sum_).set_name("once")
    flow = LocalWorkflow(once, counter.add(1).set_name("twice"), workflow_name="w")
    flow.set_storage(storage)
    return flow


def answers(count: int) -> list[int]:
    found = 10 + 2 * sum(range(count))
    return [found, found + 1]


def calls(storage: Storage) -> list[Callable[[], Any]]:
    """Return what looks at headers and records."""
    return [
        lambda: [str(storage.task_info("w", task)) for task in storage.list_tasks("w")],
        lambda: [str(storage.lineage("w", "twice")), str(storage.lineage("w", "rows", down=True))],
        lambda: [(info.call, repr(info)) for info in storage.earlier("w")],
        lambda: storage.to_frame("w"),
        storage.verify,
        storage.du,
        lambda: storage.gc(0),
        lambda: storage.gc(-60.0, dry_run=True),
        lambda: storage.prune("w", days=1, dry_run=True),
        lambda: storage.copy("w", Storage(MemoryStore()), earlier=True, runs=True),
        lambda: str(storage.report("w")),
        lambda: str(storage.runs("w")),
        lambda: [str(run) + str(run.nodes) for run in storage.runs("w")],
        lambda: storage.runs("w").rows(),
        lambda: storage.runs("w").to_frame(),
        lambda: [str(first.compare(first)) for first in storage.runs("w")],
    ]


def tried(call: Callable[[], Any]) -> None:
    with suppress(FunctionFuseError):
        call()


def prepared(key: str | None) -> tuple[Storage, dict[str, bytes]]:
    """Return a store with the results of two runs, one of them set aside; and its blobs."""
    store = MemoryStore()
    storage = Storage(store, StorageOptions(key=key))
    for count in (3, 4):
        assert answers(count) == flow_on(storage, count).run()
    return storage, {name: data for name, (data, _) in store.blobs.items()}


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_headers_that_no_run_wrote(
    key: str | None, full: bool, counts: Any, tmp_path: Path
) -> None:
    """Each field, at any depth: wrong types, odd numbers and texts, deep lists, other digests."""
    storage, blobs = prepared(key)
    store: Any = storage.store
    names = [name for name in blobs if "/.runs/" not in name and not name.endswith(MARKER)]
    rng = counts.random
    for _ in range(2000 if full else 25):
        store.blobs = {name: (data, store.now()) for name, data in blobs.items()}
        for name in rng.sample(names, rng.choice([1, 1, 2, 5])):
            header = header_of(blobs[name])
            for _ in range(rng.choice([1, 1, 2, 6])):
                record = header.get("fingerprint")
                if isinstance(record, dict) and record and rng.random() < 0.8:
                    change(record, rng)
                else:
                    change(header, rng)
            signature = key.encode() if key and rng.random() < 0.5 else None
            version = rng.choice([1, 2, blobs[name][8]])
            rest = rest_of(blobs[name])
            data = sealed(encoded(rng, header), rest, key=signature, version=version)
            store.blobs[name] = data, store.now()
            counts.add("headers")
        before = dict(store.blobs)
        for call in calls(storage) if full else rng.sample(calls(storage), 4):
            tried(call)
            store.blobs = dict(before)
        flow = flow_on(storage)
        plan = flow.plan()
        str(plan)
        plan.save(tmp_path / "plan.html")
        assert answers(4) == flow.run()
        str(flow.report)
        assert answers(4) == flow_on(storage).run()


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_records_that_no_run_wrote(
    key: str | None, full: bool, counts: Any, tmp_path: Path
) -> None:
    """They are skipped, or shown for what they tell; runs don't look at them."""
    storage, blobs = prepared(key)
    store: Any = storage.store
    names = [name for name in blobs if "/.runs/" in name]
    rng = counts.random
    for _ in range(2000 if full else 25):
        store.blobs = {name: (data, store.now()) for name, data in blobs.items()}
        for name in names[rng.randrange(2) :]:
            data = blobs[name]
            body = zlib.decompress(data[64:]) if data[64:65] == b"x" else data[64:]
            head, nodes = map(json.loads, body.splitlines())
            for _ in range(rng.choice([1, 1, 2, 6])):
                change((nodes if rng.random() < 0.7 else head) or {"id": 0}, rng)
            body = encoded(rng, head, nodes)
            start = START.pack(RECORD, 1, len(body))
            store.blobs[name] = sealed_record(start, body, Key(key) if key else None), 0.0
            counts.add("records")
        before = dict(store.blobs)
        for call in calls(storage) if full else rng.sample(calls(storage), 4):
            tried(call)
            store.blobs = dict(before)
        assert answers(4) == flow_on(storage).run()
