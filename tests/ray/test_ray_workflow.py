"""`RayWorkflow` beyond what every backend does: where values are, and settings."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest
import ray
import ray_functions as functions
from ray_functions import noted
from ray_runs import actions, eventually, kept

from functionfuse import workflow
from functionfuse.backends import workflow_factory
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin, RandomStatePlugin
from functionfuse.errors import OptionsError
from functionfuse.reuse.described import describing
from functionfuse.reuse.values import digest_of
from functionfuse.run import packing
from functionfuse.run.scheduler import Scheduler
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import key_of
from functionfuse_ray import RayWorkflow
from functionfuse_ray.backend import Handed

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

pytestmark = pytest.mark.usefixtures("ray_up")


# Where values are.


def test_no_value_comes_to_the_driver(storage, notes) -> None:
    """Values are passed, saved, loaded and passed again by workers; only what is returned comes."""

    def graph():
        freight = functions.load_freight(notes, 1 << 20).set_name("freight")
        return functions.weigh(functions.pass_on(freight).set_name("passed")).set_name("weight")

    assert sum(range(1 << 20)) == kept(storage, graph()).run(return_results=True)
    storage.remove_task("w", "weight")
    flow = kept(storage, graph())
    flow.run()
    assert {"freight": "reused", "passed": "reused", "weight": "computed"} == actions(flow)
    assert noted(notes)
    assert str(os.getpid()) not in noted(notes)


def test_what_changes_in_a_worker_is_not_reused(storage) -> None:
    """A memo of a module grows there; the results have no fingerprint, and the report says why."""

    def run(numbers):
        nodes = [functions.remembered(number).set_name(str(number)) for number in numbers]
        flow = kept(storage, *nodes)
        flow.run()
        return flow.report

    run(range(100, 108))
    reason = "nothing stored; global 'MEMO' changed during the run"
    noticed = {node.name for node in run(range(8)).nodes if node.reason == reason}
    assert noticed  # a worker that has not run until now has an empty memo, as the driver has
    why_not = "global 'MEMO' changed while the run that stored it went on"
    for name in noticed:
        assert {"why not": why_not} == storage.task_info("w", name).fingerprint
    assert noticed <= {*run(range(8)).names("computed")}


@pytest.mark.parametrize(("earlier", "latest"), [({"days": 1}, 100), (False, 1)])
def test_what_others_put_in_the_place_of_a_planned_result_is_not_taken(
    tmp_path, earlier, latest
) -> None:
    """Between the plan and the worker's reading: that reads the earlier one, or computes it."""
    path = str(tmp_path / "store")
    storage = FileStorage(path, earlier=earlier)

    class Overtaken(FileStorage):
        def task_infos(self, *names):
            found = list(super().task_infos(*names))
            storage.save("w", "one", 100)
            return iter(found)

    @workflow
    def one():
        return 1

    @workflow
    def twice(number):
        return 2 * number

    assert 1 == kept(storage, one().set_name("one")).run(return_results=True)
    overtaken = Overtaken(path, earlier=earlier)
    flow = kept(overtaken, twice(one().set_name("one")).set_name("two"))
    assert 2 == flow.run(return_results=True)
    assert latest == storage.read_task("w", "one")


def test_picks_and_containers_are_resolved_by_workers(storage, notes) -> None:
    """Neither what is picked from a result nor what a container holds comes to the driver."""
    named = functions.freights(notes, 10)
    picked = named["freight"][0]
    both = {"all": [picked, functions.pass_on(picked)]}
    assert 90.0 == kept(storage, functions.weigh_all(both)).run(return_results=True)
    assert noted(notes)
    assert str(os.getpid()) not in noted(notes)


def test_a_reused_value_is_not_loaded(storage, notes) -> None:
    """By nobody, if nothing needs it."""
    node = functions.pass_on(functions.load_freight(notes, 10))
    kept(storage, node).run()
    before = noted(notes)
    assert kept(storage, node).run() is None
    assert before == noted(notes)


def test_a_returned_value_comes_to_the_driver_once(storage, notes) -> None:
    """Whether it is computed or reused."""
    node = functions.load_freight(notes, 10)
    for count in (1, 2):
        assert 45.0 == kept(storage, node).run(return_results=True).array.sum()
        assert [str(os.getpid())] * count == noted(notes)


