"""Results that expire: which stored results are too old, and what follows from that."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aging_graphs import MEANS, WORLD, Clock, Model
from result_bytes import MemoryStore, header_of, rest_of, sealed

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import OptionsError
from functionfuse.reuse import results
from functionfuse.storage import Storage, resultfile
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import key_of

GRAPHS = 1000 if os.environ.get("FUNCTIONFUSE_BATTERY") == "full" else 100
DAY = 86400.0
LATE = 300  # seconds; what takes longer hangs
TOO_OLD = "stored result is older than 1 day"

ran: list[str] = []


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(resultfile, "time", found)
    monkeypatch.setattr(results, "time", found.time)
    WORLD.clear()
    ran.clear()
    return found


@pytest.fixture
def storage() -> Storage:
    return Storage(MemoryStore())


@workflow(version="1")
def read(name: str) -> int:
    ran.append(name)
    return WORLD[name]


@workflow(version="1")
def add(name: str, *numbers: int) -> int:
    ran.append(name)
    return sum(numbers)


def source(name: str = "source") -> Any:
    return read(name).set_name(name)


def total(name: str, *numbers: Any) -> Any:
    return add(name, *numbers).set_name(name)


def bound(storage: Any, *nodes: Any, expires: Any = timedelta(days=1), of: str = "source") -> Any:
    """Return a workflow on a storage, in which one node expires."""
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    if expires is not None:
        flow.query(of).set_expires(expires)
    return flow


def done(flow: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Run as planned; return actions and reasons of the report, by name."""
    plan = {node.name: node for node in flow.plan().nodes}
    ran.clear()
    flow.run()
    report = {node.name: node for node in flow.report.nodes}
    for name, node in report.items():
        assert node.action in MEANS[plan[name].action], name
        assert (node.action == "computed") == (name in ran), name
    reasons = {name: node.reason for name, node in report.items() if node.reason}
    return {name: node.action for name, node in report.items()}, reasons


# One node.


@pytest.mark.parametrize("age", [timedelta(days=1), DAY, 86400])
def test_a_result_is_reused_until_it_is_older(storage: Storage, clock: Clock, age: Any) -> None:
    """Then it is computed, and the new result is reused as long."""
    flow = bound(storage, source(), expires=age)
    for _ in range(3):
        flow.run()
        clock.now += DAY
        assert ({"source": "reused"}, {}) == done(flow)
        clock.now += 1
        assert ({"source": "computed"}, {"source": TOO_OLD}) == done(flow)
        assert ({"source": "reused"}, {}) == done(flow)
    created = datetime.fromisoformat(storage.task_info("w", "source").created)
    assert pytest.approx(clock.now) == created.timestamp()


def test_the_reason_names_the_age(storage: Storage, clock: Clock) -> None:
    """In days, hours, minutes or seconds."""
    bound(storage, source()).run()
    clock.now += 100 * DAY
    reasons = [
        bound(storage, source(), expires=age).plan()["source"].reason
        for age in (timedelta(days=30), timedelta(minutes=90), 0.5)
    ]
    ages = "30 days", "90 minutes", "0.5 seconds"
    assert [f"stored result is older than {age}" for age in ages] == reasons


def test_the_decorator_s_age_is_replaced_by_the_query_s(storage: Storage, clock: Clock) -> None:
    """For one workflow; None there means that results don't expire."""

    @workflow(version="1", expires=timedelta(hours=1))
    def daily() -> int:
        return 1

    def action(**settings: Any) -> str:
        flow = LocalWorkflow(daily().set_name("n"), workflow_name="w")
        flow.set_storage(storage)
        for age in settings.values():
            flow.query("n").set_expires(age)
        found: str = flow.plan()["n"].action
        flow.run()
        return found

    assert "compute" == action()
    clock.now += 3601
    assert "reuse" == action(none=None)
    assert "reuse" == action(longer=7200)
    assert "compute" == action(longer=7200, shorter=60)
    clock.now += 3601
    assert "compute" == action()
    assert "reuse" == action()


@pytest.mark.parametrize("wrong", [0, -1, timedelta(0), float("nan"), float("inf"), "1d", True])
def test_what_is_no_age_is_refused(wrong: Any) -> None:
    """By the decorator and by the query."""
    with pytest.raises(OptionsError, match="more than 0 seconds, or a timedelta"):
        workflow(expires=wrong)
    with pytest.raises(OptionsError, match="more than 0 seconds, or a timedelta"):
        bound(None, source(), expires=wrong)


