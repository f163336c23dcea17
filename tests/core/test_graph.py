"""The graph: what calls of decorated functions and classes make, and how a workflow sees it."""

from __future__ import annotations

import copy
import functools
import gc
import math
import subprocess
import sys
import types
from collections import Counter, OrderedDict, defaultdict, namedtuple

import pytest

from functionfuse import task, workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    DuplicateNameError,
    FunctionFuseError,
    GraphError,
    InvalidNameError,
    NoMatchError,
    OptionsError,
)
from functionfuse.workflow import Node, Pick
from functionfuse.workflow import workflow as workflow_of_module

Point = namedtuple("Point", ["x", "y"])  # noqa: PYI024  # the untyped kind is a container, too


class Row(list):
    """A list that `list(...)` can't make again."""

    def __init__(self, first, second):
        super().__init__([first, second])
        self.title = "row"


class Record(dict):
    """A dict with attributes; its own `copy` gives a plain dict."""


class Pair(tuple):
    __slots__ = ()

    def __new__(cls, first, second):
        return super().__new__(cls, (first, second))


@workflow
def one():
    """Return one."""
    return 1


@workflow
def two():
    return 2


@workflow
def add(x, y=0):
    return x + y


@workflow
def same(x=None, **kwargs):
    return kwargs or x


@workflow
def table():
    return {"a": [10, {"b": 20}], "slice": [0, 1, 2, 3], (1, 2): "tuple"}


class Base:
    scale = 10

    def inherited(self):
        return "inherited", self.scale


@workflow
class Account(Base):
    """Money."""

    kinds = ("a", "b")

    def __init__(self, balance=0):
        self.balance = balance
        self.seen = []

    def deposit(self, amount):
        self.seen.append(amount)
        self.balance += amount
        return self.balance

    def history(self):
        return list(self.seen)

    def __call__(self, rate):
        self.balance *= rate
        return self.balance

    @property
    def owner(self):
        return "me"

    @staticmethod
    def fixed(x):
        return "static", x

    @classmethod
    def made_by(cls):
        return cls.__name__


@workflow
class Plain:
    def hello(self):
        return "hello"


def run(*nodes, name="w"):
    return LocalWorkflow(*nodes, workflow_name=name).run()


def names(*nodes):
    return [name for name, _ in LocalWorkflow(*nodes, workflow_name="w").graph_traversal()]


# What a call makes.


def test_a_call_makes_a_node_and_runs_nothing():
    """Calling a decorated function, class or method runs none of them."""

    @workflow
    def fail():
        raise AssertionError

    @workflow
    class Fail:
        def __init__(self):
            raise AssertionError

        def method(self):
            raise AssertionError

    assert isinstance(fail(), Node)
    assert isinstance(Fail().method(), Node)


def test_the_decorator_has_two_names():
    """`task` and `functionfuse.workflow.workflow` are the same decorator."""
    assert task is workflow
    assert workflow_of_module is workflow


def test_a_decorated_function_keeps_its_name_and_doc():
    """What `help` and `inspect` show of the function is still there."""
    expected = ("one", "Return one.", __name__)
    assert expected == (one.__name__, one.__doc__, one.__module__)
    assert ("Account", "Money.") == (Account.__name__, Account.__doc__)


def test_the_function_itself_can_be_called():
    """`func` is what was decorated."""
    assert 3 == add.func(1, 2)
    assert 7 == Account.func(7).balance


@pytest.mark.parametrize("thing", [5, "one", [one], one, Account])
def test_only_undecorated_callables_are_decorated(thing):
    """Other things are refused where `workflow` is applied."""
    with pytest.raises(GraphError, match="workflow"):
        workflow(thing)


def test_callable_objects_can_be_decorated():
    """A partial function, a bound method, a builtin, and an object without a hash make nodes."""

    class Unhashable:
        __hash__ = None

        def __call__(self):
            return "called"

    made = [
        workflow(functools.partial(add.func, 1))(2),
        workflow([5].copy)(),
        workflow(math.sqrt)(4.0),
        workflow(Unhashable())(),
    ]
    assert [3, [5], 2.0, "called"] == run(*made)


@pytest.mark.parametrize("call", [lambda: add(1), lambda: Account(1), lambda: Account().deposit(1)])
def test_a_node_knows_where_it_was_called(call):
    """`where` is the file and line of the call, for functions, classes and methods."""
    made = call()
    node = made if isinstance(made, Node) else LocalWorkflow(made, workflow_name="w").leaves[0][0]
    assert (__file__, call.__code__.co_firstlineno) == node.where


