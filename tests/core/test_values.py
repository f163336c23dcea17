"""Values of polars, pyarrow and xarray: what is stored of them, and how they come back."""

from __future__ import annotations

import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import library_values
import pytest
from library_values import digests, trip, trusting
from result_bytes import of_pickle

from functionfuse.errors import (
    DamagedResultError,
    UnpicklableResultError,
    UnreadableResultError,
    UntrustedResultError,
)
from functionfuse.storage import arrow, values
from functionfuse.storage.filestorage import FileStorage

FRAME = "polars.dataframe.frame.DataFrame"


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture(scope="module")
def frame() -> Any:
    pytest.importorskip("polars")
    return library_values.frame()


def test_the_names_in_pickles_stay() -> None:
    """Stored results name these functions. So a name is added, and none is changed or removed."""
    assert {
        "polars_frame",
        "polars_series",
        "pyarrow_array",
        "pyarrow_chunked_array",
        "pyarrow_record_batch",
        "pyarrow_table",
        "torch_storage",
        "torch_typed_storage",
    } == set(values.READERS)
    for name, reader in values.READERS.items():
        assert getattr(values, name) is reader.read
        assert (values.__name__, name) == (reader.read.__module__, reader.read.__qualname__)
    assert "functionfuse.storage.values" == values.__name__


# polars.


def test_a_frame_of_each_type_comes_back(storage: FileStorage, frame: Any) -> None:
    """All columns, with their types; also in parts, in other orders, in pieces and as series."""
    import polars as pl
    from polars.testing import assert_frame_equal, assert_series_equal

    found, info = trip(storage, frame)
    assert_frame_equal(frame, found)
    assert frame.schema == found.schema
    assert pl.__version__ == info.packages["polars"]
    # Each column of numbers without nulls is a buffer of its own.
    assert {160_000} <= {size for size, _ in info.buffers}
    for name in frame.columns:
        column = frame.select(pl.col(name))
        several = pl.concat([column, column[9:]], rechunk=False)
        for part in (column, column[:0], column[7:-9], column[::2], column[::-1], several):
            found, _ = trip(storage, part)
            assert_frame_equal(part, found)
            assert part.schema == found.schema
        for series in (column.to_series(), column.to_series().alias("")):
            found, info = trip(storage, series)
            assert_series_equal(series, found)
            is_big = series.estimated_size() > 16_384
            stored = (Path(storage.store.root) / "w" / "t").read_bytes()
            assert is_big == (b"polars_series" in stored)


def test_a_column_of_numbers_is_stored_in_place(storage: FileStorage) -> None:
    """Its memory is a buffer, beside which there is little; reading copies nothing."""
    pl = pytest.importorskip("polars")
    numbers = pl.DataFrame({"a": range(100_000), "b": [1.5] * 100_000})
    _, info = trip(storage, numbers)
    assert [800_000, 800_000] == [size for size, _ in info.buffers]
    assert info.pickle[0] < 1500
    source = arrow.Source([b"head", bytes(80), b"tail"])
    assert b"head" == source.read(4)
    whole = source.views[-1]
    assert source.read(80).obj is whole.obj
    assert (b"ta", b"il", b"") == (source.read(2), source.read(2), source.read(9))


def test_pieces_are_joined_where_arrow_asks_for_several() -> None:
    """A read may begin or end within a piece, and cross several."""
    source = arrow.Source([b"abc", b"", b"defg", b"h"])
    assert [b"ab", b"cdef", b"gh"] == [bytes(source.read(size)) for size in (2, 4, 9)]


def test_a_part_of_texts_is_stored_without_the_rest(storage: FileStorage) -> None:
    """The texts that a slice doesn't show aren't in its result."""
    pl = pytest.importorskip("polars")
    texts = pl.Series([f"text {number:06} of which many are" for number in range(100_000)])
    part = texts[60_000:70_000]
    found, info = trip(storage, part)
    assert part.to_list() == found.to_list()
    assert b"text 000001" not in (Path(storage.store.root) / "w" / "t").read_bytes()
    assert b"polars_series" in (Path(storage.store.root) / "w" / "t").read_bytes()
    assert info.size < 500_000


