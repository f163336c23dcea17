"""Before a run computes, it puts an object, reads it back, and removes it.

So an error that would follow hours of work is found before them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from s3_proxy import Proxy, Request, once
from s3_servers import BUCKET, Server, counted

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StorageAccessError, StorageError
from functionfuse.storage.keys import PROBE
from functionfuse_s3 import S3FileStorage, probing

CURE = "'checksums': 'when_required'"
ONCE = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 1}
DENIED = 403, "AccessDenied", "No.", {}
MISSING = 404, "NoSuchKey", "No.", {}
RAN: list[int] = []


@workflow(version="1")
def double(number: int) -> int:
    RAN.append(number)
    return 2 * number


def flow(storage: S3FileStorage, number: int = 1) -> LocalWorkflow:
    made = LocalWorkflow(double(number).set_name("t"), workflow_name="w")
    made.set_storage(storage)
    RAN.clear()
    return made


@pytest.fixture
def storage(proxy: Proxy, one_server: Server, path: str) -> S3FileStorage:
    """A storage through the proxy, in which nothing is stored."""
    return S3FileStorage(**one_server.behind(proxy.url).options(path, **ONCE))


class Keeper(ThreadingHTTPServer):
    """A server that stores what a function makes of the bytes that it is sent; None for nothing."""

    daemon_threads = True

    def __init__(self, change: Callable[[bytes], bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), Objects)
        self.change = change
        self.removes = True
        self.objects: dict[str, bytes] = {}

    def storage(self, **more: Any) -> S3FileStorage:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return S3FileStorage(**Server("keeper", url).options(f"{BUCKET}/p", **ONCE, **more))


class Objects(BaseHTTPRequestHandler):
    server: Keeper
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept = self.server.change(body)
        if kept is not None:
            self.server.objects[self.path] = kept
        self.answer(200)

    def do_GET(self) -> None:
        found = self.server.objects.get(self.path)
        if "list-type" in self.path:
            self.answer(
                200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            )
        elif found is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif not found:
            self.answer(200 if "Range" not in self.headers else 416)
        else:
            self.answer(200, found)

    def do_DELETE(self) -> None:
        if not self.server.removes:
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        else:
            self.server.objects.pop(self.path, None)
            self.answer(204)

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def keeping(change: Callable[[bytes], bytes | None]) -> Iterator[Keeper]:
    server = Keeper(change)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def framed(body: bytes) -> bytes:
    """Return a body as it is sent over https, with its checksum behind it."""
    return b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (len(body), body)


def signed(body: bytes) -> bytes:
    """Return a body in frames that have signatures."""
    return framed(body).replace(b"\r\n", b";chunk-signature=" + 64 * b"0" + b"\r\n", 1)


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "framed": (framed, "stores the frames of a body"),
    "signed frames": (signed, "stores the frames of a body"),
    "longer": (lambda body: body + b"\n", "stores other bytes than it is sent"),
    "shorter": (lambda body: body[:-1], "stores other bytes than it is sent"),
    "other": (lambda body: body.swapcase(), "stores other bytes than it is sent"),
    "nothing": (lambda _: b"", "stores other bytes than it is sent .0 instead of"),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=list(CHANGES))
def test_what_is_stored_is_compared(change: Callable[[bytes], bytes], told: str) -> None:
    """Other bytes are found before a function runs; when the server is cured, the run goes."""
    with keeping(change) as server:
        storage = server.storage()
        for _ in range(2):  # a place counts only when all has worked
            with pytest.raises(StorageError, match=told) as caught:
                flow(storage).run()
            assert CURE in str(caught.value)
            assert [] == RAN
        with pytest.raises(StorageError, match=told) as caught:
            server.storage(checksums="when_required").new_workflow("w")
        assert CURE not in str(caught.value)
        server.change = lambda body: body
        assert 2 == flow(storage).run()
        assert [] == [path for path in server.objects if PROBE in path]


REFUSALS = {
    "no length": (411, "MissingContentLength"),
    "no length, no code": (411, ""),
    "not implemented": (501, "NotImplemented"),
    "not implemented, no code": (501, ""),
    "argument": (400, "InvalidArgument"),
    "hash": (400, "XAmzContentSHA256Mismatch"),
    "signature": (403, "SignatureDoesNotMatch"),
    "checksum": (400, "BadDigest"),
    "unknown": (400, "SomethingOfTheirOwn"),
}


@pytest.mark.parametrize(("status", "code"), REFUSALS.values(), ids=list(REFUSALS))
def test_uploads_that_are_refused(
    storage: S3FileStorage, proxy: Proxy, status: int, code: str
) -> None:
    """An older server may not know checksums: the error says how to leave them out, if they are in.

    So it is for uploads, and for nothing else.
    """
    proxy.fault = lambda _: (status, code, "It can't be.", {})
    with pytest.raises(StorageError, match=CURE):
        storage.new_workflow("w")
    required = S3FileStorage(**dict(storage.store.bucket.options) | {"checksums": "when_required"})
    for use in (lambda: required.new_workflow("w"), lambda: storage.list_tasks("w")):
        with pytest.raises(StorageError) as caught:
            use()
        assert CURE not in str(caught.value)


def test_once_for_each_place(one_server: Server, path: str) -> None:
    """Three requests in a process, by whatever storage object; another prefix is another place."""
    options = one_server.options(path)
    with counted(S3FileStorage(**options).store.bucket.client) as sent:
        S3FileStorage(**options).store.prepare("w/")
        assert {"PutObject": 1, "GetObject": 1, "DeleteObject": 1} == sent
        sent.clear()
        S3FileStorage(**options).store.prepare("v/")
        assert {} == sent
        S3FileStorage(**one_server.options(f"{path}/below")).store.prepare("w/")
        assert 3 == sent.total()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it is about forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_fork_tries_again(storage: S3FileStorage, proxy: Proxy) -> None:
    """It has connections of its own."""
    storage.store.prepare("w/")
    before = len(proxy.seen)
    pid = os.fork()
    if not pid:
        try:
            storage.store.prepare("w/")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert ["PUT", "GET", "DELETE"] == [request.method for request in proxy.seen[before:]]


def test_it_is_put_as_results_are(proxy: Proxy, one_server: Server, path: str) -> None:
    """With the options for uploads: what they need is found, too."""
    more = {"server_side_encryption": "aws:kms", "kms_key_id": "a-key"}
    storage = S3FileStorage(**one_server.behind(proxy.url).options(path, **ONCE, **more))
    proxy.fault = lambda _: DENIED
    with pytest.raises(StorageAccessError, match=r"s3:PutObject, kms:GenerateDataKey, kms:Decrypt"):
        storage.new_workflow("w")
    sent = {name.lower(): value for name, value in proxy.seen[-1].headers.items()}
    assert "a-key" == sent["x-amz-server-side-encryption-aws-kms-key-id"]


def is_probe(method: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and PROBE in request.path


def test_others_remove_it_meanwhile(storage: S3FileStorage, proxy: Proxy) -> None:
    """Then it is tried again, with a key that no other process has."""
    before = len(proxy.seen)
    proxy.fault = once(MISSING, is_probe("GET"))
    storage.store.prepare("w/")
    sent = proxy.seen[before:]
    assert ["PUT", "GET", "PUT", "GET", "DELETE"] == [request.method for request in sent]
    assert sent[0].path == sent[1].path != sent[2].path == sent[4].path


def test_what_is_put_is_never_there(storage: S3FileStorage, proxy: Proxy) -> None:
    """Others can't have removed both: this server forgets what it acknowledges."""
    proxy.fault = lambda request: MISSING if request.method == "GET" else ""
    with pytest.raises(StorageError, match="acknowledges an upload, and then there is no such"):
        storage.store.prepare("w/")


