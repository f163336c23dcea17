"""The progress of a run as texts: lines for logs and plain terminals, and HTML for notebooks.

A run hands over plain numbers and texts, a few times a second: a `View`, and `News` of failures; at
its end an `End`. A painter shows them: `Lines` or `Notebook` here, `terminal.Terminal` with a bar.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from importlib import import_module
from time import monotonic
from typing import Any, NamedTuple, Protocol

from .texts import printable, span

__all__ = ["End", "Lines", "News", "Notebook", "Painter", "Row", "View", "in_notebook"]

_EVERY = 30.0  # seconds between two lines
_LONGEST = 300  # characters of a name or an error in a line


class Row(NamedTuple):
    """A node that runs, or is submitted to a backend that doesn't tell whether it runs."""

    name: str
    seconds: float
    submitted: bool = False

    @property
    def since(self) -> str:
        """How long, as text."""
        return f"{'submitted ' if self.submitted else ''}{span(self.seconds)}"


class View(NamedTuple):
    """The state of a run.

    Attributes:
        name: the workflow's name.
        done: how many nodes are computed, reused or failed.
        total: of how many that are needed; 0 before the run is planned.
        left: seconds until the end, as far as that is known; else None.
        rows: the oldest nodes that run.
        more: how many others run.
    """

    name: str
    done: int
    total: int
    reused: int = 0
    failed: int = 0
    left: float | None = None
    rows: Sequence[Row] = ()
    more: int = 0

    @property
    def counts(self) -> str:
        """The numbers of nodes that are done, and of all."""
        return f"{self.done:,}/{self.total:,}" if self.total else "planning"

    @property
    def parts(self) -> list[str]:
        """The other texts; the least important ones come first."""
        if not self.total:
            return []
        parts = [f"{self.reused:,} reused", f"{self.failed:,} failed"]
        if self.left is not None:
            parts.append(f"about {span(max(self.left, 1.0), 0)} left")
        return parts

    @property
    def others(self) -> str:
        """How many other nodes run, as text; "" if none do."""
        return f"… and {self.more:,} more" if self.more else ""


class News(NamedTuple):
    """A node that failed.

    Attributes:
        name: the node's name; "" for news of several nodes.
        text: its error.
        place: file and line of the error; "" if unknown.
        again: whether it is tried again.
    """

    name: str
    text: str
    place: str = ""
    again: bool = False

    @property
    def mark(self) -> str:
        """A sign in front of it."""
        return "↻" if self.again else "✕"


class End(NamedTuple):
    """The end of a run.

    Attributes:
        name: the workflow's name.
        saved: the seconds that the reused results took when they were computed; None if unknown.
        seconds: how long the run took.
        error: why it ended early, or that it failed, as text; "" if all was done.
    """

    name: str
    computed: int
    reused: int
    failed: int
    left_out: int
    saved: float | None
    seconds: float
    error: str

    @property
    def mark(self) -> str:
        """A sign in front of it."""
        return "✕" if self.error else "✓"

    @property
    def told(self) -> str:
        """What was done, as text."""
        saved = "" if self.saved is None else f" (saved {span(self.saved)})"
        parts = [
            _short(self.error) if not self.failed or self.error == "interrupted" else "",
            f"{self.failed:,} failed" if self.failed else "",
            f"{self.left_out:,} not run" if self.left_out else "",
            f"{self.computed:,} computed" if self.computed else "",
            f"{self.reused:,} reused{saved}" if self.reused else "",
        ]
        done = ", ".join(filter(None, parts)) or "nothing to do"
        return f"{done} in {span(self.seconds)}"


class Painter(Protocol):
    """Shows a run. It is called by one thread at a time."""

    def show(self, view: View, /) -> None:
        """Show the state, in place of the last one."""

    def tell(self, news: News, /) -> None:
        """Show a failure, which stays."""

    def end(self, end: End, /) -> None:
        """Show the end, which stays, in place of the state."""


class Lines:
    """Shows a run in lines: at its start, every 30 seconds, for each failure, and at its end.

    Args:
        out: is called with each line, which has no line break and no control characters.
    """

    def __init__(self, out: Callable[[str], object]) -> None:
        self._out = out
        self._due = 0.0

    def show(self, view: View) -> None:
        """Write a line if one is due."""
        now = monotonic()
        if view.total and now >= self._due:
            self._due = now + _EVERY
            self._out(_line(view))

    def tell(self, news: News) -> None:
        """Write a line."""
        self._out(_told(news))

    def end(self, end: End) -> None:
        """Write the last line."""
        self._out(f"{end.mark} {_short(end.name)}: {end.told}")


class Notebook:
    """Shows a run in a notebook, in one output that is replaced in place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._news = ""  # as HTML
        self._last = ""

    def show(self, view: View) -> None:
        """Replace the output, if something has changed."""
        texts = "&nbsp; ".join(map(html.escape, [_short(view.name), view.counts, *view.parts]))
        bar = f'<progress value="{view.done}" max="{view.total}"></progress> ' if view.total else ""
        rows = [f"{_short(row.name)}&nbsp; {row.since}" for row in _escaped(view.rows)]
        rows[-1:] = [f"{row}&nbsp; {view.others}" for row in rows[-1:]]
        self._replace(_line(view), f"{bar}{texts}{''.join(f'<br>&emsp;{row}' for row in rows)}")

    def tell(self, news: News) -> None:
        """Add a failure, to be seen with the next state."""
        self._news += f"{html.escape(_told(news))}<br>"

    def end(self, end: End) -> None:
        """Replace the output for the last time."""
        line = f"{end.mark} {_short(end.name)}: {end.told}"
        self._replace(line, html.escape(line))

    def _replace(self, plain: str, body: str) -> None:
        whole = f"<div>{self._news}{body}</div>"
        if whole == self._last:
            return
        self._last = whole
        bundle = {"text/html": whole, "text/plain": plain}
        if self._handle is None:
            display = import_module("IPython.display").display  # as this is a notebook, it's there
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def in_notebook(modules: dict[str, Any]) -> bool:
    """Return whether this is a notebook's process, from `sys.modules`; nothing is imported."""
    get = getattr(modules.get("IPython"), "get_ipython", None)
    return get is not None and hasattr(get(), "kernel")


def _line(view: View) -> str:
    """Return a state in one line."""
    parts = [_short(view.name), view.counts, *view.parts]
    if view.rows:
        rows = ", ".join(f"{_short(row.name)} {row.since}" for row in view.rows)
        parts.append(
            f"{'' if view.rows[0].submitted else 'running: '}{rows} {view.others}".rstrip()
        )
    return "  ".join(parts)


def _told(news: News) -> str:
    """Return news in one line."""
    texts = _short(news.name), _short(news.text), printable(news.place)
    return f"{news.mark} {'  '.join(filter(None, texts))}"


def _escaped(rows: Sequence[Row]) -> list[Row]:
    return [row._replace(name=html.escape(row.name)) for row in rows]


def _short(text: str) -> str:
    """Return a name or an error in one line, without control characters."""
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
