"""What earlier releases wrote, in `golden/`: it is read for ever. See `golden/write.py`."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from result_bytes import FORMAT, documented_reader, header_of, rest_of, sealed, section_digest
from xxhash import xxh3_128_hexdigest

from functionfuse.errors import (
    DamagedResultError,
    NewerFormatError,
    SerializerMissingError,
    UnreadableResultError,
    UntrustedResultError,
)
from functionfuse.storage.filestorage import FileStorage

GOLDEN = Path(__file__).parent / "golden"
V1, V2 = GOLDEN / "v1", GOLDEN / "v2"
FILES = sorted(
    path
    for store in (V1, V2)
    for path in store.rglob("*")
    if path.is_file() and path.name[0] != "." and ".data" not in path.parts
)
BARE = [path for path in FILES if not path.name.startswith(("side data", "by value"))]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    """The script that wrote the files, and that knows what must come out."""
    spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def storage(golden: ModuleType) -> FileStorage:
    storage = FileStorage(V1 / "store")
    storage.register_persistent_serializers(golden.GridSerializer)
    return storage


def assert_same(expected: Any, actual: Any) -> None:
    """Compare arrays by all that they are: type, order, writability, elements."""
    assert type(expected) is type(actual)
    if isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            assert_same(value, actual[name])
    elif isinstance(expected, np.ndarray):
        assert expected.dtype == actual.dtype
        assert expected.shape == actual.shape
        assert expected.flags.fnc == actual.flags.fnc
        assert expected.flags.writeable == actual.flags.writeable
        np.testing.assert_array_equal(expected, actual)
    else:
        assert expected == actual


def test_every_kind_of_file_is_there() -> None:
    """A test that finds no files would pass by testing nothing."""
    assert 28 == len([path for path in V1.rglob("*") if path.is_file()])
    assert 5 == len([path for path in V2.rglob("*") if path.is_file()])


def test_plain_values(golden: ModuleType, storage: FileStorage) -> None:
    """Numbers, texts, containers, as Python has them."""
    assert_same(golden.plain(), storage.read_task("values", "plain"))


def test_numpy_arrays(golden: ModuleType, storage: FileStorage) -> None:
    """Each of its type, order and writability; also structured, masked, without elements."""
    read = storage.read_task("values", "numpy")
    expected = golden.numpy_arrays()
    np.testing.assert_array_equal(expected.pop("masked").mask, read.pop("masked").mask)
    assert_same(expected, read)


def test_a_frame(golden: ModuleType, storage: FileStorage) -> None:
    """Columns of five types."""
    # Where pyarrow is installed, pandas keeps new texts in its memory.
    with pd.option_context("mode.string_storage", "python"):
        expected = golden.frame()
    pd.testing.assert_frame_equal(expected, storage.read_task("values", "frame"))


def test_a_file(storage: FileStorage) -> None:
    """A `File` has its name and content again."""
    read = storage.read_task("values", "side data of a file")
    assert ["note.txt", "note.txt"] == [file.name for file in read]
    assert ["kept", "kept"] == [Path(file).read_text() for file in read]


def test_values_of_polars(golden: ModuleType, storage: FileStorage) -> None:
    """Frames and series by Arrow, and a small frame in polars' own way."""
    testing = pytest.importorskip("polars.testing")
    expected, found = golden.of_polars(), storage.read_task("libraries", "polars")
    assert expected.keys() == found.keys()
    for name in "frame", "small":
        testing.assert_frame_equal(expected[name], found[name])
    testing.assert_series_equal(expected["series"], found["series"])


def test_values_of_pyarrow(golden: ModuleType, storage: FileStorage) -> None:
    """Parts of tables, batches and arrays."""
    pytest.importorskip("pyarrow")
    expected, found = golden.of_pyarrow(), storage.read_task("libraries", "pyarrow")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert type(value) is type(found[name])
        assert value.equals(found[name])
    assert expected["table"].schema.equals(found["table"].schema, check_metadata=True)


def test_values_of_torch(golden: ModuleType, storage: FileStorage) -> None:
    """Tensors, one memory of two of them, and a storage."""
    torch = pytest.importorskip("torch")
    expected, found = golden.of_torch(), storage.read_task("libraries", "torch")
    assert expected.keys() == found.keys()
    assert expected.pop("storage").tolist() == found.pop("storage").tolist()
    for name, value in expected.items():
        assert (type(value), value.dtype) == (type(found[name]), found[name].dtype)
        assert value.stride() == found[name].stride()
        assert torch.equal(value, found[name])
    assert found["base"].untyped_storage() is found["shared"].untyped_storage()


