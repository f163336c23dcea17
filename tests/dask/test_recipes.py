"""Results that are not values: dask's collections, lazy xarray, zarr and h5py objects."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import UnpicklableResultError
from functionfuse.serializers import generate_name, refused
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.pickling import Pickled
from functionfuse.storage.resultfile import Origin, packed


def frame() -> Any:
    import dask.dataframe as dd
    import pandas as pd

    return dd.from_pandas(pd.DataFrame({"a": range(6)}), npartitions=2)


def bag() -> Any:
    import dask.bag as db

    return db.from_sequence([1, 2, 3], npartitions=2)


def in_memory_h5(part: str) -> Any:
    file = h5py.File(generate_name(), "w", driver="core", backing_store=False)
    file.create_dataset("data", data=[1, 2])
    return file[part] if part else file


RECIPES: list[tuple[Callable[[], Any], str]] = [
    (frame, r"a dask\.dataframe DataFrame: a recipe, not its values\. Return \.compute\(\) of it"),
    (lambda: frame()["a"].max() + 1, r"a dask\.dataframe Scalar: a recipe"),
    (lambda: frame().groupby("a"), r"a dask\.dataframe DataFrame: a recipe"),
    (lambda: frame().expr, "a recipe"),
    (bag, r"a dask\.bag Bag: a recipe"),
    (lambda: bag().sum(), r"a dask\.bag Item: a recipe"),
    (lambda: dask.delayed(sum)([1, 2]), r"a dask\.delayed Delayed: a recipe"),
    (lambda: dask.delayed(1), r"a dask\.delayed DelayedLeaf: a recipe"),
    (lambda: da.ones(3).dask, r"a dask\.highlevelgraph HighLevelGraph: a recipe"),
    (lambda: zarr.zeros(3), r"a zarr\.core Array: a reference .* x\[:\]"),
    (zarr.group, r"a zarr\.core Group: a reference"),
    (lambda: in_memory_h5("data"), r"a h5py Dataset: a reference .* x\[:\]"),
    (lambda: in_memory_h5(""), r"a h5py File: a reference"),
    (lambda: in_memory_h5("").attrs, r"a h5py AttributeManager: a reference .* dict\(\) of it"),
    (lambda: zarr.storage.LocalStore("in.zarr"), r"a zarr\.storage LocalStore: a reference"),
    (lambda: zarr.storage.StorePath(zarr.storage.LocalStore("x")), r"LocalStore: a reference"),
]


@pytest.mark.parametrize(("make", "told"), RECIPES)
def test_recipes_and_references_are_refused(
    storage: FileStorage, make: Callable[[], Any], told: str
) -> None:
    """Wherever they are in a result. The error has their place and the cure."""
    recipe = make()
    for value in ({"t": recipe}, [np.ones(3), lambda: recipe]):
        with pytest.raises(UnpicklableResultError, match=rf"^result.* {told}") as raised:
            storage.save("w", "t", value)
        assert str(raised.value).endswith(", or name the node in log_nodes")
    assert [] == list(storage.store.list(""))


def test_arrays_without_our_plugin(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array is a recipe too, also in xarray: the error names functionfuse-dask."""
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "functionfuse-dask")
    from functionfuse.plugins import entrypoints

    monkeypatch.setattr(entrypoints, "generation", entrypoints.generation + 1)
    monkeypatch.setattr(
        refused, "find_spec", lambda name: None if name == "functionfuse_dask" else find_spec(name)
    )
    dataset = xr.Dataset({"t": ("x", da.ones(4, chunks=2))})
    for value, place in ((da.ones(3), "result"), (dataset, r"result\['t'\]\..*")):
        told = rf"^{place} is a dask\.array Array: a recipe.*pip install functionfuse-dask"
        with pytest.raises(UnpicklableResultError, match=told):
            storage.save("w", "t", value)


def test_recipes_that_are_stored_already_are_read(storage: FileStorage) -> None:
    """As an earlier release has stored them."""
    value = [frame(), dask.delayed(sum)([1, 2]), bag(), xr.Dataset({"t": ("x", [1.0])})]
    pickled = Pickled([pickle.dumps(value, 5)], [], by_value=False)
    parts, _ = packed(pickled, Origin("w", "t", "", "builtins.list", None, None, ""))
    storage.store.put("w/t", parts)
    read = storage.read_task("w", "t")
    assert 15 == read[0]["a"].sum().compute()
    assert (3, [1, 2, 3]) == (read[1].compute(), read[2].compute(scheduler="threads"))
    assert [1.0] == list(read[3]["t"].values)


