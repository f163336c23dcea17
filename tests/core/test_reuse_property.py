"""Random graphs under random edits: a run with a storage gives what a run without one gives.

See `importable/random_projects.py` for the graphs and the edits. 75 graphs; 2,000 with
FUNCTIONFUSE_BATTERY=full. A node changes only arguments in place that no other node takes.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from random_projects import Project

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import ResultNotFoundError
from functionfuse.storage import BlobStore, Storage
from functionfuse.storage.blobstore import BlobInfo

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
GRAPHS = 2000 if FULL else 25
BATCH = 25
STEPS = 6
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
            yield BlobInfo(key, len(self.blobs[key]), self.now())

    def delete(self, keys):
        self.asked["delete"] += 1
        for key in keys:
            self.blobs.pop(key, None)

    def _blob(self, key):
        try:
            return self.blobs[key]
        except KeyError:
            raise ResultNotFoundError(key) from None


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
    project, store, states = Project(chance), Memory(), []
    for step in range(STEPS):
        where = f"seed {seed}, step {step}"
        if step:
            if chance.random() < 0.4:
                project.go_back(chance.choice(states))
            for _ in range(chance.randrange(3)):
                project.edit()
            if chance.random() < 0.5:
                project.spoil(store)
        states.append(copy.deepcopy((project.code, project.nodes, project.handed)))
        settings = project.settings()
        always = "always" in (settings[0], *settings[1].values())
        if always:  # what was saved by hand is of another type than what a function gives
            for key in project.by_hand:
                store.blobs.pop(key, None)
        damaged = any(found.problem for found in Storage(store).verify("w"))

        before = dict(store.blobs)
        store.asked.clear()
        plan = made(project, store, settings).plan()
        assert store.asked.keys() <= {"head", "get", "list"}, where
        assert store.blobs == before, where
        planned = actions(plan)

        expected = made(project, None, settings).run()
        flow = made(project, store, settings)
        result = flow.run()
        done = actions(flow.report)
        seen.update(done.values())
        seen["maybe"] += len(plan.names("maybe"))
        seen["went back"] += sum(node.reason == "an earlier result" for node in flow.report.nodes)
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
    kinds = "computed", "reused", "not needed", "maybe", "went back"
    assert min(seen[kind] for kind in kinds) > 0


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
    """2,000 headers, and the last result; the record of the run is put."""
    store = Memory(stored)
    flow = chain(store, 2000)
    assert chain(Memory(), 2000).run() == flow.run()
    assert 2000 == len(flow.report.names("reused"))
    assert {"head": 2000, "get": 1, "put": 1} == store.asked


def test_a_removed_parent_in_a_chain_stays_removed(stored: dict[str, bytes]) -> None:
    """Nobody needs it; and if the last result goes too, only what it needs is loaded.

    A run that computes looks at the marker of the workflow, too.
    """
    store = Memory(stored)
    del store.blobs["w/step_1000"]
    chain(store, 2000).run()
    assert {"head": 2000, "get": 1, "put": 1} == store.asked
    del store.blobs["w/step_1999"]
    store.asked.clear()
    flow = chain(store, 2000)
    flow.run()
    assert ["step_1999"] == flow.report.names("computed")
    assert {"head": 2001, "get": 1, "list": 1, "put": 2} == store.asked | {"list": 1}
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
