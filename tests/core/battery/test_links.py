"""Symbolic links planted in a shared store: nothing outside of it is written or removed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Message = dict[str, Any]

_EVERYTHING: list[Message] = [
    {"do": "save", "seed": 2},
    {"do": "save", "seed": 3, "side": True},
    {"do": "save", "seed": 4, "durability": "fsync", "side": True},
    {"do": "save", "seed": 5, "if_absent": True},
    {"do": "new_workflow"},
    {"do": "read"},
    {"do": "keep_damaged"},
    {"do": "collect", "older_than": -1},
    {"do": "remove_task"},
    {"do": "save", "seed": 6, "side": True},
    {"do": "remove_workflow"},
    {"do": "collect", "older_than": -1},
]
_OF_SIDE_DATA = "read", "remove_task"

needs_dask = pytest.mark.skipif(
    not find_spec("functionfuse_dask"), reason="functionfuse-dask is not installed"
)
needs_zarr = pytest.mark.skipif(
    not (find_spec("functionfuse_dask") and find_spec("zarr")),
    reason="functionfuse-dask[zarr] is not installed",
)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def outside(workers: Any, tmp_path: Path) -> Path:
    """Give a folder outside of the store that looks like a workflow of one."""
    workers.one({"do": "save", "seed": 1, "side": True, "root": str(tmp_path / "outside")})
    folder = tmp_path / "outside" / "w"
    (folder / ".tmp-0123456789abcdef").write_bytes(b"theirs")
    (folder / "lost").write_bytes(b"theirs")
    (folder / ".data" / "lost").write_bytes(b"theirs")
    (folder / "empty").mkdir()
    return folder


def _workflow(store: Path, outside: Path) -> None:
    (store / "w").rename(store / "elsewhere")
    (store / "w").symlink_to(outside)


def _task(store: Path, outside: Path) -> None:
    (store / "w" / "t").unlink()
    (store / "w" / "t").symlink_to(outside / "t")


def _dangling_task(store: Path, outside: Path) -> None:
    (store / "w" / "t").unlink()
    (store / "w" / "t").symlink_to(outside / "new")


def _task_folder(store: Path, outside: Path) -> None:
    (store / "w" / "t").unlink()
    (store / "w" / "t").symlink_to(outside)


def _side_data(store: Path, outside: Path) -> None:
    (store / "w" / ".data").rename(store / "w" / "elsewhere")
    (store / "w" / ".data").symlink_to(outside / ".data")


def _side_data_is_workflow(store: Path, outside: Path) -> None:
    (store / "w" / ".data").rename(store / "w" / "elsewhere")
    (store / "w" / ".data").symlink_to(outside)


def _damaged(store: Path, outside: Path) -> None:
    (store / "w" / ".damaged").symlink_to(outside)
    (store / "w" / "t").write_bytes(b"damaged")


def _empty_side_data(store: Path, outside: Path) -> None:
    (store / "w" / ".data").rename(store / "w" / "elsewhere")
    (store / "w" / ".data").symlink_to(outside / "empty")


def _chunks(store: Path, outside: Path) -> None:
    (chunks,) = (store / "w" / ".data").glob("*.zarr/data/c")
    chunks.rename(store / "w" / "elsewhere")
    chunks.symlink_to(outside)


def _temporary(store: Path, outside: Path) -> None:
    for folder in (store, store / "w", store / "w" / ".data"):
        for end in ("", "-probe", "-PROBE", *(f"-{number:x}" for number in range(60))):
            (folder / f".tmp-{bytes(8).hex()}{end}").symlink_to(outside / f"new{end}")


PLANTS = [
    _workflow,
    _task,
    _dangling_task,
    _task_folder,
    _side_data,
    _side_data_is_workflow,
    _empty_side_data,
    _damaged,
    _temporary,
]


@pytest.mark.parametrize(
    ("plant", "side"),
    [
        *(pytest.param(plant, True, id=plant.__name__[1:]) for plant in PLANTS),
        *(
            pytest.param(plant, "zarr", id=f"{plant.__name__[1:]}-zarr", marks=needs_zarr)
            for plant in (_side_data, _chunks)
        ),
    ],
)
def test_planted_links_lead_nowhere(
    plant: Callable[[Path, Path], None],
    side: bool | str,
    workers: Any,
    tmp_path: Path,
    outside: Path,
    counts: Any,
) -> None:
    """Each operation raises or works; outside of the store, nothing changes."""
    before = contents(outside)
    chosen = [op for op in _EVERYTHING if side is True or "side" in op or op["do"] in _OF_SIDE_DATA]
    for number, each in enumerate(chosen):
        operation = each | {"side": side} if "side" in each or each["do"] == "read" else each
        store = tmp_path / str(number) / "store"
        target = {"root": str(store)}
        workers.one({"do": "save", "seed": 1, "side": side, **target})
        plant(store, outside)
        job = [{"do": "fix_names"}] if plant is _temporary else []
        answer = workers.run(*job, operation | target)[-1]
        counts.add("operations")
        if plant is _temporary and operation["do"] == "save":
            assert answer["error"] in ("FileExistsError", "ResultExistsError"), answer
        if "error" in answer:
            counts.add("refused")
            assert answer["os_error"] or "Error" in answer["error"], answer
            if operation["do"] == "save":
                assert answer["os_error"], answer
                assert "task 't'" in " ".join([answer["text"], *answer["notes"]]), answer
            assert plant is _temporary or operation["do"] != "collect", answer
        assert before == contents(outside), (operation, answer)
    counts.add("changes outside", 0)


@pytest.mark.parametrize("plant", [_task, _dangling_task, _task_folder], ids=lambda p: p.__name__)
@pytest.mark.parametrize("side", [False, True], ids=["plain", "side data"])
def test_a_link_is_replaced(
    side: bool, plant: Any, workers: Any, tmp_path: Path, outside: Path, counts: Any
) -> None:
    """A link in a result's place is no result, and a save replaces it."""
    before, store = contents(outside), tmp_path / "store"
    target = {"root": str(store)}
    workers.one({"do": "save", "seed": 1, "side": side, **target})
    plant(store, outside)
    assert {"state": None} == workers.one({"do": "read", **target})
    workers.one({"do": "save", "seed": 2, "side": side, **target})
    assert not (store / "w" / "t").is_symlink()
    assert {"state": 2} == workers.one({"do": "read", **target})
    assert before == contents(outside)
    counts.add("links replaced")


