"""What networks and servers do wrong: nothing is lost, nothing is wrong, and errors are named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from s3_proxy import FAULTS, Proxy, Request, faulty
from s3_servers import BUCKET, Server, weed

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    DamagedResultError,
    ResultNotFoundError,
    StorageConnectionError,
    StorageError,
    StoragePathError,
)
from functionfuse_s3 import S3FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
SOME = FAULTS if FULL else ("503", "reset after", "cut", "hang")
MIB = 1 << 20
SIZES = {"multipart_threshold": 5 * MIB, "multipart_chunk": 5 * MIB}
LARGE = np.random.default_rng(0).integers(0, 1 << 60, 11 * MIB // 8)
IMPATIENT = {"connect_timeout": 1, "read_timeout": 0.5, "max_attempts": 3, "concurrency": 4}
PATIENT = {**IMPATIENT, "read_timeout": 3}


pytestmark = pytest.mark.battery


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have boto3 not wait before it tries again, up to a second the first time, but do try.

    A client that had to try again too often does it less: each test has one of its own.
    """
    monkeypatch.setattr("functionfuse_s3.client._clients", {})
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Server:
    """The real server, or moto where that isn't installed."""
    found: Server = request.getfixturevalue("seaweedfs_server" if weed() else "moto_server")
    return found


