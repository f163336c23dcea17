"""What the fault tests share: a process that forks workers, strace, counts, file system images.

`FUNCTIONFUSE_BATTERY=full` runs everything in full; `FUNCTIONFUSE_SEED` repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Message = dict[str, Any]
FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
TOOLS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# Calls that can't change what is stored. All others that name the store are killed, and made fail.
HARMLESS = {"access", "faccessat", "faccessat2", "fcntl", "fstat", "getdents64", "ioctl", "lseek"}
HARMLESS |= {"lstat", "mmap", "newfstatat", "pread64", "read", "readlink", "readv", "stat", "statx"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.battery)


@dataclass
class Worker:
    """One job in a process of its own."""

    connection: socket.socket
    pid: int = 0
    rest: bytes = b""

    def go(self) -> None:
        self.connection.send(b".")

    def message(self) -> Message | None:
        """Return the next report; None when the worker has ended."""
        while b"\n" not in self.rest:
            try:
                data = self.connection.recv(1 << 16)
            except ConnectionResetError:  # killed before it could be told to begin
                data = b""
            if not data:
                self.connection.close()
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def messages(self) -> Iterator[Message]:
        while (message := self.message()) is not None:
            yield message

    def waiting(self) -> list[Message]:
        """Return the reports that have come already."""
        found = []
        self.connection.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while (message := self.message()) is not None:
                found.append(message)
        self.connection.settimeout(120)
        return found

    def kill(self) -> list[Message]:
        """Kill it and return the reports that were left."""
        os.kill(self.pid, signal.SIGKILL)
        return list(self.messages())


@dataclass
class Workers:
    """Starts workers."""

    connection: socket.socket
    process: subprocess.Popen[bytes]

    def start(self, *job: Message, go: bool = True) -> Worker:
        ours, theirs = socket.socketpair()
        ours.settimeout(120)
        with theirs:
            socket.send_fds(self.connection, [json.dumps(job).encode()], [theirs.fileno()])
        worker = Worker(ours)
        first = worker.message()
        assert first is not None
        worker.pid = first["pid"]
        if go:
            worker.go()
        return worker

    def run(self, *job: Message, timeout: float = 120) -> list[Message]:
        """Run a job and return the answer of each operation; fewer if it was killed."""
        worker = self.start(*job)
        worker.connection.settimeout(timeout)
        return answers(worker.messages())

    def one(self, op: Message, timeout: float = 120) -> Message:
        """Run one operation, which must succeed, and return its answer."""
        (answer,) = self.run(op, timeout=timeout)
        assert "error" not in answer, answer
        return answer


def answers(messages: Iterator[Message]) -> list[Message]:
    return [message["answer"] for message in messages if "answer" in message]


@dataclass(frozen=True)
class Call:
    """One recorded system call: the `number`-th of its name; `text` is as strace shows it."""

    name: str
    number: int
    text: str

    @property
    def changes(self) -> bool:
        """Whether it may change what is stored."""
        if self.name in HARMLESS or self.name == "close":
            return False
        return self.name != "openat" or "O_CREAT" in self.text or "O_TRUNC" in self.text


@dataclass
class Strace:
    """Runs jobs under strace, from their first operation on."""

    workers: Workers
    folder: Path

    def run(self, job: list[Message], *options: str) -> tuple[list[Message], str, bool]:
        """Return the answers, what strace wrote, and whether the job ran to its end."""
        worker = self.workers.start(*job, go=False)
        log = self.folder / "strace.log"
        command = ["strace", "-f", "-y", "-o", str(log), *options, "-p", str(worker.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert "attached" in first, first
            worker.go()
            messages = list(worker.messages())
            process.wait(60)
        text = log.read_text(encoding="utf-8", errors="replace")
        return answers(iter(messages)), text, any("finished" in found for found in messages)

    def calls(
        self, job: list[Message], root: Path, *options: str, harmless: bool = False
    ) -> list[Call]:
        """Record a job, and return the calls by which it changes what is below `root`."""
        found, text, finished = self.run(job, *options)
        assert finished, text
        assert not [answer for answer in found if "error" in answer], found
        counts: dict[str, int] = {}
        calls = []
        for line in text.splitlines():
            if match := re.match(r"(?:\d+ +)?(\w+)\((.*)", line):
                name, rest = match.groups()
                counts[name] = counts.get(name, 0) + 1
                if str(root) in rest and (harmless or name not in HARMLESS):
                    calls.append(Call(name, counts[name], rest))
        return calls


@dataclass
class Counts:
    """What a test counts; printed at its end."""

    title: str
    seed: int
    counted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.started = time.perf_counter()

    def add(self, what: str, count: int = 1) -> None:
        self.counted[what] = self.counted.get(what, 0) + count

    def __str__(self) -> str:
        text = ", ".join(f"{count:,} {what}" for what, count in self.counted.items())
        seconds = time.perf_counter() - self.started
        return f"{self.title}: {text} (seed {self.seed}, {seconds:.0f} s)"


@pytest.fixture(scope="session")
def full() -> bool:
    return FULL


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Iterator[Counts]:
    seed = int(os.environ.get("FUNCTIONFUSE_SEED") or random.SystemRandom().randrange(1 << 32))
    found = Counts(request.node.name, seed)
    yield found
    print(f"\n  {found}")


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    ours, theirs = socket.socketpair()
    script = Path(__file__).with_name("worker.py")
    # Closed first, whatever happens: the process ends by that.
    with subprocess.Popen([sys.executable, str(script)], stdin=theirs.fileno()) as process, ours:
        theirs.close()
        ours.settimeout(600)  # it imports what all jobs need
        assert ours.recv(1) == b".", "the worker process did not start"
        yield Workers(ours, process)


@pytest.fixture(scope="session")
def can_trace() -> str:
    """Return why strace can't be used here; "" if it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    command = [
        "strace",
        "-o",
        os.devnull,
        "-e",
        "inject=getppid:retval=1",
        sys.executable,
        "-c",
        "",
    ]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"strace doesn't work here: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture
