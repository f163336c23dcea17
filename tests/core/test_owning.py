"""Each call has its own arguments: a node that changes one in place changes no other's."""

from __future__ import annotations

import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.run.owning import Master, is_shared
from functionfuse.storage.filestorage import FileStorage


@dataclasses.dataclass
class Box:
    items: list[Any]


def of_local_class() -> Any:
    class Local(Box):
        pass

    return Local([1])


MADE = {
    "list": lambda: [3, 1, 2],
    "dict": lambda: {"a": [1], "b": 2},
    "set": lambda: {1, 2},
    "array": lambda: np.arange(4),
    "big array": lambda: np.arange(3 << 20),
    "object": lambda: Box([1]),
    "object without a name": of_local_class,
    "tuple": lambda: ([1], 2),
}


def change(value: Any) -> None:
    if isinstance(value, (list, Box)):
        getattr(value, "items", value).append(9)
    elif isinstance(value, dict):
        value["a"].append(9)
    elif isinstance(value, set):
        value.add(9)
    elif isinstance(value, tuple):
        value[0].append(9)
    else:
        value[0] = 9


@workflow(version="1")
def make(kind: str) -> Any:
    return MADE[kind]()


@workflow(version="1")
def spoil(value: Any, tag: int) -> str:
    before = repr(value)
    change(value)
    return before


@workflow(version="1")
def join(*parts: Any) -> Any:
    return parts


def run(tmp_path: Any, *nodes: Any, executor: Any = None) -> Any:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    return flow.run() if executor is None else flow.run(executor)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("kind", MADE)
def test_a_result_is_each_taker_s_own(tmp_path, kind, threads):
    """Also the caller's, and the storage's; computed in this run, and loaded."""
    expected = repr(MADE[kind]())
    for tag in (0, 10):  # the second time it is loaded
        made = make(kind).set_name("made")
        takers = [spoil(made, tag + n).set_name(f"taker {n}") for n in range(4)]
        with ThreadPoolExecutor(threads or 1) as pool:
            *seen, value = run(tmp_path, *takers, made, executor=pool if threads else None)
        assert [expected] * 4 == seen
        assert expected == repr(value)
        assert expected == repr(FileStorage(tmp_path).read_task("w", "made"))


@pytest.mark.parametrize("kind", [kind for kind in MADE if kind != "big array"])
def test_an_argument_that_is_written_into_a_call_is_its_own(tmp_path, kind):
    """What the caller has stays as it was, alone and beside nodes in a list."""
    given = MADE[kind]()
    expected = repr(given)
    nodes = [spoil(given, n).set_name(str(n)) for n in range(3)]
    assert [expected] * 3 == run(tmp_path, *nodes)
    mixed = spoil([given, make("list")], 3).set_name("mixed")
    run(tmp_path, mixed)
    assert expected == repr(given)


def test_a_big_array_is_handed_over_as_it_is(tmp_path):
    """Copying it would take its time; that it was changed is seen before the next call."""
    given = np.zeros(1 << 20)

    @workflow(version="1")
    def keep(value: Any) -> None:
        seen.append(value)

    seen: list[Any] = []
    run(tmp_path, keep(given).set_name("a"), keep({"x": [given]}).set_name("b"))
    assert seen[0] is given
    assert seen[1]["x"][0] is given


def test_one_object_twice_is_one_object(tmp_path):
    """In the arguments of one call, as in Python."""

    @workflow(version="1")
    def same(*values: Any) -> bool:
        return all(value is values[0] for value in values)

    given, made = [1], make("list")
    assert [True, True] == run(
        tmp_path,
        same(given, given).set_name("a"),
        same(made, made, made).set_name("b"),
    )


def test_what_can_t_change_or_be_copied_is_shared(tmp_path):
    given = [threading.Lock(), ("a", (1, 2.0, b"c"), frozenset({1})), max, int, Path("a")]

    @workflow(version="1")
    def keep(*values: Any) -> None:
        seen.extend(values)

    seen: list[Any] = []
    run(tmp_path, keep(*given).set_name("a"))
    assert all(one is other for one, other in zip(seen, given, strict=True))
    assert is_shared(given[1])
    assert not is_shared((1, [2]))


def test_without_a_storage_values_are_shared_as_in_python():
    made = make("list").set_name("made")
    flow = LocalWorkflow(spoil(made, 0), spoil(made, 1), made, workflow_name="w")
    assert ["[3, 1, 2]", "[3, 1, 2, 9]", [3, 1, 2, 9, 9]] == flow.run()


