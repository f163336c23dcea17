"""`value` and `add`: a graph grows while it runs, and all parts are one run."""

from __future__ import annotations

import os
import random
import sys
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from functionfuse import workflow
from functionfuse.backends import workflow_factory
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import RandomStatePlugin
from functionfuse.errors import DuplicateNameError, GraphError
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

called: list[str] = []
seen: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _nothing_called() -> None:
    called.clear()
    seen.clear()


@workflow(version="1")
def draw(name: str, *values: Any) -> list[float]:
    """Return what no second call returns; note which values the call was given."""
    called.append(name)
    seen[name] = [list(value) if isinstance(value, list) else value for value in values]
    return [random.random(), *(len(value) if isinstance(value, list) else 0 for value in values)]


@workflow(version="1")
class Walk:
    def __init__(self, name: str) -> None:
        called.append(name)
        self.steps = [random.random()]

    def step(self, name: str, value: Any) -> list[float]:
        called.append(name)
        seen[name] = [list(value) if isinstance(value, list) else value]
        self.steps.append(random.random())
        return list(self.steps)


class Minimal:
    """A storage with the four documented members."""

    always_read = False

    def __init__(self) -> None:
        self.results: dict[tuple[str, str], Any] = {}

    def new_workflow(self, name: str) -> None:
        pass

    def save(self, workflow_name: str, task: str, result: Any) -> None:
        self.results[workflow_name, task] = result

    def read_task(self, workflow_name: str, task: str) -> Any:
        try:
            return self.results[workflow_name, task]
        except KeyError:
            raise FileNotFoundError(task) from None


def program(seed: int, storage: Any, executor: Any) -> tuple[dict[str, Any], Any]:
    """Build a graph at random, and ask for values of it; return these by name, and the report."""
    chance = random.Random(seed)
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(storage)
    made: list[tuple[str, Any]] = []
    walks = [Walk(f"walk{number}") for number in range(2)]
    values: dict[str, Any] = {}
    given: list[str] = []
    for number in range(chance.randint(4, 14)):
        name = f"n{number}"
        inputs = [node for _, node in chance.sample(made, min(len(made), chance.randint(0, 2)))]
        inputs += [values[chance.choice(list(values))]] if values and chance.random() < 0.3 else []
        if chance.random() < 0.3:
            node = chance.choice(walks).step(name, inputs[0] if inputs else 0)
        else:
            node = draw(name, *inputs)
        made.append((name, node.set_name(name)))
        if chance.random() < 0.5:
            name, node = chance.choice(made)
            value = flow.value(node, executor)
            assert values.setdefault(name, value) == value
            value.append("changed by the caller")
        elif chance.random() < 0.4:
            flow.add(node)
            given.append(name)
        values = {
            name: [x for x in value if isinstance(x, float | int)] for name, value in values.items()
        }
    flow.add(*(node for _, node in made))
    results = flow.run(executor)
    results = results if isinstance(results, list) and len(given) + len(made) > 1 else [results]
    found = dict(zip([*given, *(name for name, _ in made)], results, strict=True))
    assert {name: found[name] for name in values} == values
    for name, inputs in seen.items():
        for value in inputs:
            if isinstance(value, list):
                assert any(value == other for other in found.values()), (name, value)
    return found, flow.report


@pytest.mark.battery
@pytest.mark.parametrize("kind", ["nothing", "files", "minimal"])
@pytest.mark.parametrize("seed", range(400 if FULL else 15))
def test_parts_of_a_run_fit_together(kind: str, seed: int, tmp_path: Path) -> None:
    """Each node is called once in a run, and all see the values that `value` has returned."""
    storage = {"nothing": None, "files": FileStorage(tmp_path), "minimal": Minimal()}[kind]
    with ThreadPoolExecutor(2) as threads:
        executor = threads if seed % 2 else None
        found, report = program(seed, storage, executor)
        counts = Counter(called)
        assert set(found) <= set(counts)
        assert {1} == set(counts.values()), counts
        assert {"computed"} == {node.action for node in report.nodes}
        if storage is None:
            return
        called.clear()
        assert found == program(seed, storage, executor)[0]
    assert [] == called


@workflow(version="1")
def number(value: Any = 1) -> Any:
    called.append("number")
    return value


@workflow(version="1")
def fail_once(folder: str) -> int:
    called.append("fail_once")
    mark = Path(folder, "failed")
    if not mark.exists():
        mark.touch()
        raise LookupError("the first time")
    return 5


