"""`Storage.copy` from files to S3, from S3 to files, and within S3: requests, pieces, memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import pytest
from copies import Tree, TreeSerializer, actions, infos, storage_of
from kept_values import Kept, KeptSerializer
from s3_proxy import Proxy, once
from s3_servers import BUCKET, PIECES, Server, counted

from functionfuse.errors import StorageConnectionError
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import Streamed
from functionfuse_s3 import S3FileStorage
from going_back import chain, computed, opened, problems, results, save, stored

MIB = 1 << 20
MANY = 20


def in_s3(server: Server, **options: Any) -> S3FileStorage:
    """Return an empty storage of the test's own."""
    storage = S3FileStorage(**server.options(f"{BUCKET}/copies/{uuid4()}", **options))
    storage.register_persistent_serializers(KeptSerializer, TreeSerializer)
    return storage


def made(where: str, server: Server, path: Path, **options: Any) -> Storage:
    return opened(path) if where == "files" else in_s3(server, **options)


@contextmanager
def asked(*storages: Storage) -> Iterator[Counter[str]]:
    """Count the requests to all of these storages; those to files are none."""
    total = Counter[str]()
    stores: list[Any] = [storage.store for storage in storages if storage.store.remote]
    clients = {id(store.bucket.client): store.bucket.client for store in stores}
    with ExitStack() as stack:
        counters = [stack.enter_context(counted(client)) for client in clients.values()]
        yield total
        for counter in counters:
            total.update(counter)


each_way = pytest.mark.parametrize(
    ("here", "there"), [("files", "S3"), ("S3", "files"), ("S3", "S3")]
)


@each_way
def test_a_workflow_is_copied(server: Server, tmp_path: Path, here: str, there: str) -> None:
    """Headers are equal, a run reuses all, also earlier results; the records are there."""
    source = made(here, server, tmp_path / "source")
    for number in (1, 2):
        chain(source, number).run()
    target = made(there, server, tmp_path / "target")
    assert ["copied"] * 10 == actions(source.copy("w", target, earlier=True, runs=True))
    assert list(infos(source)) == list(infos(target))
    assert [] == problems(target)
    for number in (2, 1):
        flow = chain(target, number)
        assert results(number)[-1] == flow.run()
        assert [] == computed(flow)
        assert results(number) == stored(target)
    assert {run.id for run in source.runs("w")} <= {run.id for run in target.runs("w")}


@each_way
def test_arrays_are_copied(server: Server, tmp_path: Path, here: str, there: str) -> None:
    """An array of dask, in the format of the source."""
    source = made(here, server, tmp_path / "source")
    numbers = np.random.default_rng(0).random((300, 40))
    source.save("w", "array", da.from_array(numbers, chunks=(30, 40)))
    target = made(there, server, tmp_path / "target")
    assert ["copied"] == actions(source.copy("w", target))
    assert [] == problems(target)
    assert np.array_equal(numbers, target.read_task("w", "array").compute())


@each_way
def test_requests(moto_server: Server, tmp_path: Path, here: str, there: str) -> None:
    """A read and a write for each new result; a few for those that are there already."""
    source = made(here, moto_server, tmp_path / "source", concurrency=8)
    for number in range(MANY):
        source.save("w", f"t{number}", number, replaces=None)
    target = made(there, moto_server, tmp_path / "target", concurrency=8)
    with asked(source, target) as sent:
        source.copy("w", target)
    expected = Counter[str]()
    if here == "S3":
        expected.update({"ListObjectsV2": 1, "GetObject": MANY})
    if there == "S3":
        # The place is tried, and the marker is put. One read and one write remember the headers for
        # later plans.
        expected.update({"ListObjectsV2": 1, "PutObject": 1 + MANY + 2, "GetObject": 1 + 1})
        expected.update({"DeleteObject": 1})
    assert expected == sent
    with asked(source, target) as sent:
        assert ["there already"] * MANY == actions(source.copy("w", target))
    expected = Counter()
    if here == "S3":  # headers are read, and remembered for the next time
        expected.update({"ListObjectsV2": 3, "GetObject": MANY + 1, "PutObject": 1})
    if there == "S3":
        expected.update({"ListObjectsV2": 1, "GetObject": 1})
    assert expected == sent
    with asked(source, target) as sent:
        source.copy("w", target)
    remote = [here, there].count("S3")
    lists = remote + (here == "S3")
    assert {"ListObjectsV2": lists, "GetObject": remote} == sent


