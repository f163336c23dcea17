"""`LocalWorkflow.run(executor)`: the results of the serial run, wherever nodes are computed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from pathlib import Path
from random import Random

import cloudpickle
import pytest
from executors import Toy, processes
from loky import get_reusable_executor
from recorded import Calls

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.errors import GraphError, UnpicklableResultError, WorkerDiedError
from functionfuse.storage.filestorage import FileStorage

IMPORTABLE = Path(__file__).parent / "importable"


ran = Calls()


@pytest.fixture(autouse=True)
def _nothing_ran():
    ran.clear()


@pytest.fixture(scope="module")
def shared():
    """The functions that workers import; the processes inherit `sys.path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(IMPORTABLE)
        yield importlib.import_module("worker_functions")


KINDS = ["toy", "threads", "processes", "loky"]
OF_PROCESSES = ["processes", "loky"]


def bound(*nodes, storage=None, name="w"):
    made = LocalWorkflow(*nodes, workflow_name=name)
    made.set_storage(storage)
    return made


@workflow
def step(*parents, name=None):
    ran.append(name)
    return sum(parents) + 1


def node(name, *parents):
    return step(*parents, name=name).set_name(name)


def text_of(error):
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


# The same results.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_give_the_same_everywhere(executors, shared, tmp_path, kind, seed):
    """With a storage and without, twice; a serial run then finds everything stored."""
    handles = shared.build(Random(seed), 30)
    expected = [handle.value for handle in handles]
    executor = executors(kind)
    graph = bound(*[handle.made for handle in handles])
    assert expected == graph.run(executor)
    graph.set_storage(FileStorage(tmp_path))
    assert expected == graph.run(executor)
    names = graph.storage.list_tasks("w")
    for name in names[::3]:
        graph.storage.remove_task("w", name)
    assert expected == graph.run(executor=executor)
    assert expected == graph.run()
    assert names == graph.storage.list_tasks("w")
    assert all("Machine_" in name for name in graph.report.names("computed"))


@pytest.mark.parametrize("kind", KINDS)
def test_always_read_with_an_executor(executors, shared, tmp_path, kind):
    """What follows is given what was stored."""
    storage = FileStorage(tmp_path)
    storage.always_read = True
    numbers = [shared.square(number) for number in range(5)]
    assert 30 == bound(shared.total(*numbers), storage=storage).run(executors(kind))
    assert [0, 1, 4, 9, 16] == bound(*numbers, storage=storage).run(executors(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_lambdas_and_local_functions(executors, kind):
    """What no module has crosses by value, with what it closes over."""
    offset = 5

    @workflow
    class Local:
        def __init__(self, start):
            self.value = start

        def add(self, number):
            self.value += number + offset
            return self.value

    doubled = workflow(lambda x: 2 * x)(workflow(lambda: offset)().set_name("offset"))
    local = Local(doubled)
    local.add(1)
    assert [10, 21] == bound(doubled, local.add(0)).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_nodes_run_in_the_worker_processes(executors, shared, kind):
    """And not in this one."""
    found = bound(*[shared.process() for _ in range(4)]).run(executors(kind))
    assert os.getpid() not in found


@pytest.mark.parametrize("kind", KINDS)
def test_replaced_functions_and_node_plugins_cross_too(executors, shared, kind):
    """Both belong to the workflow, and hold wherever a node runs."""
    first, second = shared.square(3), shared.square(2)
    nodes = [shared.prepared(second) for _ in range(4)]
    graph = bound(shared.total(first, second), *nodes)
    graph.replace_func(first, lambda x: x + 100)
    graph.set_plugin("prepared_000[02]", InitializerPlugin(shared.prepare))
    assert [107, True, False, True, False] == graph.run(executors(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_and_a_deep_graph(executors, shared, kind):
    """More nodes than workers, and a chain; each node once."""
    count = 60
    wide = shared.total(*[shared.square(number) for number in range(count)])
    deep = wide
    for _ in range(count):
        deep = shared.total(deep, 1)
    expected = sum(number * number for number in range(count))
    assert [expected, expected + count] == bound(wide, deep).run(executors(kind))


def test_each_computed_node_is_submitted_once_and_no_reused_one(tmp_path):
    """What is stored costs the executor nothing."""
    a = node("a")
    last = node("last", *[node(f"n{number}", a) for number in range(10)])
    toy, graph = Toy(), bound(last, storage=FileStorage(tmp_path))
    assert [21, 21] == [graph.run(toy), graph.run(toy)]
    assert 12 == toy.submitted == len(ran)


def test_a_damaged_result_that_two_need_is_computed_once(tmp_path):
    """The second waits for it while the executor has it."""
    storage = FileStorage(tmp_path)
    parent = node("n")
    graph = bound(node("b", parent), node("c", parent), storage=storage)
    graph.run()
    path = tmp_path / "w" / "n"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    storage.remove_task("w", pattern="[bc]")
    ran.clear()
    assert [2, 2] == graph.run(Toy())
    assert ["n", "b", "c"] == ran


def test_independent_nodes_run_at_the_same_time():
    """Three nodes wait for each other."""
    barrier = threading.Barrier(3, timeout=300)
    nodes = [workflow(barrier.wait)().set_name(str(number)) for number in range(3)]
    with ThreadPoolExecutor(3) as executor:
        assert [0, 1, 2] == sorted(bound(*nodes).run(executor))


def test_calls_on_one_object_never_run_at_the_same_time():
    """They are chained, also where there are workers enough."""

    @workflow
    class Careful:
        def __init__(self):
            self.lock = threading.Lock()
            self.calls = []

        def enter(self, number):
            assert self.lock.acquire(blocking=False)
            self.calls.append(number)
            self.lock.release()
            return list(self.calls)

    objects = [Careful() for _ in range(4)]
    calls = [made.enter(number) for number in range(20) for made in objects]
    with ThreadPoolExecutor(4) as executor:
        results = bound(*calls).run(executor)
    assert [list(range(20))] * 4 == results[-4:]


def test_the_executor_is_not_shut_down():
    """It is the caller's, and runs the next workflow."""
    with ThreadPoolExecutor(1) as executor:
        assert [1, 1] == [bound(node("n")).run(executor) for _ in range(2)]
        assert 3 == executor.submit(lambda: 3).result()


def test_values_are_released_while_an_executor_runs():
    """As in a serial run."""
    references = []

    class Big:
        pass

    @workflow
    def make(*parents):
        alive = sum(reference() is not None for reference in references)
        references.append(weakref.ref(made := Big()))
        made.alive = alive
        return made

    last = made = make()
    for _ in range(5):
        last = make(last)
    with ThreadPoolExecutor(1) as executor:
        result = bound(last).run(executor)
    assert made is not last
    assert 1 == result.alive


@pytest.mark.parametrize("wrong", ["threads", 4, object()])
def test_what_is_no_executor_is_refused(wrong):
    """Before anything runs."""
    with pytest.raises(GraphError, match="Executor"):
        bound(node("n")).run(wrong)
    assert [] == ran


# Storing.


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_result_is_saved_where_it_was_computed(executors, shared, tmp_path, kind):
    """The process that ran the node writes its result; the others only read."""
    notes = tmp_path / "notes"
    storage = shared.NotingStorage(tmp_path / "store", notes)
    nodes = [shared.process().set_name(f"node {number}") for number in range(5)]
    results = bound(*nodes, storage=storage).run(executors(kind))
    saved = [line.split(" ", 1) for line in notes.read_text(encoding="utf-8").splitlines()]
    expected = {f"node {number}": pid for number, pid in enumerate(results)}
    assert expected == {name: int(pid) for pid, name in saved}
    assert os.getpid() not in expected.values()


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_result_that_is_read_back_does_not_travel(executors, shared, tmp_path, kind):
    """With `always_read`, it is pickled once: to be stored."""
    notes = tmp_path / "notes"
    storage = FileStorage(tmp_path / "store")
    storage.always_read = True
    result = bound(shared.traveller(str(notes)), storage=storage).run(executors(kind))
    assert isinstance(result, shared.Traveller)
    assert "pickled\n" == notes.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_stateful_objects_cross_and_their_calls_are_stored(executors, shared, tmp_path, kind):
    """Partly stored, they are replayed, with the same results, and saved once."""
    notes = tmp_path / "notes"
    notes.touch()
    storage = shared.NotingStorage(tmp_path / "store", notes)
    tally = shared.Tally(shared.square(10))
    calls = [tally.add(shared.square(number)) for number in range(5)]
    graph = bound(*calls, storage=storage)
    expected = [100, 101, 105, 114, 130]
    assert expected == graph.run(executors(kind))
    storage.remove_task("w", "Tally.add_0003")
    notes.write_text("")
    assert expected == graph.run(executors(kind))
    saved = [line.split(" ", 1)[1] for line in notes.read_text(encoding="utf-8").splitlines()]
    assert ["Tally.add_0003"] == saved


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_the_methods_of_an_object_run_in_the_workers(executors, shared, kind):
    """The object goes to where its call runs, and comes back."""
    tally = shared.Tally()
    for number in range(4):
        tally.add(number)
    assert os.getpid() not in bound(tally.places()).run(executors(kind))


# Failing.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "args"),
    [(ZeroDivisionError, ("by zero",)), (KeyError, ("k",)), (FileNotFoundError, (2, "missing"))],
)
def test_a_failing_node_raises_its_own_error(executors, shared, tmp_path, kind, error, args):
    """With the note of a serial run; what was computed before stays stored."""
    storage = FileStorage(tmp_path)
    first = shared.square(3)
    failing = shared.fail_after(first, error, *args).set_name("the node")
    later = shared.total(failing, first)
    with pytest.raises(error) as caught:
        bound(later, storage=storage).run(executors(kind))
    assert args == caught.value.args
    text = text_of(caught.value)
    assert "'the node'" in text
    assert "'w'" in text
    assert "worker_functions.fail_after" in text
    assert ("raise kind(*args)" in text) == (kind in OF_PROCESSES)
    assert ["square_0000"] == storage.list_tasks("w")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_whose_init_takes_something_else(executors, shared, kind):
    """It keeps its type, message and attributes on its way, as in a serial run."""
    with pytest.raises(shared.TwoArgumentsError, match="5: bad") as caught:
        bound(shared.fail(shared.TwoArgumentsError, 5, "bad")).run(executors(kind))
    assert 5 == caught.value.code
    assert "fail_0000" in text_of(caught.value)


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_an_error_that_is_pickled_as_another(executors, shared, kind):
    """It keeps its type."""
    with pytest.raises(shared.DisguisedError, match="hidden"):
        bound(shared.fail(shared.DisguisedError, "hidden")).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_an_error_that_can_not_be_pickled(executors, shared, kind):
    """A RuntimeError has its type and text, and the traceback of the worker."""
    with pytest.raises(RuntimeError, match="LockedError: locked") as caught:
        bound(shared.fail(shared.LockedError, "locked")).run(executors(kind))
    assert "raise kind(*args)" in text_of(caught.value)
    assert "fail_0000" in text_of(caught.value)


@pytest.mark.parametrize("kind", ["toy", "threads"])
def test_an_error_that_can_not_be_pickled_stays_in_its_process(executors, shared, kind):
    """Nothing crosses to another, so it is the very exception."""
    with pytest.raises(shared.LockedError, match="locked"):
        bound(shared.fail(shared.LockedError, "locked")).run(executors(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_node(executors, shared, kind, error):
    """Comes out as it is, and the executor can be used afterwards."""
    with pytest.raises(error) as caught:
        bound(shared.fail(error)).run(executors(kind))
    assert "fail_0000" in text_of(caught.value)
    assert 4 == bound(shared.square(2)).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_result_that_can_not_be_pickled(executors, shared, tmp_path, kind):
    """The error names the node; with a storage it is that of a serial run."""
    failing = shared.generator().set_name("the node")
    with pytest.raises(Exception, match="pickle") as caught:
        bound(failing).run(executors(kind))
    assert "'the node'" in text_of(caught.value)
    with pytest.raises(UnpicklableResultError, match="generator") as caught:
        bound(failing, storage=FileStorage(tmp_path)).run(executors(kind))
    assert "'the node'" in text_of(caught.value)
    assert 4 == bound(shared.square(2)).run(executors(kind))


@pytest.mark.parametrize("kind", ["toy", "threads"])
def test_a_result_that_can_not_be_pickled_is_no_matter_in_one_process(executors, shared, kind):
    """Without a storage nothing pickles it."""
    assert "generator" == bound(shared.kind_of(shared.generator())).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_an_argument_that_can_not_be_pickled(executors, shared, kind):
    """The error names the node that should have got it."""
    failing = shared.kind_of(threading.Lock()).set_name("the node")
    with pytest.raises(Exception, match="pickle") as caught:
        bound(failing).run(executors(kind))
    assert "'the node'" in text_of(caught.value)
    assert 4 == bound(shared.square(2)).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_result_that_can_not_be_unpickled(executors, shared, kind):
    """The error names the node, and the executor doesn't break."""
    with pytest.raises(ValueError, match="no number") as caught:
        bound(shared.stored_bomb()).run(executors(kind))
    assert "stored_bomb_0000" in text_of(caught.value)
    assert 4 == bound(shared.square(2)).run(executors(kind))


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_function_that_a_worker_can_not_import(executors, tmp_path, monkeypatch, kind):
    """The error names module and node, and the executor doesn't break."""
    (tmp_path / "only_here.py").write_text(
        "from functionfuse import workflow\n@workflow\ndef function():\n    return 1\n"
    )
    executor = executors(kind)
    bound(workflow(lambda: 0)()).run(executor)  # the workers are up, with the path of before
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    monkeypatch.delitem(sys.modules, "only_here")
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        bound(only_here.function()).run(executor)
    assert "function_0000" in text_of(caught.value)
    assert 1 == bound(workflow(lambda: 1)()).run(executor)


class Held(Future):
    """Its work has begun, and goes on when the workflow wants to stop."""

    begun = threading.Event()
    stops = threading.Event()

    def __init__(self, work):
        super().__init__()
        self.set_running_or_notify_cancel()
        threading.Thread(target=lambda: self.set_result(work())).start()
        self.begun.wait(20)

    def cancel(self):
        self.stops.set()
        return super().cancel()


class Holding(Toy):
    """Runs at once, but holds back the second that it is given."""

    def submit(self, fn, /, *args, **kwargs):
        if self.submitted == 1:
            self.submitted += 1
            return Held(fn)
        return super().submit(fn)


def test_the_first_failure_stops_and_what_runs_is_finished_and_stored(tmp_path):
    """No further node begins, the running one is waited for, and its result is there."""

    @workflow
    def fail():
        raise ZeroDivisionError

    storage = FileStorage(tmp_path)

    @workflow
    def until_stopped():
        Held.begun.set()
        Held.stops.wait(20)
        return 1

    first = node("first")
    running = until_stopped().set_name("running")
    graph = bound(first, running, node("after", running), fail(), storage=storage)
    executor = Holding()
    with pytest.raises(ZeroDivisionError):
        graph.run(executor)
    assert ["first", "running"] == storage.list_tasks("w")
    assert ["first"] == ran
    ran.clear()
    graph = bound(
        node("first"), node("after", until_stopped().set_name("running")), storage=storage
    )
    assert [1, 2] == graph.run()
    assert ["after"] == ran


class Full(Toy):
    """Runs the first that it is given, when it has four; the others never begin."""

    def __init__(self):
        super().__init__()
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        if not self.futures:
            self.first = fn
        self.futures.append(Future())
        if len(self.futures) == 4:
            try:
                self.futures[0].set_result(self.first())
            except Exception as error:  # noqa: BLE001  # as an executor does
                self.futures[0].set_exception(error)
        return self.futures[-1]


def test_what_has_not_begun_is_cancelled_and_not_waited_for():
    """After a failure, however long the executor has something else to do."""

    @workflow
    def fail():
        raise ZeroDivisionError

    executor = Full()
    graph = bound(fail(), *[node(str(number)) for number in range(3)])
    raised = []

    def run():
        try:
            graph.run(executor)
        except ZeroDivisionError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert 1 == len(raised)
    assert [False, True, True, True] == [future.cancelled() for future in executor.futures]
    assert [] == ran


# Executors that break.


@pytest.mark.parametrize("make", [processes, lambda: get_reusable_executor(2)], ids=OF_PROCESSES)
def test_a_worker_that_dies(shared, tmp_path, make):
    """The error names the node and the workflow; what was stored stays, and is reused."""
    storage = FileStorage(tmp_path)
    first = shared.square(3).set_name("first")
    dying = shared.die(first).set_name("dying")
    executor = make()
    try:
        with pytest.raises(WorkerDiedError, match="'dying'") as caught:
            bound(dying, storage=storage, name="the workflow").run(executor)
        assert "'the workflow'" in str(caught.value)
        assert "'first'" not in str(caught.value)
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value.__cause__, BrokenExecutor)
        assert ["first"] == storage.list_tasks("the workflow")

        with pytest.raises(WorkerDiedError, match="is broken: make a new one"):
            bound(dying, storage=storage, name="the workflow").run(executor)
        graph = bound(dying, storage=storage, name="the workflow")
        graph.replace_func(dying, lambda x: x + 1)
        assert 10 == graph.run()
    finally:
        executor.shutdown()


class Breaking(Toy):
    """Breaks at a certain submission, as a pool whose worker has died."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def submit(self, fn, /, *args, **kwargs):
        if self.submitted == self.at:
            raise BrokenExecutor("a child process terminated abruptly")
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("at", [0, 2])
def test_an_executor_that_is_found_broken_when_a_node_is_handed_over(tmp_path, at):
    """A worker can die between two submissions; a node that was refused is not to blame."""
    storage = FileStorage(tmp_path)
    nodes = [node(str(number)) for number in range(4)]
    with pytest.raises(WorkerDiedError, match="is broken: make a new one") as caught:
        bound(*nodes, storage=storage).run(Breaking(at))
    assert "node(s)" not in str(caught.value)
    assert isinstance(caught.value.__cause__, BrokenExecutor)
    assert [str(number) for number in range(at)] == storage.list_tasks("w")


def test_an_executor_that_was_shut_down():
    """Its own error, and the node that it refused."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown") as caught:
        bound(node("the node")).run(executor)
    assert "'the node'" in text_of(caught.value)


SCRIPT = """
import sys
from loky import get_reusable_executor
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

factor = 3

def times(x):
    return factor * x

class Value:
    def __init__(self, number):
        self.number = number

@workflow
def make(number):
    return Value(times(number))

@workflow
class Keeper:
    def __init__(self):
        self.values = []
    def keep(self, value):
        self.values.append(value.number)
        return list(self.values)

@workflow
def fail():
    class Local(Exception):
        pass
    raise Local("from the worker")

class NotYet(Exception):
    pass

@workflow(retries=2, retry_on=NotYet, retry_delay=0)
def third_time(folder):
    for number in range(3):
        try:
            open(f"{folder}-{number}", "x").close()
        except FileExistsError:
            continue
        if number < 2:
            raise NotYet
        return number

if __name__ == "__main__":
    keeper = Keeper()
    keeper.keep(make(1))
    kept = keeper.keep(make(2))
    double = workflow(lambda value: 2 * value.number)(make(5)).set_name("double")
    graph = LocalWorkflow(kept, double, workflow_name="w")
    graph.set_storage(FileStorage(sys.argv[1]))
    executor = get_reusable_executor(2)
    print(graph.run(executor), len(graph.report.names("computed")))
    print(graph.run(executor), graph.report.names("computed"))
    print(graph.storage.read_task("w", "make_0000").number)
    try:
        LocalWorkflow(fail(), workflow_name="w").run(executor)
    except Exception as error:
        print(type(error).__name__, error, "fail_0000" in error.__notes__[-1])
    graph = LocalWorkflow(third_time(sys.argv[1]), workflow_name="w")
    print(graph.run(executor), graph.report["third_time_0000"].attempts)
    executor.shutdown()
"""


def test_what_a_script_defines_runs_on_loky(tmp_path):
    """Functions, classes and lambdas of `__main__`, guarded as usual, stored and reused."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, script, tmp_path / "store"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    expected = "[[3, 6], 30] 7\n[[3, 6], 30] []\n3\nLocal from the worker True\n2 3\n"
    assert (0, expected, "") == (finished.returncode, finished.stdout, finished.stderr)


def test_threads_write_the_report():
    """It tells what was computed, as after a serial run."""
    graph = bound(node("b", node("a")))
    with ThreadPoolExecutor(2) as executor:
        graph.run(executor)
    assert ["a", "b"] == graph.report.names("computed")


@workflow(version="1")
def slow_number() -> int:
    time.sleep(0.3)
    return 20


@workflow(version="1")
def one_more(number: int) -> int:
    return number + 1


def test_a_value_that_is_wanted_only_after_its_node_began(tmp_path: Path) -> None:
    """A node that nobody needs is running when a stored result below it turns out to be damaged."""
    storage = FileStorage(tmp_path / "store")

    def flow() -> LocalWorkflow:
        first = slow_number().set_name("first")
        second = one_more(first).set_name("second")
        made = LocalWorkflow(one_more(second).set_name("third"), workflow_name="w")
        made.set_storage(storage)
        made.set_reuse("always")
        made.log_nodes("first")
        return made

    with ThreadPoolExecutor(2) as pool:
        assert 22 == flow().run(pool)
        path = tmp_path / "store" / "w" / "second"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        storage.remove_task("w", "third")
        assert 22 == flow().run(pool)
    assert 21 == storage.read_task("w", "second")


CHANGED_IN_WORKERS = {
    "remembered": "global 'MEMO'",
    "counted": "global 'COUNT'",
    "opened": "global 'worker_functions.LAST'",
    "called": "'seen' of the class 'Counter'",
}


@pytest.mark.parametrize("function", CHANGED_IN_WORKERS)
@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_what_changes_in_a_worker_is_not_reused(executors, shared, tmp_path, kind, function):
    """A memo of a module grows where the nodes run; then the next run computes them again.

    So for a number, for what can't be told from another, and for an attribute of a method's class.
    """
    executor, changed = executors(kind), CHANGED_IN_WORKERS[function]

    def run(numbers):
        make = getattr(shared, function)
        nodes = [make(number).set_name(str(number)) for number in numbers]
        graph = bound(*nodes, storage=FileStorage(tmp_path))
        return graph.run(executor), graph.report

    run(range(100, 108))
    _, report = run(range(8))
    reason = f"nothing stored; {changed} changed during the run"
    noticed = {str(number) for number in range(8) if report[str(number)].reason == reason}
    assert len(noticed) >= 7  # one of two workers may not have run until now
    why_not = f"{changed} changed while the run that stored it went on"
    for name in noticed:
        assert {"why not": why_not} == FileStorage(tmp_path).task_info("w", name).fingerprint
    _, report = run(range(8))
    assert noticed <= {*report.names("computed")}


class Remembering(Toy):
    """Takes calls for pure, as dask's executor does: of two with equal bytes, it makes one."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def submit(self, fn, /, *args, **kwargs):
        key = cloudpickle.dumps((fn, args, kwargs))
        if key not in self.known:
            self.known[key] = super().submit(fn, *args, **kwargs)
        return self.known[key]


def test_calls_are_never_taken_for_pure(tmp_path):
    """Equal nodes are computed once each, and a node that failed before is tried again."""

    def draw(path):
        with path.open("a") as file:
            file.write("x")
        return path.stat().st_size

    def fetch(path):
        if not path.exists():
            raise ConnectionError("down for a moment")
        return "fetched"

    executor, log, server = Remembering(), tmp_path / "log", tmp_path / "server"
    draws = [workflow(draw)(log) for _ in range(3)]
    assert [1, 2, 3] == LocalWorkflow(*draws, workflow_name="w").run(executor)
    local = LocalWorkflow(workflow(fetch)(server), workflow_name="w")
    with pytest.raises(ConnectionError):
        local.run(executor)
    server.touch()
    assert "fetched" == local.run(executor)


class Uncancellable(Future):
    """A future as parsl's, which can't be cancelled."""

    def cancel(self):
        raise NotImplementedError("Cancel not implemented")


class Stubborn(Executor):
    """Runs everything that it is given, in five threads."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(5)

    def submit(self, fn, /, *args, **kwargs):
        future = Uncancellable()

        def run():
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # as an executor does
                future.set_exception(error)

        self.pool.submit(run)
        return future


def test_what_ran_after_a_failure_is_reported_as_computed(tmp_path):
    """The node's own error is raised, and the report says of the others what the storage has."""
    executor, failed = Stubborn(), threading.Event()
    all_run = threading.Barrier(5, timeout=60)

    @workflow(version="1")
    def step(number):
        all_run.wait()
        if number > 0:
            failed.wait(60)
        if number in (0, 3):
            raise LookupError(f"no {number}")
        return number

    storage, nodes = FileStorage(tmp_path), [step(i).set_name(f"s{i}") for i in range(5)]
    local = LocalWorkflow(*nodes, workflow_name="w")
    local.set_storage(storage)
    local.listeners.append(lambda event: failed.set() if event.kind == "failed" else None)
    with pytest.raises(LookupError, match="no 0"), executor.pool:
        local.run(executor)
    actions = {record.name: record.action for record in local.report.nodes}
    expected = {"s0": "failed", "s3": "failed", **dict.fromkeys(("s1", "s2", "s4"), "computed")}
    assert expected == actions
    assert ["s1", "s2", "s4"] == storage.list_tasks("w")


class Unsized(Executor):
    """An executor that doesn't say how many workers it has."""

    def __init__(self, workers):
        self.pool = ThreadPoolExecutor(workers)

    def submit(self, function, /, *args, **kwargs):
        return self.pool.submit(function, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.pool.shutdown(wait, cancel_futures=cancel_futures)


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, Unsized])
def test_a_node_is_told_of_when_it_begins(executor):
    """What waits in the executor's queue has not been started."""
    events, go = [], threading.Event()

    def listen(event):
        if event.kind in ("started", "finished"):
            events.append((event.kind, event.node))
        if event.kind == "finished":
            go.set()

    def step(number):
        if number == 1:
            go.wait(60)  # so that no more than two have begun when the first has finished
        return number

    nodes = [workflow(step)(number).set_name(f"s{number}") for number in range(5)]
    local = LocalWorkflow(*nodes, workflow_name="w")
    local.listeners.append(listen)
    with executor(1) as pool:
        assert [0, 1, 2, 3, 4] == local.run(pool)
    first = events.index(("finished", "s0"))
    started = [event for event in events[:first] if event[0] == "started"]
    assert started in ([("started", "s0")], [("started", "s0"), ("started", "s1")])
    for name in ("s0", "s1", "s2", "s3", "s4"):
        assert [("started", name), ("finished", name)] == [e for e in events if e[1] == name]


def test_an_executor_that_broke_earlier(shared):
    """No node is to blame, and the cure is named."""
    with processes(1) as pool:
        with pytest.raises(WorkerDiedError, match=r"'dies'.* run again with a new executor"):
            LocalWorkflow(shared.die().set_name("dies"), workflow_name="w").run(pool)
        local = LocalWorkflow(shared.square(1).set_name("harmless"), workflow_name="w")
        with pytest.raises(WorkerDiedError, match="is broken: make a new one") as caught:
            local.run(pool)
    assert "harmless" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")


def test_a_node_that_runs_alone_has_started_before_it_is_done():
    """It is known while it runs, not when it is over."""
    started = threading.Event()
    node_ = workflow(lambda: started.wait(60))()
    local = LocalWorkflow(node_, workflow_name="w")
    local.listeners.append(lambda event: event.kind == "started" and started.set())
    with ThreadPoolExecutor(1) as pool:
        assert local.run(pool)
