"""Code and variables that are not as they were when the run began: here, and in workers.

`worker_zoo` has code of many forms, which workers import.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import worker_functions
import worker_zoo.nodes as zoo
from loky import ProcessPoolExecutor as Loky

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import CodeDiffersError
from functionfuse.reuse.identity import Identities
from functionfuse.serializers.portable import dumps
from functionfuse.storage.filestorage import FileStorage

IMPORTABLE = Path(__file__).parent / "importable"


FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
KINDS = ["spawn", "fork", "forkserver", "loky", "dask"]
PRELOADED = ["functionfuse.backends.builtin.localback", "functionfuse.kinds"]
HOW = {"module": ["-m", "worker_zoo.script"], "script": ["worker_zoo/script.py"]}
UNKNOWN = "what its code refers to changed during the run"


def bound(storage: Any, *nodes: Any) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow


def reasons(flow: LocalWorkflow) -> dict[str, str]:
    assert flow.report is not None
    return {node.name: node.reason.removeprefix("nothing stored; ") for node in flow.report.nodes}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


class Project:
    """A module that the driver imports, and a copy that workers find first."""

    def __init__(self, folder: Path, name: str, patch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.driver, self.worker = folder / "driver", folder / "worker"
        self.driver.mkdir()
        self.worker.mkdir()
        self._patch = patch

    def write(self, text: str, old: str = "", new: str = "") -> ModuleType:
        """Write both copies, in the workers' one with a text replaced; import the driver's."""
        text = "from functionfuse import workflow\n" + textwrap.dedent(text)
        assert old in text
        (self.driver / f"{self.name}.py").write_text(text)
        (self.worker / f"{self.name}.py").write_text(text.replace(old, new))
        self._patch.syspath_prepend(self.driver)
        sys.modules.pop(self.name, None)
        return importlib.import_module(self.name)

    def pool(self, workers: int = 1, kind: str = "forkserver") -> Executor:
        """Return processes that find the workers' copy."""
        find = worker_functions.find_first, (str(self.worker),)
        if kind == "loky":
            return Loky(workers, initializer=find[0], initargs=find[1])  # type: ignore[no-any-return]
        context = multiprocessing.get_context(kind)
        return ProcessPoolExecutor(workers, context, *find)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    # Once for all workers; a project's own modules each worker imports itself.
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    yield Project(tmp_path, "rates", monkeypatch)
    sys.modules.pop("rates", None)


# In this process.


def test_a_global_that_a_node_gives_another_value(project: Project, storage: FileStorage) -> None:
    """What reads it afterwards has no fingerprint: a fresh process would give another result."""
    rates = project.write("""
        COUNT = 0
        @workflow
        def count(x):
            global COUNT
            COUNT += 1
            return COUNT
        @workflow
        def read(x):
            return COUNT
        @workflow
        def other(x):
            return x
    """)
    nodes = [rates.count(1), rates.count(2), rates.read(1), rates.other(1)]
    flow = bound(storage, *nodes)
    assert [1, 2, 2, 1] == flow.run()
    changed = "global 'COUNT' changed during the run"
    expected = {"count_0000": "nothing stored", "count_0001": changed, "read_0000": changed}
    assert {**expected, "other_0000": "nothing stored"} == reasons(flow)
    rates.COUNT = 0
    assert ["count_0001", "read_0000"] == bound(storage, *nodes).plan().names("compute")


def test_each_of_several_defaults_can_change(project: Project, storage: FileStorage) -> None:
    """Not only the last one is looked at."""
    rates = project.write("""
        @workflow
        def remember(x, seen=[], others=[]):
            seen.append(x)
            return len(seen)
    """)
    flow = bound(storage, rates.remember(1), rates.remember(2))
    assert [1, 2] == flow.run()
    assert "default 'seen' of 'remember' changed during the run" == reasons(flow)["remember_0001"]


def test_flags_that_are_combined_change_nothing(project: Project, storage: FileStorage) -> None:
    """Python remembers the combination in the class; it is no other class for that."""
    rates = project.write("""
        import enum
        class Access(enum.Flag):
            READ = 1
            WRITE = 2
        @workflow
        def both(x):
            return (Access.READ | Access.WRITE).value + x
    """)
    nodes = [rates.both(1), rates.both(2)]
    bound(storage, *nodes).run()
    assert ["both_0000", "both_0001"] == bound(storage, *nodes).plan().names("reuse")