def test_expiry_is_not_in_the_call(clock: Clock) -> None:
    """Results that were stored without it are reused with it, and the other way round."""
    last = total("last", total("middle", source()))
    calls = []
    for expires in (None, DAY, None):
        storage = Storage(MemoryStore())
        bound(storage, last, expires=expires).run()
        calls.append([storage.task_info("w", name).call for name in ("source", "middle", "last")])
        clock.now += DAY / 2
        for other in (None, DAY):
            assert {"reused"} == set(done(bound(storage, last, expires=other))[0].values())
    assert calls[0] == calls[1] == calls[2]
    assert all(calls[0])


def changed(store: MemoryStore, name: str, created: str) -> None:
    """Let a stored result have another time in its header."""
    [(key, (data, modified))] = [
        (key, blob) for key, blob in store.blobs.items() if key == key_of("w", name)
    ]
    header = {**header_of(data), "created": created}
    store.blobs[key] = sealed(header, rest_of(data)), modified


@pytest.mark.parametrize(
    ("created", "action"),
    [
        ("2999-01-31T12:00:00.000000Z", "reuse"),
        ("2027-01-15T07:59:59Z", "reuse"),
        ("2027-01-15T07:59:59", "reuse"),
        ("2027-01-15T07:59:59+23:00", "reuse"),
        ("2027-01-14T07:59:59.999999Z", "compute"),
        ("2027-01-14T08:00:00.000000Z", "reuse"),
        ("2027-01-14T07:59:59", "compute"),
        ("2027-01-15T06:59:59+23:00", "compute"),
        ("", "compute"),
        ("yesterday", "compute"),
    ],
)
def test_the_time_in_the_header_counts(clock: Clock, created: str, action: str) -> None:
    """It is UTC. A time in the future is fresh, what is no time is too old."""
    clock.now = datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp()
    store = MemoryStore()
    flow = bound(Storage(store), source())
    flow.run()
    changed(store, "source", created)
    assert action == flow.plan()["source"].action


def test_only_headers_of_nodes_that_expire_are_parsed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others cost nothing."""
    flow = bound(storage, total("last", source(), source("other")))
    flow.run()
    seen = []

    def created_at(info: Any) -> float:
        seen.append(info.info.task)
        return 0.0

    monkeypatch.setattr(results, "created_at", created_at)
    flow.plan()
    assert ["source"] == seen


# Nodes that follow.


def test_equal_results_change_nothing(storage: Storage, clock: Clock) -> None:
    """The nodes that follow are reused; after another result, they are computed."""
    flow = bound(storage, total("last", total("middle", source())))
    flow.run()
    clock.now += 2 * DAY
    plan = flow.plan()
    assert ["source"] == plan.names("compute")
    assert "compute if 'source' changes" == plan["middle"].reason
    assert "compute if 'middle' changes" == plan["last"].reason
    actions = {"source": "computed", "middle": "reused", "last": "reused"}
    assert (actions, {"source": TOO_OLD}) == done(flow)
    clock.now += 2 * DAY
    WORLD["source"] = 7
    assert 7 == flow.run()
    assert ["source", "middle", "last"] == flow.report.names("computed")


def test_a_node_that_follows_has_an_age_of_its_own(storage: Storage, clock: Clock) -> None:
    """A young parent doesn't make it young, and it doesn't expire with its parent."""
    flow = bound(storage, total("last", source()), of="last")
    flow.run()
    clock.now += 2 * DAY
    assert ({"source": "reused", "last": "computed"}, {"last": TOO_OLD}) == done(flow)


def test_a_diamond(storage: Storage, clock: Clock) -> None:
    """Only the nodes below the one that expires are judged again."""
    top = source("top")
    nodes = total("left", source(), top), total("right", top)
    flow = bound(storage, total("last", *nodes))
    flow.run()
    clock.now += 2 * DAY
    WORLD["source"], WORLD["top"] = 1, 5
    assert 1 == flow.run()
    assert ["source", "left", "last"] == flow.report.names("computed")


def removed(storage: Storage, *names: str) -> None:
    for name in names:
        storage.remove_task("w", name)


@pytest.mark.parametrize("world", [0, 3])
def test_a_removed_result_of_a_node_that_expires(storage: Storage, world: int) -> None:
    """It is computed, whether or not a child's record would fit: its value may be another now."""
    flow = bound(storage, total("last", source()))
    flow.run()
    removed(storage, "source")
    WORLD["source"] = world
    assert "compute if 'source' changes" == flow.plan()["last"].reason
    last = "computed" if world else "reused"
    reasons = {"source": "nothing stored"} | ({"last": "parent 'source' changed"} if world else {})
    actions, why = done(flow)
    assert {"source": "computed", "last": last} == actions
    assert reasons["source"] == why["source"]
    assert world == flow.run()


