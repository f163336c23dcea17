"""`File` on Ray: sources are read by workers, results travel by the storage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray_functions as functions
from ray_runs import actions, kept

from functionfuse import File
from functionfuse.errors import FileError
from functionfuse.storage import storage_factory

pytestmark = pytest.mark.usefixtures("ray_up")


@pytest.fixture(params=["files", "ray"])
def storage_of_files(request, emptied):
    """A storage whose files are on this machine, and one whose files are downloaded."""
    kind = "ray" if request.param == "ray" else "file"
    return storage_factory({"kind": kind, "options": {"path": str(emptied)}})


def test_files_go_through_workers(storage_of_files, tmp_path) -> None:
    """Each worker has a path of its own; the driver may forget the file before one reads it."""
    reads = tmp_path / "A.fastq"
    reads.write_text("acgt")

    def graph(storage):
        written = functions.upper_file(File(reads), str(tmp_path)).set_name("written")
        return kept(storage, functions.index_file(written).set_name("indexed"))

    flow = graph(storage_of_files)
    assert "ACGT A.fastq.upper" == flow.run(return_results=True)
    flow = graph(storage_of_files)
    assert "ACGT A.fastq.upper" == flow.run(return_results=True)
    assert {"written": "reused", "indexed": "reused"} == actions(flow)
    storage_of_files.remove_task("w", "indexed")
    flow = graph(storage_of_files)
    flow.run()
    assert {"written": "reused", "indexed": "computed"} == actions(flow)

    stored = storage_of_files.read_task("w", "written")[0]
    flow = kept(storage_of_files, functions.index_file([stored]).set_name("again"))
    del stored
    assert "ACGT A.fastq.upper" == flow.run(return_results=True)
    reads.write_text("acga")
    flow = graph(storage_of_files)
    assert "ACGA A.fastq.upper" == flow.run(return_results=True)
    found = storage_of_files.read_task("w", "written")[0]
    assert "ACGA" == Path(found).read_text()


def test_an_argument_that_changes_on_a_worker(storage, tmp_path) -> None:
    """The node fails, and names it."""
    reads = tmp_path / "A.fastq"
    reads.write_text("acgt")
    flow = kept(storage, functions.edit_file([File(reads)], str(reads)).set_name("edits"))
    with pytest.raises(FileError, match="argument 'files' of 'edit_file'"):
        flow.run()
    assert [] == storage.list_tasks("w")
    assert os.path.getsize(reads) > 4


def test_files_that_change_unseen(storage, tmp_path) -> None:
    """With the same size and time; in what an object keeps; in a result that isn't stored."""
    reads = tmp_path / "A.fastq"
    reads.write_text("acgt")
    flow = kept(storage, functions.replace_file(File(reads), "acga").set_name("n"))
    with pytest.raises(FileError, match="argument 'file' of 'replace_file'"):
        flow.run()
    equal = kept(storage, functions.replace_file(File(reads), "acga").set_name("n"))
    assert "acga" == equal.run(return_results=True)

    edit = functions.edit_file([], str(reads)).set_name("edit")
    reader = functions.FileReader(File(reads))
    with pytest.raises(FileError, match="argument 'file' of 'FileReader'"):
        kept(storage, reader.read(edit).set_name("read")).run()

    one = functions.write_file(str(reads), "A").set_name("log one")
    two = functions.write_file(str(reads), "B", one).set_name("log two")
    flow = kept(storage, functions.read_after(one, two).set_name("both"))
    flow.log_nodes("log .*")
    with pytest.raises(FileError, match="the result of 'log one'"):
        flow.run()
    assert {"n", "edit"} == set(storage.list_tasks("w"))