def test_shared_arrays(golden: ModuleType, storage: FileStorage) -> None:
    """One array in three places is one array in three places."""
    read = storage.read_task("values", "shared")
    assert_same(golden.shared()["view"], read["view"])
    assert_same(golden.shared()["first"], read["first"])
    assert read["first"] is read["again"][0] is read["again"][1]
    assert 1 == sum(size == 4000 for size, _ in storage.task_info("values", "shared").buffers)


def test_side_data(golden: ModuleType, storage: FileStorage) -> None:
    """A serializer's object is read by the serializer, and nothing else."""
    read = storage.read_task("values", "side data")
    assert ([[1, 2], [3, 4]], 1) == (read["grid"].rows, read["n"])
    assert isinstance(read["grid"], golden.Grid)
    with pytest.raises(SerializerMissingError, match=r"'golden grid' from golden-grids 1\.0"):
        FileStorage(V1 / "store").read_task("values", "side data")


def test_side_data_with_its_type(golden: ModuleType, storage: FileStorage) -> None:
    """The header names what the serializer claims."""
    (grid,) = storage.read_task("values", "side data with its type")
    assert ([[1], [2], [3]], golden.Grid) == (grid.rows, type(grid))
    (side,) = storage.task_info("values", "side data with its type").side_data
    assert ("golden.Grid", "golden grid") == (side.type, side.serializer)


def test_what_a_value_refers_to(golden: ModuleType, storage: FileStorage) -> None:
    """A header's last fields; files of earlier versions lack them, and refer to nothing."""
    own, value = golden.described(None, None)
    info = storage.task_info("values", "described")
    assert (tuple(own), value) == (info.own, info.value)
    assert frozenset({1, 2}) == storage.read_task("values", "described")
    assert 16 == len(info.key)
    described, earlier = storage.task_infos("values", ["described", "plain"])
    assert (value, info.key) == (described.value, described.key)  # type: ignore[union-attr]
    assert (earlier.digest, "") == (earlier.value, earlier.key)  # type: ignore[union-attr]
    plain = storage.task_info("values", "plain")
    assert ((), "", "") == (plain.own, plain.value, plain.key)


def test_code_by_value(storage: FileStorage) -> None:
    """A function by value comes back on the Python that wrote it, and is refused on others."""
    names = storage.list_tasks("values", "by value*")
    assert names
    for name in names:
        if name == f"by value, Python {PYTHON}":
            assert 42 == storage.read_task("values", name)(21)
        else:
            with pytest.raises(UnreadableResultError, match=r"by value, written by Python 3\."):
                storage.read_task("values", name)


def test_names(golden: ModuleType, storage: FileStorage) -> None:
    """Hostile and long names are found under the same keys as ever."""
    names = sorted([*golden.HOSTILE, golden.LONG])
    assert names == storage.list_tasks("names")
    assert names == [storage.read_task("names", name) for name in names]
    assert "dots" == storage.read_task("../names", ".")
    assert ["../names", "libraries", "names", "values"] == storage.list_workflows()


def test_signatures(golden: ModuleType) -> None:
    """A signature made then is right now, and only with its key."""
    expected = golden.numpy_arrays()["c"]
    signed = FileStorage(V1 / "signed", key=golden.KEY)
    assert_same(expected, signed.read_task("values", "signed"))
    assert_same(expected, FileStorage(V1 / "signed").read_task("values", "signed"))
    with pytest.raises(UntrustedResultError, match="another key"):
        FileStorage(V1 / "signed", key="another").read_task("values", "signed")
    with pytest.raises(UntrustedResultError, match="not signed"):
        FileStorage(V1 / "store", key=golden.KEY).read_task("values", "plain")


def test_what_version_2_covers(golden: ModuleType) -> None:
    """SHA-256 digests, also of side data; read with the key, without it, but with no other."""
    for key in (golden.KEY, None):
        signed = FileStorage(V2 / "signed", **({"key": key} if key else {}))
        signed.register_persistent_serializers(golden.GridSerializer)
        assert_same(golden.plain(), signed.read_task("values", "plain"))
        assert_same(golden.numpy_arrays()["c"], signed.read_task("values", "array"))
        assert [[1, 2], [3, 4]] == signed.read_task("values", "side data")["grid"].rows
    with pytest.raises(UntrustedResultError, match="another key"):
        FileStorage(V2 / "signed", key="another").read_task("values", "plain")
    for name in golden.SIGNED:
        data = (V2 / "signed" / "values" / name).read_bytes()
        header = header_of(data)
        assert 2 == data[8]
        assert section_digest(rest_of(data)[: header["pickle"][0]]) == header["pickle"][1]
        for _, _, files, *_ in header["side_data"]:
            for file, size, digest in files:
                beside = (V2 / "signed" / "values" / ".data" / file).read_bytes()
                assert (size, digest) == (len(beside), sha256(beside).hexdigest())


