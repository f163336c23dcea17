"""What the files are: plain HDF5 and zarr for everybody."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("dtype", ["<M8[s]", ">M8[s]", "<m8[D]", ">m8[D]", ">f4", ">c16", ">i2"])
def test_other_readers_see_the_numbers(file_storage: FileStorage, dtype: str) -> None:
    """In either byte order; times as whole numbers."""
    values = np.array([3, 1, -7]).astype(dtype)
    file_storage.save("w", "t", da.from_array(values, chunks=2))
    (path,) = beside(file_storage)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            found = file["data"][...]
    else:
        array = zarr.open_group(path, mode="r")["data"]
        assert isinstance(array, zarr.Array)
        found = np.asarray(array[...])
    assert [3, 1, -7] == list(found)


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


def test_the_facade_hands_the_serializer_on() -> None:
    """The documented import path."""
    from functionfuse.serializers.daskarray import DaskArraySerializer as Documented

    assert DaskArraySerializer is Documented


def test_a_class_can_be_registered(storage: FileStorage) -> None:
    """As the storage chapter does it."""
    storage.register_persistent_serializers(DaskArraySerializer)  # type: ignore[arg-type]
    info = storage.save("w", "t", da.from_array(NUMBERS, chunks=20))
    assert ["dask.array"] == [side.serializer for side in info.side_data]


def test_temporary_files_in_s3_are_removed_together(moto_server: Any) -> None:
    """With one request for all blocks, and not one for each."""
    from s3_servers import BUCKET

    from functionfuse_s3 import S3FileStorage

    storage = S3FileStorage(**moto_server.options(f"{BUCKET}/temporary-files"))
    storage.register_persistent_serializers(DaskArraySerializer(format="hdf5"))
    requests: list[str] = []
    events = storage.store.bucket.client.meta.events  # type: ignore[attr-defined]
    events.register("after-call.s3", lambda model, **_: requests.append(model.name))
    storage.save("w", "t", da.from_array(NUMBERS, chunks=(10, 10)))
    removals = [name for name in requests if name.startswith("DeleteObject")]
    assert ["DeleteObjects"] == removals
    left = [blob.key for blob in storage.store.list("w/.data/") if ".h5." in blob.key]
    assert [] == left
