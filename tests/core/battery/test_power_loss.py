"""Loss of power: what was flushed is there, and what was not is never taken for a result.

A recorded trace of system calls is replayed up to each call; then every state is built that POSIX
allows a disk to be in at that moment: of a file, what was last flushed, all, a part, or zeros in
its length; of a folder, any of the changes since it was last flushed. Beside that, in full: images
of real file systems, copied while they are in use, without what was still in memory.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Message = dict[str, Any]

TRACED = "openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,ftruncate,fsync,fdatasync,close,"
TRACED += "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,symlinkat,sendto"

_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FOLDER_OF = re.compile(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2}|[^\\>])*)>")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _path(text: str) -> str:
    return re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), text)


@dataclass
class File:
    """An inode: what was written, and how much of that was flushed."""

    data: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""

    def variants(self) -> list[bytes]:
        data = bytes(self.data)
        found = [data, self.flushed, data[: len(data) // 2], bytes(len(data)), b""]
        if data == self.flushed:
            found = [data]
        return list(dict.fromkeys(found))


@dataclass
class Entry:
    """A change of one folder: `name` stands for `file` from now on, or for nothing.

    A rename changes two names at once.
    """

    folder: str
    names: dict[str, File | str | None]  # "folder" for a folder


@dataclass
class Disk:
    """A file system that keeps apart what is in memory and what is on the disk."""

    root: str
    pending: list[Entry] = field(default_factory=list)
    now: dict[str, dict[str, File | str | None]] = field(default_factory=dict)
    stored: dict[str, dict[str, File | str | None]] = field(default_factory=dict)
    open: dict[int, File] = field(default_factory=dict)

    def split(self, path: str) -> tuple[str, str] | None:
        if not path.startswith(self.root + "/"):
            return None
        folder, _, name = path[len(self.root) + 1 :].rpartition("/")
        return folder, name

    def change(self, folder: str, names: dict[str, File | str | None]) -> None:
        self.now.setdefault(folder, {}).update(names)
        self.pending.append(Entry(folder, names))

    def flush_folder(self, path: str) -> None:
        if path != self.root and not path.startswith(self.root + "/"):
            return
        folder = path[len(self.root) + 1 :]
        for entry in [entry for entry in self.pending if entry.folder == folder]:
            self.stored.setdefault(folder, {}).update(entry.names)
            self.pending.remove(entry)

    def replay(self, name: str, rest: str, result: int) -> None:
        """Take one call into account."""
        if result < 0 or name == "sendto":
            return
        strings, folders = _STRING.findall(rest), [_path(f) for f in _FOLDER_OF.findall(rest)]
        if name in ("write", "writev", "fsync", "fdatasync", "close"):
            number = int(rest.partition("<")[0])
            data = b"".join(map(_bytes, strings))[:result]
            self.use(name, self.open.get(number), data, folders)
            if name == "close":
                self.open.pop(number, None)
            return
        bases = folders if len(folders) == len(strings) else ["", *folders][-1:] * len(strings)
        paths = [
            self.split(text if (text := _bytes(raw).decode())[0] == "/" else f"{base}/{text}")
            for raw, base in zip(strings, bases, strict=True)
        ]
        found = [path for path in paths if path is not None]
        if name == "openat":
            self.open.pop(result, None)
            if found and "O_DIRECTORY" not in rest:
                self.opened(*found[0], rest, result)
        elif found:
            self.move(name, found)

    def use(self, name: str, file: File | None, data: bytes, folders: list[str]) -> None:
        if name in ("fsync", "fdatasync"):
            if file is None:
                self.flush_folder(folders[0])
            else:
                file.flushed = bytes(file.data)
        elif name in ("write", "writev") and file is not None:
            file.data += data

    def opened(self, folder: str, name: str, rest: str, result: int) -> None:
        file = self.now.get(folder, {}).get(name)
        if file is None and "O_CREAT" in rest:
            file = File()
            self.change(folder, {name: file})
        if isinstance(file, File):
            if "O_TRUNC" in rest:
                file.data.clear()
            self.open[result] = file

    def move(self, name: str, paths: list[tuple[str, str]]) -> None:
        folder, first = paths[0]
        if name in ("mkdir", "mkdirat"):
            self.change(folder, {first: "folder"})
        elif name in ("unlink", "unlinkat", "rmdir"):
            self.change(folder, {first: None})
        elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
            other, second = paths[1]
            assert folder == other, f"{name} from {folder} to {other}"
            names: dict[str, File | str | None] = {second: self.now[folder][first]}
            if name.startswith("rename"):
                names[first] = None
            self.change(folder, names)
        else:
            pytest.fail(f"the model does not know {name}")

    def states(self, rng: Any, most: int) -> Iterator[dict[str, bytes | None]]:
        """Iterate what may be on the disk after a loss of power now: path to bytes, or None."""
        every = range(1 << len(self.pending))
        chosen = set(every) if len(every) <= most else set(rng.choices(every, k=most))
        for number in range(len(self.pending)):  # all without one, and one alone
            chosen |= {every[-1] & ~(1 << number), 1 << number}
        seen = set()
        for subset in sorted({0, every[-1], *chosen}):
            tree = {folder: dict(names) for folder, names in self.stored.items()}
            for number, entry in enumerate(self.pending):
                if subset >> number & 1:
                    tree.setdefault(entry.folder, {}).update(entry.names)
            found: list[tuple[str, File | None]] = []
            self.walk(tree, "", found)
            files = [file for _, file in found if file is not None]
            variants = [file.variants() for file in files]
            total = 1
            for options in variants:
                total *= len(options)
            picks: Any = itertools.product(*variants)
            if total > most:
                picks = ([rng.choice(options) for options in variants] for _ in range(most))
            for pick in picks:
                contents = iter(pick)
                state = {path: None if file is None else next(contents) for path, file in found}
                key = tuple(state.items())
                if key not in seen:
                    seen.add(key)
                    yield state

    def walk(self, tree: Any, folder: str, found: list[tuple[str, File | None]]) -> None:
        for name, file in tree.get(folder, {}).items():
            path = f"{folder}/{name}" if folder else name
            if file == "folder":
                found.append((path, None))
                self.walk(tree, path, found)
            elif file is not None:
                found.append((path, file))


def build(state: dict[str, bytes | None], place: Path) -> None:
    for path, data in state.items():
        target = place / path
        if data is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.write_bytes(data)


def operations(durability: str, side: bool | str) -> list[Message]:
    """Return what is recorded: first saves, overwrites, and saves that must not overwrite."""
    common = {"do": "save", "durability": durability}
    if durability == "auto":  # as a user asks for it
        common["durable"] = True
    steps: list[Message] = [{"task": "t", "seed": 1}, {"task": "t", "seed": 2, "size": 300}]
    steps += [{"task": "u", "seed": 3, "if_absent": True}]
    if side:
        steps += [{"task": "t", "seed": 4, "side": side}, {"task": "t", "seed": 5, "side": side}]
        steps += [{"task": "s", "seed": 6, "side": side}, {"task": "t", "seed": 7}]
    return [common | {"size": 2000} | step for step in steps]


@pytest.mark.parametrize("side", [False, True, "file"], ids=["plain", "side data", "file"])
@pytest.mark.parametrize("durability", ["fsync", "auto", "rename"])
def test_every_state_after_a_loss_of_power(
    durability: str,
    side: bool | str,
    full: bool,
    workers: Any,
    strace: Any,
    tmp_path: Path,
    counts: Any,
) -> None:
    """fsync, and auto when asked: nothing acknowledged is lost. rename: no wrong value is read."""
    base = tmp_path / "base"
    base.mkdir()
    job = [op | {"root": str(base / "store")} for op in operations(durability, side)]
    options = "-xx", "-s", "10000000", "-e", f"trace={TRACED}"
    found, text, finished = strace.run(job, *options)
    assert finished
    assert not [answer for answer in found if "error" in answer], found
    disk = Disk(str(base))
    acknowledged, flushes = 0, 0
    done: set[Any] = set()
    known: dict[str, int] = {}
    lost = detected = older = 0
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, rest, result = match[1], match[2], int(match[3])
        disk.replay(name, rest, result)
        flushes += name == "fsync"
        if name == "sendto" and b"answer" in b"".join(map(_bytes, _STRING.findall(rest))):
            known[f"w/{job[acknowledged]['task']}"] = job[acknowledged]["seed"]
            acknowledged += 1
        following = job[acknowledged] if acknowledged < len(job) else None
        if durability == "rename" and not full and counts.random.random() < 5 / 6:
            continue  # every moment has other states there
        counts.add("moments")
        most = (6 if durability == "rename" else 24) if full else 1
        for state in disk.states(counts.random, most):
            key = (acknowledged, *state.items())
            if key in done:
                continue
            done.add(key)
            place = tmp_path / "state"
            build(state, place)
            counts.add("states")
            checked = workers.one({"do": "check", "root": str(place / "store")})
            states = checked["states"]
            for task in states.keys() | known.keys():
                allowed = {known.get(task)}
                if following is not None and task == f"w/{following['task']}":
                    allowed.add(following["seed"])
                stored = states.get(task)
                if stored in allowed:
                    continue
                where = f"{task} is {stored!r}, not {allowed}, after {_path(line)[:300]}: "
                assert durability == "rename", where + str(sorted(state))
                if isinstance(stored, str):
                    assert "Damaged" in stored, where
                    detected += 1
                lost += stored is None
                if isinstance(stored, int):
                    older += 1
                    assert stored in [op["seed"] for op in job if f"w/{op['task']}" == task], where
            shutil.rmtree(place, ignore_errors=True)
    assert acknowledged == len(job)
    assert bool(flushes) == (side is True or durability != "rename")
    counts.add("acknowledged lost", lost)
    counts.add("found damaged", detected)
    counts.add("older result", older)
    counts.add("wrong values", 0)


IMAGES: dict[str, tuple[list[str], int, str]] = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 64 << 20, "commit=1"),
    "ext4, data=writeback": (
        ["mkfs.ext4", "-q", "-F"],
        64 << 20,
        "commit=1,data=writeback,noauto_da_alloc",
    ),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320 << 20, ""),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 160 << 20, "commit=1"),
}


@pytest.mark.parametrize("durability", ["fsync", "auto", "rename"])
@pytest.mark.parametrize("name", IMAGES)
def test_power_cuts_of_file_systems(
    name: str, durability: str, full: bool, workers: Any, mounts: Any, counts: Any
) -> None:
    """An image copied in use, mounted again: what was to be flushed is there, nothing is wrong."""
    if not full:
        pytest.skip("only in full")
    make, size, options = IMAGES[name]
    image = mounts.image(make, size)
    place, device = mounts.loop(image, options)
    target = {"root": str(place / "store"), "durability": durability}
    job = {
        "do": "storm",
        "first": 1,
        "seed": counts.seed,
        "removals": 0,
        "largest": 300_000,
        **target,
    }
    job["durable"] = durability == "auto"  # as a user asks for it, or a slow function does
    worker = workers.start(job)
    known: dict[str, int] = {}
    saved: dict[int, str] = {}
    cuts = []
    for number in range(25):
        time.sleep(0.4 * counts.random.random())
        for message in worker.waiting():
            assert "answer" not in message, message
            if "begins" in message:
                saved[message["seed"]] = message["begins"]
            else:
                known[message["done"]] = message["seed"]
        copy = image.with_name(f"cut{number}")
        copied(image, copy, device)
        cuts.append((copy, dict(known)))
    for message in worker.kill():
        if "begins" in message:
            saved[message["seed"]] = message["begins"]
    mounts.unmount(place)
    lost = damaged = 0
    for copy, acknowledged in cuts:
        place, _ = mounts.loop(copy, "nouuid" if name == "xfs" else "")
        found = workers.one({"do": "check", "root": str(place / "store")})
        for key, stored in found["states"].items():
            assert isinstance(stored, str) or key == f"w/{saved[stored]}", (key, stored)
        for task, seed in acknowledged.items():
            stored = found["states"].get(f"w/{task}")
            counts.add("acknowledged")
            if isinstance(stored, str):
                damaged += 1
                assert "Damaged" in stored
            lost += not (isinstance(stored, int) and stored >= seed)
            assert not lost or durability == "rename", f"{task}: {stored!r} instead of {seed}"
        mounts.unmount(place)
        copy.unlink()
        counts.add("cuts")
    counts.add("acknowledged lost", lost)
    counts.add("of them found damaged", damaged)
    counts.add("wrong values", 0)
    assert counts.counted["acknowledged"]


def copied(image: Path, copy: Path, device: str) -> None:
    """Copy an image between two writes to it, as it is at one moment."""
    counters = Path(f"/sys/block/{device}/stat")

    def writes() -> tuple[str, str, str]:
        numbers = counters.read_text().split()
        return numbers[4], numbers[8], numbers[15] if len(numbers) > 15 else ""

    for _ in range(200):
        before = writes()
        if before[1] == "0":
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
            if writes() == before:
                return
        time.sleep(0.005)
    pytest.fail("the file system never rests for as long as a copy takes")
