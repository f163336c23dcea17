"""Zarr groups: what was stored before, hostile ids, lost and signed objects, reads by shard."""

from __future__ import annotations

import copy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from functionfuse.errors import (
    DamagedResultError,
    ResultNotFoundError,
    UntrustedResultError,
)
from functionfuse.serializers import FILE_PROTOCOL
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.safefiles import SafeFiles
from functionfuse_dask import DaskArraySerializer

GOLDEN = Path(__file__).parent / "golden"
NUMBERS = np.arange(40 * 30.0).reshape(40, 30)


def of_golden() -> Iterator[tuple[str, da.Array]]:
    """Iterate over what was stored, by release 0.1.0 with zarr 3.1.6, with every compression."""
    masked = np.ma.masked_where(NUMBERS < 300, NUMBERS).astype("f4")
    irregular = ((3, 30, 0, 7), (29, 1))
    fields = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", ">f8")])
    yield "plain", da.from_array(NUMBERS, chunks=(20, 30))
    yield "shards", da.from_array(NUMBERS.astype(">f4"), chunks=(5, 7))
    yield "irregular", da.from_array(NUMBERS.astype("i2"), chunks=irregular)
    yield "masked", da.from_array(masked, chunks=(20, 30))
    yield "text", da.from_array(np.array(["a", "é☃", "", "x\0y"] * 6), chunks=1)
    yield "times", da.from_array(np.array(["2001-01-01", "2002-02-02"], "M8[s]"), chunks=1)
    yield "number", da.from_array(np.array(7, "u1"))
    yield "empty", da.zeros((0, 3), chunks=(1, 3), dtype="c8")
    yield "fields", da.from_array(fields, chunks=1)


def assert_same(expected: da.Array, actual: da.Array) -> None:
    """Compare all that a lazy array tells, and its elements."""
    assert (expected.chunks, expected.dtype) == (actual.chunks, actual.dtype)
    assert type(expected._meta) is type(actual._meta)
    one, two = expected.compute(), actual.compute()
    assert np.array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(two))
    assert np.array_equal(np.ma.getdata(one), np.ma.getdata(two))
    assert getattr(one, "fill_value", None) == getattr(two, "fill_value", None)


@pytest.mark.parametrize(("name", "array"), [*of_golden()], ids=[name for name, _ in of_golden()])
def test_what_was_stored_is_read(name: str, array: da.Array) -> None:
    """Groups of the first release; the names of the lazy arrays are the same in each read."""
    found = FileStorage(GOLDEN).read_task("w", name)
    assert_same(array, found)
    assert found.name == FileStorage(GOLDEN).read_task("w", name).name


