"""Ways to a bucket: a role, a proxy, an access point."""

from __future__ import annotations

import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
from s3_proxy import Proxy, faulty
from s3_servers import Server

from functionfuse.errors import OptionsError, StorageAccessError, StorageConnectionError
from functionfuse_s3 import S3FileStorage

ROLE = "arn:aws:iam::123456789012:role/writer"
ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name"
REGION = {"region": "eu-west-1", "access_key_id": "KEY", "secret_access_key": "canary-1"}
ANSWER = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/writer/x</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>ROLE{number}</AccessKeyId><SecretAccessKey>canary-2</SecretAccessKey>
<SessionToken>TOKEN{number}</SessionToken><Expiration>{end}</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>"""
REFUSAL = "<ErrorResponse><Error><Code>{code}</Code><Message>No.</Message></Error></ErrorResponse>"

pytestmark = pytest.mark.usefixtures("eager", "home")


class _Sts(ThreadingHTTPServer):
    """Gives credentials of a role to everybody, unless `refusal` is a status and a code.

    Attributes:
        asked: the access key and the parameters of each request.
        lasts: for how many minutes credentials are valid.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lasts = 60
        self.refusal: tuple[int, str] | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Sts

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        asked = self.server.asked
        asked.append((key, {name: value[0] for name, value in parse_qs(body).items()}))
        end = datetime.now(UTC) + timedelta(minutes=self.server.lasts)
        status, text = 200, ANSWER.format(number=len(asked), end=end.strftime("%FT%TZ"))
        if self.server.refusal:
            status, text = self.server.refusal[0], REFUSAL.format(code=self.server.refusal[1])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    """It answers every key."""
    return moto_server


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[_Sts]:
    del home
    server = _Sts()
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def role(proxy: Proxy, path: str) -> Callable[..., S3FileStorage]:
    """Make a storage that assumes a role, with keys that are given or with those that are found."""
    own = {"endpoint_url": proxy.url, "region": "us-east-1", "role_arn": ROLE, "max_attempts": 1}
    return lambda **more: S3FileStorage(path, **own, **more)


def signed(proxy: Proxy) -> list[tuple[str, str]]:
    """Return the access key and the token of each request."""
    return [
        (
            each.headers["Authorization"].partition("Credential=")[2].partition("/")[0],
            each.headers.get("X-Amz-Security-Token", ""),
        )
        for each in proxy.seen
    ]


def test_a_role_is_assumed_once(
    role: Callable[..., S3FileStorage], sts: _Sts, proxy: Proxy
) -> None:
    """By the first request, with the keys that are given."""
    keys = {"access_key_id": "KEY", "secret_access_key": "canary-1"}
    storage = role(role_session_name="me", external_id="a/b", **keys)
    assert [] == sts.asked
    start = len(proxy.seen)
    storage.save("w", "t", 1)
    assert 1 == storage.read_task("w", "t")
    assert {("ROLE1", "TOKEN1")} == set(signed(proxy)[start:])
    ((key, asked),) = sts.asked
    assert "KEY" == key
    assert (ROLE, "me", "a/b") == (asked["RoleArn"], asked["RoleSessionName"], asked["ExternalId"])


def test_a_role_is_renewed_with_found_credentials(
    role: Callable[..., S3FileStorage],
    sts: _Sts,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it expires, without an error."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FOUND")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1")
    sts.lasts = 5
    storage, start = role(), len(proxy.seen)
    for _ in range(2):
        storage.list_tasks("w")
    assert [("ROLE1", "TOKEN1"), ("ROLE2", "TOKEN2")] == signed(proxy)[start:]
    assert ["FOUND", "FOUND"] == [key for key, _ in sts.asked]


