"""The contract of backends: the scheduler's part, on backends that answer in any order."""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from any_order import AnyOrder, Handle
from recorded import Calls

from functionfuse import workflow
from functionfuse.backends import Outcome, Started, unpack
from functionfuse.backends.builtin.inplace import InProcess
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import GraphError, PluginError, WorkerDiedError
from functionfuse.run.packing import pack
from functionfuse.run.run import Run
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

ran = Calls()


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@workflow
class Tally:
    """Adds up."""

    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, number: int, name: str) -> int:
        ran.append(name)
        if number % 11 == 10:
            raise LookupError(name)
        self.total += number
        return self.total


@workflow
def step(number: int, name: str, *more: int) -> int:
    ran.append(name)
    if number % 7 == 6:
        raise LookupError(name)
    return number + sum(more)


def graph(rng: random.Random, count: int, failing: float) -> list[Any]:
    """Return nodes of a random graph, and of objects in it."""
    nodes: list[Any] = []
    tallies = [Tally(1), Tally(2)]
    for index in range(count):
        name = f"n{index:02}"
        parents = rng.sample(nodes, min(len(nodes), rng.randint(0, 3)))
        fails = rng.random() < failing
        if rng.random() < 0.3:
            number = 10 if fails else (parents or [3])[0]
            node = rng.choice(tallies).add(number, name)
        else:
            node = step(6 if fails else 1, name, *parents)
        nodes.append(node.set_name(name))
    return nodes


def expected(nodes: list[Any]) -> dict[str, Any]:
    """Compute the nodes by hand; None for those that fail."""
    values: dict[str, Any] = {}
    totals: dict[Any, int] = {}
    for node in nodes:
        parents = {parent: values.get(parent.name) for parent in node.needs}
        given = [parents.get(arg, arg) for arg in node.args]
        before = getattr(node, "before", None)
        broken = before is not None and values.get(before.name, 0) is None
        if None in parents.values() or broken:
            values[node.name] = None
        elif before is not None:
            made = node.constructor
            total = totals.get(made, made.args[0])
            values[node.name] = None if given[0] % 11 == 10 else total + given[0]
            totals[made] = total + given[0]
        else:
            values[node.name] = None if given[0] % 7 == 6 else given[0] + sum(given[2:])
    return values


@pytest.mark.battery
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("seed", range(1000 if FULL else 40))
def test_outcomes_in_any_order(seed: int, stored: bool, tmp_path: Any) -> None:
    """All that doesn't follow a failed node is computed once; the first error is raised."""
    rng = random.Random(seed)
    nodes = graph(rng, rng.randint(1, 25), rng.choice([0, 0.1, 0.3]))
    values = expected(nodes)
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(tmp_path) if stored else None)
    limit = rng.choice([0, 1, 3])
    backend = AnyOrder(rng, limit)
    run = Run(flow, backend, keep_going=True)
    events: list[tuple[str, int]] = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node_index)))
    if None not in values.values():
        assert [values[node.name] for node in nodes] == run.run()
    else:
        with pytest.raises(LookupError, match=r"^n\d") as raised:
            run.run()
    actions = {record.name: record.action for record in flow.report.nodes}
    computed = {name for name, value in values.items() if value is not None}
    assert computed == {name for name, action in actions.items() if action == "computed"} & {
        *values
    }
    failed = sorted(name for name, action in actions.items() if action == "failed")
    assert sorted([*computed, *failed]) == sorted(ran)
    if failed:
        assert failed[0] == raised.value.args[0]
        assert f"in node {failed[0]!r} of workflow 'w'" in "\n".join(raised.value.__notes__)
        assert {*values} - computed - {*failed} == {
            name for name, action in actions.items() if action == "not run"
        }
    assert not limit or backend.most <= limit
    started = [index for kind, index in events if kind == "started"]
    assert sorted(set(started)) == sorted(started)
    for place, (kind, index) in enumerate(events):
        if kind == "finished":
            assert ("started", index) in events[:place]
    if stored:
        assert sorted(computed) == flow.storage.list_tasks("w")
        for name in rng.sample(sorted(computed), len(computed) // 2):
            flow.storage.remove_task("w", name)
        if not failed:
            backend = AnyOrder(rng, limit)
            events.clear()
            again = Run(flow, backend).run()
            assert [values[node.name] for node in nodes] == again
            assert not limit or backend.most <= limit
            started = [index for kind, index in events if kind == "started"]
            records = enumerate(flow.report.nodes)
            computed_now = [index for index, record in records if record.action == "computed"]
            assert computed_now == sorted(started)


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(300 if FULL else 8))
def test_a_backend_that_dies(seed: int, tmp_path: Any) -> None:
    """Its error ends the run, and the report says what the storage has; then all is computed."""
    rng = random.Random(seed)
    nodes = graph(rng, 20, 0)
    while None in (values := expected(nodes)).values():  # a number can be one that fails
        nodes = graph(rng, 20, 0)
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    backend = AnyOrder(rng, 4, dies=rng.randint(1, 15))
    with pytest.raises(WorkerDiedError, match="the cluster is gone"):
        flow.run(backend)
    actions = {record.name: record.action for record in flow.report.nodes}
    computed = {name for name, action in actions.items() if action == "computed"}
    assert computed & {*values} == {*flow.storage.list_tasks("w")} - set(
        flow.report.names("reused")
    )
    assert [values[node.name] for node in nodes] == flow.run(AnyOrder(rng))


