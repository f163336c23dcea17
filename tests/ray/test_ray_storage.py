"""The storage kind "ray" beyond what every storage does: its server, big blobs, other processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import ray_functions as functions
from impatient import Impatient
from ray_functions import noted
from ray_runs import kept

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    OptionsError,
    ResultNotFoundError,
    StorageConnectionError,
    UnpicklableResultError,
)
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.rayfilestorage import FileStorage
from functionfuse_ray import connection
from functionfuse_ray.pieces import CHUNK
from functionfuse_ray.store import RayStore

pytestmark = pytest.mark.usefixtures("ray_up")

IMPORTABLE = Path(__file__).parent / "importable"


@pytest.fixture
def store(emptied):
    return RayStore(str(emptied))


def server_of(store):
    return ray.get_actor(f"storage {store.path}", namespace="functionfuse")


def process_of(store):
    """Return the process of a store's server."""
    return ray.get(server_of(store).__ray_call__.remote(lambda _: __import__("os").getpid()))


def test_the_factory_makes_the_documented_class(emptied) -> None:
    """By the documented spelling of the options, and by the documented import path."""
    options = {"path": str(emptied), "remoteArgs": {}, "rayInitArgs": {"num_cpus": 1}}
    storage = storage_factory({"kind": "ray", "options": options})
    assert isinstance(storage, FileStorage)
    FileStorage(options).save("w", "t", 5)
    assert 5 == storage.read_task("w", "t")
    assert b"PK" not in (emptied / "w" / "t").read_bytes()[:2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "path"),
        ({"path": 5}, "path"),
        ({"path": "x", "remote": {}}, "remote"),
        ({"path": "x", "remote_args": {}}, "mean 'remoteArgs'.*path, remoteArgs, ray"),
        ({"path": "x", "remoteArgs": {"name": "mine"}}, "name"),
    ],
)
def test_options_that_are_wrong(options, told) -> None:
    """They are refused when the storage is made."""
    with pytest.raises(OptionsError, match=told):
        storage_factory({"kind": "ray", "options": options})


def test_paths(tmp_path, monkeypatch) -> None:
    """A relative one starts where the program is, or at the config file; "~" is the node's home."""
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "kept") == FileStorage({"path": "kept"}).store.path
    assert "~/kept" == FileStorage({"path": "~/kept"}).store.path
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "config.json"
    file.write_text('{"kind": "ray", "options": {"path": "kept"}}')
    assert str(tmp_path / "sub" / "kept") == storage_factory(file).store.path


def test_storages_of_one_path_share_a_server(store) -> None:
    """Whoever opens them; another path has a server of its own."""
    store.put("w/t", [b"1"])
    first = process_of(store)
    other = pickle.loads(pickle.dumps(store))
    assert b"1" == other.get("w/t")
    assert first == process_of(other)


def test_a_server_on_another_node_is_refused(store) -> None:
    """It was started with other `remoteArgs`; without any, one takes the server that is there."""
    store.put("w/t", [b"1"])
    assert b"1" == RayStore(store.path).get("w/t")
    with pytest.raises(OptionsError, match=r"started with 'remoteArgs' \{\}"):
        RayStore(store.path, {"resources": {"disk": 0.1}}).get("w/t")


@pytest.mark.parametrize("more", [-1, 0, 1, 2 * CHUNK + 5])
def test_blobs_in_pieces(store, more) -> None:
    """What is bigger than a piece comes back whole, in a buffer that can be written."""
    data = np.random.default_rng(1).bytes(CHUNK + more)
    cut = [b"small", data[:1000], data[1000:500_000], memoryview(data)[500_000:]]
    store.put("w/t", cut)
    found = memoryview(store.get("w/t"))
    assert b"small" + data == found
    assert not found.readonly
    assert b"small" + data == FileStore(store.path).get("w/t")
    with pytest.raises(FileExistsError):
        store.put("w/t", [data], if_absent=True)
    assert [] == list(store.sweep(-60.0))