def test_a_removed_result_between(storage: Storage, clock: Clock) -> None:
    """It is not needed while the one that expires is fresh."""
    flow = bound(storage, total("last", total("middle", source())))
    flow.run()
    removed(storage, "middle")
    assert {"source": "reused", "middle": "not needed", "last": "reused"} == done(flow)[0]
    clock.now += 2 * DAY
    assert {"source": "computed", "middle": "computed", "last": "reused"} == done(flow)[0]
    clock.now += 2 * DAY
    removed(storage, "middle")
    WORLD["source"] = 2
    assert {"computed"} == set(done(flow)[0].values())


def test_removed_results_are_not_known_by_their_recipes(storage: Storage) -> None:
    """Two removed nodes below one that expires are computed; its value may have been another."""
    last = total("last", total("second", total("first", source())))
    bound(storage, last, expires=None).run()  # so the recipes are in the headers
    WORLD["source"] = 4
    removed(storage, "source", "first", "second")
    bound(storage, source()).run()
    assert 4 == bound(storage, last).run()


def test_a_result_of_unknown_call_that_is_too_old(storage: Storage, clock: Clock) -> None:
    """It is computed whether its parents have changed or not, and the plan knows it."""
    inputs = total("inputs", 1)
    flow = bound(storage, total("last", inputs), of="last")
    flow.run()
    removed(storage, "inputs")
    clock.now += 2 * DAY
    assert ["inputs", "last"] == flow.plan().names("compute")
    reasons = {"inputs": "nothing stored", "last": TOO_OLD}
    assert ({"inputs": "computed", "last": "computed"}, reasons) == done(flow)
    flow = bound(Storage(MemoryStore()), total("last", source()), of="last")
    flow.log_nodes("source")
    flow.run()
    clock.now += 2 * DAY
    assert TOO_OLD == flow.plan()["last"].reason


def test_a_too_old_result_of_which_an_earlier_one_may_fit(storage: Storage, clock: Clock) -> None:
    """While its call is unknown it is maybe; then the earlier result is taken if it is fresh."""

    def flow(world: int) -> Any:
        WORLD["source"] = world
        found = bound(storage, total("last", source()), of="last")
        found.log_nodes("source")
        return found

    flow(1).run()
    clock.now += DAY / 2
    for world in (2, 1):  # the first result is the latest again
        flow(world).run()
    clock.now += DAY * 3 / 4
    assert "compute unless an earlier result fits" == flow(2).plan()["last"].reason
    for world, action, reason in ((2, "reused", "an earlier result"), (1, "computed", TOO_OLD)):
        actions, reasons = done(flow(world))
        assert (action, reason) == (actions["last"], reasons["last"])


# Policies.


def test_always_is_until_it_is_too_old(storage: Storage, clock: Clock) -> None:
    """What follows is computed from the new result."""
    flow = bound(storage, total("last", source()))
    flow.query("source").set_reuse("always")
    WORLD["source"] = 1
    flow.run()
    WORLD["source"] = 2
    clock.now += DAY / 2
    assert {"source": "reused", "last": "reused"} == done(flow)[0]
    clock.now += DAY
    actions, reasons = done(flow)
    assert {"source": "computed", "last": "computed"} == actions
    assert {"source": TOO_OLD, "last": "parent 'source' changed"} == reasons
    assert {"source": "reused", "last": "reused"} == done(flow)[0]


