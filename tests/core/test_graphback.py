"""Drawing a graph: DOT, Mermaid and SVG text, and the files that `run` writes."""

from __future__ import annotations

import html
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from functionfuse import workflow
from functionfuse.backends.builtin import graphback
from functionfuse.backends.builtin.graphback import GraphWorkflow
from functionfuse.errors import DuplicateNameError, GraphError, InvalidNameError, StoragePathError
from functionfuse.show.layout import layers, place
from functionfuse.show.picture import shown

SVG = "{http://www.w3.org/2000/svg}"
NASTY = (
    'a "b" \\ \\n\n\r\t<c> & &amp; ]]> --> #35; `d` _e_ *f*'
    " \x00\x1b\x7f\ufffe\udc80 /../ é 日本 \u202e"
)
any_text = st.text(st.characters(exclude_categories=()), min_size=1)


@workflow
def load(path):
    raise AssertionError("drawing runs nothing")


@workflow
def combine(*values, **more):
    raise AssertionError("drawing runs nothing")


@workflow
class Counter:
    def __init__(self, start=0):
        raise AssertionError("drawing runs nothing")

    def add(self, value):
        raise AssertionError("drawing runs nothing")


@pytest.fixture
def without_dot(monkeypatch, tmp_path):
    """Leave no program on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def fake_dot(monkeypatch, tmp_path):
    """Return a function that makes a shell script be the only `dot` on PATH."""
    if os.name == "nt":
        pytest.skip("the fake program is a shell script")

    def make(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "dot"
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


def parse_dot(text):
    """Return the labels of nodes and edges, read as Graphviz reads them."""
    token = re.compile(r'"((?:\\.|[^"\\])*)"|(->)|([\w.]+)|([\[\]{}=])|(\s+)')
    tokens, end = [], 0
    while end < len(text):
        found = token.match(text, end)
        assert found, f"not DOT: {text[end : end + 40]!r}"
        end = found.end()
        if found[1] is not None:
            assert "\n" not in found[1]
            tokens.append(("text", found[1]))
        elif not found[5]:
            tokens.append(("word", found[0]))
    nodes, edges, title, place = {}, {}, None, 0
    while place < len(tokens):
        word = tokens[place][1]
        place += 1
        if not re.fullmatch(r"n\d+|graph|node|edge", word):
            continue
        statement, target = word, None
        if tokens[place][1] == "->":
            target = tokens[place + 1][1]
            place += 2
        settings = {}
        if place < len(tokens) and tokens[place] == ("word", "["):
            place += 1
            while tokens[place] != ("word", "]"):
                assert tokens[place + 1] == ("word", "=")
                settings[tokens[place][1]] = tokens[place + 2][1]
                place += 3
        label = settings.get("label")
        if target is not None:
            edges[statement, target] = None if label is None else dot_lines(label)
        elif statement == "graph":
            title = dot_lines(label)
        elif label is not None:
            nodes[statement] = dot_lines(label)
    return title, nodes, edges


def dot_lines(label):
    """Return the lines of a label: first its escapes are read, then its entities."""
    pieces = re.findall(r"\\.|[^\\]", label)
    meaning = {r"\n": "\n", r"\"": '"', r"\\": "\\"}
    assert all(len(piece) == 1 or piece in meaning for piece in pieces)
    return html.unescape("".join(meaning.get(piece, piece) for piece in pieces)).split("\n")


def mermaid_nodes(text):
    """Return the lines of each node's label."""
    labels = re.findall(r'^  n\d+[\[({]+"([^"\n]*)"[\])}]+:::\w+$', text, re.MULTILINE)
    return [
        [re.sub(r"#(\d+);", lambda code: chr(int(code[1])), line) for line in label.split("<br/>")]
        for label in labels
    ]


def svg_boxes(text):
    """Return, for each kind of node, each node's texts (the first is the tooltip) and shape."""
    root = ET.fromstring(text)
    return {
        group.get("class"): [
            (
                [line.text for line in box if line.tag in (f"{SVG}title", f"{SVG}text")],
                next(line.tag.removeprefix(SVG) for line in box if line.tag != f"{SVG}title"),
            )
            for box in group
        ]
        for group in root.iter(f"{SVG}g")
        if group.get("class")
    }