# Other code in a worker.

OLD = """
    @workflow
    def scaled(x):
        print("called")
        return x * 1000
"""


@pytest.mark.parametrize("kind", ["spawn", "forkserver", "loky"])
def test_a_worker_with_older_code(project: Project, storage: FileStorage, kind: str) -> None:
    """It is an error that names both places; nothing is called or stored, and the pool goes on."""
    rates = project.write(OLD, "1000", "2")
    with project.pool(kind=kind) as pool:
        flow = bound(storage, rates.scaled(3).set_name("a"))
        with pytest.raises(CodeDiffersError, match=r"has another rates\.scaled") as caught:
            flow.run(pool)
        assert [] == storage.list_tasks("w")
        assert 5 == bound(storage, workflow(lambda: 5)()).run(pool)
    text = str(caught.value)
    assert (
        f"({project.worker / 'rates.py'}) than the driver ({project.driver / 'rates.py'})" in text
    )
    assert "nothing was stored. Ship the driver's code to the workers" in text
    assert "'a' of workflow 'w'" in "".join(caught.value.__notes__)
    assert isinstance(caught.value, RuntimeError)
    assert 3000 == flow.run()


def test_in_one_process_nothing_is_compared(project: Project, storage: FileStorage) -> None:
    """Threads have the very code, whatever has become of it since."""
    rates = project.write(OLD)
    with ThreadPoolExecutor(1) as pool:
        flow = bound(storage, rates.scaled(3))
        rates.scaled.func.__code__ = (lambda x: x).__code__
        assert 3 == flow.run(pool)