def test_a_value_brings_nothing_else_up_to_date(tmp_path: Path) -> None:
    first = draw("first").set_name("first")
    draw("other", first).set_name("other")
    flow = LocalWorkflow(draw("given", first).set_name("given"), workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    assert flow.value(first) == flow.storage.read_task("w", "first")
    assert ["first"] == called == flow.storage.list_tasks("w")
    flow.run()
    assert ["first", "given", "other"] == sorted(called)


def test_the_value_of_a_part_and_of_an_object() -> None:
    node = number({"a": [1, 2]})
    flow = LocalWorkflow(workflow_name="w")
    assert [1, 2] == flow.value(node["a"])
    walk = Walk("walk")
    assert flow.value(walk) is None
    assert 1 == len(flow.value(walk.step("step", 0))) - 1
    assert ["number", "walk", "step"] == called
    flow.add(node["a"][1])
    assert 2 == flow.run()
    assert ["number", "walk", "step"] == called


def test_a_run_of_parts_is_told_of_as_one() -> None:
    """One start, one end, one id; the total grows."""
    flow = LocalWorkflow(workflow_name="w")
    events: list[Any] = []
    flow.listeners.append(events.append)
    first = number(1).set_name("first")
    assert 1 == flow.value(first)
    assert ["first"] == [node.name for node in flow.report.nodes]
    assert 2 == flow.value(number(2).set_name("apart"))
    flow.add(number(first).set_name("last"))
    assert 1 == flow.run()
    kinds = Counter(event.kind for event in events)
    assert (1, 1, 3) == (kinds["run started"], kinds["run finished"], kinds["finished"])
    assert ("run started", "run finished") == (events[0].kind, events[-1].kind)
    assert [1, 3] == [events[0].total, events[-1].total]
    assert 1 == len({event.run for event in events})
    assert {"first", "apart", "last"} == {node.name for node in flow.report.nodes}
    assert "3 computed" in flow.report.summary()
    events.clear()
    flow.run()
    assert ["run started", "run finished"] == [events[0].kind, events[-1].kind]


def test_a_part_that_fails_can_be_asked_for_again(tmp_path: Path) -> None:
    """What was computed stays; the end is told, and the rest is another run for listeners."""
    flow = LocalWorkflow(workflow_name="w")
    events: list[Any] = []
    flow.listeners.append(events.append)
    first, flaky = draw("first"), fail_once(str(tmp_path))
    with pytest.raises(LookupError):
        flow.value(number([first, flaky]))
    assert isinstance(events[-1].error, LookupError)
    assert "run finished" == events[-1].kind
    value = flow.value(first)
    assert 5 == flow.value(flaky)
    flow.add(number([first, flaky]))
    assert [value, 5] == flow.run()
    assert 1 == called.count("first")


def test_an_object_after_a_call_that_failed_is_made_again(tmp_path: Path) -> None:
    @workflow(version="1")
    class Counts:
        def __init__(self) -> None:
            self.count = 0

        def up(self, folder: str) -> int:
            self.count += 1
            return self.count * fail_once.func(folder)

    flow = LocalWorkflow(workflow_name="w")
    up = Counts().up(str(tmp_path))
    with pytest.raises(LookupError):
        flow.value(up)
    assert 5 == flow.value(up)


def test_names_stay_in_all_parts(tmp_path: Path) -> None:
    """Unnamed nodes keep the number of the part that they were computed in."""
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    early, late = number(1), number(2)
    assert 2 == flow.value(late)
    assert ["number_0000"] == flow.storage.list_tasks("w")
    flow.add(early)
    assert 1 == flow.run()
    assert ["number", "number"] == called
    assert [("number_0001", early), ("number_0000", late)] == list(flow.graph_traversal())
    called.clear()
    assert 1 == flow.run()
    assert [] == called
    late.set_name("late")
    assert 1 == flow.run()
    assert ["number"] == called


def test_a_node_that_is_renamed_between_two_parts_is_stored_under_both_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    node = number(1).set_name("early")
    flow.value(node)
    flow.add(node.set_name("late"))
    assert 1 == flow.run()
    assert not caplog.records
    assert ["early", "late"] == flow.storage.list_tasks("w")


def test_a_storage_that_is_set_between_two_parts_gets_all_results(tmp_path: Path) -> None:
    flow = LocalWorkflow(workflow_name="w")
    node = number(1).set_name("node")
    flow.value(node)
    flow.set_storage(FileStorage(tmp_path))
    flow.add(number(node).set_name("last"))
    assert 1 == flow.run()
    assert ["last", "node"] == flow.storage.list_tasks("w")


def test_what_another_backend_keeps_can_not_be_taken() -> None:
    class Keeping:
        remote, keeps, limit = True, True, 1

        def submit(self, job: Any) -> None: ...
        def wait(self, timeout: Any) -> Any: ...
        def cancel(self) -> Any: ...
        def fetch(self, handles: Any) -> Any: ...

    flow = LocalWorkflow(workflow_name="w")
    flow.add(number(1))
    flow.value(number(2))
    with pytest.raises(GraphError, match=r"same backend.*this process and .*Keeping"):
        flow.run(Keeping())
    assert ["number"] == called
    assert 1 == flow.run()


def test_one_name_for_two_nodes_is_an_error() -> None:
    """Also if they are in different parts: one result would replace the other."""
    flow = LocalWorkflow(workflow_name="w")
    flow.value(number(1).set_name("same"))
    with pytest.raises(DuplicateNameError, match="same"):
        flow.value(number(2).set_name("same"))
    flow.add(number(3).set_name("same"))
    with pytest.raises(DuplicateNameError, match="same"):
        flow.run()
    assert ["number"] == called


def test_in_a_notebook_a_cell_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes have the names of the nodes before them, so their results are found."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    for _ in range(2):
        assert 1 == flow.value(number(number(1)).set_name("last"))
    assert ["number", "number"] == called
    flow.add(number(2))
    assert 2 == flow.run()


def test_a_result_that_is_damaged_between_two_parts_is_computed_again(tmp_path: Path) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    first = number([1] * 1000).set_name("first")
    assert 1000 == len(flow.value(first))
    (path,) = tmp_path.rglob("first*")
    path.write_bytes(path.read_bytes()[:-9] + b"otherwise")
    flow.add(number(first))
    assert [1] * 1000 == flow.run()
    assert 3 == len(called)


def test_logged_nodes_run_once_in_all_parts(tmp_path: Path) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    shown = draw("shown").set_name("shown")
    flow.add(shown)
    flow.log_nodes("shown")
    value = flow.value(shown)
    assert value == flow.value(shown)
    flow.add(number(shown))
    assert [value, value] == flow.run()
    assert 1 == called.count("shown")
    assert [value] * 2 != flow.run()
    assert 2 == called.count("shown")


def test_what_follows_a_logged_node_in_a_later_part_is_reused(tmp_path: Path) -> None:
    """If that node gives the same value again."""
    for value, expected in ((1, 2), (1, 1), (2, 2)):
        flow = LocalWorkflow(workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        logged = number(value).set_name("logged")
        flow.add(logged)
        flow.log_nodes("logged")
        flow.value(logged)
        flow.add(number(logged).set_name("last"))
        assert [value, value] == flow.run()
        assert expected == len(called)
        called.clear()


LIMIT = 1


@workflow
def limited() -> int:
    return LIMIT


@workflow
class Reader:
    def read(self) -> int:
        return LIMIT


@workflow
def follows(value: int) -> int:
    return value


def test_what_changed_in_an_earlier_part_is_not_trusted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of a node whose variable changed while it ran is of no known call."""
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))

    def change(event: Any) -> None:
        if "started" == event.kind and event.node in ("first", "read"):
            monkeypatch.setattr(sys.modules[__name__], "LIMIT", LIMIT + 1)

    flow.listeners.append(change)
    first = limited().set_name("first")
    assert 2 == flow.value(first)
    second = follows(first).set_name("second")
    assert 2 == flow.value(second)
    reader = Reader()
    assert 3 == flow.value(reader.read().set_name("read"))
    flow.add(follows(second).set_name("last"), reader.read().set_name("again"))
    assert [2, 3] == flow.run()
    assert "changed during the run" in flow.report["first"].reason
    for task in ("second", "last"):
        ((_, _, made_by, recipe, *_),) = flow.storage.task_info("w", task).fingerprint["parents"]
        assert ("", "") == (made_by, recipe)
    for task in ("first", "read", "again"):
        assert "" == flow.storage.task_info("w", task).call


def test_nodes_that_are_never_reused_run_once_in_all_parts(tmp_path: Path) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.set_reuse("never")
    node = draw("node").set_name("node")
    value = flow.value(node)
    flow.add(number(node))
    assert value == flow.run()
    assert ["node", "number"] == called


def test_a_plan_between_the_parts() -> None:
    flow = LocalWorkflow(workflow_name="w")
    first = number(1).set_name("first")
    flow.value(first)
    flow.add(number(first).set_name("last"))
    plan = flow.plan()
    assert ["reuse", "compute"] == [node.action for node in plan.nodes]
    assert "computed in this run already" == plan["first"].reason
    assert 1 == flow.run()
    assert 2 == len(called)


class Held:
    """A value whose end can be watched."""


def test_values_are_released_at_the_end_and_with_a_storage_at_once(tmp_path: Path) -> None:
    watched: list[Any] = []

    @workflow(version="1")
    def make() -> Held:
        made = Held()
        watched.append(weakref.ref(made))
        return made

    flow = LocalWorkflow(workflow_name="w")
    node = make()
    flow.value(node)
    assert watched[0]() is not None
    flow.add(number(1))
    flow.run()
    assert watched[0]() is None
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.value(make())
    assert watched[1]() is None


def test_what_is_refused() -> None:
    flow = workflow_factory({"backend": {"kind": "local"}}, workflow_name="w")
    with pytest.raises(GraphError, match="'w' has no nodes: add"):
        flow.run()
    with pytest.raises(GraphError, match="not from 5"):
        flow.value(5)
    with pytest.raises(GraphError, match="not from 5"):
        flow.add(number(1), 5)

    @workflow
    def returns_a_node() -> Any:
        return number(1)

    with pytest.raises(GraphError, match="the result is node"):
        flow.value(returns_a_node())
    assert [] == called


def test_a_run_of_values_only() -> None:
    """`run` ends it; there is nothing that it returns."""
    flow = LocalWorkflow(workflow_name="w")
    assert 1 == flow.value(number(1))
    assert [] == flow.run()
    assert ["number"] == called
    assert "1 computed" in flow.report.summary()


@workflow(version="1")
def rolled() -> float:
    return random.random()


def test_a_seed_of_all_nodes_is_one_of_later_nodes_too() -> None:
    """Each node draws what it draws in a workflow that has all nodes from the beginning."""
    seeds = RandomStatePlugin(min=0, max=1 << 32, seed=5, seed_func=random.seed)
    names = ("first", "asked", "added")
    whole = LocalWorkflow(*[rolled().set_name(name) for name in names], workflow_name="w")
    whole.set_plugin(None, seeds)
    expected = whole.run()
    flow = LocalWorkflow(workflow_name="w")
    flow.set_plugin(None, seeds)
    first, asked, added = [rolled().set_name(name) for name in names]
    found = [flow.value(first), flow.value(asked)]
    flow.add(added)
    assert expected == [*found, flow.run()]
    plan = flow.graph()
    assert {seeds} == {flow._plugins[node][0] for node in plan.nodes}


def test_settings_of_all_nodes_hold_for_later_ones_unless_these_have_their_own(
    tmp_path: Path,
) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.query().set_retries(3, delay=0).set_timeout(60).set_expires(5).set_resources(gpu=1)
    flow.query().set_timeout(30).set_reuse("never")
    early = number(1).set_name("early")
    flow.add(early)
    flow.query("early").set_timeout(None).set_retries(0).set_reuse("always")
    calls = Walk("walk").step("step", 0)
    flow.add(number(2).set_name("late"), calls.set_name("step"))
    graph = flow.graph()
    named = {name: graph.names.index(name) for name in ("early", "late", "step")}
    found = {name: flow.node_settings(name, graph) for name in flow._settings}
    assert {named["late"]} == found["retries"].keys(), "calls on objects are not tried again"
    assert named["early"] not in found["timeout"]
    assert 30 == found["timeout"][named["late"]] == found["timeout"][named["step"]]
    assert set(range(len(graph.nodes))) == found["expires"].keys() == found["resources"].keys()
    policies = [flow._policies[graph.nodes[named[name]]] for name in ("early", "late")]
    assert ["always", "never"] == policies


def test_all_later_nodes_can_be_logged(tmp_path: Path) -> None:
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    flow.log_nodes(None)
    flow.value(number(1))
    flow.add(number(2))
    assert 2 == flow.run()
    assert [] == flow.storage.list_tasks("w")


class Watched:
    """Notes when it is pickled."""

    copied: ClassVar[list[Any]] = []

    def __reduce__(self) -> Any:
        self.copied.append(self)
        return Watched, ()


def test_a_value_copies_nothing_but_what_it_returns() -> None:
    """Not the values of nodes before it, which the run keeps."""
    copied = Watched.copied
    copied.clear()

    @workflow(version="1")
    def make(*before: Any) -> list[Any]:
        return [Watched()]

    flow = LocalWorkflow(workflow_name="w")
    node = make()
    flow.value(node)
    assert 1 == len(copied)
    for _ in range(5):
        node = make(node)
        copied.clear()
        flow.value(node)
        assert 2 == len(copied), "for the call, and for the caller"
