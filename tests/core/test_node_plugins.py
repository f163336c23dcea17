"""Node plugins: what they do on either side, how they pickle, and what they refuse."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import (
    InitializerPlugin,
    Plugin,
    PluginCollection,
    RandomStatePlugin,
)
from functionfuse.errors import GraphError, OptionsError
from functionfuse.reuse.project import name_in_package
from functionfuse.reuse.values import digest_of
from functionfuse.storage.filestorage import FileStorage

IMPORTABLE = Path(__file__).parent / "importable"


@workflow
def decorated(seed=0):
    raise AssertionError("nothing is run here")


class Recorder(Plugin):
    """Notes what is called, in order."""

    def __init__(self, name, calls):
        self.name = name
        self.calls = calls

    def local_initialize(self):
        self.calls.append(f"{self.name} local")

    def remote_initialize(self):
        return lambda: self.calls.append(f"{self.name} remote")


class Wrong(Plugin):
    """Breaks the contract."""

    def remote_initialize(self):
        return "not callable"


noted = []


def note_seed(seed):
    """Note what a node would be seeded with."""
    noted.append(seed)


def seeds_of(plugin, nodes):
    """Return the seeds that as many nodes get."""
    seeds = []
    for _ in range(nodes):
        plugin.local_initialize()
        seeds.append(plugin.remote_initialize()())
    return seeds


def test_initializer_calls_its_function():
    """An initializer hands its function over, and calls nothing in the workflow's process."""
    calls = []
    plugin = InitializerPlugin(lambda: calls.append("remote"))
    plugin.local_initialize()
    call = plugin.remote_initialize()
    assert calls == []
    call()
    assert calls == ["remote"]


@pytest.mark.parametrize(
    ("low", "high", "seed", "name", "expected"),
    [
        (0, 10**6, 1, "replicate 3", 323693),
        (-5, 5, 0, "a/b, c", -4),
        (7, 7, 7, "n", 7),
        (-0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, 3, "\udcff", -8041660746064736742),
    ],
)
def test_a_nodes_seed_is_made_of_seed_and_name(low, high, seed, name, expected):
    """The numbers stand here, because whoever repeats a run of years ago needs the same ones."""
    plugin = RandomStatePlugin(low, high, seed, int)
    made = plugin.for_node(name)
    hashed = xxh3_64_intdigest(f"{seed}/{name}".encode("utf-8", "surrogatepass"))
    assert [expected] * 2 == [made.seed, low + hashed % (high - low + 1)]
    made.local_initialize()
    assert [expected, seed] == [made.remote_initialize()(), plugin.seed]


def test_a_subclass_seeds_its_own_way():
    """What it adds is there in the plugin of a node."""

    class Twice(RandomStatePlugin):
        def remote_initialize(self):
            return partial(int, self.seed * 2)

    made = Twice(0, 100, 5, int).for_node("n")
    assert made.remote_initialize()() == 2 * RandomStatePlugin(0, 100, 5, int).for_node("n").seed


def test_without_for_node_seed_counts_up():
    """For a plugin that calls this one: the first node gets the next seed, and so on."""
    assert seeds_of(RandomStatePlugin(0, 100, 41, int), 3) == [42, 43, 44]


def test_seed_wraps():
    """After the largest seed comes the smallest, the given seed included."""
    assert seeds_of(RandomStatePlugin(min=-1, max=1, seed=0, seed_func=int), 5) == [1, -1, 0, 1, -1]
    assert seeds_of(RandomStatePlugin(7, 7, 7, int), 2) == [7, 7]


def test_seed_is_that_of_its_node():
    """A call that is made late still has the seed that its node was given."""
    plugin = RandomStatePlugin(0, 100, 0, int)
    calls = []
    for _ in range(3):
        plugin.local_initialize()
        calls.append(plugin.remote_initialize())
    assert [call() for call in reversed(calls)] == [3, 2, 1]