def test_the_call_of_an_object_knows_where_it_was_made():
    """The same holds for `object(...)`."""
    line = sys._getframe().f_lineno + 1
    assert (__file__, line) == Account(1)(2).where


# Arguments.


def test_nodes_in_positional_and_keyword_arguments():
    """The function gets the results in their places."""
    assert 3 == run(add(one(), two()))
    assert 3 == run(add(y=one(), x=two()))
    assert 6 == run(add(5, y=one()))


def test_a_node_may_stand_in_several_places():
    """It is computed once; the function gets its result in each place."""
    node = same(object())
    first, second = run(same([node, node]))
    assert first is second


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda n: [n, 5], [1, 5]),
        (lambda n: (n, 5), (1, 5)),
        (lambda n: {n, 5}, {1, 5}),
        (lambda n: frozenset([n]), frozenset([1])),
        (lambda n: {"k": n}, {"k": 1}),
        (lambda n: {n: "v"}, {1: "v"}),
        (lambda n: {(n, "k"): [n]}, {(1, "k"): [1]}),
        (lambda n: {frozenset([n]): 0}, {frozenset([1]): 0}),
        (lambda n: Point(n, y=5), Point(1, 5)),
        (lambda n: OrderedDict([("b", n), ("a", 5)]), OrderedDict([("b", 1), ("a", 5)])),
        (lambda n: defaultdict(list, k=n), defaultdict(list, k=1)),
        (lambda n: Counter(k=n), Counter(k=1)),
        (lambda n: Record(k=n), Record(k=1)),
        (lambda n: Row(n, 5), Row(1, 5)),
        (lambda n: Pair(n, 5), Pair(1, 5)),
        (lambda n: [({"k": [n]}, {(n,)})], [({"k": [1]}, {(1,)})]),
        (lambda n: [[], {}, (), [n]], [[], {}, (), [1]]),
        (lambda n: [table()["a"][1]["b"], n], [20, 1]),
    ],
)
@pytest.mark.parametrize("keyword", [False, True])
def test_nodes_in_containers(make, expected, keyword):
    """The function gets a container of the same type, with results in the places of the nodes."""
    node = same(k=make(one()))["k"] if keyword else same(make(one()))
    actual = run(node)
    assert expected == actual
    assert type(expected) is type(actual)


def test_a_container_keeps_what_it_has_beside_its_items():
    """Order, a default factory, and attributes of a subclass are there in what arrives."""
    record = Record(k=one())
    record.title = "title"
    ordered, default, titled, row = run(
        *map(same, [OrderedDict([("b", one()), ("a", 2)]), defaultdict(list, k=one()), record]),
        same(Row(one(), 2)),
    )
    assert ["b", "a"] == list(ordered)
    assert [] == default["missing"]
    assert "title" == titled.title
    assert "row" == row.title


def test_the_original_container_is_left_alone():
    """It holds its nodes after a run as before."""
    node = one()
    box = defaultdict(list, k=[node])
    run(same(box))
    assert {"k": [node]} == box


def test_a_container_of_nodes_counts_as_it_was_when_the_call_was_made():
    """Adding, replacing and removing items later changes nothing."""
    inner = [one()]
    outer = {"a": inner, "b": 5}
    node = same(outer)
    inner.append(two())
    inner[0] = "other"
    outer["c"] = two()
    del outer["b"]
    expected = {"a": [1], "b": 5}
    assert expected == run(node)
    assert [] == LocalWorkflow(node, workflow_name="w").find_nodes("two.*")


def test_every_run_builds_a_new_container():
    """A function that changes its argument doesn't change the next run's."""

    @workflow
    def spoil(box):
        box.append("spoilt")
        return len(box)

    graph = LocalWorkflow(spoil([one()]), workflow_name="w")
    assert [2, 2] == [graph.run(), graph.run()]


def test_one_container_in_two_places_arrives_as_one_object():
    """Within the arguments of a call, as in a call without a workflow."""
    box = [one()]
    got = run(same(x=None, a=[box, box], b=box))
    assert got["a"][0] is got["a"][1] is got["b"]