def test_a_store_may_be_behind_a_link(workers: Any, tmp_path: Path) -> None:
    """The folder that the options name may itself be a link: who configures it chose that."""
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    workers.one({"do": "save", "seed": 1, "side": True, "root": str(tmp_path / "link")})
    assert {"state": 1} == workers.one({"do": "read", "root": str(tmp_path / "store")})


@pytest.mark.parametrize(
    ("place", "side"),
    [
        ("w", True),
        ("w/.data", True),
        pytest.param("w", "hdf5", marks=needs_dask),
        pytest.param("w/.data", "hdf5", marks=needs_dask),
        pytest.param("w/.data", "hdf5 gzip", marks=needs_dask),
        pytest.param("w/.data", "zarr", marks=needs_zarr),
        pytest.param("w/.data/*.zarr/data", "zarr", marks=needs_zarr),
    ],
)
def test_links_that_come_and_go(
    place: str,
    side: bool | str,
    full: bool,
    workers: Any,
    tmp_path: Path,
    outside: Path,
    counts: Any,
) -> None:
    """Folders swapped for links while they are used: nothing outside changes.

    Side data is one file, or those of dask arrays in HDF5 with their temporary files.
    """
    before = contents(outside)
    job = {"do": "swap_links", "root": str(tmp_path / "store"), "outside": str(outside)}
    job |= {"place": place, "side": side}
    workers.one({"do": "save", "seed": 1, "side": side, "root": job["root"]})
    found = workers.one(job | {"seconds": 20 if full else 0.5, "seed": counts.seed})
    counts.add("swaps", found["swaps"])
    counts.add("operations", found["operations"])
    assert [] == found["wrong"]
    assert before == contents(outside)
    assert min(found["swaps"], found["operations"]) > 0
    counts.add("changes outside", 0)


@needs_zarr
@pytest.mark.parametrize("place", [".data", ".data/*.zarr", ".data/*.zarr/data", "*/*/data/c"])
def test_nothing_outside_is_read(
    place: str, workers: Any, tmp_path: Path, outside: Path, counts: Any
) -> None:
    """A folder above an array's chunks that is now a link to the same bytes elsewhere."""
    target, workflow = {"root": str(tmp_path / "store")}, tmp_path / "store" / "w"
    workers.one({"do": "save", "seed": 1, "side": "zarr", **target})
    (folder,) = workflow.glob(place)
    folder.rename(outside / "there")
    folder.symlink_to(outside / "there")
    answer = workers.run({"do": "read", "side": "zarr", **target})[-1]
    assert {"state": 1} != answer
    assert answer.get("state", "") is None or "Error" in str(answer), answer
    counts.add("reads refused")
