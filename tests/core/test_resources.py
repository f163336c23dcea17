"""Nodes that need resources: `set_resources`, and how much of them a run has."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from executors import Toy, processes

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import NodeTimeoutError, OptionsError
from functionfuse.run.order import Resources
from functionfuse.storage.filestorage import FileStorage


class Meter:
    """Measures how much of each resource the nodes have at the same time."""

    def __init__(self) -> None:
        self.lock, self.most, self.now = threading.Lock(), Counter[str](), Counter[str]()
        self.order: list[int] = []

    @contextmanager
    def uses(self, need: dict[str, float]) -> Any:
        with self.lock:
            self.now.update(need)
            self.most |= self.now
        time.sleep(0.001)
        yield
        with self.lock:
            self.now.subtract(need)

    def step(self, number: int, need: dict[str, float], *after: Any) -> int:
        with self.uses(need):
            self.order.append(number)
            return number


def flow_of(*nodes: Any) -> LocalWorkflow:
    return LocalWorkflow(*nodes, workflow_name="w")


def metered(needs: list[dict[str, float]], meter: Meter) -> LocalWorkflow:
    """Return a workflow of nodes with these needs."""
    step = workflow(version="1")(meter.step)
    nodes = [step(number, need).set_name(f"n{number}") for number, need in enumerate(needs)]
    flow = flow_of(*nodes)
    for number, need in enumerate(needs):
        flow.query(f"n{number}").set_resources(**need)
    return flow


def test_one_gpu_is_used_by_one_node_at_a_time() -> None:
    """However many threads there are; nodes that need none go on meanwhile."""
    meter = Meter()
    flow = metered([{"gpu": 1}, {"cpu": 1}] * 20, meter)
    with ThreadPoolExecutor(4) as pool:
        assert list(range(40)) == flow.run(pool, resources={"gpu": 1, "cpu": 2})
    assert {"gpu": 1, "cpu": 2} == meter.most
    gpus = [number for number in meter.order if number % 2 == 0]
    assert sorted(gpus) == gpus


def test_what_needs_nothing_does_not_wait() -> None:
    """A node has the resource until another, which needs none, has run."""
    ran = threading.Event()
    first = workflow(version="1")(ran.wait)(20).set_name("gpu")
    second = workflow(version="1")(lambda: True)().set_name("gpu too")
    third = workflow(version="1")(ran.set)().set_name("other")
    flow = flow_of(first, second, third)
    flow.query("gpu.*").set_resources(gpu=1)
    with ThreadPoolExecutor(2) as pool:
        assert [True, True, None] == flow.run(pool, resources={"gpu": 1})


@pytest.mark.parametrize("seed", range(10))
def test_never_more_than_there_is(seed: int) -> None:
    """Of several resources, in any amounts; and all is computed."""
    rng, meter = Random(seed), Meter()
    there = {"gpu": rng.choice([1, 2, 4]), "memory": rng.choice([1.0, 8.0, 10]), "api": 3}
    needs = [
        {
            name: rng.choice([0.1, 0.25, 0.3, 1]) * total
            for name, total in there.items()
            if rng.random() < 0.6
        }
        for _ in range(40)
    ]
    flow = metered(needs, meter)
    with ThreadPoolExecutor(6) as pool:
        assert list(range(40)) == flow.run(pool, resources=there)
    for name, total in there.items():
        assert meter.most[name] <= total + 1e-6


def together(needs: list[float], there: float) -> int:
    """Return how many nodes hold their resources at once."""
    names = [f"n{number}" for number in range(len(needs))]
    resources = Resources({"x": there}, {n: {"x": need} for n, need in enumerate(needs)}, names)
    resources.check(range(len(needs)))
    return sum(resources.take(index) for index in range(len(needs)))


@pytest.mark.parametrize(
    ("need", "there", "expected"),
    [
        (0.1, 1, 10),
        (0.1, 0.3, 3),
        (0.1, 0.99, 9),
        (1 / 3, 1, 3),
        (0.7, 2.1, 3),
        (0.3, 1, 3),
        (1, 0.5, None),
    ],
)
def test_fractions(need: float, there: float, expected: int | None) -> None:
    """Three times 0.1 is 0.3, though it isn't in binary numbers."""
    if expected is None:
        with pytest.raises(OptionsError):
            together([need], there)
    else:
        assert expected == together([need] * 12, there)