@each_way
def test_side_data_and_big_results(server: Server, tmp_path: Path, here: str, there: str) -> None:
    """They go in pieces, out and in; files of a folder go one by one, and many at once."""
    options = {"multipart_threshold": 6 * MIB, "multipart_chunk": 5 * MIB, "concurrency": 8}
    first = opened(tmp_path / "first")
    first.register_persistent_serializers(TreeSerializer)
    files = {f"c/{number}": bytes([number]) * 9000 for number in range(MANY)}
    big = np.random.default_rng(0).random(16 * MIB // 8)
    first.save("w", "tree", [Tree(files), Kept(big.tobytes())])
    first.save("w", "big", big)
    source = first if here == "files" else in_s3(server, **options)
    if source is not first:
        first.copy("w", source)
    target = made(there, server, tmp_path / "target", **options)
    with asked(source, target) as sent:
        assert ["copied"] * 2 == actions(source.copy("w", target))
    if there == "S3":  # two big blobs; the tree's files, its result, the marker, and the probe
        expected = {"UploadPart": 2 * 4, "PutObject": MANY + 3}
        assert expected == {name: sent[name] for name in expected}
    if here == "S3":
        # The small result once more, because it has side data; what shows that none is replaced. In
        # S3, it is also asked whether a file, and the result with the folder, are there; and the
        # probe is read.
        asks = 4 if there == "S3" else 0
        assert 2 * 4 + MANY + 2 + asks == sent["GetObject"]
    assert [] == problems(target)
    back = opened(tmp_path / "back")
    back.register_persistent_serializers(TreeSerializer)
    target.copy("w", back)
    assert files == back.read_task("w", "tree")[0].files
    assert np.array_equal(big, back.read_task("w", "big"))


@pytest.mark.parametrize("is_held", [True, False])
def test_what_the_target_has_stays(server: Server, tmp_path: Path, is_held: bool) -> None:
    """Side data that rots in the source harms no earlier result in S3; leftovers are put again."""
    source, target = opened(tmp_path / "source"), in_s3(server)
    source.register_persistent_serializers(TreeSerializer)
    save(source, "x", 1, [Kept(b"good"), Kept(b""), Tree({"a": b"1", "b": b"2"})])
    blobs = list(source.store.list("w/.data/"))
    before = {blob.key: bytes(source.store.get(blob.key)) for blob in blobs}
    if is_held:
        source.copy("w", target)
        save(target, "x", 2, 2)
        for blob in blobs:
            source.store.put(blob.key, [b"r" * max(1, blob.size)])
    else:
        for blob in blobs:
            target.store.put(blob.key, [b"left"])
    with asked(target) as sent:
        assert "" == source.copy("w", target)[0].problem
    assert (1 if is_held else len(blobs) + 1) <= sent["PutObject"]
    assert before == {key: bytes(target.store.get(key)) for key in before}
    assert 1 == target.task_info("w", "x").fingerprint["call"].count("1")
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


def test_keys_that_anybody_can_plant(server: Server, tmp_path: Path) -> None:
    """They are told, and all others are copied."""
    source, target = in_s3(server), opened(tmp_path / "target")
    save(source, "a", 1)
    save(source, "b", 1)
    names = ["n" * 250, "%61", "é"]
    for name in names:
        source.store.copy("w/a", f"w/{name}")
    reports = {report.task: report for report in source.copy("w", target)}
    assert {*names, "a", "b"} == {*reports}
    assert {*names} == {name for name in reports if reports[name].action == "not copied"}
    assert ["a", "b"] == target.list_tasks("w")


def test_a_planted_name_that_is_too_long(server: Server, tmp_path: Path) -> None:
    """For S3: its result is not copied, and the others are."""
    files, source = opened(tmp_path / "files"), storage_of("memory", tmp_path)
    files.register_persistent_serializers(TreeSerializer)
    save(files, "tree", 1, Tree({"a": b"1"}))
    save(files, "z", 1)
    files.copy("w", source)
    [(folder, _, _)] = source.task_info("w", "tree").side_data[0].files
    source.store.put(f"w/.data/{folder}{('d' * 99 + '/') * 12}x", [b"x"])
    assert ["not copied", "copied"] == actions(source.copy("w", in_s3(server)))


def test_memory(seaweedfs_server: Server) -> None:
    """A big result and big side data pass in pieces, of which few are in memory at once."""
    data = np.random.default_rng(0).integers(0, 255, 120 * MIB, "u1")
    source = in_s3(seaweedfs_server)
    source.save("w", "big", data)
    source.save("w", "side", Kept(data.tobytes()))
    target = in_s3(seaweedfs_server)
    source.copy("w", target, dry_run=True)  # so that nothing is imported meanwhile
    tracemalloc.start()
    try:
        assert ["copied"] * 2 == actions(source.copy("w", target))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    chunk = 16 * MIB  # the default: one is read, and three are sent
    assert peak < 4 * chunk + 8 * MIB


def test_an_error_at_the_end_of_a_stream(server: Server) -> None:
    """The upload is aborted, and the earlier blob stays."""
    store = in_s3(server, **PIECES).store
    store.put("w/t", [b"before"])

    def parts() -> Iterator[bytes]:
        yield from (bytes(MIB) for _ in range(12))
        raise ValueError("the digest is wrong")

    with pytest.raises(ValueError, match="digest"):
        store.put("w/t", Streamed(12 * MIB, parts()))
    assert b"before" == store.get("w/t")


def test_a_piece_that_fails(
    one_server: Server, storage: S3FileStorage, proxy: Proxy, tmp_path: Path
) -> None:
    """One that fails once is sent again; if it fails for ever, nothing is left, and no thread."""
    source = opened(tmp_path / "source")
    value = np.random.default_rng(0).random(3 * MIB)
    source.save("w", "t", value)
    proxy.fault = once("503", lambda request: "partNumber=2" in request.path)
    source.copy("w", storage)
    assert np.array_equal(value, storage.read_task("w", "t"))
    source.save("w", "t", value[::-1])
    proxy.fault = lambda request: "503" if "partNumber=2" in request.path else ""
    with pytest.raises(StorageConnectionError) as raised:
        source.copy("w", storage)
    assert "task 't' of workflow 'w'" in raised.value.__notes__[-1]
    proxy.fault = lambda _: ""
    assert np.array_equal(value, storage.read_task("w", "t"))
    assert [] == one_server.uploads(storage)
