"""`LocalWorkflow`: what a run computes, loads, stores and returns, and how it fails."""

from __future__ import annotations

import gc
import importlib
import logging
import operator
import os
import pickle
import threading
import weakref
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import Calls

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin, Plugin
from functionfuse.errors import (
    DuplicateNameError,
    GraphError,
    ResultNotFoundError,
    StoragePathError,
    UnpicklableResultError,
)
from functionfuse.storage import BlobStore, Storage, storage_factory
from functionfuse.storage.blobstore import BlobInfo
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

ran = Calls()


@pytest.fixture(autouse=True)
def _nothing_ran():
    ran.clear()


@pytest.fixture(scope="module")
def graphs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "importable")
        yield importlib.import_module("worker_functions")


class Recording(FileStorage):
    """Notes which results are read and saved."""

    def __init__(self, path):
        super().__init__(path)
        self.read = []
        self.saved = []

    def read_task(self, workflow_name, task_name):
        self.read.append(task_name)
        return super().read_task(workflow_name, task_name)

    def save(self, workflow_name, task_name, obj, **details):
        self.saved.append(task_name)
        return super().save(workflow_name, task_name, obj, **details)


class Memory(BlobStore):
    """Blobs in a dict: quick, where a test needs thousands."""

    def __init__(self):
        self.blobs = {}

    def put(self, key, parts, *, if_absent=False, durable=False):
        if if_absent and key in self.blobs:
            raise FileExistsError(key)
        self.blobs[key] = b"".join(parts)

    def get(self, key):
        try:
            return bytearray(self.blobs[key])
        except KeyError:
            raise ResultNotFoundError(key) from None

    def list(self, prefix):
        for key in sorted([key for key in self.blobs if key.startswith(prefix)]):
            yield BlobInfo(key, len(self.blobs[key]), 0.0)

    def delete(self, keys):
        for key in keys:
            self.blobs.pop(key, None)


class Shelf:
    """The least that is a storage."""

    def __init__(self):
        self.always_read = False
        self.pickles = {}
        self.workflows = []

    def new_workflow(self, workflow_name):
        self.workflows.append(workflow_name)

    def save(self, workflow_name, task_name, obj):
        self.pickles[workflow_name, task_name] = pickle.dumps(obj)

    def read_task(self, workflow_name, task_name):
        try:
            return pickle.loads(self.pickles[workflow_name, task_name])
        except KeyError:
            raise FileNotFoundError(task_name) from None


class Big:
    """A result that can be watched."""

    def __init__(self, number=0):
        self.number = number


@workflow
def step(*parents, name=None, value=None):
    """Note the call; add up the parents, unless there is a value."""
    ran.append(name)
    return sum(parents) + 1 if value is None else value


@workflow
def make(number=0):
    ran.append("make")
    return Big(number)


@workflow
def fail(error, *parents):
    raise error


@workflow
class Counter:
    def __init__(self, start=0):
        ran.append("new")
        self.count = start

    def add(self, number):
        ran.append(f"add {number}")
        self.count += number
        return self.count

    def fail(self):
        raise ZeroDivisionError

    def lock(self):
        return threading.Lock()


def node(name, *parents, value=None):
    return step(*parents, name=name, value=value).set_name(name)


def diamond():
    """Return a, b(a), c(a), d(b, c), whose results are 1, 2, 2, 5."""
    a = node("a")
    b, c = node("b", a), node("c", a)
    return a, b, c, node("d", b, c)


def bound(*nodes, storage=None, name="w"):
    made = LocalWorkflow(*nodes, workflow_name=name)
    made.set_storage(storage)
    return made


def run(*nodes, storage=None, name="w"):
    """Run, and return the results and what ran."""
    ran.clear()
    results = bound(*nodes, storage=storage, name=name).run()
    return results, list(ran)


def damage(storage, *names, place=-1, workflow_name="w"):
    """Change a byte of stored results: the last, or another."""
    for name in names:
        path = Path(storage.path) / workflow_name / name
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)


@pytest.fixture
def storage(tmp_path):
    return Recording(tmp_path / "store")


# What a run returns.


def test_one_node_gives_one_result_and_several_give_a_list():
    """In the order in which they were handed over, whichever runs first."""
    a, b, c, d = diamond()
    assert 5 == bound(d).run()
    assert [5, 1, 2] == bound(d, a, c).run()
    assert [2, 2] == bound(b, b).run()


def test_picks_give_items(storage):
    """Of one result or several, with a storage and without, computed and stored."""
    made = node("n", value={"a": [1, {"b": 2}]})
    for store in (None, storage, storage):
        assert 2 == bound(made["a"][1]["b"], storage=store).run()
        assert [1, {"a": [1, {"b": 2}]}] == bound(made["a"][0], made, storage=store).run()


@pytest.mark.parametrize("value", [None, False, 0, [], NotImplemented, Ellipsis, Exception("e")])
def test_any_value_is_a_result(value, storage):
    """Also those that look like nothing."""
    expected = value if value is not None else 1
    for store in (None, storage, storage):
        actual = bound(node("n", value=value), storage=store).run()
        assert repr(expected) == repr(actual)


