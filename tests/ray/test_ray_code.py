"""Ray's workers have the driver's code and variables, or it is said."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import ray

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import CodeDiffersError
from functionfuse.storage.filestorage import FileStorage
from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")

HERE = Path(__file__).parent
CORE = HERE.parent / "core" / "importable"

RATES = """
    from functionfuse import workflow
    MEMO = {}
    def factor():
        return 1000
    @workflow
    def scaled(x):
        return x * factor()
    @workflow
    def memo(x, *after):
        MEMO[x] = x
        return len(MEMO)
    @workflow
    class Scale:
        def __init__(self, start):
            self.start = start
        def scaled(self, x):
            return x * factor()
        def memo(self, x):
            MEMO[x] = x
            return len(MEMO)
"""


# A module for each test, and what stands in the workers' copy in place of a text.
COPIES = {"older": ("1000", "2"), "tasks": ("MEMO = {}", "MEMO = {}  # of the worker")}
COPIES |= dict.fromkeys(("objects", "script", "forms"), ("", ""))


class Rates:
    """A module that the driver imports, and the folder of the copy that workers find."""

    def __init__(self, module: Any, path: Path) -> None:
        self.module = module
        self.path = path

    def flow(self, storage: FileStorage, *nodes: Any) -> RayWorkflow:
        flow = RayWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        path = f"{self.path}:{HERE / 'importable'}:{CORE}"
        runtime_env = {"env_vars": {"PYTHONPATH": path}}
        flow.query(None).set_remote_args({"runtime_env": runtime_env, "num_cpus": 1})
        return flow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The driver's and the workers': one of each, so that the tests share their workers."""
    driver, worker = tmp_path_factory.mktemp("driver"), tmp_path_factory.mktemp("worker")
    text = textwrap.dedent(RATES)
    for name, (old, new) in COPIES.items():
        assert old in text
        (driver / f"rates_{name}.py").write_text(text)
        (worker / f"rates_{name}.py").write_text(text.replace(old, new))
    return driver, worker