def strace(workers: Workers, can_trace: str, tmp_path: Path) -> Strace:
    if can_trace:
        pytest.skip(can_trace)
    return Strace(workers, tmp_path)


@pytest.fixture
def root_user() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")


@dataclass
class Mounts:
    """Mounts file systems, and takes them down at the end."""

    folder: Path
    mounted: list[tuple[Path, str]] = field(default_factory=list)

    def tmpfs(self, size: str) -> Path:
        place = self.place()
        self.call("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place))
        self.mounted.append((place, ""))
        return place

    def image(self, make: list[str], size: int) -> Path:
        """Return a new image; skip the test if what makes it isn't there."""
        if not self.has(make[0]):
            pytest.skip(f"{make[0]} is not installed")
        path = self.folder / f"image{len(list(self.folder.glob('image*')))}"
        with path.open("wb") as file:
            file.truncate(size)
        self.call(*make, str(path))
        return path

    def loop(
        self, image: Path, options: str = "", *, kind: str = "", program: str = ""
    ) -> tuple[Path, str]:
        """Mount an image, by a program of its own if need be; return where, and its loop device."""
        device = self.call("losetup", "--find", "--show", str(image)).strip()
        place = self.place()
        chosen = ["-t", kind] if kind else []
        command = [program] if program else ["mount", *chosen, "-o", options or "defaults"]
        try:
            self.call(*command, device, str(place))
        except subprocess.CalledProcessError as error:
            self.call("losetup", "--detach", device)
            if "unknown filesystem" in error.stderr:
                pytest.skip(f"the kernel can't mount it: {error.stderr.strip()}")
            raise
        self.mounted.append((place, device))
        return place, Path(device).name

    def unmount(self, place: Path) -> None:
        (device,) = [device for where, device in self.mounted if where == place]
        self.mounted.remove((place, device))
        for _ in range(50):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.call("umount", str(place))
                break
            time.sleep(0.1)
        else:
            self.call("umount", "--lazy", str(place))
        if device:
            self.call("losetup", "--detach", device)

    def place(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="mount", dir=self.folder))

    @staticmethod
    def has(program: str) -> bool:
        return shutil.which(program, path=TOOLS) is not None

    @staticmethod
    def call(*command: str) -> str:
        environment = {**os.environ, "PATH": TOOLS}
        return subprocess.run(
            command, capture_output=True, check=True, text=True, env=environment
        ).stdout


@pytest.fixture
def mounts(root_user: None) -> Iterator[Mounts]:
    """Give what mounts; skip without root, or where root may not mount."""
    memory = Path("/dev/shm")  # images there don't wear a disk
    found = Mounts(
        Path(tempfile.mkdtemp(prefix="battery", dir=memory if memory.is_dir() else None))
    )
    try:
        try:
            found.unmount(found.tmpfs("1m"))
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            pytest.skip(f"can't mount: {getattr(error, 'stderr', '') or error}".strip())
        yield found
    finally:
        for place, _ in reversed(found.mounted[:]):
            found.unmount(place)
        shutil.rmtree(found.folder)
