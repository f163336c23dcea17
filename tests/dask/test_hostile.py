"""What others can write into a store: descriptions of arrays, HDF5 files, names."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest

from functionfuse.errors import DamagedResultError, FunctionFuseError, UntrustedResultError
from functionfuse.serializers import FILE_PROTOCOL
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.safefiles import SafeFiles
from functionfuse_dask import DaskArraySerializer, read_original

VALUES = np.arange(600.0).reshape(30, 20)
BIG = 1 << 60


def protocols_of(folder: Path, *, signed: bool = False) -> dict[str, Any]:
    store, prefix = FileStore(str(folder)), "w/.data/"
    files = store.protocols(prefix)[FILE_PROTOCOL]
    return {FILE_PROTOCOL: SafeFiles(files, store, prefix, signed=signed)}


def stored(folder: Path, array: da.Array, *, signed: bool = False, **options: Any) -> Any:
    """Return the pid of a new array."""
    (pid,) = [
        pid
        for _, pid in DaskArraySerializer(**options).pickle_many(
            [array], [protocols_of(folder, signed=signed)]
        )
    ]
    return pid


def read(folder: Path, pid: Any, *, signed: bool = False, **options: Any) -> Any:
    found = DaskArraySerializer(**options).unpickle(pid, protocols_of(folder, signed=signed))
    return found.compute(scheduler="synchronous")


def with_part(pid: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples with another value at a place."""
    if not place:
        return value
    changed = dict(pid) if isinstance(pid, dict) else list(pid)
    changed[place[0]] = with_part(pid[place[0]], place[1:], value)
    return tuple(changed) if isinstance(pid, tuple) else changed


SCALARS = [None, -1, True, BIG, 1 << 80, 1.5, "x", b"x", [], (), {}, np.float64(3), [None]]
PLACES: list[tuple[Any, ...]] = [
    *[(name,) for name in ("version", "name", "size", "dtype", "chunks", "datasets")],
    ("fill_value",),
    *[("chunks", 0), ("chunks", 0, 0), ("datasets", 0), ("datasets", 0, 0), ("datasets", 0, 1)],
    *[("datasets", 0, 1, 0), ("datasets", 0, 1, 1), ("datasets", 0, 1, 2), ("datasets", 0, 2)],
]
HOSTILE: list[tuple[tuple[Any, ...], Any]] = [
    *[(place, value) for place in PLACES for value in SCALARS],
    *[(("name",), name) for name in ("../../outside", "/etc/passwd", "", "\0", "a" * 5000)],
    *[(("dtype",), dtype) for dtype in ("|O", "O", "<U99999999", ("<f8", (2,)), [("a", "|O")])],
    (("chunks",), ((BIG,), (0,))),
    (("chunks",), ((10,) * 1000, (20,) * 1000)),
    (("chunks",), ((10, 10, 10), (10, 10)) * 40),
    (("chunks", 0), (10, -10, 30)),
    (("datasets", 0, 1, 0), "|O"),
    (("datasets", 0, 1, 0), "<f4"),
    (("datasets", 0, 1, 1), "filtered"),
    (("datasets", 0, 1, 1), "contiguous"),
    (("datasets", 0, 1, 2), [BIG] * 6),
    (("datasets", 0, 1, 2), [-8] * 6),
]


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["grid", "gzip"])
def test_hostile_descriptions(tmp_path: Path, options: dict[str, Any]) -> None:
    """Each gives our error, or the values: nothing else is raised, opened or allocated."""
    pid = stored(tmp_path, da.from_array(VALUES, chunks=(10, 10)), **options)
    assert np.array_equal(VALUES, read(tmp_path, pid))
    refused = 0
    for place, value in HOSTILE:
        for check in (True, False):
            try:
                found = read(tmp_path, with_part(pid, place, value), check=check)
            except FunctionFuseError:
                refused += 1
            else:
                assert not check or np.array_equal(VALUES, found), (place, value)
    assert refused > 1.8 * len(HOSTILE)


@pytest.mark.parametrize("pid", [None, 3, "x", [], (), ("0.0.0",), ("0.0.0", 3), (1, 2, 3), {}])
def test_what_describes_no_array(tmp_path: Path, pid: Any) -> None:
    with pytest.raises(FunctionFuseError):
        read(tmp_path, pid)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["grid", "gzip"])