def test_everything_in_the_graph_runs_once():
    """Parents first, and a node that several need once."""
    results, order = run(diamond()[0])
    assert 1 == results
    assert ["a", "b", "c", "d"] == order


def test_several_runs_give_the_same():
    """Without a storage each run computes all."""
    graph = bound(diamond()[3])
    assert [5, 5, 5] == [graph.run() for _ in range(3)]
    assert list("abcdabcdabcd") == ran


def test_several_workflows_over_one_graph():
    """Each has its own name, storage and settings, and runs the whole graph."""
    a, b, _, d = diamond()
    first, second = bound(d, name="first"), bound(b, name="second")
    second.replace_func(a, lambda **_: 10)
    assert [5, 11, 5, 11] == [first.run(), second.run(), first.run(), second.run()]


def test_a_header_names_the_function_that_was_called(tmp_path: Path) -> None:
    """Where another one stands in for the node's own, that one."""

    def stand_in(x: int) -> int:
        return x + 2

    storage, node = FileStorage(tmp_path), workflow(lambda x: x + 1)(1).set_name("node")
    local = LocalWorkflow(node, workflow_name="w")
    local.set_storage(storage)
    local.replace_func(node, stand_in)
    assert 3 == local.run()
    assert f"{__name__}.{stand_in.__qualname__}" == storage.task_info("w", "node").function


def test_a_graph_that_grows_between_runs(storage):
    """The new node is computed, and the others are reused."""
    a, _, _, d = diamond()
    graph = bound(d, storage=storage)
    graph.run()
    node("e", a, d)
    ran.clear()
    assert 5 == graph.run()
    assert ["e"] == ran


# Storing and reusing.


def test_every_result_is_stored_and_reused(storage):
    """A second run, of this or a rebuilt graph, computes nothing."""
    assert (5, ["a", "b", "c", "d"]) == run(diamond()[3], storage=storage)
    assert ["a", "b", "c", "d"] == storage.list_tasks("w")
    assert (5, []) == run(diamond()[3], storage=storage)
    assert [1, 2, 2, 5] == [storage.read_task("w", name) for name in "abcd"]
    assert ["a", "b", "c", "d"] == storage.saved


def test_unnamed_nodes_are_reused_when_the_graph_is_built_again(storage):
    """Their numbers restart with each workflow."""

    def build():
        return step(step(), step(step()))

    assert (4, 4) == (run(build(), storage=storage)[0], len(ran))
    assert (4, []) == run(build(), storage=storage)


def test_results_of_workflows_are_kept_apart(storage):
    """A workflow reuses what was stored under its own name."""
    run(node("n", value="first"), storage=storage, name="first")
    assert ("second", ["n"]) == run(node("n", value="second"), storage=storage, name="second")
    assert "first" == storage.read_task("first", "n")


def test_only_the_values_that_are_needed_are_loaded(storage):
    """Those of the handed nodes, and those that computed nodes take."""
    a, b, _, d = diamond()
    run(d, storage=storage)
    assert [] == storage.read
    for leaves, expected in (([d], ["d"]), ([a], ["a"]), ([b, a, b], ["a", "b"])):
        storage.read.clear()
        run(*leaves, storage=storage)
        assert expected == sorted(storage.read)

    storage.remove_task("w", "d")
    storage.read.clear()
    assert ((5), ["d"]) == run(d, storage=storage)
    assert ["b", "c"] == sorted(storage.read)


def test_a_long_chain_that_is_stored_loads_one_value(storage):
    """However many nodes lie above the one that is returned."""
    last = node("0")
    for number in range(1, 200):
        last = node(str(number), last)
    run(last, storage=storage)
    assert (200, []) == run(last, storage=storage)
    assert ["199"] == storage.read


def test_a_value_that_several_need_is_loaded_once(storage):
    """And not once for each of them."""
    a = node("a")
    children = [node(f"child {number}", a) for number in range(5)]
    run(a, storage=storage)
    storage.remove_task("w", pattern="child*")
    run(*children, storage=storage)
    assert ["a"] == storage.read


def test_a_removed_result_whose_child_is_stored_stays_removed(storage):
    """Nobody needs it. It comes back when somebody does."""
    a, _, _, d = diamond()
    run(d, storage=storage)
    storage.remove_task("w", "a")
    storage.remove_task("w", "b")
    assert (5, []) == run(d, storage=storage)
    assert ["c", "d"] == storage.list_tasks("w")
    assert (1, ["a"]) == run(a, storage=storage)

    storage.remove_task("w", "a")
    storage.remove_task("w", "d")
    assert (5, ["a", "b", "d"]) == run(d, storage=storage)
    assert ["a", "b", "c", "d"] == storage.list_tasks("w")


def test_a_last_node_that_is_not_handed_over_is_brought_up_to_date(storage):
    """Also when what is handed over is stored."""
    a = diamond()[0]
    run(a, storage=storage)
    storage.remove_task("w", "d")
    assert (1, ["d"]) == run(a, storage=storage)