@pytest.fixture
def source(tmp_path: Path) -> Callable[[float], Path]:
    """Write a file, or write it again, for xarray."""

    def write(value: float) -> Path:
        path = tmp_path / "in.nc"
        path.unlink(missing_ok=True)
        dataset = xr.Dataset(
            {"t": ("x", np.full(5, value))}, coords={"height": ("x", np.full(5, value))}
        )
        dataset.to_netcdf(path, engine="h5netcdf")
        return path

    return write


SHAPES: list[tuple[Callable[[xr.Dataset], Any], Callable[[Any], xr.DataArray]]] = [
    (lambda data: data, lambda read: read["t"]),
    (lambda data: data["t"], lambda read: read),
    (lambda data: data["t"].variable, lambda read: read),
    (lambda data: data[["t"]].isel(x=slice(1, 4)), lambda read: read["t"]),
    (lambda data: data.coords["height"], lambda read: read),
    (lambda data: [{"a": data}], lambda read: read[0]["a"]["t"]),
    (lambda data: lambda: data, lambda read: read()["t"]),
    (lambda data: xr.DataTree.from_dict({"/a/b": data}), lambda read: read["a/b/t"]),
]


@pytest.mark.parametrize(("shape", "found"), SHAPES)
def test_lazy_xarray_is_read_and_stored(
    storage: FileStorage,
    source: Callable[[float], Path],
    shape: Callable[[xr.Dataset], Any],
    found: Callable[[Any], xr.DataArray],
) -> None:
    """The user's object stays lazy and open. What is stored needs its source no more."""
    with xr.open_dataset(source(1.0), engine="h5netcdf") as dataset:
        value = shape(dataset)
        info = storage.save("w", "t", value)
        assert (True, True) == (info.read, storage.reads_back(info))
        for name in ("t", "height"):
            assert not dataset[name].variable._in_memory
        blob = bytes(storage.store.get("w/t"))
    assert all(name not in blob for name in (b"H5NetCDFStore", b"CachingFileManager"))
    source(2.0).unlink()
    assert {1.0} == set(found(storage.read_task("w", "t")).values.tolist())


def test_the_next_node_gets_what_is_stored(
    storage: FileStorage, source: Callable[[float], Path]
) -> None:
    """And not what is in the file by then."""
    path = source(1.0)

    @workflow
    def load() -> Any:
        return xr.open_dataset(path, engine="h5netcdf")

    @workflow
    def total(dataset: Any) -> float:
        source(2.0)
        return float(dataset["t"].sum())

    flow = LocalWorkflow(total(load().set_name("load")).set_name("sum"), workflow_name="w")
    flow.set_storage(storage)
    flow.run()
    assert 5.0 == storage.read_task("w", "sum")


def test_a_source_that_is_gone(storage: FileStorage, source: Callable[[float], Path]) -> None:
    """It is the node's error, and not one of the storage."""
    path = source(1.0)
    dataset = xr.open_dataset(path, engine="h5netcdf")
    dataset.close()
    path.unlink()
    told = r"result.* is a xarray\.core Variable: .* can't be read: FileNotFoundError"
    with pytest.raises(UnpicklableResultError, match=told):
        storage.save("w", "t", {"a": dataset})


def test_lazy_zarr_and_dask_in_one_dataset(storage: FileStorage, tmp_path: Path) -> None:
    """What is lazy by xarray is read; what is lazy by dask stays in its chunks."""
    path = tmp_path / "in.zarr"
    xr.Dataset({"t": ("x", np.ones(4))}).to_zarr(path, consolidated=False)
    dataset = xr.open_zarr(path, consolidated=False, chunks=None)
    dataset["u"] = "x", da.arange(4, chunks=2)
    info = storage.save("w", "t", dataset)
    assert (True, 1) == (info.read, len(info.side_data))
    shutil.rmtree(path)
    read = storage.read_task("w", "t")
    assert [1.0] * 4 == read["t"].values.tolist()
    assert ((2, 2),) == read["u"].chunks
    assert not storage.save("w", "t", read["t"].load()).read
