"""The rule of reuse where it takes more than one process, a setting, or a run that changes things.

What single edits change is in the tables of `test_edits.py` and `test_rules.py`.
"""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rules

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.plugins import InitializerPlugin, PluginCollection, RandomStatePlugin
from functionfuse.reuse import identity, plan
from functionfuse.reuse.values import Writer
from functionfuse.storage import pickling
from functionfuse.storage.filestorage import FileStorage

# Kinds of values and code, each as variable `g` with an edit, in each place where it can be.

KINDS = {
    "a number": "g = 1 → g = 2",
    "a dict's order": "g = {'a': 1, 'b': 2} → g = {'b': 2, 'a': 1}",
    "an array's order": "import numpy\ng = numpy.ones((2, 3), order='C') → "
    "import numpy\ng = numpy.ones((2, 3), order='F')",
    "a lambda": "g = lambda x: x + 1 → g = lambda x: x + 2",
    "code made by exec": "space = {}\nexec('def g(x): return x + 1', space)\ng = space['g'] → "
    "space = {}\nexec('def g(x): return x + 2', space)\ng = space['g']",
    "wraps of a library's function": "import functools, math\n@functools.wraps(math.sqrt)\n"
    "def g(x): return x + 1 → import functools, math\n@functools.wraps(math.sqrt)\n"
    "def g(x): return x + 2",
    "a closure of a package": "from library import sgd\ng = sgd(0.5) → "
    "from library import sgd\ng = sgd(0.25)",
    "a decorator that is a class": "class D:\n    def __init__(self, k): self.k = k\n"
    "    def __call__(self): return self.k\ng = D(1) → "
    "class D:\n    def __init__(self, k): self.k = k\n    def __call__(self): return -self.k\n"
    "g = D(1)",
    "a module": "import settings as g → import other_settings as g",
    "a function that imports": "def g():\n    import settings\n    return settings.LIMIT → "
    "def g():\n    import other_settings\n    return other_settings.LIMIT",
    "a class made at run time": "g = type('A', (), {'x': 1}) → g = type('A', (), {'x': 2})",
    "an object of a path's subclass": "import pathlib\nclass P(pathlib.PurePosixPath):\n"
    "    def tag(self): return 1\ng = P('a') → import pathlib\n"
    "class P(pathlib.PurePosixPath):\n    def tag(self): return 2\ng = P('a')",
    "a property's subclass": "class p(property): k = 1\nclass A:\n    x = p(lambda self: 1)\n"
    "g = A → class p(property): k = 2\nclass A:\n    x = p(lambda self: 1)\ng = A",
    "a vectorized function": "import numpy\ng = numpy.vectorize(lambda x: x + 1) → "
    "import numpy\ng = numpy.vectorize(lambda x: x + 2)",
    "a partial": "from functools import partial\ng = partial(int, base=2) → "
    "from functools import partial\ng = partial(int, base=3)",
    "types that pydantic acts on": "from pydantic import validate_call\n@validate_call\n"
    "def g(x: int): return x → from pydantic import validate_call\n@validate_call\n"
    "def g(x: float): return x",
    "a set of functions": "def h(): return 1\ng = {h} → def h(): return 2\ng = {h}",
    "a weak set": "import weakref\nclass A: k = 1\ng = weakref.WeakSet([A]) → "
    "import weakref\nclass A: k = 2\ng = weakref.WeakSet([A])",
}
OTHERS = {
    "settings.py": "LIMIT = 1\n",
    "other_settings.py": "LIMIT = 2\n",
    "site-packages/library.py": "def sgd(rate):\n    return lambda x: x - rate\n",
}
PLACES = {
    "a global": ("", "g", ""),
    "an argument": ("", "args", "g"),
    "inside an argument": ("", "args", "{'a': [(g,)]}"),
    "a default": ("def h(x=g): return x", "h()", ""),
    "a keyword's default": ("def h(*, x=g): return x", "h()", ""),
    "a closure": ("def make(x): return lambda: x\nh = make(g)", "h()", ""),
    "a class attribute": ("class H: x = [g]", "H.x", ""),
    "a method": ("class H:\n    def m(self): return g", "H().m()", ""),
    "an object's attribute": (
        "class H:\n    def __init__(self, x): self.x = x\nH1 = H(g)",
        "H1.x",
        "",
    ),
    "a function's attribute": ("def h(): return h.x\nh.x = g", "h()", ""),
    "a partial": ("from functools import partial\nh = partial(print, g)", "h()", ""),
    "a package": ("", "pack.tools.g", ""),
    "an import inside": ("", "__import__", ""),
}


