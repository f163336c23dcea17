"""Pipes, sockets and devices in a store are no results. Nothing waits for them, or reads them."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import FunctionFuseError, ResultNotFoundError, StoragePathError
from functionfuse.serializers import FILE_PROTOCOL
from functionfuse.storage.filestorage import FileStorage

PLACES = ("w/t", "w/.data/f", "w/.leases/t", "w/.runs/20260101T000000-000000", "w/.earlier/t-0")
LATE = 60  # seconds; only a test that hangs gets there

Make = Callable[[Path], None]


@pytest.fixture(params=["pipe", "full pipe", "socket", "zero", "null"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return a function that makes such a thing, and fail if a test waits for one."""
    stack, kind = ExitStack(), request.param
    pipes: list[int] = []

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    def made(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            folder = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            server.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path of any length
        elif "pipe" in kind:
            os.mkfifo(path)
            if kind == "full pipe":
                pipes.append(os.open(path, os.O_RDWR))
                stack.callback(os.close, pipes[-1])
                os.write(pipes[-1], b"of another program")
        else:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, {"zero": 5, "null": 3}[kind]))

    if kind in ("zero", "null") and os.geteuid():
        pytest.skip("only root can make a device")
    with stack:
        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(LATE)
        yield made
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        for pipe in pipes:
            assert select.select([pipe], [], [], 0)[0], "its bytes were taken"


@workflow
def one() -> int:
    return 1


@pytest.mark.parametrize("place", PLACES)
def test_nothing_waits_for_what_is_no_file(make: Make, tmp_path: Path, place: str) -> None:
    """Each call returns, or raises an error of ours; a result is computed and stored."""
    storage = FileStorage(tmp_path / "store")
    storage.save("w", "other", 2)
    make(tmp_path / "store" / place)
    with suppress(FunctionFuseError):
        storage.read_task("w", "t")
    with suppress(FunctionFuseError):
        storage.task_info("w", "t")
    assert ["other"] == storage.list_tasks("w")
    assert ["w"] == storage.list_workflows()
    assert [""] == [record.problem for record in storage.verify()]
    assert [] == storage.gc(-60.0, dry_run=True)
    assert [] == storage.gc(-60.0)
    storage.du()
    storage.prune("w", days=0)
    storage.runs("w")
    storage.report("w")
    storage.earlier("w")
    flow = LocalWorkflow(one().set_name("t"), workflow_name="w")
    flow.set_storage(storage)
    if place == "w/t":
        assert not storage.file_exists("w", "t")
        with pytest.raises(ResultNotFoundError):
            storage.task_info("w", "t")
        with pytest.raises(ResultNotFoundError):
            storage.remove_task("w", "t")
        assert os.path.lexists(tmp_path / "store" / place)
    assert ["compute"] == [node.action for node in flow.plan().nodes]
    assert 1 == flow.run()
    assert 1 == FileStorage(tmp_path / "store").read_task("w", "t")


def test_the_store_says_not_found(make: Make, tmp_path: Path) -> None:
    """No blob is there, by each way of reading, so that it can be put."""
    store = FileStorage(tmp_path).store
    make(tmp_path / "w" / "t")
    for read in (
        store.get,
        lambda key: list(store.blocks(key, 10)),
        lambda key: store.flush([key]),
        lambda key: store.head(key, 1),
        lambda key: store.head(key, 100),
    ):
        with pytest.raises(ResultNotFoundError):
            read("w/t")
    with pytest.raises(ResultNotFoundError):
        store.copy("w/t", "w/u")
    assert [None] == list(store.heads("w/", ["t"], 100))
    assert [] == list(store.names("w/"))
    assert [] == list(store.list(""))
    with pytest.raises(StoragePathError, match="remove it"):
        store.put("w/t", [b"1"], if_absent=True)
    store.put("w/t", [b"1"])
    assert b"1" == bytes(store.get("w/t"))


def test_a_file_beside_a_result_is_not_found(make: Make, tmp_path: Path) -> None:
    """A serializer gets the error of a missing file."""
    files = FileStorage(tmp_path).store.protocols("w/.data/")[FILE_PROTOCOL]
    make(tmp_path / "w" / ".data" / "f")
    with pytest.raises(FileNotFoundError):
        files.open("f", "rb")


def test_a_thing_in_the_place_of_a_workflow_is_none(make: Make, tmp_path: Path) -> None:
    """It isn't listed; a save into it raises an error that names it."""
    make(tmp_path / "w")
    storage = FileStorage(tmp_path)
    assert [] == storage.list_workflows()
    assert [] == storage.list_tasks("w")
    with pytest.raises(StoragePathError):
        storage.save("w", "t", 1)


def test_a_folder_in_the_place_of_a_result_or_a_marker_is_named(tmp_path: Path) -> None:
    """Nothing is stored there, and the temporary file is removed."""
    store = FileStorage(tmp_path).store
    (tmp_path / "w" / "t" / "mine").mkdir(parents=True)
    store.put("w/other", [b"1"])
    for write in (
        lambda: store.put("w/t", [b"1"]),
        lambda: store.put("w/t", [b"1"], if_absent=True),
        lambda: store.copy("w/other", "w/t"),
    ):
        with pytest.raises(StoragePathError, match=r"w/t' is no file.*remove it"):
            write()
    assert ["other", "t"] == sorted(os.listdir(tmp_path / "w"))
    (tmp_path / "w" / ".functionfuse").mkdir()
    flow = LocalWorkflow(one().set_name("u"), workflow_name="w")
    flow.set_storage(FileStorage(tmp_path))
    for start in (flow.run, lambda: FileStorage(tmp_path).new_workflow("w")):
        with pytest.raises(StoragePathError, match=r"\.functionfuse' is no file"):
            start()
