"""A report page to look at, and the data in one, unpacked as its script does."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from functionfuse.show.pagedata import Page, PageChanges, PageNode

__all__ = ["NAMES", "TITLE", "column", "data_of", "read", "study", "texts"]

_SETS = "digits", "wine", "iris"
NAMES = "#rows .name"
TITLE = "document.getElementById('drawer-title')?.textContent"


def data_of(html: str) -> Any:
    """Return the data of a page."""
    [text] = re.findall(r'<script type="text/plain" id="data">(.*?)</script>', html)
    return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))


def read(path: Path) -> Any:
    """Return the data of a page in a file."""
    return data_of(path.read_text("utf-8"))


def column(data: Any, name: str) -> list[Any]:
    """Return a column, with the texts of its table. One that has only zeros is left out there."""
    values: list[Any] = data["columns"].get(name, [0] * len(data["columns"]["name"]))
    table = data["tables"].get(name)
    return [table[number] for number in values] if table else values


def study() -> Page:
    """Return a run of 13 nodes: computed, reused, failed and not run."""
    nodes = []
    for number, name in enumerate(_SETS):
        fails, done = name == "iris", name == "wine"
        time = 1.8e9 + number
        nodes += [
            PageNode(
                f"{name}/load", "reused", bytes=100, function="m.load", cost=9, type="m.Table"
            ),
            PageNode(
                *(f"{name}/fit", "failed" if fails else "computed" if done else "reused"),
                *("ValueError: no way" if fails else "the code changed" if done else "",),
                *(
                    0.25 if done else 0.5 if fails else 0.0,
                    time if done or fails else 0.0,
                    "w",
                    2000,
                ),
                *(3 if fails else 1, [f"{name}/load"]),
                *({"data": {"node": f"{name}/load", "item": "[0]"}, "depth": 3}, "m.fit", "12ab"),
            ),
            PageNode(
                *(f"{name}/score", "not run" if fails else "computed" if done else "reused", ""),
                *(0.125 if done else 0.0, time + 0.5 if done else 0.0, "w", 30, 1, [f"{name}/fit"]),
                *({}, "m.score"),
            ),
        ]
    nodes.append(
        PageNode("summary", "not run", parents=[f"{n}/score" for n in _SETS], function="m.sum")
    )
    changes = PageChanges(
        "2027-01-15 07:59:00 UTC",
        9.0,
        [("wine/fit", "the code changed")],
        ["wine/fit"],
        ["wine/score"],
    )
    image = {"kind": "text", "text": "a <b>value</b>"}
    about = {"changes": changes, "previews": {"wine/fit": image}, "error": "The run ended"}
    return Page("study", nodes, "20270115T080000-ab", 1.8e9, 3.0, **about)


def texts(browser: Any, selector: str) -> list[str]:
    """Return the texts of all elements that a selector finds."""
    found = browser.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)"
    )
    assert isinstance(found, list)
    return found