def test_seed_range_may_be_that_of_64_bits():
    """Seeds beyond the machine's integers are exact."""
    low, high = -0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF
    assert seeds_of(RandomStatePlugin(low, high, low, int), 1) == [low + 1]
    assert seeds_of(RandomStatePlugin(low, high, high - 1, int), 2) == [high, low]


def test_whole_numbers_of_other_types_are_seeds():
    """Whatever stands for a whole number, as numpy's integers do, is taken for one."""

    class Whole:
        def __init__(self, value):
            self.value = value

        def __index__(self):
            return self.value

    plugin = RandomStatePlugin(Whole(0), Whole(9), Whole(4), int)
    assert seeds_of(plugin, 1) == [5]
    assert type(plugin.seed) is int


def test_collection_keeps_order():
    """A collection calls its plugins in the order given, on both sides."""
    calls = []
    plugin = PluginCollection(Recorder(name, calls) for name in "ab")
    plugin.local_initialize()
    plugin.remote_initialize()()
    assert calls == ["a local", "b local", "a remote", "b remote"]


def test_collection_skips_what_has_nothing_to_run():
    """A plugin that returns None has nothing to run, and so has a collection of such."""
    calls = []
    both = PluginCollection([Plugin(), PluginCollection([Recorder("a", calls)])])
    both.remote_initialize()()
    assert calls == ["a remote"]
    assert PluginCollection([Plugin(), PluginCollection([])]).remote_initialize() is None


def test_collection_is_fixed_when_made():
    """A list that changes later doesn't change the collection."""
    plugins = [Plugin()]
    collection = PluginCollection(plugins)
    plugins.append(Wrong())
    assert collection.remote_initialize() is None


def test_collection_stops_at_an_error():
    """An error of one plugin is raised as it is, and later plugins are not run."""
    calls = []

    def fail():
        raise ZeroDivisionError

    plugin = PluginCollection([InitializerPlugin(fail), Recorder("a", calls)])
    with pytest.raises(ZeroDivisionError):
        plugin.remote_initialize()()
    assert calls == []


def test_calls_pickle():
    """What goes to a worker pickles with plain pickle when the functions in it do."""
    noted.clear()
    plugin = PluginCollection([InitializerPlugin(dict), RandomStatePlugin(0, 10, 2, note_seed)])
    plugin.local_initialize()
    pickle.loads(pickle.dumps(plugin.remote_initialize()))()
    assert noted == [3]


def test_seed_of_random_reaches_the_module():
    """`random.seed` seeds the worker's module, though by itself it pickles as that of a copy."""
    plugin = RandomStatePlugin(0, 10, 2, random.seed)
    plugin.local_initialize()
    call = pickle.loads(pickle.dumps(plugin.remote_initialize()))
    state = random.getstate()
    try:
        call()
        drawn = random.random()
    finally:
        random.setstate(state)
    assert drawn == random.Random(3).random()


def test_plugins_pickle():
    """A plugin itself pickles, with the seed that it has reached."""
    plugin = RandomStatePlugin(0, 10, 2, int)
    plugin.local_initialize()
    copied = pickle.loads(pickle.dumps(PluginCollection([plugin]))).plugins[0]
    assert seeds_of(copied, 1) == [4]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((5, 4, 5, int), OptionsError, "min=5 is above max=4"),
        ((0, 4, 5, int), OptionsError, "seed=5 is not between min=0 and max=4"),
        ((0, 4, -1, int), OptionsError, "seed=-1"),
        ((0, 4, 1.5, int), GraphError, "seed is a whole number, not 1.5"),
        (("0", 4, 1, int), GraphError, "min is a whole number, not '0'"),
        ((0, None, 1, int), GraphError, "max is a whole number, not None"),
        ((0, 4, 1, None), GraphError, "seed_func is None"),
        ((0, 4, 1, decorated), GraphError, "not decorated with @workflow"),
    ],
)
def test_random_state_refuses(arguments, error, said):
    """Bad ranges are values that are wrong, and other arguments are of wrong types."""
    with pytest.raises(error, match=said):
        RandomStatePlugin(*arguments)
    assert issubclass(error, ValueError if error is OptionsError else TypeError)


