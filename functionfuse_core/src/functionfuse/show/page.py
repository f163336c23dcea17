"""The report page: one HTML file about a run, with all that it needs, and no address in it.

The policy of the page allows its own script and style, by their digests, and nothing else. Names
and texts are packed data: the script puts them into the page as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections import Counter
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

from ..errors import StoragePathError
from .files import replaced
from .pagedata import Page, columns
from .texts import duration, printable, size

__all__ = ["save", "sentence", "to_html"]

_SCRIPTS = "base", "data", "graph", "timeline", "table", "drawer", "main"
_COMPUTED, _REUSED = ("computed", "compute"), ("reused", "reuse")


def save(page: Page, path: str | Path) -> Path:
    """Write a page as one HTML file, replacing it atomically, and return its path.

    Raises:
        StoragePathError: the file can't be written.
    """
    content = to_html(page).encode()
    try:
        return replaced(Path(path), content)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise StoragePathError(
            f"the report of workflow {page.workflow!r} can't be written to {str(path)!r}:"
            f" {getattr(error, 'strerror', None) or error}"
        ) from error


def to_html(page: Page) -> str:
    """Return the page as an HTML document. Its script needs a browser of 2023 or later."""
    parts = files(__package__) / "template"
    scripts = [(parts / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    script = "\n".join(['"use strict";', "(async () => {", *scripts, "})();"])
    style = (parts / "page.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)};"
        " img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    texts = {
        "policy": policy,
        "title": _html(page.workflow),
        "lead": _html(sentence(page)),
        "meta": _html(" · ".join(_facts(page))),
        "error": _error(page),
        "notes": "".join(f"<li>{_html(note)}</li>" for note in page.notes),
        "style": style,
        "script": script,
        "data": _packed(columns(page)),
    }
    # In one pass: a workflow's name can look like a place in the template.
    template = (parts / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: texts[found[1]], template)


def sentence(page: Page) -> str:
    """Return the outcome of the run, or the plan, as a sentence or two."""
    counts = Counter(node.action for node in page.nodes)
    total, stored = len(page.nodes), counts["stored"]
    if stored:
        return f"{_count(stored, 'result')} {_are(stored)} stored. No run was recorded."
    computed = sum(counts[action] for action in _COMPUTED)
    reused = sum(counts[action] for action in _REUSED)
    planned = counts["compute"] + counts["reuse"] + counts["maybe"] > 0
    saved = duration(sum(node.cost for node in page.nodes if node.action in _REUSED))
    said = []
    if failed := counts["failed"]:
        said.append(f"{_count(failed, 'node')} failed.")
    came = "would come" if planned else "came"
    were = "would be" if planned else "was" if computed == 1 else "were"
    time = f", which {'saves' if planned else 'saved'} {saved} of computing" if saved else ""
    if reused and computed:
        said.append(f"{computed:,} of {_count(total, 'node')} {were} computed;")
        said.append(f"{reused:,} {came} from storage{time}.")
    elif reused:
        every = "All" if reused == total else f"{reused:,} of"
        said.append(f"Nothing {'would be' if planned else 'was'} computed.")
        said.append(f"{every} {_count(total, 'result')} {came} from storage{time}.")
    elif computed == total and total:
        said.append(f"{'All ' if total > 1 else ''}{_count(total, 'node')} {were} computed.")
    else:
        said.append(f"{computed:,} of {_count(total, 'node')} {were} computed.")
    if maybe := counts["maybe"]:
        said.append(f"{_count(maybe, 'node')} may have to be computed.")
    if left := counts["not run"]:
        said.append(f"{_count(left, 'node')} {'was' if left == 1 else 'were'} not run.")
    return " ".join(said)


def _error(page: Page) -> str:
    """Return the error as HTML, as a link to its node. The script follows it by the number."""
    text = " · ".join(_html(line.strip()) for line in page.error.splitlines() if line.strip())
    numbers = (n for n, node in enumerate(page.nodes) if text and node.name == page.failed)
    number = next(numbers, None)
    if number is None:
        return text
    return f'<a href="#number={number}" data-node="{number}">{text}</a>'


def _facts(page: Page) -> list[str]:
    ran = [node for node in page.nodes if node.begun or node.seconds]
    workers = len({node.worker for node in ran})
    found = []
    if any(node.action in ("compute", "maybe", "reuse") for node in page.nodes):
        found.append("A plan: nothing has run yet")
    if page.started:
        on = f" on {_count(workers, 'worker')}" if ran else ""
        began = datetime.fromtimestamp(page.started, UTC)
        found.append(f"Run of {began:%Y-%m-%d %H:%M:%S} UTC")
        found.append(f"took {duration(page.seconds) or 'no time'}{on}")
    if ran:
        found.append(f"functions ran for {duration(sum(node.seconds for node in ran))}")
    if stored := sum(node.bytes for node in page.nodes):
        found.append(f"results: {size(stored)}")
    return [*found, *page.facts]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _html(text: str) -> str:
    return escape(printable(text))


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _packed(data: object) -> str:
    """Return the data for the page, compressed: for one node, too, that is shorter than JSON."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(plain.encode("ascii"), 9)).decode()