@pytest.mark.parametrize("there", [1, 7, 64e9, 1e15])
def test_rounding_never_keeps_what_is_free(there: float) -> None:
    """After many nodes that had some of it, one that needs all of it gets it."""
    rng = Random(1)
    needs = [there * rng.random() for _ in range(2000)] + [there]
    names = [str(number) for number in range(2001)]
    resources = Resources({"x": there}, {n: {"x": need} for n, need in enumerate(needs)}, names)
    running: list[int] = []
    for index in range(2000):
        while not resources.take(index):
            resources.give_back(running.pop(rng.randrange(len(running))))
        running.append(index)
    for index in running:
        resources.give_back(index)
    assert resources.take(2000)


def test_the_first_in_the_graph_goes_first() -> None:
    """Of those that fit: one that needs much does not keep the others waiting."""
    queued: list[str] = []
    all_waited = threading.Event()

    def listen(event: Any) -> None:
        if event.kind == "queued":
            queued.append(event.node)
            if event.node == "n5":
                all_waited.set()

    step = workflow(version="1")(lambda _: all_waited.wait(20))
    flow = flow_of(*[step(number).set_name(f"n{number}") for number in range(6)])
    for number, amount in enumerate([2, 3, 1, 3, 1]):
        flow.query(f"n{number}").set_resources(x=amount)
    flow.listeners.append(listen)
    with ThreadPoolExecutor(1) as pool:
        assert [True] * 6 == flow.run(pool, resources={"x": 3})
    assert ["n0", "n2", "n5", "n4", "n1", "n3"] == queued


@pytest.mark.parametrize("kind", ["none", "toy", "threads"])
@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "node 'n1' needs gpu=2, and there is none; the resources are: none"),
        ({"cpu": 4}, "node 'n1' needs gpu=2, and there is none; the resources are: cpu=4"),
        ({"gpu": 1, "cpu": 4}, "node 'n1' needs gpu=2, and there is 1; the resources are: gpu=1"),
        ({"gpu": 0}, "node 'n1' needs gpu=2, and there is 0"),
    ],
)
def test_what_there_is_not_is_an_error_before_anything_runs(
    kind: str, there: dict[str, float], said: str
) -> None:
    meter = Meter()
    flow = metered([{}, {"gpu": 2}], meter)
    events: list[Any] = []
    flow.listeners.append(events.append)
    executor = {"none": None, "toy": Toy(), "threads": ThreadPoolExecutor(1)}[kind]
    with pytest.raises(OptionsError) as caught:
        flow.run(executor, resources=there)
    assert said in str(caught.value)
    assert ([], []) == (meter.order, events)
    assert [0, 1] == flow.run(executor)  # without resources, there are no limits
    flow.query("n1").set_resources()
    assert [0, 1] == flow.run(executor, resources=there)
    if kind == "threads":
        executor.shutdown()


def test_only_what_runs_needs_resources(tmp_path: Any) -> None:
    """A stored result needs none."""
    meter = Meter()
    flow = metered([{"gpu": 1}], meter)
    flow.set_storage(FileStorage(tmp_path))
    assert 0 == flow.run(resources={"gpu": 1})
    assert 0 == flow.run(resources={})
    assert [0] == meter.order


def test_a_damaged_result_needs_its_resources(tmp_path: Any) -> None:
    """When it is computed again after all, also if it needs more than there is."""
    meter = Meter()
    flow = metered([{"gpu": 1}], meter)
    flow.set_storage(FileStorage(tmp_path))
    flow.run(resources={"gpu": 1})
    path = tmp_path / "w" / "n0"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(OptionsError, match="needs gpu=1, and there is none"):
        flow.run(resources={})
    assert 0 == flow.run(resources={"gpu": 1})


@pytest.mark.parametrize("kind", ["none", "toy", "threads"])
def test_resources_are_free_again_after_a_failure_and_a_retry(kind: str) -> None:
    """Also while the node waits for its next attempt."""
    meter = Meter()
    tried: list[str] = []

    def act(name: str) -> str:
        tried.append(name)
        with meter.uses({"gpu": 1}):
            pass
        if name == "fails" or (name == "flaky" and tried.count("flaky") < 3):
            raise ConnectionError(name)
        return name

    node = workflow(version="1")(act)
    flow = flow_of(*[node(name).set_name(name) for name in ("flaky", "fails", "third", "last")])
    flow.query(None).set_resources(gpu=1)
    flow.query("flaky").set_retries(2, delay=0.3)
    executor = {"none": None, "toy": Toy(), "threads": ThreadPoolExecutor(3)}[kind]
    with pytest.raises(ConnectionError, match="fails"):
        flow.run(executor, keep_going=True, resources={"gpu": 1})
    assert ["flaky", "fails", "third", "last", "flaky", "flaky"] == tried
    assert 1 == meter.most["gpu"]
    assert "computed" == flow.report["flaky"].action
    if kind == "threads":
        executor.shutdown()


