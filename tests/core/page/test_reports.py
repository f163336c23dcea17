"""The page of a run, from its process, from its record, and from headers alone; the commands."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_data import column, read

from functionfuse import LocalWorkflow, storage_factory, workflow
from functionfuse.cli.main import run as command
from functionfuse.errors import GraphError, NoMatchError, ResultNotFoundError, StoragePathError
from functionfuse.run.report import Report
from functionfuse.storage.filestorage import FileStorage


@workflow
def load(count: int) -> Any:
    return np.arange(count, dtype=float)


@workflow(ignore=["token"])
def scale(values: Any, factor: float = 2.0, token: str = "") -> Any:
    if factor == 0:
        raise ValueError(f"no factor; the token is {token}")
    return {"scaled": values * factor}


@workflow
def total(values: Any) -> float:
    return float(np.sign(values.sum()))


def graph(count: int = 5, factor: float = 2.0) -> LocalWorkflow:
    values = load(count).set_name("load")
    scaled = scale(values[1:], factor, token="SECRET").set_name("scale")
    return LocalWorkflow(total(scaled["scaled"]).set_name("total"), workflow_name="numbers")


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    return storage_factory({"kind": "file", "options": {"path": str(tmp_path / "results")}})


def stored(storage: Any, **settings: Any) -> LocalWorkflow:
    flow = graph(**settings)
    flow.set_storage(storage)
    flow.run()
    return flow


def report(flow: LocalWorkflow) -> Report:
    assert flow.report is not None
    return flow.report


def test_a_run_without_a_storage(tmp_path: Path) -> None:
    """Its process knows graph, arguments and times; ignored arguments are left out."""
    flow = graph()
    with ThreadPoolExecutor(1) as pool:
        flow.run(pool)
    path = tmp_path / "run.html"
    assert path == report(flow).save(str(path), values=True)
    data = read(path)
    assert ["load", "scale", "total"] == column(data, "name")
    assert ["computed"] * 3 == column(data, "action")
    assert [[], [0], [1]] == data["columns"]["parents"]
    assert [[0, "5"], [1, "2.0", 2, [0, "[1:]"]], [2, [1, "['scaled']"]]] == (
        data["columns"]["arguments"]
    )
    assert ["count", "factor", "values"] == data["tables"]["parameter"]
    begun = data["columns"]["begun"]
    assert 0 == min(begun) <= max(begun) <= data["seconds"] < 60  # clocks can be set meanwhile
    assert (None, []) == (data["changes"], data["previews"])
    html = path.read_text()
    assert "All 3 nodes were computed." in html
    assert re.search(r"Run of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC · took .* on 1 worker", html)


def test_a_plan_is_saved(tmp_path: Path, storage: Any) -> None:
    """It says what a run would do, with the times that the storage knows."""
    stored(storage)
    flow = graph(factor=3.0)
    flow.set_storage(storage)
    path = flow.plan().save(tmp_path / "plan.html")
    data = read(path)
    assert ["reuse", "compute", "maybe"] == column(data, "action")
    assert "argument 'factor' changed (2.0 → 3.0)" == column(data, "reason")[1]
    assert data["columns"]["cost"][0] > 0
    assert "A plan: nothing has run yet" in path.read_text()


def test_a_stored_run_tells_the_changes(tmp_path: Path, storage: Any) -> None:
    """Causes, other values, equal values; the process and the storage write the same page."""
    before = report(stored(storage))
    flow = stored(storage, factor=3.0)
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    report(flow).save(first)
    storage.report("numbers").save(second)
    assert first.read_text() == second.read_text()

    data = read(first)
    assert report(flow).run == data["run"]
    assert ["reused", "computed", "computed"] == column(data, "action")
    assert ["numpy.ndarray", "dict", "float"] == column(data, "type")
    changes = data["changes"]
    assert [[1, 0]] == changes["causes"]
    assert ["argument 'factor' changed (2.0 → 3.0)"] == changes["texts"]
    assert ([1], [2]) == (changes["other"], changes["equal"])
    assert [before[name].seconds > 0 for name in ("load", "scale")] == [
        seconds > 0 for seconds in data["columns"]["before"][:2]
    ]
    assert [] == data["previews"]


def test_runs_are_chosen_by_id(tmp_path: Path, storage: Any) -> None:
    """The first has none before it; unknown ids and workflows are errors."""
    ids = [report(stored(storage, factor=factor)).run for factor in (2.0, 3.0, 4.0)]
    found = storage.report("numbers", run=ids[0])
    assert (ids[0], None) == (found.run.id, found.before)
    assert None is read(found.save(tmp_path / "run.html"))["changes"]
    for run, compare, before in ((None, None, ids[1]), (ids[2], ids[0], ids[0])):
        found = storage.report("numbers", run, compare)
        assert (ids[2], before) == (found.run.id, found.before.id)
    for wrong in ({"run": "x"}, {"compare": "x"}):
        with pytest.raises(
            NoMatchError, match=r"no run of workflow 'numbers' in .* has the id 'x'"
        ):
            storage.report("numbers", **wrong)
    with pytest.raises(ResultNotFoundError, match=r"no workflow 'number' .*did you mean 'numbers'"):
        storage.report("number")


def test_previews_only_on_demand(tmp_path: Path, storage: Any) -> None:
    """Of the results that the run had: another one is not shown in their place."""
    first = report(stored(storage))
    stored(storage, count=6)
    path = tmp_path / "run.html"
    assert [] == read(first.save(path))["previews"]
    previews = dict(read(first.save(path, values=True))["previews"])
    assert [2] == list(previews)  # the others were replaced
    storage.report("numbers").save(path, values=True)
    previews = dict(read(path)["previews"])
    assert ["array", "parts", "text"] == [previews[number]["kind"] for number in range(3)]
    assert "float64 6" == previews[0]["text"]


def test_a_value_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The rest of the page is there."""
    folder = str(tmp_path / "results")
    stored(storage_factory({"kind": "file", "options": {"path": folder}}))
    options = {"path": folder, "trust": {"allow": ["builtins"]}}
    strict = storage_factory({"kind": "file", "options": options})
    path = strict.report("numbers").save(tmp_path / "run.html", values=True)
    previews = dict(read(path)["previews"])
    assert previews[0]["text"].startswith("The value can't be read: ")
    assert "1.0" == previews[2]["text"]