def project(kind: str, place: str) -> dict[str, str]:
    """Return the files of a project that has a value `g` in some place."""
    before, used, given = PLACES[place]
    files = {**OTHERS, "pack/__init__.py": "", "pack/tools.py": kind + "\n"}
    main = f"from functionfuse import workflow\n@workflow\ndef after(x): return x\n{kind}\n{before}"
    if place == "a package":
        main = main.replace(kind, "import pack.tools")
    if place == "an import inside":
        main = main.replace(kind, "")
        main += "\n@workflow\ndef f():\n    from pack.tools import g\n    return g\n"
    else:
        main += f"\n@workflow\ndef f(*args): return {used}\n"
    return {**files, "main.py": f"{main}nodes = [after(f({given}))]\n"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_counts_in_every_place(kind: str, place: str, tmp_path: Path) -> None:
    """And nothing but the edit does: the same project in another folder counts the same."""
    before, after = KINDS[kind].split(" → ")
    numbers = itertools.count()

    def counted(text: str) -> str:
        return rules.counted(project(text, place), tmp_path / str(next(numbers)))

    first = counted(before)
    assert " " not in first
    assert first == counted(before) != counted(after)


# Changes during a run: `change` runs in a first node, `read` in a second one.

CHANGES = {
    "a global": ("x = 1", "global x; x = 2", "x"),
    "a global that is put in place": ("", "global x; x = 2", "x"),
    "a list": ("x = [1]", "x.append(2)", "list(x)"),
    "a list in a tuple": ("x = ([1],)", "x[0].append(2)", "list(x[0])"),
    "another list": ("x = [1]", "global x; x = [2]", "list(x)"),
    "a cache": ("x = {}", "x['a'] = 2", "x.get('a')"),
    "what a cached function reads": (
        "from functools import cache\nx = [1]\n@cache\ndef g(): return x[0]",
        "x[0] = 2; g()",
        "g()",
    ),
    "a class attribute": ("class C: k = 1", "C.k = 2", "C.k"),
    "a class attribute in place": ("class C: k = [1]", "C.k.append(2)", "list(C.k)"),
    "a class attribute that is new": ("class C: pass", "C.k = 2", "getattr(C, 'k', 1)"),
    "a method": ("class C:\n    def k(self): return 1", "C.k = lambda self: 2", "C().k()"),
    "a function": ("def g(): return 1", "global g; g = lambda: 2", "g()"),
    "a function's attribute": ("def g(): pass", "g.k = 2", "getattr(g, 'k', 1)"),
    "a default in place": ("def g(x=[1]): return list(x)", "g.__defaults__[0].append(2)", "g()"),
    "another default": ("def g(x=1): return x", "g.__defaults__ = (2,)", "g()"),
    "other code": ("def g(): return 1", "g.__code__ = (lambda: 2).__code__", "g()"),
    "a variable of a closure": (
        """def make():
    n = 1
    def put(k):
        nonlocal n
        n = k
    return put, lambda: n
put, get = make()""",
        "put(2)",
        "get()",
    ),
    "an object": ("class C: k = 1\nc = C()", "c.k = 2", "c.k"),
    "a variable of a module": ("import colors", "colors.RED = 2", "colors.RED"),
    "a new variable of a module": ("import colors", "colors.NEW = 2", "colors.NEW"),
    "a weak dictionary": (
        "import weakref\nclass C: pass\nc = C()\nx = weakref.WeakValueDictionary()",
        "c.k = 2; x['a'] = c",
        "x['a'].k",
    ),
    "an array of a mebibyte": (
        "import numpy\nx = numpy.zeros(1 << 17)",
        "x[-1] = 2",
        "float(x[-1])",
    ),
}


def of_main(text: str, folder: Path) -> Any:
    """Return a module of a project, made anew."""
    module = type(sys)("main")
    module.__file__ = str(folder / "main.py")
    sys.modules["main"] = module
    exec(
        compile("from functionfuse import workflow\n" + text, module.__file__, "exec"), vars(module)
    )
    return module


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let projects import a module `colors`, and forget theirs afterwards."""
    for name in ("main", "colors"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules["colors"].__file__ = str(tmp_path / "colors.py")


def run_of(nodes: Any, folder: Path) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(str(folder / "results")))
    flow.result = flow.run()  # type: ignore[attr-defined]
    return flow


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("what", CHANGES)
def test_what_an_earlier_node_changes_is_no_input_of_the_plan(what: str, tmp_path: Path) -> None:
    """The later node's result is not stored; so an edit of the first node leaves no stale one."""
    setup, change, read = CHANGES[what]

    def run(change: str) -> Any:
        sys.modules["colors"].__dict__.pop("NEW", None)
        vars(sys.modules["colors"])["RED"] = 1
        main = of_main(
            f"{setup}\n@workflow\ndef first():\n    {change}\n@workflow\ndef second():\n"
            f"    return {read}\nnodes = [first().set_name('a'), second().set_name('b')]\n",
            tmp_path,
        )
        return run_of(main.nodes, tmp_path)

    done = run(change)
    assert done.report["b"].reason.startswith("nothing stored; "), done.report["b"]
    assert "changed during the run" in done.report["b"].reason
    again = run(change.replace("2", "3"))
    assert ["a", "b"] == again.report.names("computed")


def test_an_array_argument_that_an_earlier_node_changes(tmp_path: Path) -> None:
    """It was another value when the plan was made, so what comes out is not stored."""
    np = pytest.importorskip("numpy")
    array = np.zeros(1 << 17)

    @workflow
    def fill(values: Any, done: Any = None) -> float:
        values[-1] += 1
        return float(values.sum())

    def nodes() -> Any:
        first = fill(array).set_name("first")
        return [fill(array, first).set_name("second")]

    done = run_of(nodes(), tmp_path)
    assert 2.0 == done.result
    assert done.report["second"].reason.startswith("nothing stored; argument 'values' changed")
    assert ["first", "second"] == run_of(nodes(), tmp_path).report.names("computed")


# Scripts, settings, versions.

SCRIPT = """
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

class Model:
    limit = 1

@workflow
def fit(count):
    return Model().limit * count

def main():
    flow = LocalWorkflow(fit(2).set_name("fit"), workflow_name="w")
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": "results"}}))
    flow.run()
    print(flow.report["fit"].action)

if __name__ == "__main__":
    main()
"""


def test_a_script_and_who_imports_it_share_results(tmp_path: Path) -> None:
    """`python train.py`, `import train` and `python -m train`; an edit is seen by all of them."""
    script = tmp_path / "train.py"

    def run(*how: str) -> str:
        done = subprocess.run(
            [sys.executable, "-B", *how], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    imported = "-c", "import train; train.main()"
    script.write_text(SCRIPT)
    assert "computed" == run("train.py")
    assert ["reused", "reused"] == [run(*imported), run("-m", "train")]
    script.write_text(SCRIPT.replace("limit = 1", "limit = 2"))
    assert ["computed", "reused", "reused"] == [run(*imported), run("train.py"), run("-m", "train")]


def library(folder: Path, version: str, value: int) -> None:
    site = folder / "site-packages"
    site.mkdir(exist_ok=True)
    (site / "a_library.py").write_text(
        f"__version__ = {version!r}\nclass Tool:\n    def use(self): return {value}\n"
        f"def g(): return {value}\n"
    )


USES_LIBRARY = """
import a_library
@workflow
def f(): return a_library.g()
@workflow(packages=["a_library"])
def h(): return 1
nodes = [f().set_name("f"), h().set_name("h")]
"""


def test_versions_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one counts only where `packages`, of the node or of the workflow, says so."""
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def flow(version: str, value: int, **options: Any) -> LocalWorkflow:
        library(tmp_path, version, value)
        sys.modules.pop("a_library", None)
        made = LocalWorkflow(*of_main(USES_LIBRARY, tmp_path).nodes, workflow_name="w")
        made.set_reuse("unchanged", **options)
        made.set_storage(FileStorage(str(tmp_path / "results")))
        return made

    flow("1.0", 1).run()
    after = flow("1.1", 22)
    assert ["f"] == after.plan().names("reuse")
    assert "package a_library, which 'h' uses, changed (1.0 → 1.1)" == after.plan()["h"].reason
    assert ["f", "h"] == flow("1.1", 22, packages=["a_library"]).plan().names("compute")
    flow("1.0", 22, own=["a_library"]).run()
    assert ["f"] == flow("1.0", 333, own=["a_library"]).plan().names("compute")
    for name in ("main", "a_library"):
        sys.modules.pop(name, None)


def test_a_result_of_an_earlier_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is computed again, and the plan says why."""

    @workflow
    def f() -> int:
        return 1

    run_of([f().set_name("f")], tmp_path)
    later = identity.RULE + 1
    for module in (identity, plan):
        monkeypatch.setattr(module, "RULE", later)
    done = run_of([f().set_name("f")], tmp_path)
    assert "computed" == done.report["f"].action
    assert "recorded by an earlier rule" == done.report["f"].reason


# Names that are in stored bytes and fingerprints.


def test_names_that_never_change() -> None:
    """They are in stored results and in fingerprints, whatever file the code is in."""
    assert "functionfuse.storage.pickling" == pickling.restore.__module__
    assert "restore" == pickling.restore.__qualname__
    assert b"functionfuse.storage.pickling\x94\x8c\x07restore" in pickle.dumps(pickling.restore, 5)
    plugins = {
        "InitializerPlugin": InitializerPlugin(dict),
        "PluginCollection": PluginCollection([]),
        "RandomStatePlugin": RandomStatePlugin(0, 10, 1, print),
    }
    for name, plugin in plugins.items():
        path = f"functionfuse.backends.plugins.{name}"
        assert path == f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        assert type(plugin) is type(pickle.loads(pickle.dumps(plugin)))
        writer = Writer()
        writer.write(type(plugin))
        assert path.encode() in b"".join(writer.out)
    writer = Writer()
    writer.write(RandomStatePlugin(0, 10, 1, __import__("random").seed).seed_func)
    assert b"functionfuse.backends.plugins._seed_random" in b"".join(writer.out)