def test_a_node_is_one_task(storage, monkeypatch) -> None:
    """Checking, reading and saving make no tasks of their own; a needed stored result makes one."""
    watched = []
    add = Handed.add
    monkeypatch.setattr(
        Handed, "add", lambda handed, key, *a, **k: (watched.append(key), add(handed, key, *a, **k))
    )
    one, two = functions.number(1).set_name("one"), functions.number(2).set_name("two")
    node = functions.plus(one, two).set_name("sum")
    for given in (None, storage):
        flow = RayWorkflow(node, workflow_name="w")
        flow.set_storage(given)
        flow.run()
        assert [0, 1, 2] == sorted(watched)
        watched.clear()
    storage.remove_task("w", "sum")
    kept(storage, node).run()
    assert [~1, ~0, 2] == sorted(watched)


def test_a_stored_parent_that_is_damaged(storage) -> None:
    """The worker that loads it finds out, and it is computed again."""
    one = functions.number("x" * 5000).set_name("one")
    node = functions.length(one).set_name("length")
    kept(storage, node).run()
    storage.remove_task("w", "length")
    data = bytearray(storage.store.get(key_of("w", "one")))
    data[-1] ^= 1
    storage.store.put(key_of("w", "one"), [data])
    flow = kept(storage, node)
    assert 5000 == flow.run(return_results=True)
    assert {"one": "computed", "length": "computed"} == actions(flow)
    assert "x" * 5000 == storage.read_task("w", "one")


def test_a_node_waits_for_all_its_parents() -> None:
    """Also when some are done before others are submitted."""
    nodes = [functions.number(value) for value in range(40)]
    node = functions.plus(*nodes).set_name("sum")
    flow = RayWorkflow(node, workflow_name="w")
    for limit in (1, 2, 5):
        assert sum(range(40)) == flow.run(return_results=True, max_pending_tasks=limit)
        assert {"computed"} == set(actions(flow).values())


def test_a_big_argument_is_put_once(monkeypatch) -> None:
    """For all nodes that it is given to; and their function is pickled once."""
    put, dumped, count, pickled = ray.put, packing._dumped, [], []
    monkeypatch.setattr(ray, "put", lambda value: (count.append(1), put(value))[1])
    monkeypatch.setattr(
        packing,
        "_dumped",
        lambda value, *a, **k: (pickled.append(callable(value)), dumped(value, *a, **k))[1],
    )
    data = np.ones(1 << 17)
    nodes = [functions.length(data) for _ in range(4)]
    assert [1 << 17] * 4 == RayWorkflow(*nodes, workflow_name="w").run(return_results=True)
    assert (1, 1) == (len(count), sum(pickled))


def test_references_are_released(monkeypatch) -> None:
    """A value is let go when the last that needs it is done; a limit keeps their number small."""
    runs, most = [], []
    start = Scheduler.__init__
    monkeypatch.setattr(
        Scheduler, "__init__", lambda run, *a, **k: (start(run, *a, **k), runs.append(run))[0]
    )
    nodes = [functions.plus(functions.number(value), 1) for value in range(30)]
    flow = RayWorkflow(functions.plus(*nodes), workflow_name="w")
    flow.listeners.append(lambda event: most.append(len(runs[0].values.held) + len(runs[0].out)))
    flow.run(max_pending_tasks=2)
    assert not runs[0].values.held
    # The results that the last node needs, and of the others those in flight.
    assert max(most) <= 30 + 5


def test_a_long_graph_holds_few_references() -> None:
    """This process doesn't refer to all results, or answers, at any time."""
    count = 2000 if FULL else 300
    held = []
    nodes = [functions.plus(functions.number(value), 1) for value in range(count)]
    flow = RayWorkflow(*nodes, workflow_name="w")
    counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    before = len(counts())
    flow.listeners.append(
        lambda event: held.append(len(counts())) if event.kind == "finished" else None
    )
    flow.run(max_pending_tasks=20)
    assert 2 * count == len(held)
    assert max(held) - before < 100
    assert eventually(lambda: len(counts()) - before < 10)