def test_a_copy_stays_on_the_server(store, emptied, monkeypatch) -> None:
    """It is one request for a blob of any size, and made again if the server died."""
    store.put("w/t", [bytes(CHUNK + 5)])
    submit, asked = connection.submit, []

    def count(method, *arguments):
        asked.append(method)
        return submit(method, *arguments)

    monkeypatch.setattr("functionfuse_ray.connection.submit", count)
    store.copy("w/t", "w/.earlier/x")
    assert 1 == len(asked)
    assert (emptied / "w" / "t").samefile(emptied / "w" / ".earlier" / "x")
    store.delete(["w/t"])
    ray.kill(server_of(store), no_restart=False)
    store.copy("w/.earlier/x", "w/t")
    assert bytes(CHUNK + 5) == store.get("w/t")
    with pytest.raises(ResultNotFoundError, match="no blob 'w/missing'"):
        store.copy("w/missing", "w/t")


def test_bytes_are_copied_once_in_this_process(store) -> None:
    """Into shared memory, which is none of Python's, or out of it."""
    for size in (8 << 20, CHUNK + (8 << 20)):
        data = bytes(size)
        store.put("w/t", [b"warm"])
        assert b"warm" == store.get("w/t")
        tracemalloc.start()
        try:
            store.put("w/t", [data])
            put = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            found = store.get("w/t")
            got = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size == len(found)
        assert put < 4 << 20
        assert got - size < 4 << 20


def test_the_server_holds_a_few_pieces_of_a_big_blob(store) -> None:
    """It never has the whole: neither in its memory, nor in the object store."""
    size = 6 * CHUNK
    store.put("w/t", [bytes(1)])
    pid = process_of(store)
    before = _peak(pid)
    data = bytes(size)
    for _ in range(2):
        store.put("w/t", [data])
    assert _peak(pid) - before < 5 * CHUNK


def _peak(pid: int) -> int:
    """Return the most private memory that a process has had, about, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["RssAnon"].split()[0])


def test_a_server_that_dies_comes_back(store) -> None:
    """Its users notice nothing; also in the middle of many at once."""
    store.put("w/t", [b"before"])
    first = process_of(store)
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda n: store.put(f"w/{n}", [b"x" * 1000], if_absent=True), range(200))
        time.sleep(0.05)
        ray.kill(server_of(store), no_restart=False)
        list(done)
    assert b"before" == store.get("w/t")
    assert 201 == len(list(store.list("w/")))
    store.put("w/big", [bytes(CHUNK + 1)])
    ray.kill(server_of(store), no_restart=False)
    assert CHUNK + 1 == len(store.get("w/big"))
    assert first != process_of(store)


def test_a_server_that_comes_back_amid_a_big_blob(store) -> None:
    """It doesn't know of the blob any more: the writer sends it again."""
    store.put("w/t", [b"1"])
    with pytest.raises(StorageConnectionError, match="started again"):
        ray.get(server_of(store).put_pieces.remote("w/big", False, False, "unknown"))
    assert not ray.get(server_of(store).add.remote("unknown", b"1"))


def test_a_server_that_was_stopped_is_started_again(store) -> None:
    """As when Ray itself was: by whoever needs it, under its name."""
    store.put("w/t", [b"1"])
    ray.kill(server_of(store))
    assert b"1" == store.get("w/t")


def test_a_missing_blob(store) -> None:
    """It is the error that every store raises, without the server's traceback."""
    with pytest.raises(ResultNotFoundError, match="no blob 'w/t'") as raised:
        store.get("w/t")
    assert "ray::" not in str(raised.value)


def test_many_users_at_once(store) -> None:
    """Threads put and get blobs of all sizes at the same time."""

    def use(number):
        size = (100, 300_000, CHUNK + 10)[number % 3]
        data = bytes([number]) * size
        store.put(f"w/{number}", [data])
        return bytes(store.get(f"w/{number}")) == data

    with ThreadPoolExecutor(8) as pool:
        assert [True] * 30 == list(pool.map(use, range(30)))


