"""A result's bytes: what comes back, what is copied, what a digest tells."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import fractions
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_bytes import MemoryStore, header_of

from functionfuse.errors import UnpicklableResultError
from functionfuse.storage import Storage, header, named, pickling, resultfile
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.pickling import Pickled
from functionfuse.storage.signing import Key

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
MIB = 1 << 20
SIZES = sorted(
    {0, 1, 2, 63, 64, 65, 255, 256}
    | {limit + more for limit in (1024, 4096, 65536, MIB) for more in (-1, 0, 1)}
)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def blob(storage: FileStorage) -> Path:
    return Path(storage.path) / "w" / "t"


def there_and_back(storage: Storage, value: Any) -> Any:
    storage.save("w", "t", value)
    return storage.read_task("w", "t")


# What comes back.


def test_nested_arrays_and_frames(storage: FileStorage) -> None:
    """Arrays and frames at any depth, each above and below the limit of out-of-band buffers."""
    value = {
        "list": [np.arange(size) for size in (0, 1, 127, 128, 129, 5000)],
        "deep": ({"x": [(np.eye(40),)]},),
        "frames": [pd.DataFrame({"a": range(size), "b": "text"}) for size in (0, 1, 1000)],
        "series": pd.Series(np.arange(300.0), name="s"),
        "index": pd.MultiIndex.from_product([range(30), ["x", "y"]]),
    }
    read = there_and_back(storage, value)
    for expected, actual in zip(value["list"], read["list"], strict=True):
        np.testing.assert_array_equal(expected, actual)
    np.testing.assert_array_equal(np.eye(40), read["deep"][0]["x"][0][0])
    for expected, actual in zip(value["frames"], read["frames"], strict=True):
        pd.testing.assert_frame_equal(expected, actual)
    pd.testing.assert_series_equal(value["series"], read["series"])
    pd.testing.assert_index_equal(value["index"], read["index"])


def test_a_shared_array_is_stored_once_and_comes_back_as_one(storage: FileStorage) -> None:
    """Parts of a result that share an array share one copy on disk, and one after reading."""
    array = np.arange(MIB // 8)
    holder = dataclasses.make_dataclass  # a function, stored by name beside them
    read = there_and_back(storage, {"a": array, "b": [array, (array,)], "f": holder})
    assert MIB < blob(storage).stat().st_size < MIB + 5000
    assert [MIB] == [size for size, _ in storage.task_info("w", "t").buffers]
    assert read["a"] is read["b"][0] is read["b"][1][0]
    read["a"][0] = -1
    assert -1 == read["b"][0][0]


@pytest.mark.parametrize("count", [30, 300_000])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda a: a.reshape(2, -1), id="C"),
        pytest.param(lambda a: np.asfortranarray(a.reshape(2, -1)), id="Fortran"),
        pytest.param(lambda a: a.reshape(2, -1).T, id="transposed"),
        pytest.param(lambda a: a[::3], id="strided"),
        pytest.param(lambda a: a[::-1], id="reversed"),
        pytest.param(lambda a: np.broadcast_to(a, (2, len(a))), id="broadcast"),
        pytest.param(lambda a: a[:0].reshape(0, 3), id="no element"),
        pytest.param(lambda a: a.astype(">i4"), id="big-endian"),
        pytest.param(lambda a: a.astype("M8[ms]"), id="times"),
        pytest.param(lambda a: a.astype("m8[s]"), id="durations"),
        pytest.param(lambda a: a.astype("S7"), id="bytes"),
        pytest.param(lambda a: a.astype("U7"), id="text"),
        pytest.param(lambda a: (a % 100).astype("f2"), id="half"),
        pytest.param(lambda a: a.astype("c16"), id="complex"),
        pytest.param(lambda a: a.astype(bool), id="bool"),
        pytest.param(lambda a: a[:200].astype(object), id="objects"),
        pytest.param(lambda a: np.rec.fromarrays([a, a * 2.0], names="x,y"), id="records"),
        pytest.param(lambda a: a[:1].reshape(()), id="no dimension"),
    ],
)
def test_arrays(storage: FileStorage, count: int, make: Any) -> None:
    """Each comes back with its type, shape, order and elements, and can be written."""
    array = make(np.arange(count))
    read = there_and_back(storage, array)
    assert (array.dtype, array.shape, type(array)) == (read.dtype, read.shape, type(read))
    assert array.flags.fnc == read.flags.fnc
    np.testing.assert_array_equal(array, read)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        assert array.flags.writeable == read.flags.writeable


@pytest.mark.parametrize("count", [10, 1000, 300_000])
def test_a_read_only_array_stays_so_and_a_masked_one_masked(
    storage: FileStorage, count: int
) -> None:
    """Writability is part of an array; so is a mask."""
    frozen = np.arange(count)
    frozen.flags.writeable = False
    masked = np.ma.array(np.arange(count), mask=np.arange(count) % 2 == 0, fill_value=7)
    read = there_and_back(storage, [frozen, masked])
    # What lies in the pickle itself belongs to numpy, which does not keep the flag.
    assert read[0].flags.writeable == (frozen.nbytes < pickling.OUT_OF_BAND_FROM and _unkept())
    np.testing.assert_array_equal(masked.mask, read[1].mask)
    np.testing.assert_array_equal(masked.filled(), read[1].filled())


def _unkept() -> bool:
    import pickle

    frozen = np.arange(3)
    frozen.flags.writeable = False
    return bool(pickle.loads(pickle.dumps(frozen, 5)).flags.writeable)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_every_limit(storage: FileStorage, size: int) -> None:
    """Bytes of every kind and of every size around a limit of pickle, format or store."""
    data = os.urandom(size)
    for value in (data, bytearray(data), np.frombuffer(data, "u1"), data.hex()[:size]):
        read = there_and_back(storage, [value, 1])
        assert type(value) is type(read[0])
        assert len(value) == len(read[0])
        assert memoryview(value) == read[0] if isinstance(value, np.ndarray) else value == read[0]
        assert 1 == read[1]
        assert blob(storage).stat().st_size == storage.task_info("w", "t").size


class Color(enum.Enum):
    RED = 1


class Table(dict[str, int]):
    """A dict with an attribute."""

    title = ""


class Slots:
    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x, self.y = 1, np.arange(400)


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024  # this kind, too


@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    rows: list[int]


class Images(np.ndarray[Any, Any]):
    """A subclass of an array."""


def test_objects_of_classes(storage: FileStorage) -> None:
    """Subclasses of builtins, slots, enums, dataclasses, exceptions: as pickle has them."""
    table = Table(a=1)
    table.title = "t"
    value = [table, Color.RED, Pair(1, 2), Record("r", [1]), fractions.Fraction(1, 3), len, dt.date]
    value += [collections.OrderedDict(a=1), collections.Counter("aab"), PurePosixPath("a/b"), ...]
    read = there_and_back(storage, value)
    assert value == read
    assert "t" == read[0].title
    assert [type(part) for part in value] == [type(part) for part in read]
    slots = there_and_back(storage, Slots())
    assert (1, 399) == (slots.x, slots.y[-1])
    images = there_and_back(storage, np.arange(500).view(Images))
    assert isinstance(images, Images)
    error = there_and_back(storage, ValueError("a", 1))
    assert ("a", 1) == error.args


def test_recursive_structures(storage: FileStorage) -> None:
    """A value that contains itself comes back such."""
    value: dict[str, Any] = {"list": []}
    value["list"].append(value)
    value["self"] = value
    read = there_and_back(storage, value)
    assert read["list"][0] is read is read["self"]


def test_too_deep_nesting_is_an_error_of_ours(storage: FileStorage) -> None:
    """What pickle can't follow leaves the earlier result, and nothing else."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    storage.save("w", "t", "earlier")
    with pytest.raises(UnpicklableResultError, match=r"result\[0\]\[0\].*recursion"):
        storage.save("w", "t", value)
    assert "earlier" == storage.read_task("w", "t")
    while value:
        value = value.pop()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=30,
)


