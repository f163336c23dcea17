"""How boto3's clients are made: whose credentials they have, and for how long."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from s3_proxy import Proxy, Request
from s3_servers import BUCKET, Server

from functionfuse.errors import (
    ResultNotFoundError,
    StorageAccessError,
    StorageConnectionError,
)
from functionfuse_s3 import S3FileStorage, clients
from functionfuse_s3.options import S3Options

pytestmark = pytest.mark.usefixtures("eager")

REFUSED = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "TokenRefreshRequired")


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    """It answers every key; the proxy refuses some."""
    return moto_server


def keys(name: str) -> str:
    return f"aws_access_key_id={name}\naws_secret_access_key=canary-{name}\n"


class _Login:
    """Each method makes `name` the access key that boto3 finds."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self.patch = home, patch

    def file(self, name: str) -> None:
        (self.home / "credentials").write_text(f"[default]\n{keys(name)}# {name * 2}")

    def elsewhere(self, name: str) -> None:
        self.patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(self.home.parent / "own"))
        (self.home.parent / "own").write_text(f"[default]\n{keys(name)}# {name * 2}")

    def environment(self, name: str) -> None:
        self.patch.setenv("AWS_ACCESS_KEY_ID", name)
        self.patch.setenv("AWS_SECRET_ACCESS_KEY", f"canary-{name}")

    def profile(self, name: str) -> None:
        text = "".join(f"[{each}]\n{keys(each)}" for each in ("OLD", "NEWER"))
        if not (self.home / "credentials").exists():
            (self.home / "credentials").write_text(text)
        self.patch.setenv("AWS_PROFILE", name)


@pytest.fixture
def login(home: Path, monkeypatch: pytest.MonkeyPatch) -> _Login:
    return _Login(home, monkeypatch)


each_way = pytest.mark.parametrize("way", ["file", "elsewhere", "environment", "profile"])


@pytest.fixture
def make(proxy: Proxy, path: str) -> Callable[..., S3FileStorage]:
    """Make a storage that has no credentials of its own, behind the proxy."""
    return lambda **more: S3FileStorage(
        path, endpoint_url=proxy.url, region="us-east-1", max_attempts=1, **more
    )


def key_of(request: Request) -> str:
    """Return the access key that a request is signed with."""
    return request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]


def refuse(proxy: Proxy, name: str, code: str) -> None:
    """Have the server refuse an access key."""
    refusal = 403, code, "No.", {}
    proxy.fault = lambda request: refusal if key_of(request) == name else ""


def sent(proxy: Proxy, use: Callable[[], object]) -> list[str]:
    """Return the access keys of the requests that a use takes."""
    start = len(proxy.seen)
    use()
    return [key_of(request) for request in proxy.seen[start:]]


@pytest.mark.parametrize(
    ("way", "code"),
    list(zip(["file", "elsewhere", "environment", "profile"], REFUSED, strict=True)),
)
def test_who_logs_in_again_goes_on(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy, way: str, code: str
) -> None:
    """With the same storage, in the same process: the request after the error has the new key."""
    getattr(login, way)("OLD")
    storage = make()
    storage.save("w", "t", 1)
    refuse(proxy, "OLD", code)
    for _ in range(2):
        with pytest.raises(StorageAccessError):
            storage.read_task("w", "t")
    getattr(login, way)("NEWER")
    assert ["NEWER"] == sent(proxy, lambda: storage.read_task("w", "t"))


def test_a_request_is_sent_again_with_new_credentials(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """Once, if they are there already: a save after hours doesn't fail. Its body is sent whole."""
    login.file("OLD")
    storage = make(multipart_threshold=5 << 20, multipart_chunk=5 << 20)
    storage.save("w", "t", 1)
    refuse(proxy, "OLD", "ExpiredToken")
    login.file("NEWER")
    value = bytes(range(256)) * 1000  # too large to be sent from one piece of memory
    store = storage.store
    assert ["OLD", "NEWER"] == sent(proxy, lambda: store.put("w/u", [value]))
    assert ["NEWER"] == sent(proxy, lambda: store.put("w/v", [value]))
    assert value == store.get("w/u") == store.get("w/v")
    refuse(proxy, "NEWER", "ExpiredToken")
    login.file("OLD")
    assert ["NEWER", "OLD"] == sent(proxy, lambda: list(storage.list_tasks("w")))
    proxy.fault = lambda _: (403, "ExpiredToken", "No.", {})
    login.file("NEWER")

    def fail() -> None:
        with pytest.raises(StorageAccessError, match="have expired"):
            store.put("w/u", [value])

    assert ["OLD", "NEWER"] == sent(proxy, fail)
    assert ["NEWER"] == sent(proxy, fail)


def test_an_upload_in_pieces_goes_on_with_new_credentials(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """Those that expire in the middle of it."""
    login.file("OLD")
    sizes = {"multipart_threshold": 5 << 20, "multipart_chunk": 5 << 20}
    store = make(concurrency=1, **sizes).store

    def expire(request: Request) -> object:
        if key_of(request) == "NEWER" or "partNumber" not in request.path:
            return ""
        login.file("NEWER")
        return 403, "ExpiredToken", "No.", {}

    proxy.fault = expire
    value = bytes(6 << 20)
    keys = sent(proxy, lambda: store.put("w/large", [b"1", value]))
    assert value == bytes(store.get("w/large"))[1:]
    assert ["OLD", "OLD"] == keys[:2]
    assert "NEWER" == keys[-1]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "NO_PROXY", "no_proxy"])
