"""Random graphs under random edits: a run with a storage gives what a run without one gives.

A graph is a description, which edits change, from which nodes are made anew for each run, and whose
functions are compiled anew from their source, as in a new process. 150 graphs; 2,000 with
FUNCTIONFUSE_BATTERY=full.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, NewerFormatError, ResultNotFoundError
from functionfuse.storage import BlobStore, Storage
from functionfuse.storage.blobstore import BlobInfo

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
GRAPHS = 2000 if FULL else 150
BATCH = 25
STEPS = 5
EXACT = {
    "compute": {"computed"},
    "reuse": {"reused"},
    "maybe": {"computed", "reused", "not needed"},
    "not needed": {"not needed"},
}


class Memory(BlobStore):
    """Blobs in a dict, which notes what it is asked."""

    def __init__(self, blobs=()):
        self.blobs = dict(blobs)
        self.asked = Counter()

    def put(self, key, parts, *, if_absent=False, durable=False):
        self.asked["put"] += 1
        if if_absent and key in self.blobs:
            raise FileExistsError(key)
        self.blobs[key] = b"".join(parts)

    def get(self, key):
        self.asked["get"] += 1
        return bytearray(self._blob(key))

    def head(self, key, size):
        self.asked["head"] += 1
        return memoryview(self._blob(key))[:size]

    def list(self, prefix):
        self.asked["list"] += 1
        for key in sorted([key for key in self.blobs if key.startswith(prefix)]):
            yield BlobInfo(key, len(self.blobs[key]), 0.0)

    def delete(self, keys):
        self.asked["delete"] += 1
        for key in keys:
            self.blobs.pop(key, None)

    def _blob(self, key):
        try:
            return self.blobs[key]
        except KeyError:
            raise ResultNotFoundError(key) from None


# The code of a project. Results are small numbers, so that they often stay equal.

SOURCE = """
TABLE = {{"a": {table}, "b": [1, {table}]}}
calls = []

