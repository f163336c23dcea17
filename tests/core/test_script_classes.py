"""Classes, enums and functions of a script: its own again where it reads them, else a copy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRAIN = """
import dataclasses, enum, multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

class Mode(enum.Enum):
    FAST = 1
    SLOW = 2

@dataclasses.dataclass
class Model:
    factor: int
    mode: Mode = Mode.FAST
    class Inner:
        pass
    def predict(self, x):
        return x * self.factor

def helper(x):
    return x + 1

def made():
    class Local:
        size = 3
    return Local

@workflow
def fit():
    found = {"model": Model(2), "mode": Mode.SLOW, "kind": Model, "inner": Model.Inner()}
    return found | {"function": helper, "modes": [Mode.FAST] * 2, "local": made()()}

def check_types(found):
    assert type(found["model"]) is Model and found["model"] == Model(2)
    assert found["mode"] is Mode.SLOW and found["model"].mode is found["modes"][1] is Mode.FAST
    assert found["kind"] is Model and type(found["inner"]) is Model.Inner

def check(found):
    check_types(found)
    assert found["function"] is helper and found["local"].size == 3
    del found["local"]
    assert pickle.loads(pickle.dumps(found)) .keys() == found.keys()

storage = storage_factory({"kind": "file", "options": {"path": "results"}})

@workflow
def small():
    return Model(3)

@workflow
def checked(found):
    check_types(found)

def read():
    check(storage.read_task("w", "fit"))
    assert type(storage.read_task("w", "small")) is Model

def write():
    storage.save("w", "fit", fit.func())
    storage.save("w", "small", small.func())

def main():
    spawned = multiprocessing.get_context("spawn")
    if sys.argv[-1] in ("read", "write"):
        with ProcessPoolExecutor(1, spawned) as pool:
            pool.submit(globals()[sys.argv[-1]]).result()
        return
    nodes = checked(fit().set_name("fit")).set_name("checked"), small().set_name("small")
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.query("checked").set_reuse("never")
    flow.set_storage(storage)
    if "spawned" in sys.argv:
        with ProcessPoolExecutor(1, spawned) as pool:
            flow.run(pool)
    else:
        flow.run()
    read()
    print(flow.report["fit"].action)

if __name__ == "__main__":
    main()
"""
OTHER = """
from functionfuse.storage import storage_factory
class Model:
    "Of the same name, and another."
found = storage_factory({"kind": "file", "options": {"path": "results"}}).read_task("w", "fit")
assert type(found["model"]) is not Model and type(found["model"]).__name__ == "Model"
assert found["model"].predict(3) == 6 and found["model"].mode is found["modes"][0]
assert found["mode"].name == "SLOW" and found["function"](1) == 2
"""
READ = "import train; train.read()"
WAYS = {
    "as a script": ["train.py"],
    "by a spawned worker": ["train.py", "spawned"],
    "as a module that runs": ["-m", "train"],
    "imported": ["-c", "import train; train.main()"],
    "read": ["-c", READ],
    "read by a thread": [
        "-c",
        (
            "import threading as t\n"
            f"thread = t.Thread(target=exec, args=({READ!r},)); thread.start(); thread.join()"
        ),
    ],
    "read by a spawned worker": ["train.py", "read"],
    "in another script": ["other.py"],
}


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "other.py").write_text(OTHER)

    def call(*arguments: str) -> str:
        found = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert (0, "") == (found.returncode, found.stderr)
        return found.stdout.strip()

    return call


FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
STORING = [way for way in WAYS if "read" not in way and "other" not in way]


@pytest.mark.battery
@pytest.mark.parametrize("way", STORING)
def test_a_script_reads_its_own_classes(run, way):
    """However it was started when it stored them, and however it is when it reads them."""
    assert "computed" == run(*WAYS[way])
    first = STORING.index(way)
    for other in list(WAYS) if FULL else list(WAYS)[first::3]:  # all, from one or the other
        expected = "reused" if other in STORING else ""
        assert expected == run(*WAYS[other]), other


def test_a_spawned_worker_that_saves_stores_what_all_can_read(run):
    """Its script is `__mp_main__`, a name that no other process can import from."""
    run("train.py", "write")
    for other, arguments in WAYS.items():
        if other not in STORING:
            run(*arguments)


CELLS = """
import sys
import textwrap
sys.ps1 = ">>> "  # as in an interpreter or a notebook
del __file__
from functionfuse import workflow
from functionfuse.storage import storage_factory
storage = storage_factory({"kind": "file", "options": {"path": "results"}})
class Model:
    size = 1
    def get(self):
        return CODE