def test_a_storage_can_be_set_replaced_and_taken_away(tmp_path):
    """Each run uses the one that is set then."""
    first, second = Recording(tmp_path / "1"), Recording(tmp_path / "2")
    graph = bound(node("n"), storage=first)
    for store in (first, second, None):
        graph.set_storage(store)
        assert 1 == graph.run()
    assert ["n", "n", "n"] == ran
    assert [["n"], ["n"]] == [first.saved, second.saved]


def test_the_storage_that_the_factory_makes(tmp_path):
    """Is used like any other; names of every kind are stored."""
    store = storage_factory({"kind": "file", "options": {"path": str(tmp_path)}})
    names = ["a/b", "../../x", "*", "a b", "ü", ".", "x" * 300]
    nodes = [node(name, value=name) for name in names]
    assert (names, names) == run(*nodes, storage=store, name="../w")
    assert (names, []) == run(*nodes, storage=store, name="../w")
    assert sorted(names) == store.list_tasks("../w")


@pytest.mark.parametrize("always_read", [False, True])
def test_any_object_with_four_members_is_a_storage(always_read):
    """`new_workflow`, `save`, `read_task` and `always_read`."""
    shelf = Shelf()
    shelf.always_read = always_read
    _, b, _, d = diamond()
    assert (5, ["a", "b", "c", "d"]) == run(d, storage=shelf)
    assert (5, []) == run(d, storage=shelf)
    assert ([2, 5], []) == run(b, d, storage=shelf)
    for name in ("a", "c", "d"):
        del shelf.pickles["w", name]
    assert (5, ["a", "c", "d"]) == run(d, storage=shelf)
    assert {"w"} == set(shelf.workflows)
    assert {("w", name) for name in "abcd"} == set(shelf.pickles)


def test_stateful_objects_with_any_storage():
    """Calls are stored, and replayed where a later one is missing."""
    shelf = Shelf()
    counter = Counter()
    calls = [counter.add(number) for number in (1, 2, 3)]
    assert ([1, 3, 6], ["new", "add 1", "add 2", "add 3"]) == run(*calls, storage=shelf)
    assert ([1, 3, 6], []) == run(*calls, storage=shelf)
    del shelf.pickles["w", "Counter.add_0002"]
    assert ([1, 3, 6], ["new", "add 1", "add 2", "add 3"]) == run(*calls, storage=shelf)


def test_what_is_never_reused_is_not_read_either():
    """From a storage that must be read to find out what there is."""
    graph = bound(node("b", node("a")), storage=Shelf())
    graph.set_reuse("never")
    assert [2, 2] == [graph.run(), graph.run()]
    assert ["a", "b"] * 2 == ran


@pytest.mark.parametrize("member", ["new_workflow", "save", "read_task", "always_read"])
def test_an_object_that_lacks_a_member_is_no_storage(member):
    """The error names what is missing; it comes from `set_storage`."""

    class Partial:
        pass

    for name in {"new_workflow", "save", "read_task", "always_read"} - {member}:
        setattr(Partial, name, None)
    with pytest.raises(GraphError, match=f"no {member}"):
        bound(node("n"), storage=Partial())


@pytest.mark.parametrize("wrong", ["storage", Path("x.yaml"), {"options": {"key": "secret"}}])
def test_a_config_is_no_storage(wrong):
    """`storage_factory` makes one from it; what is in it isn't shown."""
    with pytest.raises(GraphError, match=r"is no storage.*storage_factory") as caught:
        bound(node("n"), storage=wrong)
    assert "secret" not in str(caught.value)


def test_a_storage_that_can_not_be_written_is_found_before_anything_runs(tmp_path):
    """A path that is a file, for instance."""
    path = tmp_path / "file"
    path.write_text("something else")
    with pytest.raises(StoragePathError, match="file"):
        run(node("n"), storage=FileStorage(path))
    assert [] == ran
    assert "something else" == path.read_text()


# always_read.


class Rewriting(Shelf):
    """Gives back something else than was saved, as a serializer may."""

    def __init__(self):
        super().__init__()
        self.always_read = True

    def read_task(self, workflow_name, task_name):
        return super().read_task(workflow_name, task_name) + 100


def test_always_read_hands_on_the_stored_object():
    """What follows, and what is returned, is what the storage gives back."""
    a, _, _, d = diamond()
    assert ([101, 505], ["a", "b", "c", "d"]) == run(a, d, storage=Rewriting())


def test_always_read_with_a_file_storage(storage):
    """Each result is read once for all that need it."""
    storage.always_read = True
    d = diamond()[3]
    assert 5 == run(d, storage=storage)[0]
    assert ["a", "b", "c", "d"] == sorted(storage.read)
    first, second = run(make(), make(), storage=storage, name="v")[0]
    assert (0, 0) == (first.number, second.number)


def test_always_read_of_what_is_computed_again(tmp_path):
    """What was saved is read, though the plan has seen another result."""
    storage = FileStorage(tmp_path)
    storage.always_read = True
    for value in (1, 5):
        assert value + 1 == run(node("b", node("a", value=value)), storage=storage)[0]