CHUNKS = {
    "many small": (5, 7),
    "irregular": ((3, 30, 0, 7), (29, 1)),
    "one element": 1,
    "zero sizes": ((0, 40, 0), (0, 0, 30)),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("signed", [False, True], ids=["", "signed"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_each_block_is_the_old_one(tmp_path: Path, chunks: Any, signed: bool, masked: bool) -> None:
    """Whichever objects the blocks share; masks and fill values, too."""
    numbers = np.ma.masked_where(NUMBERS % 3 == 0, NUMBERS) if masked else NUMBERS
    array = da.from_array(numbers, chunks=chunks)
    protocols = files_of(tmp_path, signed=signed)
    found = stored(array, protocols)
    assert_same(array, found)
    for place in [(0, 0), (-1, -1), (1, -1)]:
        assert_same(array.blocks[place], found.blocks[place])


def files_of(path: Path, *, signed: bool = False) -> dict[str, Any]:
    store, prefix = FileStorage(path).store, "w/.data/"
    files = store.protocols(prefix)[FILE_PROTOCOL]
    return {FILE_PROTOCOL: SafeFiles(files, store, prefix, signed=signed)}


def written(array: da.Array, protocols: dict[str, Any]) -> dict[str, Any]:
    pid = DaskArraySerializer(format="zarr").pickle(array, protocols)[1]
    assert isinstance(pid, dict)
    return pid


def read(pid: Any, protocols: dict[str, Any]) -> da.Array:
    return DaskArraySerializer().unpickle(pid, protocols)


def stored(array: da.Array, protocols: dict[str, Any]) -> da.Array:
    return read(written(array, protocols), protocols)


def changed(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes one place of a pid."""

    def change(pid: Any) -> None:
        for step in path[:-1]:
            pid[step] = list(pid[step]) if isinstance(pid[step], tuple) else pid[step]
            pid = pid[step]
        pid[path[-1]] = to

    return change


DATA = ("arrays", "data")
SHARD = (*DATA, "codecs", 0, "configuration")
EVIL = {"name": "vlen-utf8"}
HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "format": changed("format", to="pickle"),
    "version": changed("version", to="1"),
    "name": changed("name", to=b"x"),
    "dtype of objects": changed("dtype", to="|O"),
    "dtype is no type": changed("dtype", to="no type"),
    "dtype in a dtype": changed("dtype", to=("<f8", (1 << 40,))),
    "a deep dtype": changed("dtype", to=[("a", [("b", [("c", "|O")])])]),
    "dtype is a number": changed("dtype", to=8),
    "chunks": changed("chunks", to=None),
    "chunk of text": changed("chunks", to=(("5",), (5,))),
    "chunk of a fraction": changed("chunks", to=((40.0,), (30,))),
    "chunk of a truth": changed("chunks", to=((True,), (30,))),
    "chunk below zero": changed("chunks", to=((-40, 80), (30,))),
    "no chunks": changed("chunks", to=((), (30,))),
    "a huge chunk": changed("chunks", to=((1 << 62,), (1 << 62,))),
    "a huge number": changed("chunks", to=((1 << 100,), (0,))),
    "other chunks": changed("chunks", to=((40,), (15, 15))),
    "too many chunks": changed("chunks", to=((1,) * 5000,) * 4),
    "too many axes": changed("chunks", to=((1,),) * 100),
    "fill value": changed("fill_value", to="x"),
    "a long fill value": changed("fill_value", to=b"x" * 9),
    "no arrays": changed("arrays", to={}),
    "another array": changed("arrays", "more", to={}),
    "arrays in a list": changed("arrays", to=["data"]),
    "format 2": changed(*DATA, "zarr_format", to=2),
    "a group": changed(*DATA, "node_type", to="group"),
    "shape": changed(*DATA, "shape", to=(41, 30)),
    "data type": changed(*DATA, "data_type", to="string"),
    "grid": changed(*DATA, "chunk_grid", to={"name": "rectilinear", "configuration": {}}),
    "shape of chunks": changed(*DATA, "chunk_grid", "configuration", "chunk_shape", to=(1, 1)),
    "names": changed(*DATA, "chunk_key_encoding", "name", to="v2"),
    "transformers": changed(*DATA, "storage_transformers", to=({"name": "x"},)),
    "no codecs": changed(*DATA, "codecs", to=()),
    "codecs": changed(*DATA, "codecs", to=(EVIL,)),
    "codec in a shard": changed(*SHARD, "codecs", 1, to=EVIL),
    "configuration in a shard": changed(*SHARD, "codecs", 0, "configuration", "more", to=1),
    "no checksum in a shard": changed(*SHARD, "codecs", 2, to=EVIL),
    "more codecs in a shard": changed(*SHARD, "codecs", to=[EVIL] * 4),
    "index of a shard": changed(*SHARD, "index_codecs", to=(EVIL,)),
    "place of the index": changed(*SHARD, "index_location", to="start"),
    "chunks of a shard": changed(*SHARD, "chunk_shape", to=(1, 1)),
    "more in a shard": changed(*SHARD, "more", to=1),
    "byte order": changed(*SHARD, "codecs", 0, to={"name": "bytes", "configuration": {}}),
    "metadata of another type": changed(*DATA, to=7),
    "an array for a number": changed(*DATA, "zarr_format", to=np.ones(2)),
}


def test_hostile_ids_are_damaged_results(tmp_path: Path) -> None:
    """Before zarr, a codec or much memory is used."""
    protocols = files_of(tmp_path)
    array = da.from_array(NUMBERS, chunks=(5, 7))
    serializer = DaskArraySerializer(format="zarr", compression="zstd")
    sound = serializer.pickle(array, protocols)[1]
    assert_same(array, read(sound, protocols))
    for name in list(sound):
        with pytest.raises(DamagedResultError):
            read({each: value for each, value in sound.items() if each != name}, protocols)
    for bare in ({}, {"version": True}, {"version": 1}, [], "x", None):
        with pytest.raises(DamagedResultError):
            read(bare, protocols)
    for text, change in HOSTILE.items():
        pid = copy.deepcopy(sound)
        change(pid)
        tracemalloc.start()
        try:
            with pytest.raises(DamagedResultError, match=r"form in which arrays|names no array"):
                pytest.fail(f"{text} was read: {read(pid, protocols)}")
            assert tracemalloc.get_traced_memory()[1] < 5 << 20, text
        finally:
            tracemalloc.stop()


def test_a_huge_array_of_small_objects_takes_no_memory(tmp_path: Path) -> None:
    """The bytes that are there are counted before those that a hostile id asks for."""
    protocols = files_of(tmp_path)
    pid = written(da.ones(10, chunks=10), protocols)
    size = 1 << 45
    data = pid["arrays"]["data"]
    data["shape"], data["chunk_grid"]["configuration"]["chunk_shape"] = (size,), (size,)
    pid["chunks"] = ((size,),)
    with pytest.raises(DamagedResultError, match="has 84 bytes"):
        read(pid, protocols).compute()


ELSEWHERE = """
import ctypes, os, subprocess, sys
import dask, dask.array as da, numpy as np
from functionfuse.storage.filestorage import FileStorage
from functionfuse_dask import DaskArraySerializer

how, here, there = sys.argv[1:]
main = os.getpid()

def move(block):
    if os.getpid() != main:  # in the worker that also writes the block
        if how == "mount":
            assert not ctypes.CDLL(None).unshare(0x20000)  # CLONE_NEWNS
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", here], check=True)
        else:
            os.chdir(there)
    return block

if __name__ == "__main__":
    os.chdir(here)
    os.symlink("/proc/self/cwd", "link")
    storage = FileStorage(here if how == "mount" else os.path.join(here, "link", "store"))
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    array = da.from_array(np.arange(30), 10)
    storage.save("w", "t", array)
    with dask.config.set(scheduler="processes", num_workers=1):
        try:
            storage.save("w", "t", array.map_blocks(move, meta=np.empty(0, int)) + 1)
        except OSError as error:
            print(type(error).__name__, error)
    print(storage.read_task("w", "t").sum().compute(scheduler="sync"), len(os.listdir(there)))
    print([record.problem for record in storage.verify()], len(storage.gc(-60)))
"""


def can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["folder", "mount"])
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="there is no /proc here")
def test_chunks_that_landed_elsewhere_are_found(how: str, tmp_path: Path) -> None:
    """Before the commit: the earlier result stays, and the error tells the cure."""
    if how == "mount" and not can_mount():
        pytest.skip("this user may not mount")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    program = tmp_path / "program.py"
    program.write_text(ELSEWHERE)
    command = [sys.executable, str(program), how, str(here), str(there)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    error, value, checked = done.stdout.splitlines() or [done.stderr, "", ""]
    assert "StoragePathError 3 of the 5 objects of a dask array are not in the storage" in error
    assert "Use a file system that they share, or a storage in S3" in error
    assert (f"435 {int(how == 'folder')}", "[''] 0") == (value, checked)


@pytest.fixture
def small_chunks() -> da.Array:
    """800 chunks of 64 KB, in shards of up to 16 MiB."""
    return da.arange(800 * 8000, chunks=8000, dtype="f8")


def test_many_small_chunks_are_read_by_shard(
    small_chunks: da.Array, request: pytest.FixtureRequest
) -> None:
    """At most 20 requests for 800 chunks; no byte twice, and little beside the data."""
    from s3_servers import BUCKET

    from functionfuse_s3 import S3FileStorage

    server = request.getfixturevalue("moto_server")
    storage = S3FileStorage(**server.options(f"{BUCKET}/{tuple(small_chunks.shape)}"))
    storage.save("w", "t", small_chunks)
    found = storage.read_task("w", "t")
    assert small_chunks.chunks == found.chunks
    sizes: list[int] = []

    def note(parsed: dict[str, Any], **_: Any) -> None:
        sizes.append(parsed.get("ContentLength", 0))

    events = storage.store.bucket.client.meta.events  # type: ignore[attr-defined]
    events.register("after-call.s3", note)
    request.addfinalizer(lambda: events.unregister("after-call.s3", note))  # others have it, too
    assert small_chunks.sum().compute() == found.sum().compute()
    assert len(sizes) <= 20
    assert small_chunks.nbytes <= sum(sizes) < 1.01 * small_chunks.nbytes


def test_shards_are_released_when_their_chunks_are(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum over 20 shards of 1 MiB holds one of them at a time, and what zarr copies of it."""
    from functionfuse_dask import zarrform

    monkeypatch.setattr(zarrform, "_SHARD", 1 << 20)
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    array = da.arange(320 << 13, chunks=1 << 13, dtype="f8")
    storage.save("w", "t", array)
    found = storage.read_task("w", "t")
    tracemalloc.start()
    with dask.config.set(scheduler="sync"):
        total = found.sum().compute()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.sum().compute() == total
    assert peak < array.nbytes / 2


def objects(tmp_path: Path) -> list[Path]:
    found = (tmp_path / "w" / ".data").glob("*.zarr/data/c/*")
    return sorted(path for path in found if path.is_file())


@pytest.mark.parametrize("signed", [False, True])
def test_a_signed_id_has_the_digest_of_each_object(tmp_path: Path, signed: bool) -> None:
    """In C order, by SHA-256; without a key, there are none."""
    import hashlib

    pid = written(da.arange(3000, chunks=1000), files_of(tmp_path, signed=signed))
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in objects(tmp_path)]
    assert ({"data": b"".join(digests)} if signed else None) == pid.get("digests")


def test_changed_objects_of_a_signed_array_are_found(tmp_path: Path) -> None:
    """At each read, before a codec sees them: other, swapped, cut, and missing ones."""
    protocols = files_of(tmp_path, signed=True)
    array = da.arange(3000, chunks=1000)
    found = stored(array, protocols)
    one, two, three = objects(tmp_path)
    assert array.sum().compute() == found.sum().compute()
    old, other = one.read_bytes(), two.read_bytes()
    one.write_bytes(other)
    two.write_bytes(old)  # each with its own, right CRC32C
    for data in (other, old[:-1], b""):
        one.write_bytes(data)
        for block in (0, 1):
            told = rf"block \({block},\) of array 'data' .* differs from the signed one"
            with pytest.raises(DamagedResultError, match=told):
                found.blocks[block].compute()
        assert 2999 == found[-1].compute()
    three.unlink()
    with pytest.raises(ResultNotFoundError, match="is gone"):
        found.blocks[2].compute()


def test_a_key_requires_digests(tmp_path: Path) -> None:
    """One for each object: what was stored without a key must be signed anew."""
    signed = files_of(tmp_path, signed=True)
    pid = written(da.arange(3000, chunks=1000), signed)
    digests = pid["digests"]["data"]
    assert_same(da.arange(3000, chunks=1000), read(pid, signed))
    for wrong in (
        None,
        {},
        {"data": digests[:-1]},
        {"data": digests + bytes(32)},
        {"data": digests.hex()},
        {"mask": digests},
        {"data": digests, "mask": digests},
        [digests],
    ):
        with pytest.raises(UntrustedResultError, match="stored without a key"):
            read(pid | {"digests": wrong}, signed)
    del pid["digests"]
    with pytest.raises(UntrustedResultError):
        read(pid, signed)
    assert 3000 == len(read(pid, files_of(tmp_path)).compute())


def test_every_storage_keeps_groups() -> None:
    """Of a store that has four methods and no files, too."""
    from result_bytes import MemoryStore

    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(DaskArraySerializer(format="zarr"))
    array = da.from_array(NUMBERS, chunks=(20, 30))
    storage.save("w", "t", array)
    assert_same(array, storage.read_task("w", "t"))
    assert [""] == [record.problem for record in storage.verify()]
    storage.remove_task("w", "t")
    assert ["w/.functionfuse"] == [blob.key for blob in storage.store.list("")]