def test_it_is_read_outside_of_a_workflow(emptied) -> None:
    """A program that knows the config, and not that Ray is up, reads by `rayInitArgs`."""
    address = ray.get_runtime_context().gcs_address
    options = {"path": str(emptied), "rayInitArgs": {"address": address, "log_to_driver": False}}
    config = {"kind": "ray", "options": options}
    storage_factory(config).save("w", "t", [1, 2])
    program = (
        "from functionfuse.storage import storage_factory\n"
        f"storage = storage_factory({config!r})\n"
        "print(storage.list_tasks('w'), storage.read_task('w', 't'))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert "['t'] [1, 2]" == finished.stdout.strip()
    assert ray.is_initialized()
    assert [1, 2] == storage_factory(config).read_task("w", "t")


def test_ray_s_client_is_refused(tmp_path) -> None:
    """At once, without connecting; the error names what to do."""
    config = {
        "kind": "ray",
        "options": {"path": "kept", "rayInitArgs": {"address": "ray://127.0.0.1:1"}},
    }
    program = (
        "from functionfuse.errors import OptionsError\n"
        "from functionfuse.storage import storage_factory\n"
        "try:\n"
        f"    storage_factory({config!r}).list_tasks('w')\n"
        "except OptionsError as error:\n"
        "    print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert "can't be used through Ray's client" in finished.stdout
    assert "ray job submit" in finished.stdout


def test_a_local_workflow_keeps_its_results_there(emptied) -> None:
    """In this process, with values of every size, and reuses them."""
    storage = storage_factory({"kind": "ray", "options": {"path": str(emptied)}})
    node = functions.mean(functions.array(3 << 20, 2.0).set_name("big")).set_name("mean")
    for expected in ("computed", "reused"):
        flow = LocalWorkflow(node, workflow_name="w")
        flow.set_storage(storage)
        assert 2.0 == flow.run()
        assert expected == flow.report["big"].action
    big = storage.read_task("w", "big")
    big[0] = 5.0  # it is the reader's own
    assert 2.0 == storage.read_task("w", "big")[0]


def test_importing_the_plugin_does_not_import_ray() -> None:
    """Nor does making a storage from a config's options go further than checking them."""
    program = (
        "import sys, functionfuse_ray, functionfuse_ray.plugin\nassert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_a_forked_process_is_told(store) -> None:
    """Ray's client hangs after a fork: that is an error, and not a silence."""
    store.put("w/t", [b"1"])
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            store.get("w/t")
        except OSError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(process, 0)
    assert b"can't be used in a forked process" in os.read(reading, 1000)


@ray.remote
class Counter:
    """An actor."""


def test_references_are_in_no_stored_result(tmp_path) -> None:
    """They lead to nothing when the cluster has gone; the values are in `ray.get()` of them."""
    storage = storage_factory({"kind": "file", "options": {"path": str(tmp_path)}})
    actor = Counter.remote()
    refused = {
        r"ray ObjectRef: a reference .*ray\.get": [ray.put(1)],
        "ray.actor ActorHandle": actor,
    }
    for told, value in refused.items():
        with pytest.raises(UnpicklableResultError, match=told):
            storage.save("w", "t", {"x": value})
    ray.kill(actor)
    storage.save("w", "t", ray.get([ray.put(1)]))
    assert [1] == storage.read_task("w", "t")


@ray.remote(num_cpus=0)
class Takes:
    """Holds what the server of a storage needs to come back."""

    def holds(self):
        """Return when it does."""


def test_a_server_that_stays_away(tmp_path, notes) -> None:
    """The run ends when it was waited for; meanwhile, tasks that wait keep their CPUs."""
    needs = {"resources": {"away": 1}}  # of no other test: a server can come back late
    storage, takers = Storage(Impatient(str(tmp_path / "away"), needs)), []
    start = functions.number(0).set_name("start")
    nodes = [functions.number(n, start).set_name(f"save {n}") for n in range(12)]
    flow = kept(storage, *nodes)
    own = {"env_vars": {"NOTES": notes}}
    flow.query(None).set_remote_args({"runtime_env": own, "max_retries": 0})

    def take(event):
        if event.kind == "finished" and event.node == "start":
            taker = Takes.options(**needs).remote()
            takers.append(taker)
            held = taker.holds.remote()
            while not ray.wait([held], timeout=5)[0]:
                ray.kill(server_of(storage.store), no_restart=False)

    flow.listeners.append(take)
    try:
        with pytest.raises(StorageConnectionError, match="away' is gone"):
            flow.run()
    finally:
        ray.kill(server_of(storage.store))
        for taker in takers:
            ray.kill(taker)
    # Two processes wait for the server, to check the storage or to save. When they end, two more
    # may begin before the run is over.
    assert 2 <= len(set(noted(notes))) <= 4
    assert "computed" == flow.report["start"].action


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_storage_that_starts_ray(tmp_path, where) -> None:
    """The Ray that it starts stays up, also if a thread reads it that ends."""
    done = subprocess.run(
        [sys.executable, IMPORTABLE / "start_late.py", tmp_path / "store", where],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "1 1\n" == done.stdout, done.stderr
