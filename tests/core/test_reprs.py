"""Texts and HTML for people: what an interpreter and a notebook show of each object."""

from __future__ import annotations

import html.parser
import re
import time
from pathlib import Path
from typing import Any

import pytest

from functionfuse import GraphWorkflow, LocalWorkflow, Storage, storage_factory, workflow
from functionfuse.run.report import NodeRecord, Report
from functionfuse.storage import runrecord, upkeep
from functionfuse.storage.blobstore import BlobStore
from functionfuse.storage.runrecord import RecordedNode


class Untouchable:
    """A value that must not be looked at."""

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError

    __repr__ = __len__ = __str__ = __bool__ = __iter__ = __eq__ = __getattr__ = _refuse
    __hash__ = None  # type: ignore[assignment]


@workflow
def load(number: Any, *more: Any, **named: Any) -> Any:
    return number


@workflow
def add(first: Any, second: Any = 0) -> Any:
    return first + second


@workflow
def wrong(first: Any) -> Any:
    raise ValueError(first)


@workflow(ignore=["password"])
def log_in(user: str, password: str, *more: Any) -> str:
    return user


def _wrapped(*args: Any, **kwargs: Any) -> str:
    return "user"


logged_in = workflow(ignore=["password"])(_wrapped)


@workflow
class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def pay(self, amount: int) -> int:
        self.balance -= amount
        return self.balance

    def _repr_html_(self) -> str:
        return "html"

    _repr_svg_ = _repr_html_


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storage_factory({"kind": "file", "options": {"path": tmp_path / "results"}})


def texts_of(shown: str) -> list[str]:
    """Return the texts in HTML; fails if there is any tag or attribute that can do something."""
    found: list[str] = []
    tags = "style div p b pre table thead tbody tr th td span svg title rect text g path polygon"

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in tags.split()
            assert not [name for name, _ in attrs if name.startswith("on") or "href" in name]

        def handle_data(self, data: str) -> None:
            if data.strip() and not data.startswith(".functionfuse"):
                found.append(data)

    parser = Parser()
    parser.feed(shown)
    parser.close()
    return found


def html_of(shown: Any) -> list[str]:
    return texts_of(shown._repr_html_())