def test_what_arrow_can_t_hold_is_stored_as_polars_does(storage: FileStorage) -> None:
    """Frames without columns, small ones, and those with types that Arrow doesn't have."""
    pl = pytest.importorskip("polars")
    wide = pl.Series(range(20_000), dtype=pl.Int128)
    for value in (pl.DataFrame(), pl.DataFrame({"a": [1]}), pl.DataFrame({"a": wide}), wide):
        found, info = trip(storage, value)
        assert value.equals(found)
        assert [] == info.buffers


def test_many_small_chunks_are_stored_as_polars_does(storage: FileStorage) -> None:
    """Its own pickle joins them, which is quicker than a batch for each."""
    pl = pytest.importorskip("polars")
    chunk = pl.DataFrame({"a": range(1000)})
    many = pl.concat([chunk] * 100, rechunk=False)
    found, info = trip(storage, many)
    assert many.equals(found)
    assert [] == info.buffers
    large = pl.concat([pl.DataFrame({"a": range(10_000)})] * 3, rechunk=False)
    assert [80_000] * 3 == [size for size, _ in trip(storage, large)[1].buffers]


def test_what_polars_can_t_read_is_not_saved(storage: FileStorage) -> None:
    """Arrays of no width, at any depth. A name that only looks like it is no obstacle."""
    pl = pytest.importorskip("polars")
    empty = pl.Array(pl.Int64, 0)
    for kind in (empty, pl.List(empty), pl.Array(pl.Int64, (2, 0)), pl.Struct({"a": empty})):
        series = pl.Series([None] * 20_000, dtype=kind)
        for value in (series, series[:1], {"part": series.to_frame()}):
            with pytest.raises(UnpicklableResultError, match=r"result.* is a polars"):
                storage.save("w", "t", value)
    for kind in (pl.Array(pl.Int64, 10), pl.Struct({"shape=(0,)": pl.Int8})):
        series = pl.Series([None] * 20_000, dtype=kind)
        assert series.equals(trip(storage, series)[0])


def test_a_name_that_arrow_can_t_hold_is_stored_as_polars_does(storage: FileStorage) -> None:
    """Polars panics about a zero byte in a name, of a column or a field; that is no Exception."""
    pl = pytest.importorskip("polars")
    numbers = range(20_000)
    fields = pl.Series("fields", [{"a\0b": number} for number in numbers])
    for value in (pl.DataFrame({"a\0b": numbers}), fields, {"part": [fields.to_frame()]}):
        found, info = trip(storage, value)
        assert str(value) == str(found)
        assert [] == info.buffers


@pytest.mark.parametrize("allow", [[], ["library_values"]])
def test_a_panic_is_an_error(storage: FileStorage, allow: list[str]) -> None:
    """A library in Rust panics about damaged data, with a BaseException that nobody catches."""
    pytest.importorskip("polars")
    storage.save("w", "t", library_values.Panics())
    reading = trusting(storage, *allow) if allow else storage
    with pytest.raises(UnreadableResultError, match="failed to read its own data: of its own"):
        reading.read_task("w", "t")


