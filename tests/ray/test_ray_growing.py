"""`value` and `add` on Ray: values and objects stay with the workers from part to part."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import ray
import ray_functions as functions
from ray_functions import noted
from ray_runs import actions, eventually, kept

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

pytestmark = pytest.mark.usefixtures("ray_up")


def program(seed, flow, folder):
    """Build a graph at random, and ask for values of it; return all results by name."""
    chance = random.Random(seed)
    walks = [functions.Walk(folder, f"walk {number}") for number in range(2)]
    made, values = {}, {}
    for number in range(chance.randint(4, 12)):
        name = f"n{number}"
        given = chance.sample([*made.values()], min(len(made), chance.randint(0, 2)))
        given += chance.sample([*values.values()], min(len(values), chance.randint(0, 1)))
        called = chance.choice([functions.draw, functions.draw, *[walk.step for walk in walks]])
        made[name] = called(folder, name, *given).set_name(name)
        if chance.random() < 0.4:
            name = chance.choice([*made])
            value = flow.value(made[name])
            assert value == values.setdefault(name, value)
    flow.add(*made.values())
    results = flow.run(return_results=True)
    found = dict(zip(made, results, strict=True))
    assert values == {name: found[name] for name in values}
    return found


@pytest.mark.battery
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("seed", range(40 if FULL else 1))
def test_parts_of_a_run_fit_together(storage, notes, seed, stored) -> None:
    """Each node is called once in a run, and all see the values that `value` has returned."""
    flow = kept(storage if stored else None)
    found = program(seed, flow, notes)
    counts = Counter(noted(notes))
    assert {1} == set(counts.values()), counts
    assert set(found) <= set(counts)
    assert {"computed"} == set(actions(flow).values())
    if stored:
        assert found == program(seed, kept(storage), notes)
        assert counts == Counter(noted(notes))


@pytest.mark.parametrize("stored", [True, False])
def test_values_stay_with_the_workers(storage, notes, stored) -> None:
    """Only what `value` returns comes to this process; and all are let go in the end."""
    flow = kept(storage if stored else None)
    counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    before = len(counts())
    freight = functions.load_freight(notes, 10).set_name("freight")
    assert 45 == flow.value(functions.weigh(freight).set_name("first"))
    flow.add(functions.weigh(functions.pass_on(freight)).set_name("second"))
    assert 45 == flow.run(return_results=True)
    assert {"computed"} == set(actions(flow).values())
    assert noted(notes)
    assert str(os.getpid()) not in noted(notes)
    assert before >= len(counts())


@pytest.mark.parametrize("stored", [True, False])
def test_objects_go_on(storage, notes, stored) -> None:
    """They are made once, also if another part fails between two calls; in the end, they end."""
    walks = [functions.Walk(notes, name) for name in "abc"]
    flow = kept(storage if stored else None)
    first = flow.value(walks[0].step(notes, "a1"))
    second = walks[1].step(notes, "b1")
    flow.add(second)
    with pytest.raises(OSError, match="not yet there"):
        flow.value(functions.changes(notes, "fails", 1, [], second))
    assert first == flow.value(walks[0].step(notes, "a2"))[:2]
    flow.add(walks[0].step(notes, "a3"), walks[1].step(notes, "b2"), walks[2].step(notes, "c1"))
    given, *last = flow.run(return_results=True)
    assert [first, given] == [steps[:2] for steps in last[:2]]
    called = [what for what in noted(notes) if what != "fails"]
    assert ["a", "a1", "a2", "a3", "b", "b1", "b2", "c", "c1"] == called


@pytest.mark.parametrize("stored", [True, False])
def test_a_call_on_an_object_of_an_earlier_part_is_cancelled(storage, notes, stored) -> None:
    """The object is made again then, and its calls are replayed."""
    flow = kept(storage if stored else None)
    walk = functions.Walk(notes, "walk")
    flow.value(walk.step(notes, "step").set_name("first"))
    waits = walk.wait_once(notes).set_name("waits")
    wrong = functions.fail("it is gone", functions.is_noted(notes, "tick")).set_name("wrong")
    with pytest.raises(LookupError):
        flow.value(functions.plus(waits, wrong))

    def has_ended():
        before = len(noted(notes))
        time.sleep(0.3)
        return before == len(noted(notes)) < functions.TICKS

    assert eventually(has_ended)
    assert 2 == flow.value(waits)
    assert ["step"] * 2 + ["waits"] * 2 + ["walk"] * 2 == [
        what for what in noted(notes) if what != "tick"
    ]


CLUSTERS = """
    import sys
    import ray
    import ray_functions as functions
    from ray_runs import kept
    from functionfuse.storage import storage_factory

    def start():
        ray.shutdown()
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

    notes, path = sys.argv[1:]
    storage = path and storage_factory({"kind": "file", "options": {"path": path}})
    flow, walk = kept(storage or None), functions.Walk(notes, "walk")
    one = functions.draw(notes, "one").set_name("one")
    start()
    first, steps = flow.value(one), flow.value(walk.step(notes, "step").set_name("step"))
    start()
    further = flow.value(walk.step(notes, "further", one).set_name("further"))
    assert len(further) == 4
    assert (further[:2] == steps) is False  # the object was made again
    assert (further[3] == first) is bool(storage)
    assert flow.value(one) == further[3]
    start()
    flow.add(one)
    assert (flow.run(return_results=True) == first) is bool(storage)
"""


@pytest.mark.parametrize(
    "stored", [False, *([pytest.param(True, marks=pytest.mark.battery)] if FULL else [])]
)
def test_a_cluster_that_is_gone(notes, tmp_path, stored) -> None:
    """Another has come up in this process: what the first has kept is computed again."""
    path = str(tmp_path / "store") if stored else ""
    program = [sys.executable, "-c", textwrap.dedent(CLUSTERS), notes, path]
    finished = subprocess.run(
        program,
        cwd=Path(__file__).parent / "importable",
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert 0 == finished.returncode, finished.stderr
    assert {"one": 1 if stored else 3} == {"one": noted(notes).count("one")}
