"""Lineage: which stored results a result was computed from, by the headers alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lineages import Timeless, add, names, node_of, plant, run, stored_in

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.keys import earlier_name
from functionfuse.storage.lineage import Lineage, LineageNode
from going_back import TASKS, aside, call_of, chain, computed, made


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


# Ancestors.


def test_a_chain(storage: Storage) -> None:
    """The result comes first, then its ancestors; each with arguments and the keys of parents."""
    chain(storage, 3).run()
    lineage = storage.lineage("w", "size")
    assert ["size", "kept", "total", "load"] == names(lineage)
    for node, above in zip(lineage, [*lineage[1:], None], strict=True):
        info = storage.task_info("w", node.task)
        assert (info.task, info.call, info.digest) == node.key
        assert (info.function, info.created, info.seconds) == node[3:4] + node[7:9]
        assert info.fingerprint["code"] == node.code
        assert (() if above is None else (above.key,)) == node.parents
        assert node.stored
        assert "" == node.note
    assert {"number": "3"} == lineage[3].arguments


def test_a_diamond(storage: Storage) -> None:
    """A result with several children is listed once, also over 30 levels of two results."""
    above = add(0).set_name("top")
    pair = [above, above]
    for level in range(30):
        pair = [add(*pair, side).set_name(f"{level} {side}") for side in range(2)]
    run(storage, add(*pair).set_name("end"))
    lineage = storage.lineage("w", "end")
    assert 62 == len(lineage) == len({node.key for node in lineage})
    assert {"0 0", "0 1"} == {node.task for node in lineage if "top" in dict_of(node)}
    assert 1 + 61 + 60 - 1 >= str(lineage).count("\n")


def dict_of(node: LineageNode) -> dict[str, str]:
    return {task: call for task, call, _ in node.parents}


def test_each_call_has_its_own_lineage(storage: Storage) -> None:
    """After 1, 2, 1 the lineage of either call has the arguments of that call."""
    calls = {}
    for number in (1, 2, 1):
        chain(storage, number).run()
        calls[number] = storage.task_info("w", "size").call
        lineage = storage.lineage("w", "size")
        assert {"number": str(number)} == node_of(lineage, "load").arguments
    for number, call in calls.items():
        lineage = storage.lineage("w", "size", call=call)
        assert call == lineage[0].call
        assert {"number": str(number)} == node_of(lineage, "load").arguments
        assert all(node.stored for node in lineage)
        assert lineage[0].digest == storage.lineage("w", "size", call=call)[0].digest


def test_a_reused_result_has_the_lineage_of_its_computation(storage: Storage) -> None:
    """A result that is reused for an equal value of its parent was computed from another one."""

    @workflow(version="1")
    def half(number: int) -> int:
        return number // 2

    for number in (2, 3):
        last = run(storage, add(half(number).set_name("half")).set_name("end"))
    assert ["half"] == computed(last)
    assert {"number": "3"} == storage.lineage("w", "half")[0].arguments
    above = storage.lineage("w", "end")[1]
    assert {"number": "2"} == above.arguments
    assert above.stored
    assert above.call != storage.task_info("w", "half").call


def test_a_removed_parent(storage: Storage) -> None:
    """Of a result that is gone, the record of its child tells name, call and digest."""
    chain(storage, 1).run()
    gone = storage.task_info("w", "total")
    storage.remove_task("w", "total")
    lineage = storage.lineage("w", "kept")
    assert ["kept", "total"] == names(lineage)
    assert LineageNode("total", gone.call, gone.digest) == lineage[1]
    assert not lineage[1].stored
    assert "not stored" == lineage[1].note


def test_a_pruned_parent(storage: Storage) -> None:
    """The latest result of another call never stands for one that was pruned."""
    for number in (1, 2):
        chain(storage, number).run()
    call = storage.earlier("w", "size")[0].call
    pruned = [info.call for info in storage.earlier("w", "load")]
    keys = [left.key for left in storage.prune("w", keep=0, dry_run=True) if left.task == "load"]
    storage.store.delete(keys)
    lineage = storage.lineage("w", "size", call=call)
    assert ["size", "kept", "total", "load"] == names(lineage)
    assert pruned == [lineage[3].call]
    assert (False, {}) == (lineage[3].stored, lineage[3].arguments)
    storage.prune("w", bytes=0)
    with pytest.raises(ResultNotFoundError, match=rf"no result of call '{call}' is stored"):
        storage.lineage("w", "size", call=call)


def test_a_parent_that_was_computed_again(storage: Storage) -> None:
    """If only the value differs, code and arguments are those of the call, but it's not stored."""
    values = iter(range(9))

    @workflow(version="1")
    def draw(number: int) -> int:
        return next(values)

    flow = run(storage, add(draw(5).set_name("draw")).set_name("end"))
    before = storage.task_info("w", "draw")
    end = storage.task_info("w", "end").call
    flow.query("draw").set_reuse("never")
    flow.run()
    [_, above] = storage.lineage("w", "end", call=end)
    assert before.digest == above.digest != storage.task_info("w", "draw").digest
    assert ({"number": "5"}, "", None, False) == (
        above.arguments,
        above.created,
        above.seconds,
        above.stored,
    )
    [_, above] = storage.lineage("w", "end")
    assert above.stored
    assert names(storage.lineage("w", "draw", down=True)) == ["draw", "end"]