MODEL
"""


@pytest.mark.parametrize(("code", "same"), [("1", True), ("2", False)])
def test_in_a_notebook_the_last_cell_s_class_is_meant_if_its_code_is_the_same(
    run, tmp_path, code, same
):
    """Two notebooks have one name for their modules, so a name alone says nothing."""
    write = CELLS.replace("CODE", "1").replace("MODEL", "storage.save('w', 'model', Model())")
    read = f"assert {same} == (type(storage.read_task('w', 'model')) is Model)"
    (tmp_path / "write.py").write_text(write)
    (tmp_path / "read.py").write_text(CELLS.replace("CODE", code).replace("MODEL", read))
    run("write.py")
    run("read.py")


def test_equal_values_of_a_script_s_classes_have_equal_bytes(run, tmp_path):
    """From process to process, so that a node that is computed again changes no child."""
    (tmp_path / "digest.py").write_text(
        TRAIN.replace("print(", "str(") + "    storage.save('w', 'again', [Model(3), Mode.SLOW])\n"
        "    print(storage.task_info('w', 'again').digest)\n"
    )
    assert run("digest.py").split()[-1] == run("digest.py").split()[-1]


SAME_NAMES = """
import functools, sys
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

def shifted(f):
    @functools.wraps(f)
    def inner(x):
        return f(x) + 1000
    return inner

def step(x):
    return x + 1

class Model:
    size = 3

Old = Model
class Model(Old):
    size = 4

@workflow
def make():
    return [shifted(step), Old()]

@workflow
def use(made, number):
    return made[0](number), made[1].size

used = use(make().set_name("make"), int(sys.argv[1])).set_name("use")
flow = LocalWorkflow(used, workflow_name="w")
flow.set_storage(storage_factory({"kind": "file", "options": {"path": "results"}}))
print(flow.run())
"""


def test_a_name_alone_is_no_class_or_function(run, tmp_path):
    """What has the name of another stays what it is."""
    (tmp_path / "same.py").write_text(SAME_NAMES)
    assert ["(1002, 3)", "(1003, 3)"] == [run("same.py", "1"), run("same.py", "2")]


READS = """
import settings, sys
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

def made():
    return lambda: settings.LIMIT

class Model:
    found = made()

@workflow(version="1")
def make():
    return VALUE

@workflow
def use(made):
    return 1

flow = LocalWorkflow(use(make().set_name("make")).set_name("use"), workflow_name="w")
flow.set_storage(storage_factory({"kind": "file", "options": {"path": "results"}}))
flow.run()
print(flow.report["use"].reason)
"""
BOTH = "LIMIT = {}\nOTHER = {}\n"


@pytest.mark.parametrize(
    ("value", "names", "other"),
    [
        ("[Model(), made()]", "'Model', 'LIMIT'", False),
        ("[made(), settings]", "'settings', 'LIMIT'", True),
    ],
)
def test_of_a_module_counts_what_code_in_a_result_reads(run, tmp_path, value, names, other):
    """And all of it, where the module itself is in the result."""
    (tmp_path / "reads.py").write_text(READS.replace("return VALUE", f"return {value}"))
    reasons = []
    for limits in ((1, 1), (1, 2), (2, 2)):
        (tmp_path / "settings.py").write_text(BOTH.format(*limits))
        reasons.append(run("-B", "reads.py"))
    changed = f"code of {names} changed, which is in the result of 'make'"
    assert ["nothing stored", changed if other else "", changed] == reasons


LAZY = """
def made():
    def call():
        import tools
        return tools.g()
    return call

class Model:
    def predict(self):
        import tools
        return tools.g()

def other():
    def call():
        import math
        return math.pi
    return call

@workflow
def use(made):
    return [part.predict() if hasattr(part, "predict") else part() for part in made]
"""


@pytest.mark.parametrize("value", ["[made()]", "[Model()]", "[other()]"])
def test_code_in_a_result_that_imports_a_module_when_it_runs(run, tmp_path, value):
    """It is followed if it has a name; else its takers run every time. A package's is no matter."""
    text = READS.replace("return VALUE", f"return {value}").replace(
        "@workflow\ndef use(made):\n    return 1\n", LAZY
    )
    (tmp_path / "lazy.py").write_text(text)
    (tmp_path / "settings.py").write_text("")
    reasons = []
    for value_of_g in (1, 1, 22):
        (tmp_path / "tools.py").write_text(f"def g():\n    return {value_of_g}\n")
        reasons.append(run("-B", "lazy.py"))
    untold = "the result of 'make' holds code that imports 'tools' when it runs"
    changed = "code of 'Model' changed, which is in the result of 'make'"
    expected = {
        "[made()]": ["nothing stored", untold, untold],
        "[Model()]": ["nothing stored", "", changed],
        "[other()]": ["nothing stored", "", ""],
    }
    assert expected[value] == reasons


def test_a_class_that_a_cell_made_twice(tmp_path: Path) -> None:
    """What still refers to the first one is of the script's class where it is read."""
    text = """
        import enum, sys
        from dataclasses import dataclass
        from functionfuse.storage.filestorage import FileStorage

        MODE = "class Mode(enum.Enum):\\n    FAST = 1"
        exec(MODE)

        @dataclass
        class Box:
            mode: Mode = Mode.FAST

        storage = FileStorage("store")
        if len(sys.argv) > 1:
            exec(MODE)  # the cell runs again, and that of Box doesn't
            storage.save("w", "box", Box())
        else:
            print(storage.read_task("w", "box").mode is Mode.FAST)
    """
    (tmp_path / "cells.py").write_text(textwrap.dedent(text))
    for arguments, expected in (["write"], ""), ([], "True\n"):
        command = [sys.executable, "cells.py", *arguments]
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert expected == finished.stdout
