"""Nodes are no values: what uses one as a value is refused, where it does."""

from __future__ import annotations

import copy
import dataclasses
import decimal
import math
import operator
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.errors import GraphError, UnpicklableResultError
from functionfuse.graph.arguments import reference_in
from functionfuse.storage import storage_factory


@workflow
def mean(rows=()):
    return sum(rows)


@workflow
def same(value=None):
    return value


@workflow
class Account:
    def pay(self, amount):
        return amount


def made_node():
    return mean([1, 2]).set_name("mean")


def made_pick():
    return made_node()["a"][0]


def made_object():
    return Account().set_name("account")


LINE = made_node.__code__.co_firstlineno + 1
NODE = f"node 'mean' (test_nodes_as_values.py:{LINE})"
OBJECT = f"node 'account' (test_nodes_as_values.py:{made_object.__code__.co_firstlineno + 1})"
CURE = "Do this inside a @workflow function, or with the result of run()."
MADE = {
    made_node: NODE,
    made_pick: f"item ['a'][0] of {NODE}",
    made_object: f"the object of {OBJECT}",
}
each_kind = pytest.mark.parametrize("make", MADE)


def run(*nodes, storage=None, executor=None):
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow.run(executor=executor)


@pytest.fixture
def storage(tmp_path):
    return storage_factory({"kind": "file", "options": {"path": str(tmp_path / "results")}})


# Uses.

COMPARED = "it can't be compared"
CALCULATED = "it can't be calculated with"
ITERATED = "it can't be iterated"
NUMBER = "it is no number"
TEXT = "it is no text (its repr is one)"
ROUNDED = "it can't be rounded"
OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.matmul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    divmod,
    pow,
    operator.lshift,
    operator.rshift,
    operator.and_,
    operator.xor,
    operator.or_,
    operator.iadd,
]
OTHERS = [1, 1.5, decimal.Decimal(1), np.float64(1), np.arange(3)]
USES = [
    *[(lambda n, use=use: use(n, 1), CALCULATED) for use in OPERATORS],
    *[(lambda n, use=use: use(1, n), CALCULATED) for use in OPERATORS],
    *[(lambda n, other=other: other * n, CALCULATED) for other in [*OTHERS, Fraction(1), [0]]],
    *[(lambda n, other=other: n - other, CALCULATED) for other in OTHERS],
    *[(use, CALCULATED) for use in (operator.neg, operator.pos, abs, operator.invert)],
    (lambda n: "text" + n, CALCULATED),
    (lambda n: timedelta(1) + n, CALCULATED),
    (lambda n: sum([n, n]), CALCULATED),
    (lambda n: np.add(1, n), CALCULATED),
    (np.sqrt, CALCULATED),
    (np.sum, CALCULATED),
    (lambda n: np.mean(n, axis=0), CALCULATED),
    (bool, "it is neither true nor false"),
    (lambda n: 1 if n else 2, "it is neither true nor false"),
    (lambda n: n and 1, "it is neither true nor false"),
    (lambda n: not n, "it is neither true nor false"),
    (lambda n: list(filter(None, [n])), "it is neither true nor false"),
    *[(lambda n, other=other: n == other, COMPARED) for other in [None, 1, "a", [0], ()]],
    *[(lambda n, other=other: other == n, COMPARED) for other in [*OTHERS[:3], "a", [0]]],
    (lambda n: n != 1, COMPARED),
    (lambda n: [n] == [1], COMPARED),
    (lambda n: n in [1, 2], COMPARED),
    *[
        (lambda n, use=use: use(n, 1), COMPARED)
        for use in (operator.lt, operator.le, operator.gt, operator.ge)
    ],
    (lambda n: 1 < n, COMPARED),
    (lambda n: n < n, COMPARED),
    (lambda n: max(n, n), COMPARED),
    (lambda n: sorted([n, n]), COMPARED),
    (len, "it has no length"),
    (iter, ITERATED),
    (reversed, ITERATED),
    (list, ITERATED),
    (lambda n: [*n], ITERATED),
    (lambda n: dict(zip(n, n, strict=True)), ITERATED),
    (sum, ITERATED),
    (lambda n: 1 in n, "nothing can be looked for in it"),
    (int, NUMBER),
    (float, NUMBER),
    (complex, NUMBER),
    (operator.index, NUMBER),
    (range, NUMBER),
    (lambda n: [1, 2][n], NUMBER),
    (math.sqrt, NUMBER),
    (round, ROUNDED),
    (lambda n: round(n, 2), ROUNDED),
    (math.floor, ROUNDED),
    (math.ceil, ROUNDED),
    (math.trunc, ROUNDED),
    (lambda n: f"{n}.csv", TEXT),
    (lambda n: f"{n:.2f}", TEXT),
    ("{:>10}".format, TEXT),
    (lambda n: format(n, "d"), TEXT),
    (os.fspath, "it is no path"),
    (open, "it is no path"),
    # From 3.12 on, pathlib words the TypeError itself.
    *([(Path, "it is no path")] if sys.version_info < (3, 12) else []),
    (lambda n: operator.setitem(n, "a", 1), "its items can't be changed"),
    (lambda n: operator.delitem(n, "a"), "its items can't be changed"),
    (pickle.dumps, None),
]