@pytest.mark.parametrize("big", [False, True])
def test_signed_blocks_are_checked_at_every_read(
    tmp_path: Path, options: dict[str, Any], big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a cryptographic digest, whatever the options say; the block is no map of the file."""
    from functionfuse_dask import sources
    from functionfuse_dask import stored as readers

    if big:
        monkeypatch.setattr(readers, "BIG", 1)
        monkeypatch.setattr(sources, "BIG", 1)
        monkeypatch.setattr(sources, "_MAPPED_FROM", 1)
    pids = []
    for factor in (1, 2):
        array = da.from_array(VALUES * factor, chunks=(10, 10))
        pids.append(stored(tmp_path / str(factor), array, signed=True, **options))
    mine, theirs = (
        tmp_path / str(factor) / "w" / ".data" / pid["name"]
        for factor, pid in zip((1, 2), pids, strict=True)
    )
    assert 32 * 6 == len(pids[0]["datasets"][0][2])
    checked = DaskArraySerializer(check=False)
    array = checked.unpickle(pids[0], protocols_of(tmp_path / "1", signed=True))
    held = array.blocks[0, 0].compute(scheduler="synchronous")
    assert np.array_equal(VALUES, array.compute(scheduler="synchronous"))
    size = mine.stat().st_size
    mine.write_bytes(theirs.read_bytes()[:size].ljust(size, b"\0"))
    assert np.array_equal(VALUES[:10, :10], held)
    with pytest.raises(DamagedResultError):
        array.compute(scheduler="synchronous")
    assert not list(sources._maps) or not big


def test_short_digests_under_a_key(tmp_path: Path) -> None:
    """A result that was stored without a key is refused with one; the other way it is read."""
    array = da.from_array(VALUES, chunks=10)
    with pytest.raises(UntrustedResultError, match="older release, or without a key"):
        read(tmp_path, stored(tmp_path, array), signed=True)
    assert np.array_equal(VALUES, read(tmp_path, stored(tmp_path, array, signed=True)))


def soft_link(file: Any, name: str, outside: Path) -> None:
    file["other"] = VALUES
    file[name] = h5py.SoftLink("/other")


def external_link(file: Any, name: str, outside: Path) -> None:
    with h5py.File(outside.with_suffix(".h5"), "w") as other:
        other[name] = VALUES
    file[name] = h5py.ExternalLink(str(outside.with_suffix(".h5")), name)


def external_storage(file: Any, name: str, outside: Path) -> None:
    outside.write_bytes(VALUES.tobytes())
    file.create_dataset(name, VALUES.shape, "f8", external=[(str(outside), 0, VALUES.nbytes)])


def virtual(file: Any, name: str, outside: Path) -> None:
    external_link(file, "x", outside)
    layout = h5py.VirtualLayout(VALUES.shape, "f8")
    layout[:] = h5py.VirtualSource(str(outside.with_suffix(".h5")), "x", VALUES.shape)
    file.create_virtual_dataset(name, layout)


def compact(file: Any, name: str, outside: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(VALUES.shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_DOUBLE, space, made)


def other_filter(file: Any, name: str, outside: Path) -> None:
    file.create_dataset(name, data=VALUES, chunks=(10, 10), fletcher32=True)


def objects(file: Any, name: str, outside: Path) -> None:
    file.create_dataset(name, data=["x"] * 30, dtype=h5py.string_dtype())


def group(file: Any, name: str, outside: Path) -> None:
    file.create_group(name)


def nothing(file: Any, name: str, outside: Path) -> None:
    file["other"] = VALUES


FILES = [
    *[soft_link, external_link, external_storage, virtual, compact, other_filter, objects, group],
    nothing,
]


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", ["ours", "original"])
def test_files_of_kinds_that_are_never_written(
    tmp_path: Path, make: Callable[[Any, str, Path], None], kind: str
) -> None:
    """Nothing outside the file is opened, and no other filter runs."""
    name = "data" if kind == "ours" else "dask_arrays"
    made = tmp_path / "made.h5"
    with h5py.File(made, "w") as file:
        make(file, name, tmp_path / "outside")
    if kind == "ours":
        options = {"compression": "gzip", "check": False}
        pid = stored(tmp_path, da.from_array(VALUES, chunks=(10, 10)), **options)
        shutil.copyfile(made, tmp_path / "w" / ".data" / pid["name"])
        pid["size"] = made.stat().st_size
        with pytest.raises(DamagedResultError):
            read(tmp_path, pid, check=False)
    else:
        path = original(tmp_path, "name")
        os.replace(made, tmp_path / "w" / "bigdata" / "name")
        with pytest.raises(DamagedResultError):
            read_original(str(path))


def test_chunks_of_another_shape_or_type(tmp_path: Path) -> None:
    """A file with other elements, or with chunks that would take more memory, is refused."""
    pid = stored(tmp_path, da.from_array(VALUES, chunks=(10, 10)), compression="gzip")
    path = tmp_path / "w" / ".data" / pid["name"]
    gzip = {"compression": "gzip"}
    for data, options in (
        (VALUES[:20], gzip),
        (VALUES.astype("i8"), gzip),
        (VALUES, {}),
        (np.broadcast_to(0.0, (3000, 2000)), {"chunks": (3000, 2000), **gzip}),
    ):
        shape = data.shape
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=data, **options)
        changed = pid | {"size": path.stat().st_size}
        if shape[0] == 3000:
            changed["chunks"] = ((1000,) * 3, (10,) * 200)
            changed["datasets"] = [("data", ("<f8", "filtered", 0), bytes(16 * 600))]
        with pytest.raises(DamagedResultError, match="than was written"):
            read(tmp_path, changed, check=False)


def original(folder: Path, name: Any) -> Path:
    """Write a result of the original with an array of a name."""
    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("HDFSerializer", ("0.0.0", name)) if obj is ... else None

    Pickler(stream).dump(...)
    (folder / "w" / "bigdata").mkdir(parents=True)
    path = folder / "w" / "t"
    path.write_bytes(stream.getvalue() + hashlib.sha1(stream.getvalue()).digest())
    return path


@pytest.mark.parametrize("how", ["../outside", "absolute", 3])
def test_names_of_the_original_lead_nowhere_else(tmp_path: Path, how: Any) -> None:
    """A pickle can't have a file read that is in no folder `bigdata`."""
    outside = tmp_path / "w" / "outside"
    path = original(tmp_path, str(outside) if how == "absolute" else how)
    with h5py.File(outside, "w") as file:
        file["dask_arrays"] = VALUES
    with pytest.raises((FileNotFoundError, DamagedResultError)):
        read_original(str(path))