def test_containers_that_share_their_items_take_linear_time():
    """Sixty lists, each holding the one before it twice, are sixty lists."""
    box = [one()]
    for _ in range(60):
        box = [box, box]
    got = run(same(box))
    for _ in range(60):
        assert got[0] is got[1]
        got = got[0]
    assert [1] == got


def test_arguments_without_nodes_arrive_as_they_are():
    """Nothing is copied, whatever it is."""
    box, number, array = [{"a": (1, 2)}], 3.5, bytearray(5)
    got = run(same(a=box, b=number, c=array, d=one()))
    assert got["a"] is box
    assert got["b"] is number
    assert got["c"] is array


def test_a_container_without_nodes_may_hold_itself():
    """It arrives as it is, also beside nodes."""
    loop = [1]
    loop.append(loop)
    mapping = {}
    mapping["me"] = [mapping]
    got = run(same([loop, one(), mapping]))
    assert got[0] is loop
    assert got[2] is mapping


def test_a_container_of_nodes_that_holds_itself_is_refused():
    """Where the call is made, and with a clear error."""
    direct = [one()]
    direct.append(direct)
    inner = {}
    outer = [inner, one()]
    inner["outer"] = outer
    for box in (direct, inner, outer, (outer,)):
        with pytest.raises(GraphError, match="holds itself"):
            same(box)


def test_an_object_of_a_class_is_no_argument():
    """Its state has no one value; the error says what to hand over."""
    for box in (Account(), [Account()], {"k": (Account(),)}):
        with pytest.raises(GraphError, match="result of one of its method calls"):
            same(box)
        with pytest.raises(GraphError, match="result of one of its method calls"):
            same(k=box)


def test_a_refused_call_leaves_no_trace_in_the_graph():
    """What was written before it runs."""
    first = one()
    account = Account()
    with pytest.raises(GraphError):
        same([first, Account()])
    with pytest.raises(GraphError):
        account.deposit([first, Account()])
    last = account.deposit(first)
    assert ["one_0000", "Account_0000", "Account.deposit_0000"] == names(last)
    assert [1, 1] == run(first, last)


# Picks.


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        (lambda n: n["a"], [10, {"b": 20}]),
        (lambda n: n["a"][0], 10),
        (lambda n: n["a"][1]["b"], 20),
        (lambda n: n["a"][-1], {"b": 20}),
        (lambda n: n["slice"][1:3], [1, 2]),
        (lambda n: n["slice"][::-1][0], 3),
        (lambda n: n[1, 2], "tuple"),
    ],
)
def test_picks(pick, expected):
    """Items of a result can be handed over, and be arguments."""
    node = table()
    assert expected == run(pick(node))
    assert expected == run(same(pick(node)))
    assert [expected] == run(same([pick(node)]))


def test_a_pick_makes_no_node():
    """The graph of a pick is the graph of its node."""
    assert ["table_0000"] == names(table()["a"][0])


def test_picking_what_is_not_there_names_node_and_path():
    """The error is what indexing raises, and says where."""
    with pytest.raises(KeyError, match="missing") as caught:
        run(same(table()["a"][1]["missing"]))
    notes = "\n".join(caught.value.__notes__)
    assert "table_0000" in notes
    assert "['a'][1]['missing']" in notes
    assert "same_0000" in notes


@pytest.mark.parametrize(
    "key", [one, lambda: table()["a"], lambda: (1, one()), lambda: slice(None, one())]
)
def test_a_node_is_no_key(key):
    """The value that it stands for isn't known yet."""
    with pytest.raises(GraphError, match="can't be a key"):
        table()[key()]
    with pytest.raises(GraphError, match="can't be a key"):
        table()["a"][key()]


@pytest.mark.parametrize(
    "use",
    [
        iter,
        list,
        tuple,
        sum,
        lambda n: [*n],
        lambda n: 1 in n,
        dict,
        lambda n: max(*n),
        lambda n: [item for item in n],  # noqa: C416
        lambda n: exec("a, b = n", {"n": n}),
    ],
)
@pytest.mark.parametrize("make", [one, lambda: table()["a"], Account])
def test_a_node_is_not_iterated(use, make):
    """How many items it will have isn't known; it ends with an error, not never."""
    with pytest.raises(TypeError):
        use(make())


# Names.


