"""`RayWorkflow`: nodes that are tried again, that have a timeout, and that need resources."""

from __future__ import annotations

import os
import signal
import threading
from datetime import timedelta
from itertools import pairwise

import pytest
import ray_functions as functions
from ray_functions import noted
from ray_runs import actions, eventually, kept

from functionfuse.errors import NodeTimeoutError, OptionsError
from functionfuse_ray import backend
from functionfuse_ray.tasks import Remote

pytestmark = pytest.mark.usefixtures("ray_up")


# Retries.


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("limit", [0, 2])
def test_a_node_of_a_diamond_is_tried_again(storage, notes, stored, limit) -> None:
    """Each attempt has fresh arguments; what follows waits for it, and is called once."""
    start = functions.changes(notes, "start", 0, ["s"]).set_name("start")
    left = functions.changes(notes, "left", 2, ["l"], start).set_name("left")
    right = functions.changes(notes, "right", 0, ["r"], start).set_name("right")
    end = functions.changes(notes, "end", 1, [], left, right).set_name("end")
    flow = kept(storage if stored else None, end)
    flow.query("left|end").set_retries(2, on=OSError, delay=0)
    events = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node, event.attempt)))
    of_left, of_right = ["l", "left", "s", "start", "left"], ["r", "right", "s", "start", "right"]
    expected = ["end", *of_left, "end", *of_right, "end"]
    assert expected == flow.run(return_results=True, max_pending_tasks=limit)
    assert ["end"] * 2 + ["left"] * 3 + ["right", "start"] == noted(notes)
    assert [1, 3, 1, 2] == [record.attempts for record in flow.report.nodes]
    assert "OSError: left is not yet there" == flow.report["left"].error
    told = [(kind, attempt) for kind, node, attempt in events if node == "left"]
    tried = [("queued", 0), ("started", 1), ("retrying", 1), ("queued", 0), ("started", 2)]
    tried += [("retrying", 2), ("queued", 0), ("started", 3), ("finished", 3)]
    assert [("planned", 0), *tried, *([("saved", 0)] if stored else [])] == told
    kinds = [kind for kind, _, _ in events]
    assert ("run started", "run finished") == (kinds[0], kinds[-1])


def test_others_run_while_a_node_waits_for_its_next_attempt(notes) -> None:
    """Also if it has the only place."""
    flow = kept(None, functions.flaky(notes, OSError), *map(functions.number, range(4)))
    flow.query("flaky.*").set_retries(2, delay=timedelta(seconds=0.5))
    events = []
    flow.listeners.append(lambda event: events.append((event.kind, event.node)))
    assert [3, 0, 1, 2, 3] == flow.run(return_results=True, max_pending_tasks=1)
    finished = [node for kind, node in events if kind == "finished"]
    assert "flaky_0000" == finished[-1]


def test_the_last_error_is_raised(notes) -> None:
    """After the last attempt, or at once if the node isn't tried again after such an error."""
    for kind, attempts in ((OSError, 2), (KeyError, 1)):
        flow = kept(None, functions.plus(functions.flaky(notes, kind)), functions.number(1))
        flow.query("flaky.*").set_retries(1, on=OSError, delay=0)
        with pytest.raises(kind, match="not yet") as raised:
            flow.run()
        told = "\n".join(raised.value.__notes__)
        assert ("(attempt 2)" in told) == (attempts == 2)
        assert ["failed", "not run", "computed"] == list(actions(flow).values())
        assert attempts == flow.report.nodes[0].attempts == len(noted(notes))
        notes += "/again"
        functions.Path(notes).mkdir()


@pytest.mark.parametrize("after", [[OSError], True])
def test_attempts_of_ray_come_first(notes, after) -> None:
    """Each attempt of ours can be several of Ray's; the last error is the function's."""
    flow = kept(None, functions.changes(notes, "t", 9, []).set_name("t"))
    flow.query(None).set_retries(1, on=OSError, delay=0)
    flow.query(None).set_remote_args({"max_retries": 1, "retry_exceptions": after})
    with pytest.raises(OSError, match="not yet"):
        flow.run()
    assert (2, ["t"] * 4) == (flow.report["t"].attempts, noted(notes))


# Timeouts.


