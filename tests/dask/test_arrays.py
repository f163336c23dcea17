"""Every array comes back as it was: lazy, in its chunks, equal to what numpy computes."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.lib import recfunctions

from functionfuse.errors import FunctionFuseError, UnpicklableResultError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

RNG = np.random.default_rng(0)
NUMBERS = RNG.random((30, 20))
TIMES = np.array(["2001-01-01", "1969-12-31T23", "NaT"] * 3, dtype="datetime64[ns]")


def numbers(chunks: Any = (12, 7)) -> da.Array:
    return da.from_array(NUMBERS, chunks=chunks)


ARRAYS = {
    "a regular grid": numbers,
    "slabs": lambda: numbers((11, 20)),
    "one chunk": lambda: numbers(-1),
    "irregular chunks": lambda: numbers(((3, 7, 20), (15, 5))),
    "irregular chunks of three axes": lambda: da.from_array(
        RNG.permutation(504).reshape(7, 8, 9), chunks=((3, 4), (4, 1, 3), (5, 4))
    ),
    "empty chunks": lambda: numbers(((0, 30, 0), (0, 20))),
    "a grid that would be mostly padding": lambda: numbers((29, 19)),
    "0-d": lambda: numbers().sum(),
    "empty": lambda: numbers()[:0],
    "empty in all axes": lambda: da.zeros((0, 0), chunks=5),
    "datetime64": lambda: da.from_array(TIMES, chunks=4),
    "datetime64 of 25 seconds, big-endian": lambda: da.from_array(
        TIMES.astype(">M8[25s]"), chunks=4
    ),
    "timedelta64": lambda: da.from_array(np.arange(-3, 5).astype("m8[s]"), chunks=3),
    "unicode": lambda: da.from_array(np.array(["aé", "", "☃𝄞x", "\udc80"] * 3), chunks=5),
    "unicode, big-endian": lambda: da.from_array(np.array(["aé", "b"], dtype=">U3"), chunks=1),
    "bytes": lambda: da.from_array(np.array([b"a", b"", b"xyz"] * 3), chunks=4),
    "bool": lambda: numbers() > 0.5,
    "complex": lambda: numbers() + 1j,
    "complex64": lambda: (numbers() + 1j).astype("c8"),
    "float16": lambda: numbers().astype("f2"),
    "long double": lambda: numbers().astype("g"),
    "big-endian": lambda: numbers().astype(">f4"),
    "int8": lambda: (numbers() * 100).astype("i1"),
    "structured": lambda: da.from_array(
        np.array([(1, 2.5), (3, -4.0)] * 4, dtype=[("a", "<i4"), ("b", ">f8", (1,))]), chunks=3
    ),
    "structured, of types that HDF5 lacks": lambda: da.from_array(
        np.array([(1, "é", "2001-01-01")] * 7, dtype=[("a", "i2"), ("b", "U3"), ("c", "M8[D]")]),
        chunks=3,
    ),
    "void": lambda: da.from_array(np.frombuffer(bytes(range(70)), "V7"), chunks=4),
    "masked": lambda: da.ma.masked_greater(numbers(), 0.5),
    "masked, with a fill value": lambda: da.ma.masked_array(
        da.arange(10, chunks=3), da.arange(10, chunks=3) % 2 == 0, fill_value=-7
    ),
    "masked and empty": lambda: da.ma.masked_array(
        da.zeros((0, 3), chunks=2), da.zeros((0, 3), dtype=bool, chunks=2), fill_value=5.0
    ),
    "Fortran order": lambda: da.from_array(np.asfortranarray(NUMBERS), chunks=(20, 10)),
    "transposed": lambda: numbers().T,
    "a view with steps": lambda: numbers()[::3, ::-2],
    "broadcast": lambda: da.broadcast_to(numbers()[0], (5, 20)),
}


SOME = {"a regular grid", "irregular chunks", "0-d", "empty", "unicode", "masked"}
EVERYWHERE = [
    (kind, which)
    for kind in ("hdf5", "zarr", "gzip", "s3")
    for which in ARRAYS
    if kind in ("hdf5", "zarr") or which in SOME
]


@pytest.mark.parametrize(("each_storage", "which"), EVERYWHERE, indirect=["each_storage"])
def test_every_array_comes_back(each_storage: Storage, which: str) -> None:
    """Type, shape, chunks, values, masks; parts of it; after a trip through pickle, too."""
    array = ARRAYS[which]()
    expected = array.compute()
    each_storage.save("w", "t", {"x": [array]})
    found = each_storage.read_task("w", "t")["x"][0]
    assert (array.chunks, array.dtype) == (found.chunks, found.dtype)
    assert type(array._meta) is type(found._meta)
    assert same(expected, pickle.loads(pickle.dumps(found)).compute())
    if found.ndim:
        assert same(expected[1:9:2], found[1:9:2].compute())
        assert same(expected[::-1], found[::-1].compute())
        assert same(expected[..., None], found[..., None].compute())
    if found.size:
        assert same(expected[(-1,) * found.ndim], found[(-1,) * found.ndim].compute())
    assert [""] == [record.problem for record in each_storage.verify()]
    each_storage.remove_task("w", "t")
    assert ["w/.functionfuse"] == [blob.key for blob in each_storage.store.list("")]


def same(expected: Any, found: Any) -> bool:
    assert repr(np.asarray(expected).dtype) == repr(np.asarray(found).dtype)
    assert np.shape(expected) == np.shape(found)
    if isinstance(expected, np.ma.MaskedArray):
        assert isinstance(found, np.ma.MaskedArray)
        assert np.array_equal(np.ma.getmaskarray(expected), np.ma.getmaskarray(found))
        assert expected.fill_value == found.fill_value
        expected, found = expected.filled(), found.filled()
    if np.asarray(expected).dtype.char == "g":
        return np.array_equal(expected, found)  # it has bytes that are not used
    return np.asarray(expected).tobytes() == np.asarray(found).tobytes()


TYPES = [
    *["<U3", ">U3", "S3", "V5", ">M8[25s]", "?", ">c8", "g"],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype({"names": ["a", "b"], "formats": ["U2", ">i4"], "offsets": [1, 12], "itemsize": 19}),
]
GRIDS = {
    "a smaller last chunk": ((10, 10, 10), (10, 9)),
    "irregular chunks": ((9, 0, 21), (1, 18)),
}


@pytest.mark.parametrize("local", [True, False], ids=["files", "blobs"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("chunks", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_in_chunks_of_every_size(
    local: bool, compression: str | None, chunks: Any, dtype: Any, tmp_path: Path
) -> None:
    """Also if the bytes between the fields of a structure are not zero."""
    from result_bytes import MemoryStore

    dtype = np.dtype(dtype)
    values = np.arange(570).astype("S3").view("u1").astype(f"V{dtype.itemsize}").view(dtype)[:570]
    if not dtype.names and dtype.kind != "V":
        values = np.arange(570).astype(dtype)
    storage = FileStorage(tmp_path) if local else Storage(MemoryStore())
    storage.register_persistent_serializers(
        DaskArraySerializer(format="hdf5", compression=compression)
    )
    storage.save("w", "t", da.from_array(values.reshape(30, 19), chunks=chunks))
    found = storage.read_task("w", "t").compute()
    assert (dtype, values.reshape(30, 19).tolist()) == (found.dtype, found.tolist())
    assert [""] == [record.problem for record in storage.verify()]


def test_a_masked_number_stays_an_array(each_storage: Storage) -> None:
    """Of its type; so does the value under the mask. numpy's own masked number gets the type."""
    numbers = da.from_array(np.ma.array(4, mask=True, fill_value=9), chunks=(), asarray=False)
    nothing = da.ma.masked_array(da.arange(10, chunks=3), mask=True).sum()
    each_storage.save("w", "t", [numbers, nothing])
    for found, value in zip(each_storage.read_task("w", "t"), ((4, 9), (0, 999999)), strict=True):
        for block in (found.compute(), pickle.loads(pickle.dumps(found)).compute()):
            assert (np.ma.MaskedArray, int, True) == (type(block), block.dtype, bool(block.mask))
            assert value == (block.data, block.fill_value)
        assert (np.ma.MaskedArray, int) == (type(found._meta), found._meta.dtype)


