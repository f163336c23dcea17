"""A bar on a terminal, which shows the progress of a run.

While there is a bar, the cursor stands in the line above it, in the column where it was. So text
that others write there, such as other processes and `getpass`, stands above the bar, also a part of
a line, and a terminal that is made narrower shifts nothing. Each new bar is drawn below the cursor,
which goes back then. A line that stays needs a line of its own, and nobody tells in which column
the cursor is: as many spaces as the terminal has columns lead to the next line, but not from an
empty one. (That is how zsh begins its prompt.)

This process's text goes through `Terminal._pass_on`: the bar is erased before it, and drawn again
after the end of a line. For this, the streams get another `write`, and stay the same objects: so
the text of a log handler that holds one comes along, too. Rich makes the colours and measures wide
characters. Its `Live` isn't used: it replaces the streams, holds back text until a line ends, which
hides other bars, and its locks don't survive a fork.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .progress import End, News, View
from .texts import printable

if TYPE_CHECKING:  # rich is imported only to draw
    from rich.text import Text

__all__ = ["LOCK", "Terminal", "guard_forks", "is_terminal"]

_ERASE = "\x1b[J"  # all from the cursor on
_DOWN = "\x1bD"  # to the next line, in the same column
_REMEMBER, _RETURN = "\x1b7", "\x1b8"  # the place of the cursor
_PAUSE = 0.05  # seconds without a new bar, however many lines are printed
_BAR, _SHORTEST_BAR = 21, 5  # columns

# Held while something is drawn. A fork waits for it, so a child never inherits a lock of a stream
# or of an import that a thread of the parent holds.
LOCK = threading.RLock()

_shown: set[Terminal] = set()


class Terminal:
    """Shows a run on the terminal behind `sys.stderr`."""

    def __init__(self) -> None:
        from rich.console import Console

        self._stream: Any = sys.stderr
        self._console = Console(file=self._stream, force_terminal=True, legacy_windows=False)
        self._has_colors = bool(self._console.color_system) and not self._console.no_color
        # IPython gives a stream a `write` of its own, which would keep all bars.
        write = getattr(type(self._stream), "write", None)
        self._own: Callable[[str], object] = (
            partial(write, self._stream) if write else self._stream.write
        )
        # Streams, each with our `write`, and the one that it had as an attribute.
        self._taken: list[tuple[Any, Callable[[str], Any], Callable[[str], Any] | None]] = []
        self._input: Callable[..., str] = builtins.input
        self._asks = self._ask  # one object, to compare with
        self._lines: list[str] = []  # of the bar
        self._is_there = False  # whether the bar is on the terminal
        self._in_line = False  # whether text of this process has begun a line
        self._drawn = 0.0
        self._is_gone = False  # whether the terminal can't be written to any more

    def show(self, view: View) -> None:
        """Draw the bar, unless text has begun a line."""
        columns, rows = self._size()
        self._lines = self._rendered(_bar(view, columns, rows, self._has_colors), columns)
        self._draw()

    def tell(self, news: News) -> None:
        """Write a failure above the bar."""
        columns, _ = self._size()
        self._write(self._rendered([_failure(news, columns)], columns))
        self._draw()

    def end(self, end: End) -> None:
        """Write the last line in place of the bar, and put the streams back."""
        columns, _ = self._size()
        try:
            self._write(self._rendered([_last(end, columns)], columns))
        finally:
            self.close()

    def close(self) -> None:
        """Erase the bar, if there is one, and give the streams back."""
        self._erase()
        self.give_back()

    def give_back(self) -> None:
        """Give the streams back; a `write` that somebody holds only writes from now on."""
        _shown.discard(self)
        for stream, write, former in self._taken:
            if vars(stream).get("write") is not write:
                continue
            if former is None:
                del stream.write
            else:
                stream.write = former
        self._taken.clear()
        if builtins.input is self._asks:
            builtins.input = self._input

    def _pass_on(self, stream: Any, write: Callable[[str], Any], text: str) -> Any:
        """Write text of this process to a stream, above the bar."""
        if self not in _shown:
            return write(text)
        with LOCK:
            self._erase()
            written = write(text)
            self._in_line = not text.endswith("\n") if text else self._in_line
            if not self._in_line:
                stream.flush()
                if monotonic() - self._drawn > _PAUSE:
                    self._draw()
            return written

    def _size(self) -> tuple[int, int]:
        """Return columns and rows that can be used."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        return (size.columns or 80) - 1, size.lines or 24

    def _rendered(self, lines: Sequence[Text], columns: int) -> list[str]:
        """Return lines with their colours; none is longer than the terminal."""
        from rich.text import Text

        self._console.width = columns
        whole = Text("\n").join(lines)
        with self._console.capture() as capture:
            self._console.print(whole, no_wrap=True, overflow="ellipsis", highlight=False)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return capture.get().encode(encoding, "replace").decode(encoding).splitlines()

    def _draw(self) -> None:
        if self not in _shown and not self._is_gone:
            self._take_streams()
        if not self._in_line:
            before = _ERASE if self._is_there else ""
            if count := len(self._lines):
                before += f"{_DOWN * count}\x1b[{count}A"  # the terminal may scroll
                text = "\n".join(self._lines)
                self._put(f"{before}{_REMEMBER}\n{_ERASE}{text}{_RETURN}")
                self._is_there = True
            self._drawn = monotonic()

    def _write(self, lines: list[str]) -> None:
        """Write lines that stay, in place of the bar."""
        spaces = " " * (self._size()[0] + 1)
        begin = "\n" if self._in_line else f"{spaces}\r{_ERASE}"
        self._put(begin + "".join(f"{line}\n" for line in lines))
        self._is_there = self._in_line = False

    def _erase(self) -> None:
        if self._is_there:
            self._put(_ERASE)
            self._is_there = False

    def _put(self, text: str) -> None:
        try:
            if not self._is_gone:
                self._own(text)
                self._stream.flush()
        except (OSError, ValueError):  # it is closed: what prints goes on without a bar
            self._is_gone = True
            self.give_back()

    def _ask(self, *prompt: object) -> str:
        """Ask the user, as `input` and the debugger do, without a bar."""
        with LOCK:
            self._erase()
            self._in_line = True
        try:
            return self._input(*prompt)
        finally:
            self._in_line = False

    def _take_streams(self) -> None:
        _shown.add(self)
        if builtins.input is self._input:  # it writes its prompt without the streams
            builtins.input = self._asks
        known = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
        streams: dict[int, Any] = {id(stream): stream for stream in known}
        for stream in filter(is_terminal, streams.values()):
            if hasattr(stream, "__dict__"):  # else `write` can't be set
                former = vars(stream).get("write")
                write = partial(self._pass_on, stream, stream.write)
                stream.flush()
                stream.write = write
                self._taken.append((stream, write, former))


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal; it may be None, closed, or of any type."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


