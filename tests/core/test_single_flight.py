"""Several runs that want the same results at the same time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.run import job
from functionfuse.storage import Storage, lease
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.filestorage import FileStorage

LATE = 300  # seconds; what takes longer hangs

# Three processes run this at once: nothing is computed before each of them is about to.
SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from functionfuse import workflow
    from functionfuse.backends.builtin.localback import LocalWorkflow
    from functionfuse.storage import lease
    from functionfuse.storage.filestorage import FileStorage

    lease.LOST_AFTER = 3600  # however slow the machine is
    folder, flight = Path(sys.argv[1]), sys.argv[2]

    @workflow
    def slow(x, folder):
        with open(f"{folder}/log", "a") as file:
            file.write(f"{x}\\n")
        while len(list(Path(folder, "begun").iterdir())) < 3:
            time.sleep(0.01)
        return x + 1

    @workflow
    def add(a, b):
        return a + b

    def begin(event):
        if event.kind == "started":
            (folder / "begun" / str(os.getpid())).touch()

    local = LocalWorkflow(add(slow(1, str(folder)), slow(10, str(folder))), workflow_name="w")
    local.set_storage(FileStorage(folder / "store"))
    local.listeners.append(begin)
    print(local.run(single_flight=flight == "single"))
"""


@pytest.mark.parametrize(("flight", "times"), [("single", 1), ("each", 3)])
def test_processes_at_once_all_end_right(tmp_path: Path, flight: str, times: int) -> None:
    """With single flight each node is computed once; without, by each process that began it."""
    (tmp_path / "begun").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), flight]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert ["13\n"] * 3 == [process.communicate(timeout=LATE)[0] for process in running]
    assert [0] * 3 == [process.returncode for process in running]
    computed = (tmp_path / "log").read_text().split()
    assert times == computed.count("1")
    assert 1 <= computed.count("10") <= times
    assert not list((tmp_path / "store" / "w").glob(".lease"))


class ClockStore(MemoryStore):
    """Blobs in memory, whose clock goes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def now(self) -> float:
        return self.time


def test_the_lease_of_a_dead_owner_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease without a sign of life goes to who asks, when its time is over, and not before."""
    store = ClockStore()
    store.put("w/.lease/node", [b"of a killed process"])

    def wait(seconds: float) -> None:
        store.time += 1

    @workflow
    def double(x: int) -> int:
        return 2 * x

    monkeypatch.setattr(job, "sleep", wait)
    local = LocalWorkflow(double(21).set_name("node"), workflow_name="w")
    local.set_storage(Storage(store))
    assert 42 == local.run(single_flight=True)
    assert lease.LOST_AFTER + 1 == store.time
    assert ["w/.functionfuse", "w/node"] == [
        blob.key for blob in store.list("") if "/.runs/" not in blob.key
    ]


class KeepingStore(ClockStore):
    """A store whose user may not remove anything."""

    def delete(self, keys: Iterable[str]) -> None:
        raise PermissionError("not allowed")


def test_a_lease_needs_no_right_to_remove() -> None:
    """It is given back, and taken over from a dead holder; it still has one holder at a time."""
    store = KeepingStore()
    one, other = lease.Lease(store, "w/.lease/t"), lease.Lease(store, "w/.lease/t")
    for _ in range(2):
        assert one.acquire()
        assert not other.acquire()
        one.release()
        assert other.acquire()
        assert not one.acquire()
        other.release()
    assert b"" == store.get("w/.lease/t")
    store.put("w/.lease/t", [b"of a killed process"])
    assert not one.acquire()
    store.time += lease.LOST_AFTER + 1
    assert one.acquire()
    assert not other.acquire()
    one.release()


