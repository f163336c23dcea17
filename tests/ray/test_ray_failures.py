"""`RayWorkflow`: nodes that fail, workers that die, interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import ray_functions as functions
from ray_functions import noted
from ray_runs import actions, eventually, kept

from functionfuse import workflow
from functionfuse.errors import GraphError, StorageAccessError, WorkerDiedError
from functionfuse.storage.filestorage import FileStorage
from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")


@pytest.mark.parametrize("stored", [True, False])
def test_what_does_not_follow_a_failing_node_is_computed(storage, stored) -> None:
    """All of it, and stored; one error names node, function and cause, and says what else."""
    wrong = functions.fail("it is gone", functions.number(1).set_name("one")).set_name("wrong")
    after = functions.plus(functions.plus(wrong, 1).set_name("after 1")).set_name("after 2")
    other = functions.fail("this, too").set_name("other")
    fine = functions.number(0).set_name("fine 0")
    for step in range(1, 5):
        fine = functions.plus(fine, 1).set_name(f"fine {step}")
    flow = RayWorkflow(after, other, fine, workflow_name="w")
    flow.set_storage(storage if stored else None)
    events = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node)))
    with pytest.raises(LookupError, match="it is gone") as raised:
        flow.run(return_results=True)
    told = "\n".join(raised.value.__notes__)
    assert "in node 'wrong' of workflow 'w': ray_functions.fail, called in" in told
    assert "in the worker:" in told
    assert "1 other node failed, too: 'other'" in told
    assert "2 nodes that follow were not run; all others were" in told
    names = [f"fine {step}" for step in range(5)]
    assert ([*names, "one"] if stored else []) == storage.list_tasks("w")
    expected = dict.fromkeys([*names, "one"], "computed") | {
        "wrong": "failed",
        "other": "failed",
        "after 1": "not run",
        "after 2": "not run",
    }
    assert expected == actions(flow)
    assert [("failed", "other"), ("failed", "wrong")] == sorted(
        event for event in events if event[0] == "failed"
    )
    if not stored:
        return
    [record] = storage.runs("w")
    assert "Ray" == record.backend
    assert expected == {node.name: node.action for node in record.nodes}
    assert {"type": "LookupError", "text": "it is gone", "node": "wrong"} == record.error
    for node in record.nodes:
        host, process, _ = node.worker.split() if node.worker else ("", 0, "")
        ran = node.action != "not run"
        assert (ran, ran) == (bool(host), node.begun > 0)
        assert str(os.getpid()) != process
        if node.digest:
            info = storage.task_info("w", node.name)
            assert (info.call, info.digest) == (node.call, node.digest)
            assert record.id == info.run


@pytest.mark.parametrize("stored", [True, False])
def test_no_call_follows_one_that_failed_on_an_object(storage, stored) -> None:
    """Its state is unknown; what doesn't come from it goes on."""
    counter = functions.Counter(1)
    first = counter.add(1).set_name("first")
    counter.fail().set_name("wrong")
    last = counter.add(5).set_name("last")
    other = functions.plus(first, 1).set_name("other")
    flow = RayWorkflow(last, other, workflow_name="w")
    flow.set_storage(storage if stored else None)
    with pytest.raises(LookupError, match="broken"):
        flow.run()
    found = actions(flow)
    assert ["computed", "failed", "not run", "computed"] == [
        found[name] for name in ("first", "wrong", "last", "other")
    ]


def test_a_worker_that_is_killed_while_it_saves(storage, notes) -> None:
    """Ray tries again; what is stored in the end is whole."""
    node = functions.kills_while_saved(notes, 1).set_name("t")
    kept(storage, node).run()
    assert ["killed"] == noted(notes)
    assert "alive" == storage.read_task("w", "t")


@pytest.mark.parametrize("stored", [True, False])
def test_a_worker_that_dies(storage, stored) -> None:
    """The error names the node; the rest is computed. Ray would try again, we don't."""
    dead = functions.die(functions.number(1).set_name("one")).set_name("dead")
    after = functions.plus(functions.plus(dead, 1)).set_name("after")
    fine = functions.number(2).set_name("fine")
    flow = RayWorkflow(after, fine, workflow_name="w")
    flow.set_storage(storage if stored else None)
    flow.query("dead").set_remote_args({"max_retries": 0}).set_retries(3, delay=0)
    with pytest.raises(WorkerDiedError, match="the worker of node 'dead' died") as raised:
        flow.run()
    assert 1 == flow.report["dead"].attempts
    assert "2 nodes that follow were not run" in "\n".join(raised.value.__notes__)
    assert "computed" == actions(flow)["fine"] == actions(flow)["one"]
    assert (["fine", "one"] if stored else []) == storage.list_tasks("w")