def test_answers_that_come_together_are_apart() -> None:
    """One that is an error is not that of the others; each has its key."""

    @ray.remote
    def answer(number):
        if number == 2:
            raise LookupError("it is gone")
        return number

    handed = Handed()
    answers = [answer.remote(number) for number in range(5)]
    ray.wait(answers, num_returns=5)
    for key, reference in enumerate(answers):
        handed.add(key, None, reference)
    found = dict(handed.next())
    assert isinstance(found.pop(2), LookupError)
    assert {key: key for key in (0, 1, 3, 4)} == found


def test_a_limit_of_pending_tasks(monkeypatch) -> None:
    """No more nodes than that are at Ray's at once."""
    out, most = set(), []
    add, pop = Handed.add, Handed.pop

    def count(handed, key, *references, **about):
        add(handed, key, *references, **about)
        out.add(key)
        most.append(len(out))

    monkeypatch.setattr(Handed, "add", count)
    monkeypatch.setattr(Handed, "pop", lambda handed, key: (out.discard(key), pop(handed, key))[1])
    flow = RayWorkflow(*[functions.number(value) for value in range(20)], workflow_name="w")
    assert list(range(20)) == flow.run(return_results=True, max_pending_tasks=3)
    assert 3 == max(most)
    with pytest.raises(OptionsError, match="max_pending_tasks"):
        flow.run(max_pending_tasks=-1)


# Settings.


def test_remote_args() -> None:
    """They reach Ray, for tasks and for objects; the last ones hold."""
    node, counter = functions.resources().set_name("node"), functions.Counter().set_name("made")
    flow = RayWorkflow(node, counter.resources().set_name("call"), workflow_name="w")
    query = flow.query(None).set_remote_args({"num_cpus": 2})
    assert query is query.set_remote_args({"num_cpus": 0, "resources": {"disk": 0.5}})
    assert [{"disk": 0.5}] * 2 == flow.run(return_results=True)


def test_a_runtime_environment() -> None:
    """It is the worker's, for the nodes that a pattern picks."""
    here, there = functions.setting("PLACE").set_name("here"), functions.setting("PLACE")
    flow = RayWorkflow(here, there.set_name("there"), workflow_name="w")
    flow.query("there").set_remote_args({"runtime_env": {"env_vars": {"PLACE": "far away"}}})
    assert [None, "far away"] == flow.run(return_results=True)


def test_remote_args_that_ray_refuses() -> None:
    """They are refused at once, and the error names the node."""
    flow = RayWorkflow(functions.Counter().add(1), functions.number(1), workflow_name="w")
    with pytest.raises(OptionsError, match="number_0000"):
        flow.query("number.*").set_remote_args({"num_cpu": 1})
    with pytest.raises(OptionsError, match="Counter_0000"):
        flow.query(None).set_remote_args({"max_retries": 1})
    with pytest.raises(OptionsError, match="num_returns"):
        flow.query(None).set_remote_args({"num_returns": 2})


@pytest.mark.parametrize(
    ("retry", "kind", "fails"),
    [(True, ValueError, False), ([ValueError], ValueError, False), ([ValueError], KeyError, True)],
)
def test_errors_after_which_a_node_is_tried_again(notes, retry, kind, fails) -> None:
    """`retry_exceptions` means what it means to Ray."""
    flow = RayWorkflow(functions.flaky(notes, kind), workflow_name="w")
    flow.query(None).set_remote_args({"max_retries": 5, "retry_exceptions": retry})
    if fails:
        with pytest.raises(KeyError, match="not yet"):
            flow.run()
        assert ["tried"] == noted(notes)
    else:
        assert 3 == flow.run(return_results=True)


@workflow
def draw(*after):
    return random.random()


def test_seeds_are_those_of_a_local_run() -> None:
    """Whatever order nodes end in, each gets the seed of its name."""

    def drawn(backend, **how):
        nodes = [draw() for _ in range(4)]
        nodes += [draw(nodes[3]), draw(nodes[0]), draw(nodes[3], nodes[1])]
        flow = backend(*nodes, workflow_name="w")
        flow.query(None).set_plugin(RandomStatePlugin(0, 100, 5, random.seed))
        return flow.run(**how)

    assert drawn(LocalWorkflow) == drawn(RayWorkflow, return_results=True)


