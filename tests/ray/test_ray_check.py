"""What a run looks at on the workers before it computes its first node; and when Ray starts."""

from __future__ import annotations

import importlib
import logging
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import ray
import ray_functions as functions
import ray_places as places
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_functions import noted
from ray_runs import kept

import functionfuse
from functionfuse import LocalWorkflow, workflow
from functionfuse.errors import (
    CodeDiffersError,
    PluginError,
    ResultNotFoundError,
    StorageAccessError,
    StoragePathError,
)
from functionfuse.run.job import Job
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse_ray import RayWorkflow, backend, check, examining
from functionfuse_ray.backend import OnRay
from functionfuse_ray.tasks import Remote

pytestmark = pytest.mark.usefixtures("ray_up")

HERE = Path(__file__).parent
OTHER = {"runtime_env": {"env_vars": {"PLACE": "other"}}}


@pytest.fixture
def node_name():
    """The node of the cluster, as errors name it."""
    [node] = ray.nodes()
    return f"node '{node['NodeManagerHostname']}' ({node['NodeManagerAddress']}) of the Ray cluster"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Folders here show files at once."""
    monkeypatch.setattr(check, "_LATE", 1.0)


def left(folder):
    """Return the tokens that are in a folder."""
    return list(Path(folder).rglob(".check-*"))


def refused(kind, flow, notes):
    """Return the text of a run's error, before which no function was called."""
    with pytest.raises(kind) as raised:
        flow.run()
    assert [] == noted(notes)
    assert type(raised.value) is kind
    return str(raised.value), raised.value


# The storage.


def test_a_folder_that_is_not_shared(tmp_path, notes, monkeypatch, node_name) -> None:
    """Nothing is computed, for the workers would store results elsewhere. The token is removed."""
    monkeypatch.setenv("PLACE", "of the driver")
    storage = places.storage(places.Places, tmp_path / "store")
    flow = kept(storage, functions.note(notes, "called"))
    text, error = refused(StoragePathError, flow, notes)
    assert text.startswith(f"{node_name} sees another place than the driver")
    assert error.__cause__ is None
    assert "a folder that the driver and all nodes share" in text
    assert [] == storage.list_tasks("w") == left(tmp_path)


def test_a_folder_that_has_what_workers_do_not_see(tmp_path, notes, monkeypatch) -> None:
    """It is found when the result that they don't find must be computed and stored again."""
    monkeypatch.setenv("PLACE", "of the driver")
    storage = places.storage(places.Places, tmp_path / "store")
    node = functions.note(notes, "first").set_name("first")
    local = LocalWorkflow(node, workflow_name="w")
    local.set_storage(storage)
    local.run()
    flow = kept(storage, functions.note(notes, "last", node).set_name("last"))
    flow.log_nodes("last")
    with pytest.raises(StoragePathError, match="sees another place"):
        flow.run()
    assert ["first"] == noted(notes)
    assert ["of the driver"] == [path.name for path in (tmp_path / "store").iterdir()]


def test_a_worker_with_another_environment(tmp_path, notes, node_name) -> None:
    """It is checked before its first node. The run ends, though it would keep going."""
    storage = places.storage(places.Places, tmp_path / "store")
    there = functions.note(notes, "there").set_name("there")
    last = functions.note(notes, "last", there).set_name("last")
    flow = kept(storage, functions.note(notes, "here").set_name("here"), last)
    flow.query("there").set_remote_args(OTHER)
    with pytest.raises(StoragePathError, match="sees another place") as raised:
        flow.run(keep_going=True)
    assert str(raised.value).startswith(node_name)
    assert {"here"} >= {*noted(notes)}
    assert "failed" == flow.report["there"].action
    assert [] == left(tmp_path)


def test_a_place_that_workers_can_not_write(tmp_path, notes, monkeypatch, node_name) -> None:
    """The worker's own error is the cause."""
    monkeypatch.setenv("PLACE", "")
    storage = places.storage(places.ReadOnly, tmp_path / "store")
    text, error = refused(StorageAccessError, kept(storage, functions.note(notes, "called")), notes)
    assert text.startswith(f"{node_name} can't write to ")
    assert "runtime_env" in text
    assert isinstance(error.__cause__, StorageAccessError)
    assert "no permission to write" == str(error.__cause__)