@pytest.mark.battery
@settings(max_examples=2000 if FULL else 30, deadline=None)
@given(plain)
def test_any_plain_value(value: Any) -> None:
    """Whatever is built of Python's own types comes back equal, with a sound file."""
    store = MemoryStore()
    storage = Storage(store)
    info = storage.save("w", "t", value)
    assert value == storage.read_task("w", "t")
    assert info == storage.task_info("w", "t")
    assert [""] == [record.problem for record in storage.verify()]
    assert header_of(store.blobs["w/t"][0])["token"] == info.token


def test_many_thousands_of_buffers(storage: FileStorage) -> None:
    """The header grows with them, and is still read at one go by `task_info`."""
    value = [np.full(130, number) for number in range(20_000)]
    info = storage.save("w", "t", value)
    assert 20_000 == len(storage.task_info("w", "t").buffers)
    assert info == storage.task_info("w", "t")
    np.testing.assert_array_equal(value, storage.read_task("w", "t"))


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) << 10
    return 0


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory with room for a result of more than 4 GiB; else the test is skipped."""
    folder = Path("/dev/shm")
    if not FULL or not folder.is_dir():
        pytest.skip("in the full battery only, and where there is a memory file system")
    if min(_free_memory(), shutil.disk_usage(folder).free) < 16 << 30:
        pytest.skip("16 GiB of memory are not free")
    folder = folder / f"functionfuse-{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.battery
def test_objects_over_4_gib(memory_folder: Path) -> None:
    """Sizes beyond 32 bits, in a buffer and in the pickle itself."""
    storage = FileStorage(memory_folder)
    count = (4 << 30) + 4097
    for value in (np.zeros(count, "u1"), bytes(count)):
        info = storage.save("w", "t", [value, "end"])
        del value
        assert info.size > count
        read = storage.read_task("w", "t")
        assert (count, "end", 0) == (len(read[0]), read[1], read[0][-1])
        del read
        storage.remove_task("w", "t")


# What is copied, and what is not.


def test_no_joined_copy_is_made(storage: FileStorage) -> None:
    """Beyond the value itself, saving takes little: the parts are the array's own memory."""
    array = np.ones(8 * MIB)
    storage.save("w", "t", 0)
    tracemalloc.start()
    try:
        storage.save("w", "t", {"array": array, "view": array[: MIB // 2]})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"peak while saving {array.nbytes >> 20} MiB: {peak / array.nbytes:.2%} of them")
    assert peak <= 0.05 * array.nbytes
    parts, _ = resultfile.pack(pickling.dumps([array]), "w", "t")
    (part,) = [part for part in parts if len(part) == array.nbytes]
    assert np.shares_memory(np.frombuffer(part, "f8"), array)


@pytest.mark.parametrize("options", [{}, {"key": "secret"}])
def test_a_big_result_is_digested_while_it_is_written(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `save` tells is in the header; a store that takes parts in order gets the same bytes."""
    value = {"a": np.arange(3 * MIB), "b": np.arange(5.0), "c": [np.ones(200), b"x" * 70000]}
    storage = FileStorage(tmp_path / "store", **options)
    info = storage.save("w", "t", value)
    assert info == storage.task_info("w", "t")
    assert [24 * MIB, 1600] == [size for size, _ in info.buffers]
    assert [""] == [record.problem for record in storage.verify()]
    np.testing.assert_array_equal(value["a"], storage.read_task("w", "t")["a"])

    pickled = pickling.dumps(value)
    parts, _ = resultfile.pack(pickled, "w", "t", key=Key("secret"))
    assert isinstance(parts, resultfile.DigestedAside)
    found, contents = resultfile.check(b"".join(parts), Key("secret"))
    assert parts.info() == found
    assert [b"".join(pickled.frames), *pickled.views] == contents
    assert info.digest == found.digest
    monkeypatch.setattr(resultfile, "_DIGESTED_ASIDE_FROM", 1 << 40)
    assert info.digest == resultfile.pack(pickled, "w", "t")[1].digest


def test_a_pickle_from_elsewhere_is_packed() -> None:
    """Whoever has bytes can pack them; the names in them and the origin may be left out."""
    side = header.SideData("grid", "", (("f", 1, "0" * 32),))
    parts, info = resultfile.pack(Pickled([b"N."], [], False), "w", "t", side_data=[side])
    assert (info, [b"N."]) == resultfile.check(b"".join(parts))
    assert (side,) == info.side_data
    assert ("", None, {}) == (info.function, info.seconds, info.fingerprint)
    parts, info = resultfile.pack(Pickled([b"N."], [], False), "w", "t", function="f", seconds=2.0)
    assert ("f", 2.0) == (info.function, info.seconds)


def test_reading_copies_no_large_array(storage: FileStorage) -> None:
    """A large array that was read is a view of the file's own memory map."""
    storage.save("w", "t", np.ones(2 * MIB))
    tracemalloc.start()
    try:
        read = storage.read_task("w", "t")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not read.flags.owndata
    assert peak <= MIB


@pytest.mark.parametrize("count", [200, 5000, 500_000, 2 * MIB])
def test_writing_into_what_was_read_never_alters_the_store(
    storage: FileStorage, count: int
) -> None:
    """Below and above the size from which files are mapped."""
    storage.save("w", "t", {"a": np.arange(count), "b": bytearray(count)})
    before = blob(storage).read_bytes()
    read = storage.read_task("w", "t")
    read["a"][...] = -1
    read["b"][:] = b"x" * count
    assert before == blob(storage).read_bytes()
    np.testing.assert_array_equal(np.arange(count), storage.read_task("w", "t")["a"])


def test_what_was_read_outlives_its_file(storage: FileStorage) -> None:
    """A value that was read stays whole when its task is overwritten or removed."""
    storage.save("w", "t", np.arange(500_000))
    first = storage.read_task("w", "t")
    storage.save("w", "t", np.zeros(500_000))
    second = storage.read_task("w", "t")
    storage.remove_task("w", "t")
    np.testing.assert_array_equal(np.arange(500_000), first)
    np.testing.assert_array_equal(np.zeros(500_000), second)


def test_buffers_are_aligned_and_gaps_are_zero(storage: FileStorage) -> None:
    """Each buffer begins at a multiple of 64 bytes in the file, so in a map of it, too."""
    storage.save("w", "t", [np.full(count, 1, "u1") for count in (1024, 1025, 2047, 4001)])
    data = blob(storage).read_bytes()
    for array in storage.read_task("w", "t"):
        place = data.index(array.tobytes())
        assert 0 == place % 64
        assert bytes(place % 64) == data[place - place % 64 : place]
    large = [np.full(count, 1, "u1") for count in (16 * MIB + 1, 3000)]
    for array in there_and_back(storage, large):
        assert 0 == array.ctypes.data % 64


# Digests.


def test_a_digest_tells_whether_a_value_is_equal(storage: FileStorage) -> None:
    """Equal values have equal digests, other values other ones; names and time play no part."""

    def digest(value: Any, **details: Any) -> str:
        return storage.save("w", "t", value, **details).digest

    def arrays(last: int) -> list[Any]:
        return [np.arange(1000), np.append(np.arange(999), last)]

    values = [0, 1, 1.0, True, "1", b"1", [1], (1,), {"a": 1}, None, arrays(1), arrays(2)]
    digests = [digest(value) for value in values]
    assert len(values) == len(set(digests))
    assert digests == [digest(value, function="f", seconds=1.0) for value in values]
    assert storage.save("other", "name", arrays(2)).digest == digests[-1]
    assert digest(arrays(1)[::-1]) != digests[-2]
    assert digest(np.arange(1000.0).reshape(10, 100)) != digest(np.arange(1000.0).reshape(100, 10))


def test_the_packages_are_those_that_the_pickle_names(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By version; nothing is made of bytes that only look like names, and no warning is raised."""
    info = storage.save("w", "t", {"frame": pd.DataFrame({"a": range(1000)}), "f": fractions})
    assert {"numpy": np.__version__, "pandas": pd.__version__}.items() <= info.packages.items()
    for noise in (b"\x94\x93", b"\x94\x8c", b"\x8c\x05numpy\x94\x8c\x01x\x94\x93"):
        found = named.versions_of(named.names_in([noise * 200_000]).names)
        assert found in ({}, {"numpy": np.__version__})

    def warn(name: str) -> Any:
        raise DeprecationWarning(name)

    monkeypatch.delattr(fractions, "__version__", raising=False)
    monkeypatch.setattr(fractions, "__getattr__", warn, raising=False)
    assert "fractions" not in storage.save("w", "t", fractions.Fraction(1, 2)).packages
