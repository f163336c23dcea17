"""What the files are: plain HDF5 and zarr for everybody, written and read past HDF5's lock."""

from __future__ import annotations

import errno
import gc
import json
import mmap
import os
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer
from functionfuse_dask.sources import _maps

NUMBERS = np.arange(70 * 50, dtype="f8").reshape(70, 50)
FILTERS = {  # as HDF5 numbers them: 1 is deflate, 2 shuffle
    None: [],
    "gzip": [2, 1],
    "lzf": [2, 32000],
    "zstd": [32015],
}
FORMATS = {
    "grid": (30, 20),
    "slabs": (30, 50),
    "irregular": ((3, 67), (49, 1)),
}


def beside(storage: Storage) -> list[Path]:
    """Return the paths of the side data of workflow "w"."""
    folder = Path(storage.store.root, "w", ".data")  # type: ignore[attr-defined]
    return sorted(path for path in folder.iterdir() if not path.name.endswith(".pieces"))


@pytest.mark.parametrize("compression", [None, "gzip", "lzf", "zstd"])
@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_h5py_reads_the_file(storage: FileStorage, chunks: Any, compression: str | None) -> None:
    """One dataset "data", with the values and attributes that `docs/arrays.md` tells."""
    array = da.from_array(NUMBERS, chunks=chunks)
    storage.register_persistent_serializers(DaskArraySerializer(compression=compression))
    storage.save("w", "t", array)
    (path,) = beside(storage)
    with h5py.File(path) as file:
        assert ["data"] == list(file)
        assert np.array_equal(NUMBERS, file["data"][...])
        assert "<f8" == file["data"].attrs["functionfuse_dtype"]
        assert [list(sizes) for sizes in array.chunks] == json.loads(
            file["data"].attrs["functionfuse_chunks"]
        )
        created = file["data"].id.get_create_plist()
        filters = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
        assert FILTERS[compression] == filters
    assert np.array_equal(NUMBERS, storage.read_task("w", "t").compute())
    if compression:
        assert os.path.getsize(path) < NUMBERS.nbytes


def test_text_times_and_masks_in_hdf5(storage: FileStorage) -> None:
    """Text is UTF-8, times are numbers with CF units, a mask is a dataset of its own."""
    times = np.array(["2001-01-01", "2001-01-02"], dtype="M8[s]")
    values = {
        "text": np.array(["aé", "☃"]),
        "times": times,
        "spans": times - times[0],
        "masked": np.ma.array([1.0, 2.0], mask=[True, False]),
    }
    for name, value in values.items():
        storage.save("w", name, da.from_array(value, chunks=1))
        (path,) = set(beside(storage)) - {path for path, _ in FOUND}
        FOUND.append((path, name))
    paths = {name: path for path, name in FOUND}
    with h5py.File(paths["text"]) as file:
        assert ["aé", "☃"] == list(file["data"].asstr())
    with h5py.File(paths["times"]) as file:
        assert "seconds since 1970-01-01" == file["data"].attrs["units"]
        assert [978307200, 978393600] == list(file["data"])
    with h5py.File(paths["masked"]) as file:
        assert [True, False] == list(file["mask"])
    options: dict[str, Any] = {"engine": "h5netcdf", "phony_dims": "sort"}
    with xr.open_dataset(paths["times"], **options) as found:
        assert list(times) == list(found["data"].values)
    with xr.open_dataset(paths["spans"], decode_timedelta=True, **options) as found:
        assert [0, 86400] == list(found["data"].values.astype("m8[s]").astype(int))


FOUND: list[tuple[Path, str]] = []


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_xarray_opens_the_files(storage: FileStorage, kind: Any) -> None:
    """By itself, lazily."""
    storage.register_persistent_serializers(DaskArraySerializer(format=kind))
    storage.save("w", "t", da.from_array(NUMBERS, chunks=(30, 20)))
    (path,) = beside(storage)
    if kind == "hdf5":
        found = xr.open_dataset(path, engine="h5netcdf", phony_dims="sort")
    else:
        found = xr.open_zarr(path, consolidated=False)
        assert ("dim_0", "dim_1") == found["data"].dims
    with found:
        assert np.array_equal(NUMBERS, found["data"].values)


@pytest.mark.parametrize("compression", [None, "zstd", "gzip", "blosc"])
@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_zarr_reads_the_group(storage: FileStorage, chunks: Any, compression: str | None) -> None:
    """Format 3, with a checksum for each chunk, whether it is compressed or not."""
    storage.register_persistent_serializers(
        DaskArraySerializer(format="zarr", compression=compression)
    )
    storage.save("w", "t", da.from_array(NUMBERS, chunks=chunks))
    (path,) = beside(storage)
    found = zarr.open_group(path, mode="r")["data"]
    assert isinstance(found, zarr.Array)
    assert 3 == found.metadata.zarr_format
    assert np.array_equal(NUMBERS, found[...])
    codecs = [codec["name"] for codec in found.metadata.to_dict()["codecs"]]  # type: ignore[union-attr,index,call-overload]
    assert ["bytes", *([compression] if compression else []), "crc32c"] == codecs


def test_many_small_chunks_share_shards(storage: FileStorage) -> None:
    """400 chunks are one object of zarr; they are the array's chunks still."""
    array = da.from_array(NUMBERS[:40, :40], chunks=2)
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    storage.save("w", "t", array)
    (path,) = beside(storage)
    objects = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert 1 == len(objects)
    found = storage.read_task("w", "t")
    assert array.chunks == found.chunks
    assert np.array_equal(NUMBERS[:40, :40], found.compute())


