"""HTML for notebooks: titles, tables and lists of facts, from plain texts.

All texts are escaped. Colours are those of the page, but for the signs of states, which are
readable on light and dark pages, and stand beside a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Protocol, TypeVar

from .picture import shown
from .texts import duration, size

__all__ = [
    "ROWS",
    "block",
    "drawing",
    "facts",
    "listed",
    "more",
    "nodes",
    "plain",
    "table",
]

ROWS = 20  # of a table; the others are counted
_LONGEST = 200  # characters of a cell

_STYLE = (
    # The class is doubled to win over rules of notebooks, which align cells at their right.
    "<style>"
    ".functionfuse.functionfuse table{border-collapse:collapse;margin:.5em 0}"
    ".functionfuse.functionfuse table :is(th,td){text-align:left;vertical-align:top;"
    "padding:.2em .8em;border:0;border-bottom:1px solid rgba(128,128,128,.35);max-width:50em;"
    "overflow-wrap:anywhere;white-space:normal}"
    ".functionfuse.functionfuse table .right{text-align:right;white-space:nowrap}"
    ".functionfuse.functionfuse table .state{white-space:nowrap}"
    ".functionfuse.functionfuse pre{margin:.5em 0;line-height:1.35;white-space:pre;"
    "font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".functionfuse.functionfuse p{margin:.3em 0}"
    "</style>"
)
_FILLED, _OPEN, _HALF, _DOTTED = "●", "○", "◐", "◌"
_BLUE, _ORANGE, _GREY = "#2f7fd1", "#d9730d", "#808080"
_SIGNS = {
    "computed": (_FILLED, _BLUE),
    "compute": (_FILLED, _BLUE),
    "maybe": (_HALF, _BLUE),
    "reused": (_OPEN, _BLUE),
    "reuse": (_OPEN, _BLUE),
    "failed": ("✕", _ORANGE),
    "not run": (_DOTTED, _ORANGE),
    "not needed": (_DOTTED, _GREY),
}
_RANK = {
    action: rank
    for rank, action in enumerate(
        ("failed", "computed", "compute", "maybe", "not run", "reused", "reuse", "not needed")
    )
}


class Acting(Protocol):
    """A node of a plan, a report or a record."""

    @property
    def name(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def bytes(self) -> int: ...


Node = TypeVar("Node", bound=Acting)


def block(title: str, *parts: str) -> str:
    """Return a title, and parts that are HTML, as one output."""
    return f'{_STYLE}<div class="functionfuse"><p><b>{_text(title)}</b></p>{"".join(parts)}</div>'


def plain(text: str) -> str:
    """Return a line of text."""
    return f"<p>{_text(text)}</p>" if text else ""


def listed(texts: Sequence[str]) -> str:
    """Return lines of text, up to `ROWS`."""
    return "".join(map(plain, texts[:ROWS])) + more(len(texts) - ROWS, "line")


def more(count: int, kind: str) -> str:
    """Return a line that counts what isn't shown; "" if all is shown."""
    return f"<p>… and {count:,} more {kind}{'s' if count > 1 else ''}</p>" if count > 0 else ""


def nodes(found: Sequence[Node], why: Callable[[Node], str]) -> str:
    """Return the nodes that matter most as a table, failed ones first; the others are counted.

    Args:
        why: returns the text in the last column.
    """
    order = sorted(range(len(found)), key=lambda index: _RANK.get(found[index].action, 0))
    rows = (
        (node.name, node.action, duration(node.seconds or None), _size(node.bytes), why(node))
        for node in map(found.__getitem__, order[:ROWS])
    )
    body = table(("node", "action", "time", "size", "why"), rows, right=(2, 3), state=1)
    left = order[ROWS:]
    counts = Counter(found[index].action for index in left).items()
    told = ", ".join(f"{count:,} {action}" for action, count in counts)
    return body + (plain(f"… and {len(left):,} more: {told}") if left else "")


def _size(count: int) -> str:
    return size(count) if count else ""


def drawing(text: str) -> str:
    """Return a drawing made of lines of text."""
    lines = "\n".join(map(_text, text.split("\n")))
    return f"<pre>{lines}</pre>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names with their texts; those without a text are left out."""
    cells = (
        f"<tr><th>{_text(name)}</th><td>{_text(text)}</td></tr>" for name, text in rows if text
    )
    return f"<table><tbody>{''.join(cells)}</tbody></table>"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    state: int | None = None,
) -> str:
    """Return rows of texts as a table.

    Args:
        right: numbers of the columns that are aligned at their right.
        state: number of the column of actions, which get signs.
    """

    def cell(number: int, text: str, tag: str) -> str:
        body, kind = _text(text), ""
        if number == state and tag == "td":
            sign, color = _SIGNS.get(text, ("", ""))
            body = f'<span style="color:{color}">{sign}</span> {body}' if sign else body
            kind = ' class="state"'
        elif number in right:
            kind = ' class="right"'
        return f"<{tag}{kind}>{body}</{tag}>"

    def line(row: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(cell(number, text, tag) for number, text in enumerate(row))}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody></table>"


def _text(text: str) -> str:
    """Return a text for HTML, in one line and without its middle if it is long."""
    return escape(shown(text, limit=_LONGEST))