def test_default_names():
    """The qualified name and a number, per function."""

    @workflow
    def local():
        return 0

    nodes = [one(), one(), two(), local(), one()]
    prefix = "test_default_names.<locals>.local"
    expected = ["one_0000", "one_0001", "two_0000", f"{prefix}_0000", "one_0002"]
    assert expected == names(*nodes)
    assert expected == [node.name for node in nodes]
    assert expected == [node.get_name() for node in nodes]


def test_names_of_a_class():
    """The constructor is named by the class, and a call by class and method, also if inherited."""
    first, second = Account(), Account(5)
    first.deposit(1)
    second.deposit(1)
    first.deposit(2)
    second.inherited()
    second(3)
    expected = [
        "Account_0000",
        "Account_0001",
        "Account.deposit_0000",
        "Account.deposit_0001",
        "Account.deposit_0002",
        "Account.inherited_0000",
        "Account.__call___0000",
    ]
    assert expected == names(first, second)


def test_numbers_count_past_four_digits():
    """Number 10,000 has five."""
    root = one()
    last = [add(root, number) for number in range(10_001)][-1]
    assert "add_10000" == names(last)[-1]


def test_numbering_restarts_for_a_graph_that_is_built_again():
    """In one process the second graph gets the names of the first."""

    def build():
        account = Account()
        account.deposit(one())
        return account.deposit(add(one(), two()))

    assert names(build()) == names(build())
    assert "one_0000" in names(build())


def test_a_named_node_leaves_the_numbers_of_the_others():
    """Numbers count the unnamed nodes."""
    assert ["a", "one_0000"] == names(one().set_name("a"), one())


@pytest.mark.parametrize(
    "name",
    ["with spaces, commas", "a/b/../c", "../../../x", ".", "ü\n\U0001f600", "*[?]", "x" * 999],
)
def test_any_text_is_a_name(name):
    """`set_name` takes it and returns the node."""
    node = one()
    assert node.set_name(name) is node
    assert [name] == names(node)
    assert [node] == LocalWorkflow(node, workflow_name="w").find_nodes()


@pytest.mark.parametrize("name", ["", None, 5, b"a", ["a"]])
def test_other_things_are_no_names(name):
    """The error is a ValueError, raised at once, and the node keeps its name."""
    node = one().set_name("kept")
    for refuse in (
        node.set_name,
        Account().set_name,
        lambda name: LocalWorkflow(node, workflow_name=name),
    ):
        with pytest.raises(InvalidNameError, match="name") as caught:
            refuse(name)
        assert isinstance(caught.value, ValueError)
    assert "kept" == node.name


def test_a_class_is_named_on_the_object_and_on_each_call():
    """`set_name` returns what it was called on."""
    account = Account()
    assert account.set_name("account") is account
    call = account.deposit(1)
    assert call.set_name("first") is call
    assert ["account", "first"] == names(call)
    assert 1 == run(call)


def same_name_elsewhere():
    """Return a function of another module with the qualified name of `one`."""
    module = types.ModuleType("elsewhere")
    exec("def one():\n    return 'other'", module.__dict__)
    return workflow(module.one)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: [one().set_name("n"), two().set_name("n")], "n"),
        (lambda: [add(one().set_name("n")).set_name("n")], "n"),
        (lambda: [one(), two().set_name("one_0000")], "one_0000"),
        (lambda: [one(), same_name_elsewhere()()], "one_0000"),
        (lambda: [workflow(lambda: 1)(), workflow(lambda: 2)()], "<lambda>_0000"),
        (lambda: [Account().deposit(1).set_name("Account_0000")], "Account_0000"),
    ],
)
def test_two_nodes_with_one_name_are_refused(make, name):
    """Before anything runs; the message has the name, and function and place of both."""
    ran = []
    nodes = [same(workflow(lambda: ran.append(1))().set_name("before")), *make()]
    graph = LocalWorkflow(*nodes, workflow_name="the workflow")
    for use in (graph.run, graph.find_nodes, graph.graph, lambda: graph.query("before")):
        with pytest.raises(DuplicateNameError) as caught:
            use()
        message = str(caught.value)
        assert repr(name).strip("'") in message
        assert "the workflow" in message
        assert 2 == message.count(f"called in {__file__}:")
    assert isinstance(caught.value, ValueError)
    assert [] == ran


def test_a_duplicate_names_both_functions():
    """They can be told apart by module."""
    with pytest.raises(DuplicateNameError) as caught:
        names(one(), same_name_elsewhere()())
    assert f"{__name__}.one" in str(caught.value)
    assert "elsewhere.one" in str(caught.value)


