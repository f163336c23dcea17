"""Dask arrays in results of the original Function Fuse: HDF5 and zarr in the folder `bigdata`."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, NewerFormatError
from functionfuse.serializers import S3_PROTOCOL
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer, read_original

NUMBERS = np.arange(70 * 40.0).reshape(70, 40)


def old_result(version: str = "0.0.0") -> bytes:
    """Return the bytes of a result with an array, as the original writes them."""
    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("HDFSerializer", (version, "name")) if obj is ... else None

    Pickler(stream).dump({"x": ..., "y": 1})
    return stream.getvalue() + hashlib.sha1(stream.getvalue()).digest()


def write_old(folder: Path, **options: Any) -> Path:
    (folder / "w" / "bigdata").mkdir(parents=True)
    with h5py.File(folder / "w" / "bigdata" / "name", "w") as file:
        file.create_dataset("dask_arrays", data=NUMBERS, chunks=(30, 20))
    path = folder / "w" / "t"
    path.write_bytes(old_result(**options))
    return path


def check(found: dict[str, Any]) -> None:
    assert 1 == found["y"]
    assert ((30, 30, 10), (20, 20)) == found["x"].chunks
    assert NUMBERS.dtype == found["x"].dtype
    assert np.array_equal(NUMBERS, found["x"].compute())
    assert np.array_equal(NUMBERS, pickle.loads(pickle.dumps(found["x"])).compute())


@workflow
def raw() -> dict[str, Any]:
    return {"x": da.zeros(3), "y": 2}


@workflow
def total(raw: dict[str, Any]) -> float:
    return float(raw["x"].sum().compute())


def flow_of(storage: Storage) -> LocalWorkflow:
    flow = LocalWorkflow(total(raw().set_name("t")).set_name("total"), workflow_name="w")
    flow.set_storage(storage)
    return flow


def test_a_file_is_read(tmp_path: Path) -> None:
    """Pickle and SHA-1; the arrays are lazy, and can be pickled."""
    path = write_old(tmp_path)
    check(read_original(str(path)))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedResultError, match="not what was written"):
        read_original(str(path))


def test_arrays_are_found_after_a_run_has_moved_the_file(tmp_path: Path) -> None:
    write_old(tmp_path)
    assert 0.0 == flow_of(FileStorage(tmp_path)).run()
    FileStorage(tmp_path).gc(older_than=-1)
    check(read_original(str(tmp_path / "w" / ".original" / "t")))


@pytest.mark.parametrize("registered", [False, True])
def test_a_storage_reads_them(tmp_path: Path, registered: bool) -> None:
    """By the plugin, or by a serializer that is registered; a run can take them as they are."""
    write_old(tmp_path)
    storage = FileStorage(tmp_path)
    if registered:
        storage.register_persistent_serializers(DaskArraySerializer())
    check(storage.read_task("w", "t"))
    flow = flow_of(storage)
    flow.query("t").set_reuse("always")
    assert NUMBERS.sum() == flow.run()
    assert ["total"] == flow.report.names("computed")


def test_the_allow_list_holds_for_arrays(tmp_path: Path) -> None:
    write_old(tmp_path)
    options = {"path": str(tmp_path), "trust": {"allow": ["numpy"]}}
    with pytest.raises(ValueError, match=r"'dask\.array\.core\.Array'"):
        storage_factory({"kind": "file", "options": options}).read_task("w", "t")
    options["trust"] = {"allow": ["numpy", "dask"]}
    check(storage_factory({"kind": "file", "options": options}).read_task("w", "t"))


def test_an_array_of_another_version_or_without_its_file(tmp_path: Path) -> None:
    path = write_old(tmp_path, version="0.0.1")
    with pytest.raises(NewerFormatError, match=r"0\.0\.1"):
        FileStorage(tmp_path).read_task("w", "t")
    path.write_bytes(old_result())
    (tmp_path / "w" / "bigdata" / "name").unlink()
    with pytest.raises(DamagedResultError, match="missing"):
        FileStorage(tmp_path).read_task("w", "t")


def test_in_s3_they_are_zarr_arrays(s3_storage: Storage) -> None:
    """A run that computes keeps the result in `.original/`, and leaves the arrays."""
    import zarr

    zarr_store = s3_storage.store.protocols("w/bigdata/")[S3_PROTOCOL]["zarr_store"]
    group = zarr.open_group(zarr_store("dask_arrays"), mode="w", zarr_format=2)
    group.create_array("name", data=NUMBERS, chunks=(30, 20))
    s3_storage.store.put("w/t", [old_result()])
    check(s3_storage.read_task("w", "t"))
    assert [""] == [found.problem for found in s3_storage.verify()]
    flow = flow_of(s3_storage)
    flow.query("t").set_reuse("always")
    assert NUMBERS.sum() == flow.run()
    assert 0.0 == flow_of(s3_storage).run()
    assert old_result() == bytes(s3_storage.store.get("w/.original/t"))
    s3_storage.gc(older_than=-1)
    assert group["name"][0, 1] == 1


def test_original_arrays_in_s3_have_no_codec_that_runs_code(s3_storage: Storage) -> None:
    """Filters, unknown compressors and Python objects are refused; nothing is unpacked."""
    import json

    import zarr

    from functionfuse_dask.original import _zarr_array

    store = s3_storage.store.protocols("w/bigdata/")[S3_PROTOCOL]["zarr_store"]("dask_arrays")
    group = zarr.open_group(store, mode="w", zarr_format=2)
    group.create_array("a", data=NUMBERS, chunks=(30, 20))
    assert np.array_equal(NUMBERS, _zarr_array(store, "a")[...])
    key = f"{store.folder}a/.zarray"
    plain = json.loads(bytes(s3_storage.store.get(key)))
    for change in (
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"dtype": "|O"},
        {"zarr_format": 3},
        {"compressor": 7},
        {"shape": "x"},
    ):
        s3_storage.store.put(key, [json.dumps(plain | change).encode()])
        with pytest.raises(DamagedResultError, match="can't be opened"):
            _zarr_array(store, "a")