def test_large_values_have_no_preview(
    tmp_path: Path, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They aren't read, and the page says how many."""
    stored(storage)
    monkeypatch.setattr("functionfuse.storage.pages._LARGEST", 0)
    data = read(storage.report("numbers").save(tmp_path / "run.html", values=True))
    assert [] == data["previews"]
    assert "3 results have no preview: they are too large." == data["withheld"]
    monkeypatch.undo()
    monkeypatch.setattr("functionfuse.storage.pages._PREVIEWS", 100)
    data = read(storage.report("numbers").save(tmp_path / "run.html", values=True))
    assert [0] == list(dict(data["previews"]))
    assert "2 results have no preview: they are too large." == data["withheld"]


def test_headers_tell_graph_and_times(tmp_path: Path) -> None:
    """As if a storage keeps no records."""
    options = {"path": str(tmp_path / "results"), "run_records": False}
    storage = storage_factory({"kind": "file", "options": options})
    flow = stored(storage)
    found = storage.report("numbers")
    assert found.run is None
    path = found.save(tmp_path / "stored.html", values=True)
    data = read(path)
    assert ["load", "scale", "total"] == column(data, "name")
    assert ["stored"] * 3 == column(data, "action")
    assert [[], [0], [1]] == data["columns"]["parents"]
    assert all(data["columns"]["cost"])
    assert 3 == len(data["previews"])
    assert "3 results are stored. No run was recorded." in path.read_text()
    with pytest.raises(NoMatchError, match="has a record to compare with"):
        storage.report("numbers", compare="x")
    # The process that ran knows more, without a record.
    data = read(report(flow).save(tmp_path / "run.html"))
    assert ["computed"] * 3 == column(data, "action")
    assert ["numpy.ndarray", "dict", "float"] == column(data, "type") or not data["columns"].get(
        "type"
    )


def test_a_run_that_stopped_says_so(tmp_path: Path, storage: Any) -> None:
    """With `keep_going` it doesn't stop. A node that was left tells this first."""
    error = "&#x27;scale&#x27; raised ValueError"
    for keep_going, said in ((True, f">{error}<"), (False, f">The run stopped when {error}<")):
        values = load(5).set_name("load")
        scaled = scale(values, 0.0).set_name("scale")
        after = total(scaled["scaled"]).set_name("after")
        other = total(values).set_name("other")
        flow = LocalWorkflow(scaled, after, other, workflow_name=f"numbers {keep_going}")
        flow.set_storage(storage)
        with pytest.raises(ValueError, match="no factor"):
            flow.run(keep_going=keep_going)
        path = report(flow).save(tmp_path / "run.html")
        assert said in path.read_text()
        data = read(path)
        why = dict(zip(column(data, "name"), column(data, "reason"), strict=True))
        assert "follows 'scale', which failed" == why["after"]
        left = "" if keep_going else "the run stopped when 'scale' failed; "
        assert f"{left}nothing stored" == why["other"]


def test_an_error_is_told_without_secrets(tmp_path: Path, storage: Any) -> None:
    """The argument in `ignore`, which the error quotes, is in no page."""
    flow = graph(factor=0)
    flow.set_storage(storage)
    with pytest.raises(ValueError, match="SECRET"):
        flow.run()
    path = storage.report("numbers").save(tmp_path / "run.html", values=True)
    html, data = path.read_text(), read(path)
    assert ">&#x27;scale&#x27; raised ValueError</a></p>" in html
    assert " · ran in this process · " in html
    assert ["computed", "failed", "not run"] == column(data, "action")
    assert "SECRET" not in html + json.dumps(data)
    assert html == report(flow).save(tmp_path / "again.html", values=True).read_text()


def test_a_graph_that_grew(tmp_path: Path) -> None:
    """All parts of the run are in the page of the last."""
    values = load(3).set_name("load")
    flow = LocalWorkflow(workflow_name="grown")
    for number in flow.value(values):
        flow.add(scale(values, number + 1).set_name(f"scale {number:.0f}"))
    flow.run()
    data = read(report(flow).save(tmp_path / "run.html"))
    assert ["load", "scale 0", "scale 1", "scale 2"] == column(data, "name")
    assert [[], [0], [0], [0]] == data["columns"]["parents"]


class Value:
    """Something that a weak reference can follow."""


@workflow
def make() -> Value:
    return Value()


@workflow
def use(value: Value) -> weakref.ref[Value]:
    return weakref.ref(value)


def test_a_report_holds_no_values() -> None:
    """And the workflow is released at once, without the collector of garbage."""
    gc.collect()
    gc.disable()
    try:
        flow = LocalWorkflow(use(make()), workflow_name="light")
        value = flow.run()
        kept = report(flow)
        flow_gone = weakref.ref(flow)
        del flow
        assert (None, None) == (value(), flow_gone())
    finally:
        gc.enable()
    assert kept.write is not None


def test_a_report_made_by_hand_has_no_page(tmp_path: Path) -> None:
    """The error says why."""
    with pytest.raises(GraphError, match="has no graph, so it can't be saved as a page"):
        Report("x", list).save(tmp_path / "run.html")


def test_a_record_of_anybody(tmp_path: Path, storage: Any) -> None:
    """A time that is none, parents that come later or are unknown: the page is made."""
    ident = "20260102T030405.678901Z-1f2e3d"
    texts = dict.fromkeys(("user", "host", "python", "commit", "backend"), "<b>")
    about = {"id": ident, "workflow": "numbers", "seconds": 1e17, "error": None}
    columns = {
        "name": ["a", "b"],
        "action": ["computed", "<i>"],
        "parents": [["b", "c"], ["a"]],
        "seconds": [float("inf"), -1.0],
        "arguments": [{"x": {"node": "gone"}}, {"x": {"type": "t"}}],
    }
    storage.new_workflow("numbers")
    storage.record_run("numbers", {**about, **texts, "started": "soon"}, columns)
    found = storage.report("numbers")
    assert [[1], [0]] == read(found.save(tmp_path / "run.html"))["columns"]["parents"]
    assert [(0, 1)] == [(edge.source, edge.target) for edge in found.picture().edges]


GRAPH = """\
---
title: "numbers"
---
flowchart LR
  classDef function fill:#eaf2fd,stroke:#5a8fd6,color:#1f2933
  classDef constructor fill:#ffe3b8,stroke:#d98a1f,color:#1f2933
  classDef method fill:#fff4e0,stroke:#d98a1f,color:#1f2933
  n0["load"]:::function
  n1["scale"]:::function
  n2["total"]:::function
  n0 -->|"[1#58;]"| n1
  n1 -->|"['scaled']"| n2
"""


def test_graph_is_printed_or_written(
    tmp_path: Path, storage: FileStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each format; the text is the same as in the file."""
    stored(storage)
    words = ["--storage", str(tmp_path / "results"), "graph", "numbers"]
    assert 0 == command(words)
    assert GRAPH == capsys.readouterr().out
    for form, begin in (("dot", "digraph {"), ("svg", "<svg "), ("mermaid", "---\n")):
        assert 0 == command([*words, "--format", form])
        printed = capsys.readouterr().out
        assert printed.startswith(begin)
        path = tmp_path / "graph"
        assert 0 == command([*words, "--format", form, "-o", str(path)])
        assert printed == path.read_text()
        assert f"{path}  " in capsys.readouterr().out
        assert 0 == command([*words, "--format", form, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert {"workflow": "numbers", "format": form, "text": printed} == document
    assert 2 == command([*words, "-o", str(tmp_path / "missing" / "graph")])
    error = capsys.readouterr().err
    assert f"{str(tmp_path / 'missing' / 'graph')!r} can't be written: No such file" in error


def test_report_command(
    tmp_path: Path, storage: FileStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """It chooses runs as `runs` does, and its document names them and the file."""
    ids = [report(stored(storage, factor=factor)).run for factor in (2.0, 3.0)]
    path = tmp_path / "run.html"
    words = ["--storage", str(tmp_path / "results"), "report", "numbers", "-o", str(path)]
    for more, run, before in (
        ([], ids[1], ids[0]),
        (["--run", ids[0]], ids[0], None),
        (["--run", "-2", "--compare", "-1"], ids[0], ids[1]),
    ):
        assert 0 == command([*words, *more, "--json"])
        size = path.stat().st_size
        expected = {"workflow": "numbers", "run": run, "compared": before, "file": str(path)}
        assert {**expected, "bytes": size} == json.loads(capsys.readouterr().out)
        assert run == read(path)["run"]
    assert [] == read(path)["previews"]
    assert 0 == command([*words, "--values"])
    assert 3 == len(read(path)["previews"])

    capsys.readouterr()
    wrong = str(tmp_path / "missing" / "run.html")
    assert 2 == command([*words[:-1], wrong])
    assert (
        f"functionfuse: the report of workflow 'numbers' can't be written to {wrong!r}: No such"
        " file or directory\n"
    ) == capsys.readouterr().err
    assert 2 == command([*words, "--run", "2000"])
    assert 2 == command(["report", "numbers"])


def test_report_of_a_process(tmp_path: Path, storage: FileStorage) -> None:
    """The command as it is typed; numpy isn't imported for it."""
    stored(storage)
    path = tmp_path / "run.html"
    words = ["--storage", str(tmp_path / "results"), "report", "numbers", "-o", str(path)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "functionfuse", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(rf"{re.escape(str(path))}  [\d.]+ kB\n", done.stdout)
    assert "numpy" not in done.stderr
    with pytest.raises(StoragePathError):
        storage.report("numbers").save(tmp_path)


def test_an_error_without_a_storage_tells_no_secrets(tmp_path: Path) -> None:
    """As with a record: it may quote an ignored argument of the node, or of one above it."""
    flow = graph(factor=0.0)
    with pytest.raises(ValueError, match="SECRET"):
        flow.run()
    path = tmp_path / "run.html"
    report(flow).save(str(path))
    data = read(path)
    assert ["load", "scale", "total"] == column(data, "name")
    assert "ValueError" in json.dumps(data)
    assert "SECRET" not in json.dumps(data)


def test_results_that_can_not_be_compared(tmp_path: Path, storage: Any) -> None:
    """A result that isn't stored is equal to none, although nothing says that it differs."""
    for count in (5, 6):
        flow = graph(count)
        flow.set_storage(storage)
        if count == 5:
            flow.log_nodes("load")
        flow.run()
    changes = storage.report("numbers").page().changes
    assert changes is not None
    assert "load" not in changes.equal
    assert ["total"] == list(changes.equal)


def test_a_comparison_with_a_damaged_record(tmp_path: Path, storage: Any) -> None:
    """It is refused, if it was asked for."""
    for count in (5, 6):
        stored(storage, count=count)
    first, last = (run.id for run in storage.runs("numbers"))
    record = tmp_path / "results" / "numbers" / ".runs" / first
    record.write_bytes(record.read_bytes()[:-1])
    with pytest.raises(ResultNotFoundError, match=f"the record of run '{first}' of workflow"):
        storage.report("numbers", run=last, compare=first)
    assert storage.report("numbers").before is None


def test_what_is_written_into(tmp_path: Path) -> None:
    """A link stays one, a file keeps its permissions, and a pipe is written into."""
    flow = graph()
    flow.run()
    path, link, pipe = (tmp_path / name for name in ("run.html", "link.html", "pipe"))
    path.write_text("before")
    path.chmod(0o600)
    link.symlink_to(path)
    report(flow).save(str(link))
    assert link.is_symlink()
    assert "numbers" in path.read_text()
    assert 0o600 == path.stat().st_mode & 0o777
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    report(flow).save(str(pipe))
    assert path.read_text() == reader.communicate()[0]
    assert pipe.is_fifo()
    assert ["link.html", "pipe", "run.html"] == sorted(file.name for file in tmp_path.iterdir())


@pytest.mark.parametrize("words", [["report"], ["graph", "--format", "svg"]])
def test_a_dash_is_no_file(
    words: list[str], tmp_path: Path, storage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a file of this name."""
    stored(storage)
    folder = ["--storage", str(tmp_path / "results")]
    assert 2 == command([*words, "numbers", "-o", "-", *folder])
    assert "-o takes a file" in capsys.readouterr().err