@each_kind
@pytest.mark.parametrize("place", range(len(USES)))
def test_a_use_as_a_value_is_refused(make, place):
    """The TypeError names node, file and line, and says what to do."""
    use, so = USES[place]
    thing = make()
    with pytest.raises(TypeError) as caught:
        use(thing)
    if so is None:
        assert " has no value before run(), so " in str(caught.value)
    else:
        assert f"{MADE[make]} has no value before run(), so {so}. {CURE}" == str(caught.value)


@pytest.mark.parametrize("make", [made_node, made_pick])
def test_a_node_is_not_called(make):
    """The call of an object of a decorated class is a node; that of a node is none."""
    for use in (lambda n: n(), lambda n: n(1, a=2), lambda n: list(map(n, [1]))):
        with pytest.raises(TypeError, match="so it can't be called"):
            use(make())


@pytest.mark.parametrize("make", [made_node, made_pick])
@pytest.mark.parametrize("name", ["shape", "append", "result"])
def test_an_unknown_attribute_is_refused(make, name):
    """As an AttributeError with node, line and cure."""
    with pytest.raises(AttributeError) as caught:
        getattr(make(), name)
    expected = f"{MADE[make]} has no value before run(), so it has no attribute {name!r}. {CURE}"
    assert expected == str(caught.value)
    assert not hasattr(make(), name)


@each_kind
@pytest.mark.parametrize("name", ["__array__", "_repr_png_", "__fraction__", "__dask_graph__"])
def test_tools_find_no_protocol(make, name):
    """They ask for a method, and go on without."""
    assert not hasattr(make(), name)


def test_what_is_not_known_yet_is_not_looked_for_without_end():
    """A node that has no attributes yet, as copying may make it, says so."""
    unmade = object.__new__(type(made_node()))
    with pytest.raises(AttributeError, match="'Call' object has no attribute 'where'"):
        operator.attrgetter("where")(unmade)


@pytest.mark.parametrize("make", [made_node, made_pick])
def test_a_node_is_nothing_to_call(make):
    """Neither to be decorated, nor in the place of a function, nor before a node."""
    node = same(1)
    flow = LocalWorkflow(node, workflow_name="w")
    for use in (
        workflow,
        lambda n: flow.replace_func(node, n),
        InitializerPlugin,
    ):
        with pytest.raises(GraphError, match=r"not|can't be called"):
            use(make())
    with pytest.raises(GraphError, match="can't be a key"):
        node[made_object()]


# What works.