def test_resources_are_free_again_after_a_timeout() -> None:
    """In a process."""
    slow = workflow(version="1", timeout=0.05)(time.sleep)(30).set_name("slow")
    later = workflow(version="1")(abs)(-1).set_name("later")
    flow = flow_of(slow, later)
    flow.query(None).set_resources(gpu=1)
    with processes(1) as pool, pytest.raises(NodeTimeoutError):
        flow.run(pool, keep_going=True, resources={"gpu": 1})
    assert "computed" == flow.report["later"].action
    with pytest.raises(NodeTimeoutError):
        flow.run(keep_going=True, resources={"gpu": 1})
    assert "computed" == flow.report["later"].action


def test_a_node_whose_submission_fails_frees_its_resources() -> None:
    """Such as one with an argument that can't be pickled."""

    class Refusing(Toy):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.submitted == 0:
                self.submitted += 1
                raise TypeError("can't be pickled")
            return super().submit(fn)

    flow = metered([{"gpu": 1}, {"gpu": 1}], Meter())
    with pytest.raises(TypeError, match="pickled"):
        flow.run(Refusing(), keep_going=True, resources={"gpu": 1})
    assert ["failed", "computed"] == [record.action for record in flow.report.nodes]


def test_followers_of_a_failure_do_not_wait_for_resources() -> None:
    """The run ends, with nodes that will never run."""
    fails = workflow(version="1")(bytes.fromhex)("no").set_name("fails")
    step = workflow(version="1")(lambda *_: 1)
    flow = flow_of(step(fails).set_name("a"), step().set_name("b"), step(fails).set_name("c"))
    flow.query(None).set_resources(gpu=1)
    for executor in (None, Toy()):
        with pytest.raises(ValueError, match="non-hexadecimal"):
            flow.run(executor, keep_going=True, resources={"gpu": 1})
        assert ["failed", "not run", "computed", "not run"] == [
            flow.report[name].action for name in ("fails", "a", "b", "c")
        ]


def counted_comparisons(count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a run of nodes that wait for one resource asks whether one fits."""
    calls = 0

    class Counting(Resources):
        def _fits(self, need: Any) -> bool:
            nonlocal calls
            calls += 1
            return super()._fits(need)

    monkeypatch.setattr("functionfuse.run.run.Resources", Counting)
    all_wait = threading.Event()
    step = workflow(version="1")(lambda _: all_wait.wait(60))
    flow = flow_of(*[step(number).set_name(f"n{number}") for number in range(count)], step(-1))
    flow.query("n.*").set_resources(api=1)
    flow.listeners.append(lambda e: all_wait.set() if e.node_index == count else None)
    with ThreadPoolExecutor(1) as pool:
        assert [True] * (count + 1) == flow.run(pool, resources={"api": 1})
    return calls


def test_many_nodes_that_wait_for_one_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run does for each doesn't grow with their number."""
    few, many = (counted_comparisons(count, monkeypatch) for count in (500, 2500))
    assert few > 500
    assert many / 2500 < 1.1 * few / 500


# Settings.


@pytest.mark.parametrize("wrong", [0, -1, "1", True, None, float("inf"), float("nan"), [1]])
def test_an_amount_that_is_none(wrong: Any) -> None:
    flow = metered([{}], Meter())
    with pytest.raises(OptionsError, match="set_resources: 'gpu' is a number above 0, not"):
        flow.query("n0").set_resources(gpu=wrong)
    assert 0 == flow.run(resources={})


@pytest.mark.parametrize("wrong", [-1, "1", True, None, float("inf"), float("nan"), [1]])
def test_a_run_with_an_amount_that_is_none(wrong: Any) -> None:
    flow = metered([{"gpu": 1}], Meter())
    with pytest.raises(OptionsError, match="the resources of a run: 'gpu' is a number from 0, not"):
        flow.run(resources={"gpu": wrong})


def test_later_settings_replace_earlier_ones() -> None:
    flow = metered([{"gpu": 5}, {"gpu": 5}], Meter())
    flow.query(None).set_resources(api=1)
    assert [0, 1] == flow.run(resources={"api": 1})
    flow.query("n1").set_resources()
    with pytest.raises(OptionsError, match="'n0' needs api=1"):
        flow.run(resources={})
    flow.query("n0").set_resources()
    assert [0, 1] == flow.run(resources={})


@pytest.mark.parametrize("wrong", [3, ["gpu"], "gpu"])
def test_resources_that_are_no_mapping(wrong: Any) -> None:
    flow = flow_of(workflow(lambda: 1)().set_name("n"))
    flow.query("n").set_resources(gpu=1)
    with pytest.raises(OptionsError, match="a mapping such as"):
        flow.run(resources=wrong)