def test_what_always_reuses_does_not_need_a_parent(storage: Storage, clock: Clock) -> None:
    """The parent that expired is not computed; the report says so."""
    flow = bound(storage, total("last", source()))
    flow.query("last").set_reuse("always")
    flow.run()
    clock.now += 2 * DAY
    reasons = {"source": f"an older result stays: {TOO_OLD}"}
    assert ({"source": "not needed", "last": "reused"}, reasons) == done(flow)


def test_a_result_that_stood_no_longer_stands(storage: Storage, clock: Clock) -> None:
    """A record of what was made from it is not valid, because it will be another value."""
    top = source()
    bound(storage, top).run()
    last = total("last", total("second", total("first", top)))
    flow = bound(storage, last)
    flow.query("source").set_reuse("always")
    assert 0 == flow.run()
    assert ["source"] == flow.report.names("reused")
    removed(storage, "first", "second")
    clock.now += 2 * DAY
    WORLD["source"] = 4
    assert 4 == flow.run()


def test_never_and_log_nodes_stay_what_they_are(storage: Storage, clock: Clock) -> None:
    """They are computed anyway, for their own reasons."""
    flow = bound(storage, source(), source("logged"), of=".*")
    flow.query("source").set_reuse("never")
    flow.log_nodes("logged")
    flow.run()
    clock.now += 2 * DAY
    reasons = {"source": "is never reused", "logged": "runs always, and is not stored"}
    assert ({"source": "computed", "logged": "computed"}, reasons) == done(flow)


# Going back.


def test_an_earlier_result_expires_as_well(storage: Storage, clock: Clock) -> None:
    """One that is fresh is reused, and keeps its age; one that isn't is computed."""

    def flow(number: int) -> Any:
        return bound(storage, total("n", number), of="n")

    flow(1).run()
    clock.now += DAY / 2
    flow(2).run()
    clock.now += DAY / 4
    assert ({"n": "reused"}, {"n": "an earlier result"}) == done(flow(1))
    clock.now += DAY / 2  # the first is 5/4 of a day old, the second 3/4
    assert ({"n": "computed"}, {"n": TOO_OLD}) == done(flow(1))
    assert ({"n": "reused"}, {"n": "an earlier result"}) == done(flow(2))
    clock.now += DAY / 2
    assert ({"n": "reused"}, {"n": "an earlier result"}) == done(flow(1))
    assert ({"n": "computed"}, {"n": TOO_OLD}) == done(flow(2))
    clock.now += 2 * DAY
    reason = "argument '*0' changed (2 → 3)"
    assert {"n": reason} == done(flow(3))[1]


# Objects of decorated classes.


@workflow(version="1")
class Client:
    def __init__(self) -> None:
        self.data = 0

    def load(self) -> int:
        ran.append("load")
        self.data = WORLD["load"]
        return self.data

    def count(self) -> int:
        ran.append("count")
        return self.data

    def close(self) -> int:
        ran.append("close")
        return 0


def client(storage: Storage, of: str = "load", expires: Any = DAY) -> Any:
    made = Client()
    nodes = [getattr(made, name)().set_name(name) for name in ("load", "count", "close")]
    return bound(storage, *nodes, expires=expires, of=of)


def actions_of(flow: Any) -> list[str]:
    plan, values = flow.plan(), flow.run()
    assert WORLD["load"] == values[0]
    names = "load", "count", "close"
    planned = [plan[name].action for name in names]
    assert ["compute" if name in ran else "reuse" for name in names] == planned
    ran.clear()
    return [flow.report[name].action for name in names]


def test_calls_on_an_object_expire_with_an_earlier_call(storage: Storage, clock: Clock) -> None:
    """Their results are of the object that it left; the calls before it are only repeated."""
    flow = client(storage)
    flow.run()
    ran.clear()
    assert ["reused"] * 3 == actions_of(flow)
    clock.now += 2 * DAY
    WORLD["load"] = 5
    assert ["computed"] * 3 == actions_of(flow)
    assert [5, 5, 0] == flow.run()
    clock.now += 2 * DAY
    ran.clear()
    flow = client(storage, of="count")
    plan = flow.plan()
    assert "replayed for a later call on its object" == plan["load"].reason
    assert [TOO_OLD] * 2 == [plan[name].reason for name in ("count", "close")]
    created = storage.task_info("w", "load").created
    assert ["computed"] * 3 == actions_of(flow)
    assert created == storage.task_info("w", "load").created