def test_dot_says_nodes_edges_and_picks():
    """The DOT text has every node with its name and function, and every edge with its picks."""
    first = load("a")
    second = combine(first, first[0], [first["x"]["y"], {"k": first[1:3]}]).set_name("second")
    title, nodes, edges = parse_dot(GraphWorkflow(second, workflow_name="one two").dot())
    assert title == ["one two"]
    assert nodes == {"n0": ["load_0000"], "n1": ["second", "combine"]}
    assert edges == {("n0", "n1"): ["result, [0], ['x']['y'], [1:3]"]}


def test_whole_results_have_no_label():
    """An edge says nothing where all of a result is used."""
    node = combine(load("a"), more=[load("b")])
    _, nodes, edges = parse_dot(GraphWorkflow(node, workflow_name="w").dot())
    assert list(nodes.values()) == [["load_0000"], ["load_0001"], ["combine_0000"]]
    assert edges == {("n0", "n2"): None, ("n1", "n2"): None}


def test_stateful_nodes_look_different():
    """A class's constructor, its methods and functions have shapes and arrows of their own."""
    counter = Counter(load("a")).set_name("counter")
    first = counter.add(1)
    second = counter.add(first["n"])
    graph = GraphWorkflow(second, workflow_name="w")
    assert svg_boxes(graph.svg()) == {
        "function": [(["load_0000", "load_0000"], "rect")],
        "constructor": [(["counter", "counter", "Counter"], "polygon")],
        "method": [
            (["Counter.add_0000", "Counter.add_0000"], "rect"),
            (["Counter.add_0001", "Counter.add_0001"], "rect"),
        ],
    }
    assert re.findall(r"shape=(\w+)", graph.dot()) == ["box", "hexagon", "ellipse"]
    assert re.findall(r"(n\d) (..>)(\S*) (n\d)", graph.mermaid()) == [
        ("n0", "-->", "", "n1"),
        ("n1", "==>", "", "n2"),
        ("n2", "==>", "|\"['n']\"|", "n3"),
    ]
    assert graph.dot().count("penwidth") == 2


def test_value_of_call_before_is_told_from_state():
    """An edge from the call before says so when that call's result is used as well."""
    counter = Counter()
    first = counter.add(1)
    second = counter.add(first)
    _, _, edges = parse_dot(GraphWorkflow(second, workflow_name="w").dot())
    assert edges == {("n0", "n1"): None, ("n1", "n2"): ["result"]}


def test_shared_containers_are_walked_once():
    """Containers that share containers cost no more than what they hold."""
    inner = [load("a")[0]]
    for _ in range(60):
        inner = [inner, inner]
    _, _, edges = parse_dot(GraphWorkflow(combine(inner), workflow_name="w").dot())
    assert edges == {("n0", "n1"): ["[0]"]}


@given(any_text, any_text, any_text)
@example("&amp; &lt;", "&quot;", "&#38;")
@example('\\N \\" \\', "<br/>", "]]> --> #35; #quot;")
def test_names_of_any_text_are_escaped(name, key, workflow_name):
    """Whatever names and keys hold, all three texts can be read and say the same."""
    node = combine(load("a").set_name("x" + name)[key]).set_name("y" + name)
    graph = GraphWorkflow(node, workflow_name=workflow_name)
    expected = [[shown("x" + name), "load"], [shown("y" + name), "combine"]]
    title, nodes, edges = parse_dot(graph.dot())
    assert title == [shown(workflow_name)]
    assert list(nodes.values()) == expected
    assert len(edges) == 1
    assert mermaid_nodes(graph.mermaid()) == expected
    graph.mermaid().encode()
    boxes = svg_boxes(graph.svg().encode())["function"]
    assert [texts[1:] for texts, _ in boxes] == expected


def test_control_characters_are_visible():
    """A name with characters that no text can hold is shown with Python's escapes."""
    graph = GraphWorkflow(load(1).set_name("a\0\n\udc80\x1b é"), workflow_name="w")
    [[tooltip, name, _], _] = svg_boxes(graph.svg())["function"][0]
    assert name == r"a\x00\n\udc80\x1b é"
    assert tooltip == name