def test_always_read_of_calls_that_are_replayed():
    """A call on an object that is stored hands on the stored object too."""
    shelf = Rewriting()
    counter = Counter()
    first = counter.add(1)
    last = counter.add(first)
    assert 202 == run(last, storage=shelf)[0]
    del shelf.pickles["w", "Counter.add_0001"]
    assert (202, ["new", "add 1", "add 101"]) == run(last, storage=shelf)


# Damage.


@pytest.mark.parametrize("place", [-1, 0, 20, 60], ids=["end", "magic", "digest", "header"])
@pytest.mark.parametrize("name", ["d", "b"])
def test_a_damaged_result_is_computed_again(storage, caplog, place, name):
    """With one warning that names it; nothing else is computed, and then it is sound again."""
    d = diamond()[3]
    run(d, storage=storage)
    damage(storage, name, place=place)
    if name == "b":
        storage.remove_task("w", "d")
    with caplog.at_level(logging.WARNING):
        assert (5, sorted({name, "d"})) == run(d, storage=storage)
    assert 1 == len(caplog.records)
    assert repr(name) in caplog.text
    assert "'w'" in caplog.text
    caplog.clear()
    assert (5, []) == run(d, storage=storage)
    assert [] == caplog.records


@pytest.mark.parametrize("content", [b"", b"\x80", b"x" * 10_000])
def test_a_file_that_is_no_result_is_replaced(storage, content):
    """Empty, cut, or something else."""
    d = diamond()[3]
    run(d, storage=storage)
    (Path(storage.path) / "w" / "d").write_bytes(content)
    assert (5, ["d"]) == run(d, storage=storage)
    assert (5, []) == run(d, storage=storage)


def test_a_damaged_result_that_nobody_needs_is_left(storage):
    """Its value isn't looked at."""
    d = diamond()[3]
    run(d, storage=storage)
    damage(storage, "a", "b")
    assert (5, []) == run(d, storage=storage)


def test_a_long_chain_of_damaged_results_is_computed_again(caplog):
    """2,000 of them, found one after the other from the last, each with one warning."""
    store = Memory()
    storage = Storage(store)
    last = node("0")
    for number in range(1, 2000):
        last = node(str(number), last)
    names = [str(number) for number in range(2000)]
    assert 2000 == run(last, storage=storage)[0]
    for key, blob in store.blobs.items():
        if blob:
            store.blobs[key] = blob[:-1] + bytes([blob[-1] ^ 1])
    assert (2000, names) == run(last, storage=storage)
    assert 2000 == len(caplog.records)
    assert (2000, []) == run(last, storage=storage)


def test_damage_in_a_chain_of_calls(storage):
    """The object is made again, every call on it replayed, and the sound results are kept."""
    counter = Counter()
    calls = [counter.add(number) for number in (1, 2, 3)]
    run(*calls, storage=storage)
    storage.saved.clear()
    damage(storage, "Counter.add_0001")
    assert ([1, 3, 6], ["new", "add 1", "add 2"]) == run(*calls, storage=storage)
    assert ["Counter.add_0001"] == storage.saved
    assert ([1, 3, 6], []) == run(*calls, storage=storage)


def test_a_damaged_call_that_the_next_one_takes(storage):
    """It is missing twice, as an argument and for the object, and made once."""
    counter = Counter()
    first = counter.add(1)
    last = node("x", counter.add(first))
    run(last, storage=storage)
    damage(storage, "Counter.add_0000", "Counter.add_0001")
    storage.remove_task("w", "x")
    assert (None, ["new", "add 1", "add 1", "x"]) == run(counter, storage=storage)
    assert (3, []) == run(last, storage=storage)


def test_damage_that_is_found_after_a_replay(storage):
    """A call that was replayed without being loaded can be damaged, too."""
    counter = Counter()
    first = counter.add(1)
    counter.add(2)
    node("y", node("x", first))
    run(first, storage=storage)
    damage(storage, "Counter.add_0000", "x")
    storage.remove_task("w", "Counter.add_0001")
    storage.remove_task("w", "y")
    run(counter, storage=storage)
    assert {"x": 2, "y": 3, "Counter.add_0001": 3} == {
        name: storage.read_task("w", name) for name in ("x", "y", "Counter.add_0001")
    }


# What is recorded of parents, for when their results are gone.


def set_reuse(graph, policy, pattern=None):
    graph.query(pattern).set_reuse(policy)
    ran.clear()
    return graph


def test_a_damaged_result_that_comes_out_otherwise(storage):
    """What is made from the new one is recorded so, and stands."""
    numbers = iter([1, 2])
    parent = workflow(version="1")(lambda: next(numbers))().set_name("a")
    child = node("b", parent)
    assert (2, ["b"]) == run(child, storage=storage)
    damage(storage, "a")
    storage.remove_task("w", "b")
    assert (3, ["b"]) == run(child, storage=storage)
    assert (3, []) == run(child, storage=storage)


def test_what_is_made_from_a_result_that_was_kept_is_not_taken_for_another(storage):
    """Under "always", a result of an earlier call stands; its children are made from that call."""
    run(node("a", value=1), storage=storage)
    changed = node("b", node("a", value=5))
    assert 2 == set_reuse(bound(changed, storage=storage), "always").run()
    storage.remove_task("w", "a")
    assert (6, ["a", "b"]) == run(changed, storage=storage)