def test_a_type_that_arrow_changes_is_stored_as_polars_does(
    storage: FileStorage, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever types polars has: a frame that would come back with others doesn't go by Arrow."""
    import polars as pl

    whole = frame.select("whole")
    monkeypatch.setattr(pl, "from_arrow", lambda _: whole[:0].cast(pl.Int32))
    found, info = trip(storage, whole)
    assert whole.equals(found)
    assert [] == info.buffers


def test_polars_without_pyarrow(
    storage: FileStorage, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores a frame in polars' own way; a frame that was stored by Arrow names the cure."""
    whole = frame.select("whole")
    storage.save("w", "arrow", whole)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found, info = trip(storage, whole)
    assert whole.equals(found)
    assert [] == info.buffers
    with pytest.raises(UnreadableResultError, match="pip install pyarrow"):
        storage.read_task("w", "arrow")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UnreadableResultError, match="pip install polars"):
        storage.read_task("w", "arrow")


# pyarrow.


def arrays() -> dict[str, Any]:
    """Return arrays of pyarrow of many types."""
    pa = pytest.importorskip("pyarrow")
    count = 4000
    numbers = range(count)
    ends = pa.array(range(1, count + 1), pa.int32())
    return {
        "numbers": pa.array(numbers),
        "texts": pa.array([f"text {number}" for number in numbers]),
        "dictionary": pa.array([f"text {number % 7}" for number in numbers]).dictionary_encode(),
        "ordered": pa.DictionaryArray.from_arrays(
            pa.array([0, 1] * (count // 2), pa.int8()), ["x", "y"], ordered=True
        ),
        "lists": pa.array([[number, None] for number in numbers]),
        "dictionaries": pa.array(
            [["a"], ["b"]] * (count // 2), pa.list_(pa.dictionary(pa.int8(), pa.string()))
        ),
        "structs": pa.array([{"a": number, "b": str(number)} for number in numbers]),
        "flags": pa.array([True, None] * (count // 2)),
        "maps": pa.array([[("k", number)] for number in numbers], pa.map_("string", "int64")),
        "runs": pa.RunEndEncodedArray.from_arrays(ends, pa.array(numbers)),
        "union": pa.UnionArray.from_sparse(pa.array([0] * count, "int8"), [pa.array(numbers)]),
        "nulls": pa.nulls(count),
    }


@pytest.mark.parametrize("name", sorted(arrays()) if find_spec("pyarrow") else [])
def test_a_part_of_arrow_data_is_stored_without_the_rest(storage: FileStorage, name: str) -> None:
    """Tables, batches and arrays of each type come back equal, and take the room of the part."""
    import pyarrow as pa

    whole = arrays()[name]
    part = whole.slice(50, 40)
    schema = pa.schema([pa.field("x", part.type, metadata={"of": "x"})], metadata={"k": "v"})
    batch = pa.RecordBatch.from_arrays([part], schema=schema)
    for value in (
        part,
        part.slice(0, 0),
        pa.chunked_array([part, part.slice(3), part.slice(0, 0)]),
        batch,
        batch.slice(0, 0),
        pa.Table.from_batches([batch, batch.slice(1, 3)]),
        pa.Table.from_batches([batch]).slice(0, 0),
    ):
        found, info = trip(storage, value)
        assert type(value) is type(found)
        found.validate(full=True)
        if isinstance(value, pa.Array | pa.ChunkedArray):
            assert value.type == found.type
            assert value.equals(found)
        else:
            assert value.equals(found, check_metadata=True)
        if name not in {"flags", "nulls", "union"}:  # these are small as a whole
            assert info.size < 6000
    found, info = trip(storage, whole)
    assert whole.equals(found)


def test_types_of_extensions_come_back(storage: FileStorage) -> None:
    """They are stored as pyarrow does, because another process may not know the type."""
    pa = pytest.importorskip("pyarrow")
    ids = pa.array([bytes(16)] * 4000, pa.uuid())
    for value in (ids.slice(5, 9), pa.table({"x": ids}).slice(5, 9)):
        found, info = trip(storage, value)
        assert value.equals(found)
        assert "pyarrow" in info.packages
        assert info.size > 64_000


def test_what_arrow_can_t_read_is_stored_as_pyarrow_does(storage: FileStorage) -> None:
    """A stream of a dictionary of dictionaries is not read, or loses one of them if it is empty."""
    pa = pytest.importorskip("pyarrow")
    inner = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), ["x", "y"])
    part = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 9000, pa.int8()), inner).slice(3, 8)
    for each in (part, part.slice(0, 0)):
        batch = pa.RecordBatch.from_arrays([each], names=["x"])
        struct = pa.StructArray.from_arrays([each], ["x"])
        for value in (each, pa.chunked_array([each, each]), batch, pa.table({"x": each}), struct):
            found, _ = trip(storage, value)
            assert value.equals(found)
            assert str(value) == str(found)  # with the type


def test_rows_without_columns_come_back(storage: FileStorage) -> None:
    """Their number; pyarrow's own pickle forgets it."""
    pa = pytest.importorskip("pyarrow")
    whole = pa.table({"x": range(5000)}, metadata={"k": "v"})
    for value in (whole.select([]), whole.to_batches()[0].select([])):
        found, _ = trip(storage, value)
        assert type(value) is type(found)
        assert (5000, 0) == found.shape
        assert value.schema.equals(found.schema, check_metadata=True)


def test_an_old_pyarrow_is_named(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes values in its own way, and says what to upgrade when it meets ours."""
    pa = pytest.importorskip("pyarrow")
    part = library_values.part_of_table()
    storage.save("w", "new", part)
    monkeypatch.setattr(pa, "__version__", "16.1.0")
    with pytest.raises(UnreadableResultError, match=r'--upgrade "pyarrow>=17"'):
        storage.read_task("w", "new")
    found, info = trip(storage, part)
    assert part.equals(found)
    assert info.size > 100_000


@pytest.mark.parametrize("version", ["v17", "24.0.0.dev1+abc", "main"])
def test_a_version_of_pyarrow_may_be_odd(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A build of one's own counts as new, unless its first number says otherwise."""
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr(pa, "__version__", version)
    found, info = trip(storage, library_values.part_of_table())
    assert library_values.part_of_table().equals(found)
    assert info.size < 6000


# xarray.


def test_a_part_of_xarray_is_stored_without_the_rest(storage: FileStorage) -> None:
    """A small view of a large array takes the room of the view."""
    xr = pytest.importorskip("xarray")
    import numpy as np

    whole = xr.DataArray(np.arange(200_000.0).reshape(200, 1000), dims=["x", "y"])
    for part in (whole[3], whole[:, 3], whole[5:7, ::2].to_dataset(name="a")):
        found, info = trip(storage, part)
        assert part.identical(found)
        assert info.size < 12_000


# Digests.


@pytest.mark.parametrize(
    ("name", "library"),
    [*((name, name) for name in ("polars", "pyarrow", "numpy", "pandas")), ("other", "xarray")],
)
def test_equal_values_have_equal_digests(tmp_path: Path, name: str, library: str) -> None:
    """In two processes, whose sets and dictionaries are in other orders."""
    pytest.importorskip(library)
    first = digests(tmp_path, name, seed=1)
    assert first
    assert first == digests(tmp_path, name, seed=2)


# Allow-lists.


def test_the_type_must_be_allowed(storage: FileStorage, frame: Any) -> None:
    """Our functions are no way round an allow-list; an entry of the type is enough for them."""
    table, column = library_values.part_of_table(), frame["text"]
    kinds = {
        FRAME: frame,
        "polars.series.series.Series": column,
        "pyarrow.lib.Table": table,
        "pyarrow.lib.RecordBatch": table.to_batches()[0],
        "pyarrow.lib.ChunkedArray": table.column(0),
        "pyarrow.lib.Array": table.column(0).chunk(0),
    }
    for kind, value in kinds.items():
        storage.save("w", "t", value)
        for entry in (kind, kind.partition(".")[0]):
            assert value.equals(trusting(storage, entry).read_task("w", "t"))
        for others in (["functionfuse"], ["builtins"], list(kinds.keys() - {kind})):
            with pytest.raises(UntrustedResultError, match=kind):
                trusting(storage, *others).read_task("w", "t")


def test_only_data_of_polars_is_allowed_by_its_package(storage: FileStorage) -> None:
    """Small frames are read, too; queries and expressions are not, because they can hold code."""
    pl = pytest.importorskip("polars")
    allowed = trusting(storage, "polars")
    types = pl.Schema({"a": pl.Int64})
    for value in (pl.DataFrame({"a": [1]}), pl.Series([1]), pl.Enum(["a"]), [pl.Int64], types):
        storage.save("w", "t", value)
        assert str(value) == str(allowed.read_task("w", "t"))
    for value in (pl.col("a") + 1, pl.Config):
        storage.save("w", "t", value)
        with pytest.raises(UntrustedResultError, match="needs an entry of its own"):
            allowed.read_task("w", "t")


def stream_of(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


@pytest.fixture
def planted(tmp_path: Path) -> Any:
    """Return a function that reads a hostile result: a call of one of our functions."""

    def read(name: str, *arguments: Any, allow: tuple[str, ...] = ("polars", "pyarrow")) -> Any:
        called = b"c" + f"{values.__name__}\n{name}\n".encode()
        called += pickle.dumps(arguments, 3)[2:-1] + b"R."
        (tmp_path / "w").mkdir(exist_ok=True)
        (tmp_path / "w" / "t").write_bytes(of_pickle(b"\x80\x05" + called))
        return FileStorage(tmp_path, trust={"allow": list(allow)}).read_task("w", "t")

    return read


def test_hostile_arrow_data_are_refused(planted: Any) -> None:
    """What Arrow would use unseen: offsets beyond the data, types that run code, wrong lengths."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    whole = stream_of(pa.table({"a": ["abc", "defg"] * 20}))
    offsets = whole.find(b"\0\0\0\0\3\0\0\0\7\0\0\0")
    assert offsets > 0
    beyond = whole[: offsets + 4] + b"\0\0\0\x0f" + whole[offsets + 8 :]
    ids = stream_of(pa.table({"a": pa.array([bytes(16)], pa.uuid())}))
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 20, pa.int8()), ["x", "y"])
    codes = stream_of(pa.table({"a": codes}))
    at = codes.rfind(b"\0\1" * 20)
    coded = codes[:at] + b"\x63" + codes[at + 1 :]
    for stream in (beyond, ids, coded, whole[:-90], b"", b"no stream"):
        for name in ("pyarrow_table", "pyarrow_chunked_array", "pyarrow_array"):
            with pytest.raises(DamagedResultError, match="Arrow data"):
                planted(name, [stream])
        for name in ("polars_frame", "polars_series"):
            with pytest.raises(DamagedResultError, match="Arrow data"):
                planted(name, [[stream]])
    short, long = stream_of(pa.table({"a": [1]})), stream_of(pa.table({"b": [1, 2]}))
    for name, *arguments in (
        ("polars_frame", [[short], [long]]),
        ("polars_frame", [[short], [short]]),
        ("polars_frame", None),
        ("polars_frame", [[short]], False),
        ("polars_series", []),
        ("pyarrow_table", [1]),
        ("pyarrow_table", None),
        ("pyarrow_array", [stream_of(pa.table({}))]),
    ):
        with pytest.raises(UnreadableResultError):
            planted(name, *arguments)
    assert 1 == planted("polars_frame", [[short]]).height


def test_checked_data_are_a_copy() -> None:
    """Another part of a hostile result can't change them after they are checked."""
    pytest.importorskip("pyarrow")
    memory = bytearray(stream_of(library_values.part_of_table()))
    table = values.READERS["pyarrow_table"].checked([memory])
    memory[:] = bytes(len(memory))
    table.validate(full=True)
    assert library_values.part_of_table().equals(table)


def test_an_unknown_function_of_ours_names_the_cure(planted: Any) -> None:
    """A result of a later release says what to upgrade, under each `trust`; none is reached."""
    for name in ("later_frame", "_library", "import_module", "READERS.clear"):
        with pytest.raises(UnreadableResultError, match="pip install --upgrade functionfuse-core"):
            planted(name, "antigravity")
    assert "antigravity" not in sys.modules