def test_others_replace_it_meanwhile() -> None:
    """Then it is put again, until one's own is read, or that of a third: all are stored here.

    One of another version may put something else: that is tried again with another key.
    """
    stored: list[bytes] = []  # what is kept for each upload, if it isn't the body
    with keeping(lambda body: stored.pop(0) if stored else body) as server:
        first, second = (probing._with(token * 32) for token in (b"1", b"2"))
        for number, given in enumerate(([first], [first, second], [b"?"]), 2):
            stored[:] = given
            server.storage(concurrency=number).store.prepare("w/")
            assert [] == stored


def test_an_old_object_is_no_proof() -> None:
    """One stays of a process that may not remove it, and the server stores nothing any more."""
    with keeping(lambda body: body) as server:
        server.removes = False
        assert 2 == flow(server.storage()).run()
        [kept] = [path for path in server.objects if PROBE in path]
        server.change = lambda _: None
        for storage in (server.storage(concurrency=2), server.storage(concurrency=3)):
            with pytest.raises(StorageError, match="and then there is no such object"):
                flow(storage, 2).run()
            assert [] == RAN
        assert [kept] == [path for path in server.objects if PROBE in path]


class Forgetful(list[Any]):
    """Places that are never known."""

    def __contains__(self, _: object) -> bool:
        return False