class Counter:
    """Counts how often blocks are computed."""

    def __init__(self) -> None:
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self, block: Any) -> Any:
        with self.lock:
            self.calls += block.size > 0  # dask tries it with nothing
        return block


def test_unknown_chunks_are_computed_once(each_storage: Storage) -> None:
    """In each axis; the array that is read knows them."""
    count = Counter()
    array = numbers().map_blocks(count, dtype=float)
    picked, flat = array[array[:, 0] > 0.5], array[array > 0.3]
    expected = NUMBERS[NUMBERS[:, 0] > 0.5], NUMBERS[NUMBERS > 0.3]
    each_storage.save("w", "t", [picked, flat, array])
    assert 9 == count.calls
    found = each_storage.read_task("w", "t")
    assert expected[0].shape == found[0].shape
    assert (3, 3) == found[0].numblocks
    assert np.array_equal(expected[0], found[0].compute())
    # Which of its items comes first depends on its blocks, in dask, too.
    assert np.array_equal(np.sort(expected[1]), np.sort(found[1].compute()))
    assert np.array_equal(NUMBERS, found[2].compute())


def test_what_arrays_share_is_computed_once(each_storage: Storage) -> None:
    """All arrays of a result are computed together; one that is met twice is written once."""
    count = Counter()
    base = numbers().map_blocks(count, dtype=float)
    value = {"a": base + 1, "b": base * 2, "c": base}
    info = each_storage.save("w", "t", {**value, "again": value["a"], "deep": [(value["a"],)]})
    assert 9 == count.calls
    assert 3 == len(info.side_data)
    found = each_storage.read_task("w", "t")
    assert found["a"] is found["again"] is found["deep"][0][0]
    for name, array in value.items():
        assert np.array_equal(array.compute(), found[name].compute())