def test_what_is_made_from_a_result_that_could_not_be_kept_is_as_ever(storage):
    """Damaged, it is computed again also under "always", by the call of this run."""
    run(node("a", value=1), storage=storage)
    damage(storage, "a")
    changed = node("b", node("a", value=5))
    assert 6 == set_reuse(bound(changed, storage=storage), "always").run()
    storage.remove_task("w", "a")
    assert (6, []) == run(changed, storage=storage)


def test_a_result_that_could_not_be_kept_behind_others_that_are_gone(storage):
    """As before, where the plan has looked at it already: for a node whose parent is gone."""
    middle = node("a", node("r"))
    nodes = node("y", node("x", middle)), node("b", middle)
    run(*nodes, storage=storage)
    damage(storage, "a")
    for name in ("b", "x"):
        storage.remove_task("w", name)
    assert [4, 3] == set_reuse(bound(*nodes, storage=storage), "always", "a").run()
    assert ["a", "b"] == ran
    for name in ("r", "a"):
        storage.remove_task("w", name)
    assert ([4, 3], []) == run(*nodes, storage=storage)


def test_a_call_before_that_was_kept_and_whose_argument_is_gone(storage):
    """The call after it stands: the object went through the same call."""
    counter = Counter()
    first = counter.add(node("n", value=5)).set_name("first")
    second = counter.add(1).set_name("second")
    run(first, second, storage=storage)
    storage.remove_task("w", "n")
    assert [5, 6] == set_reuse(bound(first, second, storage=storage), "always", "first").run()
    assert [] == ran


def test_another_number_of_parents_of_which_one_is_gone(storage):
    """What was recorded of each doesn't fit any more."""
    assert (2, ["a", "c"]) == run(node("c", node("a")), storage=storage)
    storage.remove_task("w", "a")
    assert (3, ["a", "b", "c"]) == run(node("c", node("a"), node("b")), storage=storage)


# Nodes that are never stored.


def test_logged_nodes_always_run_and_are_never_stored(storage):
    """Wherever in the graph they are; what they need is loaded, and nothing else runs."""
    a = node("a")
    log = node("log a", a)
    last = node("last", log)
    node("log last", last)
    graph = bound(last, storage=storage)
    graph.log_nodes("log.*")
    assert 3 == graph.run()
    assert ["a", "log a", "last", "log last"] == ran
    assert ["a", "last"] == storage.list_tasks("w")
    for _ in range(2):
        ran.clear()
        storage.read.clear()
        assert 3 == graph.run()
        assert ["log a", "log last"] == ran
        assert ["a", "last"] == sorted(storage.read)
    assert ["a", "last"] == storage.list_tasks("w")


def test_what_can_not_be_told_from_another_is_another(storage):
    """A node that is never stored gives a generator: what takes it is computed in every run."""
    numbers = iter([1, 2])
    opened = workflow(version="1")(lambda: (next(numbers), (_ for _ in ())))().set_name("opened")
    first = workflow(version="1")(lambda pair: pair[0])(opened).set_name("first")
    graph = bound(first, storage=storage)
    graph.log_nodes("opened")
    assert [1, 2] == [graph.run(), graph.run()]


def test_a_logged_node_that_is_returned(storage):
    """It gives the result of this run."""
    log = node("log", node("a"))
    graph = bound(log, storage=storage)
    graph.log_nodes(None)
    assert [2, 2] == [graph.run(), graph.run()]
    assert ["a", "log", "a", "log"] == ran
    assert [] == storage.list_tasks("w")


def test_a_result_stored_before_its_node_was_logged_is_not_used(storage):
    """And not changed."""
    run(node("n", value="old"), storage=storage)
    graph = bound(node("n", value="new"), storage=storage)
    graph.log_nodes("n")
    assert "new" == graph.run()
    assert "old" == storage.read_task("w", "n")


def test_logged_calls_on_an_object(storage):
    """The calls before are replayed, and the call is not stored."""
    counter = Counter()
    counter.add(1)
    logged = counter.add(2).set_name("log")
    graph = bound(logged, storage=storage)
    graph.log_nodes("log")
    assert [3, 3] == [graph.run(), graph.run()]
    assert ["new", "add 1", "add 2"] * 2 == ran
    assert ["Counter.add_0000"] == storage.saved


# Functions that replace others, and other Pythons.


def test_a_function_that_replaces_another_has_no_version(storage):
    """The decorator's version is of the function that it decorates."""
    versioned = workflow(version="1")(lambda: 1)().set_name("n")
    graph = bound(versioned, storage=storage)
    found = [graph.run()]
    for function in (lambda: 2, lambda: 3):
        graph.replace_func(versioned, function)
        found.append(graph.run())
    assert [1, 2, 3] == found


