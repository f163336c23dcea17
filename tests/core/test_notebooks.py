"""Notebooks: cells that are corrected and run again, and what other processes read of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
    import dataclasses, enum
    from functionfuse import workflow
    from functionfuse.backends.builtin.localback import LocalWorkflow
    from functionfuse.storage import storage_factory

    storage = storage_factory({"kind": "file", "options": {"path": "results"}})

    def flow_of(node, name):
        flow = LocalWorkflow(node, workflow_name=name)
        flow.set_storage(storage)
        return flow

    def told(flow):
        return {record.name: record.action for record in flow.report.nodes}
"""
CLASSES = """
    class Mode(enum.Enum):
        FAST = 1
        SLOW = 2

    @dataclasses.dataclass
    class Model:
        factor: int
        mode: Mode = Mode.FAST

        def predict(self, x):
            return self.factor * x

    def helper(x):
        return x + 1
"""


class Notebook:
    """A notebook whose cells have names."""

    def __init__(self, folder: Path) -> None:
        self.cells: dict[str, int] = {}
        self.client = NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        )

    def run(self, name: str, source: str = "") -> str:
        """Run a cell, after it was written if there is a source; return what it printed."""
        cells = self.client.nb.cells
        if name not in self.cells:
            self.cells[name] = len(cells)
            cells.append(nbformat.v4.new_code_cell())
        cell = cells[self.cells[name]]
        cell.source = dedent(source) or cell.source
        outputs = self.client.execute_cell(cell, self.cells[name]).outputs
        return "".join(output.text for output in outputs if output.get("name") == "stdout").strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Iterator[Notebook]:
    """One for all tests: a kernel takes seconds to start."""
    found = Notebook(folder)
    with found.client.setup_kernel():
        found.run("setup", SETUP)
        yield found


FUNCTIONS = """
    @workflow
    def load(count):
        return list(range(count))

    @workflow
    def total(rows):
        return sum(rows)
"""


def test_a_corrected_cell_computes_its_new_code(notebook):
    """Once the graph is made again; until then, plan and report say that the earlier code runs."""
    notebook.run("functions", FUNCTIONS)
    notebook.run("graph", "flow = flow_of(total(load(4).set_name('rows')).set_name('total'), 'a')")
    report = "print(flow.run(), told(flow), flow.plan().notes, flow.report.notes)"
    assert "6 {'rows': 'computed', 'total': 'computed'} [] []" == notebook.run("run", report)
    for again in ("functions", "graph"):
        notebook.run(again)
    assert "6 {'rows': 'reused', 'total': 'reused'} [] []" == notebook.run("run")
    notebook.run("functions", FUNCTIONS.replace("sum(rows)", "-sum(rows)"))
    old = "was defined again since its node was made: the earlier one runs"
    notes = [f"'load' {old}", f"'total' {old}"]
    actions = {"rows": "reused", "total": "reused"}
    assert f"6 {actions} {notes} {notes}" == notebook.run("run")
    shown = notebook.run("show", "print(flow.plan()); print(flow.report)").splitlines()
    assert [f"note: {note}" for note in notes * 2] == [line for line in shown if "note" in line]
    notebook.run("graph")
    assert "-6 {'rows': 'reused', 'total': 'computed'} [] []" == notebook.run("run")
    assert "code of 'total' changed" == notebook.run("why", "print(flow.report['total'].reason)")


def test_nodes_of_an_earlier_try_are_left_out(notebook):
    """They hang on the same root, and have the same name; they don't run, and are no error."""
    notebook.run("root", "@workflow\ndef root():\n    return 5\n\nfirst = root().set_name('root')")
    cell = """
        @workflow
        def last(number):
            print("try", TRY)
            return number + TRY

        flow = flow_of(last(first).set_name("last"), "b")
        print(flow.run(), told(flow), flow.report.notes)
    """
    assert ["try 1", "6 {'root': 'computed', 'last': 'computed'} []"] == notebook.run(
        "try", cell.replace("TRY", "1")
    ).splitlines()
    note = "left out, as nothing here needs them: 1 connected node(s)"
    assert ["try 2", f"7 {{'root': 'reused', 'last': 'computed'}} ['{note}']"] == notebook.run(
        "try", cell.replace("TRY", "2")
    ).splitlines()


MAKE = """
    @workflow(version="1")
    def make():
        return {"model": Model(2), "modes": [Mode.SLOW, Mode.FAST], "kind": Model, "helper": helper}

    @workflow
    def use(found):
        return found["model"].predict(3), found["helper"](1), [m.value for m in found["modes"]]

    flow = flow_of(use(make().set_name("made")).set_name("used"), "c")
    print(flow.run(), told(flow))
"""
SAME = """
    found = storage.read_task("c", "made")
    print(
        isinstance(found["model"], Model),
        found["model"] == Model(2),
        found["modes"][0] is Mode.SLOW and found["model"].mode is found["modes"][1] is Mode.FAST,
        found["kind"] is Model,
        found["helper"] is helper,
    )
"""