def test_many_at_once(one_server: Server, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of those that try the same place is disturbed by the others; nothing is left."""
    store = S3FileStorage(**one_server.options(path)).store
    monkeypatch.setattr("functionfuse_s3.probing._done", Forgetful())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.prepare, ["w/"] * 48))
    answer = one_server.by_hand.list_objects_v2(Bucket=BUCKET, Prefix=f"{path.partition('/')[2]}/")
    assert [] == answer.get("Contents", [])


def test_without_the_right_to_remove(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """One small object stays, which nothing shows or removes; the next one replaces it."""
    proxy.fault = lambda request: DENIED if request.method == "DELETE" else ""
    assert 2 == flow(storage).run()
    other = S3FileStorage(**dict(storage.store.bucket.options) | {"concurrency": 3})
    assert 4 == flow(other, 2).run()
    bucket = storage.store.bucket
    answer = bucket.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{bucket.prefix}.")
    [found] = answer["Contents"]
    assert f"{bucket.prefix}{PROBE}" == found["Key"]
    assert found["Size"] < 1000
    assert ["w"] == directly.list_workflows()
    assert ["w"] == [usage.workflow for usage in directly.du()]
    assert [] == [key for key in map(str, directly.verify()) if PROBE in key]
    assert [] == [leftover.key for leftover in directly.gc(-60)]
    assert [] == [blob.key for blob in directly.store.list("") if PROBE in blob.key]
    assert [] == caplog.messages


def test_what_killed_processes_leave(storage: S3FileStorage) -> None:
    """Objects with keys of their own are leftovers for `gc`; the shared one is replaced."""
    for key in (PROBE, f"{PROBE}-own"):
        storage.store.put(key, [b"x"])
    assert [f"{PROBE}-own"] == [leftover.key for leftover in storage.gc(-60)]
    assert b"x" == storage.store.get(PROBE)
    storage.new_workflow("w")
    assert [] == storage.gc(-60)


def test_a_removal_that_fails_is_no_error(storage: S3FileStorage, proxy: Proxy) -> None:
    """Whatever it is: the place is tried, and nothing else removes with this request."""
    proxy.fault = lambda request: "503" if request.method == "DELETE" else ""
    assert 2 == flow(storage).run()


def test_reading_is_refused(storage: S3FileStorage, proxy: Proxy) -> None:
    """Who may write and not read hears it before anything is computed, and is told the right."""
    proxy.fault = lambda request: DENIED if is_probe("GET")(request) else ""
    with pytest.raises(StorageAccessError, match=r"It needs the right s3:GetObject: add") as caught:
        flow(storage).run()
    assert [] == RAN
    assert "s3:DeleteObject" not in str(caught.value)


def test_conditions_without_the_right_to_remove(
    storage: S3FileStorage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run at a time computes a node: no removal is needed for that, nor to try the server."""
    monkeypatch.setattr("functionfuse_s3.writing._keeps_conditions", {})
    denied = [False]

    def refuse(request: Request) -> Any:
        removes = request.method == "DELETE" or "?delete" in request.path
        denied[0] |= removes
        return DENIED if removes else ""

    proxy.fault = refuse
    for number in (1, 2, 1):
        assert 2 * number == flow(storage, number).run(single_flight=True)
    assert denied[0]