def test_one_name_in_two_workflows_is_no_duplicate():
    """Names are a matter of one workflow."""
    first, second = one().set_name("n"), two().set_name("n")
    assert [1, 2] == [run(first), run(second)]


# Classes.


def test_calls_on_an_object_run_in_the_order_in_which_they_are_written():
    """Whichever of them is handed over, and in whatever order."""
    account = Account(100)
    calls = [account.deposit(add(one(), number)) for number in range(4)]
    history = account.history()
    assert [[1, 2, 3, 4], 110, 106, 103, 101] == run(history, *reversed(calls))
    assert 103 == run(calls[1])


def test_two_objects_do_not_touch_each_other():
    """Each has its own state."""
    first, second = Account(), Account(50)
    second.deposit(first.deposit(5))
    first.deposit(second.deposit(1))
    assert [[5, 56], [5, 1]] == run(first.history(), second.history())


def test_a_call_may_take_the_result_of_the_call_before():
    """And items of it, in containers, too."""
    account = Account()
    first = account.deposit(2)
    second = account.deposit(first)
    account.deposit(account.history()[0])
    assert [2, 2, 2] == run(account.history())
    assert [2, 4] == run(first, second)


def test_the_result_of_an_object_is_none():
    """Its calls are what has values."""
    account = Account()
    call = account.deposit(3)
    assert run(Account()) is None
    assert [None, 3] == run(account, call)


def test_every_run_begins_with_a_new_object():
    """State doesn't leak from one run into the next."""
    account = Account()
    account.deposit(1)
    graph = LocalWorkflow(account.history(), workflow_name="w")
    assert [[1], [1]] == [graph.run(), graph.run()]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: Plain().hello(), "hello"),
        (lambda: Account().inherited(), ("inherited", 10)),
        (lambda: Account(3)(5), 15),
        (lambda: Account(balance=3)(rate=one()), 3),
        (lambda: Account().fixed(one()), ("static", 1)),
        (lambda: Account().made_by(), "Account"),
    ],
)
def test_methods(call, expected):
    """A class without __init__, inherited, static and class methods, and __call__."""
    assert expected == run(call())


@pytest.mark.parametrize(
    "name", ["withdraw", "balance", "kinds", "owner", "__enter__", "mro", "__subclasses__"]
)
def test_what_is_no_method_is_refused(name):
    """When it is written; the message has class and name."""
    with pytest.raises(AttributeError, match=f"'Account' has no method '{name}'"):
        getattr(Account(), name)


def test_an_object_of_a_class_without_call_can_not_be_called():
    """It is refused when it is written, and not when it runs."""
    with pytest.raises(AttributeError, match="'Plain' has no method '__call__'"):
        Plain()()


# What belongs to the graph of a workflow.


def test_handing_over_the_first_node_runs_all_that_follows():
    """Descendants of a handed node belong to the graph."""
    first = one()
    second = add(first, 1)
    third = add(second, 1)
    assert [first, second, third] == LocalWorkflow(first, workflow_name="w").find_nodes()


def test_the_graph_is_all_that_hangs_on_the_roots_of_what_is_handed_over():
    """Siblings belong to it, and other parents of descendants with their ancestors; no more."""
    root = one().set_name("root")
    handed = add(root).set_name("handed")
    sibling = add(root).set_name("sibling")
    other_root = two().set_name("other root")
    other = add(other_root).set_name("other parent")
    child = add(sibling, other).set_name("child")
    add(other_root).set_name("unrelated")
    add(other).set_name("unrelated, too")
    expected = [root, handed, sibling, other_root, other, child]
    for leaf in (root, handed, sibling):
        assert expected == LocalWorkflow(leaf, workflow_name="w").find_nodes()


def test_other_parents_of_descendants_run_as_well():
    """The result of a descendant is there, whatever else it needs."""
    ran = []

    @workflow
    def note(name, *parents):
        ran.append(name)

    root, other = note("root"), note("other root")
    parent = note("other parent", other)
    note("child", root, parent)
    run(root)
    assert ["root", "other root", "other parent", "child"] == ran


def test_a_call_on_an_object_brings_all_calls_on_it():
    """The constructor is a root of theirs."""
    account = Account()
    first = account.deposit(1)
    last = account.deposit(two())
    for leaf in (account, first, last):
        assert [
            "Account_0000",
            "Account.deposit_0000",
            "two_0000",
            "Account.deposit_0001",
        ] == names(leaf)