LINE = r" at test_reprs\.py:\d+>"
NODES = [
    (lambda: load(1.5), r"load\(1\.5\)"),
    (lambda: load(None, "text", b"bytes", True), r"load\(None, 'text', b'bytes', True\)"),
    (lambda: load("x" * 99), rf"load\('{'x' * 24}'…\)"),
    (lambda: load(10**6000), r"load\(…\)"),
    (lambda: load(Untouchable(), [1], k=Untouchable()), r"load\(…, …, k=…\)"),
    (lambda: load(1, 2, 3, 4, 5, k=6), r"load\(1, 2, 3, 4, 5, …\)"),
    (lambda: load([load(1), 2]), r"load\(…\)"),
    (lambda: add(load(1), 2), r"add\(<'load_\d+'>, 2\)"),
    (lambda: add(1, second=load(2)["a"][1:]), r"add\(1, second=<'load_\d+'\['a'\]\[1:\]>\)"),
    (lambda: log_in("user", "secret"), r"log_in\('user', …\)"),
    (lambda: log_in("user", "secret", "secret"), r"log_in\('user', …, …\)"),
    (lambda: log_in("user", password="secret"), r"log_in\('user', password=…\)"),
    (lambda: logged_in("secret"), r"_wrapped\(…\)"),
    (lambda: logged_in(key="secret"), r"_wrapped\(key=…\)"),
    (lambda: Account(5).pay(2), r"Account\.pay\(2\)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "call"), NODES)
def test_a_node_shows_its_call(make: Any, call: str) -> None:
    """With nodes, numbers and short texts; without ignored arguments, and without other values."""
    node = make().set_name("it's")
    assert re.fullmatch(f"""<node "it's": {call}{LINE}""", repr(node))
    title, *rows = html_of(node)
    assert 'node "it\'s"' == title
    assert re.match(f"{call} at test_reprs.py:", rows[1])
    assert "secret" not in str(rows)


def test_picks_objects_and_functions_show_their_names() -> None:
    """In a debugger and in messages."""
    node = load(1).set_name("n")
    assert re.fullmatch(rf"<node 'n': load\(1\){LINE}\['a'\]\[0\]", repr(node["a"][0]))
    made = Account(3).set_name("o")
    assert re.fullmatch(rf"<object of <node 'o': Account\(3\){LINE}>", repr(made))
    assert "load" in repr(load)
    assert [html_of(node), html_of(made)] == [html_of(node["a"]), html_of(made._constructor)]


def test_a_node_shows_its_neighbours() -> None:
    """Some of them, if there are many."""
    node = load(1).set_name("n")
    for number in range(12):
        add(node).set_name(f"child {number}")
    shown = html_of(node)
    names = ", ".join(f"'child {number}'" for number in range(5))
    assert ["needed by", f"{names} and 7 more"] == shown[-2:]
    assert ["needs", "'n'"] == html_of(node.children[0])[-2:]


def test_a_notebook_makes_no_nodes() -> None:
    """It asks objects of a class for drawings; those of the class are no nodes, and no drawings."""
    made = Account(3)
    assert "Account" in html_of(made)[0]
    assert not hasattr(made, "_repr_svg_")
    assert not hasattr(Account, "_repr_html_")
    assert not made._constructor.children


def test_a_workflow_shows_its_graph() -> None:
    """As a picture on the page's own background."""
    node = add(load(1).set_name("a"), load(2).set_name("b")).set_name("c")
    for kind in (LocalWorkflow, GraphWorkflow):
        flow = kind(node, workflow_name="w")
        assert f"<{kind.__name__} 'w', made from 'c'>" == repr(flow)
        shown = html_of(flow)
        assert "workflow 'w': 3 nodes" == shown[0]
        assert {"a", "b", "c"} <= set(shown)
        assert "<svg" in flow._repr_html_()
        assert "#ffffff" not in flow._repr_html_()


def test_a_large_workflow_shows_a_table() -> None:
    """The nodes of each function; a workflow that only draws shows more."""
    nodes = [add(load(number)) for number in range(151)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    assert "<LocalWorkflow 'w', made from 151 nodes>" == repr(flow)
    assert ["workflow 'w': 302 nodes", "function", "nodes", "load", "151", "add", "151"] == (
        html_of(flow)
    )
    assert "<svg" in GraphWorkflow(*nodes, workflow_name="w")._repr_html_()


def test_a_workflow_without_a_graph_says_why() -> None:
    """No nodes, or two of one name."""
    assert ["workflow 'w'", "workflow 'w' has no nodes: add(node) adds one"] == (
        html_of(LocalWorkflow(workflow_name="w"))
    )
    flow = LocalWorkflow(load(1).set_name("a"), load(2).set_name("a"), workflow_name="w")
    assert "has two nodes named 'a'" in html_of(flow)[1]


def record(number: int, action: str, **fields: Any) -> NodeRecord:
    return NodeRecord(f"node {number}", action, **fields)


def test_a_report_shows_what_matters() -> None:
    """Failed nodes first, then computed ones, up to 20; the others are counted by their action."""
    nodes = [record(n, ("reused", "computed")[n % 2], seconds=1.0, bytes=1000) for n in range(40)]
    nodes += [record(40, "not run"), record(41, "failed", reason="ValueError: no", attempts=2)]
    shown = html_of(Report("w", lambda: nodes, lambda: ["a hint"]))
    assert "workflow 'w': 20 reused, 20 computed, 1 not run, 1 failed" in shown[0]
    assert ["node", "action", "time", "size", "why"] == shown[1:6]
    assert ["node 41", "✕", " failed", "ValueError: no; 2 attempts, the last error was "] == shown[
        6:10
    ]
    assert ["node 1", "●", " computed", "1.0 s", "1.0 kB"] == shown[10:15]
    assert ["node 37", "●", " computed", "1.0 s", "1.0 kB"] == shown[-7:-2]
    left = "… and 22 more: 1 computed, 1 not run, 20 reused"
    assert [left, "note: a hint"] == shown[-2:]


def test_a_plan_shows_what_would_run(storage: Storage) -> None:
    """Each action has a sign of its own."""
    first = load(1).set_name("a")
    flow = LocalWorkflow(add(first).set_name("b"), workflow_name="w")
    flow.set_storage(storage)
    flow.run()
    storage.remove_task("w", "b")
    shown = html_of(flow.plan())
    assert ["b", "●", " compute"] == shown[6:9]
    assert ["a", "○", " reuse"] == shown[10:13]


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</td></table></style><b onclick=alert(1)>",
    "\x1b[31mred\x1b[0m\x07",
    "\u202eevil\u2066",
    "line\nline\r\n\0",
    "&lt;&#x3c;&amp",
    "\ud800 half",
    "javascript:alert(1)",
    "long" * 2500,
    "%s {name} ${x}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_nothing(name: str, storage: Storage) -> None:
    """Those of nodes and workflows, texts of errors and arguments: none is HTML or a control."""
    # Only as a text: as a long text it is no argument in a record.
    node = add(load(name).set_name(name), name).set_name(f"{name}2")
    flows = [LocalWorkflow(each, workflow_name=name) for each in (node, wrong(node))]
    for flow in flows:
        flow.set_storage(storage)
        try:
            flow.run()
        except ValueError:
            continue
    runs = storage.runs(name)
    shown = [
        *(node, node["key"], flows[0], flows[1], flows[0].report, flows[1].report, flows[1].plan()),
        *(storage, storage.task_info(name, name), runs, *runs, runs[0].compare(runs[1])),
        storage.lineage(name, f"{name}2"),
        GraphWorkflow(node, workflow_name=name),
        LocalWorkflow(*(load(n) for n in range(301)), workflow_name=name),
    ]
    for thing in shown:
        page = thing._repr_html_()
        texts = texts_of(page)
        assert len(texts) > 1
        page.encode()
        assert re.sub(r"\s", "", page).isprintable()
        assert len(page) < 50_000
        for text in (repr(thing), str(thing)):
            assert text.replace("\n", "").isprintable()


def test_a_repr_of_a_result_is_one_line(storage: Storage) -> None:
    """Printed it is a list; in a notebook a table, with the parents."""
    flow = LocalWorkflow(
        add(load(1).set_name("a"), load(2).set_name("b")).set_name("c"), workflow_name="w"
    )
    flow.set_storage(storage)
    flow.run()
    info = storage.task_info("w", "c")
    assert ("a", "b") == info.parents
    about = r"builtins.int, 1\.\d kB, [\d.]+ ms, \d{4}-\d\d-\d\dT[\d:.]+Z"
    assert re.fullmatch(f"<result of task 'c' of workflow 'w': {about}>", repr(info))
    lines = dict(line.split(maxsplit=1) for line in str(info).splitlines())
    assert ("c", "'a', 'b'", info.digest) == (lines["task"], lines["parents"], lines["digest"])
    title, *cells = html_of(info)
    assert "result of task 'c' of workflow 'w'" == title
    assert "'a', 'b'" == cells[cells.index("parents") + 1]
    assert repr(info._replace(type="\x1b[31m\n", created="\u202e")).isprintable()


@pytest.mark.parametrize(
    ("fingerprint", "parents"),
    [
        ({}, ()),
        ({"parents": 5, "before": 6}, ()),
        ({"parents": [[], [5], "text", ["a", 1], ["a"], [""]], "before": ["b", ""]}, ("a", "b")),
        ({"call": 5}, ()),
    ],
)
def test_a_strange_fingerprint_has_no_parents(
    fingerprint: dict[str, Any], parents: tuple[str, ...], storage: Storage
) -> None:
    """It can be anything."""
    info = storage.save("w", "t", 1, fingerprint=fingerprint)
    assert parents == info.parents
    assert html_of(info)


def stored(storage: Storage, count: int, name: str = "w") -> None:
    for number in range(count):
        storage.save(name, f"task {number}", number)


def test_a_storage_shows_its_workflows(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number of results and their size; no result is read."""
    assert f"{storage!r}: 0 workflows" == html_of(storage)[0]
    stored(storage, 3)
    stored(storage, 1, "other")
    size = storage.du("w")[0].size
    for name in ("get", "blocks", "put"):
        monkeypatch.setattr(type(storage.store), name, None)
    title, *cells = html_of(storage)
    assert f"{storage!r}: 2 workflows" == title
    assert ["workflow", "results", "size", "other", "1"] == cells[:5]
    assert ["w", "3", f"{size / 1000:.1f} kB"] == cells[6:]


def test_a_storage_counts_bytes_for_a_short_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that, it only counts results."""
    stored(storage, 3)
    monkeypatch.setattr(upkeep, "_PATIENCE", 0.0)
    assert ["w", "3", "…"] == html_of(storage)[-3:]


def test_many_workflows_are_counted(storage: Storage) -> None:
    """20 are shown."""
    for number in range(22):
        stored(storage, 1, f"workflow {number:02}")
    assert ["… and 2 more workflows"] == html_of(storage)[-1:]
    assert "workflow 19" in html_of(storage)
    assert "workflow 20" not in html_of(storage)


def test_a_storage_that_cannot_be_read_says_so(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repr raises nothing."""
    stored(storage, 1)

    def fail(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "results")

    monkeypatch.setattr(type(storage.store), "list", fail)
    assert ["w", "PermissionError"] == html_of(storage)[-2:]
    monkeypatch.setattr(type(storage.store), "names", fail)
    assert [repr(storage), "[Errno 13] Permission denied: 'results'"] == html_of(storage)


class Remote(BlobStore):
    """A store whose answers are requests; none must be made."""

    remote = True
    put = get = list = delete = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Remote('bucket')"


def test_a_storage_makes_no_requests() -> None:
    """It says which call does."""
    shown = html_of(Storage(Remote()))
    assert [
        "Storage(Remote('bucket'))",
        "du() returns its workflows and their sizes, by requests",
    ] == shown


def head(number: int, **fields: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("user", "host", "python", "commit", "backend"), "text")
    started = "2026-01-02T03:04:05Z"
    about = {"id": f"{number:06x}", "workflow": "w", "started": started, "seconds": 1.5}
    return {**texts, **about, "error": None, **fields}


def columns(nodes: list[RecordedNode]) -> dict[str, Any]:
    return dict(zip(RecordedNode._fields, zip(*nodes, strict=True), strict=True))


def test_runs_show_the_newest(storage: Storage) -> None:
    """20 of them, newest last, as when they are printed."""
    assert ["0 runs of workflow 'w'"] == html_of(storage.runs("w"))
    nodes = columns([RecordedNode("a", "computed"), RecordedNode("b", "reused")])
    for number in range(1, 23):
        storage.record_run("w", head(number), nodes)
    shown = html_of(storage.runs("w"))
    assert ["22 runs of workflow 'w'", "… and 2 more older runs"] == shown[:2]
    assert ["run", "started (UTC)", "took", "nodes", "error", f"{3:06x}"] == shown[2:8]
    about = ["2026-01-02 03:04:05", "    1.500 s", "1 computed, 1 reused"]
    assert [f"{22:06x}", *about] == shown[-4:]


def test_a_run_shows_what_matters(storage: Storage) -> None:
    """Who, when and how; failed nodes first."""
    failed = RecordedNode("c", "failed", "ValueError: no", seconds=2.0)
    nodes = columns([RecordedNode(f"a{n}", "reused") for n in range(25)] + [failed])
    error = {"type": "ValueError", "text": "no", "node": "c"}
    storage.record_run("w", head(1, error=error), nodes)
    title, *cells = html_of(storage.runs("w")[0])
    assert "run '000001' of workflow 'w'" == title
    expected = {"by": "text on text", "nodes": "25 reused, 1 failed", "error": "ValueError: no"}
    assert expected == {name: cells[cells.index(name) + 1] for name in expected}
    assert ["c", "✕", " failed", "2.0 s", "ValueError: no"] == cells[19:24]
    assert "… and 6 more: 6 reused" == cells[-1]


def test_a_run_with_damaged_nodes_says_so(storage: Storage) -> None:
    """A repr raises nothing."""
    storage.record_run("w", head(1), {"name": ["a"], "action": [5]})
    [run] = runs = storage.runs("w")
    assert "nodes are damaged" in html_of(run)
    assert "nodes are damaged" in html_of(runs)


def test_a_long_record_is_not_parsed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the actions are: otherwise 20 runs of 100,000 nodes would take a minute."""
    names = ['"action":["computed"]', *(f"{n * 7919 % 1000003:x}" for n in range(40_000))]
    actions = ["failed", *["reused"] * 40_000]
    storage.record_run("w", head(1), {"name": names, "action": actions})
    monkeypatch.setattr(runrecord, "nodes_of", None)
    [run] = runs = storage.runs("w")
    assert len(run._nodes) > runrecord.SHORT
    assert "1 failed, 40000 reused" in str(runs)
    assert "1 failed, 40000 reused" in html_of(run)
    assert "action" not in html_of(run)


@pytest.mark.parametrize("actions", [None, ["computed", 5]])
def test_a_long_record_without_actions_is_damaged(actions: Any, storage: Storage) -> None:
    """As a short one."""
    nodes = {"name": [f"{n * 7919 % 1000003:x}" for n in range(40_000)], "action": actions}
    storage.record_run("w", head(1), {name: column for name, column in nodes.items() if column})
    assert str(storage.runs("w")).endswith("nodes are damaged")


def test_lineage_and_changes_show_what_they_print(storage: Storage) -> None:
    """A tree, and a table of 20 rows."""
    for factor in (1, 2):
        nodes = [load(factor * n).set_name(f"node {n}") for n in range(30)]
        flow = LocalWorkflow(add(nodes[1], nodes[2]).set_name("sum"), workflow_name="w")
        flow.add(*nodes)
        flow.set_storage(storage)
        flow.run()
    lineage = storage.lineage("w", "sum")
    assert ["'sum', and 2 results that it was computed from", str(lineage)] == html_of(lineage)
    down = storage.lineage("w", "node 1", down=True)
    assert "'node 1', and 1 result computed from it" == html_of(down)[0]
    first, second = storage.runs("w")
    changes = first.compare(second)
    shown = html_of(changes)
    count = len(changes)
    assert count > 20
    assert [f"{count} changes", "node", "what", "name", "before", "after"] == shown[:6]
    at = shown.index("node 1")
    assert ["node 1", "argument", "number", "1", "→", "2"] == shown[at : at + 6]
    assert 20 == shown.count("→")
    assert f"… and {count - 20} more changes" == shown[-1]
    assert ["no changes"] == html_of(first.compare(first))


def test_large_graphs_are_shown_at_once() -> None:
    """The report of 100,000 nodes, and their workflow."""
    nodes = [load(number) for number in range(100_000)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    records = [record(number, "computed") for number in range(100_000)]
    began = time.process_time()
    shown = [*html_of(flow), *html_of(Report("w", lambda: records)), repr(flow), repr(nodes[0])]
    assert time.process_time() - began < 2.0
    assert "workflow 'w': 100,000 nodes" in shown
    assert "… and 99,980 more: 99,980 computed" in shown