def test_copies_are_made_without_another_request(tmp_path, monkeypatch):
    """A value is loaded once; a big one of a file is mapped again."""
    reads = []
    get = type(FileStorage(tmp_path).store).get

    def noted(self: Any, key: str) -> Any:
        reads.append(key)
        return get(self, key)

    monkeypatch.setattr(type(FileStorage(tmp_path).store), "get", noted)
    for kind, expected in (("list", 1), ("big array", 4)):
        run(tmp_path / kind, make(kind).set_name("made"))
        reads.clear()
        made = make(kind).set_name("made")
        run(tmp_path / kind, *[spoil(made, n).set_name(f"t{n}") for n in range(4)])
        assert expected == reads.count("w/made")


class Store:
    """Keeps what it gives."""

    def __init__(self) -> None:
        self.rows: list[int] = [1]

    def get(self) -> list[int]:
        return self.rows

    def add(self, number: int) -> int:
        self.rows.append(number)
        return sum(self.rows)


Kept = workflow(Store)


def test_what_an_object_keeps_is_its_own(tmp_path):
    """A result is as it was when the method gave it, and a taker changes nothing of the object."""
    store = Kept()
    got = store.get().set_name("got")
    seen = spoil(got, 0).set_name("seen")
    assert ["[1]", [1], 8] == run(tmp_path, seen, got, store.add(7).set_name("sum"))


def test_what_can_t_be_copied_is_handed_over_as_it_is(tmp_path):
    """To each of its takers; such a result is not stored, so its node is named in `log_nodes`."""

    @workflow(version="1")
    def make_lock() -> Any:
        return threading.Lock()

    @workflow(version="1")
    def locked(lock: Any, tag: int) -> bool:
        return lock.locked()

    lock = make_lock().set_name("lock")
    takers = [locked(lock, tag).set_name(str(tag)) for tag in (1, 2)]
    flow = LocalWorkflow(*takers, workflow_name="w")
    flow.log_nodes("lock")
    flow.set_storage(FileStorage(tmp_path))
    assert [False, False] == flow.run()


def test_one_object_in_two_arguments_is_one_object(tmp_path):
    """Also where it is a key, and where one argument holds the other."""

    @workflow(version="1")
    def found(table: Any, keys: Any, sentinel: Any) -> Any:
        return [table[key] for key in keys], sentinel is MISSING

    key = Store()
    assert ([1], True) == run(tmp_path, found({key: 1}, [key], MISSING).set_name("a"))


MISSING = object()


class Measured(np.ndarray):
    unit = "none"


def test_what_a_subclass_adds_to_an_array_is_there(tmp_path):
    """Arrays don't copy it, so such an array is handed over as it is."""

    @workflow(version="1")
    def unit_of(value: Any) -> str:
        return value[0].unit

    given = np.arange(3).view(Measured)
    given.unit = "m"
    assert "m" == run(tmp_path, unit_of([given]).set_name("a"))


def test_bytes_that_copies_come_from_are_released(tmp_path):
    """As the value itself: as soon as no later node takes it."""

    @workflow(version="1")
    def masters(*after: Any) -> int:
        return sum(type(found) is Master for found in gc.get_objects())

    made = make("list").set_name("made")
    before = masters(spoil(made, 0).set_name("0")).set_name("before")
    takers = [spoil(made, n).set_name(str(n)) for n in (1, 2)]
    assert [1, 0] == run(tmp_path, before, masters(before, *takers).set_name("after"))


@pytest.mark.parametrize("stored", [True, False])
def test_a_value_that_was_handed_over_is_taken_again(tmp_path, stored):
    """A damaged result is found while the last taker runs, and the node behind it takes it, too."""
    begun, done, computed = threading.Event(), threading.Event(), []

    @workflow(version="1")
    def first_list() -> Any:
        computed.append(1)
        return [3, 1, 2]

    @workflow(version="1")
    def other(value: Any) -> str:
        found = spoil.func(value, 0)
        begun.set()
        assert done.wait(60)
        return found

    @workflow(version="1")
    def second(value: Any) -> str:
        done.set()
        return repr(value)

    @workflow(version="1")
    def gate() -> None:
        assert begun.wait(60)

    def result() -> Any:
        first = first_list().set_name("first")
        behind = second(first).set_name("second")
        last = join(behind, gate().set_name("gate")).set_name("last")
        flow = LocalWorkflow(last, other(first).set_name("other"), workflow_name="w")
        if not stored:
            flow.log_nodes("first")
        flow.set_storage(FileStorage(tmp_path))
        with ThreadPoolExecutor(3) as pool:
            return flow.run(pool)

    expected = [("[3, 1, 2]", None), "[3, 1, 2]"]
    assert expected == result()
    for left in (begun, done, computed):
        left.clear()
    for task in ("other", "gate", "last"):
        FileStorage(tmp_path).remove_task("w", task)
    path = tmp_path / "w" / "second"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert expected == result()
    assert len(computed) == (not stored)
