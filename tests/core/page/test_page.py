"""The report page as text: its parts, its policy, its data; written atomically."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from report_data import data_of

from functionfuse.errors import StoragePathError
from functionfuse.show.page import save, sentence, to_html
from functionfuse.show.pagedata import Page, PageChanges, PageNode, columns


def page(*nodes: PageNode, **about: Any) -> Page:
    return Page("flow", nodes, **about)


def acted(**counts: int) -> Page:
    names = {"not_run": "not run", "not_needed": "not needed"}
    nodes = [
        PageNode(f"{action} {n}", names.get(action, action), cost=0.5)
        for action, count in counts.items()
        for n in range(count)
    ]
    return page(*nodes)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"computed": 3}, "All 3 nodes were computed."),
        ({"computed": 1}, "1 node was computed."),
        (
            {"computed": 8, "reused": 62},
            "8 of 70 nodes were computed; 62 came from storage, which saved 31 s of computing.",
        ),
        (
            {"reused": 2},
            (
                "Nothing was computed. All 2 results came from storage,"
                " which saved 1.0 s of computing."
            ),
        ),
        (
            {"failed": 1, "computed": 2, "not_run": 3},
            "1 node failed. 2 of 6 nodes were computed. 3 nodes were not run.",
        ),
        (
            {"compute": 1, "reuse": 2, "maybe": 1},
            (
                "1 of 4 nodes would be computed; 2 would come from storage, which saves 1.0 s of"
                " computing. 1 node may have to be computed."
            ),
        ),
        ({"stored": 2}, "2 results are stored. No run was recorded."),
        ({}, "0 of 0 nodes were computed."),
    ],
)
def test_the_outcome_is_a_sentence(counts: dict[str, int], text: str) -> None:
    """It tells failures first, and the time that storage saved."""
    assert text == sentence(acted(**counts))


def test_policy_allows_one_script_and_one_style_by_their_digests() -> None:
    """A changed script would not run, and nothing is loaded."""
    html = to_html(page(PageNode("a", "computed")))
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', html)
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert 1 == len(scripts)
    for kind, text in (("style", style), ("script", scripts[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_no_address_no_handler_and_no_html_from_text() -> None:
    """The file refers to nothing outside, and its script builds elements, not HTML."""
    html = to_html(page(PageNode("a", "computed")))
    addresses = set(re.findall(r"\w+://[\w./]*", html))
    assert {"http://www.w3.org/2000/svg"} == addresses  # a name of elements, not an address
    assert not re.search(r"<[^>]* on\w+=", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", html)


def test_names_cannot_end_the_data_or_fill_a_place_of_the_template() -> None:
    """Neither in JSON nor in HTML."""
    name = "</script><b>{{data}}{{script}}&amp;\ud800\u202e\n"
    html = to_html(Page(name, [PageNode(name, "computed")], error=name, notes=[name]))
    assert 2 == html.count("</script>")
    assert [name] == data_of(html)["columns"]["name"]
    shown = r"&lt;/script&gt;&lt;b&gt;{{data}}{{script}}&amp;amp;\ud800\u202e"
    assert f"<h1>{shown}\\n</h1>" in html
    assert f'<p class="error">{shown}</p>' in html
    assert f"<li>{shown}\\n</li>" in html


def test_arguments_are_texts_and_numbers_of_nodes() -> None:
    """A node is named by its number, also with an item of its result."""
    arguments = {
        "plain": 1.5,
        "text": "a",
        "whole": {"node": "first"},
        "item": {"node": "first", "item": "[0]"},
        "gone": {"node": "elsewhere", "item": "[0]"},
        "array": {"type": "numpy.ndarray", "digest": "12ab"},
        "number": {"type": "numpy.int64", "value": 3},
        "nan": {"type": "float", "float": "nan"},
        "unknown": {"type": "module.Thing", "digest": ""},
    }
    found = columns(
        page(PageNode("first", "reused"), PageNode("second", "reused", arguments=arguments))
    )
    given = found["columns"]["arguments"][1]
    assert list(arguments) == [found["tables"]["parameter"][number] for number in given[::2]]
    assert [
        *("1.5", "'a'", 0, [0, "[0]"], "node 'elsewhere'[0]"),
        *("numpy.ndarray 12ab", "numpy.int64 3", "float nan", "module.Thing"),
    ] == given[1::2]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("[slice(1, None, None)]", "[1:]"),
        ("['a'][slice(None, -2, 3)]", "['a'][:-2:3]"),
        ("['slice'][0]", "['slice'][0]"),
    ],
)
def test_slices_are_shown_as_they_are_written(item: str, text: str) -> None:
    """And not by their repr, which records have."""
    arguments = {"x": {"node": "a", "item": item}}
    found = columns(page(PageNode("a", "reused"), PageNode("b", "reused", arguments=arguments)))
    assert [0, [0, text]] == found["columns"]["arguments"][1]


def test_numbers_that_json_lacks_are_zero() -> None:
    """A record can be anybody's, and one bad number must not hide the rest."""
    bad = PageNode("a", "computed", seconds=float("inf"), begun=float("nan"), bytes=1)
    found = data_of(to_html(page(bad, seconds=float("nan"))))
    assert (0, "a") == (found["seconds"], found["columns"]["name"][0])


def test_changes_name_nodes_by_number() -> None:
    """Those that are gone have only a name."""
    changes = PageChanges("yesterday", 2.0, [("b", "the code changed")], ["b"], ["a"], [], ["x"])
    found = columns(page(PageNode("a", "reused"), PageNode("b", "computed"), changes=changes))
    assert {
        "started": "yesterday",
        "seconds": 2.0,
        "causes": [[1, 0]],
        "texts": ["the code changed"],
        "other": [1],
        "equal": [0],
        "new": [],
        "gone": ["x"],
        "gone count": 1,
    } == found["changes"]


def test_file_is_replaced_at_once(tmp_path: Path) -> None:
    """Nothing else is left beside it; an error names the path, and leaves the file."""
    path = tmp_path / "run.html"
    path.write_text("before")
    assert path == save(page(), path)
    assert "<!doctype html>" == path.read_text().partition("\n")[0]
    assert [path] == list(tmp_path.iterdir())

    for wrong in (tmp_path / "missing" / "run.html", tmp_path, "a\0b"):
        with pytest.raises(
            StoragePathError, match="the report of workflow 'flow' can't be"
        ) as info:
            save(page(), wrong)
        assert repr(str(wrong)) in str(info.value)
    assert [path] == list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the new one is in neither place."""
    path = tmp_path / "run.html"
    path.write_text("before")

    def full(file: Path, content: bytes) -> int:
        with file.open("wb") as stream:
            stream.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoragePathError, match="No space left on device"):
        save(page(), path)
    assert [path] == list(tmp_path.iterdir())
    assert "before" == path.read_text()