@workflow
def fails_at_last(folder):
    functions.remember(folder, "tried")
    if len(noted(folder)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise LookupError("it is gone")


def test_a_worker_that_dies_before_the_function_fails(notes) -> None:
    """The error is the function's."""
    flow = kept(None, fails_at_last(notes).set_name("fails"))
    with pytest.raises(LookupError, match="it is gone"):
        flow.run()
    assert ["tried"] * 2 == noted(notes)


@workflow
def countdown(number):
    return [countdown(number - 1)] if number else 0


@pytest.mark.parametrize("stored", [True, False])
def test_a_node_that_returns_a_node(storage, stored) -> None:
    """It is an error, as in process: nobody would run it."""
    flow = kept(storage if stored else None, countdown(3).set_name("three"))
    with pytest.raises(GraphError, match=r"holds node 'countdown_.*which nobody runs") as raised:
        flow.run()
    assert "in node 'three'" in "\n".join(raised.value.__notes__)


def test_a_worker_that_is_killed_while_it_writes(tmp_path, storage, notes) -> None:
    """Half a result is none; the next run computes it, and nothing is left of the first."""
    node = functions.killed_while_written(notes, 1000).set_name("t")
    flow = kept(storage, node)
    flow.query(None).set_remote_args({"max_retries": 0})
    with pytest.raises(WorkerDiedError, match="node 't'"):
        flow.run()
    assert ([], ["begun"]) == (storage.list_tasks("w"), noted(notes))
    assert 1 == len(list((tmp_path / "store").rglob(".tmp-*")))
    kept(storage, node).run()
    assert 1000 == storage.read_task("w", "t").sum()
    assert [""] == [verified.problem for verified in storage.verify()]


def test_an_object_whose_worker_dies(storage) -> None:
    """It is an error; the next run makes the object again, and replays the calls on it."""

    def graph(broken):
        counter = functions.Counter(1)
        counter.add(1).set_name("first")
        if broken:
            counter.die().set_name("dead")
        return counter.add(1).set_name("last")

    with pytest.raises(WorkerDiedError, match="node 'dead'"):
        kept(storage, graph(True)).run()
    assert ["first"] == storage.list_tasks("w")
    assert 3 == kept(storage, graph(False)).run(return_results=True)


def test_an_interrupt_cancels_what_runs(storage, tmp_path) -> None:
    """Ctrl-C ends what runs and what waits, objects too; what was stored stays, and Ray is up."""
    first = functions.number(1).set_name("first")
    files = [tmp_path / f"ticks of {name}" for name in ("a node", "another", "an object")]
    nodes = [functions.tick(str(file), 0) for file in files[:2]]
    waited = tmp_path / "ticks of one that waited"
    waiting = [functions.tick(str(waited), n) for n in range(3)]
    flow = kept(storage, first, *nodes, functions.Counter().tick(str(files[2])), *waiting)
    flow.query("Counter_.*").set_remote_args({"num_cpus": 0})

    def ticks():
        return [file.stat().st_size if file.exists() else 0 for file in files]

    def interrupt():
        while "first" not in storage.list_tasks("w") or not all(ticks()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell has what it starts in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    signal.signal(signal.SIGINT, before)

    def have_ended():
        before = ticks()
        time.sleep(0.5)
        return before == ticks()

    assert eventually(have_ended)
    assert max(ticks()) < functions.TICKS
    assert not waited.exists()
    assert ["first"] == storage.list_tasks("w")
    assert 2 == RayWorkflow(functions.plus(1, 1), workflow_name="v").run(return_results=True)


class Busy:
    """A node that runs for half a minute, and others that wait until it frees what they need.

    `there` is done when it runs.
    """

    def __init__(self, folder):
        self.file, self.waited = folder / "ticks", folder / "ticks of one that waited"
        self.there = functions.exists(str(self.file)).set_name("there")
        self.runs = functions.tick(str(self.file), 0, 600).set_name("runs")
        waiting = [functions.tick(str(self.waited), self.there, 600) for _ in range(3)]
        self.nodes = [
            *(self.there, self.runs),
            *[node.set_name(f"waits {number}") for number, node in enumerate(waiting)],
        ]

    def set_on(self, flow):
        flow.query("there").set_remote_args({"num_cpus": 0})
        flow.query("runs|waits.*").set_resources(api=1)

    def has_ended(self):
        size = self.file.stat().st_size
        time.sleep(0.3)
        return size == self.file.stat().st_size < 600 and not self.waited.exists()


@pytest.mark.parametrize(("stored", "option"), [(True, True), (False, False)])
def test_a_failure_ends_the_run_if_it_does_not_keep_going(storage, tmp_path, stored, option):
    """What runs is cancelled, what waits doesn't begin; what ran is in the report, and stored."""
    busy = Busy(tmp_path)
    wrong = functions.fail("it is gone", busy.there).set_name("wrong")
    after = functions.plus(wrong, busy.runs).set_name("after")
    flow = kept(storage if stored else None, *busy.nodes, after)
    busy.set_on(flow)
    if option:
        flow.keep_going = False
    with pytest.raises(LookupError, match="it is gone"):
        flow.run(keep_going=None if option else False)
    assert busy.has_ended()
    expected = dict.fromkeys(["runs", "after", *(f"waits {n}" for n in range(3))], "not run")
    assert {"there": "computed", "wrong": "failed", **expected} == actions(flow)
    assert "follows 'wrong', which failed" == flow.report["after"].reason
    assert (["there"] if stored else []) == storage.list_tasks("w")


def test_short_nodes_that_wait_do_not_begin(notes) -> None:
    """Nor are they cancelled while they could end: Ray would abort this process."""
    wrong = functions.fail("it is gone")
    flow = kept(None, wrong, *[functions.note(notes, "begun", seconds=0.02) for _ in range(600)])
    with pytest.raises(LookupError, match="it is gone"):
        flow.run(keep_going=False)
    begun = len(noted(notes))
    assert begun < 300
    assert 600 - begun <= list(actions(flow).values()).count("not run")
    time.sleep(0.1)
    assert len(noted(notes)) == begun


class Denies(FileStorage):
    """A storage that one result can't be written to."""

    def save(self, workflow_name, task_name, value, **about):
        if task_name == "denied":
            raise StorageAccessError("the credentials have expired")
        return super().save(workflow_name, task_name, value, **about)


def test_a_storage_that_can_not_be_written_ends_the_run(tmp_path, notes) -> None:
    """At once, although it would keep going; the node isn't tried again."""
    busy = Busy(tmp_path)
    denied = functions.note(notes, "called", busy.there).set_name("denied")
    flow = kept(Denies(tmp_path / "store"), *busy.nodes, denied)
    busy.set_on(flow)
    flow.query("denied").set_retries(3, delay=0)
    with pytest.raises(StorageAccessError, match="expired"):
        flow.run(keep_going=True)
    assert busy.has_ended()
    assert ("failed", "not run") == (flow.report["denied"].action, flow.report["runs"].action)
    assert ["called"] == noted(notes)


class StrangeError(LookupError):
    """An error that can't be pickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


@workflow
def strange(folder):
    functions.remember(folder, "tried")
    raise StrangeError(1, 2)


def test_an_error_that_can_not_be_pickled(storage, notes) -> None:
    """The worker sees whether a node is tried again after it; the run has its text."""
    flow = kept(storage, strange(notes).set_name("strange"), functions.number(1).set_name("one"))
    flow.query("strange").set_retries(2, on=StrangeError, delay=0)
    with pytest.raises(RuntimeError, match="StrangeError: 1 and 2"):
        flow.run()
    assert {"strange": "failed", "one": "computed"} == actions(flow)
    assert (["tried"] * 3, 3) == (noted(notes), flow.report["strange"].attempts)


def test_more_values_than_the_object_store_holds(storage) -> None:
    """They are spilled to disk, and come back; the next run is as after any other."""
    count = (24 << 20) // 8
    arrays = [functions.array(count, value) for value in range(10)]
    together = functions.plus(*map(functions.length, arrays))
    lengths = [functions.length(each, together) for each in arrays]
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    spilled = []
    flow = RayWorkflow(*lengths, workflow_name="w")
    flow.listeners.append(lambda event: spilled.extend(session.glob("ray_spilled_objects*/*")))
    flow.set_storage(storage)
    assert [count] * 10 == flow.run(return_results=True)
    assert spilled
    assert [""] * 31 == [verified.problem for verified in storage.verify()]
    flow.run()
    assert {"reused"} == set(actions(flow).values())