def test_a_resumed_run_draws_what_a_run_in_one_go_does(storage) -> None:
    """The nodes whose results are gone draw the same numbers again; another seed counts."""

    def made(seed):
        nodes = [draw().set_name(f"replicate {number}") for number in range(4)]
        flow = kept(storage, *nodes, draw(nodes[0], nodes[2]).set_name("after"))
        flow.query(None).set_plugin(RandomStatePlugin(0, 1 << 32, seed, random.seed))
        return flow

    drawn = made(1).run(return_results=True)
    assert 5 == len(set(drawn))
    for name in ("replicate 0", "replicate 2", "after"):
        storage.remove_task("w", name)
    flow = made(1)
    assert drawn == flow.run(return_results=True)
    computed, reused = "computed", "reused"
    assert [computed, reused, computed, reused, computed] == list(actions(flow).values())
    assert not set(drawn) & set(made(2).run(return_results=True))


def test_queries_are_chained() -> None:
    """All settings of a query return it."""
    flow = RayWorkflow(functions.number(1), workflow_name="w")
    query = flow.query(None).set_remote_args({"num_cpus": 1}).set_plugin(InitializerPlugin(int))
    assert flow is query.set_plugins(InitializerPlugin(int)).set_reuse("never").workflow
    assert 1 == flow.run(return_results=True)


def test_a_plan_and_events(storage) -> None:
    """They are those of a local run."""
    node = functions.plus(functions.number(1).set_name("one"), 1).set_name("two")
    heard = {}
    for backend, name in ((LocalWorkflow, "local"), (RayWorkflow, "ray")):
        flow = backend(node, workflow_name=name)
        flow.set_storage(storage)
        plan = [(record.name, record.action, record.reason) for record in flow.plan().nodes]
        events = []
        flow.listeners.append(lambda event, events=events: events.append(event[:1] + event[2:5]))
        flow.run()
        flow.run()
        heard[name] = plan, events
    assert heard["local"] == heard["ray"]


def test_a_config(storage, tmp_path) -> None:
    """A workflow that is made from a config returns results, as with every backend."""
    config = {
        "backend": {"kind": "ray", "options": {"maxPendingTasks": 5, "keep_going": False}},
        "storage": {"kind": "file", "options": {"path": str(tmp_path / "store")}},
    }
    flow = workflow_factory(config, functions.plus(1, 2), workflow_name="w")
    assert isinstance(flow, RayWorkflow)
    assert (5, False) == (flow.max_pending_tasks, flow.keep_going)
    assert 3 == flow.run()
    assert flow.run(return_results=False) is None
    assert ["plus_0000"] == storage.list_tasks("w")


def test_dask_arrays(each_storage) -> None:
    """Their serializer works where the nodes do, and what follows is given the lazy, stored one."""
    storage = each_storage
    node = functions.parts_and_sum(functions.lazy(1000).set_name("lazy"))
    for expected in ("computed", "reused"):
        flow = kept(storage, node)
        assert ((4,), 499500) == flow.run(return_results=True)
        assert expected == flow.report["lazy"].action
    assert storage.task_info("w", "lazy").side_data
    assert 499500 == int(storage.read_task("w", "lazy").sum().compute(scheduler="synchronous"))
    storage.remove_task("w", "parts_and_sum_0000")
    assert ((4,), 499500) == local_on(storage, node).run()


def local_on(storage, node):
    flow = LocalWorkflow(node, workflow_name="w")
    flow.set_storage(storage)
    return flow


def test_a_worker_tells_what_a_result_refers_to(storage, monkeypatch) -> None:
    """Classes and functions of the driver's script by the script's name; a digest of sets."""

    def made():
        return [Described(), {"a", "b"}]

    monkeypatch.setattr(Described, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Described", Described, raising=False)
    kept(storage, workflow(made)().set_name("t")).run()
    info = storage.task_info("w", "t")
    script = describing().keywords["script"]
    assert (f"{script}:Described",) == info.own
    assert info.value == digest_of([Described(), {"a", "b"}]).hex()


class Described:
    pass
