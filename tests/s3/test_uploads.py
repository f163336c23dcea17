"""What goes wrong with an upload in pieces: it is whole or not there, and gc finds the rest."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import numpy as np
import pytest
from s3_proxy import Proxy, Request, at, once
from s3_servers import Server

from functionfuse.errors import StorageConnectionError, StorageError
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.writing import Parts

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
MIB = 1 << 20
LARGE = np.random.default_rng(0).integers(0, 1 << 60, 11 * MIB // 8)

pytestmark = [pytest.mark.battery, pytest.mark.usefixtures("eager")]


def is_completing(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


@pytest.mark.parametrize(
    "fault", ["reset after", "reset in body", *(("503", "cut", "drip") if FULL else ())]
)
def test_a_fault_that_happens_once_to_a_large_value(
    one_server: Server, storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Whichever of the requests of a large value meets it."""
    for place in range(5):
        proxy.fault = at(place, fault, proxy)
        storage.save("w", "t", LARGE + place, replaces=None)
        assert np.array_equal(LARGE + place, directly.read_task("w", "t"))
        # Of an upload whose number was lost on its way back, only gc can know.
        lost = place == 0 and fault not in ("503", "drip")
        assert lost or [] == one_server.uploads(storage)
        directly.gc(-60)
        assert [] == one_server.uploads(storage)
    for place in range(3):
        proxy.fault = at(place, fault, proxy)
        assert np.array_equal(LARGE + 4, storage.read_task("w", "t"))


@pytest.mark.parametrize(("times", "stored"), [(2, "after"), (3, "before")])
def test_a_part_that_fails_three_times(
    one_server: Server,
    storage: S3FileStorage,
    directly: S3FileStorage,
    proxy: Proxy,
    times: int,
    stored: str,
) -> None:
    """The upload is given up, nothing of it is left, and the earlier result stays."""
    proxy.fault = once("503", lambda request: "partNumber=2" in request.path, times)
    if stored == "before":
        with pytest.raises(StorageConnectionError, match="fails or is too busy"):
            storage.save("w", "t", LARGE)
        assert "before" == directly.read_task("w", "t")
    else:
        storage.save("w", "t", LARGE)
        assert np.array_equal(LARGE, directly.read_task("w", "t"))
    assert [] == one_server.uploads(storage)


def test_an_upload_that_can_not_be_given_up_is_left_for_gc(
    one_server: Server, storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy
) -> None:
    """The error says so, and gc finds it."""
    proxy.fault = lambda request: "503" if "uploadId=" in request.path else ""
    with pytest.raises(StorageConnectionError) as caught:
        storage.save("w", "t", LARGE)
    assert "left for gc" in "".join(caught.value.__notes__)
    assert 1 == len(one_server.uploads(storage))
    assert [] == directly.gc()
    found = directly.gc(-60)
    assert [("w/t", "temporary")] == [(leftover.key, leftover.kind) for leftover in found]
    assert [] == one_server.uploads(storage)
    assert "before" == directly.read_task("w", "t")


def test_uploads_of_others_are_left(one_server: Server, directly: S3FileStorage) -> None:
    """Those outside of workflows with a marker, even where results are; inside, all are aborted."""
    directly.save("w", "t", 1)
    directly.save("unmarked", "t", 1)
    directly.store.delete(["unmarked/.functionfuse"])
    keys = ["disk.iso", "photos/disk.iso", "unmarked/t", "w/killed"]
    for key in keys:
        directly.store.bucket.call("create_multipart_upload", key)
    directly.store.put(".tmp-of others", [b"x"])
    assert ["w/killed"] == [leftover.key for leftover in directly.gc(-60)]
    assert 3 == len(one_server.uploads(directly))
    assert b"x" == bytes(directly.store.get(".tmp-of others"))