def test_another_python_computes_again(storage, monkeypatch):
    """What code does can differ between minor versions."""
    assert (1, ["n"]) == run(node("n"), storage=storage)
    monkeypatch.setattr("functionfuse.reuse.identity.PYTHON", "3.0")
    assert "Python changed" in bound(node("n"), storage=storage).plan()["n"].reason
    assert (1, ["n"]) == run(node("n"), storage=storage)


# Failing.


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by zero"), KeyError("k"), FileNotFoundError("f"), StopIteration()]
)
def test_a_failing_node_raises_its_own_error(storage, error):
    """The very exception, with a note of node, function and workflow; what is done stays stored."""
    a = node("a")
    failing = fail(error, node("b", a)).set_name("the node")
    later = node("later", failing)
    for store in (None, storage):
        with pytest.raises(type(error)) as caught:
            run(later, storage=store, name="the workflow")
        assert caught.value is error
        note = error.__notes__[-1]
        assert "'the node'" in note
        assert "'the workflow'" in note
        assert f"{__name__}.fail" in note
        assert f"{__file__}:" in note
        assert ["a", "b"] == ran
    assert ["a", "b"] == storage.list_tasks("the workflow")


def test_a_run_after_a_failure_goes_on_where_it_failed(storage):
    """What was stored is not computed again."""
    flag = []

    @workflow
    def moody(x):
        if not flag:
            raise OSError("not yet")
        return x

    last = node("last", moody(node("a")))
    graph = bound(last, storage=storage)
    with pytest.raises(OSError, match="not yet"):
        graph.run()
    flag.append(1)
    assert 2 == graph.run()
    assert ["a", "last"] == ran


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_interrupt_ends_the_run(storage, error):
    """It comes out as it is, noted; what is done stays stored, and the workflow can run again."""
    graph = bound(node("last", fail(error, node("a"))), storage=storage)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            graph.run()
        assert caught.value is error
    assert "fail_0000" in error.__notes__[0]
    assert ["a"] == storage.list_tasks("w")
    assert ["a"] == ran
    assert ["a"] == graph.report.names("reused")


def test_a_failing_constructor_and_a_failing_method():
    """The note names class and method."""

    @workflow
    class Broken:
        def __init__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run(Broken())
    assert "<locals>.Broken, called in" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError) as caught:
        run(Counter().fail())
    assert "Counter.fail_0000" in caught.value.__notes__[0]
    assert f"{__name__}.Counter.fail, called in" in caught.value.__notes__[0]


def test_arguments_that_do_not_fit_a_builtin_are_the_node_s_failure():
    """It has no parameters that could be checked before; the error has the note."""
    with pytest.raises(TypeError, match="expected 2 arguments, got 1") as caught:
        run(workflow(operator.add)(node("a")))
    assert "add_0000" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "make_node",
    [
        lambda: workflow(lambda _: threading.Lock())(node("a")).set_name("the node"),
        lambda: workflow(lambda _: (n for n in "ab"))(node("a")).set_name("the node"),
        lambda: Counter(node("a")).lock().set_name("the node"),
    ],
    ids=["lock", "generator", "method"],
)
def test_a_result_that_can_not_be_pickled(storage, make_node):
    """The error names task, workflow and type; nothing is left of it, and the rest is stored."""
    with pytest.raises(UnpicklableResultError, match="can't be pickled") as caught:
        run(make_node(), storage=storage)
    text = "\n".join(caught.value.__notes__)
    assert "'the node'" in text
    assert "'w'" in text
    assert isinstance(caught.value, TypeError)
    assert ["a"] == storage.list_tasks("w")
    files = [path for path in Path(storage.path).rglob("*") if path.is_file()]
    names = [path.name for path in files if path.parent.name != ".runs"]
    assert [".functionfuse", "a"] == sorted(names)


def test_a_result_that_can_not_be_pickled_can_be_used_without_storing_it(storage):
    """Without a storage, or as a logged node."""
    kind = workflow(lambda lock: type(lock).__name__)(
        workflow(lambda kind: kind())(threading.Lock).set_name("lock")
    ).set_name("kind")
    assert "lock" == run(kind)[0]
    graph = bound(kind, storage=storage)
    graph.log_nodes("lock")
    assert "lock" == graph.run()


def test_a_storage_that_fails_to_save_fails_the_node():
    """With the storage's own error, and the note."""

    class Full(Shelf):
        def save(self, workflow_name, task_name, obj):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        run(node("n"), storage=Full())
    assert "'n'" in caught.value.__notes__[0]


def test_a_storage_that_fails_to_read_fails_the_run():
    """Only "not found" means that there is nothing."""

    class Broken(Shelf):
        def read_task(self, workflow_name, task_name):
            raise PermissionError(task_name)

    with pytest.raises(PermissionError):
        run(node("n"), storage=Broken())
    assert [] == ran


# Values are released.