@pytest.fixture(scope="module")
def shared_proxy(server: Server) -> Iterator[Proxy]:
    with faulty(server.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Iterator[Proxy]:
    """A proxy that does nothing yet."""
    yield shared_proxy
    shared_proxy.fault = lambda _: ""


@pytest.fixture
def storage(server: Server, proxy: Proxy, path: str) -> S3FileStorage:
    """A storage through a proxy, that has the result "t", which is "before"."""
    storage = S3FileStorage(**server.behind(proxy.url).options(path, **IMPATIENT, **SIZES))
    storage.save("w", "t", "before")
    return storage


@pytest.fixture
def patient(server: Server, proxy: Proxy, storage: S3FileStorage) -> S3FileStorage:
    """The same storage with time for large values."""
    options = {**dict(storage.store.bucket.options), **PATIENT}
    return S3FileStorage(**options)


@pytest.fixture
def directly(server: Server, path: str) -> S3FileStorage:
    """The same storage, past the proxy."""
    return S3FileStorage(**server.options(path, **SIZES))


def once(fault: str, wanted: Callable[[Request], bool] = lambda _: True, times: int = 1) -> Any:
    """Return what has the first requests that are wanted meet a fault, and the next none."""
    left = [times]

    def decide(request: Request) -> str:
        if wanted(request) and left[0]:
            left[0] -= 1
            return fault
        return ""

    return decide


def at(place: int, fault: str, proxy: Proxy) -> Callable[[Request], str]:
    """Return what has one of the next requests meet a fault."""
    number = len(proxy.seen) + place
    return lambda request: fault if request.number == number else ""


def uploads(server: Server, storage: S3FileStorage) -> list[Any]:
    """Return the uploads that are neither completed nor aborted."""
    prefix = storage.store.bucket.prefix
    answer = server.by_hand.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    return list(answer.get("Uploads", []))


@pytest.mark.parametrize("fault", SOME)
def test_a_fault_that_happens_once(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Each operation does what it should all the same."""
    proxy.fault = once(fault)
    storage.save("w", "t", "after")
    assert "after" == directly.read_task("w", "t")
    proxy.fault = once(fault)
    assert "after" == storage.read_task("w", "t")
    proxy.fault = once(fault)
    assert ["t"] == storage.list_tasks("w")
    proxy.fault = once(fault)
    with pytest.raises(ResultNotFoundError):
        storage.read_task("w", "missing")
    storage.save("w", "first", 1, if_absent=True)  # from here on the server's ways are known
    proxy.fault = once(fault)
    storage.save("w", "new", 1, if_absent=True)
    proxy.fault = once(fault)
    with pytest.raises(FileExistsError):
        storage.save("w", "new", 2, if_absent=True)
    assert 1 == directly.read_task("w", "new")
    proxy.fault = once(fault)
    storage.remove_task("w", "new")
    assert ["first", "t"] == directly.list_tasks("w")


@pytest.mark.parametrize(
    "fault", ["reset after", "reset in body", *(("503", "cut", "drip") if FULL else ())]
)
def test_a_fault_that_happens_once_to_a_large_value(
    server: Server, patient: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Whichever of the requests of a large value meets it."""
    for place in range(5):
        proxy.fault = at(place, fault, proxy)
        patient.save("w", "t", LARGE + place)
        assert np.array_equal(LARGE + place, directly.read_task("w", "t"))
        # Of an upload whose number was lost on its way back, only gc can know.
        assert (place == 0 and "after" in fault) or [] == uploads(server, patient)
        directly.gc(-60)
        assert [] == uploads(server, patient)
    for place in range(3):
        proxy.fault = at(place, fault, proxy)
        assert np.array_equal(LARGE + 4, patient.read_task("w", "t"))


@pytest.mark.parametrize("fault", [fault for fault in SOME if fault != "drip"])
def test_a_fault_that_lasts(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Every operation raises, within its time; what was stored stays or is replaced, whole."""
    proxy.fault = lambda _: fault
    for use in (
        lambda: storage.read_task("w", "t"),
        lambda: storage.read_task("w", "missing"),
        lambda: storage.task_info("w", "t"),
        lambda: list(storage.task_infos("w", ["t", "u"])),
        lambda: storage.list_tasks("w"),
    ):
        started = time.monotonic()
        with pytest.raises(StorageError) as caught:
            use()
        assert time.monotonic() - started < 6
        # Of an answer without a server's own words, nobody can tell that it came from S3.
        assert isinstance(caught.value, StorageConnectionError | StoragePathError)
    proxy.fault = lambda request: fault if request.method == "PUT" else ""
    if fault in ("reset in body", "cut", "hang in body"):
        storage.save("w", "t", "after")  # its answer has no body
    else:
        with pytest.raises(StorageConnectionError):
            storage.save("w", "t", "after")
    done = "after" in fault or "body" in fault or fault == "cut"
    assert ("after" if done else "before") == directly.read_task("w", "t")


@pytest.mark.parametrize(("times", "stored"), [(2, "after"), (3, "before")])
def test_a_part_that_fails_three_times(
    server: Server,
    patient: S3FileStorage,
    directly: S3FileStorage,
    proxy: Proxy,
    times: int,
    stored: str,
) -> None:
    """The upload is given up, nothing of it is left, and the earlier result stays."""
    proxy.fault = once("503", lambda request: "partNumber=2" in request.path, times)
    if stored == "before":
        with pytest.raises(StorageConnectionError, match="fails or is too busy"):
            patient.save("w", "t", LARGE)
        assert "before" == directly.read_task("w", "t")
    else:
        patient.save("w", "t", LARGE)
        assert np.array_equal(LARGE, directly.read_task("w", "t"))
    assert [] == uploads(server, patient)


def test_an_upload_that_can_not_be_given_up_is_left_for_gc(
    server: Server, patient: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """The error says so, and gc finds it."""
    proxy.fault = lambda request: "503" if "uploadId=" in request.path else ""
    with pytest.raises(StorageConnectionError) as caught:
        patient.save("w", "t", LARGE)
    assert "left for gc" in "".join(caught.value.__notes__)
    assert 1 == len(uploads(server, patient))
    assert [] == directly.gc()
    found = directly.gc(-60)
    assert [("w/t", "temporary")] == [(leftover.key, leftover.kind) for leftover in found]
    assert [] == uploads(server, patient)
    assert "before" == directly.read_task("w", "t")


@pytest.mark.parametrize("fault", ["500 after", "reset after", "hang after"])
def test_a_lost_answer_to_the_last_request_of_an_upload(
    patient: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Sent again, the server knows of no such upload: it is completed already."""
    proxy.fault = once(fault, lambda r: r.method == "POST" and "uploadId=" in r.path)
    patient.save("w", "t", LARGE)
    assert np.array_equal(LARGE, directly.read_task("w", "t"))


@pytest.mark.parametrize("fault", ["500 after", "reset after", "hang after"])
def test_a_race_that_is_lost_against_oneself(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """boto3 sends a PUT again whose answer was lost; that it finds the blob there is no loss."""
    storage.save("w", "first", 1, if_absent=True)
    proxy.fault = once(fault, lambda request: request.method == "PUT")
    storage.save("w", "new", 1, if_absent=True)
    assert 1 == directly.read_task("w", "new")


def test_a_server_that_ignores_conditions(
    moto_server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out by a probe, before anything is put over what is there."""
    monkeypatch.setattr("functionfuse_s3.writing._keeps_conditions", {})
    storage = S3FileStorage(**moto_server.options(path, endpoint_url=moto_server.url + "/"))

    def ignore(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop("If-None-Match", None)

    events = storage.store.bucket.client.meta.events
    events.register("before-call.s3.PutObject", ignore)
    try:
        storage.save("w", "t", 1)
        for _ in range(2):
            with pytest.raises(StorageError, match="ignores the condition"):
                storage.save("w", "t", 2, if_absent=True)
        assert 1 == storage.read_task("w", "t")
        assert [] == list(storage.gc(-60))
    finally:
        events.unregister("before-call.s3.PutObject", ignore)


def test_altered_bytes_on_the_way_back_are_found(patient: S3FileStorage, proxy: Proxy) -> None:
    """Reading says so; a run computes again, and what is stored stays."""
    patient.save("w", "large", LARGE)
    proxy.fault = lambda _: "corrupt"
    for name in ("t", "large"):
        with pytest.raises(DamagedResultError):
            patient.read_task("w", name)
    proxy.fault = lambda _: ""
    assert "before" == patient.read_task("w", "t")


def test_altered_bytes_on_the_way_there_are_refused(seaweedfs_server: Server, path: str) -> None:
    """The server compares checksums and signatures; the earlier result stays."""
    directly = S3FileStorage(**seaweedfs_server.options(path))
    directly.save("w", "t", "before")
    with faulty(seaweedfs_server.url) as proxy:
        options = seaweedfs_server.behind(proxy.url).options(path, **IMPATIENT, **SIZES)
        storage = S3FileStorage(**options)
        proxy.fault = lambda request: "corrupt request" if request.method == "PUT" else ""
        for value in ("after", LARGE):
            with pytest.raises(StorageError):
                storage.save("w", "t", value)
    assert "before" == directly.read_task("w", "t")


def test_a_value_replaced_while_it_is_read(
    patient: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """Pieces of two values never make one."""
    directly.save("w", "t", LARGE)
    start = len(proxy.seen)

    def replace(request: Request) -> str:
        if request.number == start + 1:
            directly.save("w", "t", LARGE + 1)
        return ""

    proxy.fault = replace
    assert np.array_equal(LARGE + 1, patient.read_task("w", "t"))


def test_listings_that_are_behind(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """Where a listing shows what was, runs compute too much, and return what is right."""

    @workflow
    def double(number: int) -> int:
        return 2 * number

    @workflow
    def total(*numbers: int) -> int:
        return sum(numbers)

    def run(numbers: list[int]) -> Any:
        nodes = [double(number).set_name(f"n{at}") for at, number in enumerate(numbers)]
        flow = LocalWorkflow(total(*nodes).set_name("total"), workflow_name="v")
        flow.set_storage(storage)
        return flow.run()

    numbers = list(range(8))
    proxy.fault = lambda request: "old" if "list-type" in request.path else ""
    for at in range(6):
        assert 2 * sum(numbers) == run(numbers)
        numbers[at] += 10 * at
    proxy.fault = lambda _: ""
    assert 2 * sum(numbers) == run(numbers)
    assert [] == [found.problem for found in directly.verify() if found.problem]


@pytest.mark.parametrize("at", range(7))
def test_killed_in_every_phase_of_an_upload(
    server: Server, storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, at: int
) -> None:
    """The earlier result stays, or the new one is whole; what is left of it, gc finds."""
    if at >= 5:
        proxy.fault = lambda r: "hang after" if r.method == "POST" and "uploadId=" in r.path else ""
    pid = os.fork()
    if not pid:
        _save_and_die(storage, at)
    assert signal.SIGKILL == os.waitpid(pid, 0)[1]
    proxy.fault = lambda _: ""
    found = storage.read_task("w", "t")
    assert (found == "before") if at < 5 else np.array_equal(LARGE, found)
    directly.gc(-60)
    assert [] == uploads(server, storage)
    storage.save("w", "t", "next")
    assert "next" == directly.read_task("w", "t")


def _save_and_die(storage: S3FileStorage, at: int) -> None:
    """Kill this process when the request `at` is to be sent, or the last answer awaited."""
    sent = [0]

    def die(**_: Any) -> None:
        if sent[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        sent[0] += 1

    try:
        storage.store.bucket.client.meta.events.register("before-send.s3", die)
        storage.save("w", "t", LARGE)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