def flat(value):
    if isinstance(value, dict):
        return sum(flat(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(flat, value))
    return len(value) if isinstance(value, str) else int(value)

def low(x):
    return x * {low} % 7

def high(x):
    return low(x) + {high}

class Scale:
    factor = {factor}

    def of(self, x):
        return x * self.factor

@workflow
def plain(*args, **kwargs):
    {note}
    calls.append("plain")
    return (flat(args) * {plain} + flat(kwargs)) % 5

@workflow
def parts(x, y={default}):
    return {{"x": x, "y": [flat(x) % 3, {parts}], "z": (flat(y) * {parts}) % 4}}

@workflow
def helped(*args):
    return high(flat(args)) % 4 + {helped}

@workflow
def table(x, *, key="a"):
    return flat(TABLE[key]) + flat(x) % 2

@workflow
def scaled(x):
    return Scale().of(flat(x)) % 6

@workflow(version="{version}", ignore=["noise"])
def versioned(x, noise=0):
    return flat(x) % 3 + {version}

@workflow
class Machine:
    def __init__(self, start):
        self.state = [flat(start) % 5]

    def turn(self, x):
        self.state.append((flat(x) + {machine}) % 4)
        return sum(self.state) % 6

    def show(self):
        return list(self.state)
"""
CONSTANTS = {
    name: [1, 2, 3]
    for name in (
        *("table", "low", "high", "factor", "plain", "default", "parts", "helped", "version"),
        "machine",
    )
}
CONSTANTS["note"] = ["", "# One.", "pass  # Two.\n"]
LITERALS = [0, 1, 2, 3, True, 1.0, "ab", "abc", [1, 2], (1, 2), {"k": 1}, {"k": [2]}, {1, 2}]
FUNCTIONS = ("plain", "plain", "parts", "parts", "helped", "table", "scaled", "versioned")
PATHS = ("x",), ("y",), ("y", 0), ("z",)


class Project:
    """A graph as data: `code` has the constants, `nodes` one dict for each node."""

    def __init__(self, chance):
        self.chance = chance
        self.code = {name: chance.choice(values) for name, values in CONSTANTS.items()}
        self.nodes = []
        self.by_hand = set()
        self.count = 0
        for _ in range(chance.randrange(3, 14)):
            self.add()
        self.handed = chance.sample(range(len(self.nodes)), min(2, len(self.nodes)))

    def add(self):
        chance, place = self.chance, len(self.nodes)
        machines = [i for i, node in enumerate(self.nodes) if node["function"] == "Machine"]
        kind = chance.randrange(8)
        node = {"name": f"n{self.count}", "path": (), "on": None}
        if kind == 0:
            node |= {"function": "Machine", "args": [self.argument(place)], "kwargs": {}}
        elif kind <= 3 and machines:
            function = chance.choice(("turn", "turn", "show"))
            args = [self.argument(place)] if function == "turn" else []
            on = chance.choice(machines)
            node |= {"function": function, "args": args, "kwargs": {}, "on": on}
        else:
            function = chance.choice(FUNCTIONS)
            node |= {"function": function, "args": [self.argument(place)], "kwargs": {}}
            if function == "plain":
                node["args"] += [self.argument(place) for _ in range(chance.randrange(3))]
                node["kwargs"] = {
                    name: self.argument(place) for name in chance.choice(("", "k", "kl"))
                }
            elif function == "parts":
                node["path"] = chance.choice(PATHS)
                if chance.random() < 0.5:
                    node["kwargs"] = {"y": self.argument(place)}
            elif function == "table":
                node["kwargs"] = {"key": chance.choice("ab")}
            elif function == "versioned":
                node["kwargs"] = {"noise": chance.randrange(3)}
        self.count += 1
        self.nodes.append(node)

    def argument(self, place, depth=0):
        """A literal, a node (as its place), or a container of them."""
        chance = self.chance
        usable = [i for i in range(place) if self.nodes[i]["function"] != "Machine"]
        kind = chance.randrange(10)
        if kind < 6 and usable:
            return ("node", chance.choice(usable))
        if kind < 8 or depth == 2:
            return ("literal", chance.choice(LITERALS))
        items = [self.argument(place, depth + 1) for _ in range(chance.randrange(3))]
        return (chance.choice(("list", "tuple", "dict")), items)

    def build(self):
        """Return the nodes and what was handed over, of functions that were compiled anew."""
        source = SOURCE.format(**self.code)
        names = {"__name__": "project", "workflow": workflow}
        exec(compile(source, "project", "exec"), names)
        made, results = [], []

        def resolved(argument):
            kind, content = argument
            if kind == "node":
                return results[content]
            if kind == "literal":
                return content
            items = [resolved(item) for item in content]
            return (
                dict(enumerate(items))
                if kind == "dict"
                else {"list": list, "tuple": tuple}[kind](items)
            )

        for node in self.nodes:
            args = [resolved(argument) for argument in node["args"]]
            kwargs = {
                name: resolved(value) if isinstance(value, tuple) else value
                for name, value in node["kwargs"].items()
            }
            called = names.get(node["function"])
            if node["on"] is not None:
                called = getattr(made[node["on"]], node["function"])
            made.append(called(*args, **kwargs).set_name(node["name"]))
            picked = made[-1]
            for key in node["path"]:
                picked = picked[key]
            results.append(picked)
        return made, [made[place] for place in self.handed]

    # Edits.

    def edit(self):
        chance = self.chance
        kind = chance.choice(
            ("code", "code", "literal", "literal", "add", "rename", "order", "hand")
        )
        node = chance.choice(self.nodes)
        if kind == "code":
            name = chance.choice(list(CONSTANTS))
            self.code[name] = chance.choice(CONSTANTS[name])
        elif kind == "literal" and node["args"]:
            place = chance.randrange(len(node["args"]))
            node["args"][place] = self.argument(self.nodes.index(node))
        elif kind == "add":
            self.add()
        elif kind == "rename":
            node["name"] = f"n{self.count}"
            self.count += 1
        elif kind == "order":
            chance.shuffle(node["args"])
        elif kind == "hand":
            self.handed = chance.sample(range(len(self.nodes)), 1)

    def spoil(self, store):
        """Delete, damage, shorten, exchange or overwrite stored results."""
        chance = self.chance
        keys = [key for key in sorted(store.blobs) if "/." not in key]
        for key in chance.sample(keys, min(len(keys), chance.randrange(4))):
            kind = chance.choice(("delete", "delete", "flip", "cut", "other", "overwrite"))
            data = bytearray(store.blobs[key])
            if kind == "delete":
                del store.blobs[key]
                continue
            if kind == "flip":
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            elif kind == "cut":
                del data[chance.randrange(len(data)) :]
            elif kind == "other":
                data = store.blobs[chance.choice([key for key in keys if key in store.blobs])]
            else:
                Storage(store).save("w", key.partition("/")[2], 99)
                self.by_hand.add(key)
                continue
            before, store.blobs[key] = store.blobs[key], bytes(data)
            with suppress(DamagedResultError):
                try:
                    Storage(store).task_info("w", key.partition("/")[2])
                except NewerFormatError:  # which is no damage
                    store.blobs[key] = before

    def settings(self):
        """Return policies: of the workflow, of nodes by name, and which nodes are logged."""
        chance, policies, logged = self.chance, {}, set()
        names = [node["name"] for node in self.nodes]
        policy = chance.choice(("unchanged",) * 8 + ("never", "always"))
        for name in names:
            if chance.random() < 0.05:
                policies[name] = chance.choice(("never", "always", "unchanged"))
            if chance.random() < 0.03:
                logged.add(name)
        return policy, policies, logged


def made(project, store, settings):
    """Return a workflow on a storage, with policies set."""
    policy, policies, logged = settings
    _, handed = project.build()
    flow = LocalWorkflow(*handed, workflow_name="w")
    names = {node.name for node in flow.find_nodes()}
    flow.set_reuse(policy)
    for name in names & policies.keys():
        flow.query(name).set_reuse(policies[name])
    for name in names & logged:
        flow.log_nodes(name)
    flow.set_storage(Storage(store) if store is not None else None)
    return flow


def actions(report):
    return {node.name: node.action for node in report.nodes}


def one_graph(seed, seen):
    """Edit one graph some times; check every plan, every report and every value."""
    chance = random.Random(seed)
    project, store = Project(chance), Memory()
    for step in range(STEPS):
        where = f"seed {seed}, step {step}"
        if step:
            for _ in range(chance.randrange(3)):
                project.edit()
            if chance.random() < 0.5:
                project.spoil(store)
        settings = project.settings()
        always = "always" in (settings[0], *settings[1].values())
        if always:  # what was saved by hand is of another type than what a function gives
            for key in project.by_hand:
                store.blobs.pop(key, None)
        damaged = any(found.problem for found in Storage(store).verify("w"))

        before = dict(store.blobs)
        store.asked.clear()
        plan = made(project, store, settings).plan()
        assert store.asked.keys() <= {"head", "get"}, where
        assert store.blobs == before, where
        planned = actions(plan)

        expected = made(project, None, settings).run()
        flow = made(project, store, settings)
        result = flow.run()
        done = actions(flow.report)
        seen.update(done.values())
        seen["maybe"] += len(plan.names("maybe"))
        seen["steps"] += 1
        seen["values"] += 1 if not isinstance(expected, list) else len(expected)
        if not always:
            assert canonical(expected) == canonical(result), where
        assert list(planned) == list(done), where
        if not damaged:
            for name, action in planned.items():
                assert done[name] in EXACT[action], (where, name, action)
        if chance.random() < 0.3:
            other = Memory(before)
            flow = made(project, other, settings)
            with ThreadPoolExecutor(3) as executor:
                assert canonical(result) == canonical(flow.run(executor)), where
            assert done == actions(flow.report), where
            seen["by executor"] += 1


def canonical(value: Any) -> str:
    """Return a text that is equal for equal values of equal types."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}{sorted(map(canonical, value))}"
    if isinstance(value, dict):
        return f"dict{[(canonical(key), canonical(item)) for key, item in value.items()]}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{list(map(canonical, value))}"
    return repr(value)


@pytest.mark.battery
@pytest.mark.parametrize("batch", range(GRAPHS // BATCH))
def test_every_value_is_right_after_any_edit(batch: int) -> None:
    """With a storage as without one, planned as done, and alike by an executor."""
    seen: Counter[str] = Counter()
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        one_graph(seed, seen)
    print(f"seeds {batch * BATCH} to {(batch + 1) * BATCH - 1}: {json.dumps(seen)}")
    assert min(seen[kind] for kind in ("computed", "reused", "not needed", "maybe")) > 0


# What a plan and a second run read.


@workflow
def step(x: Any, k: int) -> Any:
    return [x if isinstance(x, int) else sum(x), k]


def chain(store: BlobStore, length: int) -> LocalWorkflow:
    node = step(0, 0)
    for number in range(1, length):
        node = step(node, number)
    flow = LocalWorkflow(node, workflow_name="w")
    flow.set_storage(Storage(store))
    return flow


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    store = Memory()
    chain(store, 2000).run()
    return store.blobs


def test_a_plan_reads_headers_only(stored: dict[str, bytes]) -> None:
    """It loads no value, and writes nothing; not even a folder."""
    store = Memory(stored)
    plan = chain(store, 2000).plan()
    assert 2000 == len(plan.names("reuse"))
    assert {"head": 2000} == store.asked
    assert stored == store.blobs


def test_a_stored_chain_loads_one_value(stored: dict[str, bytes]) -> None:
    """2,000 headers, and the last result."""
    store = Memory(stored)
    flow = chain(store, 2000)
    assert chain(Memory(), 2000).run() == flow.run()
    assert 2000 == len(flow.report.names("reused"))
    assert {"head": 2000, "get": 1} == store.asked


def test_a_removed_parent_in_a_chain_stays_removed(stored: dict[str, bytes]) -> None:
    """Nobody needs it; and if the last result goes too, only what it needs is loaded."""
    store = Memory(stored)
    del store.blobs["w/step_1000"]
    chain(store, 2000).run()
    assert {"head": 2000, "get": 1} == store.asked
    del store.blobs["w/step_1999"]
    store.asked.clear()
    flow = chain(store, 2000)
    flow.run()
    assert ["step_1999"] == flow.report.names("computed")
    assert {"head": 2000, "get": 1, "list": 1, "put": 1} == store.asked | {"list": 1}
    assert "w/step_1000" not in store.blobs


# What the random graphs once found, and what they would find too seldom.


@workflow(version="1")
def first(x: int) -> int:
    return x


@workflow(version="1")
def middle(x: int) -> int:
    return x + 1


@workflow(version="1")
def last(x: int) -> int:
    return x * 10


def three(store: BlobStore, x: int, policy: str = "unchanged", *, until: int = 3) -> LocalWorkflow:
    """A chain whose middle is reused by a policy of its own, up to one of its nodes."""
    nodes = [first(x).set_name("first")]
    if until > 1:
        nodes += [middle(nodes[0]).set_name("middle")]
        nodes += [last(nodes[1]).set_name("last")]
    flow = LocalWorkflow(nodes[-1], workflow_name="w")
    flow.set_storage(Storage(store))
    if until > 1:
        flow.query("middle").set_reuse(policy)
    return flow


@pytest.mark.parametrize("until", [0, 1])
def test_what_was_made_from_a_stale_result_is_made_again(until: int) -> None:
    """By "always", a node is made from a stale parent; by "unchanged", that is seen.

    Also if the stale parent's own parent had been computed again before.
    """
    store = Memory()
    assert 20 == three(store, 1).run()
    del store.blobs["w/last"]
    if until:
        three(store, 2, until=1).run()
    assert 20 == three(store, 2, "always").run()  # the stale result of `middle`
    assert 30 == three(store, 2).run()
    assert 20 == three(store, 1).run()


@pytest.mark.parametrize("until", [0, 1])
def test_what_was_made_from_a_stale_result_that_is_gone_is_made_again(until: int) -> None:
    """The same, when the stale result has been removed."""
    store = Memory()
    three(store, 1).run()
    del store.blobs["w/last"]
    if until:
        three(store, 2, until=1).run()
    three(store, 2, "always").run()
    del store.blobs["w/middle"]
    assert 30 == three(store, 2).run()


def test_what_was_made_in_place_of_a_damaged_stale_result() -> None:
    """It is recorded as what it is, not as what was damaged."""
    store = Memory()
    three(store, 1).run()
    del store.blobs["w/last"]
    data = bytearray(store.blobs["w/middle"])
    data[-1] ^= 255
    store.blobs["w/middle"] = bytes(data)
    assert 30 == three(store, 2, "always").run()
    del store.blobs["w/middle"]
    assert 30 == three(store, 2).run()
    assert 20 == three(store, 1).run()