def test_a_stored_object_is_of_the_class_of_the_last_cell(notebook):
    """If its code is the same. If it isn't, what takes the object is computed again."""
    notebook.run("classes", CLASSES)
    both = "(6, 2, [2, 1]) {'made': 'computed', 'used': 'computed'}"
    assert both == notebook.run("make", MAKE)
    for _ in range(2):
        assert "True True True True True" == notebook.run("same", SAME)
        notebook.run("classes")
        assert both.replace("computed", "reused") == notebook.run("make")
    notebook.run("classes", CLASSES.replace("self.factor * x", "-self.factor * x"))
    again = "{'made': 'reused', 'used': 'computed'}"
    assert f"(-6, 2, [2, 1]) {again}" == notebook.run("make")
    notebook.run("classes", CLASSES.replace("x + 1", "x + 2"))
    assert f"(6, 3, [2, 1]) {again}" == notebook.run("make")
    notebook.run("classes", CLASSES.replace("SLOW = 2", "SLOW = 3"))  # 2 is no mode any more
    assert both.replace("[2,", "[3,") == notebook.run("make")


READ = """
    from functionfuse.storage import storage_factory

    storage = storage_factory({"kind": "file", "options": {"path": "results"}})
    found = storage.read_task("d", "made")
    assert type(found["model"]).__name__ == "Model" and found["model"].predict(3) == 6
    assert found["model"].mode is found["modes"][1] and found["modes"][0].name == "SLOW"
    assert found["kind"] is type(found["model"]) and found["helper"](1) == 2
"""


def test_others_read_what_a_notebook_stored(notebook, folder):
    """A script and another notebook. A class there is the stored one's if its code is the same."""
    notebook.run("classes", CLASSES)
    cells = {"make": MAKE.replace('"c"', '"d"'), "same": SAME.replace('"c"', '"d"')}
    actions = {"made": "computed", "used": "computed"}
    assert notebook.run("make", cells["make"]).endswith(str(actions))
    (folder / "read.py").write_text(dedent(READ))
    subprocess.run([sys.executable, "read.py"], cwd=folder, check=True)
    other = Notebook(folder)
    with other.client.setup_kernel():
        other.run("setup", SETUP)
        other.run("read", READ)
        other.run("classes", CLASSES)
        assert "True True True True True" == other.run("same", cells["same"])
        assert other.run("make", cells["make"]).endswith(str(actions).replace("computed", "reused"))
        other.run("classes", CLASSES.replace("factor * x", "factor + x").replace("x + 1", "x + 2"))
        other.run("read")
        assert "False False True False False" == other.run("same")


def test_a_script_and_a_notebook_read_what_the_other_stored(notebook, folder):
    """A cell's class isn't that of a script; by `import train` the notebook has the script's."""
    cells = [text.replace('"c"', '"train"') for text in (MAKE, SAME)]
    (folder / "train.py").write_text("".join(map(dedent, (SETUP, CLASSES, *cells))))

    def script() -> list[str]:
        command = [sys.executable, "train.py"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    same = "True True True True True"
    computed = ["(6, 2, [2, 1]) {'made': 'computed', 'used': 'computed'}", same]
    reused = [line.replace("computed", "reused") for line in computed]
    assert [computed, reused] == [script(), script()]
    notebook.run("classes", CLASSES)
    notebook.run("read", READ.replace('"d"', '"train"'))
    assert same.replace("True", "False") == notebook.run("same", cells[1])
    imported = "import train; from train import Mode, Model, helper"
    assert reused == notebook.run("import", imported).splitlines()
    assert same == notebook.run("same")
    notebook.run("remove", "storage.remove_workflow('train')")
    again = "import importlib; importlib.reload(train); from train import Mode, Model, helper"
    assert computed == notebook.run("again", again).splitlines()
    assert same == notebook.run("same")
    assert reused == script()


def test_a_worker_stores_what_the_notebook_reads(notebook):
    """A spawned process has no cells; the notebook's class is the notebook's all the same."""
    notebook.run("classes", CLASSES)
    pool = "ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))"
    imports = "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
    make = imports + dedent(MAKE).replace('"c"', '"e"').replace(".run()", f".run({pool})")
    assert "(6, 2, [2, 1]) {'made': 'computed', 'used': 'computed'}" == notebook.run("make", make)
    assert "True True True True True" == notebook.run("same", SAME.replace('"c"', '"e"'))
    notebook.run("classes", CLASSES.replace("self.factor * x", "-self.factor * x"))
    assert "(-6, 2, [2, 1]) {'made': 'reused', 'used': 'computed'}" == notebook.run("make")