def test_long_names_are_shortened_in_the_middle():
    """A long name is drawn short, with both its ends; the tooltip has it whole."""
    name = "begin" + "x" * 10_000 + "end"
    [[tooltip, drawn, _], _] = svg_boxes(
        GraphWorkflow(load(1).set_name(name), workflow_name="w").svg()
    )["function"][0]
    assert tooltip == name
    assert len(drawn) == 48
    assert (drawn[:5], drawn[-3:]) == ("begin", "end")


def test_mermaid_keeps_markdown_out():
    """What Mermaid would take for Markdown, HTML or its own syntax is written as numbers."""
    graph = GraphWorkflow(load(1).set_name("1. `a` *b* __c__ <d>; --> e_f"), workflow_name='"w"')
    text = graph.mermaid()
    [label] = re.findall(r'n0\["(.*)<br/>load"\]', text)
    assert re.findall(r"[^\w #;]", label) == []
    assert "e_f" in label
    assert text.startswith('---\ntitle: "\\"w\\""\n---\nflowchart LR\n')


def test_run_without_dot_writes_both_files(without_dot, tmp_path):
    """Without Graphviz, `run` writes DOT text and our own drawing, and returns its path."""
    graph = GraphWorkflow(
        combine(load(1)), workflow_name="my workflow", doc_path=tmp_path / "new" / "docs"
    )
    path = graph.run()
    assert path == tmp_path / "new" / "docs" / "my workflow.svg"
    assert path.read_text(encoding="utf-8") == graph.svg()
    assert path.with_suffix(".dot").read_text(encoding="utf-8") == graph.dot()
    assert ET.parse(path).getroot().tag == f"{SVG}svg"
    assert sorted(os.listdir(path.parent)) == ["my workflow.dot", "my workflow.svg"]


def test_run_without_doc_path_writes_to_current_folder(without_dot, tmp_path, monkeypatch):
    """Without `doc_path` the files go to the current folder."""
    monkeypatch.chdir(tmp_path)
    assert GraphWorkflow(load(1), workflow_name="w").run() == Path("w.svg")
    assert (tmp_path / "w.svg").exists()


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", ".hidden", "..", NASTY, "long" * 200, "日" * 200]
)
def test_files_stay_in_the_folder(without_dot, tmp_path, name):
    """No workflow name leads out of the folder, hides a file or is too long for one."""
    folder = tmp_path / "docs"
    path = GraphWorkflow(load(1), workflow_name=name, doc_path=folder).run()
    assert path.parent == folder
    assert sorted(os.listdir(folder)) == sorted([path.name, f"{path.stem}.dot"])
    assert not path.name.startswith(".")
    assert os.listdir(tmp_path) == ["docs"]


def test_files_of_two_workflows_differ(without_dot, tmp_path):
    """Workflows with alike names don't overwrite each other's files."""
    names = ["a/b", "a_b", "a%2Fb", "a\\b", "x" * 300, "x" * 301, "." + "x", "%2Ex"]
    paths = {GraphWorkflow(load(1), workflow_name=n, doc_path=tmp_path).run() for n in names}
    assert len(paths) == len(names)


def test_run_uses_dot(fake_dot, tmp_path):
    """The SVG is what the program `dot` makes of the DOT text."""
    fake_dot(
        '#!/bin/sh\necho "<svg><!-- $1"\nwhile read -r l; do echo "$l"; done\necho "--></svg>"\n'
    )
    graph = GraphWorkflow(load(1), workflow_name="w", doc_path=tmp_path / "docs")
    text = graph.run().read_text()
    assert text.startswith("<svg><!-- -Tsvg\ndigraph {\n")
    assert "load_0000" in text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho no fonts here >&2\nexit 3\n", "exit code 3, and it says 'no fonts here'"),
        ("#!/bin/sh\necho half a pic\n", "exit code 0, and it says 'nothing'"),
        ("#!/bin/sh\necho '<svg></svg>'\nexit 1\n", "exit code 1"),
        ("#!/bin/sh\nwhile :; do :; done\n", "timed out after 0.5 seconds"),
        ("#!/nowhere/at/all\n", "No such file"),
    ],
)
def test_failing_dot_is_replaced(fake_dot, tmp_path, caplog, monkeypatch, script, said):
    """When `dot` fails or never ends, our own drawing is written, and a warning says why."""
    monkeypatch.setattr(graphback, "_DOT_SECONDS", 0.5)
    fake_dot(script)
    graph = GraphWorkflow(load(1), workflow_name="w", doc_path=tmp_path / "docs")
    with caplog.at_level(logging.WARNING, logger="functionfuse"):
        path = graph.run()
    assert path.read_text(encoding="utf-8") == graph.svg()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()