def test_a_value_is_released_as_soon_as_no_later_node_needs_it(storage):
    """Its memory is free while the rest runs; what is returned is kept."""
    alive = {}

    @workflow
    def watched(name, *parents):
        alive[name] = sorted(key for key, reference in references.items() if reference())
        result = Big()
        references[name] = weakref.ref(result)
        return result

    a = watched("a")
    b = watched("b", a)
    c = watched("c", a)
    d = watched("d", b)
    e = watched("e", c, d)
    f = watched("f", e)
    gc.disable()
    try:
        for store in (None, storage):
            references = {}
            graph = bound(c, f, storage=store)
            results = graph.run()
            expected = {"a": "", "b": "a", "c": "ab", "d": "bc", "e": "cd", "f": "ce"}
            assert expected == {name: "".join(names) for name, names in alive.items()}
            assert ["c", "f"] == sorted(name for name, ref in references.items() if ref())
            del results
            assert [] == [name for name, ref in references.items() if ref()]
            assert 6 == len(graph.report.nodes)
    finally:
        gc.enable()


def test_a_loaded_value_is_released_too(storage):
    """And a node's arguments with it."""
    references = []
    read = storage.read_task

    def noting(workflow_name, task_name):
        value = read(workflow_name, task_name)
        if task_name.startswith("make"):
            references.append(weakref.ref(value))
        return value

    number = workflow(lambda big: big.number)(make(5)).set_name("number")
    last = workflow(lambda number: (number, [ref() for ref in references]))(number)
    last.set_name("last")
    graph = bound(last, storage=storage)
    graph.run()
    storage.remove_task("w", "number")
    storage.remove_task("w", "last")
    storage.read_task = noting
    assert (5, [None]) == graph.run()


def test_an_object_is_released_after_the_last_call_on_it():
    """Its state is nobody's any more."""
    references = []

    @workflow
    class Holder:
        def __init__(self):
            references.append(weakref.ref(self))

        def touch(self):
            return 1

    holder = Holder()
    holder.touch()
    last = workflow(lambda _: [reference() for reference in references])(holder.touch())
    assert [None] == run(last)[0]


# Objects of decorated classes.


def test_calls_that_are_stored_are_not_made_again(storage):
    """Nor is the object."""
    counter = Counter(node("start", value=10))
    calls = [counter.add(number) for number in (1, 2)]
    assert ([11, 13], ["start", "new", "add 1", "add 2"]) == run(*calls, storage=storage)
    assert ([11, 13], []) == run(*calls, storage=storage)
    assert ["Counter.add_0000", "Counter.add_0001", "start"] == storage.list_tasks("w")


def test_an_object_that_is_handed_over_is_not_made_when_its_calls_are_stored(storage):
    """Its own result is None."""
    counter = Counter()
    call = counter.add(1)
    assert ([None, 1], ["new", "add 1"]) == run(counter, call, storage=storage)
    assert ([None, 1], []) == run(counter, call, storage=storage)
    assert (None, []) == run(counter, storage=storage)


def test_a_missing_call_replays_the_calls_before_it(storage):
    """Their stored results are not saved again."""
    counter = Counter(node("start", value=10))
    calls = [counter.add(node(f"n{number}", value=number)) for number in (1, 2, 3)]
    run(*calls, storage=storage)
    storage.saved.clear()
    storage.remove_task("w", "Counter.add_0001")
    expected = [11, 13, 16]
    assert (expected, ["new", "add 1", "add 2"]) == run(*calls, storage=storage)
    assert ["Counter.add_0001"] == storage.saved


def test_a_removed_call_whose_followers_are_stored_stays_removed(storage):
    """Nobody needs it."""
    counter = Counter()
    for number in (1, 2):
        last = counter.add(number)
    run(last, storage=storage)
    storage.remove_task("w", "Counter.add_0000")
    assert (3, []) == run(last, storage=storage)
    assert ["Counter.add_0001"] == storage.list_tasks("w")


def test_a_replay_computes_what_its_arguments_lack(storage):
    """A call before takes a result that was removed."""
    counter = Counter()
    counter.add(node("n", value=5))
    last = counter.add(1)
    run(last, storage=storage)
    storage.remove_task("w", "n")
    storage.remove_task("w", "Counter.add_0001")
    assert (6, ["new", "n", "add 5", "add 1"]) == run(last, storage=storage)
    assert ["Counter.add_0000", "Counter.add_0001", "n"] == storage.list_tasks("w")


def test_a_long_replay(storage):
    """A thousand calls, found one after the other from the last."""
    counter = Counter()
    for number in range(1000):
        last = counter.add(number)
    run(last, storage=storage)
    storage.remove_task("w", "Counter.add_0999")
    storage.saved.clear()
    expected = (sum(range(1000)), ["new", *(f"add {number}" for number in range(1000))])
    assert expected == run(last, storage=storage)
    assert ["Counter.add_0999"] == storage.saved


def test_two_objects_that_need_each_other(storage):
    """Each is replayed as far as it must be, and no further."""
    first, second = Counter(), Counter()
    a = first.add(1)
    b = second.add(a)
    c = first.add(b)
    d = second.add(c)
    assert [1, 1, 2, 3] == run(a, b, c, d, storage=storage)[0]
    storage.remove_task("w", "Counter.add_0002")
    assert ([1, 1, 2, 3], ["new", "add 1", "add 1"]) == run(a, b, c, d, storage=storage)


# The report.


