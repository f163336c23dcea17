"""How many requests things cost, and how much memory: bounds that no clock decides."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from s3_servers import Server, counted

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import ResultNotFoundError
from functionfuse_s3 import S3FileStorage
from run_records import id_of, record

MIB = 1 << 20
THRESHOLD, CHUNK = 6 * MIB, 5 * MIB
MANY = 100  # results of a workflow; more than are asked for at once


@pytest.fixture
def storage(server: Server, path: str) -> S3FileStorage:
    sizes = {"multipart_threshold": THRESHOLD, "multipart_chunk": CHUNK}
    return S3FileStorage(**server.options(path, concurrency=8, **sizes))


@pytest.fixture
def sent(storage: S3FileStorage) -> Iterator[Counter[str]]:
    """What the storage's client has sent since the workflow "w" was begun."""
    storage.new_workflow("w")
    storage.save("w", "first", 0)
    with counted(storage.store.bucket.client) as sent:
        yield sent


def test_a_save_by_hand_reads_what_it_replaces(storage: S3FileStorage, sent: Counter[str]) -> None:
    """The beginning of it; whatever else the workflow has. A new result is looked for, too."""
    for number in range(20):
        storage.store.put(f"w/.data/other-{number}", [b"x"])
    sent.clear()
    for name in ("a", "b", "a"):
        storage.save("w", name, {"name": name})
        storage.save("w", name + "array", np.arange(100_000))
    assert {"GetObject": 6, "PutObject": 6} == sent


def test_the_first_save_of_a_run_is_one_put(server: Server, path: str) -> None:
    """Beginning a workflow tries the place, and puts the marker, once: it can be written."""
    storage = S3FileStorage(**server.options(path))
    with counted(storage.store.bucket.client) as sent:
        storage.new_workflow("w")
        assert {"PutObject": 1 + 1, "GetObject": 1, "DeleteObject": 1} == sent
        sent.clear()
        storage.new_workflow("v")
        assert {"PutObject": 1} == sent
        sent.clear()
        storage.save("w", "a", 1, replaces=None)
        storage.save("w", "b", 1, replaces=None)
        storage.new_workflow("w")
        assert {"PutObject": 2} == sent