def test_the_shortest_age_of_the_calls_before_counts(storage: Storage, clock: Clock) -> None:
    """A later call may have a shorter one, but no longer one."""
    flow = client(storage, of="load|close", expires=2 * DAY)
    flow.query("count").set_expires(DAY)
    flow.query("close").set_expires(3 * DAY)
    flow.run()
    clock.now += 1.5 * DAY
    plan = flow.plan()
    assert [TOO_OLD] * 2 == [plan[name].reason for name in ("count", "close")]
    assert "replayed for a later call on its object" == plan["load"].reason


def test_a_class_whose_objects_calls_expire(storage: Storage, clock: Clock) -> None:
    """The decorator's age is that of all calls."""

    @workflow(expires=DAY)
    class Counter:
        def count(self) -> int:
            return 1

    flow = LocalWorkflow(Counter().count().set_name("n"), workflow_name="w")
    flow.set_storage(storage)
    flow.run()
    assert "reuse" == flow.plan()["n"].action
    clock.now += 2 * DAY
    assert TOO_OLD == flow.plan()["n"].reason
    flow.run()
    assert "reuse" == flow.plan()["n"].action


# Several runs, and other storages.


@pytest.mark.parametrize("pause", [0.0, DAY])
def test_who_waits_takes_a_new_result(
    tmp_path: Path, clock: Clock, waited: threading.Event, pause: float
) -> None:
    """The one that is too old is still stored when a run begins to wait for another run's."""
    storage, entered = FileStorage(tmp_path), threading.Event()
    number = 0

    @workflow(version="1", expires=DAY)
    def slow() -> int:
        if number:
            entered.set()
            assert waited.wait(LATE)
            clock.now += pause
        return number

    def run() -> tuple[int, str]:
        local = LocalWorkflow(slow().set_name("t"), workflow_name="w")
        local.set_storage(storage)
        found = local.run(single_flight=True)
        assert local.report is not None
        return found, local.report["t"].action

    assert (0, "computed") == run()
    clock.now += 2 * DAY
    number = 1
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run)
        assert entered.wait(LATE)
        second = pool.submit(run)
        try:
            assert (1, "reused") == second.result()
        finally:
            waited.set()
        assert (1, "computed") == first.result()


def test_a_run_alone_does_not_take_its_old_result(storage: Storage, clock: Clock) -> None:
    """With single flight, it looks for a result before it computes, and finds the old one."""
    flow = bound(storage, source())
    assert 0 == flow.run(single_flight=True)
    WORLD["source"] = 1
    clock.now += 2 * DAY
    assert 1 == flow.run(single_flight=True)
    assert ["source"] == flow.report.names("computed")


class Shelf:
    """The four members that a storage must have."""

    always_read = False

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def new_workflow(self, workflow_name: str) -> None:
        pass

    def save(self, workflow_name: str, task_name: str, result: Any) -> None:
        self.held[task_name] = result

    def read_task(self, workflow_name: str, task_name: str) -> Any:
        if task_name not in self.held:
            raise FileNotFoundError(task_name)
        return self.held[task_name]


def test_without_headers_each_run_computes() -> None:
    """Nodes that expire, and those that follow, except for those that are always reused."""
    storage = Shelf()
    nodes = total("last", total("middle", source(), source("other")))
    flow = bound(storage, nodes)
    assert 0 == flow.run()
    for number in (1, 2):
        WORLD["source"] = number
        ran.clear()
        assert number == flow.run()
        assert ["source", "middle", "last"] == ran
    flow.query("middle").set_reuse("always")
    WORLD["source"] = 3
    assert 2 == flow.run()
    flow = bound(storage, nodes, expires=None)
    ran.clear()
    assert 2 == flow.run()
    assert [] == ran


# Random graphs; see `importable/aging_graphs.py`.


def test_random_graphs(clock: Clock) -> None:
    """A node is computed if no stored result fits and is fresh, and only then."""
    seen: Counter[str] = Counter()
    for seed in range(GRAPHS):
        WORLD.clear()
        model = Model(random.Random(seed), clock)
        for step in range(8):
            model.change()
            model.check(f"seed {seed}, step {step}", seen)
    kinds = "computed", "reused", "not needed", "too old", "went back"
    assert min(seen[kind] for kind in kinds) > 20, seen