@each_kind
def test_things_are_equal_to_themselves(make):
    """And to no other node, pick or object; their hash goes with that."""
    one, other = make(), make()
    assert one == one
    assert one != other
    assert one != made_node()
    assert {one: 1, other: 2}[one] == 1
    assert 2 == len({one, other, one})
    assert [one, other].index(other) == 1
    assert one in [other, one]
    assert one in {one: 1, "text": 2, None: 3}


@each_kind
def test_a_copy_holds_the_same_nodes(make):
    """A shallow and a deep one, and that of a record."""

    @dataclasses.dataclass
    class Config:
        thing: object

    thing = make()
    for copied in (copy.copy(thing), copy.deepcopy([thing])[0], copy.deepcopy({"a": thing})["a"]):
        if make is made_node:
            assert copied is thing
        else:
            assert repr(thing) == repr(copied)
    node = made_node()
    assert dataclasses.asdict(Config([node]))["thing"][0] is node
    assert dataclasses.replace(Config(node)).thing is node


@each_kind
def test_arrays_and_frames_hold_nodes(make):
    """They are found in them again."""
    things = [make(), make()]
    array = np.array(things)
    assert object == array.dtype
    assert array[1] is things[1]
    assert repr(things[0]) in repr(array)
    frame = pd.DataFrame({"number": [1, 2], "thing": things})
    assert frame[frame["number"] == 2]["thing"].iloc[0] is things[1]
    assert frame.groupby("number")["thing"].first()[1] is things[0]
    assert [1, 2] == list(frame["thing"].map({things[0]: 1, things[1]: 2}))
    assert pd.Series({"a": things[0]})["a"] is things[0]


# Results.

CONTAINED = [
    lambda n: n,
    lambda n: [1, n],
    lambda n: (n, "a"),
    lambda n: {"a": n},
    lambda n: {n: "a"},
    lambda n: {1, n},
    lambda n: frozenset([n]),
    lambda n: [{"a": [({"b": n},)]}],
    lambda n: [[1, 2], [[], [3, [n]]]],
    lambda n: [*range(1000), n],
    lambda n: dataclasses.make_dataclass("Pair", ["x"], bases=(list,))([]) or [n],
]


def nested(value, depth):
    for _ in range(depth):
        value = [value]
    return value


CONTAINED.append(lambda n: nested(n, 500))


@each_kind
@pytest.mark.parametrize("place", range(len(CONTAINED)))
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("pool", [nullcontext, ThreadPoolExecutor])
def test_a_node_in_a_result_is_refused(make, place, stored, pool, storage):
    """At any depth of lists, tuples, dicts and sets, and before anything is stored."""

    @workflow
    def make_nodes():
        return CONTAINED[place](make())

    kept = storage if stored else None
    with (
        pool() as executor,
        pytest.raises(GraphError, match=r"call f\.func\(\.\.\.\)") as caught,
    ):
        run(make_nodes().set_name("maker"), storage=kept, executor=executor)
    assert f"the result {'holds' if place else 'is'} {MADE[make]}" in str(caught.value)
    assert "in node 'maker'" in caught.value.__notes__[0]
    assert [] == storage.list_workflows() or [] == storage.list_tasks("w")


@each_kind
def test_a_node_in_an_object_is_found_when_it_is_pickled(make, storage):
    """The error tells where it is."""

    class Box:
        pass

    @workflow
    def boxed():
        box = Box()
        box.content = make()
        return [box]

    with pytest.raises(UnpicklableResultError, match=r"has no value before run\(\)") as caught:
        run(boxed(), storage=storage)
    assert "result[0].content" in str(caught.value)


class Drawer:
    """A storage that pickles nothing."""

    always_read = False

    def __init__(self):
        self.kept = {}

    def new_workflow(self, workflow_name):
        pass

    def save(self, workflow_name, task_name, value):
        self.kept[task_name] = value

    def read_task(self, workflow_name, task_name):
        raise FileNotFoundError


@each_kind
def test_a_storage_need_not_pickle(make):
    """A node is found in a result whoever keeps it."""

    @workflow
    def make_nodes():
        return [make()]

    drawer = Drawer()
    with pytest.raises(GraphError, match="the result holds"):
        run(make_nodes(), storage=drawer)
    assert {} == drawer.kept


