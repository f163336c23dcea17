"""Files that change while a run goes on: no result of another content is stored, or reused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from file_nodes import edits, replaces, touches

from functionfuse import File, LocalWorkflow, workflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.errors import FileError
from functionfuse.reuse.calls import Calls
from functionfuse.reuse.identity import Identities
from functionfuse.serializers import content
from functionfuse.storage.filestorage import FileStorage

REFERENCE: Any = None
LATE = "computed: a file that it takes changed; argument 'file' changed during the run"


def ran(storage: FileStorage, *nodes: Any, log: str = "", **options: Any) -> tuple[Any, list[str]]:
    """Run nodes; return the last result, and what was done with each, and why."""
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    if log:
        flow.log_nodes(log)
    found = flow.run(**options)
    return found, [f"{node.action}: {node.reason}" for node in flow.report.nodes]


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture(params=["new", "old"])
def reads(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file that has just changed, whose next change may leave its times, or an older one."""
    path = tmp_path / "A.txt"
    path.write_text("old!")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "_digests", {})
        if request.param == "old":
            patch.setattr(content, "_RECENT", -1 << 62)
        yield path


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_a_change_that_leaves_size_and_time(
    storage: FileStorage, reads: Path, executors: Callable[[str], Executor], kind: str
) -> None:
    """As `cp -p` and `rsync` make. The node fails, and nothing is stored."""
    options = {} if kind == "here" else {"executor": executors(kind)}
    with pytest.raises(FileError, match=r"argument 'file' of 'replaces'.*changed during the run"):
        ran(storage, replaces(File(reads), "NEW!").set_name("n"), **options)
    assert ("NEW!", []) == (reads.read_text(), storage.list_tasks("w"))


def test_a_change_in_the_same_tick(reads: Path) -> None:
    """All times of the file stay, because the clock of the file system has not moved."""
    path, state, digest = content.source_of(str(reads))
    reads.write_text("NEW!")
    now = content.state_of(reads.stat())
    assert not content.is_same((path, now[: len(state)], digest)) or content._RECENT < 0


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_the_same_content_again(
    storage: FileStorage, reads: Path, executors: Callable[[str], Executor], kind: str
) -> None:
    """A `touch`, or an equal file in its place, changes no result."""
    options = {} if kind == "here" else {"executor": executors(kind)}
    for node in (touches(File(reads)), replaces(File(reads), "old!")):
        found, _ = ran(storage, node.set_name("n"), **options)
        assert "old!" == found
    assert ["reused: "] == ran(storage, replaces(File(reads), "old!").set_name("n"))[1]


def test_by_stat_the_time_counts(storage: FileStorage, reads: Path) -> None:
    """Because it is what counts for reuse."""
    with pytest.raises(FileError, match="changed during the run"):
        ran(storage, touches(File(reads, by="stat")).set_name("n"))
    assert "NEW!" == ran(storage, replaces(File(reads, by="stat"), "NEW!").set_name("n"))[0]


def test_a_file_with_the_same_state_is_not_read(reads: Path) -> None:
    """In a worker process, too, which has no digest of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "blocks_of", lambda *_: pytest.fail("it was read"))
        content.refuse_changed([("", (str(reads), content.state_of(reads.stat()), "a digest"))])


@workflow
def of_global() -> str:
    Path(REFERENCE).write_text("longer than before")
    return Path(REFERENCE).read_text()


@workflow
def calls(function: Any) -> str:
    return str(function())


class Settings:
    """Has a file as an attribute."""

    file: Any = None


@workflow
def of_class() -> str:
    Path(Settings.file).write_text("longer than before")
    return Path(Settings.file).read_text()


def of_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return nodes that read a file which is no argument, and write to it."""
    file = File(path)
    monkeypatch.setitem(globals(), "REFERENCE", file)
    monkeypatch.setattr(Settings, "file", file)

    @workflow
    def of_default(reads: Any = file) -> str:
        Path(reads).write_text("longer than before")
        return Path(reads).read_text()

    @workflow
    def of_closure() -> str:
        Path(file).write_text("longer than before")
        return Path(file).read_text()

    def inner() -> str:
        Path(file).write_text("longer than before")
        return Path(file).read_text()

    nodes = {
        "global": of_global(),
        "class": of_class(),
        "default": of_default(),
        "closure": of_closure(),
        "function": calls(inner),
    }
    return {name: node.set_name(name) for name, node in nodes.items()}