def test_an_object_with_methods(storage: Storage) -> None:
    """The call before a method's, on the same object, is a parent; an object is never stored."""

    @workflow
    class Model:
        def __init__(self, rows: Any) -> None:
            self.total = 0

        def fit(self, number: int) -> int:
            self.total += number
            return self.total

    model = Model(add(1).set_name("rows")).set_name("model")
    first, second = model.fit(1).set_name("first"), model.fit(2).set_name("second")
    run(storage, add(second, first).set_name("end"))
    lineage = storage.lineage("w", "end")
    assert ["end", "second", "first", "model"] == names(lineage)
    second_, first_, model_ = lineage[1:]
    assert (first_.key,) == second_.parents
    assert (model_.key,) == first_.parents
    assert (False, "not stored") == (model_.stored, model_.note)
    assert ["first", "end", "second"] == names(storage.lineage("w", "first", down=True))
    # The record of a method tells no digest of the call before it, but that of another child does.
    storage.remove_task("w", "first")
    lineage = storage.lineage("w", "end")
    assert ["end", "second", "first"] == names(lineage)
    assert (lineage[2].key,) == lineage[1].parents
    assert lineage[2].digest


def test_saved_by_hand(storage: Storage) -> None:
    """A result without a record has no known parents, and the lineage says so."""
    storage.save("w", "t", 1)
    [node] = storage.lineage("w", "t")
    assert ("", "stored without a fingerprint", True) == (node.call, node.note, node.stored)
    storage.save("w", "t", 1, fingerprint={"why not": "it is random"})
    assert "it is random" == storage.lineage("w", "t")[0].note
    assert "t  (it is random)" == str(storage.lineage("w", "t"))


def test_a_parent_that_is_always_reused(storage: Storage) -> None:
    """A result saved by hand, which has no call, is found by its digest, if it is still that."""
    storage.save("w", "rows", 7)
    rows = add(1).set_name("rows")
    flow = LocalWorkflow(add(rows).set_name("end"), workflow_name="w")
    flow.set_storage(storage)
    flow.query("rows").set_reuse("always")
    flow.run()
    assert 7 == storage.read_task("w", "rows")
    [_, above] = storage.lineage("w", "end")
    assert ("rows", "", True) == (above.task, above.call, above.stored)
    assert ["rows", "end"] == names(storage.lineage("w", "rows", down=True))
    storage.save("w", "rows", 8)
    [_, above] = storage.lineage("w", "end")
    assert ("rows", "", False) == (above.task, above.call, above.stored)
    assert ["rows"] == names(storage.lineage("w", "rows", down=True))


def test_a_parent_without_a_recorded_call_among_earlier_results(storage: Storage) -> None:
    """It is found by the digest of its value."""
    for number in (1, 2, 3):
        storage.save("w", "rows", number, fingerprint={"call": call_of(number)})
    digest = storage.earlier("w", "rows")[1].digest
    plant(storage, "end", ["rows", digest, "", ""])
    above = storage.lineage("w", "end")[1]
    assert (call_of(1), digest, True) == (above.call, above.digest, above.stored)
    assert ["rows", "end"] == names(storage.lineage("w", "rows", call=call_of(1), down=True))
    assert ["rows"] == names(storage.lineage("w", "rows", down=True))


def test_a_parent_in_which_a_variable_changed(storage: Storage) -> None:
    """Its child's record has no call, so it is found by its digest; its own says why."""
    seen: list[int] = []

    @workflow
    def grow(number: int) -> int:
        seen.append(number)
        return number

    run(storage, add(grow(1), grow(2).set_name("grow")).set_name("end"))
    above = node_of(storage.lineage("w", "end"), "grow")
    assert ("grow", "", True) == (above.task, above.call, above.stored)
    assert "changed while the run" in above.note


def test_a_value_that_holds_code(storage: Storage) -> None:
    """The digest in the record is of the code, too; the parent is found by that of its value."""

    @workflow(version="1")
    def make() -> Any:
        return [call_of, {"a", "b"}]

    @workflow(version="1")
    def use(made: Any) -> int:
        return 1

    run(storage, use(make().set_name("make")).set_name("end"))
    [record] = storage.task_info("w", "end").fingerprint["parents"]
    info = storage.task_info("w", "make")
    assert record[1] not in (info.digest, info.value)
    [_, above] = storage.lineage("w", "end")
    assert ("make", info.digest, True) == (above.task, above.digest, above.stored)