@pytest.mark.parametrize(
    "result",
    [[1, [2.5, None]], {"a": (1, b"x")}, {frozenset([1]), (2, 3)}, [int, mean, Account], [[]] * 5],
)
def test_other_results_are_left_alone(result, storage):
    """Decorated functions and classes are values."""

    @workflow
    def give():
        return result

    assert result == run(give())
    assert reference_in(result) is None


def test_results_that_hold_themselves():
    """The search has an end, in a circle as in containers that share their items."""
    loop = [1]
    loop.append({"a": loop})
    shared = [1]
    for _ in range(100):
        shared = [shared, shared]
    for thing in (loop, shared, nested(1, 100_000)):
        assert reference_in(thing) is None
    shared = [made_node()]
    for _ in range(100):
        shared = [shared, shared]
    assert reference_in(shared) is not None


def test_a_big_plain_result_is_searched_by_types():
    """Not item by item in Python: a million numbers take a few calls."""
    numbers, calls = list(range(1_000_000)), []
    sys.setprofile(lambda *event: calls.append(event))
    try:
        reference_in(numbers)
    finally:
        sys.setprofile(None)
    assert len(calls) < 100


# Arguments.


@each_kind
def test_a_node_as_a_default_value_is_refused(make):
    """When the call is made, however deep it stands, also where the call gives another value."""
    thing = make()

    @workflow
    def positional(rows, default=thing):
        return rows

    @workflow
    def keyword(rows, *, default=[{"a": thing}]):  # noqa: B006
        return rows

    @workflow
    class Kept:
        def pay(self, amount=(thing,)):
            return amount

    for call in (
        lambda: positional(1),
        lambda: keyword(1),
        lambda: keyword(1, default=2),
        lambda: Kept().pay(),
    ):
        with pytest.raises(GraphError, match=r"a default value of .*\(\) is ") as caught:
            call()
        assert MADE[make] in str(caught.value)


@pytest.mark.parametrize("depth", [150, 3000, 100_000])
def test_deep_arguments(depth, storage):
    """They arrive as they are; their node is computed in every run, where it can't be compared."""
    deep = {"a": nested(1, depth)}
    got = run(same([1, deep]))
    assert got[1] is deep
    if depth < 100_000:
        node = workflow(lambda value: type(value).__name__)(deep)
        assert ["dict", "dict"] == [run(node, storage=storage) for _ in range(2)]


def test_nodes_deep_in_arguments():
    """A hundred containers can stand in each other, and more are refused where the call is made."""
    node = same(7)
    beside = [nested(1, 3000), nested(node, 90)]
    got = run(same(beside))
    assert got[0] is beside[0]
    assert nested(7, 90) == got[1]
    assert nested(7, 100) == run(same(nested(node, 100)))
    for depth in (101, 500, 5000):
        with pytest.raises(GraphError, match=r"node 'same_.*' .* in more than 100 containers"):
            same(nested(node, depth))
        with pytest.raises(GraphError, match="in more than 100 containers"):
            same(value={"a": nested(node["a"], depth)})
    assert 7 == run(node)


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), [10**5000] * 50], ids=["positive", "negative", "list"]
)
def test_huge_ints(value, storage):
    """They have no text, and are arguments, results and globals all the same."""
    globals()["HUGE"] = value

    @workflow
    def huge(given):
        return given == HUGE, given  # noqa: F821

    flow = LocalWorkflow(huge(value).set_name("huge"), workflow_name="w")
    flow.set_storage(storage)
    assert [(True, value), (True, value)] == [flow.run(), flow.run()]
    assert ["reused"] == [node.action for node in flow.report.nodes]
    flow = LocalWorkflow(huge(5).set_name("huge"), workflow_name="w")
    flow.set_storage(storage)
    assert flow.plan()["huge"].reason.startswith("argument 'given' changed")