def test_an_array_is_not_computed_for_the_sake_of_cloudpickle(file_storage: FileStorage) -> None:
    """A result that pickle can't write is pickled again, and its arrays are not."""
    count, step = Counter(), 2
    array = numbers().map_blocks(count, dtype=float)
    file_storage.save("w", "t", [array, lambda x: x + step])
    assert 9 == count.calls
    found = file_storage.read_task("w", "t")
    assert (3, NUMBERS.sum()) == (found[1](1), pytest.approx(found[0].sum().compute()))


def of_fields(one: str, two: str, offsets: tuple[int, int]) -> da.Array:
    fields = {"names": ["a", "b"], "formats": [one, two], "offsets": offsets}
    return da.zeros(4, chunks=2, dtype=np.dtype(fields))


def masked_times(dtype: str, converted: str = "") -> da.Array:
    data = np.zeros(3, "i8").view(dtype)
    times = np.ma.array(data.astype(converted or dtype), mask=[1, 0, 0])
    return da.from_array(times, chunks=2, asarray=False)


class Special(np.ndarray):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (lambda: da.from_array(np.array([1, "a", None], dtype=object), chunks=2), "no fixed size"),
        (lambda: da.from_array(np.array(["a"], dtype=np.dtypes.StringDType()), 1), "no fixed size"),
        (lambda: numbers().map_blocks(np.copy, meta=np.empty((0, 0)).view(Special)), "Special"),
        (lambda: da.zeros(40, chunks=2, dtype="V0"), "takes no bytes"),
        (lambda: da.zeros(4, chunks=2, dtype=[]), "takes no bytes"),
        (lambda: da.zeros(4, chunks=2, dtype=[("a", "i1", (0,))]), "takes no bytes"),
        (lambda: of_fields("i4", "i2", (0, 2)), "fields overlap, or"),
        (lambda: of_fields("i4", "i2", (4, 0)), "or are out of order"),
        (lambda: masked_times("m8[25s]"), "no fill value"),
        (lambda: masked_times("M8"), "no fill value"),
    ],
    ids=[
        *["objects", "strings of any length", "no numpy", "V0", "no fields", "no elements"],
        *["overlap", "order", "timedelta64 of 25 seconds", "datetime64 without a unit"],
    ],
)
def test_what_no_file_can_keep_is_refused(
    file_storage: FileStorage, array: Any, problem: str
) -> None:
    """Before anything is computed; the error says where it is, and what to do."""
    count = Counter()
    with pytest.raises(UnpicklableResultError, match=problem) as raised:
        file_storage.save(
            "w", "t", {"good": numbers().map_blocks(count, dtype=float), "bad": array()}
        )
    assert str(raised.value).startswith("result['bad'] is a dask.array.core.Array")
    assert "for instance" in str(raised.value)
    assert 0 == count.calls
    assert [] == list(file_storage.store.list(""))