def test_a_node_runs_ahead_but_no_call_on_an_object() -> None:
    """It goes to the backend with the handles of its parents; a call waits for the one before."""
    submitted: list[str] = []

    class Noting(AnyOrder):
        def submit(self, job: Any) -> Handle:
            submitted.append(job.name)
            assert len(submitted) < 100
            return super().submit(job)

        def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
            submitted.append("wait" if timeout is None else "")
            return [] if timeout == 0 else super().wait(timeout)

    one = step(1, "one").set_name("one")
    two = step(1, "two", one).set_name("two")
    tally = Tally(1).set_name("tally")
    first = tally.add(two, "first").set_name("first")
    last = tally.add(1, "last").set_name("last")
    flow = LocalWorkflow(first, last, workflow_name="w")
    assert [3, 4] == flow.run(Noting(random.Random(1)))
    kept = [name for name in submitted if name]
    assert kept[:4] == ["one", "two", "tally", "wait"]
    assert kept.index("first") < kept.index("last")
    assert "wait" in kept[kept.index("first") : kept.index("last")]


def test_a_copy_of_a_packed_value_shares_no_memory() -> None:
    """Unless the buffer is read-only, as shared memory is: then the array is read-only."""
    array = np.ones(1 << 16)
    packed = pack(array)
    copy = unpack(packed)
    copy[0] = 5
    assert 1 == array[0]
    assert 1 == unpack(packed)[0]
    array.flags.writeable = False
    shared = unpack(pack(array))
    assert np.shares_memory(shared, array)
    assert not shared.flags.writeable


class Silent(InProcess):
    """Never says that it is done."""

    def wait(self, timeout: float | None) -> Sequence[Outcome]:
        return ()


class Unknown(InProcess):
    """Tells of a job that it never had."""

    def wait(self, timeout: float | None) -> Sequence[Outcome]:
        return [Outcome(99)]


@pytest.mark.parametrize(
    ("backend", "said"), [(Silent, "no news of nodes"), (Unknown, "outcome of job 99")]
)
def test_a_backend_that_breaks_the_rules(backend: type, said: str) -> None:
    """It is named, and the run ends."""
    flow = LocalWorkflow(step(1, "one"), workflow_name="w")
    with pytest.raises(PluginError, match=said):
        flow.run(backend())


