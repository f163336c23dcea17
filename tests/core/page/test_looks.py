"""How the report page looks in Chromium: shapes, sizes, contrasts, a phone, paper; notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_data import NAMES, TITLE, texts

from functionfuse.show.notebook import block, drawing, table
from functionfuse.show.page import save
from functionfuse.show.pagedata import Page, PageNode


def test_a_group_tells_what_is_not_computed(browser: Any, tmp_path: Path) -> None:
    """One that may be computed doesn't look like one that is reused."""
    kinds = {
        "maybe": ["reuse", "maybe", "maybe"],
        "left": ["reused", "not run"],
        "both": ["compute", "maybe", "reuse"],
    }
    nodes = [
        PageNode(f"{kind} {n}", action, function=f"m.{kind}")
        for kind, actions in kinds.items()
        for n, action in enumerate(actions)
    ]
    browser.open(save(Page("flow", nodes), tmp_path / "run.html"))
    browser.run(
        "(() => { const v = document.getElementById('view'); v.value = 'function';"
        " v.dispatchEvent(new Event('change')) })()"
    )
    assert [
        "maybe: 3 nodes, 2 maybe, 1 would be reused",
        "left: 2 nodes, 1 not run, 1 reused",
        "both: 3 nodes, 1 would be computed, 1 maybe, 1 would be reused",
    ] == texts(browser, ".box title")
    found = browser.run(
        "[...document.querySelectorAll('.box')].map((box) => [box.getAttribute('class'),"
        " ...[...box.querySelectorAll('.part')].map((part) => part.getAttribute('class')"
        " + ' ' + Math.round(part.getAttribute('width')"
        " / box.querySelector('.rest').getAttribute('width') * 100))])"
    )
    assert [
        ["box maybe", "part rest 100", "part maybe 67"],
        ["box not", "part rest 100", "part not 50"],
        ["box computed", "part rest 100", "part computed 33", "part maybe 33"],
    ] == found


def test_a_plan_has_words_of_its_own(browser: Any, tmp_path: Path) -> None:
    """It tells what will happen, and how long that took the last time."""
    nodes = [PageNode("a", "reuse", cost=1.0), PageNode("b", "compute"), PageNode("c", "maybe")]
    browser.open(save(Page("flow", nodes), tmp_path / "plan.html"))
    assert ["1to compute", "1maybe", "1to reuse"] == texts(browser, ".chip")
    assert ["Node", "What will happen", "Last time"] == texts(browser, "#heads th")
    assert ["to reuse", "to compute", "maybe"] == texts(browser, "#rows .state")
    assert browser.run("document.getElementById('grey').hidden")


def test_a_short_failed_call_has_a_mark(browser: Any, tmp_path: Path) -> None:
    """It is large enough to see and to click, and no bar hides it."""
    nodes = [
        PageNode("long", "computed", "", 100.0, 1.8e9, "w"),
        PageNode("short", "failed", "KeyError: 'a'", 0.001, 1.8e9 + 100.01, "w"),
    ]
    browser.open(save(Page("flow", nodes, "r", 1.8e9, 100.1), tmp_path / "run.html"))
    place = browser.run(
        "(({width, height}) => [width, height])"
        "(document.querySelector('.sign').getBoundingClientRect())"
    )
    assert min(place) >= 8
    browser.click(".sign")
    assert "short" == browser.run(TITLE)


def test_the_error_links_to_its_node(browser: Any, tmp_path: Path) -> None:
    """Its lines are told in one, as in the table."""
    error = "RuntimeError: diverged\n  residual = 1e+31"
    nodes = [PageNode("a", "computed"), PageNode("b", "failed", error), PageNode("c", "not run")]
    page = Page("flow", nodes, error=f"'b' raised {error}", failed="b")
    browser.open(save(page, tmp_path / "run.html"))
    told = "RuntimeError: diverged · residual = 1e+31"
    assert [f"'b' raised {told}"] == texts(browser, ".error")
    assert [told, "", "the run stopped when 'b' failed"] == sorted(
        texts(browser, "#rows .why"), key=lambda text: ["R", "", "t"].index(text[:1])
    )
    browser.click(".error a")
    assert "b" == browser.run(TITLE)


def test_a_large_graph_is_readable_and_moves(browser: Any, tmp_path: Path) -> None:
    """It begins where something failed; a wheel moves it to the sides; Fit shows all."""
    nodes = [
        PageNode(f"step {n}", "failed" if n == 20 else "reused", parents=[f"step {n - 1}"])
        for n in range(40)
    ]
    browser.resize(390, 844)
    browser.open(save(Page("flow", nodes), tmp_path / "run.html"))
    scale = "(c => c.clientWidth / c.viewBox.baseVal.width)(document.getElementById('canvas'))"
    left = "document.getElementById('canvas').viewBox.baseVal.x"
    assert browser.run(scale) >= 0.89
    assert browser.run("!document.getElementById('beyond').hidden")
    seen = browser.run(
        "(r => [r.left, r.right])(document.querySelector('.box.failed').getBoundingClientRect())"
    )
    assert 0 <= seen[0] < seen[1] <= 390
    before = browser.run(left)
    browser.run(
        "document.getElementById('canvas').dispatchEvent("
        "new WheelEvent('wheel', {deltaX: 90, bubbles: true, cancelable: true}))"
    )
    assert before + 80 < browser.run(left) < before + 110
    browser.click("#zoom-fit")
    assert browser.run(scale) < 0.1
    assert browser.run("document.getElementById('beyond').hidden")