@pytest.mark.parametrize("fault", ["500 after", "reset after", "hang after"])
def test_a_lost_answer_to_the_last_request_of_an_upload(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """Sent again, the server knows of no such upload: it is completed already."""
    if "hang" in fault:  # it is given up soon; a busy server is asked again, as often as need be
        options = {"read_timeout": 1, "max_attempts": 9}
        storage = S3FileStorage(**dict(storage.store.bucket.options) | options)
    proxy.fault = once(fault, is_completing)
    storage.save("w", "t", LARGE)
    assert np.array_equal(LARGE, directly.read_task("w", "t"))


@pytest.mark.parametrize("completed", [True, False])
def test_an_upload_that_the_server_no_longer_knows(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, completed: bool
) -> None:
    """When it is to be completed again: that is well if it has been, and an error if not."""
    lost = once("reset after" if completed else "reset", is_completing)

    def forget(request: Request) -> Any:
        unknown = (404, "NoSuchUpload", "The specified upload does not exist.", {})
        return lost(request) or (unknown if is_completing(request) else "")

    proxy.fault = forget
    if completed:
        storage.save("w", "t", LARGE)
        assert np.array_equal(LARGE, directly.read_task("w", "t"))
    else:
        with pytest.raises(StorageError, match="NoSuchUpload"):
            storage.save("w", "t", LARGE)
        assert "before" == directly.read_task("w", "t")


@pytest.mark.parametrize("times", [2, 9])
def test_an_error_in_the_body_of_an_answer_that_begins_well(
    one_server: Server,
    storage: S3FileStorage,
    directly: S3FileStorage,
    proxy: Proxy,
    times: int,
) -> None:
    """To complete takes a server so long that it says 200 before it knows: that is no success."""
    failed = (200, "InternalError", "It can't be.", {})
    proxy.fault = once(failed, is_completing, times)
    if times == 2:
        storage.save("w", "t", LARGE)
        assert np.array_equal(LARGE, directly.read_task("w", "t"))
    else:
        with pytest.raises(StorageConnectionError, match="at each of 3 attempt"):
            storage.save("w", "t", LARGE)
        assert "before" == directly.read_task("w", "t")
    assert [] == one_server.uploads(storage)


PHASES = [
    ("CreateMultipartUpload", 1),
    *(("UploadPart", number) for number in (1, 2, 3)),
    ("in mid-part", 1),
    ("CompleteMultipartUpload", 1),
    ("CompleteMultipartUpload", 2),  # sent again, after the answer to the first was lost
]


@pytest.mark.parametrize(("operation", "time"), PHASES)
def test_killed_in_every_phase_of_an_upload(
    one_server: Server,
    storage: S3FileStorage,
    directly: S3FileStorage,
    proxy: Proxy,
    operation: str,
    time: int,
) -> None:
    """Nothing of it is seen before it is complete; gc lists what is left, and gives it up."""
    proxy.fault = once("reset after", is_completing)
    pid = os.fork()
    if not pid:
        _save_and_die(storage, operation, time)
    assert signal.SIGKILL == os.waitpid(pid, 0)[1]
    proxy.fault = lambda _: ""
    completed = (operation, time) == PHASES[-1]
    assert ["t"] == directly.list_tasks("w")
    found = directly.read_task("w", "t")
    assert np.array_equal(LARGE, found) if completed else found == "before"
    left = [("w/t", "temporary")] if not completed and operation != PHASES[0][0] else []
    assert len(left) == len(one_server.uploads(storage))
    assert [] == directly.gc()  # it may be at work
    assert left == [(leftover.key, leftover.kind) for leftover in directly.gc(-60)]
    assert [] == one_server.uploads(storage)
    storage.save("w", "t", "next")
    assert "next" == directly.read_task("w", "t")


def _save_and_die(storage: S3FileStorage, operation: str, time: int) -> None:
    """Kill this process when it is about to send an operation for the nth time, or within it."""
    sent = Counter[str]()

    def die(event_name: str, **_: Any) -> None:
        sent[event_name] += 1
        if event_name.endswith(operation) and sent[event_name] == time:
            os.kill(os.getpid(), signal.SIGKILL)

    def read(body: Parts, size: int = -1) -> bytes:
        if body.position and sent["before-send.s3.UploadPart"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(body, size)

    whole = Parts.read
    try:
        storage.store.bucket.client.meta.events.register("before-send.s3", die)
        if operation == "in mid-part":
            Parts.read = read  # type: ignore[method-assign]
        storage.save("w", "t", LARGE)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
