"""A cluster of two raylets on this machine, with one CPU each.

They are started as a person starts them, by `ray start`. A driver on this machine belongs to the
head, so that a test can kill the other one.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

__all__ = ["RAY", "Cluster", "Raylet", "environment", "free_port"]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
IMPORTABLE = str(Path(__file__).parent)
WITHIN = 300  # seconds for a raylet to start


def environment() -> dict[str, str]:
    """Return the environment of Ray's commands."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    ours = {
        "PYTHONPATH": IMPORTABLE,
        # A head takes a token that is there; what joins it does so only if it is told.
        "RAY_AUTH_MODE": kept.get("RAY_AUTH_MODE", "token"),
        # Else, some servers of Ray's client die when they are forked.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # A raylet that is lost is found in seconds; one that is only slow has half a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    return {**kept, **ours}


def free_port() -> int:
    """Return a port that is free, below those that the system gives away by itself."""
    while True:
        port = random.randrange(24_001, 32_000)  # Ray's client has those before
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


class Raylet:
    """What one `ray start --block` starts: a raylet, its helpers, and for a head the GCS.

    Args:
        options: of `ray start`, such as "--head".

    Raises:
        RuntimeError: it doesn't start. Has its output, and the ends of its logs.
    """

    def __init__(self, *options: str) -> None:
        self.folder = TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        root = Path(self.folder.name)
        each = ["--num-cpus=1", f"--object-store-memory={100 << 20}", f"--temp-dir={root}"]
        # Any free ones: the default range would be that of both.
        each += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        with (root / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*RAY, "start", "--block", *each, *options],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        address, until = root / "ray_current_cluster", time.monotonic() + WITHIN
        while not (address.exists() and address.read_text()):  # it is written when all is up
            if self.process.poll() is not None or time.monotonic() > until:
                logs = _ends(root)
                self.close()
                raise RuntimeError(f"`ray start {' '.join(options)}` fails:\n{logs}")
            time.sleep(0.05)
        self.address = address.read_text()

    def kill(self) -> None:
        """Kill the raylet by SIGKILL; wait until its helpers have ended."""
        children = psutil.Process(self.process.pid).children()
        [raylet] = [child for child in children if child.name() == "raylet"]
        raylet.kill()
        self.process.wait()

    def close(self) -> None:
        """End what was started here, at once: Ray gives itself a quarter of a minute."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()
        self.folder.cleanup()


def _ends(root: Path) -> str:
    """Return the ends of the output and of the logs."""
    files = [root / "output", *sorted(root.glob("session_2*/logs/*.*"))]
    ends = {file: file.read_text(errors="replace")[-2000:] for file in files if file.is_file()}
    return "\n".join(f"--- {file}\n{end}" for file, end in ends.items() if end)


class Cluster:
    """A head, with a server of Ray's client, and another raylet."""

    def __init__(self) -> None:
        # All processes need one token; some may start before another has made one.
        if not (Path.home() / ".ray" / "auth_token").exists():
            made = [*RAY, "get-auth-token", "--generate"]
            subprocess.run(made, env=environment(), check=True, capture_output=True)
        port = free_port()
        self.client = f"ray://127.0.0.1:{port}"
        options = ["--head", "--port=0", "--include-dashboard=false"]
        self.raylets = [Raylet(*options, f"--ray-client-server-port={port}")]
        self.address = self.raylets[0].address
        self.folder = self.raylets[0].folder.name

    def complete(self) -> None:
        """Start the other raylet, unless it is up."""
        for raylet in self.raylets[1:]:
            if raylet.process.poll() is None:
                return
            raylet.close()
            self.raylets.remove(raylet)
        self.raylets.append(Raylet(f"--address={self.address}"))

    def close(self) -> None:
        """End both."""
        for raylet in reversed(self.raylets):
            raylet.close()
