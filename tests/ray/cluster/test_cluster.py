"""Runs on a cluster of two raylets, on each kind of storage; and what is killed there."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import ray
import ray_functions as functions
import run_slowly
from ray_clusters import RAY, Cluster, Raylet, environment, free_port
from ray_functions import noted, remember
from ray_runs import actions, eventually, kept

from functionfuse.errors import WorkerDiedError
from functionfuse.storage import storage_factory

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
IMPORTABLE = Path(__file__).parents[1] / "importable"
LONG = [
    pytest.mark.battery,
    pytest.mark.skipif(not FULL, reason="run.py battery has it"),
]


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    """Have a cluster, and this process as its driver."""
    cluster = Cluster()
    try:
        cluster.complete()
        ray.init("auto", _temp_dir=cluster.folder, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.close()


@pytest.fixture
def cluster(started) -> Cluster:
    """Have a cluster of two nodes."""
    started.complete()
    return started


@pytest.fixture(scope="module")
def folder(started, tmp_path_factory):
    """The folder of a storage on the head: in place of that on the Ray of the other tests."""
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Folders for notes."""
    made = [tmp_path / name for name in ("go", "held", "met", "again")]
    for each in made:
        each.mkdir()
    return [str(each) for each in made]


def nodes_up() -> set[str]:
    """Return the ids of the cluster's nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def arrays(notes: str) -> list[object]:
    """Return two nodes that only two nodes of the cluster can compute."""
    return [functions.meet(notes, value).set_name(f"array {value}") for value in range(2)]


def held_mean(go: str, held: str, met: str) -> object:
    """Return a node that needs two values of the two nodes, which are held until "go" is noted."""
    values = [functions.hold(held, go, array) for array in arrays(met)]
    return functions.mean(functions.plus(*values))


def sound(storage) -> int:
    """Return how many results a storage has; all of them are sound."""
    verified = list(storage.verify())
    assert {""} == {each.problem for each in verified}
    return len(verified)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in another thread; its error is raised in the end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        yield
        done.result()


def test_a_run_on_two_nodes(cluster, each_storage, notes) -> None:
    """Both compute; the next run computes nothing, and a changed node is computed alone."""

    def run(added):
        mean = functions.mean(*arrays(notes)).set_name("mean")
        flow = kept(each_storage, functions.plus(mean, added).set_name("sum"))
        return flow.run(return_results=True), set(flow.report.names("computed"))

    assert (1.5, {"array 0", "array 1", "mean", "sum"}) == run(1)
    assert nodes_up() == {*noted(notes)}
    assert (1.5, set()) == run(1)
    assert (2.5, {"sum"}) == run(2)
    assert 2 == len(noted(notes))
    assert 1.0 == each_storage.read_task("w", "array 1").mean()
    assert 5 == sound(each_storage)  # with an earlier one


@pytest.mark.parametrize("tries", [3, 0])
def test_a_worker_that_is_killed(cluster, storage, notes, tries) -> None:
    """Ray repeats its node; or the error names it, and the next run goes on from there."""

    def flow():
        held = functions.outlive(notes, 1).set_name("held")
        other = functions.number(1).set_name("other")
        flow = kept(storage, functions.plus(held, other).set_name("sum"))
        flow.query("held").set_remote_args({"max_retries": tries})
        return flow

    def kill():
        assert eventually(lambda: noted(notes))
        os.kill(int(noted(notes)[0]), signal.SIGKILL)

    first = flow()
    with meanwhile(kill):
        if tries:
            assert 2 == first.run(return_results=True)
        else:
            with pytest.raises(WorkerDiedError, match="the worker of node 'held' died"):
                first.run()
    assert 1 + bool(tries) == len(noted(notes))
    if not tries:
        assert {"held": "failed", "other": "computed", "sum": "not run"} == actions(first)
        assert ["other"] == storage.list_tasks("w")
        second = flow()
        assert 2 == second.run(return_results=True)
        assert {"held", "sum"} == set(second.report.names("computed"))
    assert 3 == sound(storage)


@pytest.mark.parametrize("stored", [True, pytest.param(False, marks=LONG)])
def test_a_raylet_that_is_killed(cluster, storage, folders, stored) -> None:
    """What it computes, and the values that it has, are computed again; another takes its place."""
    before, (go, held, met, again) = nodes_up(), folders

    def kill():
        assert eventually(lambda: nodes_up() == {*noted(held)})
        cluster.raylets[1].kill()
        assert eventually(lambda: len(nodes_up()) == 1)
        remember(go, "go")

    with meanwhile(kill):
        flow = kept(storage if stored else None, held_mean(go, held, met))
        assert 1.0 == flow.run(return_results=True)
    cluster.complete()
    assert 0.5 == kept(storage, functions.mean(*arrays(again))).run(return_results=True)
    assert nodes_up() == {*noted(again)}
    assert 1 == len(before & nodes_up())
    assert (9 if stored else 3) == sound(storage)  # with three earlier ones


def test_the_server_of_a_storage_that_is_killed(cluster, emptied, folders) -> None:
    """Workers of both nodes wait until it is back, and store all results."""
    go, held, met, _ = folders
    storage = storage_factory({"kind": "ray", "options": {"path": str(emptied)}})
    assert [] == storage.list_tasks("w")
    server = ray.get_actor(f"storage {emptied}", namespace="functionfuse")
    first = ray.get(server.__ray_call__.remote(lambda _: os.getpid()))

    def kill():
        assert eventually(lambda: nodes_up() == {*noted(held)})
        os.kill(first, signal.SIGKILL)
        remember(go, "go")

    with meanwhile(kill):
        assert 1.0 == kept(storage, held_mean(go, held, met)).run(return_results=True)
    assert first != ray.get(server.__ray_call__.remote(lambda _: os.getpid()))
    assert 6 == sound(storage)


def test_a_driver_that_is_killed(cluster, tmp_path, storage, folders) -> None:
    """Its nodes end; what its workers had stored is whole, and the next run goes on from there."""
    go, _, met, _ = folders
    driver = subprocess.Popen(
        [sys.executable, IMPORTABLE / "run_slowly.py", cluster.address, tmp_path / "store", go],
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        assert eventually(lambda: driver.poll() is not None or len(storage.list_tasks("w")) > 1)
        assert driver.poll() is None
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    flow = kept(storage, functions.plus(run_slowly.graph(go), functions.mean(*arrays(met))))
    remember(go, "go")
    assert 15.5 == flow.run(return_results=True)
    assert 2 <= list(actions(flow).values()).count("reused") < 6
    assert nodes_up() == {*noted(met)}
    assert sound(storage)


def test_a_driver_outside_of_the_cluster(cluster, tmp_path) -> None:
    """By Ray's client: with results, objects and errors; the storage kind ray is refused."""
    finished = subprocess.run(
        [sys.executable, IMPORTABLE / "run_through_client.py", cluster.client, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment(),
    )
    assert 0 == finished.returncode, finished.stderr
    results, error, refused = finished.stdout.splitlines()
    assert ("[2.0, 3, 5]", "it is gone") == (results, error)
    assert "can't be used through Ray's client" in refused
    storage = storage_factory({"kind": "file", "options": {"path": str(tmp_path)}})
    assert 5 == len(storage.list_tasks("w"))


@pytest.mark.battery
@pytest.mark.skipif(not FULL, reason="run.py battery has it")
@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None,
    reason="Ray's job server is not installed: .venv/bin/uv pip install 'ray[default]'",
)
def test_a_job(tmp_path) -> None:
    """`ray job submit` runs a program in the cluster; what it stores there, the next one reuses."""
    port = free_port()
    options = "--head", "--port=0", "--include-dashboard=true", f"--dashboard-port={port}"
    submit = [*RAY, "job", "submit", f"--address=http://127.0.0.1:{port}", "--"]
    program = [sys.executable, str(IMPORTABLE / "run_as_job.py"), str(tmp_path / "store")]
    told = []
    with closing(Raylet(*options)):
        for _ in range(2):
            finished = subprocess.run(
                [*submit, *program],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                env=environment(),
            )
            assert 0 == finished.returncode, finished.stdout + finished.stderr
            told += [line for line in finished.stdout.splitlines() if line.startswith("result")]
    assert ["result 2.0 computed array halves mean", "result 2.0 computed"] == told