def test_a_living_owner_keeps_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as its owner gives signs of life, nobody else gets it; afterwards anybody does."""
    alive = threading.Semaphore(0)

    class Heard(ClockStore):
        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            super().put(key, parts, **options)
            if not options.get("if_absent"):
                alive.release()

    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    store = Heard()
    one, other = lease.Lease(store, "w/.lease/t"), lease.Lease(store, "w/.lease/t")
    assert one.acquire()
    for _ in range(3):
        store.time += lease.LOST_AFTER + 1
        while next(store.list("w/.lease/t")).modified < store.time:
            assert alive.acquire(timeout=LATE)
        assert not other.acquire()
    one.release()
    assert other.acquire()
    one.release()  # it is the other's now
    assert not one.acquire()
    other.release()
    assert [] == list(store.list(""))


def test_a_lease_that_was_given_back_shows_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was about to: the next one would wait for nobody."""
    beating, deleted = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
            if not options.get("if_absent"):
                beating.set()
                deleted.wait(0.2)  # that is only seen where nobody waits for this
            super().put(key, parts, **options)

        def delete(self, keys: Any) -> None:
            super().delete(keys)
            deleted.set()

    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    store = Slow()
    held = Storage(store).lease("w", "t")
    assert held.acquire()
    beating.wait()
    beat = held._beating
    held.release()
    assert beat is not None
    beat.join()
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
    assert ["w/.functionfuse", "w/t"] == [
        blob.key for blob in store.list("") if "/.runs/" not in blob.key
    ]


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


def test_a_failure_passes_the_lease_on(tmp_path: Path, waited: threading.Event) -> None:
    """When the one that computes fails, the one that waits computes; errors are not shared."""
    storage, entered = FileStorage(tmp_path), threading.Event()

    @workflow(version="1")  # by its code it could not be known again: an event is in it
    def fragile() -> str:
        if not entered.is_set():
            entered.set()
            assert waited.wait(LATE)
            raise ValueError("the first one fails")
        return "done"

    def run() -> Any:
        local = LocalWorkflow(fragile().set_name("t"), workflow_name="w")
        local.set_storage(storage)
        return local.run(single_flight=True)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run)
        entered.wait()
        second = pool.submit(run)
        with pytest.raises(ValueError, match="first one fails"):
            first.result()
        assert "done" == second.result()


def test_who_waited_reports_a_reused_result(tmp_path: Path, waited: threading.Event) -> None:
    """The value comes from the storage, and what follows is made from it."""
    storage, entered = FileStorage(tmp_path), threading.Event()

    @workflow(version="1")
    def slow() -> list[int]:
        entered.set()
        assert waited.wait(LATE)
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


class FailingStore(MemoryStore):
    """Blobs in memory; what is asked of leases fails as long as `failing`."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.failed = threading.Event()

    def get(self, key: str) -> Buffer:
        if self.failing and "/.lease/" in key:
            self.failed.set()
            raise OSError(5, "Input/output error")
        return super().get(key)


def test_a_lease_lives_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the store is logged, and the next sign of life is given all the same."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    store = FailingStore()
    held = lease.Lease(store, "w/.lease/node")
    assert held.acquire()
    store.failing = True
    assert store.failed.wait(LATE)
    given = threading.Event()
    put = store.put
    monkeypatch.setattr(store, "put", lambda *args, **named: (put(*args, **named), given.set()))
    store.failing = False
    assert given.wait(LATE)
    held.release()
    assert "no sign of life for the lease 'w/.lease/node': OSError(5" in caplog.text
    assert not list(store.list("w/.lease/"))


def test_a_lease_that_can_t_be_given_back_fails_no_node(caplog: pytest.LogCaptureFixture) -> None:
    """The result is stored, and returned; the trouble is in the log."""
    store = FailingStore()
    store.failing = True

    @workflow
    def double(x: int) -> int:
        return 2 * x

    local = LocalWorkflow(double(21).set_name("node"), workflow_name="w")
    local.set_storage(Storage(store))
    assert 42 == local.run(single_flight=True)
    assert "the lease 'w/.lease/node' can't be given back" in caplog.text
    assert 42 == Storage(store).read_task("w", "node")


def test_a_result_with_a_damaged_value_is_computed_once(tmp_path: Path) -> None:
    """It is of the wanted call, but no run can wait for it."""

    @workflow(version="1")
    def rows(number: int) -> list[int]:
        return [number] * 100

    @workflow(version="1")
    def total(found: list[int], more: int) -> int:
        return sum(found) + more

    def run(more: int) -> Any:
        node = total(rows(1).set_name("rows"), more).set_name("total")
        flow = LocalWorkflow(node, workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        return flow.run(single_flight=True), flow.report.names("computed")

    assert (100, ["rows", "total"]) == run(0)
    path = tmp_path / "w" / "rows"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert (105, ["rows", "total"]) == run(5)