def test_what_the_advice_gives_is_stored(file_storage: FileStorage) -> None:
    """For fields out of order, and for times without a fill value."""
    packed = of_fields("i4", "i2", (4, 0)).map_blocks(recfunctions.repack_fields)
    file_storage.save("w", "t", [packed, masked_times("m8[25s]", "m8[s]")])
    fields, times = (found.compute() for found in file_storage.read_task("w", "t"))
    assert [(0, 0)] * 4 == fields.tolist()
    assert (np.dtype("m8[s]"), [True, False, False]) == (times.dtype, times.mask.tolist())


def test_more_axes_than_hdf5_has(storage: FileStorage) -> None:
    """They are refused before anything is computed; zarr has them."""
    count = Counter()
    array = da.ones((1,) * 33, chunks=1).map_blocks(count, dtype=float)
    for options in ({}, {"format": "hdf5"}):
        storage.register_persistent_serializers(DaskArraySerializer(**options))
        with pytest.raises(FunctionFuseError, match="33 axes, and HDF5 has at most 32"):
            storage.save("w", "t", [array])
    assert (0, []) == (count.calls, list(storage.store.list("")))
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    storage.save("w", "t", array)
    assert 1 == storage.read_task("w", "t").sum().compute()


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (lambda: numbers().map_blocks(lambda block: block, dtype=int), "has dtype dtype.'float64'"),
        (
            lambda: numbers().map_blocks(lambda block: block[:1], dtype=float),
            r"has shape \(1, \d\)",
        ),
        (lambda: numbers().map_blocks(lambda block: [1], meta=NUMBERS[:0]), "is a <class 'list'>"),
        (lambda: numbers().map_blocks(lambda block: 1 / 0, dtype=float), "division by zero"),
    ],
    ids=["another type", "another shape", "no array", "an error"],
)
def test_blocks_that_are_not_what_was_promised(
    each_storage: Storage, array: Any, problem: str
) -> None:
    """The error is raised as it is, and nothing is left."""
    with pytest.raises((TypeError, ValueError, ZeroDivisionError), match=problem):
        each_storage.save("w", "t", [numbers(), array()])
    assert [] == list(each_storage.store.list(""))


def test_arrays_inside_other_objects(each_storage: Storage) -> None:
    """An xarray dataset of dask arrays is kept as they are: lazily."""
    import xarray as xr

    dataset = xr.Dataset({"t": (("x", "y"), numbers())}, coords={"x": np.arange(30)})
    each_storage.save("w", "t", dataset)
    found = each_storage.read_task("w", "t")
    assert isinstance(found["t"].data, da.Array)
    assert numbers().chunks == found["t"].data.chunks
    xr.testing.assert_equal(dataset, found)


def test_an_unknown_format_is_refused() -> None:
    """At once."""
    from functionfuse.errors import OptionsError

    with pytest.raises(OptionsError, match="none of 'auto', 'hdf5' and 'zarr'"):
        DaskArraySerializer(format="tiff")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_an_unknown_compression_is_refused(storage: FileStorage, kind: Any) -> None:
    """The error names those that there are."""
    from functionfuse.errors import OptionsError

    serializer = DaskArraySerializer(format=kind, compression="rar")
    storage.register_persistent_serializers(serializer)
    with pytest.raises(OptionsError, match=r"no compression 'rar' here; known: .*gzip"):
        storage.save("w", "t", numbers())
    assert [] == list(storage.store.list(""))
