"""Several runs that want the same results at the same time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage, lease
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.filestorage import FileStorage

SCRIPT = """
    import sys, time
    from pathlib import Path
    from functionfuse import workflow
    from functionfuse.backends.builtin.localback import LocalWorkflow
    from functionfuse.storage.filestorage import FileStorage

    @workflow
    def slow(x, log):
        with open(log, "a") as file:
            file.write(f"{x}\\n")
        time.sleep(0.3)
        return x + 1

    @workflow
    def add(a, b):
        return a + b

    store, log, flight = sys.argv[1:]
    local = LocalWorkflow(add(slow(1, log), slow(10, log)), workflow_name="w")
    local.set_storage(FileStorage(store))
    print(local.run(single_flight=flight == "single"))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leases are given up after half a second."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lease, "LOST_AFTER", 0.5)
    return iter(())


def start(tmp_path: Path, flight: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path / "store"), str(tmp_path / "log"), flight]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("flight", "most"), [("single", 2), ("each", 6)])
def test_processes_at_once_all_end_right(tmp_path: Path, flight: str, most: int) -> None:
    """With single flight each node is computed once; without, at most once by each process."""
    running = [start(tmp_path, flight) for _ in range(3)]
    assert [(0, "13\n")] * 3 == [(p.wait(60), p.stdout.read()) for p in running if p.stdout]
    for process in running:
        assert process.stdout is not None
        process.stdout.close()
    computed = (tmp_path / "log").read_text().split()
    assert {"1", "10"} == set(computed)
    assert len(computed) <= most
    assert not list((tmp_path / "store" / "w").glob(".lease"))


def test_the_lease_of_a_dead_owner_is_taken_over(tmp_path: Path, quick: None) -> None:
    """A lease without a sign of life goes to the next who asks, soon."""
    storage = FileStorage(tmp_path)
    storage.store.put("w/.lease/node", [b"of a killed process"])

    @workflow
    def double(x: int) -> int:
        return 2 * x

    local = LocalWorkflow(double(21).set_name("node"), workflow_name="w")
    local.set_storage(storage)
    started = time.monotonic()
    assert 42 == local.run(single_flight=True)
    assert 0.3 < time.monotonic() - started < 10
    assert not storage.store.names("w/.lease/") or [] == list(storage.store.names("w/.lease/"))


def test_a_living_owner_keeps_its_lease(tmp_path: Path, quick: None) -> None:
    """As long as its owner gives signs of life, nobody else gets it; afterwards anybody does."""
    store = FileStorage(tmp_path).store
    one, other = lease.Lease(store, "w/.lease/t"), lease.Lease(store, "w/.lease/t")
    assert one.acquire()
    time.sleep(0.8)
    assert not other.acquire()
    one.release()
    assert other.acquire()
    one.release()  # it is the other's now
    assert not one.acquire()
    other.release()
    assert [] == list(store.list(""))


def test_a_lease_that_was_given_back_shows_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was about to: the next one would wait for nobody."""
    beating = threading.Event()

    class Slow(MemoryStore):
        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            if not options.get("if_absent"):
                beating.set()
                time.sleep(0.2)
            super().put(key, parts, **options)

    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    store = Slow()
    held = Storage(store).lease("w", "t")
    assert held.acquire()
    beating.wait()
    held.release()
    time.sleep(0.3)
    assert [] == list(store.list(""))


def test_a_lease_that_was_taken_over_is_the_other_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was taken for dead neither shows signs of life for it, nor gives it back."""
    asked = threading.Event()

    class TakenOver(MemoryStore):
        """Another has each lease as soon as it is taken."""

        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            super().put(key, parts, **options)
            if options.get("if_absent"):
                super().put(key, [b"another"])
            else:
                asked.set()

        def get(self, key: str) -> Buffer:
            asked.set()
            return super().get(key)

    monkeypatch.setattr(lease, "HEARTBEAT", 0.001)
    store = TakenOver()
    held = Storage(store).lease("w", "t")
    assert held.acquire()
    assert asked.wait(60)
    held.release()
    assert [b"another"] == [bytes(store.get(blob.key)) for blob in store.list("")]


def test_what_was_stored_before_the_lease_was_got_is_taken() -> None:
    """Another run ends between the look for its result and the lease; then nobody has the lease."""
    computed = []

    @workflow(version="1")
    def double(x: int) -> int:
        computed.append(x)
        return 2 * x

    def run(storage: Storage, **options: Any) -> Any:
        local = LocalWorkflow(double(21).set_name("t"), workflow_name="w")
        local.set_storage(storage)
        return local.run(**options)

    class Meanwhile(MemoryStore):
        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            if ".lease/" in key:
                assert 42 == run(Storage(others))
            super().put(key, parts, **options)

    store, others = Meanwhile(), MemoryStore()
    others.blobs = store.blobs
    assert 42 == run(Storage(store), single_flight=True)
    assert [21] == computed
    assert ["w/t"] == [blob.key for blob in store.list("")]


def test_calls_on_an_object_are_not_waited_for() -> None:
    """The object would not have gone through them; functions beside them have their leases."""
    leases = []

    class Noting(MemoryStore):
        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            if ".lease/" in key:
                leases.append(key.rpartition("/")[2])
            super().put(key, parts, **options)

    @workflow
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, number: int) -> int:
            self.count += number
            return self.count

    @workflow
    def double(x: int) -> int:
        return 2 * x

    last = double(Counter().add(3).set_name("add")).set_name("double")
    local = LocalWorkflow(last, workflow_name="w")
    local.set_storage(Storage(Noting()))
    assert 6 == local.run(single_flight=True)
    assert ["double"] == leases


def test_a_result_of_another_call_is_not_waited_for(tmp_path: Path) -> None:
    """It is stored, but it is not the one that is wanted."""

    @workflow
    def double(x: int) -> int:
        return 2 * x

    for x in (1, 2):
        local = LocalWorkflow(double(x).set_name("t"), workflow_name="w")
        local.set_storage(FileStorage(tmp_path))
        assert 2 * x == local.run(single_flight=True)


def test_a_failure_passes_the_lease_on(tmp_path: Path) -> None:
    """When the one that computes fails, the one that waits computes; errors are not shared."""
    storage, entered = FileStorage(tmp_path), threading.Event()

    @workflow
    def fragile() -> str:
        is_first = not entered.is_set()
        entered.set()
        time.sleep(0.2)
        if is_first:
            raise ValueError("the first one fails")
        return "done"

    def run() -> Any:
        local = LocalWorkflow(fragile().set_name("t"), workflow_name="w")
        local.query(".*").set_reuse("unchanged")
        local.set_storage(storage)
        return local.run(single_flight=True)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run)
        entered.wait()
        second = pool.submit(run)
        with pytest.raises(ValueError, match="first one fails"):
            first.result()
        assert "done" == second.result()


def test_who_waited_reports_a_reused_result(tmp_path: Path) -> None:
    """The value comes from the storage, and what follows is made from it."""
    storage, entered = FileStorage(tmp_path), threading.Event()

    @workflow(version="1")
    def slow() -> list[int]:
        entered.set()
        time.sleep(0.3)
        return [1, 2]

    @workflow
    def total(values: list[int]) -> int:
        return sum(values)

    def make() -> LocalWorkflow:
        local = LocalWorkflow(total(slow().set_name("slow")).set_name("sum"), workflow_name="w")
        local.set_storage(storage)
        return local

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(make().run, single_flight=True)
        entered.wait()
        second = make()
        assert 3 == second.run(single_flight=True) == first.result()
    assert second.report is not None
    assert "reused" == second.report["slow"].action
