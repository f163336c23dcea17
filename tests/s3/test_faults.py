"""What networks and servers do wrong: nothing is lost, nothing is wrong, and errors are named."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from s3_proxy import DRIPS, FAULTS, Proxy, Request, at, faulty, once
from s3_servers import PIECES, Server

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    DamagedResultError,
    ResultNotFoundError,
    StorageAccessError,
    StorageConnectionError,
    StorageError,
    StoragePathError,
)
from functionfuse_s3 import S3FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
SOME = FAULTS if FULL else ("503", "reset after", "cut", "hang")
MIB = 1 << 20
LARGE = np.random.default_rng(0).integers(0, 1 << 60, 11 * MIB // 8)
ATTEMPTS = 3

pytestmark = [pytest.mark.battery, pytest.mark.usefixtures("eager")]


def with_options(storage: S3FileStorage, **options: Any) -> S3FileStorage:
    return S3FileStorage(**dict(storage.store.bucket.options) | options)


def hurried(
    storage: S3FileStorage, fault: str, *, seconds: float = 0.5, attempts: int = 9
) -> S3FileStorage:
    """Return a storage that soon gives up what hangs, and tries again as often as need be."""
    if "hang" not in fault:
        return storage
    return with_options(storage, read_timeout=seconds, max_attempts=attempts)


@pytest.mark.parametrize("fault", SOME)
def test_a_fault_that_happens_once(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Each operation does what it should all the same."""
    storage = hurried(storage, fault)
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