def test_a_role_that_is_refused(
    role: Callable[..., S3FileStorage], sts: _Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it; who logs in again goes on."""
    with pytest.raises(StorageAccessError, match="no credentials"):
        role().list_tasks("w")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FOUND")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1")
    storage = role()
    for refusal in ((403, "AccessDenied"), (400, "ValidationError"), (403, "InvalidClientTokenId")):
        sts.refusal = refusal
        with pytest.raises(StorageAccessError) as caught:
            storage.list_tasks("w")
        for part in (ROLE, "'role_arn'", refusal[1]):
            assert part in str(caught.value)
        assert "canary" not in "".join(traceback.format_exception(caught.value))
    sts.refusal = 503, "ServiceUnavailable"
    with pytest.raises(StorageConnectionError):
        storage.list_tasks("w")
    sts.refusal = 403, "ExpiredToken"
    with pytest.raises(StorageAccessError):
        storage.list_tasks("w")
    sts.refusal = None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEWER")
    storage.list_tasks("w")
    assert "NEWER" == sts.asked[-1][0]


@pytest.fixture
def forward() -> Iterator[Proxy]:
    """A proxy that lets nothing through: it tells only what it is asked for."""
    with faulty("http://127.0.0.1:1") as proxy:
        proxy.fault = lambda _: (403, "AccessDenied", "No.", {})
        yield proxy


def through(proxy: Proxy, path: str, **more: Any) -> S3FileStorage:
    """Make a storage whose requests go through a proxy that wants a password."""
    url = proxy.url.replace("//", "//someone:canary-3@")
    options = {**REGION, "max_attempts": 1, "proxies": {"http": url, "https": url}, **more}
    return S3FileStorage(path, **options)


def test_requests_go_through_a_proxy(forward: Proxy) -> None:
    """It gets user and password, and nobody else sees them."""
    storage = through(forward, "bucket/p", endpoint_url="http://s3.example.org")
    with pytest.raises(StorageAccessError) as caught:
        storage.store.get("k")
    (request,) = forward.seen
    assert "http://s3.example.org/bucket/p/k" == request.path
    login = b64encode(b"someone:canary-3").decode()
    assert f"Basic {login}" == request.headers["Proxy-Authorization"]
    _assert_hidden(storage, caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer(scheme: str) -> None:
    """The error names the option."""
    storage = through(Proxy("http://127.0.0.1:1"), "bucket", endpoint_url=f"{scheme}://s3.example")
    with pytest.raises(StorageConnectionError, match="'proxies'") as caught:
        storage.store.get("k")
    _assert_hidden(storage, caught.value)


def test_no_proxy(monkeypatch: pytest.MonkeyPatch, moto_server: Server, path: str) -> None:
    """An empty mapping: those of the environment are not used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    options = moto_server.options(path, max_attempts=1)
    S3FileStorage(**options, proxies={}).save("w", "t", 1)
    with pytest.raises(StorageConnectionError, match="HTTP_PROXY"):
        S3FileStorage(**options).read_task("w", "t")


@pytest.mark.parametrize("proxies", [{"ftp": "http://h"}, {"http": "http://u:canary-3@h/p x"}])
def test_a_wrong_proxy_is_refused(proxies: dict[str, str]) -> None:
    with pytest.raises(OptionsError, match="'proxies") as caught:
        S3FileStorage("bucket", proxies=proxies)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def _assert_hidden(storage: S3FileStorage, error: BaseException) -> None:
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in told.stack if "/src/functionfuse" in frame.filename]
    options = storage.store.bucket.options  # type: ignore[attr-defined]
    text = "".join(traceback.format_exception(error))
    for shown in (text, repr(storage), repr(options), str([frame.locals for frame in ours])):
        assert "canary" not in shown


HOSTS = {
    ACCESS_POINT: "name-123456789012.s3-accesspoint.eu-west-1.amazonaws.com:443",
    "name-0a1b2c-s3alias": "name-0a1b2c-s3alias.s3.eu-west-1.amazonaws.com:443",
}


@pytest.mark.parametrize("bucket", HOSTS)
def test_the_host_of_an_access_point(forward: Proxy, bucket: str) -> None:
    """Given as an ARN, or as an alias."""
    storage = through(forward, f"{bucket}/team/a")
    with pytest.raises(StorageConnectionError):
        storage.store.get("k")
    assert [("CONNECT", HOSTS[bucket])] == [(each.method, each.path) for each in forward.seen]


def test_keys_in_an_access_point(forward: Proxy) -> None:
    """Below the prefix; a copy names its source by the ARN."""
    storage = through(forward, f"{ACCESS_POINT}/team", endpoint_url="http://s3.example.org")
    for use in (lambda: storage.store.get("k"), lambda: storage.store.copy("k", "to")):
        with pytest.raises(StorageAccessError) as caught:
            use()
        assert f"'{ACCESS_POINT}'" in str(caught.value)
    read, copied = forward.seen
    host = "http://name-123456789012.s3.example.org/team"
    assert (f"{host}/k", f"{host}/to") == (read.path, copied.path)
    source = copied.headers["x-amz-copy-source"].replace("%3A", ":")
    assert f"{ACCESS_POINT}/object/team/k" == source


def test_an_access_point_is_no_path() -> None:
    """Its name belongs into the host; boto3 would refuse the first request."""
    with pytest.raises(OptionsError, match="'addressing_style'"):
        S3FileStorage(ACCESS_POINT, addressing_style="path")
