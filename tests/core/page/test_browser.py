"""The report page in Chromium: click, search, sort, keys, addresses, and hostile names."""

from __future__ import annotations

import ast
import json
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from report_data import NAMES, TITLE, study, texts

from functionfuse.show.page import save
from functionfuse.show.pagedata import Page, PageChanges, PageNode
from functionfuse.show.texts import printable

FOCUS = "document.activeElement.id || document.activeElement.className.baseVal"


def test_click_shows_a_node_and_lights_its_relatives(browser: Any, path: Path) -> None:
    """The drawer has the reason, the arguments, and links; the address names the node."""
    browser.open(path)
    assert {*map(printable, (node.name for node in study().nodes))} == {*texts(browser, NAMES)}
    browser.click("#rows tr", 1)
    assert "wine/fit" == browser.run(TITLE)
    assert "Computed: the code changed" == texts(browser, ".verdict")[0]
    assert ["wine/load", "wine/load", "wine/score"] == texts(browser, "#drawer a")
    shown = browser.run("document.getElementById('drawer').innerText")
    for part in ("a <b>value</b>", "wine/load [0]", "depth", "other value than in the run before"):
        assert part in shown
    assert "#node=wine%2Ffit" == browser.run("location.hash")
    lit = texts(browser, ".box:not(.dim) title")
    assert [
        "wine/load: reused",
        "wine/fit: computed",
        "wine/score: computed",
        "summary: not run",
    ] == lit
    assert ["wine/fit"] == texts(browser, "#rows [aria-selected=true] .name")

    browser.click("#drawer .links a", 1)
    browser.wait(f"{TITLE} === 'wine/score'")
    assert "equal to the run before" in browser.run("document.getElementById('drawer').innerText")
    browser.click(".close")
    assert browser.run("document.getElementById('drawer').hidden && location.hash === ''")


def test_boxes_and_bars_are_clicked(browser: Any, path: Path) -> None:
    """A box and a bar show their node; a box of a group lists its nodes."""
    browser.open(path)
    browser.click(".box", 7)
    assert "iris/fit" == browser.run(TITLE)
    assert "Failed: ValueError: no way (3 attempts)" == texts(browser, ".verdict")[0]
    browser.click(".bar", 0)
    assert "wine/fit" == browser.run(TITLE)

    browser.run(
        "(() => { const v = document.getElementById('view'); v.value = 'function';"
        " v.dispatchEvent(new Event('change')) })()"
    )
    browser.click(".box", 1)
    assert ["iris/fit", "wine/fit", "digits/fit"] == texts(browser, NAMES)
    assert "fit: 3 nodes, 1 failed, 1 computed, 1 reused" == texts(browser, ".box title")[1]
    browser.click("#widen")
    assert 10 == len(texts(browser, NAMES))


def test_search_finds_names_types_reasons_and_actions(browser: Any, path: Path) -> None:
    """The slash goes to the search, Escape clears it."""
    browser.open(path)
    browser.key("/")
    for text, count in (
        ("WINE", 3),
        ("table", 3),
        ("code changed", 1),
        ("not run", 2),
        ("m.fit", 3),
    ):
        browser.run("document.getElementById('query').value = ''")
        browser.type(text)
        assert count == len(texts(browser, NAMES)), text
        assert f"{count} of 10" == texts(browser, "#count")[0]
    browser.type("none like this")
    assert browser.run("!document.getElementById('empty').hidden")
    browser.key("Escape")
    assert 10 == len(texts(browser, NAMES))


def test_chips_show_one_action(browser: Any, path: Path) -> None:
    """Pressed again, they show all; one without nodes can't be pressed."""
    browser.open(path)
    assert ["2computed", "5reused", "1failed", "2not run"] == texts(browser, ".chip")
    browser.click("[data-action=failed]")
    assert ["iris/fit"] == texts(browser, NAMES)
    assert ["true"] == browser.run(
        "[...document.querySelectorAll('[data-action=failed]')].map((e) => e.ariaPressed)"
    )
    browser.click("[data-action=failed]")
    assert 10 == len(texts(browser, NAMES))