@pytest.mark.parametrize("func", [None, "name", decorated])
def test_initializer_refuses(func):
    """An initializer needs a function that does something when it is called."""
    with pytest.raises(GraphError, match="func is"):
        InitializerPlugin(func)


@pytest.mark.parametrize("plugins", [Plugin(), 3, None])
def test_collection_is_made_from_a_list(plugins):
    """What is no list of plugins is refused, one bare plugin among them."""
    with pytest.raises(GraphError, match="list of plugins"):
        PluginCollection(plugins)


@pytest.mark.parametrize("item", [print, "plugin", None, Plugin])
def test_collection_names_what_is_no_plugin(item):
    """An item that is no plugin is refused by its place; a class is no plugin yet."""
    with pytest.raises(GraphError, match="item 1 of a PluginCollection"):
        PluginCollection([Plugin(), item])


def test_collection_checks_what_plugins_return():
    """A plugin that returns something that can't be called is named before the node is sent."""
    with pytest.raises(GraphError, match=r"Wrong object.*can't be called"):
        PluginCollection([Wrong()]).remote_initialize()


# In runs.


def bound(storage, nodes, *plugins):
    """Return a workflow whose nodes all have the plugins."""
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    if plugins:
        flow.query(None).set_plugins(*plugins)
    return flow


def told(flow):
    """Run, and return what was done with each node and why."""
    flow.run()
    return [f"{record.action} {record.reason}".strip() for record in flow.report.nodes]


@pytest.fixture
def storage(tmp_path):
    return FileStorage(tmp_path / "store")


@workflow
def draw():
    return random.random()


@workflow
def passed(value):
    return value


def seeds(seed):
    return RandomStatePlugin(0, 1 << 32, seed, random.seed)


EXECUTORS = {
    "in process": lambda: None,
    "threads": lambda: ThreadPoolExecutor(3),
    "processes": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("spawn")),
}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_a_resumed_run_draws_what_a_run_in_one_go_does(kind, tmp_path, monkeypatch):
    """Whatever was stored, and in whatever order the others are computed."""
    monkeypatch.syspath_prepend(IMPORTABLE)
    shared = importlib.import_module("worker_functions")
    executor = EXECUTORS[kind]()

    def made(folder):
        nodes = [shared.draw().set_name(f"replicate {number}") for number in range(6)]
        nodes.append(shared.draw(nodes[0], nodes[3]).set_name("after"))
        plugin = RandomStatePlugin(0, 1 << 32, 1, shared.seed_thread)
        return bound(FileStorage(tmp_path / folder), nodes, plugin)

    try:
        drawn = made("in one go").run(executor)
        assert drawn == made("resumed").run(executor)
        for name in ("replicate 0", "replicate 3", "replicate 4", "after"):
            FileStorage(tmp_path / "resumed").remove_task("w", name)
        resumed = made("resumed")
        assert drawn == resumed.run(executor)
        actions = [record.action for record in resumed.report.nodes]
    finally:
        if executor:
            executor.shutdown()
    computed, reused = "computed", "reused"
    assert [computed, reused, reused, computed, computed, reused, computed] == actions
    assert 7 == len(set(drawn))


def test_a_renamed_node_draws_another_number(storage):
    """A name is what tells nodes apart that do the same."""
    drawn = [bound(storage, [draw().set_name(name)], seeds(1)).run() for name in "ab"]
    assert len(set(drawn)) == 2