def test_nodes_added_later_belong_to_the_workflow():
    """The graph is looked at when it is used."""
    root = one()
    graph = LocalWorkflow(root, workflow_name="w")
    graph.run()
    add(root)
    assert ["one_0000", "add_0000"] == [name for name, _ in graph.graph_traversal()]


def test_parents_come_first():
    """In traversal, each node comes after all that it needs."""
    root = one()
    layer = [root]
    for _ in range(5):
        layer = [add(left, right) for left in layer[:3] for right in layer[:3]]
    place = {node: number for number, (_, node) in enumerate(names_and_nodes(layer[0]))}
    assert all(place[parent] < place[node] for node in place for parent in node.parents)


def names_and_nodes(node):
    return LocalWorkflow(node, workflow_name="w").graph_traversal()


@pytest.mark.parametrize("leaf", [None, 5, "one", [], [1], {}, object(), one, Account, one.func])
def test_what_is_no_node_is_refused_at_once(leaf):
    """When the workflow is made; a GraphError, which is a TypeError."""
    for leaves in ([leaf], [one(), leaf]):
        with pytest.raises(GraphError, match="made from nodes") as caught:
            LocalWorkflow(*leaves, workflow_name="w")
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, FunctionFuseError)


def test_the_refusal_says_what_to_do():
    """For a list of nodes, and for a function that has not been called."""
    with pytest.raises(GraphError, match="one by one"):
        LocalWorkflow([one(), two()], workflow_name="w")
    with pytest.raises(GraphError, match="has not been called"):
        LocalWorkflow(one, workflow_name="w")


def test_a_workflow_without_nodes_does_not_run():
    """Everything that needs the graph says so."""
    graph = LocalWorkflow(workflow_name="empty")
    for use in (graph.run, graph.find_nodes, lambda: graph.query("a")):
        with pytest.raises(GraphError, match="'empty' has no nodes: add"):
            use()


# Patterns.


def test_find_nodes():
    """A regular expression matches the whole name; None matches all; the order is that of calls."""
    nodes = [one().set_name(name) for name in ("ab", "b", "a b", "a.b", "b1", "b2")]
    graph = LocalWorkflow(*nodes, workflow_name="w")
    expected = {
        None: ["ab", "b", "a b", "a.b", "b1", "b2"],
        "b": ["b"],
        "b.*": ["b", "b1", "b2"],
        r"b\d": ["b1", "b2"],
        r"a\.b": ["a.b"],
        "a.b": ["a b", "a.b"],
        "ab|b": ["ab", "b"],
        "nothing": [],
    }
    actual = {pattern: [n.name for n in graph.find_nodes(pattern)] for pattern in expected}
    assert expected == actual
    assert nodes == graph.find_nodes()


def test_a_name_is_found_whatever_it_is():
    """Also a name that is no pattern, or means another one; and the errors of a wrong one."""
    names = ["loss (train)", "*", "a.b"]
    graph = LocalWorkflow(*[one().set_name(name) for name in names], workflow_name="w")
    assert [[name] for name in names] == [
        [node.name for node in graph.find_nodes(name)] for name in names
    ]
    with pytest.raises(OptionsError, match=r"'f_\[' is no regular expression .*; None matches"):
        graph.query("f_[")
    with pytest.raises(NoMatchError, match=r"matches as a whole \(did you mean 'loss \(train"):
        graph.query("loss (tran)")


@pytest.mark.parametrize("use", ["query", "log_nodes"])
def test_settings_for_nothing_are_refused(use):
    """A pattern that should pick nodes and picks none is an error that has it."""
    graph = LocalWorkflow(one(), workflow_name="the workflow")
    with pytest.raises(NoMatchError, match="'one'") as caught:
        getattr(graph, use)("one")
    assert "the workflow" in str(caught.value)
    assert isinstance(caught.value, LookupError)


def test_query_has_the_nodes():
    """In the order of `find_nodes`."""
    nodes = [one(), two(), one()]
    graph = LocalWorkflow(*nodes, workflow_name="w")
    assert [nodes[0], nodes[2]] == graph.query("one.*").nodes


# Replaced functions.


def test_replace_func():
    """The workflow calls another function for a node, and no other workflow does."""
    node = one()
    last = add(node, one())
    graph = LocalWorkflow(last, workflow_name="w")
    graph.replace_func(node, lambda: 100)
    assert 101 == graph.run()
    assert 2 == run(last)


