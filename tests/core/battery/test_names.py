"""Names: any text comes back as the name it was, or is refused, and stays inside the store."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from functionfuse.errors import FunctionFuseError, InvalidNameError
from functionfuse.storage.filestorage import FileStorage

FRAGMENTS = ["..", ".", "/", "\\", "\0", "%", "%2F", "%2f", "%-", "%%", "\n", "\r", "\t", " ", "-"]
FRAGMENTS += [".tmp-", ".data", ".damaged", "~", "*", "?", "[", "]", "{", "}", "'", '"', "`", "$"]
FRAGMENTS += [
    "CON",
    "nul",
    "COM1",
    "a",
    "A",
    "b",
    "é",
    "e\u0301",
    "ß",
    "İ",
    "\u0131",
    "K",
    "\u212a",
]
FRAGMENTS += ["\ud800", "\udcff", "\U0001f600", "\u202e", "\ufeff", "\uffff", "x" * 60, "é" * 40]
FRAGMENTS += ["/etc/passwd", "../../", "C:\\", "a.b", "0", "00", "\x7f", "\x1b", ":", "|", "<", ">"]

# Two halves of a character: JSON can't tell them from the character.
PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def random_name(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return "".join(rng.choices(FRAGMENTS, k=rng.choice([0, 1, 1, 2, 3, 5, 20])))
    length = rng.choice([1, 2, 5, 60, 199, 200, 201, 300])
    if kind < 0.8:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(length))
    return "".join(chr(rng.randrange(32, 127)) for _ in range(length))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory where that is possible: there are many files."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_names_come_back(full: bool, folder: Path, counts: Any) -> None:
    """Random names, as task and as workflow: each is its own result, and in the list."""
    total, batch = (200_000, 10_000) if full else (1_000, 500)
    canary = folder / "canary"
    canary.write_bytes(b"untouched")
    for _ in range(total // batch):
        storage = FileStorage(folder / "a" / "b" / "store")
        tasks: dict[str, int] = {}
        workflows: dict[str, int] = {}
        for number in range(batch):
            name = random_name(counts.random)
            counts.add("names")
            for as_task in (True, False):
                known = tasks if as_task else workflows
                pair = ("all tasks", name) if as_task else (name, "t")
                try:
                    storage.save(*pair, number)
                except InvalidNameError:
                    assert name == "" or PAIR.search(name), name
                    counts.add("refused")
                else:
                    known[name] = number
        for known, pair_of in ((tasks, "task"), (workflows, "workflow")):
            for name, number in known.items():
                pair = ("all tasks", name) if pair_of == "task" else (name, "t")
                assert number == storage.read_task(*pair)
                assert pair == (storage.task_info(*pair).workflow, storage.task_info(*pair).task)
        assert sorted(tasks) == storage.list_tasks("all tasks")
        assert sorted({*workflows, "all tasks"}) == storage.list_workflows()
        counts.add("names that differ", len(tasks))
        assert_inside(folder)
        shutil.rmtree(folder / "a" / "b" / "store")


def assert_inside(folder: Path) -> None:
    found = sorted(str(path.relative_to(folder)) for path in folder.glob("*"))
    assert ["a", "canary"] == found
    assert ["store"] == [path.name for path in (folder / "a" / "b").iterdir()]
    assert b"untouched" == (folder / "canary").read_bytes()


def save_and_remove(folder: Path, names: list[tuple[str, str]]) -> None:
    storage = FileStorage(folder / "a" / "b" / "store")
    known: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(names):
        try:
            storage.save(*pair, number)
        except InvalidNameError:
            assert "" in pair or any(map(PAIR.search, pair))
        else:
            known[pair] = number
    assert known == {pair: storage.read_task(*pair) for pair in known}
    workflows = {workflow for workflow, _ in known}
    assert sorted(workflows) == storage.list_workflows()
    for pair in known:
        storage.remove_task(*pair)
    assert [] == [task for workflow in workflows for task in storage.list_tasks(workflow)]
    for workflow in workflows:
        storage.remove_workflow(workflow)
    assert [] == storage.list_workflows()


def test_chosen_names_come_back(full: bool, folder: Path, counts: Any) -> None:
    """Names that hypothesis chooses, several in one store, overwritten and removed again."""
    (folder / "canary").write_bytes(b"untouched")
    (folder / "a" / "b" / "store").mkdir(parents=True)
    examples = 3000 if full else 60

    @seed(counts.seed)
    @settings(max_examples=examples, deadline=None, database=None)
    @given(names=st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=6))
    def run(names: list[tuple[str, str]]) -> None:
        save_and_remove(folder, names)

    run()
    assert_inside(folder)
    counts.add("examples", examples)


def vfat(mounts: Any) -> Path:
    image = mounts.image(["mkfs.vfat"], 32 << 20)
    place: Path = mounts.loop(image, kind="vfat")[0]
    return place


def ext4_casefold(mounts: Any) -> Path:
    make = ["mkfs.ext4", "-q", "-F", "-O", "casefold", "-E", "encoding=utf8"]
    try:
        place: Path = mounts.loop(mounts.image(make, 32 << 20))[0]
        (place / "folds").mkdir()
        mounts.call("chattr", "+F", str(place / "folds"))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no ext4 that folds case: {error.stderr.strip().splitlines()[0]}")
    return place / "folds"


def exfat(mounts: Any) -> Path:
    image = mounts.image(["mkfs.exfat"], 32 << 20)
    program = "mount.exfat-fuse" if mounts.has("mount.exfat-fuse") else ""
    place: Path = mounts.loop(image, kind="exfat", program=program)[0]
    return place


@pytest.mark.parametrize("kind", [vfat, ext4_casefold, exfat], ids=lambda kind: kind.__name__)
def test_file_systems_that_fold_case(kind: Any, full: bool, mounts: Any, counts: Any) -> None:
    """A second name that differs only in case is refused, and never read as the first."""
    if not full:
        pytest.skip("only in full")
    storage = FileStorage(kind(mounts) / "store")
    storage.save("Work", "Task", 1)
    for pair in [("Work", "task"), ("Work", "TASK"), ("work", "Task"), ("WORK", "other")]:
        with pytest.raises(InvalidNameError, match="case"):
            storage.save(*pair, 2)
        with pytest.raises(FunctionFuseError) as caught:
            storage.read_task(*pair)
        assert isinstance(caught.value, FileNotFoundError)
        assert not storage.file_exists(*pair)
        counts.add("refused")
    storage.save("Work", "Task", 3)
    storage.save("Work", "other", 4)
    assert (3, 4) == (storage.read_task("Work", "Task"), storage.read_task("Work", "other"))
    assert (["Work"], ["Task", "other"]) == (storage.list_workflows(), storage.list_tasks("Work"))
    for pair in [("Work", "task"), ("work", "Task")]:
        with pytest.raises(FunctionFuseError):
            storage.remove_task(*pair)
    with pytest.raises(FunctionFuseError):
        storage.remove_workflow("work")
    assert 3 == storage.read_task("Work", "Task")
