"""Every error names bucket, key and endpoint, and the cure, in time, and no secret."""

from __future__ import annotations

import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from s3_proxy import Proxy
from s3_servers import BUCKET, Server, counted

from functionfuse.errors import (
    ResultNotFoundError,
    StorageAccessError,
    StorageConnectionError,
    StorageError,
    StoragePathError,
)
from functionfuse_s3 import S3FileStorage

ONCE = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 1}
SOON = 0.25  # seconds, for those that nobody answers
SECRETS = ("canary", "Signature=", "StringToSign")

USES: dict[str, Callable[[S3FileStorage], object]] = {
    "new_workflow": lambda storage: storage.new_workflow("w"),
    "save": lambda storage: storage.save("w", "t", 1),
    "read": lambda storage: storage.read_task("w", "t"),
    "info": lambda storage: storage.task_info("w", "t"),
    "exists": lambda storage: storage.file_exists("w", "t"),
    "list": lambda storage: storage.list_tasks("w"),
    "plan": lambda storage: list(storage.task_infos("w", ["t", "u"])),
    "remove": lambda storage: storage.remove_task("w", pattern="t"),
    "if absent": lambda storage: storage.save("w", "t", 1, if_absent=True),
    "gc": lambda storage: storage.gc(),
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=list(USES))


def failing(storage: S3FileStorage, use: Callable[[S3FileStorage], object]) -> StorageError:
    """Use a storage, and return its error, which shows no secret, and pickles."""
    with pytest.raises(StorageError) as caught:
        use(storage)
    error = caught.value
    assert not isinstance(error, ResultNotFoundError)
    assert not isinstance(error, FileNotFoundError)
    text = told(error) + repr(storage)
    assert [] == [secret for secret in SECRETS if secret in text]
    assert str(error) == str(pickle.loads(pickle.dumps(error)))
    return error


def told(error: StorageError) -> str:
    """Return all that is known of an error, from what it came from on."""
    return "".join(traceback.format_exception(error))


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    """It answers whoever asks: what servers refuse, the proxy says."""
    return moto_server


@pytest.fixture(scope="module")
def nobody() -> str:
    """An endpoint where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def silence() -> Iterator[str]:
    """An endpoint that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture
def storage(proxy: Proxy, moto_server: Server, path: str) -> S3FileStorage:
    """A storage through the proxy, with a result in it."""
    S3FileStorage(**moto_server.options(path)).save("w", "t", 1)
    return S3FileStorage(**moto_server.behind(proxy.url).options(path, **ONCE))


@each_use
def test_no_bucket(moto_server: Server, use: Callable[[S3FileStorage], object]) -> None:
    """The bucket's absence is no absence of a result."""
    error = failing(S3FileStorage(**moto_server.options("no-such-bucket/p", **ONCE)), use)
    assert isinstance(error, StoragePathError)
    for part in ("'no-such-bucket'", moto_server.url, "'path'"):
        assert part in str(error)


@each_use
def test_nobody_answers(
    moto_server: Server, nobody: str, use: Callable[[S3FileStorage], object]
) -> None:
    """No server at the endpoint."""
    error = failing(S3FileStorage(**moto_server.behind(nobody).options(BUCKET, **ONCE)), use)
    assert isinstance(error, StorageConnectionError)
    assert isinstance(error, ConnectionError)
    for part in (f"'{BUCKET}'", nobody, "'endpoint_url'"):
        assert part in str(error)