def test_a_read_is_one_get(storage: S3FileStorage, sent: Counter[str]) -> None:
    """Of a small value and of one up to the threshold; also where nothing is stored."""
    storage.save("w", "array", np.zeros(THRESHOLD // 8 - 1000))
    sent.clear()
    assert 0 == storage.read_task("w", "first")
    assert THRESHOLD // 8 - 1000 == len(storage.read_task("w", "array"))
    with pytest.raises(ResultNotFoundError):
        storage.read_task("w", "missing")
    assert {"GetObject": 3} == sent


def test_large_values_go_in_pieces(storage: S3FileStorage, sent: Counter[str]) -> None:
    """Above the threshold: pieces of the chunk's size, out and in."""
    value = np.random.default_rng(0).random(16 * MIB // 8)
    storage.save("w", "large", value, replaces=None)
    pieces = {"CreateMultipartUpload": 1, "UploadPart": 4, "CompleteMultipartUpload": 1}
    assert pieces == sent
    sent.clear()
    assert np.array_equal(value, storage.read_task("w", "large"))
    assert {"GetObject": 1 + 3} == sent  # the first has as much as the threshold


def test_a_header_is_one_get(storage: S3FileStorage, sent: Counter[str]) -> None:
    """Of the first bytes only; no value is read for it."""
    storage.save("w", "large", np.zeros(16 * MIB // 8))
    sent.clear()
    assert "w" == storage.task_info("w", "large").workflow
    assert storage.file_exists("w", "large")
    assert not storage.file_exists("w", "missing")
    assert {"GetObject": 3} == sent


def test_listing_and_removing(server: Server, storage: S3FileStorage, sent: Counter[str]) -> None:
    """One request for up to 1,000 names; removing is one more, or two where folders are real."""
    for number in range(5):
        storage.save("w", f"t{number}", 0)
    sent.clear()
    assert 6 == len(storage.list_tasks("w"))
    assert {"ListObjectsV2": 1} == sent
    sent.clear()
    storage.store.delete([f"w/t{number}" for number in range(5)])
    assert {"DeleteObjects": 2 if server.name == "seaweedfs" else 1} == sent
    sent.clear()
    storage.store.delete([])
    assert {} == sent


def test_a_thousand_keys_are_one_request(moto_server: Server, path: str) -> None:
    """Lists and removes have 1,000 keys each."""
    store = S3FileStorage(**moto_server.options(path)).store
    with counted(store.bucket.client) as sent:
        store.delete([f"w/{number}" for number in range(2001)])
        assert {"DeleteObjects": 3} == sent


def test_a_plan_lists_and_reads_the_headers_it_needs(
    storage: S3FileStorage, sent: Counter[str]
) -> None:
    """After a run it costs two requests, and one for each of the few results that are new."""

    @workflow
    def one(number: int) -> int:
        return number

    nodes = [one(number).set_name(f"n{number}") for number in range(MANY)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(S3FileStorage(**dict(storage.store.bucket.options)))
    flow.run()
    sent.clear()
    for _ in range(2):
        assert {"reuse"} == {entry.action for entry in flow.plan().nodes}
        assert {"ListObjectsV2": 1, "GetObject": 1} == sent
        sent.clear()
    storage.remove_task("w", "n1")
    storage.remove_task("w", "n2")
    storage.save("w", "n3", "other")
    sent.clear()
    flow.plan()
    # The earlier results are listed, and the header of the one that was set aside is read.
    assert {"ListObjectsV2": 2, "GetObject": 3} == sent


def test_the_requests_of_a_node(storage: S3FileStorage, sent: Counter[str]) -> None:
    """The first save is one; to replace a result, and to bring an earlier one back, are three."""

    @workflow
    def one(number: int) -> int:
        return number

    def run(start: int) -> None:
        nodes = [one(start + number).set_name(f"n{number}") for number in range(3)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(S3FileStorage(**dict(storage.store.bucket.options)))
        flow.run()

    sent.clear()
    run(0)
    # The last two are the marker of the workflow, by each new storage, and the record of the run.
    assert {"ListObjectsV2": 1, "PutObject": 3 + 2} == sent
    sent.clear()
    run(100)  # the plan reads 3 headers, and lists earlier results; three listings are for limits
    replaced = {"GetObject": 3 + 3, "CopyObject": 3, "PutObject": 3 + 2}
    assert {"ListObjectsV2": 2 + 3, **replaced} == sent
    sent.clear()
    run(0)  # three values are returned
    again = {"GetObject": 3 + 3 + 3, "CopyObject": 6, "PutObject": 2}
    assert {"ListObjectsV2": 2 + 3, **again} == sent


def test_the_first_plan_lists_and_reads_the_headers(
    storage: S3FileStorage, sent: Counter[str]
) -> None:
    """What a run elsewhere has stored: a listing, a header each, and what remembers them."""
    names = [f"t{number}" for number in range(MANY)]
    for name in names:
        storage.save("w", name, 0)
    sent.clear()
    assert MANY == len(list(storage.task_infos("w", [*names, "missing"]))) - 1
    assert {"ListObjectsV2": 2, "GetObject": 1 + MANY, "PutObject": 1} == sent
    sent.clear()
    assert 8 == len(list(storage.task_infos("w", names[:8])))
    assert {"ListObjectsV2": 1, "GetObject": 8} == sent


def test_the_records_of_runs_are_a_listing_and_a_get_each(
    storage: S3FileStorage, sent: Counter[str]
) -> None:
    """Of those that are asked for, however many there are."""
    for number in range(60):
        record(storage, number)
    sent.clear()
    assert [id_of(number) for number in range(10, 60)] == [run.id for run in storage.runs("w")]
    assert {"ListObjectsV2": 1, "GetObject": 50} == sent


def test_if_absent_is_one_put(storage: S3FileStorage, sent: Counter[str]) -> None:
    """Once it is known that the server keeps the condition."""
    storage.save("w", "a", 0, if_absent=True)
    sent.clear()
    storage.save("w", "b", 0, if_absent=True)
    assert {"PutObject": 1} == sent
    with pytest.raises(FileExistsError):
        storage.save("w", "b", 0, if_absent=True)
    assert {"PutObject": 2, "HeadObject": 1} == sent


def test_a_value_is_not_copied_as_a_whole(seaweedfs_server: Server, path: str) -> None:
    """Saving and reading allocate the blocks under way; a large value's memory is the system's.

    A thread has two blocks of 1 MiB at most, one that it sends and the next; a copy of the pieces
    under way would take more, on any schedule. The server is another process: what it takes doesn't
    count.
    """
    threads, little = 2, MIB
    sizes = {"multipart_threshold": THRESHOLD, "multipart_chunk": CHUNK}
    storage = S3FileStorage(**seaweedfs_server.options(path, concurrency=threads, **sizes))
    value = np.random.default_rng(0).random(40 * MIB // 8)
    storage.save("w", "t", value[:10])
    tracemalloc.start()
    try:
        storage.save("w", "t", value)
        assert tracemalloc.get_traced_memory()[1] < 2 * threads * MIB + little
        tracemalloc.reset_peak()
        found = storage.read_task("w", "t")
        assert tracemalloc.get_traced_memory()[1] < 2 * threads * MIB + little
    finally:
        tracemalloc.stop()
    assert np.array_equal(value, found)
    found[0] = 7  # it is the reader's own


def test_verify_reads_each_byte_once(storage: S3FileStorage, sent: Counter[str]) -> None:
    """A listing, 1 GET for what is no larger than a piece, and else 1 for each piece.

    To verify all workflows, they are listed as by `list_workflows`.
    """
    storage.save("w", "large", np.zeros(16 * MIB // 8))
    sent.clear()
    assert ["", ""] == [found.problem for found in storage.verify("w")]
    assert {"ListObjectsV2": 1, "GetObject": 1 + 4} == sent
    sent.clear()
    storage.verify()
    assert {"ListObjectsV2": 1 + 1, "GetObject": 1 + 1 + 4} == sent


def test_verify_holds_no_more_than_a_piece(seaweedfs_server: Server, path: str) -> None:
    """Of a result of any size; the server is another process."""
    sizes = {"multipart_threshold": THRESHOLD, "multipart_chunk": CHUNK}
    storage = S3FileStorage(**seaweedfs_server.options(path, **sizes))
    storage.save("w", "t", np.random.default_rng(0).random(40 * MIB // 8))
    tracemalloc.start()
    try:
        assert [""] == [found.problem for found in storage.verify()]
        assert tracemalloc.get_traced_memory()[1] < CHUNK + 2 * MIB
    finally:
        tracemalloc.stop()


def test_one_client_serves_all(moto_server: Server, path: str) -> None:
    """Storages with the same options, and those that come by pickle, share a process's client."""
    storage = S3FileStorage(**moto_server.options(path))
    client = storage.store.bucket.client
    assert client is pickle.loads(pickle.dumps(storage)).store.bucket.client
    assert client is S3FileStorage(**moto_server.options(f"{path}/below")).store.bucket.client
    other = S3FileStorage(**moto_server.options(path, concurrency=3)).store.bucket.client
    assert client is not other
    assert 6 == other.meta.config.max_pool_connections


def test_nothing_is_imported_or_sent_before_it_is_needed() -> None:
    """The plugin is found and its options are checked without boto3; a storage sends nothing."""
    program = """
import sys
from functionfuse.storage import storage_factory
import functionfuse_s3.plugin
assert "boto3" not in sys.modules
try:
    storage_factory({"kind": "S3", "options": {"path": "bucket", "pth": 1}})
except ValueError as error:
    assert "'pth'" in str(error), error
assert "boto3" not in sys.modules
storage = storage_factory({"kind": "s3", "options": {
    "path": "bucket", "endpoint_url": "http://127.0.0.1:1", "profile": "none"}})
print(type(storage).__name__, "zarr" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ("S3FileStorage False\n", "") == (done.stdout, done.stderr)