def test_a_plugin_counts(storage):
    """Setting and changing one computes the node again; removing one finds the earlier result."""

    def say(*plugins):
        flow = bound(storage, [draw()], *plugins)
        [planned] = flow.plan().nodes
        [done] = told(flow)
        assert done == f"{planned.action.removesuffix('e')}ed {planned.reason}".strip()
        return done

    def initialize():
        pass

    initializer = InitializerPlugin(initialize)
    assert say() == "computed nothing stored"
    assert say(seeds(1)) == "computed plugin 'RandomStatePlugin' is new"
    assert say(seeds(1)) == "reused"
    assert say(seeds(2)) == "computed plugin 'RandomStatePlugin' changed"
    assert say(seeds(2), initializer) == "computed plugin 'InitializerPlugin' is new"
    assert say(initializer, seeds(2)) == "computed the order of the plugins changed"
    assert say(PluginCollection([initializer, seeds(2)])) == "reused"
    assert say(seeds(2)) == "reused an earlier result"
    assert say(seeds(3)) == "computed plugin 'RandomStatePlugin' changed"
    assert say(seeds(2)) == "reused an earlier result"
    assert say(seeds(2), seeds(2)) == "computed plugin 'RandomStatePlugin' is new"
    assert say() == "reused an earlier result"


def test_only_what_a_plugin_changes_is_computed_again(storage):
    """What takes its node's result is, and no other node."""

    def say(seed):
        drawn = draw().set_name("a")
        flow = bound(storage, [passed(drawn).set_name("b"), draw().set_name("other")])
        flow.set_plugin("a", seeds(seed))
        return told(flow)

    assert ["computed nothing stored"] * 3 == say(1)
    changed = "computed plugin 'RandomStatePlugin' changed"
    assert [changed, "computed parent 'a' changed", "reused"] == say(2)


def test_a_plugin_of_an_objects_constructor_counts(storage):
    """Its calls are computed again."""

    @workflow
    class Dice:
        def __init__(self):
            self.eyes = random.random()

        def throw(self):
            return self.eyes

    def made(seed):
        flow = bound(storage, [Dice().set_name("dice").throw().set_name("throw")])
        flow.set_plugin("dice", seeds(seed))
        return flow

    assert ["computed nothing stored", "reused"] == [told(made(1))[1], told(made(1))[1]]
    assert told(made(2))[1].startswith("computed")


SETTING = 1


def set_one():
    """Initialize."""
    return SETTING


def test_an_initializer_counts_by_its_function(storage, monkeypatch):
    """As a node's function does: with the variables that it reads, and without its docstring."""

    def counted():
        return digest_of(InitializerPlugin(set_one))

    before = counted()
    monkeypatch.setattr(set_one, "__doc__", "Another.")
    monkeypatch.setattr(set_one, "__annotations__", {"return": int})
    assert before == counted()
    monkeypatch.setitem(globals(), "SETTING", 2)
    assert before != counted()


class Timer(Plugin):
    """Changes itself, and no result."""

    changes_results = False

    def __init__(self):
        self.times = 0

    def local_initialize(self):
        self.times += 1


def test_what_changes_no_result_does_not_count(storage):
    """Whether the class says so or the object, also in a collection."""
    timer, mine = Timer(), Own("2")
    mine.changes_results = False
    logger = InitializerPlugin(set_one, changes_results=False)
    collections = PluginCollection([timer, seeds(1), logger]), PluginCollection([Own("3")])
    collections[1].changes_results = False
    assert ["computed nothing stored"] == told(bound(storage, [draw()], seeds(1)))
    assert ["reused"] == told(bound(storage, [draw()], timer, seeds(1), logger, mine))
    assert ["reused"] == told(bound(storage, [draw()], *collections))
    assert ["reused"] == told(bound(storage, [draw()], *collections))


class Own:
    """A plugin of somebody who has not heard of the base class."""

    def __init__(self, text):
        self.text = text

    def local_initialize(self):
        pass

    def remote_initialize(self):
        return None


def test_a_users_own_class_counts(storage, monkeypatch):
    """By what it does, and its state."""
    assert ["computed nothing stored"] == told(bound(storage, [draw()], Own("1")))
    assert ["reused"] == told(bound(storage, [draw()], Own("1")))
    assert ["computed plugin 'Own' changed"] == told(bound(storage, [draw()], Own("2")))
    monkeypatch.setattr(Own, "local_initialize", lambda self: self.text.upper())
    assert ["computed plugin 'Own' changed"] == told(bound(storage, [draw()], Own("2")))