def test_a_renamed_parent(storage: Storage) -> None:
    """A reused result was computed from a task of the old name."""
    run(storage, add(add(1).set_name("old")).set_name("end"))
    last = run(storage, add(add(1).set_name("new")).set_name("end"))
    assert [] == computed(last)
    assert [("end", True), ("old", True)] == stored_in(storage.lineage("w", "end"))
    storage.prune("w", unused_by=last)
    assert [("end", True), ("old", False)] == stored_in(storage.lineage("w", "end"))


def test_nothing_is_stored(storage: Storage) -> None:
    """The errors are those of `read_task`, also for a call."""
    with pytest.raises(ResultNotFoundError, match=r"no result of task 't' of workflow 'w'"):
        storage.lineage("w", "t")
    storage.save("w", "t", 1, fingerprint={"call": call_of(1)})
    for down in (False, True):
        with pytest.raises(ResultNotFoundError, match=r"no result of call 'c' is stored for task"):
            storage.lineage("w", "t", call="c", down=down)


def test_an_earlier_result_under_another_name(storage: Storage) -> None:
    """It isn't taken for the one of the call that is asked for."""
    for number in (1, 2):
        storage.save("w", "t", number, fingerprint={"call": call_of(number)})
    [key] = aside(storage)
    storage.store.put("w/.earlier/" + earlier_name("t", call_of(3)), [storage.store.get(key)])
    with pytest.raises(ResultNotFoundError):
        storage.lineage("w", "t", call=call_of(3))


def test_the_run_of_a_result(storage: Storage) -> None:
    """A result that was reused has the run that saved it."""
    chain(storage, 1).run()
    run_ = storage.task_info("w", "load").run
    chain(storage, 1).run()
    assert run_
    assert {run_} == {node.run for node in storage.lineage("w", "size")}


# Descendants.


def test_a_child_that_does_not_know_the_call(storage: Storage) -> None:
    """It is found by the digest of the value in its record."""
    plant(storage, "top")
    plant(storage, "child", ["top", storage.task_info("w", "top").digest, "", ""])
    assert ["top", "child"] == names(storage.lineage("w", "top", down=True))


def test_descendants(storage: Storage) -> None:
    """They are the results whose records name it, also earlier ones, and theirs."""
    calls = {}
    for number in (1, 2):
        chain(storage, number).run()
        calls[number] = {name: storage.task_info("w", name).call for name in TASKS}
    for number, call in calls.items():
        lineage = storage.lineage("w", "load", call=call["load"], down=True)
        assert list(TASKS) == names(lineage)
        assert list(call.values()) == [node.call for node in lineage]
        assert [(), *[(node.key,) for node in lineage[:-1]]] == [n.parents for n in lineage]
        assert {"number": str(number)} == lineage[0].arguments


# Against a model.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["files", "memory", "remote"])
def test_random_graphs(seed: int, kind: str, tmp_path: Path) -> None:
    """Of all results of several runs, the lineage is what the graph of their run says."""
    random_ = random.Random(seed)
    storage = Storage(Timeless()) if kind == "remote" else made(kind, tmp_path)
    count = random_.randint(2, 25)
    needs = [
        random_.sample(range(index), min(index, random_.randint(0, 3))) for index in range(count)
    ]
    expected: dict[tuple[str, str], tuple[set[tuple[str, str]], str]] = {}
    for setting in (1, 2, 1, 3):
        changed = random_.randrange(count)
        nodes: list[Any] = []
        for index, parents in enumerate(needs):
            own = setting if index == changed else 0
            nodes.append(add([nodes[above] for above in parents], index, own).set_name(f"n{index}"))
        run(storage, *nodes)
        calls = [storage.task_info("w", f"n{index}").call for index in range(count)]
        for index in range(count):
            above = closure(index, needs)
            results = {(f"n{one}", calls[one]) for one in above}
            own = str(setting if index == changed else 0)
            expected[f"n{index}", calls[index]] = results, own
    below: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for result, (above_, own) in expected.items():
        lineage = storage.lineage("w", result[0], call=result[1])
        assert result == lineage[0].key[:2]
        assert own == lineage[0].arguments["extra"]
        assert all(node.stored for node in lineage)
        assert sorted(above_) == sorted(node.key[:2] for node in lineage)
        assert_drawn_once(lineage)
        for one in above_:
            below.setdefault(one, set()).add(result)
    for result, found in below.items():
        lineage = storage.lineage("w", result[0], call=result[1], down=True)
        assert sorted(found) == sorted(node.key[:2] for node in lineage)
        assert_drawn_once(lineage)


def closure(index: int, needs: Sequence[Sequence[int]]) -> set[int]:
    found, left = {index}, [index]
    while left:
        new = set(needs[left.pop()]) - found
        found |= new
        left += new
    return found


def assert_drawn_once(lineage: Lineage) -> None:
    """Check that a drawing has one line without "(above)" for each result."""
    lines = str(lineage).splitlines()
    assert len(lines) < 200  # so it is whole
    assert len(lineage) == sum("(above)" not in line for line in lines)