def test_a_function_that_is_too_slow(storage, notes) -> None:
    """It is interrupted in the worker, and can be tried again; the others go on."""
    flow = kept(storage, functions.slow(notes, 9).set_name("slow"), functions.number(1))
    flow.query("slow").set_timeout(0.2).set_retries(1, on=TimeoutError, delay=0)
    with pytest.raises(NodeTimeoutError, match=r"longer than 0\.2 seconds") as raised:
        flow.run()
    assert "in node 'slow'" in "\n".join(raised.value.__notes__)
    assert (["called"] * 2, 2) == (noted(notes), flow.report["slow"].attempts)
    assert ["number_0000"] == storage.list_tasks("w")


def test_a_function_that_is_too_slow_once(notes) -> None:
    """The next attempt has the whole time again."""
    flow = kept(None, functions.slow(notes, 1).set_name("slow"))
    flow.query("slow").set_timeout(2).set_retries(1, on=TimeoutError, delay=0)
    assert ["called"] * 2 == flow.run(return_results=True)
    assert 2 == flow.report["slow"].attempts


def test_a_method_that_is_too_slow() -> None:
    """No other call is made on its object."""
    counter = functions.Counter(1)
    first, slow = counter.add(1).set_name("first"), counter.slow().set_name("slow")
    flow = kept(None, counter.add(1).set_name("last"), functions.plus(first, 1).set_name("other"))
    flow.query("slow").set_timeout(0.2)
    with pytest.raises(NodeTimeoutError, match="longer"):
        flow.run()
    expected = {"first": "computed", "slow": "failed", "last": "not run", "other": "computed"}
    assert expected == {name: actions(flow)[name] for name in expected}
    assert slow.name == "slow"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("max_restarts", -1, "has lost its object"),
        ("max_task_retries", 2, "change the object twice"),
        ("max_concurrency", 2, "follow each other"),
        ("name", "x", "of its own"),
        ("get_if_exists", True, "of its own"),
        ("lifetime", "detached", "outlives the run"),
        ("concurrency_groups", {"io": 1}, "follow each other"),
    ],
)
def test_options_that_an_object_can_not_have(option, value, told) -> None:
    """A second actor would be without what the calls have made; in threads, no timeout works."""
    flow = kept(None, functions.Counter(1).add(1).set_name("add"))
    made = flow.query("Counter_0000")
    with pytest.raises(OptionsError, match=f"node 'Counter_0000' .*'{option}': .*{told}"):
        made.set_remote_args({option: value})
    made.set_remote_args({"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1})
    flow.query("add").set_timeout(60)
    assert 2 == flow.run(return_results=True)


# Resources.


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"gpu": 1}, "needs gpu=1, and there is none"),
        ({"cpu": 3}, "needs cpu=3, and there is 2"),
        ({"license": 1}, "needs license=1, and there is none"),
        ({"CPU": 1}, "needs CPU=1, .* resources are: api=1, away=1, cpu=2, disk=1"),
    ],
)
def test_resources_that_the_cluster_does_not_have(storage, notes, needs, told) -> None:
    """They are an error before anything runs, unless the node is reused."""
    first = functions.note(notes, "first").set_name("first")
    flow = kept(storage, functions.note(notes, "second", first).set_name("second"))
    flow.query("second").set_resources(**needs)
    with pytest.raises(OptionsError, match=f"node 'second' {told}"):
        flow.run()
    assert not noted(notes)
    flow.query("second").set_resources().workflow.run()
    flow.query("second").set_resources(**needs)
    flow.run()
    assert {"first": "reused", "second": "reused"} == actions(flow)


def test_a_resource_that_no_node_has_is_told(monkeypatch, caplog, notes) -> None:
    """Once, with the node's name, while others run; the run waits, as the cluster may grow."""
    monkeypatch.setattr(backend, "_PATIENT", 0.2)
    rare, made = functions.note(notes, "rare").set_name("rare"), functions.Counter()
    others = [functions.note(notes, "other", seconds=0.1) for _ in range(9)]
    flow = kept(None, rare, made.add(1), *others)
    flow.query("rare").set_remote_args({"num_gpus": 0.5, "resources": {"tape": 1, "disk": 1}})
    flow.query("Counter_0000").set_remote_args({"num_cpus": 3})

    def told():
        return sorted(record.getMessage() for record in caplog.records)

    def interrupt():
        eventually(lambda: len(told()) >= 2 and noted(notes) == ["other"] * 9)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    signal.signal(signal.SIGINT, before)
    waits = "waits for a node of the cluster with"
    expected = [f"node 'Counter_0000' {waits} CPU=3: ", f"node 'rare' {waits} GPU=0.5, tape=1: "]
    assert expected == [text.partition("there")[0] for text in told()]