def test_another_variable_makes_another_client(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """boto3 reads it when a client is made."""
    login.file("OLD")
    monkeypatch.delenv(name, raising=False)
    client = make().store.bucket.client  # type: ignore[attr-defined]
    monkeypatch.setenv(name, "proxy.example.org")
    assert make().store.bucket.client is not client  # type: ignore[attr-defined]


@each_way
def test_a_new_storage_has_the_new_credentials(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy, way: str
) -> None:
    """Also without an error; the earlier storage keeps its own."""
    getattr(login, way)("OLD")
    earlier = make()
    assert ["OLD"] == sent(proxy, lambda: earlier.list_tasks("w"))
    assert make().store.bucket.client is earlier.store.bucket.client  # type: ignore[attr-defined]
    getattr(login, way)("NEWER")
    assert ["NEWER"] == sent(proxy, lambda: make().list_tasks("w"))
    assert ["OLD"] == sent(proxy, lambda: earlier.list_tasks("w"))


def test_nobody_has_logged_in_yet(login: _Login, make: Callable[..., S3FileStorage]) -> None:
    """A storage without credentials finds those that come later."""
    storage = make()
    with pytest.raises(StorageAccessError, match="no credentials"):
        storage.save("w", "t", 1)
    login.file("NEWER")
    storage.save("w", "t", 1)
    assert 1 == storage.read_task("w", "t")


def test_a_token_of_single_sign_on_counts(home: Path, make: Callable[..., S3FileStorage]) -> None:
    """`aws sso login` writes it; it is looked at as a file of ~/.aws."""
    (home / "credentials").write_text(f"[default]\n{keys('OLD')}")
    client = make().store.bucket.client  # type: ignore[attr-defined]
    (home / "sso" / "cache" / "0123.json").write_text("{}")
    assert make().store.bucket.client is not client  # type: ignore[attr-defined]


def test_refused_credentials_are_looked_for_again(
    home: Path, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """Although nothing has changed that is looked at: a program or a machine may give others."""
    given = home.parent / "given.json"
    (home / "config").write_text(f"[default]\ncredential_process = cat {given}\n")
    text = '{"Version": 1, "AccessKeyId": "NAME", "SecretAccessKey": "x"}'
    given.write_text(text.replace("NAME", "OLD"))
    storage = make()
    refuse(proxy, "OLD", "InvalidAccessKeyId")
    with pytest.raises(StorageAccessError):
        storage.list_tasks("w")
    given.write_text(text.replace("NAME", "NEWER"))
    assert ["NEWER"] == sent(proxy, lambda: storage.list_tasks("w"))


def test_a_denied_right_costs_no_new_client(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """The credentials are not at fault; unless there are others now."""
    login.file("OLD")
    storage = make()
    client = storage.store.bucket.client  # type: ignore[attr-defined]
    refuse(proxy, "OLD", "AccessDenied")
    for _ in range(3):
        with pytest.raises(StorageAccessError):
            storage.list_tasks("w")
    assert storage.store.bucket.client is client  # type: ignore[attr-defined]
    with pytest.raises(StorageAccessError):
        storage.list_tasks("w")
    login.file("NEWER")
    assert ["NEWER"] == sent(proxy, lambda: storage.list_tasks("w"))


def test_other_errors_cost_no_look(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do requests."""
    login.file("OLD")
    storage = make()
    storage.save("w", "t", 1)
    monkeypatch.setattr(clients, "_look", lambda: pytest.fail("it looks"))
    proxy.fault = lambda _: "503"
    with pytest.raises(StorageConnectionError):
        storage.read_task("w", "t")
    proxy.fault = lambda _: ""
    assert 1 == storage.read_task("w", "t")


def test_a_given_up_client_goes_on(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """Threads that use it, and serializers that were given it, are not cut off."""
    login.file("OLD")
    storage = make()
    client = storage.store.bucket.client  # type: ignore[attr-defined]
    refuse(proxy, "OLD", "ExpiredToken")
    with pytest.raises(StorageAccessError):
        storage.list_tasks("w")
    proxy.fault = lambda _: ""
    assert ["OLD"] == sent(proxy, lambda: client.list_objects_v2(Bucket=BUCKET))


def test_old_clients_are_not_kept(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after a login, nor those of many options; storages keep the one that they use."""
    monkeypatch.setattr(clients, "_MOST", 2)
    for name in ("A", "BB"):
        login.file(name)
        make().store.bucket.client  # type: ignore[attr-defined]  # noqa: B018  # it makes one
        assert 1 == len(clients._clients)
    for number in (1, 2):
        make(concurrency=number).store.bucket.client  # type: ignore[attr-defined]  # noqa: B018
    assert 2 == len(clients._clients)


def test_another_process_has_its_own_client(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fork, two processes on one connection would mix requests."""
    login.file("OLD")
    bucket = make().store.bucket  # type: ignore[attr-defined]
    client = bucket.client
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert bucket.client is not client
    assert bucket.client is bucket.client


def test_a_look_shows_no_secret(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in what is kept, nor in the locals of an error."""
    login.environment("OLD")
    make().store.bucket.client  # type: ignore[attr-defined]  # noqa: B018
    assert "canary" not in repr(clients._clients)

    def fail(_: str) -> None:
        raise MemoryError

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(MemoryError) as caught:
        make().store.bucket.client  # type: ignore[attr-defined]  # noqa: B018
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "clients.py" in str([frame.filename for frame in told.stack])
    assert "canary" not in str([frame.locals for frame in told.stack])


def test_each_run_looks_for_credentials(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """Whoever wasn't allowed to write and is somebody else now goes on, with the same storage."""
    login.profile("OLD")
    storage = make()
    refuse(proxy, "OLD", "AccessDenied")
    with pytest.raises(StorageAccessError):
        storage.new_workflow("w")
    proxy.fault = lambda _: ""
    assert ["OLD"] == sent(proxy, lambda: storage.list_tasks("w"))
    login.profile("NEWER")
    assert {"NEWER"} == set(sent(proxy, lambda: storage.new_workflow("w")))


def test_a_late_refusal_is_of_the_client_that_asked(
    login: _Login, make: Callable[..., S3FileStorage], proxy: Proxy
) -> None:
    """One with old credentials says nothing of the client that another thread has made since."""
    login.file("OLD")
    storage, asked, late = make(), Event(), Event()

    def fault(request: Request) -> Any:
        if key_of(request) == "NEWER":
            return ""
        asked.set()
        late.wait(60)
        return 403, "ExpiredToken", "No.", {}

    with ThreadPoolExecutor(1) as pool:
        proxy.fault = fault
        read = pool.submit(storage.store.head, "late", 1)
        assert asked.wait(60)
        login.file("NEWER")
        client = make().store.bucket.client  # type: ignore[attr-defined]
        storage.store.prepare("w/")
        assert storage.store.bucket.client is client  # type: ignore[attr-defined]
        late.set()
        with pytest.raises(ResultNotFoundError):
            read.result()
    assert make().store.bucket.client is client  # type: ignore[attr-defined]


def test_many_threads_make_one_client(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that use a fresh storage at once wait for the one that makes it."""
    login.file("OLD")
    bucket = make().store.bucket  # type: ignore[attr-defined]
    original, made = clients._made, list[object]()
    monkeypatch.setattr(clients, "_made", lambda given: made.append(given) or original(given))
    ready = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        found = {
            id(client) for client in pool.map(lambda _: (ready.wait(), bucket.client)[1], range(8))
        }
    assert 1 == len(made) == len(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it is about forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_fork_while_a_client_is_made(
    login: _Login, make: Callable[..., S3FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child doesn't wait for a thread that it doesn't have."""
    login.file("OLD")
    original = clients._made

    def made(options: S3Options) -> clients.Client:
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                monkeypatch.setattr(clients, "_made", original)
                make().store.bucket.client  # type: ignore[attr-defined]  # noqa: B018
                os._exit(7)
            finally:
                os._exit(1)
        assert 7 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return original(options)

    monkeypatch.setattr(clients, "_made", made)
    make().store.bucket.client  # type: ignore[attr-defined]  # noqa: B018
