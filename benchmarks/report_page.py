"""The report page of a large run: its size, and how long it takes to write, to load and to search.

The nodes have random names of 30 letters, five parents and five arguments each.
"""

from __future__ import annotations

import random
import runpy
import string
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from functionfuse.show.page import save
from functionfuse.show.pagedata import Page, PageNode
from table import Row, amount

BROWSER: Any = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "chromium.py"))
ROUNDS = 3

# Type a text as a person does: the time until the rows are laid out.
SEARCH = """(async () => {
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  const query = document.getElementById("query"), begin = performance.now();
  query.value = TEXT;
  query.dispatchEvent(new Event("input"));
  document.getElementById("rows").getBoundingClientRect();
  return performance.now() - begin;
})()"""


def large_page(count: int) -> Page:
    """Return the data of a run with random names, parents and arguments."""
    chance = random.Random(1)
    names = ["".join(chance.choices(string.ascii_lowercase, k=30)) for _ in range(count)]
    nodes = []
    for index, name in enumerate(names):
        parents = list(dict.fromkeys(chance.choices(names[:index], k=5))) if index else []
        arguments: dict[str, Any] = {f"argument_{n}": {"node": p} for n, p in enumerate(parents)}
        arguments |= {f"number_{n}": chance.random() for n in range(5 - len(parents))}
        computed = chance.random() < 0.3
        begun = 1.8e9 + 0.01 * index if computed else 0.0
        nodes.append(
            PageNode(
                name,
                "computed" if computed else "reused",
                f"parent {parents[0]!r} changed" if computed and parents else "",
                chance.random() if computed else 0.0,
                begun,
                f"host {chance.randrange(8)}",
                chance.randrange(10**6),
                1,
                parents,
                arguments,
                f"module.function_{chance.randrange(20)}",
                f"{chance.getrandbits(128):032x}",
                "numpy.ndarray",
                f"2026-01-02T03:04:{index % 60:02d}.000000Z",
                chance.random(),
                "host · Python 3.11.7 · numpy 2.4.6",
            )
        )
    return Page("large", nodes, run="20260102", started=1.8e9, seconds=0.01 * count)


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        yield from measure_pages(path)


def measure_pages(path: Path) -> Iterator[Row]:
    for count, size, write, load, search in (
        (5_000, 1.0, 1.0, 1.0, 100.0),
        (20_000, 4.0, 4.0, 3.0, 400.0),
    ):
        page = large_page(count)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            save(page, path)
            times.append(time.perf_counter() - begin)
        what = f"the report page of {count:,} nodes"
        yield amount(f"{what}: size", path.stat().st_size / 1e6, size, unit="MB")
        yield amount(f"{what}: written in", median(times), write, unit="s")
        if BROWSER["program"]() is None:
            continue
        texts = ["a", "ab", page.nodes[-1].name[:5], "function_7", "nothing like it"]
        loads, searches = [], []
        with BROWSER["Chromium"]() as browser:
            for _ in range(ROUNDS):  # each search is the first of its page
                for text in texts:
                    loads.append(browser.open(path))
                    searches.append((text, browser.run(SEARCH.replace("TEXT", repr(text)))))
        slowest = max(median(took for text, took in searches if text == each) for each in texts)
        yield amount(f"{what}: loaded in", median(loads), load, unit="s")
        yield amount(f"{what}: the slowest of 5 searches", slowest, search, unit="ms")