# Of each form: what the workers' copy has instead, and what is said of it.
FORMS = [
    ("helpers", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("helpers", "lambda x: x + 1", "lambda x: x + 2", "forms.<lambda>"),
    ("helpers", "scaled_by(2)", "scaled_by(3)", "'factor' in the closure of"),
    ("helpers", "x * LIMIT", "x - LIMIT", "forms.cached"),
    ("helpers", "count = 0", "count = 1", "'count' in the closure of 'worker_zoo.forms.counter"),
    ("helpers", "LIMIT = 10", "LIMIT = 11", "forms.LIMIT (11) than the driver (10)"),
    (
        "decorated",
        "return function(*args, **k",
        "return 1 + function(*args, **k",
        "forms.decorated",
    ),
    ("decorated", "(0, 1)", "(0, 2)", "forms.BOUNDS"),
    ("decorated", '"3.5"', '"3.6"', "forms.BOUNDS"),
    ("decorated", "mul, 10", "mul, 11", "another worker_zoo.forms.tenfold than the driver;"),
    ("reads", '"factor": 3', '"factor": 4', "global 'worker_zoo.forms.SETTINGS'"),
    ("reads", "arange(6.0)", "ones(6)", "global 'worker_zoo.forms.WEIGHTS'"),
    ("handled", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("handled", '"lambda")', '"other")', "global 'worker_zoo.forms.HANDLERS'"),
    ("handled", "yield x\n", "yield x + 1\n", "forms.opened"),
    ("classes", "rate: float = 0.5", "rate: float = 0.6", "forms.Model"),
    ("classes", "self.rate * x", "x + self.rate", "forms.Model.predict"),
    ("classes", "return sum(self.parts)", "return 0", "forms.Model.shift"),
    ("classes", '{"a": 1}', '{"a": 2}', "'known' of the class 'worker_zoo.forms.Model'"),
    ("classes", "RED = 1", "RED = 5", "forms.Color"),
    ("classes", "value * x", "value + x", "forms.Color.stronger"),
    ("classes", 'return "int"', 'return "number"', "forms._"),
    ("classes", "frozen=True, ", "", "forms.Point"),
    ("classes", "y: int = 0", "y: int = 1", "forms.Point"),
    ("classes", "x: int = 3", "x: int = 4", "forms.Record.__"),
    ("classes", "ge=0", "ge=1", "forms.Schema"),
    ("classes", "        return value\n", "        return 1\n", "forms.Schema.check"),
    ("classes", "return 1\n", "return 2\n", "forms.Shape.unit"),
    ("classes", "cls(*args)", "cls(*args[:1])", "forms.Shape.made"),
    ("classes", "area() / 2", "area() / 3", "forms.Square.half"),
    ("classes", "@Shape.register\n", "", "what its code refers to"),
    ("classes", '"made_by": "Meta"', '"made_by": "Other"', "forms.Meta.__new__"),
    ("classes", "return self.name", "return self.name * 2", "forms.Described.__get__"),
    ("flags", "READ = auto()", "READ = 4", "forms.Access"),
    ("flags", "date(2020", "date(2021", "forms.SINCE"),
    ("imports inside", "scaled_by(2)", "scaled_by(3)", "'factor' in the closure of"),
    ("whole module", "date(2020", "date(2021", "forms.SINCE"),
    ("looks at types", "Return more", "Return less", "what its code refers to"),
    ("takes", "self.rate * x", "x + self.rate", "forms.Model.predict"),
    ("takes", "y: int = 0", "y: int = 1", "forms.Point"),
    ("takes", "RED = 1", "RED = 5", "forms.Color"),
    ("takes", "area() / 2", "area() / 3", "forms.Square.half"),
    ("takes", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("partial", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("bound method", "return sum(self.parts)", "return 0", "forms.Model.shift"),
    ("undecorated", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("callable object", "return x + len", "return x - len", "forms.Special.__call__"),
    ("method", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("local", "return x + 1\n", "return x + 2\n", "forms.plain"),
    ("local", "LIMIT = 10", "LIMIT = 11", "forms.LIMIT"),
    ("local", "GREEN = auto()", "GREEN = 7", "forms.Color"),
    ("local class", "self.rate * x", "x + self.rate", "forms.Model.predict"),
    # And nothing is said of the rest.
    ("helpers", '"""Return more."""', '"""Return less."""  # far less', ""),
    ("helpers", "self.rate * x", "x + self.rate", ""),
    ("lambda", "factor * function", "factor + function", ""),  # it goes by value
    ("versioned", "LIMIT = 10", "LIMIT = 11", ""),
    ("ignoring", "LIMIT = 10", "LIMIT = 11", ""),
]


@pytest.fixture(scope="module")
def looker() -> Iterator[Executor]:
    """A process that compares what it is handed with what a folder has."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def sent(folder: Path, node: Any, held: Any = ()) -> tuple[str, bytes]:
    """Return what `worker_functions.compared` is handed for a node."""
    identities = Identities({})
    identities.own(node)
    called = identities._function(node)
    return str(folder), dumps((identities.expected(node, held), called))


def write_forms(folder: Path, old: str, new: str) -> None:
    """Write a copy in which a text is replaced."""
    shutil.copytree(IMPORTABLE / "worker_zoo", folder / "worker_zoo")
    file = folder / "worker_zoo" / "forms.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("form", "old", "new", "said"), FORMS)
def test_code_of_every_form(
    looker: Executor, tmp_path: Path, form: str, old: str, new: str, said: str
) -> None:
    """What is imported is compared all the way down, however it is reached."""
    write_forms(tmp_path, old, new)
    found = looker.submit(worker_functions.compared, *sent(tmp_path, zoo.build()[form])).result()
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.battery
@pytest.mark.parametrize(
    ("kind", "how"),
    [(kind, how) for kind in KINDS for how in HOW]
    if FULL
    else [("spawn", "script"), ("loky", "module")],
)
def test_no_worker_with_the_same_code_is_refused(tmp_path: Path, kind: str, how: str) -> None:
    """Whatever form code has, and whether it goes to the worker by value or is imported there."""
    if kind == "dask":
        pytest.importorskip("distributed", reason="dask is not installed for this Python")
    finished = subprocess.run(
        [sys.executable, *HOW[how], kind, tmp_path / "store"],
        cwd=IMPORTABLE,
        env={**os.environ, "PYTHONPATH": str(IMPORTABLE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (0, "34\n", "") == (finished.returncode, finished.stdout, finished.stderr)


def test_a_version_stands_for_the_code(project: Project, storage: FileStorage) -> None:
    """A worker whose function has another one is refused."""
    text = """
        @workflow(version="2")
        def scaled(x):
            return x * 1000
    """
    rates = project.write(text, "1000", "10 ** 3")
    with project.pool() as pool:
        assert 3000 == bound(storage, rates.scaled(3)).run(pool)
    rates = project.write(text, '"2"', '"1"')
    with project.pool() as pool, pytest.raises(CodeDiffersError, match=r"rates\.scaled"):
        bound(storage, rates.scaled(4)).run(pool)


@pytest.mark.parametrize("there", ["1.0", "2.0", ""])
def test_a_package_whose_version_counts(
    project: Project, storage: FileStorage, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """A worker with another version is refused; one without the package doesn't need it."""
    rates = project.write("""
        @workflow(packages=["marked_package"])
        def scaled(x):
            return x
    """)
    if there:
        (project.worker / "marked_package.py").write_text(f"__version__ = {there!r}")
    monkeypatch.setitem(sys.modules, "marked_package", ModuleType("marked_package"))
    sys.modules["marked_package"].__version__ = "1.0"  # type: ignore[attr-defined]
    with project.pool() as pool:
        flow = bound(storage, rates.scaled(3))
        if there == "2.0":
            with pytest.raises(CodeDiffersError, match=r"marked_package \(2.0\) than the .*1\.0"):
                flow.run(pool)
        else:
            assert 3 == flow.run(pool)


def test_classes_in_results(looker: Executor, tmp_path: Path) -> None:
    """They count for the nodes that take them, wherever these are defined."""
    write_forms(tmp_path, "self.rate * x", "x + self.rate")
    node = workflow(lambda model: model.predict(1))(zoo.build()["partial"])
    for names, said in ([], ""), (["worker_zoo.forms:Model"], "another worker_zoo.forms.Model"):
        held = [(names, False)] if names else []
        found = looker.submit(worker_functions.compared, *sent(tmp_path, node, held)).result()
        assert (bool(said), said in found) == (bool(found), True)


def test_classes_in_arguments(project: Project, storage: FileStorage) -> None:
    """They count for the nodes that take them, wherever these are defined."""
    text = """
        class Model:
            def predict(self):
                return 1000
    """
    rates = project.write(text, "1000", "2")
    predict = workflow(lambda models: models["a"].predict())
    with (
        project.pool() as pool,
        pytest.raises(CodeDiffersError, match=r"another rates\.Model\.predict"),
    ):
        bound(storage, predict({"a": rates.Model()})).run(pool)
    assert [] == storage.list_tasks("w")


def test_a_function_that_a_worker_lacks(project: Project, storage: FileStorage) -> None:
    """It is said before the function that needs it is called."""
    rates = project.write("def scaled(x):\n    return x * 1000\n", "def scaled", "def other")
    namespace = {"rates": rates, "__name__": "__main__"}
    exec("def call(x):\n    return rates.scaled(x)", namespace)
    node = workflow(namespace["call"])(1)
    with (
        project.pool() as pool,
        pytest.raises(CodeDiffersError, match=r"has another rates\.scaled .* than the driver"),
    ):
        bound(storage, node).run(pool)


def test_a_worker_that_has_the_project_installed(
    project: Project, storage: FileStorage, tmp_path: Path
) -> None:
    """Its code is compared as the driver's is, which lies in a checkout."""
    rates = project.write(OLD)
    project.worker = project.worker.rename(tmp_path / "site-packages")
    with project.pool() as pool:
        assert 3000 == bound(storage, rates.scaled(3).set_name("a")).run(pool)
    file = project.worker / "rates.py"
    file.write_text(file.read_text().replace("1000", "2"))
    with project.pool() as pool, pytest.raises(CodeDiffersError, match="site-packages"):
        bound(storage, rates.scaled(3).set_name("b")).run(pool)


def test_packages_that_are_named_as_own(project: Project, storage: FileStorage) -> None:
    """They are compared, wherever they are installed."""
    project.driver = project.driver.rename(project.driver.parent / "site-packages")
    rates = project.write("def scaled(x):\n    return x * 1000\n", "1000", "2")
    node = workflow(partial(rates.scaled))(3)
    with project.pool() as pool:
        assert 6 == bound(storage, node).run(pool)
        storage.remove_workflow("w")
        flow = bound(storage, node)
        flow.set_reuse("unchanged", own=["rates"])
        with pytest.raises(CodeDiffersError, match=r"another rates\.scaled"):
            flow.run(pool)


def test_what_replaces_a_function(project: Project, storage: FileStorage) -> None:
    """It is compared, and the node's own function is not."""
    rates = project.write("def scaled(x):\n    return x * 1000\n", "1000", "2")
    node = workflow(lambda x: x)(3)
    flow = bound(storage, node)
    flow.replace_func(node, rates.scaled)
    with project.pool() as pool, pytest.raises(CodeDiffersError, match=r"another rates\.scaled"):
        flow.run(pool)


# Other variables in a worker.

SETTING = """
    import os
    K = int(os.environ["FUNCTIONFUSE_TEST_K"])
    @workflow
    def scaled(x):
        return x * K
    @workflow(ignore=["K"])
    def ignoring(x):
        return x * K
"""


def test_a_constant_of_the_machine(
    project: Project, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error that says how to name it; named, it doesn't count."""
    monkeypatch.setenv("FUNCTIONFUSE_TEST_K", "3")
    rates = project.write(SETTING)
    monkeypatch.setenv("FUNCTIONFUSE_TEST_K", "5")
    with project.pool(kind="spawn") as pool:  # which has this process's variables
        with pytest.raises(CodeDiffersError) as caught:
            bound(storage, rates.scaled(1)).run(pool)
        assert 5 == bound(storage, rates.ignoring(1)).run(pool)
    assert "has another rates.K (5) than the driver (3); nothing was stored." in str(caught.value)
    assert "@workflow(ignore=['rates.K'])" in str(caught.value)


MEMO = """
    MEMO = {}
    COUNT = 0
    class Cache:
        kept = []
    @workflow
    def memo(x):
        MEMO[x] = x
        return len(MEMO)
    @workflow
    def count(x):
        global COUNT
        COUNT += 1
        return COUNT
    @workflow
    def keep(x):
        Cache.kept.append(x)
        return len(Cache.kept)
    @workflow
    def default(x, seen=[]):
        seen.append(x)
        return len(seen)
    @workflow
    def read(x):
        return COUNT + len(MEMO) + len(Cache.kept) + x
    @workflow
    def after(x):
        return x
    @workflow
    class Reader:
        def __init__(self):
            self.first = len(MEMO)
        def read(self, x):
            return self.first
    @workflow
    class Keeper:
        def keep(self, x):
            MEMO[x] = x
            return len(MEMO)
"""


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("memo", "global 'MEMO'"),
        ("count", "global 'COUNT'"),
        ("keep", "'kept' of the class 'Cache'"),
        ("default", "default 'seen' of 'default'"),
    ],
)
def test_a_variable_that_a_node_changes_in_a_worker(
    project: Project, storage: FileStorage, name: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first call has a fingerprint, what follows has none; one line of the log names it."""
    rates = project.write(MEMO)
    nodes = [getattr(rates, name)(x).set_name(str(x)) for x in range(3)]
    last = rates.after(nodes[1]).set_name("after")
    with project.pool() as pool:
        flow = bound(storage, *nodes, last)
        assert [1, 2, 3, 2] == flow.run(pool)
    changed = f"{what} changed during the run"
    expected = {"0": "nothing stored", "1": changed, "2": changed, "after": "nothing stored"}
    assert expected == reasons(flow)
    assert 1 == sum(what in record.getMessage() for record in caplog.records)
    plan = bound(storage, *nodes, last).plan()
    assert (["1", "2"], ["after"]) == (plan.names("compute"), plan.names("maybe"))
    assert f"{what} changed while the run that stored it went on" == plan["1"].reason


WAYS = {
    "global 'COUNT'": """
        COUNT = 0
        def read(): return COUNT
        def change():
            global COUNT
            COUNT += 1
    """,
    "global 'PAIR'": """
        PAIR = (0, 1)
        def read(): return PAIR
        def change():
            global PAIR
            PAIR = (1, 1)
    """,
    "global 'MODEL'": """
        MODEL = None
        def read(): return MODEL is None
        def change():
            global MODEL
            MODEL = object()
    """,
    "global 'MEMO'": """
        MEMO = {}
        def read(): return len(MEMO)
        def change(): MEMO["a"] = {1, 2}
    """,
    "class 'rates.Box'": """
        class Box:
            count = 0
        def read(): return Box.count
        def change(): Box.count += 1
    """,
    "class 'rates.Box' ": """
        class Box:
            only = None
        def read(): return Box.only is None
        def change(): Box.only = Box()
    """,
    "'kept' of the class 'Box'": """
        class Box:
            kept = []
        def read(): return Box.kept
        def change(): Box.kept.append(1)
    """,
    "'count' in the closure of 'counter.<locals>.inner'": """
        def counter():
            count = 0
            def inner(step):
                nonlocal count
                count += step
                return count
            return inner
        step = counter()
        def read(): return step(0)
        def change(): step(1)
    """,
    "the attributes of 'read'": """
        def read(): return getattr(read, "calls", 0)
        def change(): read.calls = 1
    """,
    "default 'seen' of 'read'": """
        def read(seen=[]): return len(seen)
        def change(): read.__defaults__[0].append(1)
    """,
    "what is registered with 'Shape'": """
        import abc
        class Shape(abc.ABC): pass
        def read(): return issubclass(int, Shape)
        def change(): Shape.register(int)
    """,
    "global 'strategy'": """
        strategy = None
        def fast(): return 1
        def read(): return strategy() if strategy else 0
        def change():
            global strategy
            strategy = fast
    """,
    "global 'helper'": """
        def helper(): return 0
        def read(): return helper()
        def change():
            global helper
            helper = lambda: 1
    """,
    "'x' in the closure of 'made.<locals>.<lambda>'": """
        def made(x): return lambda: x
        MEMO = {"a": made(3)}
        def read(): return MEMO["a"]()
        def change(): MEMO["a"] = made(4)
    """,
    "global 'HANDLERS'": """
        def one(): return 1
        def two(): return 2
        HANDLERS = {"a": one}
        def read(): return HANDLERS["a"]() + len(HANDLERS)
        def change(): HANDLERS["a"] = two
    """,
    "": """
        import enum, functools, logging, threading
        class Access(enum.Flag):
            READ = 1
            WRITE = 2
        lock = threading.Lock()
        log = logging.getLogger("rates")
        @functools.lru_cache
        def cached(x): return x
        class Lazy:
            @functools.cached_property
            def slow(self): return 1
        def read():
            with lock: return (Access.READ | Access.WRITE).value + cached(1) + Lazy().slow
        def change():
            read()
            log.warning("changed")
    """,
}
NODES = """
@workflow
def reads(x):
    return read()
@workflow
def changes(x):
    change()
    return x
"""


@pytest.fixture(scope="module")
def find_one() -> Iterator[Callable[[str], Executor]]:
    """Return a function that gives a process for a folder: one is enough for all."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def found(folder: str) -> Executor:
            pool.submit(worker_functions.start_anew, folder, "rates").result()
            return pool

        yield found


@pytest.mark.parametrize("what", WAYS)
def test_what_another_function_changes_in_a_worker(
    project: Project, storage: FileStorage, find_one: Callable[[str], Executor], what: str
) -> None:
    """It is no other code, also if a function is called there for the first time afterwards."""
    rates = project.write(textwrap.dedent(WAYS[what]) + NODES)
    what = what.rstrip()
    expected = f"{what} changed during the run" if what else "nothing stored"
    pool = find_one(str(project.worker))
    first, change = rates.reads(1).set_name("first"), rates.changes(1).set_name("change")
    for nodes in ([change], [first]):
        flow = bound(storage, *nodes)
        flow.run(pool)
    assert reasons(flow) in ({"first": expected}, {"first": expected and UNKNOWN})
    pool = find_one(str(project.worker))
    for number in range(2):
        flow = bound(storage, rates.reads(2).set_name(f"fresh {number}"))
        flow.run(pool)
        assert {f"fresh {number}": "nothing stored"} == reasons(flow)
        bound(storage, rates.changes(2 + number).set_name(f"change {number}")).run(pool)
        flow = bound(storage, rates.reads(3).set_name(f"later {number}"))
        flow.run(pool)
        assert {f"later {number}": expected} == reasons(flow)
        pool = find_one(str(project.worker))


@pytest.mark.parametrize("what", WAYS)
def test_what_another_function_changes_here(
    project: Project, storage: FileStorage, what: str
) -> None:
    """In this process it is the same."""
    rates = project.write(textwrap.dedent(WAYS[what]) + NODES)
    nodes = [rates.reads(1).set_name("before"), rates.changes(1), rates.reads(2).set_name("after")]
    flow = bound(storage, *nodes)
    flow.run()
    found = reasons(flow)
    what = what.rstrip()
    expected = f"{what} changed during the run" if what else "nothing stored"
    assert ("nothing stored", expected) == (found["before"], found["after"])


def test_a_registry_that_is_longer_in_the_driver(project: Project, storage: FileStorage) -> None:
    """Code is met in another order then, and is no other code for that."""
    rates = project.write("""
        import enum, functools
        HANDLERS = {}
        class Color(enum.Enum):
            RED = 1
        DEFAULT = Color.RED
        def scaled(factor, x): return factor * x
        double = functools.partial(scaled, 2)
        @workflow
        def read(x):
            return len(HANDLERS) * x * DEFAULT.value * double(x)
    """)
    exec("def more(x): return x\nHANDLERS['more'] = more", vars(rates))
    with project.pool() as pool:
        flow = bound(storage, rates.read(1))
        assert 0 == flow.run(pool)
    assert {"read_0000": "global 'HANDLERS' changed during the run"} == reasons(flow)


@pytest.mark.parametrize("here", ["MEMO['a'] = made(3)", ""])
@pytest.mark.parametrize("there", ["made(4)", "(number for number in range(3))"])
def test_memos_with_other_code_in_them(
    project: Project, storage: FileStorage, here: str, there: str
) -> None:
    """What was put there when nodes ran is no other code, even if it can't be told."""
    text = f"""
        MEMO = {{}}
        def made(x): return lambda: x
        def read(): return len(MEMO)
        def change(): MEMO["a"] = {there}
    """
    rates = project.write(textwrap.dedent(text) + NODES)
    exec(here, vars(rates))
    with project.pool() as pool:
        bound(storage, rates.changes(1).set_name("change")).run(pool)
        flow = bound(storage, rates.reads(1).set_name("read"))
        assert 1 == flow.run(pool)
    found = reasons(flow)["read"]
    assert found.endswith(" changed during the run")
    assert "MEMO'" in found or "'x' in the closure of" in found


def test_what_the_driver_had_changed_before(project: Project, storage: FileStorage) -> None:
    """A worker that starts with an empty memo is no error, and its result has no fingerprint."""
    rates = project.write(MEMO)
    rates.MEMO[0] = 0
    with project.pool() as pool:
        flow = bound(storage, rates.read(1))
        assert 1 == flow.run(pool)
    assert {"read_0000": "global 'MEMO' changed during the run"} == reasons(flow)
    assert 2 == bound(storage, rates.read(1)).run()


def test_calls_on_an_object_that_was_made_with_a_changed_variable(
    project: Project, storage: FileStorage
) -> None:
    """They follow from it, also where they themselves find all as it was."""
    rates = project.write(MEMO)
    reader = rates.Reader()
    calls = [reader.read(1).set_name("one"), reader.read(2).set_name("two")]
    with project.pool() as pool:
        bound(storage, rates.memo(1)).run(pool)
        flow = bound(storage, calls[0])
        assert 1 == flow.run(pool)
        assert {"one": "global 'MEMO' changed during the run"}.items() <= reasons(flow).items()
    with project.pool() as other, project.pool() as pool:
        bound(storage, rates.memo(2)).run(pool)
        flow = bound(storage, *calls)
        assert [1, 1] == flow.run(Turns(pool, pool, other))
    assert reasons(flow)["two"].endswith("global 'MEMO' changed during the run")


def test_calls_on_an_object_that_change_a_variable(project: Project, storage: FileStorage) -> None:
    """The second finds what the first has changed; the object was made before that."""
    keeper = project.write(MEMO).Keeper()
    nodes = [keeper.keep(x).set_name(str(x)) for x in range(3)]
    with project.pool() as pool:
        flow = bound(storage, *nodes)
        assert [1, 2, 3] == flow.run(pool)
    changed = "global 'MEMO' changed during the run"
    expected = {"0": "nothing stored", "1": changed, "2": changed}
    assert expected.items() <= reasons(flow).items()


class Turns(Executor):
    """Hands what comes to executors in turn."""

    def __init__(self, *executors: Executor) -> None:
        self.executors = iter(executors)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return next(self.executors).submit(fn, *args, **kwargs)
