"""Random graphs with failures, retries and timeouts on Ray, against a model of the run."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any, NamedTuple

import pytest
import ray_functions as functions
from ray_functions import noted, remember
from ray_runs import actions, kept

from functionfuse.errors import NodeTimeoutError

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

pytestmark = pytest.mark.usefixtures("ray_up")


class Spec(NamedTuple):
    """A node: `kind` is "fine", "fails", "slow", or how often it fails."""

    kind: Any
    parents: list[str]
    retries: int
    on_object: bool


def specified(chance: random.Random) -> dict[str, Spec]:
    """Return the nodes of a random graph, by name."""
    specs: dict[str, Spec] = {}
    objects = chance.random() < 0.3
    for index in range(chance.randint(3, 25)):
        on_object = objects and chance.random() < 0.3
        kinds = ["fine", "fails", 1, 2, "slow"]
        kind = chance.choices(kinds, [14, 1, 1, 1, 0 if on_object else 0.5])[0]
        parents = chance.sample([*specs], min(len(specs), chance.randint(0, 1 if on_object else 3)))
        retries = 0 if on_object else chance.randint(0, 2)
        specs[f"n{index:02}"] = Spec(kind, parents, retries, on_object)
    return specs


def modelled(specs: dict[str, Spec], *, healed: bool) -> tuple[dict[str, int], Counter[str]]:
    """Return the results of the nodes that don't fail, and how often each node is called."""
    results: dict[str, int] = {}
    attempts = Counter[str]()
    total, whole = 1, True  # of the object: whether no call on it has failed
    for name, spec in specs.items():
        if not results.keys() >= {*spec.parents} or (spec.on_object and not whole):
            whole = whole and not spec.on_object
            continue
        needs = {"fine": 1, "fails": 99, "slow": 99}.get(spec.kind) or spec.kind + 1
        needs = 1 if healed else needs
        attempts[name] = min(needs, spec.retries + 1)
        given = sum(results[parent] for parent in spec.parents)
        if attempts[name] < needs:
            whole = whole and not spec.on_object
        elif spec.on_object:
            total += given or 1
            results[name] = total
        else:
            results[name] = 1 + given
    return results, attempts


def made(specs: dict[str, Spec], storage: Any, folder: str) -> Any:
    """Return the workflow."""
    nodes: dict[str, Any] = {}
    tally = functions.Tally(1)
    for name, spec in specs.items():
        given = [nodes[parent] for parent in spec.parents]
        call = tally.add if spec.on_object else functions.act
        if spec.on_object:
            given = given or [1]
        nodes[name] = call(folder, name, spec.kind, *given).set_name(name)
    flow = kept(storage, *nodes.values())
    for name, spec in specs.items():
        flow.query(name).set_retries(spec.retries, on=(LookupError, TimeoutError), delay=0.01)
        if spec.kind == "slow":
            flow.query(name).set_timeout(0.1)
    return flow


@pytest.mark.battery
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("seed", range(100 if FULL else 2))
def test_a_run_does_what_the_model_says(storage, notes, seed, keep_going, stored) -> None:
    """And a run afterwards, when nothing fails any more, does the rest."""
    chance = random.Random(f"{seed} {keep_going} {stored}")
    specs, limit = specified(chance), chance.choice([0, 0, 1, 3])
    results, attempts = modelled(specs, healed=False)
    failing = [name for name in attempts if name not in results]
    flow = made(specs, storage if stored else None, notes)
    if not failing:
        found = flow.run(return_results=True, max_pending_tasks=limit, keep_going=keep_going)
        assert results == dict(zip(specs, found, strict=True))
    else:
        with pytest.raises((LookupError, NodeTimeoutError)) as raised:
            flow.run(max_pending_tasks=limit, keep_going=keep_going)
        failed = [name for name in attempts if "failed" == flow.report[name].action]
        told = raised.value.__notes__[1]
        # What fails while the run ends is in the report.
        for_one = [f"in node {name!r} of workflow 'w'" in told for name in failed]
        assert for_one[0] if keep_going else any(for_one)
    acted = {name: action for name, action in actions(flow).items() if name in specs}
    computed = {name for name, action in acted.items() if action == "computed"}
    counts = Counter(noted(notes))
    if keep_going or not failing:
        assert {*results} == computed
        assert failing == [name for name, action in acted.items() if action == "failed"]
        assert attempts == {name: flow.report[name].attempts for name in attempts}
        timed = {name for name, spec in specs.items() if spec.kind == "slow"}
        assert {**attempts, **{name: counts[name] for name in timed}} == counts
        assert {*acted} - computed - {*failing} == {
            name for name, action in acted.items() if action == "not run"
        }
    else:
        assert computed <= {*results}
        # A node that would have been tried again failed, too.
        could = {name for name in attempts if specs[name].kind != "fine"}
        assert {name for name, action in acted.items() if action == "failed"} <= could
        assert {*counts} <= {*attempts}
        assert all(counts[name] <= attempts[name] for name in counts)
    if stored:
        assert sorted(computed) == storage.list_tasks("w")
    remember(notes, "healed")
    healed, _ = modelled(specs, healed=True)
    flow = made(specs, storage if stored else None, notes)
    assert healed == dict(zip(specs, flow.run(return_results=True), strict=True))
    again = Counter(noted(notes)) - counts
    if stored:
        missing = {*specs} - computed
        assert missing <= {*again}
        assert missing >= {name for name in again if name != "healed" and not specs[name].on_object}