@pytest.mark.parametrize("place", ["global", "class", "default", "closure", "function"])
def test_a_file_in_code(
    storage: FileStorage, reads: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It is compared as those in arguments."""
    node = of_code(reads, monkeypatch)[place]
    with pytest.raises(FileError, match=r" of '.*A.txt' changed during the run"):
        ran(storage, node)
    assert [] == storage.list_tasks("w")


@pytest.mark.parametrize("place", ["global", "class", "default", "closure", "function"])
def test_a_file_in_code_may_be_missing(
    storage: FileStorage, reads: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A node may never use it, or make it. It is computed, and can't be reused."""
    node = of_code(reads, monkeypatch)[place]
    reads.unlink()
    for reason in ("nothing stored", r".*there is no file '.*A.txt'"):
        found, [done] = ran(storage, node)
        assert "longer than before" == found
        assert re.fullmatch(f"computed: {reason}", done)
        reads.unlink()


@workflow
class Reader:
    """Keeps a file, and reads it later."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, after: Any) -> str:
        del after
        return Path(self.file).read_text()


def test_a_file_that_an_object_keeps(storage: FileStorage, reads: Path) -> None:
    """A method may read what the constructor got."""

    def read(text: str) -> Any:
        reader = Reader(File(reads))
        first = reader.read(0).set_name("first")
        return reader.read(edits(first, str(reads), text).set_name("edit")).set_name("read")

    with pytest.raises(FileError, match="argument 'file' of 'Reader'"):
        ran(storage, read("NEW!"))
    assert {"first", "edit"} == set(storage.list_tasks("w"))
    reads.write_text("old!")
    assert "old!" == ran(storage, read("NEW!"))[0]


def test_files_of_later_calls_on_an_object(tmp_path: Path) -> None:
    """They don't count for earlier calls, in whatever order one asks."""
    files = [tmp_path / f"{number}.txt" for number in range(4)]
    for file in files:
        file.write_text("old!")
    reader = Reader(File(files[0]))
    reads = [reader.read(File(file)) for file in files[1:]]
    graph = LocalWorkflow(*reads, workflow_name="w").graph()
    found = Calls(graph, Identities({}), set())
    last = len(graph.nodes) - 1
    for index in (last, 1, last):
        seen = {path for _, (path, *_) in found.files(index)}
        assert set(map(str, files[: index + 1])) == seen


@workflow
def writes(path: str, text: str, *after: Any) -> dict[str, Any]:
    del after
    Path(path).write_text(text)
    return {"file": File(path)}


@workflow
def read_from(found: dict[str, Any], *after: Any) -> str:
    del after
    return Path(found["file"]).read_text()


def test_a_file_in_a_result_that_is_not_stored(storage: FileStorage, reads: Path) -> None:
    """Another node writes to it before it is used."""
    one = writes(str(reads), "A").set_name("log one")
    two = writes(str(reads), "B", one).set_name("log two")
    with pytest.raises(FileError, match=r"the result of 'log one': .* changed during the run"):
        ran(storage, read_from(one, two).set_name("read"), log="log .*")
    assert [] == storage.list_tasks("w")
    one = writes(str(reads), "A").set_name("log one")
    assert "A" == ran(storage, read_from(one).set_name("read"), log="log .*")[0]


def test_a_file_in_a_result_when_the_graph_grows(storage: FileStorage, reads: Path) -> None:
    """The first part of a run has made it."""
    one = writes(str(reads), "A").set_name("log one")
    first = read_from(one, 1).set_name("first")
    flow = LocalWorkflow(first, workflow_name="w")
    flow.set_storage(storage)
    flow.log_nodes("log .*")
    assert "A" == flow.value(first)
    two = writes(str(reads), "B").set_name("two")
    with pytest.raises(FileError, match="the result of 'log one'"):
        flow.value(read_from(one, two).set_name("second"))


@pytest.mark.parametrize("change", [partial(Path.write_text, data="B"), Path.unlink])
def test_a_file_in_a_result_that_changes_between_parts(
    storage: FileStorage, reads: Path, change: Callable[[Path], object]
) -> None:
    """Its node is computed again, if a new node takes the result."""
    one = writes(str(reads), "A").set_name("log one")
    flow = LocalWorkflow(one, workflow_name="w")
    flow.set_storage(storage)
    flow.log_nodes("log .*")
    assert "A" == flow.value(read_from(one, 1).set_name("first"))
    change(reads)
    assert "A" == flow.value(read_from(one, 2).set_name("second"))
    assert {"log one": "computed", "second": "computed", "first": "computed"} == {
        node.name: node.action for node in flow.report.nodes
    }


@workflow
def appends(before: dict[str, Any] | None, path: str, text: str) -> dict[str, Any]:
    old = Path(before["file"]).read_text() if before else ""
    Path(path).write_text(old + text)
    return {"file": File(path)}


@pytest.mark.parametrize("grows", [False, True])
def test_nodes_that_are_not_stored_may_share_a_work_file(
    storage: FileStorage, reads: Path, grows: bool
) -> None:
    """Each takes it from the one before, also if parts of the run compute them."""
    flow = LocalWorkflow(workflow_name="w")
    flow.set_storage(storage)
    step: Any = None
    for text in "ABC":
        step = appends(step, str(reads), text).set_name(f"log {text}")
        flow.add(step)
        flow.log_nodes("log .*")
        if grows:
            flow.value(step)
    assert "ABC" == flow.value(read_from(step).set_name("read"))


class Opens:
    """A plugin's object, which keeps a file."""

    def __init__(self, file: File) -> None:
        self.file = file

    def __call__(self) -> None:
        pass


def test_the_file_of_a_plugin_for_more_nodes(storage: FileStorage, reads: Path) -> None:
    """Each node looks at it, and at those of its other plugins."""
    other = reads.with_name("B.txt")
    other.write_text("old!")

    def run(path: Path, text: str) -> list[tuple[str, str]]:
        made = edited_same(str(path), text).set_name("made")
        nodes = [read_both(made, str(reads), str(other), n).set_name(f"n{n}") for n in range(2)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        plugins = [InitializerPlugin(Opens(File(file))) for file in (reads, other)]
        flow.query("n.").set_plugins(*plugins)
        return flow.run()

    assert [("old!", "old!")] * 2 == run(reads, "old!")
    assert [("NEW!", "old!")] * 2 == run(reads, "NEW!")
    reads.write_text("old!")
    assert [("old!", "NEW!")] * 2 == run(other, "NEW!")


@workflow
def edited_same(path: str, text: str) -> int:
    Path(path).write_text(text)
    return 1


@workflow
def read_both(after: int, one: str, two: str, number: int) -> tuple[str, str]:
    del after, number
    return Path(one).read_text(), Path(two).read_text()


def test_a_late_decision_looks_at_files(storage: FileStorage, reads: Path) -> None:
    """The parent gives an equal result, and has written to the file."""

    def graph(text: str) -> Any:
        made = edited(str(reads), text).set_name("made")
        return read_after(File(reads), made).set_name("read")

    assert "old!" == ran(storage, graph("old!"))[0]
    found, done = ran(storage, graph("NEW!"))
    assert ("NEW!", LATE) == (
        found,
        done[1],
    )
    found, done = ran(storage, graph("NEW!"))
    assert ("NEW!", "reused: ") == (found, done[0])
    assert "computed: argument 'file' changed while the run that stored it went on" == done[1]
    assert ["reused: "] * 2 == ran(storage, graph("NEW!"))[1]


@workflow
def edited(path: str, text: str) -> str:
    Path(path).write_text(text)
    return path


@workflow
def read_after(file: Any, after: Any, other: Any = None) -> str:
    del after, other
    return Path(file).read_text()


def test_files_that_change_before_their_node_starts(storage: FileStorage, reads: Path) -> None:
    """It is computed from the new content, of all of them, and again in the next run."""
    other = reads.with_name("B.txt")
    other.write_text("old!")

    def graph() -> Any:
        made = edited(str(reads), "NEW!").set_name("made")
        more = edited(str(other), "NEW!").set_name("more")
        return read_after(File(reads), [made, more], File(other)).set_name("read")

    assert "NEW!" == ran(storage, graph())[0]
    assert "why not" in storage.task_info("w", "read").fingerprint
    assert ran(storage, graph())[1][2].startswith("computed: argument 'file' changed while the run")


def test_a_file_for_many_nodes_is_digested_once(
    storage: FileStorage, reads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it has just changed."""
    if content._RECENT > 0:
        pytest.skip("it has just changed")
    read = []
    blocks_of = content.blocks_of
    monkeypatch.setattr(content, "blocks_of", lambda *all: read.append(1) or blocks_of(*all))
    ran(storage, *[read_after(File(reads), number).set_name(f"n{number}") for number in range(5)])
    assert [1] == read