@pytest.mark.parametrize("together", [True, False])
def test_resources_that_no_node_has_together(monkeypatch, caplog, tmp_path, together) -> None:
    """All of them are named; nothing is said if one node has them, and does other work."""
    nodes = [{"CPU": 4}, {"api": 1, "CPU": 1 if together else 0}]
    monkeypatch.setattr(backend, "_PATIENT", 0.1)
    looked = []
    monkeypatch.setattr(backend, "_nodes", lambda: (looked.append(1), nodes)[1])
    file = tmp_path / "file"
    flow = kept(None, functions.exists(str(file)).set_name("both"))
    flow.query("both").set_remote_args({"resources": {"api": 1}})

    def end():
        eventually(lambda: len(looked) > 1)
        file.touch()

    threading.Thread(target=end, daemon=True).start()
    flow.run()
    told = [record.getMessage() for record in caplog.records]
    assert together == (not told)
    assert together or "node 'both' waits for a node of the cluster with CPU=1, api=1" in told[0]


def overlaps(spans):
    """Return whether one began before another had ended."""
    ordered = sorted(spans)
    return any(begin < end for (_, end), (begin, _) in pairwise(ordered))


@pytest.mark.parametrize("stored", [True, False])
def test_what_needs_one_resource_runs_one_at_a_time(storage, stored) -> None:
    """The others run beside it."""
    calls = [functions.span(0.3) for _ in range(3)]
    flow = kept(storage if stored else None, *calls, *[functions.span(0.3) for _ in range(3)])
    flow.query("span_000[0-2]").set_resources(api=1)
    spans = flow.run(return_results=True)
    assert not overlaps(spans[:3])
    assert overlaps(spans)


def test_resources_and_options() -> None:
    """Options of `ray.remote` come first; a resource of the node is added to theirs."""
    node, counter = functions.resources().set_name("node"), functions.Counter().set_name("made")
    flow = kept(None, node, counter.resources().set_name("call"))
    flow.query(None).set_resources(api=0.5, cpu=1)
    assert [{"CPU": 1, "api": 0.5}] * 2 == flow.run(return_results=True)
    flow.query(None).set_remote_args({"num_cpus": 0, "resources": {"disk": 0.5}})
    assert [{"api": 0.5, "disk": 0.5}] * 2 == flow.run(return_results=True)
    flow.query(None).set_remote_args({"resources": {"api": 0.25}})
    assert [{"CPU": 1, "api": 0.25}] * 2 == flow.run(return_results=True)
    flow.query(None).set_resources(memory=1 << 20)
    assert {"CPU": 1, "memory": 1 << 20, "api": 0.25} == flow.run(return_results=True)[0]


def test_objects_hold_their_resources_as_long_as_they_live() -> None:
    """They take turns, from the constructor to the last call, and take no CPU."""
    counters = [functions.Counter() for _ in range(3)]
    calls = [each.span(0.1) for each in counters for _ in range(2)]
    flow = kept(None, *calls, *[each.resources() for each in counters])
    flow.query("Counter.*").set_resources(api=1)
    found = flow.run(return_results=True)
    assert [{"api": 1}] * 3 == found[6:]
    spans = [(found[n][0], found[n + 1][1]) for n in (0, 2, 4)]
    assert not overlaps(spans)


def test_nodes_with_the_same_needs_share_their_options(monkeypatch) -> None:
    """Making options for each node would cost half as much as submitting it."""
    made, of = [], Remote.of
    monkeypatch.setattr(Remote, "of", lambda *a, **k: (made.append(a[0]), of(*a, **k))[1])
    flow = kept(None, *map(functions.number, range(10)))
    flow.query(None).set_resources(api=0.1)
    flow.query("number_0000").set_resources(api=0.2)
    assert [*range(10)] == flow.run(return_results=True)
    assert ["number_0000", "number_0001"] == made


# The name of a node.


@pytest.mark.parametrize("stored", [True, False])
def test_the_name_of_the_node_in_a_worker(storage, stored) -> None:
    """The function knows it, and its log records have it."""
    first = functions.named().set_name("first")
    flow = kept(storage if stored else None, first, functions.named(first).set_name("second"))
    expected = [(name, [name]) for name in ("first", "second")]
    assert expected == flow.run(return_results=True)