def test_replace_func_takes_decorated_and_partial_functions():
    """A decorated function counts as the function itself; a partial one keeps its arguments."""
    node = one()
    graph = LocalWorkflow(node, workflow_name="w")
    graph.replace_func(node, two)
    assert 2 == graph.run()
    graph.replace_func(node, functools.partial(add.func, 3, y=4))
    assert 7 == graph.run()


def test_replace_func_refuses_what_can_not_be_replaced():
    """Methods, classes, picks, and things that can't be called."""
    account = Account()
    call = account.deposit(1)
    node = table()
    graph = LocalWorkflow(call, node, workflow_name="w")
    for wrong in (account, call, node["a"], None, "table_0000"):
        with pytest.raises(GraphError, match="function"):
            graph.replace_func(wrong, lambda: 5)
    with pytest.raises(GraphError, match="can't be called"):
        graph.replace_func(node, 5)
    assert [1, table.func()] == graph.run()


# Size.


def fan_out(count):
    root = one()
    return [add(root, number) for number in range(count)]


def chain(count):
    node = one()
    for _ in range(count):
        node = add(node, 1)
    return [node]


def fan_in(count):
    return [same([one() for _ in range(count)])]


def methods(count):
    account = Account()
    return [account.deposit(number) for number in range(count)]


SHAPES = [fan_out, chain, fan_in, methods]


@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_linear(shape, monkeypatch):
    """Ten times the nodes cost ten times the calls, and no node is compared with another."""
    compared = []
    monkeypatch.setattr(Node, "__eq__", lambda a, b: compared.append(1) or a is b)

    def calls_for(count):
        calls = 0

        def profile(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            run(*shape(count))
        finally:
            sys.setprofile(None)
        return calls

    small, large = calls_for(300), calls_for(3000)
    assert large < 11 * small
    assert [] == compared


def test_a_hundred_thousand_nodes_fanning_out_of_one():
    """They are built, walked and run."""
    nodes = fan_out(100_000)
    assert list(range(1, 100_001)) == run(*nodes)
    assert 100_001 == len(LocalWorkflow(nodes[0], workflow_name="w").find_nodes())


DEEP = """
import gc, sys, threading
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow

@workflow
def add(x, y=0):
    return (x[0] if isinstance(x, (list, tuple)) else x) + 1,

@workflow
class Counter:
    def __init__(self):
        self.count = 0
    def add(self, x=None):
        self.count += 1
        return self.count

def functions(count):
    node = add(0)
    for _ in range(count):
        node = add(node)
    return node[0]

def containers(count):
    node = add(0)
    for _ in range(count):
        node = add([node[0]], y=(node,))
    return node[0]

def methods(count):
    counter = Counter()
    node = counter.add()
    for _ in range(count):
        node = counter.add(node)
    return node

def main():
    for build, count in ((functions, 100_000), (containers, 20_000), (methods, 20_000)):
        last = build(count)
        workflow = LocalWorkflow(last, workflow_name="w")
        print(workflow.run(), len(workflow.report.nodes))
        del last, workflow
        print(gc.collect() > count)
    last = functions(100_000)
    gc.disable()
    del last

threading.stack_size(256 * 1024)
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""


def test_a_deep_chain_takes_no_stack():
    """Chains of up to 100,000 nodes are built, run and freed on a stack of 256 KiB."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEEP],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    expected = "100001 100001\nTrue\n20001 20001\nTrue\n20001 20002\nTrue\n"
    assert (0, expected, "") == (finished.returncode, finished.stdout, finished.stderr)


def test_a_graph_is_freed_when_nobody_holds_it():
    """Building graph after graph in one process doesn't fill the memory."""

    def alive():
        gc.collect()
        return sum(issubclass(type(thing), (Node, Pick)) for thing in gc.get_objects())

    before = alive()
    graph = LocalWorkflow(*fan_out(50), *methods(50), workflow_name="w")
    graph.run()
    assert before < alive()
    del graph
    assert before == alive()


# Messages.


def test_copying_an_object_does_not_recurse():
    """A copy stands for the same object."""
    account = Account()
    copied = copy.copy(account)
    calls = [account.deposit(1), copied.deposit(1), account.deposit(1)]
    assert [1, 2, 3] == run(*calls)