@pytest.fixture
def rates(
    request: pytest.FixtureRequest, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The module that the test asks for."""
    driver, worker = folders
    monkeypatch.syspath_prepend(driver)
    name = f"rates_{request.param}"
    yield Rates(importlib.import_module(name), worker)
    sys.modules.pop(name, None)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def reasons(flow: Any) -> dict[str, str]:
    return {node.name: node.reason.removeprefix("nothing stored; ") for node in flow.report.nodes}


def by_value(text: str, **names: Any) -> Any:
    """Return the function `call` of a script; workers have another `__main__`."""
    namespace = {"__name__": "__main__", **names}
    exec(textwrap.dedent(text), namespace)
    return workflow(namespace["call"])


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("rates", ["older"], indirect=True)
def test_workers_with_older_code(rates: Rates, storage: FileStorage, *, logged: bool) -> None:
    """It is an error, for tasks and for actors; nothing of it is stored, and the rest is.

    Nodes that are not stored are compared, too.
    """
    module = rates.module
    nodes = {
        "imported": module.scaled(3),
        "of a script": by_value("def call(x):\n  return x * rates.factor()", rates=module)(3),
        "object": module.Scale(1).scaled(3),
    }
    for name, node in nodes.items():
        flow = rates.flow(storage, node.set_name(name), workflow(lambda: 5)().set_name("fine"))
        if logged:
            flow.log_nodes(name)
        with pytest.raises(CodeDiffersError, match=r"has another rates_older\.factor") as caught:
            flow.run()
        assert f"({rates.path / 'rates_older.py'}) than the driver (" in str(caught.value)
        assert ["fine"] == storage.list_tasks("w")
    local = LocalWorkflow(*nodes.values(), workflow_name="w")
    local.set_storage(storage)
    assert [3000] * 3 == local.run()


@pytest.mark.parametrize("rates", ["tasks"], indirect=True)
def test_what_tasks_change_in_a_worker(rates: Rates, storage: FileStorage) -> None:
    """A result has a fingerprint if the memo was empty in its worker, and only then."""
    nodes: list[Any] = []
    for x in range(6):
        nodes.append(rates.module.memo(x, *nodes[-1:]).set_name(str(x)))
    flow = rates.flow(storage, *nodes)
    values = flow.run(return_results=True)
    changed = "global 'MEMO' changed during the run"
    expected = ["nothing stored" if value == 1 else changed for value in values]
    assert max(values) > 1
    assert expected == list(reasons(flow).values())
    computed = [str(x) for x in range(6) if values[x] > 1]
    assert set(computed) <= set(rates.flow(storage, *nodes).plan().names("compute"))


@pytest.mark.parametrize("rates", ["objects"], indirect=True)
def test_what_an_object_changes_in_its_worker(rates: Rates, storage: FileStorage) -> None:
    """The calls that follow have no fingerprint."""
    made = rates.module.Scale(1)
    nodes = [made.memo(x).set_name(str(x)) for x in range(3)]
    flow = rates.flow(storage, *nodes)
    assert [1, 2, 3] == flow.run(return_results=True)
    changed = "global 'MEMO' changed during the run"
    found = reasons(flow)
    assert ["nothing stored", changed, changed] == [found[str(x)] for x in range(3)]


@pytest.mark.parametrize("rates", ["script"], indirect=True)
def test_variables_of_a_script(rates: Rates, storage: FileStorage) -> None:
    """They go to a worker with the function, and are compared there before each call, too."""
    call = by_value("""
        CACHE = {}
        def call(x, *after):
            CACHE[x] = x
            return len(CACHE)
    """)
    nodes: list[Any] = []
    for x in range(4):
        nodes.append(call(x, *nodes[-1:]).set_name(str(x)))
    flow = rates.flow(storage, *nodes)
    values = flow.run(return_results=True)
    found = list(reasons(flow).values())
    assert ["nothing stored" == reason for reason in found] == [value == 1 for value in values]
    assert "nothing stored" == found[0]


@pytest.mark.parametrize("rates", ["forms"], indirect=True)
def test_code_of_every_form_is_the_same_in_a_worker(
    rates: Rates, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said of code that is the same."""
    monkeypatch.syspath_prepend(CORE)
    zoo = importlib.import_module("worker_zoo.nodes")
    nodes = zoo.build()
    flow = rates.flow(storage, *nodes.values())
    flow.run()
    said = {"nothing stored", "an object is never stored"}
    assert said == set(reasons(flow).values())
    assert "compute" not in {flow.plan()[node.get_name()].action for node in nodes.values()}


LOGS = """
import logging
import sys

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow

{page}

@workflow
def clean(rows):
    logging.getLogger("their.package").info("%d rows", len(rows))

@workflow
class Object:
    def __init__(self):
        logging.info("made")
    def add(self):
        logging.info("one more")

nodes = clean([1, 2]).set_name("clean rows"), Object().set_name("new").add().set_name("added")
ray_init_args["address"] = sys.argv[1]
RayWorkflow(*nodes, workflow_name="logged", ray_init_args=ray_init_args).run()
sys.stdin.read()  # until all lines have been read
"""


def test_log_lines_of_workers() -> None:
    """With the set-up of the documentation, they come to the driver's terminal, with the node."""
    page = (HERE.parents[1] / "docs" / "ray.md").read_text(encoding="utf-8")
    block = page.partition("## Log lines")[2].partition("```python\n")[2].partition("```")[0]
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-c", LOGS.format(page=block), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    late = threading.Timer(120, driver.kill)
    late.start()
    missing = {
        r"\(\w+ pid=\d+\) INFO clean rows: 2 rows",
        r"\(Object pid=\d+\) INFO new: made",
        r"\(Object pid=\d+\) INFO added: one more",
    }
    printed = ""
    assert driver.stdout is not None
    for line in driver.stdout:
        printed += re.sub(r"\x1b\[\d+m", "", line)
        missing -= {each for each in missing if re.search(each, printed)}
        if not missing:
            break
    driver.communicate("")
    late.cancel()
    assert not missing, printed
    assert 0 == driver.returncode