def test_credentials_that_workers_lack(bucket, notes, monkeypatch, node_name) -> None:
    """Those of the driver's environment, on S3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = {"path": "tests/lacking", **bucket}
    del options["access_key_id"], options["secret_access_key"]
    storage = storage_factory({"kind": "S3", "options": options})
    text, error = refused(StorageAccessError, kept(storage, functions.note(notes, "called")), notes)
    assert text.startswith(node_name)
    assert '"env_vars"' in text
    assert isinstance(error.__cause__, StorageAccessError)
    assert [] == [blob.key for blob in storage.store.list("w/.lease/")]


def test_a_storage_whose_plugin_workers_lack(tmp_path, notes, monkeypatch, node_name) -> None:
    """Its module is not there: the error says how to ship it."""
    (tmp_path / "far_store.py").write_text(
        "from functionfuse.storage.filestore import FileStore\nclass FarStore(FileStore): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    far_store = importlib.import_module("far_store")
    storage = functionfuse.Storage(far_store.FarStore(str(tmp_path / "store")))
    text, error = refused(PluginError, kept(storage, functions.note(notes, "called")), notes)
    assert f"{node_name} can't open the storage: ModuleNotFoundError: No module named" in text
    assert '"py_modules"' in text
    assert isinstance(error.__cause__, ModuleNotFoundError)


@workflow
def collect(path):
    """Remove all that no result needs."""
    return len(FileStorage(path).gc(0))


def test_gc_during_a_run(tmp_path, monkeypatch) -> None:
    """A process that starts later finds the token: the driver puts it again."""
    monkeypatch.setattr(backend, "_PATIENT", 0.2)
    monkeypatch.setattr(check, "_LATE", 60.0)
    storage = FileStorage(tmp_path / "store")
    removed = collect(str(tmp_path / "store"))
    flow = kept(storage, functions.plus(removed).set_name("later"))
    flow.query("later").set_remote_args(OTHER)
    assert 1 == flow.run(return_results=True)
    assert [] == left(tmp_path)


class InMemory:
    """A storage of the four members, which loses what it gets on a worker."""

    always_read = False

    def new_workflow(self, workflow_name):
        pass

    def save(self, workflow_name, task_name, result):
        pass

    def read_task(self, workflow_name, task_name):
        raise FileNotFoundError(task_name)


def test_a_storage_that_can_not_be_checked(caplog) -> None:
    """A warning tells once that it must not keep results in memory."""
    with caplog.at_level(logging.WARNING, logger=check.__name__):
        for number in range(2):
            assert number == kept(InMemory(), functions.number(number)).run(return_results=True)
    [message] = caplog.messages
    assert "the storage of class 'InMemory' can't be checked" in message


def test_ray_has_gone_before_the_end(tmp_path, storage, monkeypatch) -> None:
    """The token is removed all the same."""

    def gone(key):
        raise RuntimeError

    one = check.Check(b"functionfuse-that-ends")
    one.begin(storage, "w", [], None, None)
    assert 1 == len(left(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(internal_kv, "_internal_kv_del", gone)
        one.end()
    assert [] == left(tmp_path)
    internal_kv._internal_kv_del(examining.kept_at(b"functionfuse-that-ends"))


def test_a_storage_in_which_nothing_can_be_removed(tmp_path) -> None:
    """The token is emptied, as a lease is."""
    storage = places.storage(places.Keeps, tmp_path / "store")
    kept(storage, functions.number(1)).run()
    assert [b""] == [file.read_bytes() for file in left(tmp_path)]


@pytest.mark.parametrize("cycles", [2])
def test_the_token_is_removed(tmp_path, storage, cycles) -> None:
    """After each run, from the storage and from Ray; a run that computes nothing puts none."""
    for number in range(cycles):
        kept(storage, functions.number(number)).run()
        assert [] == left(tmp_path)
    assert [] == internal_kv._internal_kv_list(b"functionfuse-")


# Code and versions.


def test_code_that_workers_lack(tmp_path, storage, notes, monkeypatch, node_name) -> None:
    """A module that only the driver can import; other nodes aren't computed, either."""
    text = "from functionfuse import workflow\n@workflow\ndef far(): return 1\n"
    (tmp_path / "far_away.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    far_away = importlib.import_module("far_away")
    for given in (storage, None):
        flow = kept(given, functions.note(notes, "called"), far_away.far())
        text, error = refused(PluginError, flow, notes)
        assert f"{node_name} can't import a function of the graph: ModuleNotFoundError" in text
        assert "runtime_env" in text
        assert isinstance(error.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("logged", [False, True])
def test_older_code(tmp_path, storage, notes, monkeypatch, node_name, logged) -> None:
    """An image that was not rebuilt is found before other nodes are computed.

    Also if only the results of its children are stored.
    """
    older = HERE / "importable" / "ray_older.py"
    (tmp_path / "ray_older.py").write_text(older.read_text().replace("2 *", "1000 *"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray_older", raising=False)
    newer = importlib.import_module("ray_older")
    scaled = newer.scaled(3).set_name("scaled")
    flow = kept(storage, functions.note(notes, "called"), functions.plus(scaled))
    if logged:
        flow.log_nodes("scaled")
    text, _ = refused(CodeDiffersError, flow, notes)
    assert text.startswith(node_name)
    assert f"another ray_older.scaled ({older}) than the driver ({tmp_path}" in text
    assert [] == storage.list_tasks("w")
    monkeypatch.delitem(sys.modules, "ray_older")


def test_another_version_of_function_fuse(storage, notes, monkeypatch, node_name) -> None:
    """It is refused on the nodes, and by a process that starts later."""
    there = functionfuse.__version__
    run = b"functionfuse-of-a-test"
    internal_kv._internal_kv_put(examining.kept_at(run), pickle.dumps(({"Python": "2.7"}, None)))
    assert "other versions" in str(examining.refusal_of(run, b""))
    internal_kv._internal_kv_del(examining.kept_at(run))
    monkeypatch.setattr(functionfuse, "__version__", "99.9")
    text, _ = refused(CodeDiffersError, kept(storage, functions.note(notes, "called")), notes)
    expected = f"{node_name} has other versions: functionfuse {there} (the driver has 99.9)"
    assert text.startswith(expected)


def test_versions_of_other_packages(tmp_path, notes, storage, monkeypatch, caplog) -> None:
    """They are told once, and are a hint where something else is wrong."""
    import numpy as np

    there = np.__version__
    monkeypatch.setattr(np, "__version__", "99.9")
    with caplog.at_level(logging.WARNING, logger=check.__name__):
        for number in range(2):
            kept(storage, functions.number(number)).run()
    expected = f"has other versions than the driver: numpy {there} (here 99.9)"
    assert 1 == len(caplog.messages)
    assert caplog.messages[0].endswith(expected)
    monkeypatch.setenv("PLACE", "of the driver")
    elsewhere = places.storage(places.Places, tmp_path / "store")
    _, error = refused(StoragePathError, kept(elsewhere, functions.note(notes, "called")), notes)
    assert f"numpy {there} (here 99.9)" in "".join(error.__notes__)


# How it is done.


def test_a_check_is_one_task_for_each_run(storage, monkeypatch) -> None:
    """If something is computed."""
    begun = []
    begin = check.Check.begin
    monkeypatch.setattr(
        check.Check, "begin", lambda *a: (begun.append([j.name for j in a[3]]), begin(*a))
    )
    nodes = [functions.number(value).set_name(f"number {value}") for value in range(3)]
    node = functions.plus(*nodes).set_name("sum")
    for _ in range(2):
        assert 3 == kept(storage, node).run(return_results=True)
    assert [["number 0", "sum"]] == begun


def test_a_node_that_does_not_answer(storage, monkeypatch, caplog, node_name) -> None:
    """A warning names it, and the run waits."""
    monkeypatch.setattr(check, "_PATIENCE", 0)
    monkeypatch.setattr(check, "_GRACE", 0)
    with caplog.at_level(logging.WARNING, logger=check.__name__):
        assert 1 == kept(storage, functions.number(1)).run(return_results=True)
    [message] = caplog.messages
    assert node_name.partition(" of")[0].partition(" ")[2] in message


def test_an_error_does_not_wait_for_a_node_that_hangs(tmp_path, monkeypatch) -> None:
    """It ends the run, and other errors that have come are in its notes."""
    monkeypatch.setattr(check, "_PATIENCE", 0.1)
    [node] = ray.nodes()

    @ray.remote(num_cpus=0)
    def answer(lacks, end):
        until = time.monotonic() + (2 if lacks else 100)
        while time.monotonic() < until and not end.exists():
            time.sleep(0.1)
        return {}, lacks, [], {}

    never, *others = (answer.remote(lacks, tmp_path / "end") for lacks in ("", "this", "that"))
    with pytest.raises(PluginError, match="can't compute: th"):
        check.Check(b"")._take(dict.fromkeys([never, *others], node))
    ready, _ = ray.wait([never], timeout=0)
    assert [] == ready
    (tmp_path / "end").touch()


def test_a_folder_that_shows_files_late(storage) -> None:
    """A worker looks for the token for some seconds, if it is missing."""
    looked = []

    class Late:
        def get(self, key):
            looked.append(key)
            if len(looked) < 4:
                raise ResultNotFoundError(key)
            return b"content"

    token = examining.Token("w/", "w/key", b"content", 60.0)
    assert token.content == examining._read(Late(), token)
    assert ["w/key"] * 4 == looked
    assert b"" == examining._read(storage.store, token._replace(late=0.0))


def test_what_a_process_keeps_of_runs() -> None:
    """It is of the newest ones only, for a worker can live through many."""
    found = {}
    for number in range(1000):
        examining.keep(found, b"%d" % number, True)
    assert 100 == len(found)
    assert b"999" in found


ONE, TWO = "1" * 56, "2" * 56
NODE = {
    "NodeID": ONE,
    "Resources": {"CPU": 2.0, "disk": 1.0, "memory": 100, "accelerator_type:A100": 1.0},
}


@pytest.mark.parametrize(
    ("fits", "options", "resources"),
    [
        (True, {}, {}),
        (True, {"num_cpus": 2, "resources": {"disk": 1}}, {"cpu": 9}),
        (False, {"num_cpus": 3}, {}),
        (False, {}, {"cpu": 3}),
        (False, {}, {"gpu": 1}),
        (False, {"resources": {"tape": 1}}, {}),
        (False, {"memory": 101}, {}),
        (True, {"accelerator_type": "A100"}, {}),
        (False, {"accelerator_type": "H100"}, {}),
        (False, {}, {"gpu": 1e-9}),
        (False, OTHER, {}),
        (True, {"scheduling_strategy": "SPREAD"}, {}),
        (True, {"scheduling_strategy": NodeAffinitySchedulingStrategy(ONE, soft=False)}, {}),
        (True, {"scheduling_strategy": NodeAffinitySchedulingStrategy(TWO, soft=True)}, {}),
        (False, {"scheduling_strategy": NodeAffinitySchedulingStrategy(TWO, soft=False)}, {}),
    ],
)
def test_nodes_on_which_a_job_can_run(fits, options, resources) -> None:
    """Others are not checked for it: the head of a cluster often has no CPUs, and no GPU."""
    job = Job(0, "a", len, (), {})
    job.options, job.resources = Remote((), (), options), resources
    assert fits == check._fits(check._allowed(OnRay()._remote_of, job), NODE)
    job.options = None
    assert not check._fits(check._allowed(OnRay()._remote_of, job), NODE | {"Resources": {}})


# Errors of workers.


def test_an_argument_whose_module_a_worker_lacks(tmp_path, monkeypatch, node_name) -> None:
    """The note of the error tells the cure."""
    (tmp_path / "far_values.py").write_text("class Far: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    far = importlib.import_module("far_values").Far()
    with pytest.raises(ModuleNotFoundError, match="far_values") as raised:
        RayWorkflow(functions.number(far), workflow_name="w").run()
    assert f"{node_name} lacks it" in "\n".join(raised.value.__notes__)
    assert "runtime_env" in "\n".join(raised.value.__notes__)


@workflow
def spoil(path):
    """Let nothing be stored in the folder any more."""
    import shutil

    shutil.rmtree(path)
    Path(path).write_text("")


def test_the_notes_of_a_save_that_fails(tmp_path) -> None:
    """They tell the worker, and have no traceback of ours."""
    flow = kept(FileStorage(tmp_path / "store"), spoil(str(tmp_path / "store")))
    with pytest.raises(StoragePathError) as raised:
        flow.run()
    assert 3 == len("\n".join(raised.value.__notes__).splitlines())
    assert any(note.startswith("in the worker ") for note in raised.value.__notes__)


def test_an_error_after_a_worker_died(notes) -> None:
    """Ray has tried again: the error is that of the function."""
    flow = RayWorkflow(functions.dies_then_fails(notes), workflow_name="w")
    with pytest.raises(LookupError, match="it is gone") as raised:
        flow.run()
    assert ["died"] == noted(notes)
    assert "in dies_then_fails" in "\n".join(raised.value.__notes__)


# When Ray starts.

PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from time import sleep
import ray
from functionfuse import LocalWorkflow, RayWorkflow, workflow
from functionfuse.errors import OptionsError
from functionfuse.storage.filestorage import FileStorage

address, path = sys.argv[1:]
arguments = {"address": address, "log_to_driver": False}

@workflow
def one():
    return 1

def run(kind=RayWorkflow, storage=FileStorage(path), **options):
    flow = kind(one().set_name("one"), workflow_name="w", **options)
    flow.set_storage(storage)
    flow.query(None).set_resources(cpu=1)  # these are checked, on the cluster, if a node must run
    yield flow
    options = {"return_results": True} if kind is RayWorkflow else {}
    assert flow.run(**options) == 1

[*run(LocalWorkflow)]
[*run(ray_init_args=arguments)]
print("reused:", ray.is_initialized())
flow = next(run(ray_init_args=arguments))
print("planned:", flow.plan().summary().split(":")[1], ray.is_initialized())
other, *first, same, plain = (
    run(storage=None, ray_init_args=given)
    for given in ({"address": address, "namespace": "n"}, *[arguments] * 4, None)
)
for waiting in other, *first, same, plain:
    next(waiting)
init = ray.init
ray.init = lambda **args: (sleep(1), init(**args))  # so that the threads meet
list(ThreadPoolExecutor().map(list, first))
print("computed:", ray.is_initialized())
list(same), list(plain)
try:
    list(other)
except OptionsError as error:
    print(error)
list(run(storage=None, ray_init_args={"address": "nowhere"}))
"""


def test_ray_starts_when_a_node_must_run(tmp_path) -> None:
    """Not for a plan, nor for results that are reused; and what has come up is not another one.

    Threads that start it at the same time have the same one.
    """
    address = ray.get_runtime_context().gcs_address
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), address, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert 0 == program.returncode, program.stderr
    reused, planned, computed, error = program.stdout.splitlines()
    assert ["reused: False", "computed: True"] == [reused, computed]
    assert planned.endswith("False")
    assert "and not with its 'ray_init_args'" in error


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"num_cpus": 3}, ("workflow", {"num_cpus": 3})), (None, ("connection", {"num_cpus": 7}))],
)
def test_a_storage_of_ray_starts_it(tmp_path, monkeypatch, given, expected) -> None:
    """When the workflow gets it; with the arguments of the workflow if it has some, or its own."""
    started = []
    for name in ("workflow", "connection"):
        monkeypatch.setattr(
            f"functionfuse_ray.{name}.start", lambda args, name=name: started.append((name, args))
        )
    monkeypatch.setattr("functionfuse_ray.workflow.was_started_with", [given].__contains__)
    monkeypatch.setattr("functionfuse_ray.workflow.here", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    options = {"path": str(tmp_path), "rayInitArgs": {"num_cpus": 7}}
    storage = storage_factory({"kind": "ray", "options": options})
    flow = RayWorkflow(workflow_name="w", ray_init_args=given)
    assert [] == started
    flow.set_storage(storage)
    assert [expected] == started