def test_heads_sort(browser: Any, path: Path) -> None:
    """Numbers begin with the largest; a second click turns the order."""
    browser.open(path)
    size = "[data-order=bytes] button"
    browser.click(size)
    assert texts(browser, NAMES)[:3] == ["digits/fit", "wine/fit", "iris/fit"]
    assert "descending" == browser.run("document.querySelector('[data-order=bytes]').ariaSort")
    browser.click(size)
    assert "summary" == texts(browser, NAMES)[0]
    browser.click("[data-order=time] button")
    assert ["9.0 s", "9.0 s", "9.0 s", "500 ms", "250 ms"] == texts(
        browser, "#rows .num:nth-child(4)"
    )[:5]


def test_failures_come_first(browser: Any, path: Path) -> None:
    """At the start, and by a click on the head; then what was computed, and not run."""
    browser.open(path)
    ranked = ["failed", "computedother value", "computed", "not run", "not run", *["reused"] * 5]
    state = "#rows .state"
    assert ranked == [text.replace(" other", "other") for text in texts(browser, state)]
    browser.click("[data-order=bytes] button")
    assert ranked != texts(browser, state)
    browser.click("[data-order=action] button")
    assert "failed" == texts(browser, state)[0]
    browser.click("[data-order=action] button")
    assert "failed" == texts(browser, state)[-1]


def test_names_sort_by_their_numbers(browser: Any, tmp_path: Path) -> None:
    """A click on the head, then down, then the order of the graph, which has no arrow."""
    names = ["fit 10", "load", "fit 9"]
    browser.open(save(Page("flow", [PageNode(n, "computed") for n in names]), tmp_path / "a.html"))
    heads = ["Node", "What happened"]  # columns without content are left out
    assert (names, heads) == (texts(browser, NAMES), texts(browser, "#heads th"))
    ordered = ["fit 9", "fit 10", "load"]
    for order, head in ((ordered, "Node ↑"), (ordered[::-1], "Node ↓"), (names, "Node")):
        browser.click("[data-order=name] button")
        assert (order, [head, heads[1]]) == (texts(browser, NAMES), texts(browser, "#heads th"))


def test_what_is_found_is_counted_beside_the_search(browser: Any, path: Path) -> None:
    """Far from the table, too, to which the count leads; a chip goes there by itself."""
    browser.open(path)
    top = "document.getElementById('nodes').getBoundingClientRect().top"
    assert browser.run("document.getElementById('found').hidden")
    browser.key("/")
    browser.type("wine")
    assert ["3 of 10"] == texts(browser, "#found")
    browser.resize(1280, 400)
    browser.run("scrollTo(0, 0)")
    assert browser.run(top) > 400
    browser.click("#found")
    browser.wait(f"{top} < 390")
    browser.key("Escape")
    browser.run("document.querySelector('#query').value = ''")
    browser.run("scrollTo(0, 0)")
    browser.click("[data-action=failed]")
    browser.wait(f"{top} < 390")


def test_everything_is_done_by_keys(browser: Any, path: Path) -> None:
    """Arrows move between rows and boxes, Enter opens, Escape closes and gives the focus back."""
    browser.open(path)
    browser.key("/")
    browser.key("Enter")
    row = "document.activeElement.querySelector('.name').textContent"
    assert "iris/fit" == browser.run(row)
    browser.click("[data-order=name] button")
    browser.key("/")
    browser.key("Enter")
    for key, name in (
        ("ArrowDown", "digits/load"),
        ("End", "wine/score"),
        ("ArrowUp", "wine/load"),
    ):
        browser.key(key)
        assert name == browser.run(row)
    browser.click("[data-order=name] button")
    browser.click("[data-order=name] button")  # the order of the graph
    browser.key("/")
    browser.key("Enter")
    for key, name in (("ArrowDown", "digits/fit"), ("End", "summary"), ("ArrowUp", "iris/score")):
        browser.key(key)
        assert name == browser.run(row)
    browser.key("Enter")
    assert ("iris/score", "drawer-title") == (browser.run(TITLE), browser.run(FOCUS))
    browser.run("document.querySelector('.links a').focus()")
    browser.key("Enter")
    assert ("iris/fit", "drawer-title") == (browser.run(TITLE), browser.run(FOCUS))
    browser.key("Escape")
    assert "iris/score" == browser.run(row)
    browser.key("Home")
    assert "digits/load" == browser.run(row)

    browser.run("document.querySelector('.box').focus()")
    label = "document.activeElement.getAttribute('aria-label')"
    for key, name in (("ArrowRight", "digits/fit: reused"), ("ArrowDown", "wine/fit: computed")):
        browser.key(key)
        assert name == browser.run(label)
    browser.key("Enter")
    assert "wine/fit" == browser.run(TITLE)
    browser.key("Escape")
    browser.key("?")
    assert browser.run("document.getElementById('help').open")
    browser.key("Escape")
    assert browser.run("!document.getElementById('help').open")