def test_every_byte_is_sound(golden: ModuleType, storage: FileStorage) -> None:
    """`verify` finds nothing wrong, and the headers tell what the files are."""
    signed = [FileStorage(store / "signed", key=golden.KEY) for store in (V1, V2)]
    found = [*storage.verify(), *signed[0].verify(), *signed[1].verify()]
    assert len(FILES) == len(found)
    assert {""} == {record.problem for record in found}
    info = storage.task_info("values", "side data")
    assert ("golden.write", 0.25, "golden") == (info.function, info.seconds, info.host)
    assert {"code": "0" * 32, "inputs": {}} == info.fingerprint
    assert ("golden grid", "golden-grids 1.0") == (
        info.side_data[0].serializer,
        info.side_data[0].distribution,
    )


@pytest.mark.parametrize("path", BARE, ids=lambda path: path.name[:40])
def test_the_documented_reader_agrees(path: Path, storage: FileStorage) -> None:
    """The reader in `docs/format.md` accepts the files, and reads what the storage reads."""
    if not FORMAT.exists():
        pytest.skip("the documents are in the checkout only")
    if path.parent.name == "libraries":
        pytest.importorskip(path.name)
    header, value = documented_reader()(path)
    assert header_of(path.read_bytes()) == header
    root = FileStorage(path.parents[1])
    again = root.read_task(header["workflow"], header["task"])
    assert type(value) is type(again)
    if isinstance(value, str):
        assert value == again


def test_the_digest_of_a_value_is_as_documented() -> None:
    """The pickle's; or of all the digests in their order, where there is more than a pickle."""
    for path in FILES:
        header = header_of(path.read_bytes())
        if len(header["pickle"][1]) == 64:
            continue
        files = [digest for _, _, files, *_ in header["side_data"] for *_, digest in files]
        digests = [header["pickle"][1], *(digest for _, digest in header["buffers"]), *files]
        combined = xxh3_128_hexdigest("".join(digests).encode())
        assert header["digest"] == (combined if digests[1:] else digests[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:40])
def test_a_newer_format_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    """The same file with a higher version: an error that says what to upgrade."""
    data = path.read_bytes()
    header = header_of(data)
    copy = tmp_path / "store" / path.parent.name / path.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(sealed(header, rest_of(data), version=3))
    storage = FileStorage(tmp_path / "store")
    for read in (storage.read_task, storage.task_info):
        with pytest.raises(NewerFormatError, match=r"version 3.*to 2: upgrade functionfuse-core"):
            read(header["workflow"], header["task"])
    copy.write_bytes(sealed(header, rest_of(data), version=data[8]))
    assert header["token"] == storage.task_info(header["workflow"], header["task"]).token


def test_a_golden_file_elsewhere_is_damage(tmp_path: Path) -> None:
    """A file counts for the names in its header only."""
    shutil.copytree(V1 / "store" / "values", tmp_path / "other")
    with pytest.raises(DamagedResultError, match="'plain' of workflow 'values'"):
        FileStorage(tmp_path).read_task("other", "plain")


def test_the_script_writes_the_same_values_again(tmp_path: Path) -> None:
    """Where the versions are those of the golden files, so are pickle and buffers.

    The gaps between them follow the length of the header, which later releases add fields to.
    """
    subprocess.run([sys.executable, GOLDEN / "write.py", tmp_path], check=True)
    compared = 0
    for path in FILES:
        again = tmp_path / path.relative_to(GOLDEN)
        if path.is_relative_to(V1 / "signed"):
            continue  # such results have version 2 now
        if path.name.startswith("by value") and not path.name.endswith(f"Python {PYTHON}"):
            assert not again.exists()
            continue
        if path.parent.name == "libraries" and not find_spec(path.name):
            continue
        before, after = path.read_bytes(), again.read_bytes()
        old, new = header_of(before), header_of(after)
        if old["python"] == new["python"] and old["packages"] == new["packages"]:
            for name in ("pickle", "buffers", "digest"):
                assert old[name] == new[name]
            compared += 1
    print(f"{compared} of {len(FILES)} golden files could be compared")