def test_what_submit_raises_is_the_error_of_the_node(tmp_path: Any) -> None:
    """Such as an argument that can't be pickled."""

    class Refuses(AnyOrder):
        def submit(self, job: Any) -> Handle:
            if job.name == "bad":
                raise TypeError("cannot pickle it")
            return super().submit(job)

    bad = step(1, "bad").set_name("bad")
    flow = LocalWorkflow(
        bad, step(1, "after", bad), step(1, "fine").set_name("fine"), workflow_name="w"
    )
    with pytest.raises(TypeError, match="cannot pickle") as raised:
        Run(flow, Refuses(random.Random(1)), keep_going=True).run()
    assert "in node 'bad'" in "\n".join(raised.value.__notes__)
    assert ["failed", "not run", "computed"] == [record.action for record in flow.report.nodes]


def test_settings_of_a_node_reach_its_job() -> None:
    """A workflow's `options` are the backend's to read."""
    seen = {}

    class Reading(InProcess):
        def submit(self, job: Any) -> None:
            seen[job.name] = job.options
            super().submit(job)

    one = step(1, "one").set_name("one")
    flow = LocalWorkflow(one, step(1, "two").set_name("two"), workflow_name="w")
    flow.options[one] = {"queue": "big"}
    flow.run(Reading())
    assert {"one": {"queue": "big"}, "two": None} == seen


@pytest.mark.parametrize("stored", [False, True])
def test_a_backend_that_keeps_values_in_this_process(stored: bool, tmp_path: Any) -> None:
    """A node has started when it is submitted, once."""

    class Here(AnyOrder):
        remote = False

    one = step(1, "one").set_name("one")
    flow = LocalWorkflow(step(1, "two", one).set_name("two"), workflow_name="w")
    flow.set_storage(FileStorage(tmp_path) if stored else None)
    events = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node)))
    assert 2 == flow.run(Here(random.Random(1)))
    assert ["one", "two"] == [node for kind, node in events if kind == "started"]


def test_a_load_that_starts_is_no_event(tmp_path: Any) -> None:
    """A backend says that it runs, while the last node of the graph waits for its turn."""

    class InOrder(AnyOrder):
        def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
            while timeout is None and self.waiting:
                self.rng.choice = lambda ready: ready[0]  # type: ignore[method-assign]
                self.run()
            told_now, self.news = self.news, []
            return told_now

    one = step(1, "one").set_name("one")
    flow = LocalWorkflow(step(1, "two", one).set_name("two"), step(1, "three"), workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.run()
    for name in set(flow.storage.list_tasks("w")) - {"one"}:
        flow.storage.remove_task("w", name)
    events = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node_index)))
    flow.run(InOrder(random.Random(1)))
    assert [1, 2] == sorted(index for kind, index in events if kind == "started")