def test_tab_comes_to_each_part_once(browser: Any, path: Path) -> None:
    """Graph and table are one stop each, and each stop has a visible mark."""
    browser.open(path)
    stops = []
    for _ in range(40):
        browser.key("Tab")
        if browser.run("document.activeElement === document.body"):
            break
        stops.append(browser.run("document.activeElement.closest('section, nav, .chips, main').id"))
        style = browser.run(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " const f = e.querySelector('.frame');"
            " return s.outlineStyle + (f ? getComputedStyle(f).strokeWidth : '') })()"
        )
        assert style.startswith(("solid", "auto")) or style == "none3px", style
    assert {"", "chips", "graph", "changes", "nodes"} == set(stops)
    assert 5 == stops.count("graph")  # the choice, three buttons, one box


def test_an_address_opens_a_node(browser: Any, path: Path) -> None:
    """At the start, and when it changes; one that is unknown is told."""
    browser.open(path, "#node=iris%2Fload")
    assert "iris/load" == browser.run(TITLE)
    browser.run("location.hash = '#node=summary'")
    browser.wait(f"{TITLE} === 'summary'")
    browser.open(path, "#node=elsewhere")
    assert browser.run("document.getElementById('drawer').hidden")
    assert ["The address names a node that isn't in this report."] == texts(browser, "#problem")
    browser.open(path, "#node=%E0%A4%A")  # no text
    assert browser.run("document.getElementById('drawer').hidden")


def test_changes_link_to_nodes(browser: Any, path: Path) -> None:
    """With a card for each kind of change."""
    browser.open(path)
    assert ["Changes since the run of 2027-01-15 07:59:00 UTC"] == texts(browser, "#changes-title")
    assert ["1", "1", "1", "9.0 s → 3.0 s"] == texts(browser, "#cards b")
    assert ["the code changed"] == texts(browser, "#cards .tag")
    browser.click("#cards a")
    browser.wait(f"{TITLE} === 'wine/fit'")


def test_more_rows_come_on_demand(browser: Any, tmp_path: Path) -> None:
    """By the button, and by the arrow keys at the end."""
    nodes = [PageNode(f"node {n}", "reused") for n in range(350)]
    browser.open(save(Page("long", nodes), tmp_path / "run.html"))
    assert ["Show 250 more"] == texts(browser, "#more")
    browser.key("/")
    browser.key("Enter")
    browser.key("End")
    browser.key("ArrowDown")
    assert 200 == len(texts(browser, NAMES))
    browser.click("#more")
    assert 350 == len(texts(browser, NAMES))
    assert browser.run("document.getElementById('more').hidden")


ATTACK = "window.hacked=1"
HOSTILE = [
    f"</script><script>{ATTACK}</script>",
    f"<script>{ATTACK}</script>",
    f"<img src=x onerror={ATTACK}>",
    f"<svg onload={ATTACK}>",
    f'" onmouseover="{ATTACK}" x="',
    f"' onfocus='{ATTACK}' autofocus='",
    f"`${{{ATTACK}}}`",
    f"javascript:{ATTACK}",
    f"<iframe src=javascript:{ATTACK}>",
    f"<a href=javascript:{ATTACK}>a</a>",
    f"]]><script>{ATTACK}</script>",
    f"--><script>{ATTACK}</script>",
    f"</title><script>{ATTACK}</script>",
    f"</style><script>{ATTACK}</script>",
    f"</textarea><script>{ATTACK}</script>",
    "<style>body{display:none}</style>",
    "<base href=https://example.org>",
    "<meta http-equiv=refresh content=0;url=https://example.org>",
    "__proto__",
    "constructor",
    "toString",
    "hasOwnProperty",
    "{{data}}{{script}}$&$1",
    "&lt;b&gt;&amp;&#60;",
    "esc \x1b[31mred\x1b[0m \x07",
    "right \u202eto left\u2066 \u05d0\u05d1",
    "lines\nand\r\nmore\u2028lines\0",
    "half \ud800",
    "x" * 10_000,
    "/// ..//../ # ? % %2F #node=a",
]


