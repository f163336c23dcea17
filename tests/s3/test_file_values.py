"""`File` on S3: downloaded at its first use, once a process, and checked."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from file_nodes import indexed, upper
from s3_servers import Server, counted

from functionfuse import File, LocalWorkflow
from functionfuse.errors import DamagedResultError, FileError
from functionfuse_s3 import S3FileStorage


@pytest.fixture(params=[None, "k"], ids=["", "signed"])
def kept(request: pytest.FixtureRequest, one_server: Server, path: str) -> S3FileStorage:
    """A storage, without and with a key."""
    return S3FileStorage(**one_server.options(path, key=request.param))


def test_files_go_through_nodes(kept: S3FileStorage, tmp_path: Path) -> None:
    """The next run reuses all, and downloads nothing."""
    reads = tmp_path / "A.fastq"
    reads.write_text("acgt")

    def run() -> tuple[str, list[str]]:
        written = upper(File(reads), str(tmp_path)).set_name("written")
        flow = LocalWorkflow(indexed(written).set_name("indexed"), workflow_name="w")
        flow.set_storage(kept)
        found: str = flow.run()
        return found, [node.action for node in flow.report.nodes]

    assert ("ACGTA.fastq.upper", ["computed"] * 2) == run()
    assert ("ACGTA.fastq.upper", ["reused"] * 2) == run()
    reads.write_text("aCGT")
    assert ("ACGTA.fastq.upper", ["computed", "reused"]) == run()
    assert {""} == {each.problem for each in kept.verify()}


def test_it_is_downloaded_once(kept: S3FileStorage, tmp_path: Path) -> None:
    """A read asks whether the file is there; its first use reads it."""
    path = tmp_path / "A.fastq"
    path.write_text("acgt")
    kept.save("w", "t", File(path))
    with counted(kept.store.bucket.client) as requests:
        files = [kept.read_task("w", "t") for _ in range(3)]
    assert {"GetObject": 6} == requests
    with counted(kept.store.bucket.client) as requests:
        assert {"acgt"} == {Path(file).read_text() for file in files for _ in range(3)}
    assert {"GetObject": 1} == requests


def test_other_bytes_are_refused(kept: S3FileStorage, tmp_path: Path) -> None:
    """At the first use; a missing file when it is read."""
    path = tmp_path / "A.fastq"
    path.write_text("acgt")
    kept.save("w", "t", File(path))
    file = kept.read_task("w", "t")
    [key] = [blob.key for blob in kept.store.list("w/.data/")]
    kept.store.put(key, [b"acga"])
    problem = r"'A.fastq' is not what was written: remove task 't' of workflow 'w'"
    with pytest.raises(DamagedResultError, match=problem):
        os.fspath(file)
    kept.store.delete([key])
    with pytest.raises(DamagedResultError, match=r"'A.fastq' is missing"):
        kept.read_task("w", "t")


def test_a_result_that_is_removed_before_its_first_use(kept: S3FileStorage, tmp_path: Path) -> None:
    """It is no damage, and read again as any other."""
    path = tmp_path / "A.fastq"
    path.write_text("acgt")
    kept.save("w", "t", File(path))
    file = kept.read_task("w", "t")
    kept.remove_task("w", "t")
    with pytest.raises(
        FileError, match=r"'A.fastq' was replaced or removed after it was read: read"
    ):
        os.fspath(file)


def test_a_big_file_is_never_in_memory(kept: S3FileStorage, tmp_path: Path) -> None:
    """It goes in pieces, and comes in pieces."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(48 << 20))
    kept.save("w", "small", File(__file__))  # makes the client
    Path(kept.read_task("w", "small")).read_bytes()
    tracemalloc.start()
    try:
        kept.save("w", "t", File(path))
        found = os.fspath(kept.read_task("w", "t"))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert path.read_bytes() == Path(found).read_bytes()
