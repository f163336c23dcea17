"""Over https: certificates, connections that break within TLS, bodies that a checksum follows."""

from __future__ import annotations

import os
import pickle
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from s3_proxy import TLS_FAULTS, Proxy, faulty, once
from s3_servers import BUCKET, PIECES, Server

from functionfuse.errors import (
    OptionsError,
    StorageConnectionError,
    StorageError,
    StoragePathError,
)
from functionfuse_s3 import S3FileStorage

MIB = 1 << 20
ONCE = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 1}
NOW = datetime.now(UTC)
LARGE = np.random.default_rng(0).integers(0, 1 << 60, 6 * MIB // 8)  # two pieces


@pytest.fixture(scope="module")
def one_server(seaweedfs_https_server: Server) -> Server:
    """The real server over https: also that of the fixtures `storage` and `proxy`."""
    return seaweedfs_https_server


@pytest.fixture(scope="module")
def upstream(one_server: Server) -> Server:
    return one_server


@pytest.fixture(scope="module")
def signer() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(signer: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the signer's certificate."""
    found = tmp_path_factory.mktemp("signer") / "signer.pem"
    signer.cert_pem.write_to_path(str(found))
    return found


@contextmanager
def showing(certificate: trustme.LeafCert) -> Iterator[str]:
    """Run a server that shows a certificate; nobody asks for more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def refused(server: Server, path: str, **options: Any) -> str:
    """Return the error of a storage, at whatever it is asked for first."""
    storage = S3FileStorage(**{**server.options(path, **ONCE), **options})
    with pytest.raises(StorageError) as caught:
        storage.list_tasks("w")
    endpoint = options.get("endpoint_url", server.url)
    for part in (f"'{BUCKET}'", endpoint):
        assert part in str(caught.value)
    assert isinstance(caught.value, StorageConnectionError | StoragePathError)
    return str(caught.value)


CERTIFICATES: dict[str, tuple[str, dict[str, Any], str]] = {
    "expired": ("127.0.0.1", {"not_after": NOW - timedelta(days=1)}, "has expired; renew it"),
    "early": ("127.0.0.1", {"not_before": NOW + timedelta(days=1)}, "not valid yet; set the clock"),
    "of another host": (
        "s3.example.org",
        {},
        "for another host; correct the option 'endpoint_url'",
    ),
}


@pytest.mark.parametrize("case", CERTIFICATES.values(), ids=list(CERTIFICATES))
def test_a_certificate_that_is_not_good(
    seaweedfs_server: Server, path: str, signer: trustme.CA, trusted: Path, case: Any
) -> None:
    """The error says what is wrong with it."""
    host, times, problem = case
    with showing(signer.issue_cert(host, **times)) as url:
        assert problem in refused(seaweedfs_server, path, endpoint_url=url, verify=str(trusted))


def test_a_certificate_that_nobody_has_signed(one_server: Server, path: str, trusted: Path) -> None:
    """The error names the option that trusts it; with that option it works; False trusts any."""
    for verify in (True, str(trusted)):
        problem = refused(one_server, path, verify=verify)
        assert "is not trusted" in problem
        assert "'verify'" in problem
    S3FileStorage(**one_server.options(path)).save("w", "t", 1)
    with pytest.warns(match="Unverified HTTPS request"):
        assert 1 == S3FileStorage(**one_server.options(path, verify=False)).read_task("w", "t")


def test_https_is_spoken_to_a_server_without(seaweedfs_server: Server, path: str) -> None:
    url = seaweedfs_server.url.replace("http:", "https:")
    assert "doesn't speak https; write http://" in refused(seaweedfs_server, path, endpoint_url=url)


def test_a_server_with_https_only_is_spoken_to_without(
    one_server: Server, seaweedfs_server: Server, path: str
) -> None:
    """It says 400, or ends the connection."""
    assert "https" in refused(
        one_server, path, endpoint_url=one_server.url.replace("https", "http")
    )
    with faulty(seaweedfs_server.url) as proxy:
        proxy.fault = lambda _: (400, "", "", {})
        assert "speaks only https" in refused(seaweedfs_server, path, endpoint_url=proxy.url)


def test_a_server_that_ends_the_beginning_of_tls(
    one_server: Server, proxy: Proxy, path: str
) -> None:
    """That is no matter of trust."""
    proxy.fault = lambda _: "no handshake"
    storage = S3FileStorage(**one_server.behind(proxy.url).options(path, **ONCE))
    for _ in range(2):  # the second meets it
        with pytest.raises(StorageConnectionError, match="ends the connection"):
            storage.list_tasks("w")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("fault", [*TLS_FAULTS, "reset in request"])
def test_a_fault_that_happens_once(
    storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy, fault: str
) -> None:
    """The request is sent again, from the beginning of its body; an answer is read on."""
    proxy.fault = once(fault, lambda request: request.method == "PUT")
    storage.save("w", "t", LARGE)
    assert np.array_equal(LARGE, directly.read_task("w", "t"))
    proxy.fault = once(fault)
    assert np.array_equal(LARGE, storage.read_task("w", "t"))
    proxy.fault = once(fault)
    storage.save("w", "t", "small")
    proxy.fault = once(fault)
    assert "small" == storage.read_task("w", "t")


def test_altered_behind_tls(storage: S3FileStorage, directly: S3FileStorage, proxy: Proxy) -> None:
    """The server compares the checksum that follows a body: nothing wrong is stored."""
    proxy.fault = lambda request: "corrupt request" if request.method == "PUT" else ""
    with pytest.raises(StorageError, match="changed on their way; try again"):
        storage.save("w", "t", bytes(MIB))
    assert "before" == directly.read_task("w", "t")


def test_a_large_body_is_not_copied(one_server: Server, path: str) -> None:
    """Of a blob that is sent with one request, a few blocks are in memory besides."""
    store = S3FileStorage(**one_server.options(path)).store
    data = memoryview(bytes(12 * MIB))
    store.put("w/warm", [data[:MIB]])
    tracemalloc.start()
    try:
        store.put("w/t", [data])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) // 2
    assert data == store.get("w/t")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked")
def test_after_a_fork(one_server: Server, path: str) -> None:
    """Parent and child have connections of their own: on one, each would break the other's TLS."""
    storage = S3FileStorage(**one_server.options(path, **ONCE))
    storage.save("w", "t", 1)
    assert 1 == storage.read_task("w", "t")  # SeaweedFS keeps the connection
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = storage.read_task("w", "t") - 1
        finally:
            os._exit(status)
    assert 0 == os.waitpid(pid, 0)[1]
    assert 1 == storage.read_task("w", "t")


def test_a_pickle_is_used_in_another_folder(
    one_server: Server, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is that of the folder where the storage was made."""
    assert one_server.verify
    monkeypatch.chdir(one_server.verify.parent)
    pickled = pickle.dumps(S3FileStorage(**one_server.options(path, verify="authority.pem")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("functionfuse_s3.clients._clients", {})
    assert [] == pickle.loads(pickled).list_tasks("w")
    monkeypatch.setenv("HOME", str(one_server.verify.parent))
    assert [] == S3FileStorage(**one_server.options(path, verify="~/authority.pem")).list_tasks("w")


def test_a_file_of_certificates_that_can_not_be_used(
    seaweedfs_server: Server, path: str, tmp_path: Path
) -> None:
    """Its name and the option stand in the error of the first request, and not before."""
    (tmp_path / "empty.pem").touch()
    (tmp_path / "text.pem").write_text("no certificate")
    problems = {
        "none.pem": "No such file",
        "": "Is a directory",
        "empty.pem": "no certificates",
        "text.pem": "no certificates",
        "text.pem/x": "Not a directory",
    }
    for name, problem in problems.items():
        storage = S3FileStorage(**seaweedfs_server.options(path, verify=str(tmp_path / name)))
        with pytest.raises(OptionsError) as caught:
            storage.save("w", "t", 1)
        for part in ("'verify'", repr(str(tmp_path / name)), problem):
            assert part in str(caught.value)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_variable_names_the_file_of_certificates(
    one_server: Server, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """It is used where 'verify' isn't given, and named where the file can't be used."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("functionfuse_s3.clients._clients", {})
    options = one_server.options(path, **ONCE)
    del options["verify"]
    monkeypatch.setenv(variable, str(tmp_path / "none.pem"))
    with pytest.raises(OptionsError, match=rf"{variable}.*none\.pem"):
        S3FileStorage(**options).list_tasks("w")
    monkeypatch.setenv(variable, str(one_server.verify))
    assert [] == S3FileStorage(**options).list_tasks("w")
    monkeypatch.setattr("functionfuse_s3.clients._clients", {})
    monkeypatch.setenv(variable, str(tmp_path / "none.pem"))
    assert [] == S3FileStorage(**one_server.options(path)).list_tasks("w")  # 'verify' is given


def test_a_file_of_certificates_that_is_removed(
    one_server: Server, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for each connection: the error says that it is gone."""
    assert one_server.verify
    own = tmp_path / "authority.pem"
    own.write_bytes(one_server.verify.read_bytes())
    storage = S3FileStorage(**one_server.options(path, verify=str(own), **ONCE))
    storage.store.bucket.client  # noqa: B018  # made before
    own.unlink()
    with pytest.raises(StorageConnectionError, match="the file of certificates to trust is gone"):
        storage.list_tasks("w")


def test_rclone(rclone_server: Server, path: str) -> None:
    """It takes no checksum that follows a body; without, all works but conditions."""
    refusing = S3FileStorage(**rclone_server.options(path, **ONCE))
    with pytest.raises(StorageError, match="MissingContentLength"):
        refusing.save("w", "t", 1)
    options = rclone_server.options(path, checksums="when_required", **ONCE, **PIECES)
    storage = S3FileStorage(**options)
    storage.new_workflow("w")
    storage.save("w", "t", 1)
    storage.save("w", "large", LARGE)
    assert 1 == storage.read_task("w", "t")
    assert np.array_equal(LARGE, storage.read_task("w", "large"))
    assert ["large", "t"] == storage.list_tasks("w")
    assert [None] == [info and info.problem for info in storage.task_infos("w", ["none"])]
    assert storage.store.get("w/t")[:9] == storage.store.head("w/t", 9)
    storage.store.copy("w/large", "w/copy")
    assert storage.store.get("w/large") == storage.store.get("w/copy")
    storage.store.delete(["w/copy"])
    assert ["", ""] == [found.problem for found in storage.verify()]
    storage.store.bucket.call("create_multipart_upload", "w/killed")
    assert ["w/killed"] == [leftover.key for leftover in storage.gc(-60)]
    with pytest.raises(StorageError, match="ignores the condition 'If-None-Match'"):
        storage.save("w", "u", 1, if_absent=True)
    storage.remove_workflow("w")
    assert [] == list(storage.store.list(""))