@cache
def guard_forks() -> None:
    """Let forks wait while something is drawn, and let no child of this process draw."""

    def forget() -> None:
        LOCK.release()  # the thread that forked has it, in the child too
        for terminal in list(_shown):
            terminal.give_back()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=forget
        )


def _bar(view: View, columns: int, rows: int, has_colors: bool) -> list[Text]:
    """Return the lines of a bar; the less important parts are left out where they don't fit."""
    from rich.text import Text

    parts = view.parts
    name = _cut(view.name, max(columns // 4, columns - 80))
    room = columns - name.cell_len - len(view.counts) - 3
    while parts and room - sum(len(part) + 2 for part in parts) < _SHORTEST_BAR:
        del parts[0]
    size = min(_BAR, room - sum(len(part) + 2 for part in parts))
    line = Text.assemble(name, " ", *_filled(view, size, has_colors), "  ", view.counts)
    for part in parts:
        failed = view.failed and part.endswith("failed")
        line.append("  ").append(part, "red" if failed else "")
    return [line, *_running(view, columns, min(len(view.rows), rows - 3))]


def _filled(view: View, size: int, has_colors: bool) -> list[tuple[str, str]]:
    """Return the bar itself, with its styles."""
    halves = 2 * size * view.done // view.total if view.total and size > 0 else 0
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return [(full, "green"), (("━" if has_colors else " ") * (size - len(full)), "bright_black")]


def _running(view: View, columns: int, most: int) -> list[Text]:
    """Return a line for each of the oldest nodes that run."""
    from rich.text import Text

    rows = view.rows[: max(most, 0)]
    if not rows:
        return []
    view = view._replace(more=view.more + len(view.rows) - len(rows))
    others = f"  {view.others}" if view.others else ""
    longest = max(len(row.since) for row in rows) + len(others) + 4
    names = [_cut(row.name, columns - longest) for row in rows]
    width = max(name.cell_len for name in names)
    lines = []
    for row, name in zip(rows, names, strict=True):
        space = " " * (width - name.cell_len + 2)
        lines.append(Text.assemble("  ", name, space, (row.since, "cyan")))
    lines[-1].append(others)
    return lines


def _failure(news: News, columns: int) -> Text:
    """Return news in one line; of a long place, only the name of the file."""
    from rich.text import Text

    short = news.place if len(news.place) <= columns // 2 else os.path.basename(news.place)
    place = _cut(short, columns // 2)
    name = _cut(news.name, max(columns // 3, columns - 80))
    room = columns - name.cell_len - place.cell_len - 6
    parts = [part for part in (name, _cut(news.text, room), place) if part.plain]
    mark = Text.assemble((news.mark, "yellow" if news.again else "red"), " ")
    return mark.append(Text("  ").join(parts))


def _last(end: End, columns: int) -> Text:
    from rich.text import Text

    name = _cut(end.name, max(columns // 4, columns - 4 - len(end.told)))
    return Text.assemble((end.mark, "red" if end.error else "green"), " ", name, ": ", end.told)


def _cut(text: str, columns: int) -> Text:
    """Return a text without control characters, cut to a number of columns."""
    from rich.text import Text

    cut = Text(printable(text), end="")
    cut.truncate(max(columns, 1), overflow="ellipsis")
    return cut