def test_a_load_that_submit_refuses(tmp_path: Any) -> None:
    """It is the error of the node that needs the value; what doesn't need it is computed."""

    class RefusesLoads(AnyOrder):
        def submit(self, job: Any) -> Handle:
            if job.load is not None:
                raise OSError("no way to read here")
            return super().submit(job)

    def made() -> LocalWorkflow:
        one = step(1, "one").set_name("one")
        other = step(1, "other").set_name("other")
        flow = LocalWorkflow(step(1, "two", one).set_name("two"), other, workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        return flow

    made().run()
    for name in ("two", "other"):
        made().storage.remove_task("w", name)
    flow = made()
    with pytest.raises(OSError, match="no way to read") as raised:
        Run(flow, RefusesLoads(random.Random(1)), keep_going=True).run()
    assert "in node 'two'" in "\n".join(raised.value.__notes__)
    actions = {record.name: record.action for record in flow.report.nodes}
    assert {"one": "reused", "two": "failed", "other": "computed"} == actions


def test_a_report_holds_no_values_of_a_run_that_failed() -> None:
    """The traceback of an error does, and the report lives as long as the workflow."""

    class Big:
        pass

    made = []

    @workflow
    def make() -> Big:
        big = Big()
        made.append(weakref.ref(big))
        return big

    @workflow
    def fail(value: Big) -> None:
        raise LookupError("gone")

    flow = LocalWorkflow(fail(make()).set_name("wrong"), workflow_name="w")
    with pytest.raises(LookupError):
        flow.run()
    gc.collect()
    assert [None] == [reference() for reference in made]
    assert "LookupError: gone" == flow.report["wrong"].reason


def test_an_error_whose_text_raises() -> None:
    """It is raised as it is, and the report has its type."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @workflow
    def fail() -> None:
        error = Unspeakable()
        error.lock = threading.Lock()  # type: ignore[attr-defined]  # it can't be pickled
        raise error

    for executor in (None, ThreadPoolExecutor(1)):
        flow = LocalWorkflow(fail().set_name("wrong"), workflow_name="w")
        with pytest.raises(Unspeakable):
            flow.run(executor)
        assert "Unspeakable" == flow.report["wrong"].reason
    flow = LocalWorkflow(fail().set_name("wrong"), workflow_name="w")
    with pytest.raises(RuntimeError, match=r"^Unspeakable\n"):  # it had to cross
        flow.run(AnyOrder(random.Random(1)))


def test_what_is_almost_a_backend() -> None:
    """Its missing member is named."""

    class Almost:
        remote = keeps = False
        submit = wait = cancel = fetch = print

    with pytest.raises(GraphError, match="is no backend: it has no limit"):
        LocalWorkflow(step(1, "one"), workflow_name="w").run(Almost())


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(300 if FULL else 20))
def test_an_object_that_is_made_again_while_a_call_on_it_runs(seed: int, tmp_path: Any) -> None:
    """The running call and those after it stay on the first object, whatever the replay does."""

    def made(fourth: int, other: int) -> LocalWorkflow:
        tally = Tally(0)
        numbers = [1, 2, 4, fourth, 16, 33]
        calls = [tally.add(each, f"m{at}").set_name(f"m{at}") for at, each in enumerate(numbers, 1)]
        last = step(other, "x", calls[1]).set_name("x")
        flow = LocalWorkflow(calls[4], calls[5], last, workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        return flow

    made(8, 0).run()
    path = tmp_path / "w" / "m2"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    expected = [123, 156, 4]
    assert expected == made(100, 1).run(AnyOrder(random.Random(seed)))
    assert expected == made(100, 1).run()


def test_errors_that_wait_for_many_parents_are_looked_at_once() -> None:
    """Each parent of such a node is looked at once, and not again whenever another one ends."""
    count = 500

    class FailsFirst(InProcess):
        remote = keeps = True
        limit = 0

        def __init__(self) -> None:
            super().__init__()
            self.keys: list[int] = []

        def submit(self, job: Any) -> Handle:
            self.keys.append(job.key)
            return Handle()

        def wait(self, timeout: float | None) -> Sequence[Outcome]:
            if timeout == 0:
                return []
            failed, self.keys = self.keys[count - 1 :], self.keys[: count - 1]
            if not failed:
                return [Outcome(key) for key in self.keys]
            return [Outcome.of_error(key, LookupError("gone")) for key in failed]

    parents = [step(1, "parent") for _ in range(count)]
    flow = LocalWorkflow(step(1, "child", *parents), workflow_name="w")
    run = Run(flow, FailsFirst(), keep_going=True)
    looked = 0

    class Counted(tuple[int, ...]):
        __slots__ = ()

        def __iter__(self) -> Any:
            nonlocal looked
            for each in tuple.__iter__(self):
                looked += 1
                yield each

    children = run._graph.parents
    children[count] = Counted(children[count])
    with pytest.raises(LookupError, match="gone"):
        run.run()
    assert looked < 6 * count


def test_a_listener_that_raises_loses_no_outcome(tmp_path: Any) -> None:
    """What a backend has computed and stored is in the report."""

    def refuse(event: Any) -> None:
        if event.kind == "started":
            raise RuntimeError("the listener is broken")

    class Quiet(AnyOrder):
        def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
            return [news for news in super().wait(timeout) if isinstance(news, Outcome)]

    nodes = [step(1, name).set_name(name) for name in ("one", "two")]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.listeners.append(refuse)
    with pytest.raises(RuntimeError, match="the listener is broken"):
        flow.run(Quiet(random.Random(1), limit=1))
    assert flow.storage.list_tasks("w") == flow.report.names("computed") != []