def test_what_can_not_be_told_from_another_runs_every_time(storage, tmp_path):
    """And the plan says which plugin it is."""
    with (tmp_path / "file").open("w") as file:
        for _ in range(2):
            [done] = told(bound(storage, [draw()], Own(file)))
    assert done.startswith("computed plugin 'Own': ")
    assert "TextIOWrapper" in done


class Counting(Plugin):
    """Prepares each node in another way, by an order that the next run may not have."""

    def __init__(self, inner=None):
        self.count = 0
        self.inner = inner

    def local_initialize(self):
        self.count += 1
        if self.inner:
            self.inner.local_initialize()

    def remote_initialize(self):
        return self.inner.remote_initialize() if self.inner else None


@pytest.mark.parametrize("inner", [None, seeds(1)])
def test_a_plugin_that_changes_itself_runs_its_nodes_every_time(storage, inner):
    """What was stored stands for another state than that in which it was made."""
    before = "nothing stored"
    for _ in range(2):
        flow = bound(storage, [draw(), draw()], Counting(inner))
        assert 2 == len(set(flow.run()))
        expected = f"{before}; plugin 'Counting' changed during the run"
        assert [expected] * 2 == [record.reason for record in flow.report.nodes]
        before = "plugin 'Counting' changed while the run that stored it went on"


class Named(Plugin):
    """Prepares each node with what it makes for it."""

    def __init__(self, texts):
        self.texts = texts

    def for_node(self, name):
        return InitializerPlugin(partial(note, f"{self.texts[name]} for {name}"))

    def local_initialize(self):
        raise AssertionError("it prepares nothing itself")


def note(text):
    random.calls = [*getattr(random, "calls", []), text]  # no variable of the project


@pytest.mark.parametrize("collected", [False, True])
def test_what_for_node_gives_prepares_and_counts(storage, monkeypatch, collected):
    """A node is computed again when its own plugin is another one, and no other node is."""

    def made(**texts):
        nodes = [draw().set_name(name) for name in texts]
        plugin = Named(texts)
        return bound(storage, nodes, PluginCollection([plugin, Own("")]) if collected else plugin)

    monkeypatch.setattr(random, "calls", [], raising=False)
    made(a="1", b="1").run()
    assert ["1 for a", "1 for b"] == random.calls
    changed = "computed plugin 'InitializerPlugin' changed"
    assert ["reused", changed] == told(made(a="1", b="2"))
    assert ["1 for a", "1 for b", "2 for b"] == random.calls


def test_for_node_must_give_a_plugin(storage):
    """One that forgets to return it is named."""

    class Forgets(Plugin):
        def for_node(self, name):
            pass

    for plugin in (Forgets(), PluginCollection([Forgets()])):
        with pytest.raises(GraphError, match=r"for_node\('a'\) of .*Forgets.* returned is None"):
            bound(storage, [draw().set_name("a")], plugin).run()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Plugin, "functionfuse.backends.plugins.Plugin"),
        (InitializerPlugin, "functionfuse.backends.plugins.InitializerPlugin"),
        (RandomStatePlugin, "functionfuse.backends.plugins.RandomStatePlugin"),
        (PluginCollection, "functionfuse.backends.plugins.PluginCollection"),
        (seeds(1).seed_func, "functionfuse.backends.plugins._seed_random"),
    ],
)
def test_paths_are_the_documented_ones(value, path):
    """In fingerprints and in pickles, which outlive the files that the classes are in."""
    module, _, name = path.rpartition(".")
    assert path == name_in_package(value, frozenset())
    assert f"c{module}\n{name}\n".encode() in pickle.dumps(value, 0)
    assert value is pickle.loads(f"c{module}\n{name}\n.".encode())