def test_huge_graph_does_not_wait_for_dot(fake_dot, tmp_path, caplog):
    """A graph that would keep `dot` busy for minutes is drawn without it."""
    fake_dot("#!/bin/sh\nexit 3\n")
    graph = GraphWorkflow(
        combine([load(number) for number in range(1_500)]),
        workflow_name="w",
        doc_path=tmp_path / "docs",
    )
    assert graph.run().read_text(encoding="utf-8") == graph.svg()
    assert caplog.records == []


def test_run_replaces_earlier_files(without_dot, tmp_path):
    """Drawing again replaces what was drawn before."""
    first = load(1)
    graph = GraphWorkflow(first, workflow_name="w", doc_path=tmp_path)
    graph.run()
    combine(first)
    assert "combine_0000" in graph.run().read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == ["w.dot", "w.svg"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_failed_write_leaves_earlier_file(without_dot, tmp_path, monkeypatch, fails_at):
    """A file whose writing fails half-way stays as it was, and nothing lies beside it."""
    first = load(1)
    graph = GraphWorkflow(first, workflow_name="w", doc_path=tmp_path)
    graph.run()
    before = [(tmp_path / name).read_bytes() for name in ("w.dot", "w.svg")]
    combine(first)
    write, calls = Path.write_bytes, []

    def fail(self, data):
        calls.append(self)
        if len(calls) < fails_at:
            return write(self, data)
        write(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StoragePathError, match="No space left"):
        graph.run()
    after = [(tmp_path / name).read_bytes() for name in ("w.dot", "w.svg")]
    assert after[fails_at - 1 :] == before[fails_at - 1 :]
    assert sorted(os.listdir(tmp_path)) == ["w.dot", "w.svg"]


@pytest.mark.parametrize("where", ["file", "file/below", "null\0"])
def test_bad_folder_is_an_error(without_dot, tmp_path, where):
    """A `doc_path` that can't be a folder is an error that names workflow and path."""
    (tmp_path / "file").write_text("")
    graph = GraphWorkflow(load(1), workflow_name="my graph", doc_path=tmp_path / where)
    with pytest.raises(StoragePathError, match=r"'my graph'.*doc_path") as caught:
        graph.run()
    assert isinstance(caught.value, OSError)
    assert where in str(caught.value)


def test_bad_arguments():
    """What is no node, no name or no path is refused before anything is drawn."""
    with pytest.raises(GraphError):
        GraphWorkflow(3, workflow_name="w")
    with pytest.raises(InvalidNameError):
        GraphWorkflow(load(1), workflow_name="")
    with pytest.raises(GraphError, match="doc_path"):
        GraphWorkflow(load(1), workflow_name="w", doc_path=3)
    with pytest.raises(GraphError):
        GraphWorkflow(workflow_name="w").svg()


def test_duplicate_names_write_nothing(tmp_path):
    """Two nodes with one name are an error, and no file is written."""
    node = combine(load(1).set_name("a"), load(2).set_name("a"))
    with pytest.raises(DuplicateNameError):
        GraphWorkflow(node, workflow_name="w", doc_path=tmp_path / "docs").run()
    assert not (tmp_path / "docs").exists()


def test_layers_follow_longest_paths():
    """A box stands behind all of its parents, and a source right in front of its first child."""
    edges = [(0, 1), (1, 2), (0, 2), (3, 4), (2, 4)]
    assert layers(6, edges) == [0, 1, 2, 2, 3, 0]


def test_flow_turns_down_when_long():
    """A long chain flows down, a short or wide graph to the right."""
    node = load(0)
    for _ in range(10):
        node = combine(node)
    assert "rankdir=TB" in GraphWorkflow(node, workflow_name="w").dot()
    assert "flowchart TB" in GraphWorkflow(node, workflow_name="w").mermaid()
    assert "rankdir=LR" in GraphWorkflow(combine(load(0)), workflow_name="w").dot()


@given(st.data())
def test_boxes_never_overlap(data):
    """In any graph boxes keep apart, edges end at boxes, and all of it is inside of the picture."""
    count = data.draw(st.integers(1, 25))
    edges = sorted(
        {
            (source, target)
            for target in range(1, count)
            for source in data.draw(st.sets(st.integers(0, target - 1), max_size=3))
        }
    )
    breadth = data.draw(st.lists(st.floats(10, 200), min_size=count, max_size=count))
    thickness = data.draw(st.lists(st.floats(10, 200), min_size=count, max_size=count))
    layer = layers(count, edges)
    placed = place(thickness, breadth, edges=edges, layer=layer, gaps=[30.0] * (1 + max(layer)))
    boxes = [
        (along - thick / 2, along + thick / 2, across - broad / 2, across + broad / 2)
        for (along, across), thick, broad in zip(placed.centers, thickness, breadth, strict=True)
    ]
    tiny = 1e-6
    for place_of_one, one in enumerate(boxes):
        assert min(one) > -tiny
        assert one[1] <= placed.along + tiny
        assert one[3] <= placed.across + tiny
        for other in boxes[:place_of_one]:
            apart = (one[0] - other[1], other[0] - one[1], one[2] - other[3], other[2] - one[3])
            assert max(apart) > 1
    for (source, target), route in zip(edges, placed.routes, strict=True):
        assert route[0] == (pytest.approx(boxes[source][1]), placed.centers[source][1])
        assert route[-1] == (pytest.approx(boxes[target][0]), placed.centers[target][1])
        assert [along for along, _ in route] == sorted(along for along, _ in route)
        # On its way an edge has a lane of its own, and touches no box.
        for begin, end in zip(route[1:-1:2], route[2:-1:2], strict=True):
            for left, right, top, bottom in boxes:
                crosses = begin[0] < right - tiny and end[0] > left + tiny
                assert not (crosses and top < begin[1] < bottom)


def test_tree_is_drawn_without_crossings():
    """Children whose order of creation is mixed up are sorted by their parents."""
    parents = [load(number) for number in range(6)]
    children = [combine(parents[place]) for place in (3, 0, 5, 1, 4, 2)]
    order = [child.parents[0].number for child in children]
    edges = [(number - order[1], 6 + place) for place, number in enumerate(order)]
    placed = place([50] * 12, [30] * 12, edges=edges, layer=layers(12, edges), gaps=[0, 30])
    for source, target in edges:
        assert placed.centers[source][1] == pytest.approx(placed.centers[target][1])


@pytest.mark.parametrize("shape", ["chain", "fan", "fed chain"])
def test_huge_graphs_are_drawn_in_linear_time(shape):
    """Eight times the nodes take eight times the calls, and not the 64 times of quadratic work."""
    calls = dict.fromkeys((500, 4_000), 0)
    for count in calls:
        first = node = load(0)
        if shape == "fan":
            node = combine([combine(first, number) for number in range(count)])
        else:
            for _ in range(count):
                node = combine(node, first) if shape == "fed chain" else combine(node)
        graph = GraphWorkflow(node, workflow_name="w")

        def note(*_, count=count):
            calls[count] += 1

        sys.setprofile(note)
        try:
            graph.svg()
        finally:
            sys.setprofile(None)
    assert calls[4_000] < 12 * calls[500]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_the_dot_text(tmp_path):
    """Graphviz itself shows names, keys and title as they are shown in our own drawing."""
    one, two = NASTY[:24], NASTY[24:]
    node = combine(load(1).set_name(one)[NASTY]).set_name(two)
    graph = GraphWorkflow(node, workflow_name="&lt; " + one, doc_path=tmp_path)
    done = subprocess.run(
        ["dot", "-Tsvg"], input=graph.dot().encode(), capture_output=True, check=True
    )
    assert graph.run().read_bytes() == done.stdout
    texts = [
        "".join(text.itertext()).replace("\xa0", " ")
        for text in ET.fromstring(done.stdout).iter(f"{SVG}text")
    ]
    assert {shown(one), shown(two), shown("&lt; " + one), "load", "combine"} <= set(texts)