@each_use
def test_hanging(moto_server: Server, silence: str, use: Callable[[S3FileStorage], object]) -> None:
    """Something takes the connection and says nothing: it is waited for as long as configured."""
    options = moto_server.behind(silence).options(BUCKET, **ONCE | {"read_timeout": SOON})
    storage = S3FileStorage(**options)
    with counted(storage.store.bucket.client) as sent:
        error = failing(storage, use)
    assert 1 == sent.total()
    assert isinstance(error, StorageConnectionError)
    assert "'read_timeout'" in str(error)
    assert f"read timeout={SOON}" in told(error)


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse what they can't take")
def test_nobody_takes_the_connection(moto_server: Server) -> None:
    """An address that doesn't even say no: it is waited for `connect_timeout`, not a minute."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # as many as fit
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        options = moto_server.behind(url).options(BUCKET, **ONCE | {"connect_timeout": SOON})
        error = failing(S3FileStorage(**options), USES["read"])
    assert isinstance(error, StorageConnectionError)
    assert "'connect_timeout'" in str(error)
    assert f"connect timeout={SOON}" in told(error)


@pytest.mark.parametrize(
    ("option", "cure"), [("access_key_id", "access"), ("secret_access_key", "secret")]
)
def test_wrong_credentials(seaweedfs_server: Server, path: str, option: str, cure: str) -> None:
    """The real server checks them."""
    options = {**seaweedfs_server.options(path, **ONCE), option: "canary-wrong"}
    for use in USES.values():
        error = failing(S3FileStorage(**options), use)
        assert isinstance(error, StorageAccessError)
        assert isinstance(error, PermissionError)
        assert cure in str(error)


def test_no_credentials(
    moto_server: Server, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """None are found anywhere: the error says where they can be given."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = moto_server.options(path, **ONCE)
    del options["access_key_id"], options["secret_access_key"]
    error = failing(S3FileStorage(**options | {"read_timeout": 59}), USES["read"])
    assert isinstance(error, StorageAccessError)
    assert "'access_key_id'" in str(error)
    for use in USES.values():
        error = failing(S3FileStorage(**options, profile="nobody"), use)
        assert isinstance(error, StorageAccessError)
        assert "nobody" in str(error)


LATE = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
ANSWERS = {
    "access denied": (403, "AccessDenied", {}, StorageAccessError, "policy"),
    "expired token": (400, "ExpiredToken", {}, StorageAccessError, "'session_token'"),
    "wrong region": (
        *(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-3"}),
        *(StoragePathError, "'region': 'eu-west-3'"),
    ),
    "another region": (400, "IllegalLocationConstraintException", {}, StoragePathError, "'region'"),
    "clock": (403, "RequestTimeTooSkewed", {"Date": LATE}, StorageAccessError, "seconds behind"),
    "busy": (503, "SlowDown", {}, StorageConnectionError, "'max_attempts'"),
    "too many": (429, "TooManyRequests", {}, StorageConnectionError, "'max_attempts'"),
    "broken": (500, "InternalError", {}, StorageConnectionError, "fails"),
    "not S3": (404, "", {}, StoragePathError, "'endpoint_url'"),
    "no such thing": (501, "NotImplemented", {}, StorageError, ""),
    "unknown": (400, "SomethingNew", {}, StorageError, "SomethingNew"),
    "forbidden": (403, "SomethingNew", {}, StorageAccessError, "allow"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
@pytest.mark.parametrize("use", ["save", "read", "list", "info"])
def test_what_servers_answer(storage: S3FileStorage, proxy: Proxy, answer: Any, use: str) -> None:
    """Each says what to do about it."""
    status, code, headers, kind, cure = answer
    proxy.fault = lambda _: (status, code, "It can't be.", headers)
    error = failing(storage, USES[use])
    assert isinstance(error, kind)
    for part in (f"'{BUCKET}'", proxy.url, cure):
        assert part in str(error)
    proxy.fault = lambda _: ""
    assert 1 == storage.read_task("w", "t")


def test_an_error_names_the_key_and_the_task(storage: S3FileStorage, proxy: Proxy) -> None:
    """By the key, the server's owner finds it; by the task, the user; no advice to remove it."""
    proxy.fault = lambda _: "503"
    error = failing(storage, USES["read"])
    assert f"{storage.store.bucket.prefix}w/t'" in str(error)
    notes = "".join(error.__notes__)
    assert "task 't' of workflow 'w'" in notes
    assert "remove" not in notes