def test_the_report(storage):
    """What was computed, reused and not needed; how long that took, and how big it is."""
    d = diamond()[3]
    graph = bound(d, storage=storage)
    assert graph.report is None
    graph.run()
    assert ["a", "b", "c", "d"] == graph.report.names("computed")
    assert all(node.bytes > 0 for node in graph.report.nodes)
    assert all(0 <= node.seconds < 5 for node in graph.report.nodes)

    storage.remove_task("w", "a")
    storage.remove_task("w", "d")
    graph.run()
    report = graph.report
    expected = [("a", "not needed"), ("b", "reused"), ("c", "reused"), ("d", "computed")]
    assert expected == [(node.name, node.action) for node in report.nodes]
    assert [False, True, True, True] == [node.bytes > 0 for node in report.nodes]
    assert [0.0, 0.0, 0.0] == [node.seconds for node in report.nodes[:3]]
    assert "w" == report.workflow_name
    *lines, summary = str(report).splitlines()
    assert summary == report.summary()
    assert ["a", "b", "c", "d"] == [line.split()[0] for line in lines]
    assert "reused" in lines[1]


def test_the_report_of_a_run_without_storage():
    """All is computed, and nothing stored."""
    graph = bound(diamond()[3])
    graph.run()
    assert ["a", "b", "c", "d"] == graph.report.names("computed")
    assert [0, 0, 0, 0] == [node.bytes for node in graph.report.nodes]


def test_the_report_counts_the_seconds_of_the_function():
    """Not of the storage."""
    pause = threading.Event()
    graph = bound(workflow(pause.wait)(0.05))
    graph.run()
    assert 0.05 <= graph.report.nodes[0].seconds < 5


def test_the_report_of_a_run_that_failed(storage):
    """What was done before the failure is there."""
    graph = bound(fail(ZeroDivisionError(), node("a")), storage=storage)
    with pytest.raises(ZeroDivisionError):
        graph.run()
    assert ["a"] == graph.report.names("computed")


def test_the_report_counts_what_was_damaged_as_computed(storage):
    """It was."""
    d = diamond()[3]
    run(d, storage=storage)
    damage(storage, "d")
    graph = bound(d, storage=storage)
    graph.run()
    assert ["d"] == graph.report.names("computed")
    assert ["a", "b", "c"] == graph.report.names("reused")


def test_the_graph_is_checked_before_the_storage_is_touched(tmp_path):
    """Nothing is made on disk for a graph that can't run."""
    path = tmp_path / "store"
    with pytest.raises(DuplicateNameError):
        run(node("n"), node("n"), storage=FileStorage(path))
    with pytest.raises(GraphError):
        run(storage=FileStorage(path))
    assert not path.exists()


# Node plugins.


def test_plugins_prepare_the_nodes_that_they_were_set_for():
    """The local half before the remote half, in order, just before the node; no other node."""

    class Noting(Plugin):
        def __init__(self, name):
            self.name = name

        def local_initialize(self):
            ran.append(f"{self.name} local")

        def remote_initialize(self):
            return lambda: ran.append(f"{self.name} remote")

    graph = bound(diamond()[3])
    graph.query("b|c").set_plugins(Noting("1"), Noting("2"))
    graph.query("c").set_plugin(InitializerPlugin(lambda: ran.append("initialized")))
    graph.set_plugin("d", Noting("3"))
    assert 5 == graph.run()
    expected = ["a", "1 local", "2 local", "1 remote", "2 remote", "b", "initialized", "c"]
    assert [*expected, "3 local", "3 remote", "d"] == ran


# All together.


@pytest.mark.battery
@settings(
    deadline=None,
    max_examples=600 if FULL else 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=False), count=st.integers(1, 25))
def test_a_graph_gives_what_plain_calls_give(graphs, tmp_path_factory, random, count):
    """Random graphs, with and without storage, twice, and with some results removed or damaged."""
    handles = graphs.build(random, count)
    made = [handle.made for handle in handles]
    expected = [handle.value for handle in handles]
    if len(handles) == 1:
        expected = expected[0]
    graph = bound(*made)
    assert expected == graph.run()
    assert expected == graph.run()

    store = Recording(tmp_path_factory.mktemp("store"))
    store.always_read = random.random() < 0.3
    graph.set_storage(store)
    assert expected == graph.run()
    store.saved.clear()
    assert expected == graph.run()
    assert [] == store.saved
    for name in store.list_tasks("w"):
        what = random.randrange(4)
        if what == 0:
            store.remove_task("w", name)
        elif what == 1:
            damage(store, name)
    assert expected == graph.run()
    assert expected == graph.run()


@pytest.mark.parametrize(
    ("name", "close"), [("Trian", " (did you mean 'train'?)"), ("x", ""), (3, "")]
)
def test_a_plan_and_a_report_say_which_node_may_be_meant(name, close):
    """Where they have none of a name: a KeyError that can be read."""
    graph = bound(node("train"))
    graph.run()
    for found in (graph.plan(), graph.report):
        with pytest.raises(KeyError) as caught:
            found[name]
        expected = f"workflow {graph.workflow_name!r} has no node {name!r}{close}"
        assert expected == str(caught.value)