@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_no_number_goes_through_h5py(
    storage: FileStorage, chunks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are written and read at their offsets; HDF5 sees neither."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("through h5py")

    monkeypatch.setattr(h5py.Dataset, "__setitem__", refuse)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    storage.save("w", "t", da.from_array(NUMBERS, chunks=chunks))
    monkeypatch.setattr(h5py, "File", refuse)
    assert np.array_equal(NUMBERS, storage.read_task("w", "t").compute())


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"format": "zarr"}])
@pytest.mark.parametrize("chunks", FORMATS.values(), ids=FORMATS)
def test_nothing_that_only_some_systems_have_is_needed(
    storage: FileStorage, chunks: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of POSIX, and maps of files: what is without them reads and writes all the same."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENODEV, "no maps here")

    for name in ("pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "statvfs", "major"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(mmap, "mmap", refuse)
    storage.register_persistent_serializers(DaskArraySerializer(**options))
    values = np.tile(NUMBERS, (20, 1))
    array = da.from_array(values, chunks=tuple(map(multiplied, chunks, (20, 1))))
    storage.save("w", "t", array)
    assert np.array_equal(values, storage.read_task("w", "t").compute())
    assert [""] == [record.problem for record in storage.verify()]


def multiplied(sizes: Any, times: int) -> Any:
    """Return the chunks of an axis, so many times as long."""
    return sizes * times if isinstance(sizes, int) else tuple(size * times for size in sizes)


def test_blocks_are_views_of_one_map(storage: FileStorage) -> None:
    """A big block is not copied; the file is open no longer than the array, or a block, lives."""
    array = da.from_array(np.arange(1 << 18), chunks=1 << 16)
    storage.save("w", "t", array)
    found = storage.read_task("w", "t")
    assert 0 == len(_maps)
    flags = found.map_blocks(lambda block: np.array([block.flags.owndata, block.flags.writeable]))
    assert 0 == len(opened(storage))
    assert not flags.compute().any()
    del flags
    held = found.persist()
    assert (1, 1) == (len(_maps), len(opened(storage)))
    assert 1 << 17 == (1 << 18) - int((held < 1 << 17).sum().compute())
    del held, found
    gc.collect()
    assert 0 == len(_maps)
    assert [] == opened(storage)


def test_no_more_than_some_files_stay_open(storage: FileStorage) -> None:
    """Of arrays that live; those that were read first are closed."""
    arrays = []
    for number in range(20):
        storage.save("w", f"{number}", da.from_array(np.full(1 << 14, number), chunks=1 << 14))
        arrays.append(storage.read_task("w", f"{number}"))
        assert number << 14 == arrays[-1].sum().compute()
    assert 16 == len(opened(storage))
    assert [0, 19 << 14] == [arrays[number].sum().compute() for number in (0, 19)]
    assert 16 == len(opened(storage))


def opened(storage: Storage) -> list[str]:
    """Return what this process has open of the storage."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [path for path in paths if path.startswith(storage.store.root)]  # type: ignore[attr-defined]


def test_reading_imports_no_h5py(storage: FileStorage) -> None:
    """You pay for what you use: numbers are read without the library."""
    import subprocess
    import sys

    storage.save("w", "t", da.from_array(NUMBERS, chunks=(30, 20)))
    program = (
        "import sys; from functionfuse.storage.filestorage import FileStorage;"
        f"array = FileStorage({storage.store.root!r}).read_task('w', 't');"
        "assert array.sum().compute() == 6123250.0; print('h5py' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "False\n" == done.stdout


def test_the_facade_hands_the_serializer_on() -> None:
    """The documented import path."""
    from functionfuse.serializers.daskarray import DaskArraySerializer as Documented

    assert DaskArraySerializer is Documented


def test_a_class_can_be_registered(storage: FileStorage) -> None:
    """As the storage chapter does it."""
    storage.register_persistent_serializers(DaskArraySerializer)  # type: ignore[arg-type]
    info = storage.save("w", "t", da.from_array(NUMBERS, chunks=20))
    assert ["dask.array"] == [side.serializer for side in info.side_data]


def test_results_of_the_original_are_read(tmp_path: Path) -> None:
    """Pickle and SHA-1; arrays in the folder `bigdata`."""
    import hashlib
    import io
    import pickle

    from functionfuse.errors import DamagedResultError
    from functionfuse_dask import read_original

    (tmp_path / "w" / "bigdata").mkdir(parents=True)
    with h5py.File(tmp_path / "w" / "bigdata" / "name", "w") as file:
        file.create_dataset("dask_arrays", data=NUMBERS, chunks=(30, 20))
    array, stream = object(), io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("HDFSerializer", ("0.0.0", "name")) if obj is array else None

    Pickler(stream).dump({"x": array, "y": 1})
    path = tmp_path / "w" / "t"
    path.write_bytes(stream.getvalue() + hashlib.sha1(stream.getvalue()).digest())
    found = read_original(str(path))
    assert 1 == found["y"]
    assert ((30, 30, 10), (20, 20, 10)) == found["x"].chunks
    assert np.array_equal(NUMBERS, found["x"].compute())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedResultError, match="not what was written"):
        read_original(str(path))