@pytest.mark.parametrize("policy", [True, False])
def test_hostile_names_run_nothing(browser: Any, tmp_path: Path, policy: bool) -> None:
    """In each place of the page, also without the content policy; each is shown as it is."""
    nodes = [
        PageNode(
            name,
            "failed" if number % 2 else name,
            name,
            1.0,
            1.8e9 + number,
            name,
            parents=HOSTILE[:number][-3:],
            arguments={name: name, f"{name} ": {"node": HOSTILE[0], "item": name}},
            function=HOSTILE[number // 2],
            digest="ab",
            type=name,
            created=name,
            made=name,
        )
        for number, name in enumerate(HOSTILE)
    ]
    changes = PageChanges(HOSTILE[0], 1.0, [(n, n) for n in HOSTILE], HOSTILE, gone=HOSTILE)
    shown = {"kind": "table", "text": HOSTILE[0], "columns": HOSTILE, "rows": [HOSTILE]}
    parts = {"kind": "parts", "text": HOSTILE[0], "parts": [[n, shown] for n in HOSTILE[:3]]}
    about = {"error": "\n".join(HOSTILE), "facts": HOSTILE, "notes": HOSTILE, "changes": changes}
    page = Page(HOSTILE[0], nodes, "a", 1.8e9, 40.0, previews={HOSTILE[3]: parts}, **about)
    browser.refuse_policy(off=not policy)
    browser.open(save(page, tmp_path / "run.html"))
    assert ["node", "function", "beginning of the name"] == texts(browser, "#view option")
    browser.run(
        "[...document.getElementById('view').options].reverse().forEach((option) => {"
        " option.selected = true; document.getElementById('view').onchange() })"
    )
    seen = []
    for number, name in enumerate(HOSTILE):
        surrogate = name.startswith("half")
        fragment = f"#number={number}" if surrogate else f"#node={quote(name, safe='')}"
        browser.run(f"location.hash = {json.dumps(fragment)}")
        browser.wait(
            f"document.querySelector('#rows [aria-selected=true]')?.dataset.row === '{number}'"
        )
        seen.append(browser.run(TITLE))
        [code] = [text for text in texts(browser, "#drawer code, #drawer pre") if "].read(" in text]
        assert printable(code) == code
        assert name == ast.literal_eval(code.partition("].read(")[2][:-1])
    assert [printable(name) for name in HOSTILE] == seen
    assert "undefined" == browser.run("typeof window.hacked")
    assert ["object", 30] == browser.run(
        "[typeof document.body, document.querySelectorAll('#rows tr').length]"
    )
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("document.querySelectorAll('script, style, base, iframe, meta').length") == 8


def test_a_page_within_another_one(browser: Any, path: Path, tmp_path: Path) -> None:
    """As a viewer of files shows it: its address can't be changed there, and links stay in it."""
    frame = f'<iframe srcdoc="{escape(path.read_text())}"></iframe>'
    around = tmp_path / "around.html"
    around.write_text(f"<!doctype html><style>iframe{{width:1000px;height:800px}}</style>{frame}")
    browser.open(around, ready=False)
    browser.resize(1000, 800)
    browser.click("iframe")  # the graph, or the room around it
    for key in ("/", "Enter", "ArrowDown", "Enter", "Tab", "Enter"):
        browser.key(key)
    assert [str(around.as_uri())] == browser.run("[location.href]")


def test_a_browser_without_decompression_is_told(browser: Any, path: Path, tmp_path: Path) -> None:
    """The sentence about the run is there anyway."""
    text = path.read_text().replace(
        '"use strict";', '"use strict"; DecompressionStream = undefined;'
    )
    browser.refuse_policy()
    old = tmp_path / "old.html"
    old.write_text(text)
    browser.open(old, ready=False)
    browser.wait("document.getElementById('problem').textContent.includes('DecompressionStream')")
    assert "1 node failed." in texts(browser, ".lead")[0]


def test_a_changed_script_does_not_run(chromium: Any, path: Path, tmp_path: Path) -> None:
    """The policy has the digest of the script as it was written."""
    chromium.refuse_policy(off=False)
    changed = tmp_path / "changed.html"
    changed.write_text(
        path.read_text().replace('"use strict";', '"use strict"; window.hacked = 1;')
    )
    chromium.open(changed, ready=False)
    assert "undefined" == chromium.run("typeof window.hacked")
    assert any("Content Security Policy" in problem for problem in chromium.problems)