def test_tables_win_over_the_rules_of_notebooks(browser: Any, tmp_path: Path) -> None:
    """Those of nbconvert align all cells at their right, and give `pre` another font."""
    rules = (
        ":not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td {text-align: right}"
        ".jp-RenderedHTMLCommon pre {font-family: serif}"
    )
    output = block("title", table(("node", "size"), [("a", "1 kB")], right=(1,)), drawing("a"))
    path = tmp_path / "notebook.html"
    path.write_text(f'{output}<style>{rules}</style><div class="jp-RenderedHTMLCommon">{output}')
    browser.open(path, ready=False)
    aligned, font = browser.run(
        "(() => { const style = (name) => [...document.querySelectorAll(name)]"
        ".map((e) => getComputedStyle(e));"
        " return [style('td').map((s) => s.textAlign), style('pre').map((s) => s.fontFamily)] })()"
    )
    assert ["left", "right"] * 2 == aligned
    assert all(name.endswith("monospace") for name in font)


def test_controls_can_be_hit_and_seen(browser: Any, path: Path) -> None:
    """Each button is 24 pixels high; fields and edges stand out, by WCAG 2.2."""
    for scheme in ("light", "dark"):
        browser.media(scheme=scheme)
        browser.open(path, "#node=wine%2Ffit")
        small = browser.run(
            "[...document.querySelectorAll('button, select, input')].map((e) => [e.textContent,"
            " e.getBoundingClientRect().height]).filter(([, high]) => high > 0 && high < 24)"
        )
        assert [] == small
        assert {name: c for name, c in browser.run(LINES).items() if c < 3} == {}


def test_states_differ_without_colour(browser: Any, path: Path) -> None:
    """By shape: in the marks, and in the frames of boxes; and by the word beside it."""
    browser.open(path)
    marks = browser.run(
        "Object.fromEntries([...document.querySelectorAll('.chip')].map((chip) => {"
        " const m = chip.querySelector('svg').firstChild;"
        " const filled = m.getAttribute('fill') !== 'none';"
        " return [chip.dataset.action,"
        " [m.tagName, filled, m.getAttribute('stroke-dasharray')].join()] }))"
    )
    assert {
        "computed": "rect,true,",
        "reused": "rect,false,",
        "failed": "g,true,",
        "not run": "rect,false,2 2",
    } == marks
    frames = browser.run(
        "[...document.querySelectorAll('.box')].map((box) => {"
        " const s = getComputedStyle(box.querySelector('.frame'));"
        " return box.querySelector('title').textContent.split(': ')[1] + ' '"
        " + s.strokeWidth + ' ' + s.strokeDasharray })"
    )
    assert {
        *(
            "reused 1.2px none",
            "computed 1.6px none",
            "failed 2.6px none",
            "not run 1.2px 2px, 3px",
        ),
    } == set(frames)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_nothing_is_wider_than_the_screen(
    browser: Any, path: Path, width: int, scheme: str
) -> None:
    """On a phone, a node is a few lines; texts can be read in the dark, too."""
    browser.resize(width, 844)
    browser.media(scheme=scheme)
    browser.open(path, "#node=wine%2Ffit")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.getElementById('drawer').getBoundingClientRect().width") <= width
    contrasts = browser.run(CONTRASTS)
    assert {name: value for name, value in contrasts.items() if value < 4.5} == {}


# Contrasts by the Web Content Accessibility Guidelines 2.2: of texts, and of lines.
_MEASURES = """
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent|color\\(/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (color, e) => {
    const both = [light(color), light(behind(e))].sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05);
  };
  const found = {};"""
CONTRASTS = f"""(() => {{{_MEASURES}
  for (const name of [".lead", ".meta", ".error", ".hint", ".tag", ".why", "td.name", "#rows .num",
      "th button", "#drawer h3", "#drawer a", ".verdict span", "pre", "#drawer .soft"]) {{
    const e = document.querySelector(name);
    found[name] = contrast(getComputedStyle(e).color, e);
  }}
  return found;
}})()"""
LINES = f"""(() => {{{_MEASURES}
  for (const name of ["#query", "#view", "#zoom-fit", ".edge"]) {{
    const e = document.querySelector(name), style = getComputedStyle(e);
    found[name] = contrast(name === ".edge" ? style.stroke : style.borderTopColor, e.parentElement);
  }}
  return found;
}})()"""


def test_print_has_all_rows_and_no_controls(browser: Any, tmp_path: Path) -> None:
    """A dark screen prints on white; rows beyond the first hundred are there."""
    nodes = [PageNode(f"node {n}", "reused") for n in range(250)]
    browser.media(scheme="dark", kind="print")
    browser.open(save(Page("long", nodes), tmp_path / "run.html"))
    assert 100 == len(texts(browser, NAMES))
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert 250 == len(texts(browser, NAMES))
    seen = browser.run("document.getElementById('canvas').getAttribute('viewBox')")
    assert seen.startswith("-16.0 -16.0 ")  # all of the graph, from its corner
    style = "getComputedStyle(document.body)"
    assert ["rgb(255, 255, 255)", "rgb(29, 35, 41)"] == browser.run(
        f"[{style}.backgroundColor, {style}.color]"
    )
    assert [] == texts(browser, "#heads button")  # Chromium doesn't repeat them
    assert "Node" in texts(browser, "#heads th")
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert "Node" in texts(browser, "#heads button")
    for control in ("nav", ".chips", "#more"):
        assert "none" == browser.run(
            f"getComputedStyle(document.querySelector('{control}')).display"
        )