@pytest.mark.parametrize("fault", [fault for fault in SOME if fault != "drip"])
def test_a_fault_that_lasts(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Every operation raises, after its attempts; what was stored stays or is replaced, whole."""
    storage = hurried(storage, fault, seconds=0.1, attempts=ATTEMPTS)
    proxy.fault = lambda _: fault
    for use in (
        lambda: storage.read_task("w", "t"),
        lambda: storage.read_task("w", "missing"),
        lambda: storage.task_info("w", "t"),
        lambda: list(storage.task_infos("w", ["t", "u"])),
        lambda: storage.list_tasks("w"),
    ):
        start = len(proxy.seen)
        with pytest.raises(StorageError) as caught:
            use()
        assert ATTEMPTS == len(proxy.seen) - start
        # Of an answer without a server's own words, nobody can tell that it came from S3.
        assert isinstance(caught.value, StorageConnectionError | StoragePathError)
    proxy.fault = lambda request: fault if request.method == "PUT" else ""
    storage = hurried(storage, fault, seconds=1, attempts=ATTEMPTS)
    if fault in ("reset in body", "cut", "hang in body"):
        storage.save("w", "t", "after")  # its answer has no body
    else:
        with pytest.raises(StorageConnectionError):
            storage.save("w", "t", "after")
    done = "after" in fault or "body" in fault or fault == "cut"
    assert ("after" if done else "before") == directly.read_task("w", "t")


def test_a_slow_drip(storage: S3FileStorage, proxy: Proxy) -> None:
    """A body that takes longer than `read_timeout`, but never so long for a byte, is read."""
    storage.save("w", "t", "x" * 1000)
    storage = with_options(storage, read_timeout=2)
    assert 10 * DRIPS["slow drip"] > 2 > 5 * DRIPS["slow drip"]
    proxy.fault = lambda _: "slow drip"
    start = len(proxy.seen)
    assert "x" * 1000 == storage.read_task("w", "t")
    assert 1 == len(proxy.seen) - start


@pytest.mark.parametrize(("code", "times"), [("SlowDown", 2), ("InternalError", 2)])
def test_some_of_many_that_are_not_removed_at_first(
    storage: S3FileStorage, directly: S3FileStorage, code: str, times: int
) -> None:
    """They are removed again, and only they."""
    sent: list[list[str]] = []
    for name in "uv":
        storage.save("w", name, 1)

    def note(params: dict[str, Any], **_: Any) -> None:
        sent.append([entry["Key"].rpartition("/")[2] for entry in params["Delete"]["Objects"]])

    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        if len(sent) <= times:
            parsed["Errors"] = [{"Key": f"{storage.store.bucket.prefix}w/v", "Code": code}]

    events = storage.store.bucket.client.meta.events
    events.register("before-parameter-build.s3.DeleteObjects", note)
    events.register("after-call.s3.DeleteObjects", refuse)
    storage.store.delete(["w/t", "w/u", "w/v"])
    assert [["t", "u", "v"], *[["v"]] * times] == sent[: times + 1]
    assert [] == directly.list_tasks("w")


def test_one_of_many_that_may_not_be_removed(storage: S3FileStorage) -> None:
    """The error names it, and it isn't tried again."""
    refused = {"Key": f"{storage.store.bucket.prefix}w/t", "Code": "AccessDenied", "Message": "no"}
    sent: list[Any] = []

    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        sent.append(parsed)
        parsed["Errors"] = [refused]

    storage.store.bucket.client.meta.events.register("after-call.s3.DeleteObjects", refuse)
    with pytest.raises(StorageAccessError) as caught:
        storage.remove_task("w", "t")
    assert f"'{refused['Key']}'" in str(caught.value)
    assert 1 == len(sent)


@pytest.mark.parametrize("fault", ["500 after", "reset after", "hang after"])
def test_a_race_that_is_lost_against_oneself(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """boto3 sends a PUT again whose answer was lost; that it finds the blob there is no loss."""
    storage = hurried(storage, fault)
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


def test_altered_bytes_on_the_way_back_are_found(storage: S3FileStorage, proxy: Proxy) -> None:
    """Reading says so; a run computes again, and what is stored stays."""
    storage.save("w", "large", LARGE)
    proxy.fault = lambda _: "corrupt"
    for name in ("t", "large"):
        with pytest.raises(DamagedResultError):
            storage.read_task("w", name)
    proxy.fault = lambda _: ""
    assert "before" == storage.read_task("w", "t")


def test_altered_bytes_on_the_way_there_are_refused(seaweedfs_server: Server, path: str) -> None:
    """The server compares checksums and signatures; the earlier result stays."""
    directly = S3FileStorage(**seaweedfs_server.options(path))
    directly.save("w", "t", "before")
    with faulty(seaweedfs_server.url) as proxy:
        options = seaweedfs_server.behind(proxy.url).options(path, **PIECES)
        storage = S3FileStorage(**options)
        proxy.fault = lambda request: "corrupt request" if request.method == "PUT" else ""
        for value in ("after", LARGE):
            with pytest.raises(StorageError):
                storage.save("w", "t", value)
    assert "before" == directly.read_task("w", "t")


def test_a_value_replaced_while_it_is_read(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """Pieces of two values never make one."""
    directly.save("w", "t", LARGE)
    start = len(proxy.seen)

    def replace(request: Request) -> str:
        if request.number == start + 1:
            directly.save("w", "t", LARGE + 1)
        return ""

    proxy.fault = replace
    assert np.array_equal(LARGE + 1, storage.read_task("w", "t"))


@pytest.mark.parametrize("more", [0, 1 << 17])
def test_a_value_replaced_while_it_is_verified(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, more: int
) -> None:
    """Whatever the other's size: it is checked instead, and no damage is seen where none is."""
    directly.save("w", "t", LARGE)
    start = len(proxy.seen)

    def replace(request: Request) -> str:
        if request.number == start + 2:  # after the listing and the first piece
            directly.save("w", "t", np.zeros(len(LARGE) + more))
        return ""

    proxy.fault = replace
    (found,) = storage.verify("w")
    assert "" == found.problem
    assert directly.task_info("w", "t").size == found.size


@pytest.mark.parametrize("fault", ["reset in body", "cut", "503"])
def test_a_fault_that_happens_once_to_verify(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """The rest of the piece is asked for; what is sound isn't called damaged, nor the reverse."""
    directly.save("w", "t", LARGE)
    for place in range(4):
        proxy.fault = at(place, fault, proxy)
        assert [""] == [found.problem for found in storage.verify("w")]
    proxy.fault = at(2, "corrupt", proxy)
    assert "buffer 0" in storage.verify("w")[0].problem


@workflow
def double(number: int) -> int:
    return 2 * number


@workflow
def total(*numbers: int) -> int:
    return sum(numbers)


def run(storage: S3FileStorage, numbers: list[int]) -> Any:
    """Run a workflow with more nodes than are asked for at once, so that headers are remembered."""
    nodes = [double(number).set_name(f"n{place}") for place, number in enumerate(numbers)]
    flow = LocalWorkflow(total(*nodes).set_name("total"), workflow_name="v")
    flow.set_storage(storage)
    return flow.run()


def is_listing(request: Request) -> bool:
    return "list-type=" in request.path


def test_listings_that_are_behind(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """Where a listing misses what is new, runs compute too much, and return what is right."""
    numbers = list(range(8))
    assert 2 * sum(numbers) == run(storage, numbers)
    for place in range(4):
        proxy.fault = lambda request: "old" if is_listing(request) else ""
        numbers[place] += 10 * place
        assert 2 * sum(numbers) == run(storage, numbers)
        proxy.fault = lambda _: ""
        assert 2 * sum(numbers) == run(storage, numbers)
    assert [] == [found.problem for found in directly.verify() if found.problem]


def test_listings_that_show_what_was_replaced(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """The header that is remembered for it, too, is of the past: its value must not be taken."""
    first, second = list(range(8)), list(range(10, 18))
    for _ in range(2):
        assert 2 * sum(first) == run(storage, first)
    assert 2 * sum(second) == run(directly, second)
    proxy.fault = lambda request: "old" if is_listing(request) else ""
    nodes = [double(number).set_name(f"n{place}") for place, number in enumerate(first)]
    flow = LocalWorkflow(*nodes, workflow_name="v")
    flow.set_storage(storage)
    assert tuple(2 * number for number in first) == tuple(flow.run())


def test_listings_that_show_what_was_removed(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """It isn't found when it is read, and computed again; to remove it again is no error."""
    numbers = list(range(8))
    for _ in range(2):
        assert 2 * sum(numbers) == run(storage, numbers)
    assert [""] * 9 == [found.problem for found in storage.verify("v")]
    directly.remove_workflow("v")
    proxy.fault = lambda request: "old" if is_listing(request) else ""
    assert "total" in storage.list_tasks("v")
    assert [] == storage.verify("v")
    assert not storage.file_exists("v", "total")
    storage.remove_task("v", pattern="*")
    assert 2 * sum(numbers) == run(storage, numbers)
